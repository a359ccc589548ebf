"""EventQueue: reads a source by events, by batches or by transactions, from one queue of events.

A source puts its events into the queue, Begin and Commit always among them, and implements how to
wait for more. Each way of reading takes events out of the queue. Events that were not handed over
are nowhere else, so a read may be cancelled, or another way of reading may go on: nothing is lost.

The ways of reading get the function that waits for more as an argument, because a
:class:`~realtime_core.sources.sync.SyncSource` waits in another manner. Its thread may be
interrupted by Ctrl-C in any call, so taking an event out of the queue is the last that they do, by
a statement and not by a call.
"""

from __future__ import annotations

import abc
import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import suppress
from functools import partial
from itertools import dropwhile
from time import monotonic
from types import TracebackType
from typing import Any, Final, Self, TypeVar, overload

from .._implementation import IMPLEMENTATION
from ..changes import Begin, Change, Commit, Event
from ..errors import RealtimeError
from ..positions import Position
from ..records import Record
from ..snapshot import SnapshotBegin, SnapshotEvent
from ._batches import PLACELESS, BatchBounds, GrowingBatch, last_placed
from ._fans_out import FansOut
from ._makes_sync import MakesSync
from ._reads import More, Steps
from ._typed_rows import OnMisfit, RowClasses
from ._whole_transactions import ReadsTransactions
from .base import (
    Acknowledgeable,
    E,
    SourceStats,
    TypedChange,
    TypedEvent,
    TypedSnapshotEvent,
)

__all__ = ["EventQueue"]

T = TypeVar("T")

_MANY: Final = 64
"""How many events make a batch although more were read: the rest of a transaction may be long."""

_BOUNDARIES: Final = frozenset((Begin, Commit))


