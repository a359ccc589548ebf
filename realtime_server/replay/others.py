"""Others: the channels of other server processes, as their records in the journal tell of them.

A process that was killed is one of the others to its successor: its channels are away from when
the successor has got the slot.

It does no I/O, and time is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final

import attrs

from .places import BEFORE, Place
from .records import Away, Boot, Ended, Entry, Joined, Low, Part, ProcessState, Taken

__all__ = ["Member", "Others", "Process"]

_LONG: Final = 24 * 3600.0
"""Seconds after which a process that wrote nothing is taken to have ended without a successor."""


@attrs.frozen
class Member:
    """A channel of another process, or of one that has ended."""

    server: bytes
    """The process."""
    number: int
    """The channel's number there."""
    key: bytes
    """Who it is for, and what it asks for."""
    ref: int | None
    """The client's last known ref; None if it sends none."""
    place: Place
    """Up to where it has everything: this is not above what the client has."""
    since: float | None
    """When it went away, in seconds since 1970; None: it is joined there, as far as is known."""


@attrs.define
class Process:
    """The channels of one process, as far as they are known."""

    slot: bytes
    number: int = -1
    """The number of the last record that was taken."""
    time: float = 0.0
    """The time of that record."""
    low: Place = BEFORE
    channels: dict[int, Joined] = attrs.field(factory=dict)
    is_silent: bool = False
    """Whether it has written nothing for long. It may be idle, or have ended."""

    def place_of(self, channel: Joined) -> Place:
        return channel.place if channel.since is not None else max(channel.place, self.low)

    def snapshot(self, server: bytes) -> Iterator[Entry]:
        """Yield all that is known of it; ``server`` is its name."""
        yield ProcessState(server, self.slot, self.number, self.time, self.low)
        yield from self.channels.values()

    def lift(self, place: Place) -> None:
        """Note that all channels have everything up to a place."""
        self.low = max(self.low, place)
        for number, channel in self.channels.items():
            if channel.place < place:
                self.channels[number] = attrs.evolve(channel, place=place)

    def end(self) -> None:
        """Have all channels gone away when the process was last heard of."""
        for number, channel in self.channels.items():
            if channel.since is None:
                self.channels[number] = attrs.evolve(
                    channel, place=self.place_of(channel), since=self.time
                )


