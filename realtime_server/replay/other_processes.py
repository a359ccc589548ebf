"""OtherProcesses: the channels of other server processes, as their records tell of them.

A process that was killed is one of the others to its successor: its channels are away from the time
at which the successor has got the slot.

A snapshot may have hundreds of thousands of channels, and is read while changes are on their way to
clients. So what takes time for each channel is done in steps, between which other tasks may run,
and what is asked often takes the same time however many channels there are. Between two steps of a
snapshot each channel is as it was before or as it is afterwards, and both are true.

No I/O, and time is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from typing import Final

import attrs

from .channel_ages import Age, ChannelAges
from .channel_names import ChannelNames
from .empty_stretches import EmptyStretches
from .places import Place
from .process import OtherChannel, Process
from .records import (
    Asked,
    Boot,
    Ended,
    Entry,
    Joined,
    Low,
    Part,
    PlaceTaken,
    ProcessState,
    Shared,
    Taken,
)
from .shared_keys import SharedKeys
from .taken_channels import TakenChannels

__all__ = ["OtherProcesses"]

_LONG: Final = 24 * 3600.0
"""Seconds without a record after which a process is taken to have ended without a successor."""
_STEP: Final = 200
"""Channels in a step, which take about half a millisecond."""


class OtherProcesses:
    """The channels of all server processes but this one.

    Args:
        server: the name of this process.
        most: how many channels are known at most. Clients of further ones begin anew.
        empty: where the stream has nothing.
        on_taken: called with the number of a channel of this process that another one has taken
            over.
        on_asked: called with the number of a channel of this process whose client may be on a
            connection of another process by now.
        on_shared: called with the key of a session that several clients turn out to have.
        on_place_taken: called with the places of a key that may have been taken by others.
        on_boot: called when another process has begun, with its slot. It needs a snapshot.
        on_new: called with the key of each channel that becomes known.
        on_orphaned: called with each channel whose process has ended, and whose client had come
            here, which that process was asked about and has not answered.
    """

    def __init__(
        self,
        server: bytes,
        *,
        most: int,
        empty: EmptyStretches,
        on_taken: Callable[[int], None],
        on_asked: Callable[[int], None],
        on_shared: Callable[[bytes], None],
        on_place_taken: Callable[[PlaceTaken], None],
        on_boot: Callable[[bytes], None],
        on_new: Callable[[bytes], None],
        on_orphaned: Callable[[OtherChannel], None],
    ) -> None:
        self._server = server
        self._most = most
        self._empty = empty
        self._on_taken = on_taken
        self._on_asked = on_asked
        self._on_shared = on_shared
        self._on_place_taken = on_place_taken
        self._on_boot = on_boot
        self._on_new = on_new
        self._on_orphaned = on_orphaned
        self._processes: dict[bytes, Process] = {}
        self._names = ChannelNames()
        self._ages = ChannelAges()
        self._shared = SharedKeys()
        self._taken = TakenChannels()

    @property
    def writers(self) -> list[bytes]:
        """The slots of the other server processes that have written into the journal lately."""
        return [process.slot for process in self._processes.values() if not process.is_silent]

    @property
    def slots(self) -> set[bytes]:
        """The slots of all processes that have channels which are joined, as far as is known."""
        processes = self._processes.values()
        return {process.slot for process in processes if process.has_joined}

    @property
    def has_channels(self) -> bool:
        """Whether any channel is known."""
        return len(self._names) > 0

    # Reading

    def read(self, head: Part, entries: Iterable[Entry]) -> Iterator[None]:
        """Read a record of another process, and yield now and then.

        Args:
            head: a part of it.
            entries: all of its entries.

        Yields:
            Now and then, so that other tasks may run. The steps must be brought to their end before
            the next record is read.
        """
        process = self._processes.get(head.server)
        if process is None:
            process = self._processes[head.server] = Process(head.slot, self._empty)
        before = process.number
        if head.number <= before:
            return
        process.number, process.time = head.number, head.time
        process.is_silent = process.has_ended = False
        if head.number > before + 1:
            yield from self._miss(head.server, process)
        state: ProcessState | None = None
        channels: list[Joined] = []
        for count, entry in enumerate(entries, 1):
            match entry:
                case Joined():
                    if state is not None:
                        channels.append(entry)
                    else:
                        self._put(head.server, process, entry)
                case Ended(number):
                    self._drop(head.server, number)
                case Taken():
                    self.take(entry)
                case PlaceTaken():
                    self._on_place_taken(entry)
                case Asked(server, number):
                    if server == self._server:
                        self._on_asked(number)
                    else:
                        self.ask(server, number, has_moved=False)
                case Shared(key):
                    if self._shared.add(key):
                        self._on_shared(key)
                case Low(place):
                    process.low = max(process.low, place)
                case ProcessState():
                    if state is not None:
                        yield from self._take_state(state, channels, of=head)
                    state, channels = entry, []
                case Boot():
                    yield from self.end_all(head.slot, head.time, but=head.server)
                    self._on_boot(head.slot)
            if count % _STEP == 0:
                yield
        if state is not None:
            yield from self._take_state(state, channels, of=head)

    def _miss(self, server: bytes, process: Process) -> Iterator[None]:
        """Note that records are missing that a process has written.

        They may have said that the client of a channel has gone, and has not got what came then. So
        no ``Low`` counts for the channels that are known, until they are told of anew.
        """
        process.is_whole = False
        here = process.channels
        known = (one for one in list(here.values()) if here.get(one.number) is one)
        yield from self._put_all(server, process, map(process.with_place, known))

    def forget(self, server: bytes) -> list[OtherChannel]:
        """Forget the channels of a process; return them."""
        process = self._processes.get(server)
        channels = [] if process is None else list(process.channels.values())
        members = [self._member(server, channel) for channel in channels]
        for member in members:
            self._drop(server, member.number)
        return members

    def end_all(self, slot: bytes, since: float, *, but: bytes) -> Iterator[None]:
        """Note that a process has got a slot, so that the processes that used the slot before have
        ended.

        Their channels have gone away now. The time of their last records does not count, since
        nothing is written on an idle database.

        Args:
            slot: the slot.
            since: the time at which the other process got the slot, in seconds since 1970.
            but: the other process.
        """
        for server, process in list(self._processes.items()):
            if process.slot == slot and server != but:
                yield from self._end(server, process, since)

    def end_silent(self, now: float) -> Iterator[None]:
        """Note, in steps, that processes have ended which have written nothing for a day.

        Args:
            now: the present time, in seconds since 1970.
        """
        before = now - _LONG
        for server, process in list(self._processes.items()):
            if process.has_ended or process.time >= before:
                continue
            for _ in self._end(server, process, process.time):
                yield
                if process.time >= before:
                    # It has written in between.
                    break
            else:
                process.has_ended = True

    def _end(self, server: bytes, process: Process, since: float) -> Iterator[None]:
        for count, channel in enumerate(list(process.channels.values()), 1):
            # The channel may have gone between two steps.
            is_here = channel.since is None or channel.is_open
            if is_here and process.channels.get(channel.number) is channel:
                place = process.place_of(channel)
                away = attrs.evolve(channel, place=place, since=since, is_open=False)
                self._put(server, process, away)
                if process.asked.get(channel.number) and channel.key not in self._shared:
                    self._on_orphaned(self._member(server, away))
            if count % _STEP == 0:
                yield

    def _take_state(
        self, state: ProcessState, channels: Collection[Joined], *, of: Part
    ) -> Iterator[None]:
        """Take over what a snapshot says of a process, unless more recent things are known."""
        if state.server == self._server:
            return
        process = self._processes.get(state.server)
        if process is None:
            process = self._processes[state.server] = Process(state.slot, self._empty)
        # Of its own writer a snapshot says everything there is.
        if state.server != of.server:
            if state.number < process.number and not process.is_whole:
                # Some of them may have gone since.
                older = Process(state.slot, self._empty, time=state.time, low=state.low)
                missing = (one for one in channels if one.number not in process.channels)
                yield from self._put_all(state.server, process, map(older.with_place, missing))
            if state.number < process.number + process.is_whole:
                return
        # A channel that was joined, and is away now, must not get the ``low`` of the snapshot. So
        # this counts when all channels were read.
        process.low = min(process.low, state.low)
        yield from self._put_all(state.server, process, channels)
        named = {channel.number for channel in channels}
        for count, number in enumerate(list(process.channels), 1):
            if number not in named:
                self._drop(state.server, number)
            if count % _STEP == 0:
                yield
        process.number, process.time, process.low = state.number, state.time, state.low
        process.has_ended, process.is_whole = False, True

    def _put_all(
        self, server: bytes, process: Process, channels: Iterable[Joined]
    ) -> Iterator[None]:
        for count, channel in enumerate(channels, 1):
            self._put(server, process, channel)
            if count % _STEP == 0:
                yield

    def _put(self, server: bytes, process: Process, channel: Joined) -> None:
        former = process.channels.get(channel.number)
        if former == channel or (server, channel.number) in self._taken:
            # The writer may not have read that the channel was taken over.
            return
        if former is not None and former.key != channel.key:
            self._drop(server, channel.number)
            former = None
        if former is None:
            if len(self._names) >= self._most:
                return
            self._names.add(channel.key, (server, channel.number))
        process.put(channel)
        if channel.since is not None and not channel.is_open:
            self._ages.add((channel.since, server, channel.number))
        if former is None:
            self._on_new(channel.key)

    def _drop(self, server: bytes, number: int) -> None:
        channel = self._channel(server, number)
        if channel is None:
            return
        self._processes[server].drop(number)
        self._names.remove(channel.key, (server, number))

    def _channel(self, server: bytes, number: int) -> Joined | None:
        process = self._processes.get(server)
        return None if process is None else process.channels.get(number)

    def ask(self, server: bytes, number: int, *, has_moved: bool) -> None:
        """Note that a process was asked whether the client of a channel is still there.

        Args:
            server: the process.
            number: the channel's number.
            has_moved: whether the client has come here if no other client has its key.
        """
        process = self._processes.get(server)
        if process is not None and number in process.channels:
            process.asked[number] = has_moved or process.asked.get(number, False)

    def take(self, taken: Taken) -> None:
        """Note that the client of a channel has come back to another process."""
        if taken.server == self._server:
            self._on_taken(taken.number)
        elif self._taken.note(taken):
            self._drop(taken.server, taken.number)

    def share(self, key: bytes) -> bool:
        """Note that several clients have the key of a session; return whether that is new."""
        return self._shared.add(key)

    def snapshot(self) -> Iterable[Entry]:
        """Return everything that is known, as entries of a record."""
        processes = (process.snapshot(server) for server, process in self._processes.items())
        return chain(map(Shared, self._shared), self._taken, *processes)

    # What the others' channels amount to

    def find(self, key: bytes) -> list[OtherChannel]:
        """Return the channels with this key in other processes, also in those that have ended."""
        return [
            self._member(server, self._processes[server].channels[number])
            for server, number in self._names.of(key)
        ]

    def _member(self, server: bytes, channel: Joined) -> OtherChannel:
        return self._processes[server].other_channel(server, channel)

    def _is_away(self, age: Age) -> bool:
        """Return whether a channel is there whose client went away then, and is still away."""
        since, server, number = age
        channel = self._channel(server, number)
        return channel is not None and channel.since == since and not channel.is_open

    def lowest(self) -> Place | None:
        """Return a place up to which the others' channels have everything, which may be lower than
        the lowest of theirs if many have just gone; None: there are none.

        Joined channels of processes that have long been silent do not count: their changes are kept
        for no longer than those of clients that are away.
        """
        places = (process.lowest() for process in self._processes.values())
        return min((place for place in places if place is not None), default=None)

    def expire(self, before: float, *, most: int = 1000) -> list[OtherChannel] | None:
        """Forget some channels whose clients have been away for too long.

        Args:
            before: the time since which a client may have been away, in seconds since 1970.
            most: how many channels to look at, at most.

        Returns:
            Those that were forgotten; None if there are no more.
        """
        for process in self._processes.values():
            process.is_silent = process.time < before
        self._taken.expire(before)
        if ages := self._ages.take(before, most):
            expired: list[OtherChannel] = []
            for age in ages:
                if self._is_away(age):
                    _, server, number = age
                    channel = self._processes[server].channels[number]
                    expired.append(self._member(server, channel))
                    self._drop(server, number)
            return expired
        for server, process in list(self._processes.items()):
            if not process.channels and process.is_silent:
                del self._processes[server]
        return None

    def tidying(self) -> Iterator[None]:
        """Give up what is kept of channels that have gone, in steps: others may run in between."""
        for process in list(self._processes.values()):
            yield from process.tidying()
        yield from self._ages.tidying(len(self._names), self._is_away)
