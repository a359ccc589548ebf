"""Journal: which channels there are, over all server processes of a database and their ends.

Each process writes what happens to its channels into the WAL, as records (see ``records``), and
reads everybody's, in the order of the WAL. What they amount to is here: a client that comes back
to any process is found, with a place that is not above what it has. That holds for every beginning
of the WAL, as a process may be killed at any time: a channel is joined, and has everything up to
its process's last ``Low``, or it is away with a place of its own; and departures stand before the
``Low`` of the same record.

Reading a record twice changes nothing, since records are numbered. A process that reads from the
middle of the WAL finds a snapshot of everything that the writer knew, and takes from it what is
newer than what it knows itself.

It does no I/O, and time is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .others import Member, Others, Process
from .places import Place
from .records import (
    Away,
    Boot,
    Ended,
    Entry,
    Joined,
    Low,
    Part,
    Seal,
    Taken,
    read_part,
    write_record,
)

__all__ = ["Journal", "Member"]


class Journal:
    """The channels of this process, for others to read, and those of the others.

    What is noted of this process's channels waits until :meth:`write` takes it.

    Args:
        seal: of this process.
        clock: returns seconds since 1970.
    """

    def __init__(self, seal: Seal, *, clock: Callable[[], float]) -> None:
        self._seal = seal
        self._clock = clock
        self._own = Process(seal.slot)
        # What has to be written.
        self._entries: list[Entry] = []
        self._low: Place | None = None
        # The parts of each process's record of which the last one has not come.
        self._parts: dict[bytes, list[Part]] = {}
        # How many channels here are joined, and not away.
        self._joined = 0
        self.refused = 0
        """How many messages with the prefix were none of this deployment's."""
        self.booted_at = -1
        """The number of this process's last record that has a Boot."""
        self.heard = -1
        """The number of the last record of this process that was read."""
        self.on_taken: Callable[[int], None] = lambda number: None
        """Is called with the number of a channel here that another process has taken over."""
        self.on_boot: Callable[[bool], None] = lambda is_same_slot: None
        """Is called when another process has begun, and needs a snapshot; with whether it has got
        this process's slot."""
        self._others = Others(seal.server, on_taken=self._was_taken, on_boot=self._booted)

    # What happens here

    @property
    def is_due(self) -> bool:
        """Whether anything has to be written."""
        return bool(self._entries) or self._low is not None

    def joined(
        self,
        number: int,
        key: bytes,
        ref: int | None,
        place: Place,
        *,
        since: float | None = None,
    ) -> None:
        """Note that a channel is joined.

        Args:
            number: of the channel: every channel of the process has another one.
            key: 16 bytes that say who it is for, and what it asks for.
            ref: the client's last ref; None if it sends none.
            place: it needs nothing before this.
            since: for a channel that is away, or is being brought up to now, which is the same as
                long as its place counts: when it went away, in seconds since 1970.
        """
        self._forget(number)
        entry = Joined(number, key, ref, place[:2], since)
        self._own.channels[number] = entry
        self._joined += since is None
        self._entries.append(entry)

    def away(self, number: int, place: Place, ref: int | None, since: float) -> None:
        """Note that a channel's connection has ended.

        Args:
            number: of the channel.
            place: the client is proven to have everything up to there.
            ref: the client's last ref; None if it sends none.
            since: now, in seconds since 1970.
        """
        channel = self._own.channels.get(number)
        if channel is None:
            # Another process has taken it over.
            return
        self._joined -= channel.since is None
        entry = Away(number, ref, place[:2], since)
        self._own.channels[number] = Joined(number, channel.key, ref, entry.place, since)
        self._entries.append(entry)

    def ended(self, number: int) -> None:
        """Note that nobody will come back to a channel of this process."""
        if self._forget(number):
            self._entries.append(Ended(number))

    def _forget(self, number: int) -> bool:
        channel = self._own.channels.pop(number, None)
        if channel is None:
            return False
        self._joined -= channel.since is None
        return True

    def taken(self, member: Member) -> None:
        """Note that another process's channel was taken over here, and is up to now."""
        entry = Taken(member.server, member.number, self._clock())
        self._others.take(entry)
        self._entries.append(entry)

    def low(self, place: Place) -> None:
        """Note that all joined channels of this process have everything up to a place."""
        place = place[:2]
        if place > self._own.low:
            self._own.low = place
            if self._joined:
                self._low = place

    def lift(self, place: Place) -> None:
        """Note that all channels have everything up to a place, also the others' and those that
        are away. The next snapshot tells that."""
        self._own.lift(place[:2])
        self._others.lift(place[:2])

    # Writing

    def write(self, *, boot: bool = False, snapshot: bool = False) -> Iterator[bytes]:
        """Return the parts of a record with what was noted since the last one, in order.

        If one of them cannot be written, the next record has to be a snapshot.

        Args:
            boot: whether this process has just got its slot.
            snapshot: whether to write all that is known instead.
        """
        entries, self._entries = self._entries, []
        low, self._low = self._low, None
        own = self._own
        own.number += 1
        own.time = self._clock()
        if boot:
            self.booted_at = own.number
        if boot or snapshot:
            entries = [
                *([Boot()] if boot else ()),
                *own.snapshot(self._seal.server),
                *self._others.snapshot(),
            ]
        elif low is not None:
            entries.append(Low(low))
        return write_record(self._seal, own.number, own.time, entries)

    # Reading

    def read(self, data: bytes) -> None:
        """Take the content of a message with the journal's prefix; any may be read again."""
        part = read_part(self._seal, data)
        if part is None:
            self.refused += 1
            return
        parts = self._parts.setdefault(part.server, [])
        if part.part == 0:
            parts.clear()
        if part.part != len(parts) or (parts and parts[0].number != part.number):
            # The beginning was written before the WAL that is read here.
            del self._parts[part.server]
            return
        parts.append(part)
        if len(parts) == part.parts:
            del self._parts[part.server]
            self._read_record(part, [entry for each in parts for entry in each.entries])

    def _read_record(self, head: Part, entries: Sequence[Entry]) -> None:
        if head.server != self._seal.server:
            self._others.read(head, entries)
            return
        self.heard = max(self.heard, head.number)
        if entries and isinstance(entries[0], Boot):
            self._others.end_all(head.slot, but=head.server)

    def _booted(self, slot: bytes) -> None:
        self.on_boot(slot == self._seal.slot)

    def _was_taken(self, number: int) -> None:
        if self._forget(number):
            self.on_taken(number)

    # The others

    def find(self, key: bytes) -> list[Member]:
        """Return the channels of other processes, and of ended ones, that have a key."""
        return self._others.find(key)

    def lowest(self) -> Place | None:
        """Return a place up to which the others' channels have everything; None: there are none.

        Joined channels of processes that have long been silent do not count: what they need is
        kept for no longer than what others need.
        """
        return self._others.lowest()

    def expire(self, window: float) -> list[Member]:
        """Forget others' channels that have been away for too long; return them.

        Args:
            window: for how many seconds one may be away.
        """
        now = self._clock()
        return self._others.expire(now - window, now)