class EventQueue(ReadsTransactions[E], FansOut[E], MakesSync):
    """The part of a source from which its consumer takes events.

    Args:
        boundaries: whether reading by events and by batches yields Begin and Commit, too.
        auto_ack: whether to acknowledge an event when the next one is asked for.
    """

    def __init__(self, *, boundaries: bool, auto_ack: bool) -> None:
        self._boundaries = boundaries
        self._auto_ack = auto_ack
        # Whether reads begin with _prepare().
        self._prepares = auto_ack
        self._queue = deque()
        self._handed = None
        self._classes = None
        # Whether a task is reading now.
        self._reading = False
        # Set by a source: whether the next _fill() will not have to wait.
        self._has_rest = False
        # Set by a source: the error to raise when the queue is empty.
        self._error: RealtimeError | None = None
        # Whether the source was closed.
        self._closed = False

    # What a source implements

    @abc.abstractmethod
    async def _connect(self) -> None:
        """Try to connect, and wait until there may be a connection.

        Several tasks may wait at a time. Cancelling a wait loses nothing.

        Raises:
            StopAsyncIteration: if there will be no connection any more.
        """

    @property
    @abc.abstractmethod
    def _connected(self) -> bool:
        """Whether there is a connection that is not known to be broken."""

    @abc.abstractmethod
    async def _fill(self) -> None:
        """Wait for the next events and put them into the queue; there may be none.

        Cancelling a wait loses nothing. This is not called after an error, nor when the source is
        closed.

        Raises:
            StopAsyncIteration: if no more events will come.
        """

    def _is_at_hand(self) -> bool:
        """Whether the next _fill() has events that have come, and will neither wait nor raise."""
        return self._has_rest

    def _look_away(self) -> None:
        """Leave what comes where it is until the next _fill(), if that is worth a call."""

    @abc.abstractmethod
    def ack(self, upto: Acknowledgeable) -> None:
        """Acknowledge everything up to and including ``upto``."""

    @abc.abstractmethod
    def stats(self) -> SourceStats:
        """Return the counters and positions of this moment."""

    @abc.abstractmethod
    async def __aenter__(self) -> Self:
        """Attach, or begin to."""

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Close the connection, and release everything else."""

    # Entering and leaving

    async def attached(self) -> None:
        """Wait until the stream runs.

        Changes that are committed after that are handed over, or a Gap says that they were lost.
        A persistent source enters its ``async with`` block before there is a slot, and changes
        that are committed before the slot is created are not in it.

        Any task may wait, and several at a time; cancelling a wait does not stop the source from
        attaching. A broken connection is noticed by a read only, so until then this returns.

        Raises:
            SourceError: if the source cannot attach, and trying again cannot help.
            RuntimeError: if the source was closed, now or before.
        """
        while not self._closed:
            if self._error is not None:
                raise self._error
            if self._connected:
                return
            try:
                await self._connect()
            except StopAsyncIteration:
                break
        raise RuntimeError("this source was closed: make a new one")

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._auto_ack and exc_type is None and not self._closed:
            self._ack_handed()
        await self.aclose()

    # Reading

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, E]:
        """Return the next event, waiting for it.

        Raises:
            SourceError: if the stream cannot go on.
            DecodeError: if the server sent what cannot be decoded.
            StopAsyncIteration: after :meth:`aclose`.
        """
        if self._prepares:
            self._prepare()
        return self._next_event(self._more)

    async def _next_event(self, more: More) -> E:
        while True:
            queue = self._queue
            while queue:
                event = queue[0]
                # By class, and not by isinstance: this runs for every change.
                kind = type(event)
                if (kind is Begin or kind is Commit) and not self._boundaries:
                    del queue[0]
                    continue
                if self._classes is not None:
                    event = self._classes.event(event)
                if kind is SnapshotBegin:
                    self._handed = None
                elif kind is not Begin and kind not in PLACELESS:
                    self._handed = event
                del queue[0]
                return event  # type: ignore[no-any-return]
            await more()

    def batches(
        self,
        *,
        max_wait: float | None = None,
        max_rows: int | None = None,
        max_bytes: int | None = None,
    ) -> AsyncIterator[list[E]]:
        """Iterate over batches: lists of the events that came at once, which are never empty.

        A small transaction is in one batch. You may leave the iterator and make another one at any
        time; cancelling a step loses nothing.

        Args:
            max_wait: how many seconds to collect more events after the first of a batch, until
                ``max_rows`` or ``max_bytes`` is reached.
            max_rows: the most rows and other events of a batch; Begin and Commit do not count.
            max_bytes: the most bytes, counted as for :meth:`transactions`; a larger event is alone.

        Raises:
            ConfigError: if one of them is not above 0.
        """
        bounds = BatchBounds.of(max_wait, max_rows, max_bytes)
        return Steps(lambda: self._step(partial(self._next_batch, bounds)))

    async def _next_batch(self, bounds: BatchBounds | None, more: More) -> list[E]:
        if bounds is not None:
            return await self._next_bounded_batch(bounds, more)
        while True:
            while not self._queue or (self._has_rest and len(self._queue) < _MANY):
                await more()
            queue = self._queue
            batch = [event for event in queue if self._boundaries or type(event) not in _BOUNDARIES]
            rest: deque[Any] = deque()
            if self._classes is not None:
                batch, rest = self._objects(batch, rest)
            handed = last_placed(batch, self._handed)
            self._handed = handed
            self._queue = rest
            if batch:
                return batch

    async def _next_bounded_batch(self, bounds: BatchBounds, more: More) -> list[E]:
        growing = GrowingBatch(bounds, boundaries=self._boundaries)
        until: float | None = None
        while True:
            growing.look(self._queue)
            if growing.full:
                break
            if growing.empty:
                await more()
                continue
            if bounds.max_wait is None and not self._has_rest:
                break
            if bounds.max_wait is not None and until is None:
                until = monotonic() + bounds.max_wait
            try:
                if not await more(until):
                    break
            except StopAsyncIteration:
                break
        batch, rest = growing.split(self._queue)
        if self._classes is not None:
            batch, rest = self._objects(batch, rest)
        handed = last_placed(batch, self._handed)
        self._handed = handed
        self._queue = rest
        return batch

    def _objects(self, batch: list[E], rest: deque[Any]) -> tuple[list[E], deque[Any]]:
        """Make objects of a batch's rows; one that does not fit, and all behind it, stay."""
        assert self._classes is not None
        made, misfit = self._classes.batch(batch)
        if misfit is not None:
            rest = deque(dropwhile(lambda event: event is not misfit, self._queue))
        return made, rest

    @overload
    def typed(
        self: EventQueue[Change], classes: Mapping[str, type[T]], *, on_error: OnMisfit = ...
    ) -> EventQueue[TypedChange[T | Record]]: ...
    @overload
    def typed(  # type: ignore[overload-overlap]
        self: EventQueue[Change | SnapshotEvent],
        classes: Mapping[str, type[T]],
        *,
        on_error: OnMisfit = ...,
    ) -> EventQueue[TypedChange[T | Record] | TypedSnapshotEvent[T | Record]]: ...
    @overload
    def typed(
        self: EventQueue[Event], classes: Mapping[str, type[T]], *, on_error: OnMisfit = ...
    ) -> EventQueue[TypedEvent[T | Record]]: ...
    @overload
    def typed(
        self, classes: Mapping[str, type[T]], *, on_error: OnMisfit = ...
    ) -> EventQueue[TypedEvent[T | Record] | TypedSnapshotEvent[T | Record]]: ...

    def typed(self, classes: Mapping[str, type], *, on_error: OnMisfit = "raise") -> Any:
        """Hand over the rows of some tables as objects of classes, from the next read on.

        Events stay of the classes that they are; ``record`` and ``old_record`` become objects, as
        :meth:`Record.structure` makes them. An old row that has only the columns of the replica
        identity stays a Record, and so do the rows of all other tables.

        Args:
            classes: the classes, by ``schema.table``.
            on_error: what to do with a row that does not fit its class, or has a value that Python
                cannot hold. ``"raise"`` has the read raise RowStructureError or
                ValueConversionError; the row stays the next to be read, until this is called again
                with another class or another ``on_error``. ``"record"`` hands over the Record. A
                function is called with the error, and what it returns stands for the row.

        Returns:
            This source.

        Raises:
            ConfigError: if the arguments cannot work.
        """
        self._classes = RowClasses(classes, on_error)
        return self

    def _step(self, way: Callable[[More], Awaitable[T]]) -> Awaitable[T]:
        if self._prepares:
            self._prepare()
        return way(self._more)

    @property
    def position(self) -> Position | None:
        """The position of the last event handed over; None before the first, and in a snapshot."""
        handed = self._handed
        return None if handed is None else handed.position

    async def _more(self, until: float | None = None) -> bool:
        """Wait for the next events: see :class:`More`."""
        if self._reading:
            raise RuntimeError("a source has one consumer: two tasks are reading from this one")
        if self._error is not None:
            raise self._error
        if self._closed:
            raise StopAsyncIteration
        self._reading = True
        try:
            if until is None:
                await self._fill()
                return True
            with suppress(TimeoutError):
                async with asyncio.timeout(until - monotonic()) as scope:
                    await self._fill()
            return not scope.expired()
        finally:
            self._reading = False

    def _prepare(self) -> None:
        self._check_unshared()
        self._ack_handed()

    def _ack_handed(self) -> None:
        if self._handed is not None:
            self.ack(self._handed)


if IMPLEMENTATION == "c":
    from realtime_core_c.steps import next_event

    EventQueue.__anext__ = next_event  # type: ignore[method-assign]
