"""EventQueue: reads a source by events, by batches or by transactions, from one queue of events.

A source puts its events into the queue, Begin and Commit always among them, and implements how to
wait for more. Each way of reading takes events out of the queue. Events that were not handed over
are nowhere else, so a read may be cancelled, or another way of reading may go on: nothing is lost.
"""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Generic, Self, TypeAlias, TypeVar, overload

from ..changes import (
    Begin,
    Change,
    Commit,
    CommittedTransaction,
    Event,
    Gap,
    Idle,
    LogicalMessage,
    RawEvent,
    RawRows,
    Transaction,
)
from ..errors import ConfigError, RealtimeError, TransactionTooLargeError
from ..positions import Position
from ..snapshot import Snapshot, SnapshotBegin, SnapshotComplete, SnapshotEvent
from ._argument_errors import type_of
from .base import Acknowledgeable, E, RawTransactionEvent, TransactionEvent

__all__ = ["EventQueue"]

T = TypeVar("T")

_CHANGE_BYTES: Final = 100
"""How many bytes a change counts besides its values."""
_MANY: Final = 64
"""How many events make a batch although more were read: the rest of a transaction may be long."""


_PLACELESS: Final = frozenset((Gap, Snapshot, SnapshotBegin))
"""The kinds of events that are handed over and have no position, besides Begin."""

Handed: TypeAlias = Change | RawRows | Commit | Idle | SnapshotComplete | CommittedTransaction[Any]
"""The events that have a position, and transactions."""


