"""ReadsTransactions: the part of an event queue that hands over whole transactions."""

from __future__ import annotations

import abc
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any, Final, Generic, TypeVar, overload

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
from ..errors import ConfigError, TransactionTooLargeError
from ..positions import Position
from ..snapshot import BackfillStep, Snapshot, SnapshotBegin, SnapshotComplete, SnapshotEvent
from ._batches import PLACELESS
from ._reads import Handed, More, Steps
from ._sizes import size_of
from ._typed_rows import RowClasses
from .base import (
    E,
    R,
    RawTransactionEvent,
    TransactionEvent,
    TypedChange,
    TypedEvent,
    TypedSnapshotEvent,
)

__all__ = ["ReadsTransactions"]

T = TypeVar("T")

_NOT_IN_TRANSACTIONS: Final = (SnapshotBegin, Snapshot, SnapshotComplete, BackfillStep, Idle)


class ReadsTransactions(abc.ABC, Generic[E]):
    """Collects the events of a queue, up to the end of a transaction."""

    # The events that were not handed over yet. Those that will be are of type E, which follows
    # from the options and not from this queue.
    _queue: deque[Any]
    # The last event or transaction that was handed over and has a position.
    _handed: Handed | None
    # Makes objects of rows when they are handed over; None if typed() was not called.
    _classes: RowClasses | None

    @property
    @abc.abstractmethod
    def position(self) -> Position | None:
        """The position of the last event handed over; None before the first, and in a snapshot."""

    @abc.abstractmethod
    def _step(self, way: Callable[[More], Awaitable[T]]) -> Awaitable[T]:
        """Read in one of the ways, once."""

    # The narrowest overload comes first, so that the second and the third do not overlap in it. A
    # source of nothing but boundaries would be of two kinds, but there is none.
    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: ReadsTransactions[Change | Begin | Commit], max_bytes: int
    ) -> AsyncIterator[CommittedTransaction | LogicalMessage]: ...
    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: ReadsTransactions[Change | Begin | Commit | Gap], max_bytes: int
    ) -> AsyncIterator[CommittedTransaction | LogicalMessage | Gap]: ...
    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: ReadsTransactions[Change | Begin | Commit | Idle], max_bytes: int
    ) -> AsyncIterator[CommittedTransaction | LogicalMessage | Idle]: ...
    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: ReadsTransactions[Event], max_bytes: int
    ) -> AsyncIterator[TransactionEvent]: ...
    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: ReadsTransactions[RawEvent], max_bytes: int
    ) -> AsyncIterator[RawTransactionEvent]: ...
    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: ReadsTransactions[TypedEvent[R] | TypedSnapshotEvent[R]], max_bytes: int
    ) -> AsyncIterator[CommittedTransaction[TypedChange[R]] | LogicalMessage | Gap | Idle]: ...
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
        return Steps(lambda: self._step(partial(self._next_transaction, max_bytes)))

    async def _next_transaction(self, max_bytes: int, more: More) -> Any:
        taken: deque[Any] = deque()
        try:
            result = await self._collect(taken, max_bytes, more)
            if self._classes is not None:
                result = self._classes.event(result)
            kind = type(result)
            if kind not in PLACELESS:
                self._handed = result
            elif kind is SnapshotBegin:
                self._handed = None
            return result
        except BaseException:
            if taken and self._queue and taken[-1] is self._queue[0]:
                # Ctrl-C came when the event was in both.
                taken.pop()
            self._queue.extendleft(reversed(taken))
            raise

    async def _collect(self, taken: deque[Any], max_bytes: int, more: More) -> Any:
        """Take events out of the queue until they make a whole transaction.

        Args:
            taken: gets the events, so that the caller can put them back.
            max_bytes: the most bytes that the transaction may take.
            more: waits for more events.
        """
        changes: list[Change | RawRows] = []
        transaction: Transaction | None = None
        size = 0
        while True:
            while not self._queue:
                await more()
            event: Event | RawRows | SnapshotEvent = self._queue[0]
            taken.append(event)
            del self._queue[0]
            if isinstance(event, Begin | Commit):
                if transaction is not None:
                    return CommittedTransaction(transaction, tuple(changes), changes[-1].position)
                taken.clear()
            elif isinstance(event, Gap):
                # The transaction collected so far will never be whole. It was not handed over, so
                # the gap begins before it.
                return Gap(self.position, event.until, event.reason) if changes else event
            elif isinstance(event, _NOT_IN_TRANSACTIONS) or (
                isinstance(event, LogicalMessage) and event.transaction is None
            ):
                return event
            else:
                transaction = event.transaction
                changes.append(event)
                size += size_of(event)
                if size > max_bytes:
                    assert transaction is not None
                    raise TransactionTooLargeError(transaction.xid, max_bytes)
