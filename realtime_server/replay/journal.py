"""Journal: the channels of all server processes of a database, also of processes that have ended.

Each process writes what happens to its channels into the WAL, as records (:mod:`.records`), and
reads the records of all processes, in the order of the WAL. So a client that comes back to any
process is found, with a place that is not above what the client has. That holds wherever the WAL
ends, as a process may be killed at any time. A channel is either joined, and its client has
everything up to the process's last ``Low``, or it has a place of its own. Within a record, channels
that went away stand before the ``Low``.

Reading a record twice changes nothing, since records are numbered. A process that reads from the
middle of the WAL finds a snapshot of everything that the writer knew, and takes over what is more
recent than what it knows itself.

What waits to be written, what is held of parts of records, and how many channels there may be are
bounded. Clients of channels beyond that begin anew at other processes. No I/O; time is passed in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import chain
from typing import Final

import attrs

from .empty_stretches import EmptyStretches
from .lost_reasons import LostReason
from .other_processes import OtherProcesses
from .own_process import OwnProcess
from .places import BEFORE, Place
from .process import OtherChannel
from .record_parts import RecordParts
from .records import (
    Asked,
    Boot,
    Ended,
    Entry,
    Joined,
    Low,
    Part,
    PlaceTaken,
    Seal,
    Shared,
    Taken,
    UnknownEntryError,
    digest,
    read_part,
    write_record,
)
from .unwritten import Unwritten

__all__ = ["MOST_CHANNELS", "Journal", "OtherChannel"]

MOST_CHANNELS: Final = 800_000
"""Channels that a journal has at most: half of them of this process, half of them of others."""


class Journal:
    """What this process tells others of its channels, and what it has read of theirs.

    What is noted of this process's channels waits until :meth:`write` takes it.

    Args:
        seal: of this process.
        clock: returns seconds since 1970.
        most: how many channels there may be, this process's and the others' together.
    """

    def __init__(
        self, seal: Seal, *, clock: Callable[[], float], most: int = MOST_CHANNELS
    ) -> None:
        self._seal = seal
        self._clock = clock
        self._most = most = max(most // 2, 1)
        self.is_full = False
        """Whether a channel here was not noted because there were too many."""
        # How often others were told that processes have ended.
        self._endings = 0
        self._empty = EmptyStretches()
        self._own = OwnProcess(seal.slot, self._empty, most=most)
        # What has to be written.
        self._unwritten = Unwritten()
        self._low: Place | None = None
        self._parts = RecordParts()
        self.refused = 0
        """How many messages with the prefix were none of this deployment's."""
        self.unknown = 0
        """How many records had an entry that this version does not know."""
        self.on_lost: Callable[[OtherChannel], None] = lambda member: None
        """Called with each channel of a process of which it is not known any more what its clients
        have, so that they have to be told of a gap."""
        self.booted_at = -1
        """The number of this process's last record that has a Boot."""
        self.heard = -1
        """The number of the last record of this process that was read."""
        self.on_taken: Callable[[int], None] = lambda number: None
        """Is called with the number of a channel here that another process has taken over."""
        self.on_asked: Callable[[int], None] = lambda number: None
        """Is called with the number of a channel here whose client may have come to another
        process, so that it has to be asked."""
        self.on_new: Callable[[bytes], None] = lambda key: None
        """Is called with the key of each channel of another process that becomes known."""
        self.on_shared: Callable[[bytes], None] = lambda key: None
        """Is called with each key that another process has found several clients to have."""
        self.on_place_taken: Callable[[PlaceTaken], None] = lambda places: None
        """Is called with the places of a key that may have been taken by others."""
        self.places_taken: Callable[[], Iterable[PlaceTaken]] = lambda: ()
        """Returns all such places that are known here."""
        self.on_boot: Callable[[bool], None] = lambda is_same_slot: None
        """Is called when another process has begun, and needs a snapshot; with whether it has got
        this process's slot."""
        self._others = self._new_others()

    def _new_others(self) -> OtherProcesses:
        return OtherProcesses(
            self._seal.server,
            most=self._most,
            empty=self._empty,
            on_taken=self._was_taken,
            on_asked=lambda number: self.on_asked(number),
            on_shared=lambda key: self.on_shared(key),
            on_place_taken=lambda places: self.on_place_taken(places),
            on_boot=self._booted,
            on_new=lambda key: self.on_new(key),
            on_orphaned=self.taken,
        )

    def of_stream(self, stream: bytes) -> None:
        """Note the identity of the stream that all places belong to from now on.

        If the stream is another one than before, its places cannot be compared with the former
        ones, so the journal begins anew.

        Args:
            stream: bytes that only this stream has, see :class:`.Seal`.
        """
        if stream == self._seal.stream:
            return
        was_known = bool(self._seal.stream)
        self._seal = attrs.evolve(self._seal, stream=stream)
        if was_known:
            self.begin_anew()

    def begin_anew(self) -> None:
        """Forget all places of the former stream, which cannot be compared with those of this one.

        The others' channels are forgotten: those processes write of them again. So are channels
        here that have a place of their own, until they are noted anew. The next record tells
        everything.
        """
        self._low, self._empty = None, EmptyStretches()
        self._own.begin_anew(self._empty)
        self._parts.clear()
        self._others = self._new_others()
        self._unwritten.begin_anew()

    # What happens here

    @property
    def number(self) -> int:
        """The number of the last record of this process, also if it is just being written."""
        return self._own.number

    @property
    def is_heard(self) -> bool:
        """Whether that record was read."""
        return self.heard >= self.number

    @property
    def is_due(self) -> bool:
        """Whether anything has to be written."""
        return self._unwritten.is_due or self._low is not None

    @property
    def needs_snapshot(self) -> bool:
        """Whether so much waits to be written that a snapshot takes less."""
        return self._unwritten.needs_snapshot

    def joined(
        self,
        number: int,
        key: bytes,
        ref: int | None,
        place: Place,
        *,
        since: float | None = None,
        is_open: bool = False,
        lost: LostReason | None = None,
        is_anew: bool = False,
    ) -> None:
        """Note that a channel is joined.

        Args:
            number: of the channel: every channel of the process has another one.
            key: 16 bytes that say who it is for, and what it asks for.
            ref: the client's last ref; None if it sends none.
            place: it needs nothing before this.
            since: when the client went away, in seconds since 1970; of a channel that is catching
                up, which has a place of its own as well, the present time; None: the channel is
                joined and live.
            is_open: whether the channel is joined although ``since`` is given: it is catching up.
            lost: why the client has to be told of a gap when it comes back; None if it can go on.
            is_anew: whether the channel began anew, and its client may not know that.
        """
        place = self._empty.lifted(place[:2])
        entry = Joined(number, key, ref, place, since, is_open, lost, is_anew)
        if not self._own.tell(entry):
            self.is_full = True
            return
        if since is None and self._own.is_first_joined and self._own.low > BEFORE:
            # Nobody was told of it while it was no channel's.
            self._low = self._own.low
        self.add(entry)

    def ended(self, number: int) -> None:
        """Note that no client can come back to a channel of this process."""
        if self.forget(number):
            self.add(Ended(number))

    def add(self, entry: Entry) -> None:
        """Note an entry that is to be written once."""
        self._unwritten.add(entry)

    def forget(self, number: int) -> bool:
        """Tell no more of a channel, since others know by themselves when it is over; return
        whether others were told of it."""
        return self._own.forget(number)

    def taken(self, member: OtherChannel) -> None:
        """Note that the client of another process's channel has come here, and has caught up."""
        entry = Taken(member.server, member.number, self._clock())
        self._others.take(entry)
        self.add(entry)

    def ask(self, member: OtherChannel, *, has_moved: bool) -> None:
        """Have another process ask the client of a channel whether it is still there.

        If the client ``has_moved`` here, unless another one has its key, the channel is taken over
        should its process end before it has answered.
        """
        self._others.ask(member.server, member.number, has_moved=has_moved)
        self.add(Asked(member.server, member.number))

    def shared(self, key: bytes) -> None:
        """Note that several clients have the key of a session."""
        if self._others.share(key):
            self.add(Shared(key))

    def low(self, place: Place) -> None:
        """Note that all joined channels of this process have everything up to a place."""
        place = self._empty.lifted(place[:2])
        if place > self._own.low:
            self._own.low = place
            if self.told_low() is not None:
                self._low = place

    def lift(self, handed: Place, place: Place) -> None:
        """Note that the stream has no changes between two places."""
        lsn, index, *gaps = handed
        # Places here do not tell who has still to be told of a gap.
        handed = (lsn, index + len(gaps))
        if handed < place:
            self._empty.note(handed, place)
            self._own.low = self._empty.lifted(self._own.low)

    # Writing

    def write(self, *, boot: bool = False, snapshot: bool = False) -> Iterator[bytes]:
        """Return the parts of a record with what was noted since the last one, in order.

        If one of them cannot be written, the next record has to be a snapshot.

        Args:
            boot: whether this process has just got its slot.
            snapshot: whether to write all that is known instead.
        """
        low, self._low = self._low, None
        is_snapshot = boot or snapshot or self.needs_snapshot
        entries = self._unwritten.take(snapshot=is_snapshot)
        own = self._own
        own.number += 1
        own.time = self._clock()
        if boot:
            self.booted_at = own.number
        if is_snapshot:
            head = (Boot(),) if boot else ()
            everything = own.snapshot(self._seal.server), self._others.snapshot()
            entries = [*chain(head, *everything, self.places_taken(), entries)]
        elif low is not None:
            entries.append(Low(low))
        return write_record(self._seal, own.number, own.time, entries, self._empty)

    def boots_for(self, slots: Collection[bytes]) -> Iterator[bytes]:
        """Return, for each of some slots that processes with joined channels have, the record of
        one that has got it, so that everybody takes the former ones to have ended."""
        # A process that had only stood still may end again.
        self._endings += 1
        for slot in self._others.slots.intersection(slots):
            server = digest(self._seal.server.hex(), slot.hex())
            seal = attrs.evolve(self._seal, slot=slot, server=server)
            yield from write_record(seal, self._endings, self._clock(), (Boot(),), self._empty)

    # Reading

    def verify(self, data: bytes) -> Part | None:
        """Check the signature of a message, and return the part of a record that it has.

        Others are counted as :attr:`refused`.
        """
        part = read_part(self._seal, data)
        if part is None:
            self.refused += 1
        return part

    def steps(self, part: Part) -> Iterator[None]:
        """Read a part of a record, and yield now and then.

        It has to be brought to its end before the next part is taken.
        """
        parts = self._parts.add(part)
        if parts is not None:
            yield from self._read_record(part, parts)

    def _read_record(self, head: Part, parts: list[Part]) -> Iterator[None]:
        if head.server != self._seal.server:
            try:
                entries = chain.from_iterable(part.entries for part in parts)
                yield from self._others.read(head, entries)
            except UnknownEntryError:
                self.unknown += 1
                yield from self._lose(head.server)
            return
        self.heard = max(self.heard, head.number)
        if isinstance(next(iter(parts[0].entries), None), Boot):
            yield from self._others.end_all(head.slot, head.time, but=head.server)

    def _lose(self, server: bytes) -> Iterator[None]:
        """Forget a process, which may have written that clients have less than what is known."""
        for member in self._others.forget(server):
            self.on_lost(member)
            yield

    def _booted(self, slot: bytes) -> None:
        self.on_boot(slot == self._seal.slot)

    def _was_taken(self, number: int) -> None:
        if self.forget(number):
            self.on_taken(number)

    # The others

    def find(self, key: bytes) -> list[OtherChannel]:
        """Return the channels of other processes, and of ended ones, that have a key."""
        return self._others.find(key)

    def lowest(self) -> Place | None:
        """See :meth:`.OtherProcesses.lowest`."""
        return self._others.lowest()

    # What the others are told

    def told_low(self) -> Place | None:
        """See :meth:`.OwnProcess.told_low`."""
        return self._own.told_low()

    def told_open(self) -> Iterator[Place]:
        """See :meth:`.OwnProcess.told_open`. Places of channels that are away are the absences'."""
        return self._own.told_open()

    @property
    def has_channels(self) -> bool:
        """Whether a channel of any process is known."""
        return bool(self._own.channels) or self._others.has_channels

    @property
    def slots(self) -> set[bytes]:
        """The slots of other processes that have channels which are joined, as far as is known."""
        return self._others.slots

    @property
    def writers(self) -> list[bytes]:
        """The slots of the processes that have written lately, of this one first."""
        return [self._seal.slot, *self._others.writers]

    def tidying(self) -> Iterator[None]:
        """Note, in steps, that processes have ended which have written nothing for a day, and give
        up what is kept of channels that have gone. In between records may be read."""
        yield from self._others.end_silent(self._clock())
        yield from self._others.tidying()

    def expire(self, window: float) -> list[OtherChannel] | None:
        """Remove some channels of other processes whose clients have been away too long; return
        them; None if there are no more.

        Args:
            window: for how many seconds one may be away.
        """
        before = self._clock() - window
        self._own.forget_lost(before)
        return self._others.expire(before)
