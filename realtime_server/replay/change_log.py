"""ChangeLog: the changes that clients may have missed, in memory, in the order of the stream.

Theory of operation. The newest changes are kept as the objects that they are. While all clients are
there, they need the changes of the last minute at most, which are given up before anything is done
with them. When a client is away for longer, what has become some seconds old is packed into
segments (:mod:`.segments`) of about a thousand changes. Objects are also packed if they take too
many bytes. Whatever nobody needs any more is given up from the beginning on, and more of it if the
log takes too many bytes, or is too old.

So the log is complete behind its floor. A place below the floor has lost changes. When the stream
becomes another one, whose places cannot be compared with those before, the log begins anew, and all
former places are lost: its epoch tells them apart.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from realtime_core import Event, Gap, GapReason, LogicalMessage

from .change_size import CHANGE_BYTES, estimated_size, size_of
from .places import BEFORE, Place, place_behind_gap, place_of
from .segments import Logged, changes_of, pack, unpack

__all__ = ["ChangeLog"]

_SEGMENT: Final = 1000
"""Changes of one segment."""
_SEGMENT_BYTES: Final = 1024 * 1024
"""Bytes of values after which a segment is full, however few changes it has."""
_FRESH: Final = 4.0
"""Seconds for which changes are kept as objects while somebody is away for longer."""
_LONG: Final = 65.0
"""Seconds after which somebody is away who needs a change, most likely. Clients that are there may
need what came since their last message but one, which is two heartbeats of 25 s."""
_AT_ONCE: Final = 2
"""Segments that are packed with a batch at most, as objects become old: when somebody leaves, there
may be those of a minute."""
_TOGETHER: Final = 0.1
"""Seconds for which small batches are put into one chunk."""
_MANY: Final = 100
"""Changes of a chunk that is made of several batches, at most."""
_MANY_BYTES: Final = 64 * 1024
"""Bytes of a chunk to which no further batch is added: chunks are given up as a whole."""
_OBJECTS: Final = 4
"""Which part of the bytes objects may take: a quarter. Beyond that they are packed at once."""
_PACKED_BYTES: Final = 300
"""Bytes of a segment besides what is packed."""
_UNPACKED: Final = 4
"""Segments that stay unpacked while they are read: each round reads one."""

_OF_ANOTHER_STREAM: Final = (GapReason.NEW_TIMELINE, GapReason.OTHER_CLUSTER)
"""Why places from before a gap say nothing of those behind it."""


class _Chunk:
    """Changes that follow each other, as objects or packed; or one gap."""

    __slots__ = ("bytes", "count", "data", "events", "last", "shared", "time")

    def __init__(self, events: list[Logged] | Gap, last: Place, size: int, time: float) -> None:
        self.events: Sequence[Logged] | Gap | None = events
        """The changes, or the gap; None while they are packed."""
        self.count = 0 if isinstance(events, Gap) else len(events)
        """How many changes these are."""
        self.last = last
        """The place of the last one."""
        self.bytes = size
        """Bytes that they take, about."""
        self.time = time
        """When they came, about."""
        self.data = b""
        self.shared: tuple[Any, ...] = ()
        """What :func:`unpack` makes the changes of, if they were packed."""

    def behind(self, after: Place) -> Iterator[tuple[Place, Event]]:
        """Yield what is behind a place, each with its place."""
        if isinstance(self.events, Gap):
            yield self.last, self.events
            return
        assert self.events is not None
        for at in range(bisect_right(self.events, after, key=_place), self.count):
            change = self.events[at]
            yield _place(change), change


class ChangeLog:
    """The changes of the stream that a client may still have to get.

    Args:
        max_bytes: how many bytes the log may take, about (REPLAY_MEMORY_MB).
        window: seconds after which changes are given up (REPLAY_WINDOW).
        clock: seconds of any clock that only goes forward.
    """

    def __init__(self, *, max_bytes: int, window: float, clock: Callable[[], float]) -> None:
        self._max_bytes = max_bytes
        self._window = window
        self._clock = clock
        self.floor: Place = BEFORE
        """The place behind which the log is complete."""
        self.end: Place = BEFORE
        """The place up to which everything was appended. Messages leave it where it is: clients get
        none, so whoever has all changes before a message has all behind it as well."""
        # The place of the last message behind the last change.
        self._message: Place = BEFORE
        self.epoch = 0
        """How often the stream has become another one. Places of two epochs cannot be compared."""
        self.bytes = 0
        """Bytes that the log takes, about."""
        # All chunks, in order, and the places of their last events.
        self._chunks: list[_Chunk] = []
        self._lasts: list[Place] = []
        # How many of them, the first ones, are packed or gaps; and what the others take.
        self._settled = 0
        self._fresh_changes = 0
        self._fresh_bytes = 0
        # How often the size of changes was estimated.
        self._turn = 0
        # The segments that are unpacked, those that were read last at the end.
        self._unpacked: deque[_Chunk] = deque()

    @property
    def seconds(self) -> float:
        """The age of the oldest changes in the log, in seconds."""
        return self._clock() - self._chunks[0].time if self._chunks else 0.0

    def append(self, events: Sequence[Event]) -> None:
        """Append a batch of the stream."""
        now = self._clock()
        changes = changes_of(events)
        if len(changes) == len(events) or Gap not in map(type, events):
            self._append(events, changes, now)
        else:
            for event in events:
                if isinstance(event, Gap):
                    self._append_gap(event, now)
                else:
                    self._append((event,), changes_of((event,)), now)
        self._keep_within_bounds(now)

    def begin_behind(self, place: Place) -> None:
        """Note where the stream begins, of which nothing has come yet."""
        self.end = max(self.end, place)

    def put_before(self, older: ChangeLog, floor: Place) -> None:
        """Put the changes of an older log, which ends where this one begins, before this one's.

        If this log has given changes up meanwhile, nothing is put before it: who lacks those must
        not go on from before them.

        Args:
            older: was read from where this log begins; or has nothing.
            floor: where the other log has begun, if nothing was given up there.
        """
        if self.floor != BEFORE:
            return
        while older._settled < len(older._chunks):
            older._pack_fresh()
        if older._lasts and self._lasts and older._lasts[-1] >= self._lasts[0]:
            # The stream began with a gap, so what is before it cannot be told from what is behind.
            self.floor = max(self.floor, older._lasts[-1])
            return
        self.floor = max(older.floor, floor)
        self._chunks[:0] = older._chunks
        self._lasts[:0] = older._lasts
        self._settled += older._settled
        self.bytes += older.bytes
        self.end = max(self.end, older.end, floor)
        self._keep_within_bounds(self._clock())

    def trim(self, needed: Place) -> None:
        """Delete the changes that no client needs any more.

        Args:
            needed: the lowest place that anybody may go on from.
        """
        self._drop(bisect_right(self._lasts, needed))
        self._keep_within_bounds(self._clock())

    def give_up(self) -> None:
        """Give up everything that has come so far."""
        self._drop(len(self._chunks))
        self.floor = max(self.floor, self.end)

    def read(
        self, after: Place, most: int, until: Place | None = None, *, most_bytes: int | None = None
    ) -> tuple[list[Event], Place]:
        """Return the next changes behind a place, or the next gap by itself.

        A round that publishes something again to a channel, as the channel's viewer is another one
        now, must not tell it of a gap again.

        Args:
            after: the place, which must not be below the floor.
            most: how many to return, at most.
            until: the place of the last one to return; None: the end.
            most_bytes: bytes after which there are enough of them, about; None: any number.

        Returns:
            The changes or the gap, and the place up to which these are all: that of the last one;
            if there are no more, ``until`` or the end.

        Raises:
            ValueError: if ``after`` is below the floor: something behind it is lost.
        """
        if after < self.floor:
            raise ValueError(f"the log begins at {self.floor}, and {after} is before that")
        until = self.end if until is None else min(until, self.end)
        found: list[Event] = []
        size, reached = 0, after
        for at in range(bisect_right(self._lasts, after), len(self._chunks)):
            chunk = self._chunks[at]
            if chunk.events is None:
                self._unpack(chunk)
            is_gap = isinstance(chunk.events, Gap)
            if is_gap and found:
                return found, reached
            for place, event in chunk.behind(after):
                if place > until:
                    return found, until
                found.append(event)
                reached = place
                if most_bytes is not None:
                    size += size_of((event,))
                is_enough = len(found) >= most or (most_bytes is not None and size >= most_bytes)
                if is_gap or is_enough:
                    return found, until if place == self._lasts[-1] else place
        return found, max(after, until)

    def begin_anew_behind(self, place: Place) -> None:
        """Delete everything up to a place, after a failure; the stream stays the same one."""
        self._chunks, self._lasts = [], []
        self._settled = self.bytes = self._fresh_changes = self._fresh_bytes = 0
        self._unpacked.clear()
        self.floor = self.end = place
        self.epoch += 1

    def _append(self, events: Sequence[Event], changes: list[Logged], now: float) -> None:
        """Append events among which there is no gap. This runs for each batch of the stream."""
        for event in events:
            first = place_of(event)
            if first is not None:
                break
        else:
            return
        if first <= self.end:
            # A source never sends the same twice. A gap that said so came before.
            self._begin_anew(first)
        for event in reversed(events):
            if isinstance(event, LogicalMessage):
                self._message = max(self._message, (event.lsn, -1))
                continue
            end = place_of(event)
            if end is not None:
                break
        else:
            return
        self.end = end
        if len(changes) <= _SEGMENT:
            if changes:
                self._add_changes(changes, now)
            return
        for at in range(0, len(changes), _SEGMENT):
            self._add_changes(changes[at : at + _SEGMENT], now)

    def _add_changes(self, changes: list[Logged], now: float) -> None:
        self._turn += 1
        count, size, last = len(changes), estimated_size(changes, self._turn), _place(changes[-1])
        self._fresh_changes += count
        self._fresh_bytes += size
        if len(self._chunks) > self._settled:
            chunk = self._chunks[-1]
            is_small = chunk.count + count <= _MANY and chunk.bytes < _MANY_BYTES
            if is_small and now - chunk.time < _TOGETHER and type(chunk.events) is list:
                chunk.events += changes
                chunk.count += count
                chunk.bytes += size
                chunk.last = self._lasts[-1] = last
                self.bytes += size
                return
        self._add(_Chunk(changes, last, size, now))

    def _append_gap(self, gap: Gap, now: float) -> None:
        if gap.reason in _OF_ANOTHER_STREAM:
            # It may not look like it: the WAL there has other changes at the same places.
            self._begin_anew((gap.until.lsn, 0))
            return
        # The journal may have told of somebody up to the last message.
        self.end = place_behind_gap(max(self.end, self._message))
        self._add(_Chunk(gap, self.end, CHANGE_BYTES, now))
        self._fresh_bytes += CHANGE_BYTES

    def _add(self, chunk: _Chunk) -> None:
        self._chunks.append(chunk)
        self._lasts.append(chunk.last)
        self.bytes += chunk.bytes

    def _begin_anew(self, first: Place) -> None:
        """Forget everything, since the stream is another one, of which this is the first place."""
        self._drop(len(self._chunks))
        self.floor = self.end = (first[0], first[1] - 1)
        self._message = BEFORE
        self.epoch += 1

    def _keep_within_bounds(self, now: float) -> None:
        chunks = self._chunks
        while self._settled < len(chunks) and _OBJECTS * self._fresh_bytes > self._max_bytes:
            self._pack_fresh()
        if self._fresh_changes >= _SEGMENT:
            self._pack_old(now)
        oldest = now - self._window
        size, count = self.bytes, 0
        for chunk in chunks:
            if chunk.time >= oldest and size <= self._max_bytes:
                break
            size -= chunk.bytes
            count += 1
        self._drop(count)

    def _pack_old(self, now: float) -> None:
        """Pack old changes, if the log goes back so far that most likely a client is away."""
        chunks = self._chunks
        for _ in range(_AT_ONCE):
            is_old = self._fresh_changes >= _SEGMENT and now - chunks[self._settled].time > _FRESH
            if not is_old or now - chunks[0].time <= _LONG:
                break
            self._pack_fresh()

    def _pack_fresh(self) -> None:
        """Pack the oldest changes that are objects into a segment; or let a gap be."""
        begin = end = self._settled
        size = count = 0
        while end < len(self._chunks):
            chunk = self._chunks[end]
            if isinstance(chunk.events, Gap) or count >= _SEGMENT or size >= _SEGMENT_BYTES:
                break
            size += chunk.bytes
            count += chunk.count
            end += 1
        self._settled += 1
        if not count:
            self._fresh_bytes -= self._chunks[begin].bytes
            return
        packed = _packed(self._chunks[begin:end])
        self._chunks[begin:end] = [packed]
        self._lasts[begin:end] = [packed.last]
        self.bytes += packed.bytes - size
        self._fresh_changes -= count
        self._fresh_bytes -= size

    def _unpack(self, chunk: _Chunk) -> None:
        chunk.events = unpack(chunk.data, chunk.shared)
        self._unpacked.append(chunk)
        if len(self._unpacked) > _UNPACKED:
            self._unpacked.popleft().events = None

    def _drop(self, count: int) -> None:
        """Give up some chunks, the first ones."""
        if not count:
            return
        self.floor = self._lasts[count - 1]
        for chunk in self._chunks[:count]:
            self.bytes -= chunk.bytes
        for chunk in self._chunks[self._settled : count]:
            self._fresh_bytes -= chunk.bytes
            self._fresh_changes -= chunk.count
        for chunk in self._chunks[: min(count, self._settled)]:
            # Otherwise it would stay among those that are unpacked, with its changes.
            chunk.events = ()
        self._settled = max(self._settled - count, 0)
        del self._chunks[:count], self._lasts[:count]


def _packed(chunks: Sequence[_Chunk]) -> _Chunk:
    """Return chunks of changes as one segment."""
    changes: list[Any] = [change for chunk in chunks for change in chunk.events]  # type: ignore[union-attr]
    last = chunks[-1]
    packed = _Chunk(changes, last.last, 0, last.time)
    packed.data, packed.shared = pack(changes)
    packed.bytes = len(packed.data) + _PACKED_BYTES
    packed.events = None
    return packed


def _place(change: Logged) -> Place:
    return (change.transaction.commit_lsn, change.index)