class EventQueue(abc.ABC, Generic[E]):
    """The part of a source from which its consumer takes events.

    Args:
        boundaries: whether reading by events and by batches yields Begin and Commit, too.
        auto_ack: whether to acknowledge an event when the next one is asked for.
    """

    def __init__(self, *, boundaries: bool, auto_ack: bool) -> None:
        self._boundaries = boundaries
        self._auto_ack = auto_ack
        # The events that were not handed over yet. Those that will be are of type E, which
        # follows from the options and not from this queue.
        self._queue: deque[Any] = deque()
        # The last event or transaction that was handed over and has a position.
        self._handed: Handed | None = None
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

    @abc.abstractmethod
    def ack(self, upto: Acknowledgeable) -> None:
        """Acknowledge everything up to and including ``upto``."""

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

    async def __anext__(self) -> E:
        """Return the next event, waiting for it.

        Raises:
            SourceError: if the stream cannot go on.
            DecodeError: if the server sent what cannot be decoded.
            StopAsyncIteration: after :meth:`aclose`.
        """
        if self._auto_ack:
            self._ack_handed()
        queue = self._queue
        while True:
            while queue:
                event: E = queue.popleft()
                # By class, and not by isinstance: this runs for every change.
                kind = type(event)
                if kind is Begin or kind is Commit:
                    if not self._boundaries:
                        continue
                    if kind is Begin:
                        return event
                elif kind in _PLACELESS:
                    if kind is SnapshotBegin:
                        self._handed = None
                    return event
                self._handed = event  # type: ignore[assignment]
                return event
            await self._more()

    def batches(self) -> AsyncIterator[list[E]]:
        """Iterate over batches: lists of the events that came at once, which are never empty.

        A small transaction is in one batch. You may leave the iterator and make another one at any
        time; cancelling a step loses nothing.
        """
        return _Steps(self._next_batch)

    async def _next_batch(self) -> list[E]:
        if self._auto_ack:
            self._ack_handed()
        queue = self._queue
        while True:
            while not queue or (self._has_rest and len(queue) < _MANY):
                await self._more()
            batch = list(queue) if self._boundaries else list(filter(_is_no_boundary, queue))
            queue.clear()
            if batch:
                break
        for event in reversed(batch):
            if type(event) is SnapshotBegin:
                self._handed = None
                break
            if type(event) is not Begin and type(event) not in _PLACELESS:
                self._handed = event
                break
        return batch

    # The narrowest overload comes first, so that the second and the third do not overlap in it. A
    # source of nothing but boundaries would be of two kinds, but there is none.
    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: EventQueue[Change | Begin | Commit], max_bytes: int
    ) -> AsyncIterator[CommittedTransaction | LogicalMessage]: ...
    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: EventQueue[Change | Begin | Commit | Gap], max_bytes: int
    ) -> AsyncIterator[CommittedTransaction | LogicalMessage | Gap]: ...
    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: EventQueue[Change | Begin | Commit | Idle], max_bytes: int
    ) -> AsyncIterator[CommittedTransaction | LogicalMessage | Idle]: ...
    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: EventQueue[Event], max_bytes: int
    ) -> AsyncIterator[TransactionEvent]: ...
    @overload
    def transactions(
        self: EventQueue[RawEvent], max_bytes: int
    ) -> AsyncIterator[RawTransactionEvent]: ...
    @overload
    def transactions(
        self, max_bytes: int
    ) -> AsyncIterator[TransactionEvent | RawTransactionEvent]: ...

    def transactions(self, max_bytes: int) -> AsyncIterator[Any]:
        """Iterate over whole transactions that have changes.

        You may leave the iterator and make another one at any time; cancelling a step loses
        nothing. If the first part of a transaction was read by events or batches, its rest comes
        as one transaction. A transaction whose end is lost in a gap is left out, and the gap
        begins before it.

        Args:
            max_bytes: the most bytes that one transaction may take: its values, as PostgreSQL
                writes them, and 100 bytes for each change.

        Raises:
            ConfigError: if ``max_bytes`` is not positive.
            TransactionTooLargeError: from the iterator, if a transaction is larger.
        """
        if max_bytes <= 0:
            raise ConfigError(f"max_bytes is a number of bytes above 0, not {max_bytes}")
        return _Steps(lambda: self._next_transaction(max_bytes))

    async def _next_transaction(self, max_bytes: int) -> Any:
        if self._auto_ack:
            self._ack_handed()
        taken: deque[Any] = deque()
        try:
            result = await self._collect(taken, max_bytes)
        except BaseException:
            self._queue.extendleft(reversed(taken))
            raise
        if type(result) is SnapshotBegin:
            self._handed = None
        elif type(result) not in _PLACELESS:
            self._handed = result
        return result

    async def _collect(self, taken: deque[Any], max_bytes: int) -> Any:
        """Take events out of the queue until they make a whole transaction.

        Args:
            taken: gets the events, so that the caller can put them back.
            max_bytes: the most bytes that the transaction may take.
        """
        changes: list[Change | RawRows] = []
        transaction: Transaction | None = None
        size = 0
        while True:
            while not self._queue:
                await self._more()
            event: Event | RawRows | SnapshotEvent = self._queue.popleft()
            taken.append(event)
            if isinstance(event, Begin | Commit):
                if transaction is not None:
                    return CommittedTransaction(transaction, tuple(changes), changes[-1].position)
                taken.clear()
            elif isinstance(event, Gap):
                # The transaction collected so far will never be whole. It was not handed over, so
                # the gap begins before it.
                return Gap(self.position, event.until, event.reason) if changes else event
            elif isinstance(event, SnapshotBegin | Snapshot | SnapshotComplete | Idle) or (
                isinstance(event, LogicalMessage) and event.transaction is None
            ):
                return event
            else:
                transaction = event.transaction
                changes.append(event)
                size += _size(event)
                if size > max_bytes:
                    assert transaction is not None
                    raise TransactionTooLargeError(transaction.xid, max_bytes)

    @property
    def position(self) -> Position | None:
        """The position of the last event handed over; None before the first, and in a snapshot."""
        handed = self._handed
        return None if handed is None else handed.position

    async def _more(self) -> None:
        if self._reading:
            raise RuntimeError("a source has one consumer: two tasks are reading from this one")
        if self._error is not None:
            raise self._error
        if self._closed:
            raise StopAsyncIteration
        self._reading = True
        try:
            await self._fill()
        finally:
            self._reading = False

    def _position_of(self, upto: object) -> Position:
        """Return the position up to which an argument of ``ack()`` acknowledges.

        Raises:
            TypeError: if it has no position.
        """
        position = upto if isinstance(upto, Position) else getattr(upto, "position", None)
        if isinstance(position, Position):
            return position
        remedy = ""
        if isinstance(upto, list):
            remedy = ": acknowledge the last one"
        elif isinstance(upto, str):
            remedy = ": Position.parse() reads what str(position) wrote"
        raise TypeError(
            "ack() takes an event, a CommittedTransaction or a Position, not "
            f"{type_of(upto)}{remedy}"
        )

    def _ack_handed(self) -> None:
        if self._handed is not None:
            self.ack(self._handed)


class _Steps(AsyncIterator[T], Generic[T]):
    """An async iterator over the results of one function.

    It is a class and not an async generator, because a cancelled step must not end it.
    """

    def __init__(self, step: Callable[[], Awaitable[T]]) -> None:
        self._step = step

    def __anext__(self) -> Awaitable[T]:
        return self._step()


def _is_no_boundary(event: Event | RawRows) -> bool:
    return not isinstance(event, Begin | Commit)


def _size(change: Change | RawRows) -> int:
    """Return about how many bytes a change holds."""
    if isinstance(change, RawRows):
        return sum(map(len, change.messages)) + _CHANGE_BYTES * len(change.messages)
    size = _CHANGE_BYTES
    for record in (getattr(change, "record", None), getattr(change, "old_record", None)):
        if record is not None:
            for field in record.fields:
                if type(field) is str or type(field) is bytes:
                    size += len(field)
    if isinstance(change, LogicalMessage):
        size += len(change.content)
    return size
