"""SyncSource: a source for programs without an event loop.

Theory of operation. The source lives on a thread of its own, with an event loop, which connects,
reads, sends status updates and closes. What has arrived is in the source's queue. The consumer's
thread takes events out of the queue (see :mod:`~realtime_core.sources._sync_reads`), and where it
is empty, has the source's thread fetch some. So the threads take turns, no more is read ahead of
the consumer than some hundred events, and positions and acknowledgements are those of the source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from threading import get_ident
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar, overload

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
)
from ..errors import ConfigError
from ..positions import Position
from ..records import Record
from ._batches import BatchBounds
from ._fans_out import SyncFansOut
from ._loop_thread import LoopThread
from ._reads import SyncSteps, pause
from ._sync_reads import SyncReads
from ._typed_rows import OnMisfit
from .base import (
    Acknowledgeable,
    E,
    R,
    RawTransactionEvent,
    SourceStats,
    TransactionEvent,
    TypedChange,
    TypedEvent,
    TypedSnapshotEvent,
)

if TYPE_CHECKING:
    from ._queue import EventQueue

__all__ = ["SyncSource"]

T = TypeVar("T")

_ACK_DELAY: Final = 0.02
"""Seconds until the source is told of an acknowledgement, and of those that follow meanwhile."""


class SyncSource(SyncReads[E], SyncFansOut[E]):
    """Hands over the changes of a source to a program without an event loop.

    Each source makes one, with its own arguments::

        with PgoutputSource.sync(dsn, publications=["shop"], slot="etl") as source:
            for change in source:
                ...
                source.ack(change)

    Events, errors, positions and acknowledgements are those of the source, which runs on a thread
    of its own: however long the consumer takes, the server gets its status updates. Some hundred
    events at most are decoded ahead of the consumer, if they have come already.

    * A source has one consumer, which may read events, batches and transactions in turn: each goes
      on where the last has stopped. Any thread may call :meth:`ack`, :meth:`stats`,
      :meth:`attached` and :meth:`close`.
    * Ctrl-C, and any other exception that a signal handler raises, ends a read and loses nothing:
      the next read goes on where it has stopped.
    * Functions that the options take, such as ``start_at``, are called on the source's thread.
    """

    def __init__(self, source: EventQueue[E]) -> None:
        self._source = source
        # Runs the source; None before it was entered and after it was closed.
        self._thread: LoopThread | None = None
        # What was acknowledged last, by thread, if the source was not told yet.
        self._acks: dict[int, Acknowledgeable] = {}
        # Whether the source's thread will look at these soon.
        self._acks_due = False
        self._sharing = []

    # Lifetime

    def __enter__(self) -> Self:
        """Attach to the database. A persistent source only begins to attach: see :meth:`attached`.

        Raises:
            SourceError: if that fails, unless the source is persistent.
            RuntimeError: if the source is open already, or was closed.
        """
        if self._thread is not None:
            raise RuntimeError("this source is open already")
        self._thread = LoopThread(type(self._source).__name__)
        try:
            self._thread.call(self._source.__aenter__())
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._thread is None:
            return
        try:
            self._thread.call(self._leave(exc_type, exc, traceback))
        finally:
            self._stop()

    async def _leave(self, *raised: Any) -> None:
        self._tell_last_acks()
        await self._source.__aexit__(*raised)

    def close(self) -> None:
        """Send the last acknowledgement, release the slot and close the connection.

        A read that waits in another thread ends, too.
        """
        if self._thread is None:
            return
        try:
            self._thread.call(self._close())
        finally:
            self._stop()

    async def _close(self) -> None:
        self._tell_last_acks()
        await self._source.aclose()

    def _stop(self) -> None:
        thread, self._thread = self._thread, None
        self._end_consumers()
        if thread is not None:
            thread.stop()

    def attached(self) -> None:
        """Wait until the stream runs: see :meth:`ChangeSource.attached`.

        Raises:
            SourceError: if the source cannot attach, and trying again cannot help.
            RuntimeError: if the source was not entered, or was closed.
        """
        self._running().call(self._source.attached())

    def _running(self) -> LoopThread:
        if self._thread is not None:
            return self._thread
        if self._source._closed:
            raise RuntimeError("this source was closed: make a new one")
        raise RuntimeError("this source is not open: use it in a `with` block")

    # Reading

    def batches(
        self,
        *,
        max_wait: float | None = None,
        max_rows: int | None = None,
        max_bytes: int | None = None,
    ) -> Iterator[list[E]]:
        """Iterate over batches of events: see :meth:`ChangeSource.batches`.

        Raises:
            ConfigError: if a bound is not above 0.
        """
        bounds = BatchBounds.of(max_wait, max_rows, max_bytes)
        return SyncSteps(lambda: self._read(self._source._next_batch(bounds, pause)))

    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: SyncSource[Change | Begin | Commit], max_bytes: int
    ) -> Iterator[CommittedTransaction | LogicalMessage]: ...
    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: SyncSource[Change | Begin | Commit | Gap], max_bytes: int
    ) -> Iterator[CommittedTransaction | LogicalMessage | Gap]: ...
    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: SyncSource[Change | Begin | Commit | Idle], max_bytes: int
    ) -> Iterator[CommittedTransaction | LogicalMessage | Idle]: ...
    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: SyncSource[Event], max_bytes: int
    ) -> Iterator[TransactionEvent]: ...
    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: SyncSource[RawEvent], max_bytes: int
    ) -> Iterator[RawTransactionEvent]: ...
    @overload
    def transactions(  # type: ignore[overload-overlap]
        self: SyncSource[TypedEvent[R] | TypedSnapshotEvent[R]], max_bytes: int
    ) -> Iterator[CommittedTransaction[TypedChange[R]] | LogicalMessage | Gap | Idle]: ...
    @overload
    def transactions(self, max_bytes: int) -> Iterator[TransactionEvent | RawTransactionEvent]: ...

    def transactions(self, max_bytes: int) -> Iterator[Any]:
        """Iterate over whole transactions that have changes: see :meth:`ChangeSource.transactions`.

        Raises:
            ConfigError: if ``max_bytes`` is not positive.
            TransactionTooLargeError: from the iterator, if a transaction is larger.
        """
        if max_bytes <= 0:
            raise ConfigError(f"max_bytes is a number of bytes above 0, not {max_bytes}")
        return SyncSteps(lambda: self._read(self._source._next_transaction(max_bytes, pause)))

    @overload
    def typed(
        self: SyncSource[Change], classes: Mapping[str, type[T]], *, on_error: OnMisfit = ...
    ) -> SyncSource[TypedChange[T | Record]]: ...
    @overload
    def typed(
        self, classes: Mapping[str, type[T]], *, on_error: OnMisfit = ...
    ) -> SyncSource[TypedEvent[T | Record] | TypedSnapshotEvent[T | Record]]: ...

    def typed(self, classes: Mapping[str, type], *, on_error: OnMisfit = "raise") -> Any:
        """Hand over rows as objects of classes: see :meth:`PgoutputSource.typed`.

        Raises:
            ConfigError: if the arguments cannot work.
        """
        self._source.typed(classes, on_error=on_error)
        return self

    def backfill(
        self,
        table: str,
        *,
        where: str | None = None,
        after: Sequence[str] = (),
        chunk_rows: int = 1000,
    ) -> None:
        """Have a table's rows handed over, too: see :meth:`PgoutputSource.backfill`.

        Raises:
            ConfigError: if the table cannot be backfilled.
            SourceError: if the server cannot be asked.
            TypeError: if it is a source that has no backfills.
        """
        source = self._source
        backfill = getattr(source, "backfill", None)
        if backfill is None:
            raise TypeError(f"a {type(source).__name__} has no backfills")
        self._running().call(backfill(table, where=where, after=after, chunk_rows=chunk_rows))

    # Acknowledging

    def ack(self, upto: Acknowledgeable) -> None:
        """Acknowledge everything up to and including ``upto``: see :meth:`ChangeSource.ack`.

        Raises:
            PositionMismatchError: if ``upto`` belongs to another stream.
            ValueError: if it lies behind the last event that was handed over.
            TypeError: if it has no position.
        """
        thread = self._thread
        if thread is None:
            self._source.ack(upto)
        elif upto is self._source._handed:
            # It cannot be refused. To wake the other thread takes longer than to acknowledge, so
            # it is woken for the first one, and tells the source of the last that has come since.
            self._acks[get_ident()] = upto
            if not self._acks_due:
                self._acks_due = True
                thread.later(_ACK_DELAY, self._tell_acks)
        else:
            thread.call(self._ack(upto))

    async def _ack(self, upto: Acknowledgeable) -> None:
        self._tell_acks()
        self._source.ack(upto)

    def _tell_acks(self) -> None:
        self._acks_due = False
        while self._acks:
            self._source.ack(self._acks.popitem()[1])

    @property
    def position(self) -> Position | None:
        """The position of the last event handed over, None before the first one."""
        return self._source.position

    def stats(self) -> SourceStats:
        """Return the counters and positions of this moment."""
        if self._thread is None:
            return self._source.stats()
        return self._thread.call(self._stats())

    async def _stats(self) -> SourceStats:
        self._tell_acks()
        return self._source.stats()
