"""MemorySource: yields the changes of a MemoryDatabase, as the other sources do PostgreSQL's."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from itertools import count
from typing import Final, Literal, Self, Unpack, overload

from ...changes import Begin, Change, Commit, Event, Gap, Idle
from ...errors import (
    ConfigError,
    ConnectionLostError,
    FilterError,
    RealtimeError,
    SlotInUseError,
    SourceError,
)
from ...lsn import LSN
from ...positions import Position
from ...replication.sequence import Sequence
from .._argument_errors import check_start, position_of
from .._checkpoint import ask
from .._filtering import RowFilter, filter_problems
from .._queue import EventQueue
from .._slot_checks import slot_lost
from ..base import Acknowledgeable, E, SourceStats
from ..stream_options import AskStart, StartAt
from ._database import MemoryDatabase
from ._history import MemoryHistory
from ._log import LogEntry, LogWaiters, Slot
from ._options import MemoryOptions, NarrowOptions

__all__ = ["MemorySource"]

logger = logging.getLogger("realtime.source")

_numbers: Final = count(1)


class MemorySource(EventQueue[E]):
    """Yields the changes of a :class:`MemoryDatabase`.

    It keeps the contract of :class:`ChangeSource`: changes that one source has not acknowledged are
    handed over again to the next source on the same slot; a broken connection neither loses nor
    repeats changes; gaps are reported.

    Args:
        database: the database to read; None makes one, see :attr:`database`.
        slot: name of a permanent slot, which is created if it is missing. None stands for a
            temporary slot: each connection that breaks is then a gap.
        on_gap: what to do when changes may have been lost: raise :exc:`SlotLostError`, or yield a
            :class:`Gap` and go on.
        start_at: for a consumer that keeps its own checkpoint: the position that it has stored, or
            None before it has stored one, or a function that returns that, as for
            :attr:`StreamOptions.start_at`. Leave it out for any other consumer.
        filter: hand over only the row changes that pass a filter expression: one expression for
            all tables, or one for each ``schema.table``, where the one for ``*`` is for all other
            tables; see :attr:`StreamOptions.filter`.
        boundaries: whether to yield :class:`Begin` and :class:`Commit`, too.
        auto_ack: whether to acknowledge an event when the next one is asked for, and on leaving
            the ``async with`` block without an exception.
        persistent: whether to try again after every error instead of raising it, also after one in
            the first attempt, as with :attr:`StreamOptions.persistent`; see :meth:`attached`.

    Raises:
        ConfigError: if ``on_gap`` is not one of these, or the filter cannot be parsed.
    """

    @overload
    def __init__(
        self: MemorySource[Change],
        database: MemoryDatabase | None = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["raise"] = ...,
        start_at: Literal["slot"] = ...,
        **options: Unpack[NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: MemorySource[Change | Idle],
        database: MemoryDatabase | None = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["raise"] = ...,
        start_at: StartAt,
        **options: Unpack[NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: MemorySource[Change | Gap],
        database: MemoryDatabase | None = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["continue"],
        start_at: Literal["slot"] = ...,
        **options: Unpack[NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: MemorySource[Change | Gap | Idle],
        database: MemoryDatabase | None = ...,
        *,
        boundaries: Literal[False] = ...,
        on_gap: Literal["continue"],
        start_at: StartAt,
        **options: Unpack[NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: MemorySource[Change | Begin | Commit],
        database: MemoryDatabase | None = ...,
        *,
        boundaries: Literal[True],
        on_gap: Literal["raise"] = ...,
        start_at: Literal["slot"] = ...,
        **options: Unpack[NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: MemorySource[Change | Begin | Commit | Idle],
        database: MemoryDatabase | None = ...,
        *,
        boundaries: Literal[True],
        on_gap: Literal["raise"] = ...,
        start_at: StartAt,
        **options: Unpack[NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: MemorySource[Change | Begin | Commit | Gap],
        database: MemoryDatabase | None = ...,
        *,
        boundaries: Literal[True],
        on_gap: Literal["continue"],
        start_at: Literal["slot"] = ...,
        **options: Unpack[NarrowOptions],
    ) -> None: ...
    @overload
    def __init__(
        self: MemorySource[Event],
        database: MemoryDatabase | None = ...,
        **options: Unpack[MemoryOptions],
    ) -> None: ...

    def __init__(
        self,
        database: MemoryDatabase | None = None,
        *,
        slot: str | None = None,
        on_gap: Literal["raise", "continue"] = "raise",
        start_at: StartAt | Literal["slot"] = "slot",
        filter: str | Mapping[str, str] | None = None,
        boundaries: bool = False,
        auto_ack: bool = False,
        persistent: bool = False,
    ) -> None:
        if on_gap not in ("raise", "continue"):
            raise ConfigError(f"on_gap is 'raise' or 'continue', not {on_gap!r}")
        problems = [] if filter is None else list(filter_problems(filter))
        if problems:
            raise ConfigError(problems)
        super().__init__(boundaries=boundaries, auto_ack=auto_ack)
        self.database = database or MemoryDatabase()
        """The database that is read."""
        # The database's log.
        self._log = self.database._log
        # The identity of the database's stream.
        self._stream = self.database._stream
        # The slot's name.
        self._name = slot or f"memory_{next(_numbers)}"
        # Whether the slot is dropped with its connection.
        self._temporary = slot is None
        # What to do when changes may have been lost.
        self._on_gap = on_gap
        # Whether to try again after every error.
        self._persistent = persistent
        # Whether start_at was given at all.
        self._own_checkpoint = start_at != "slot"
        if self._own_checkpoint:
            check_start(start_at)
        # The function to ask for the checkpoint when the slot is held for the first time.
        self._ask: AskStart | None = start_at if callable(start_at) else None
        # One task attaches at a time.
        self._attaching = asyncio.Lock()
        # Decides which row changes are handed over; None if all are.
        self._filter = None if filter is None else RowFilter(filter, {})
        # What was taken from the slot so far, across connections.
        self._history = MemoryHistory(
            self._stream,
            start_at if isinstance(start_at, Position) else None,
            own_checkpoint=self._own_checkpoint,
            temporary=self._temporary,
            passes=None if self._filter is None else self._filter.passes,
        )
        # How many bytes were read.
        self._bytes = 0
        # The slot; None while there is no connection.
        self._slot: Slot | None = None
        # The number of the log's entry that is read next.
        self._next = 0
        # The tasks that wait for something to happen.
        self._waiters = LogWaiters(self._log)

    # Lifetime

    async def __aenter__(self) -> Self:
        """Attach to the database.

        Raises:
            SourceError: if that fails, unless the source is persistent.
        """
        if self._closed:
            raise RuntimeError("this source was closed: make a new one")
        try:
            await self._attach()
        except SourceError:
            if not self._persistent:
                raise
        return self

    async def aclose(self) -> None:
        """Send the last acknowledgement, release the slot and close the connection."""
        self._closed = True
        self._queue.clear()
        self._confirm()
        self._detach()
        self._waiters.wake()
        # A task that was reading gets one iteration of the event loop to leave.
        await asyncio.sleep(0)

    # Reading

    @property
    def _connected(self) -> bool:
        return self._slot is not None

    async def _connect(self) -> None:
        wakes = self._log.wakes
        try:
            await self._attach()
        except SourceError as exc:
            if not (exc.transient or self._persistent):
                raise
            await self._waiters.wait(wakes)
            if self._closed:
                raise StopAsyncIteration from None

    async def _fill(self) -> None:
        if self._slot is None:
            await self._connect()
            return
        wakes = self._log.wakes
        if not self._take():
            if self._log.ended:
                raise StopAsyncIteration
            await self._waiters.wait(wakes)

    def _take(self) -> bool:
        """Read everything that was written; return whether there was anything."""
        entries = self._log.entries[self._next :]
        self._next += len(entries)
        try:
            for entry in entries:
                self._take_entry(entry)
        except FilterError as exc:
            # The events before the error are handed over first.
            self._error = exc
        self._confirm()
        return bool(entries)

    def _take_entry(self, entry: LogEntry) -> None:
        sequence = self._running()
        self._bytes += entry.size
        self._queue.extend(event for event in entry.events if sequence.accept(event))
        if entry.events:
            return
        progress = sequence.progress
        if not self._own_checkpoint:
            progress.keepalive(entry.end)
            return
        progress.arrived(entry.end)
        # An Idle position is yielded when no other position is still to be stored.
        lsn = LSN(entry.end - 1)
        if sequence.all_done and (lsn, 0) > sequence.last:
            progress.transaction_ended((lsn, 0), entry.end)
            self._queue.append(Idle(Position(lsn, 0, self._stream)))

    # Acknowledging

    def ack(self, upto: Acknowledgeable) -> None:
        """Acknowledge everything up to and including ``upto``.

        The slot moves to the end of the last transaction that is wholly acknowledged. A Begin or a
        Gap acknowledges nothing.

        Raises:
            PositionMismatchError: if ``upto`` belongs to another stream.
            ValueError: if it lies behind the last event that was handed over.
            TypeError: if it has no position.
            RuntimeError: if the source was never attached.
        """
        sequence = self._running()
        if isinstance(upto, Begin | Gap):
            return
        position = position_of(upto)
        place = self._history.place_of(position)
        if place > self._history.handed_over(self.position):
            raise ValueError(f"cannot acknowledge {position}: it was not handed over yet")
        if sequence.progress.acknowledge(place):
            self._confirm()

    def _running(self) -> Sequence:
        if self._history.sequence is None:
            raise RuntimeError("this source was not attached: use it in an `async with` block")
        return self._history.sequence

    def _confirm(self) -> None:
        """Move the slot to what is acknowledged, if there is a connection."""
        if self._slot is not None:
            flushed = self._running().progress.flushed
            self._slot.confirmed = max(self._slot.confirmed, flushed)

    def stats(self) -> SourceStats:
        """Return the counters and positions of this moment."""
        return self._history.stats(self._bytes, self._filter, connected=self._connected)

    # Attaching

    async def _attach(self) -> None:
        async with self._attaching:
            if self._slot is None:
                await self._attach_slot()

    async def _attach_slot(self) -> None:
        database = self.database
        if database._down:
            raise ConnectionLostError("cannot connect to the MemoryDatabase: it is down")
        slot = database._slots.get(self._name)
        if slot is not None and slot.close is not None:
            raise SlotInUseError(self._name, None)
        found = slot
        if self._ask is not None:
            slot = slot or Slot(self._log.end, self._temporary)
            database._slots[self._name] = slot
            try:
                with slot.held():
                    self._history.begin_at(await ask(self._ask))
            except BaseException:
                if self._temporary:
                    database._slots.pop(self._name, None)
                self._log.wake()
                raise
            self._ask = None
        reason = self._history.gap_reason(found)
        if reason is not None and self._on_gap == "raise":
            after = self._history.last_position()
            raise slot_lost(self._name, reason, after, may_continue=False, may_replace=True)
        if slot is None or slot.lost is not None:
            slot = database._slots[self._name] = Slot(self._log.end, self._temporary)
        slot.close = self._lose
        self._slot = slot
        gap = self._history.attached(slot, reason)
        if gap is not None:
            self._queue.append(gap)
        self._next = len(self._log.entries)
        for number, _ in self._log.since(slot.confirmed):
            self._next = number
            break

    def _lose(self, exc: RealtimeError) -> None:
        """Close a broken connection; the next read attaches again."""
        self._detach()
        if isinstance(exc, SourceError) and (exc.transient or self._persistent):
            logger.warning("stream interrupted: %s", exc)
        else:
            self._error = exc
        self._waiters.wake()

    def _detach(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            slot.close = None
            if slot.temporary:
                self.database._slots.pop(self._name, None)
            # Another source may be waiting for the slot.
            self._log.wake()