class Others:
    """The channels of all processes but this one.

    Args:
        server: this process.
        on_taken: is called with the number of a channel here that another process has taken over.
        on_boot: is called with its slot when another process has begun, and needs a snapshot.
    """

    def __init__(
        self, server: bytes, *, on_taken: Callable[[int], None], on_boot: Callable[[bytes], None]
    ) -> None:
        self._server = server
        self._on_taken = on_taken
        self._on_boot = on_boot
        self._processes: dict[bytes, Process] = {}
        self._by_key: dict[bytes, dict[tuple[bytes, int], None]] = {}
        # Channels that were taken over by anybody, and when; and the time before which they are
        # forgotten.
        self._taken: dict[tuple[bytes, int], float] = {}
        self._forgotten = 0.0
        # The lowest place of the channels; None if it has to be looked for.
        self._lowest: Place | None = None

    # Reading

    def read(self, head: Part, entries: Sequence[Entry]) -> None:
        """Take a record of another process.

        Args:
            head: a part of it.
            entries: all of its entries.
        """
        process = self._processes.get(head.server)
        if process is None:
            process = self._processes[head.server] = Process(head.slot)
        if head.number <= process.number:
            return
        process.number, process.time, process.is_silent = head.number, head.time, False
        states: list[tuple[ProcessState, list[Joined]]] = []
        for entry in entries:
            match entry:
                case Joined():
                    if states:
                        states[-1][1].append(entry)
                    elif (head.server, entry.number) not in self._taken:
                        self._put(head.server, process, entry)
                case Away(number, ref, place, since):
                    channel = process.channels.get(number)
                    if channel is not None:
                        channel = Joined(number, channel.key, ref, place, since)
                        self._put(head.server, process, channel)
                case Ended(number):
                    self._drop(head.server, number)
                case Taken():
                    self.take(entry)
                case Low(place):
                    process.low = max(process.low, place)
                    self._lowest = None
                case ProcessState():
                    states.append((entry, []))
                case Boot():
                    self.end_all(head.slot, but=head.server)
                    self._on_boot(head.slot)
        for state, channels in states:
            self._take_state(state, channels, is_own=state.server == head.server)

    def end_all(self, slot: bytes, *, but: bytes) -> None:
        """Have ended whatever used a slot that a process has got, which is left as it is."""
        for server, process in self._processes.items():
            if process.slot == slot and server != but:
                process.end()
                self._lowest = None

    def _take_state(self, state: ProcessState, channels: Iterable[Joined], *, is_own: bool) -> None:
        """Take what a snapshot says of a process, if that is not older than what is known."""
        if state.server == self._server:
            return
        process = self._processes.get(state.server)
        if process is None:
            process = self._processes[state.server] = Process(state.slot)
        # Of its writer it says everything there is.
        if state.number <= process.number and not is_own:
            return
        for number in list(process.channels):
            self._drop(state.server, number)
        process.number, process.time, process.low = state.number, state.time, state.low
        for channel in channels:
            if (state.server, channel.number) not in self._taken:
                self._put(state.server, process, channel)

    def _put(self, server: bytes, process: Process, channel: Joined) -> None:
        former = process.channels.get(channel.number)
        if former is not None and former.key != channel.key:
            self._drop(server, channel.number)
        process.channels[channel.number] = channel
        self._by_key.setdefault(channel.key, {})[server, channel.number] = None
        self._lowest = None

    def _drop(self, server: bytes, number: int) -> Joined | None:
        process = self._processes.get(server)
        channel = None if process is None else process.channels.pop(number, None)
        if channel is not None:
            known = self._by_key[channel.key]
            del known[server, number]
            if not known:
                del self._by_key[channel.key]
            self._lowest = None
        return channel

    def take(self, taken: Taken) -> None:
        """Note that a channel was taken over by a process other than its own."""
        if taken.server == self._server:
            self._on_taken(taken.number)
        elif taken.time >= self._forgotten:
            self._taken[taken.server, taken.number] = taken.time
            self._drop(taken.server, taken.number)

    def snapshot(self) -> Iterator[Entry]:
        """Yield all that is known."""
        for (server, number), time in self._taken.items():
            yield Taken(server, number, time)
        for server, process in self._processes.items():
            yield from process.snapshot(server)

    # What the others' channels amount to

    def find(self, key: bytes) -> list[Member]:
        """Return the channels of other processes, and of ended ones, that have a key."""
        return [
            self._member(server, self._processes[server].channels[number])
            for server, number in self._by_key.get(key, ())
        ]

    def _member(self, server: bytes, channel: Joined) -> Member:
        place = self._processes[server].place_of(channel)
        return Member(server, channel.number, channel.key, channel.ref, place, channel.since)

    def lowest(self) -> Place | None:
        """Return a place up to which the others' channels have everything; None: there are none.

        Joined channels of processes that have long been silent do not count: what they need is
        kept for no longer than what others need.
        """
        if self._lowest is None:
            self._lowest = min(
                (
                    process.place_of(channel)
                    for process in self._processes.values()
                    for channel in process.channels.values()
                    if channel.since is not None or not process.is_silent
                ),
                default=None,
            )
        return self._lowest

    def lift(self, place: Place) -> None:
        """Note that all channels have everything up to a place."""
        for process in self._processes.values():
            process.lift(place)
        self._lowest = None

    def expire(self, before: float, now: float) -> list[Member]:
        """Forget whoever has been away for too long; return them.

        Args:
            before: the time since which one may have been away, in seconds since 1970.
            now: likewise.
        """
        self._forgotten = before
        self._lowest = None
        expired = []
        for server, process in list(self._processes.items()):
            process.is_silent = process.time < before
            if process.time < now - _LONG:
                process.end()
            for channel in list(process.channels.values()):
                if channel.since is not None and channel.since < before:
                    self._drop(server, channel.number)
                    expired.append(self._member(server, channel))
            if not process.channels and process.is_silent:
                del self._processes[server]
        for taken, time in list(self._taken.items()):
            if time < before:
                del self._taken[taken]
        return expired
