"""ChangeSource: the contract that every source of changes keeps."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeAlias, overload

import attrs

from ..changes import (
    Begin,
    Commit,
    CommittedTransaction,
    Delete,
    Event,
    Gap,
    Idle,
    Insert,
    LogicalMessage,
    RawChange,
    RawRows,
    Truncate,
    Update,
)
from ..lsn import LSN
from ..positions import Position, StreamIdentity
from ..snapshot import BackfillStep, Snapshot, SnapshotBegin, SnapshotComplete

__all__ = [
    "E",
    "Acknowledgeable",
    "ChangeSource",
    "RawTransactionEvent",
    "SourceStats",
    "TransactionEvent",
    "TypedChange",
    "TypedEvent",
    "TypedSnapshotEvent",
]

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    _Any: TypeAlias = "TypedEvent[Any] | TypedSnapshotEvent[Any] | RawRows"
    E = TypeVar("E", bound=_Any, default=Event, covariant=True)
    """The kinds of events that a source yields, which depend on its options."""
else:
    # Python 3.11 knows no defaults of type variables, and needs none to run.
    from typing import TypeVar

    E = TypeVar("E", covariant=True)

R = TypeVar("R")

TypedChange: TypeAlias = Insert[R] | Update[R] | Delete[R] | Truncate | LogicalMessage
"""The changes of a source whose rows are objects of classes, or records: see
:meth:`PgoutputSource.typed`. ``TypedChange[User | Record]`` has rows of a class, and others."""
TypedEvent: TypeAlias = TypedChange[R] | Begin | Commit | Gap | Idle
"""The events of such a source."""
TypedSnapshotEvent: TypeAlias = Snapshot[R] | SnapshotBegin | SnapshotComplete | BackfillStep
"""The events of its snapshots."""

TransactionEvent: TypeAlias = CommittedTransaction | LogicalMessage | Gap | Idle
"""The items that :meth:`ChangeSource.transactions` yields. A LogicalMessage comes by itself only if
it is not transactional."""
RawTransactionEvent: TypeAlias = CommittedTransaction[RawChange] | LogicalMessage | Gap | Idle
"""The items that ``transactions()`` of a :class:`RawPgoutputSource` yields."""

Acknowledgeable: TypeAlias = (
    TypedEvent[Any] | TypedSnapshotEvent[Any] | RawRows | CommittedTransaction[Any] | Position
)
"""The argument of :meth:`ChangeSource.ack`."""


@attrs.frozen
class SourceStats:
    """Counters since the source was made, and its positions."""

    changes: int = 0
    """Row changes, truncates and messages taken from the stream, without repeated ones."""
    transactions: int = 0
    """Transactions taken from the stream to their end, without repeated and empty ones."""
    bytes_received: int = 0
    """Bytes of the stream's messages, with their headers."""
    reconnects: int = 0
    """How often the stream was started again after the connection broke."""
    gaps: int = 0
    """How often changes may have been lost. A gap counts as soon as it is known, even if it is not
    handed over yet."""
    received_lsn: LSN = attrs.field(factory=LSN)
    """The LSN up to which WAL has been taken from the stream."""
    confirmed_lsn: LSN = attrs.field(factory=LSN)
    """The LSN up to which everything is acknowledged: the slot may move there."""
    unacknowledged: int = 0
    """Transactions that have arrived and are not wholly acknowledged."""
    lag_bytes: int = 0
    """Bytes of WAL that the server is known to have written, and that are not acknowledged."""
    lag_seconds: float = 0.0
    """How long before the server sent its latest message the last change that was handed over had
    been committed, by the server's clock; 0 if everything that came is handed over."""
    filtered: int = 0
    """Changes that the source's filter left out."""
    filter_errors: int = 0
    """How many of those were left out because the filter could not be evaluated."""
    connected: bool = False
    """Whether the stream runs now."""
    stream: StreamIdentity | None = None
    """The cluster and timeline that the source was attached to last; None before that."""
    slot_created: bool = False
    """Whether the source has created a slot. What was committed before is not in it."""


class ChangeSource(Protocol[E]):
    """An async iterator of changes in commit order, in constant memory.

    ``ChangeSource`` alone yields events of any kind. ``ChangeSource[Change]`` yields changes alone:
    it was made without the options that ask for :class:`Begin` and :class:`Commit`
    (``boundaries``), :class:`Gap` (``on_gap``) and :class:`Idle` (``start_at``). Type checkers find
    this out from the arguments.

    * ``async with`` attaches it, and ``async for`` reads it. A source has one consumer, which
      may read events, batches and transactions in turn: each goes on where the last has stopped.
    * Cancelling a read loses nothing: the next read goes on where it has stopped.
    * Nothing is acknowledged but by :meth:`ack`, or with ``auto_ack``. Changes that were not
      acknowledged may be handed over again to a new process, but never twice to this one.
    """

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

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
        ...

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> E:
        """Return the next event, waiting for it."""
        ...

    def batches(
        self,
        *,
        max_wait: float | None = None,
        max_rows: int | None = None,
        max_bytes: int | None = None,
    ) -> AsyncIterator[Sequence[E]]:
        """Iterate over batches: lists of the events that came at once, which are never empty.

        A small transaction is in one batch: while more of it keeps coming, its rest is waited
        for, up to 64 events. Events that come more than 50 ms later are in another batch.

        Args:
            max_wait: how many seconds to collect more events after the first of a batch, until
                ``max_rows`` or ``max_bytes`` is reached.
            max_rows: the most rows and other events of a batch; Begin and Commit do not count.
            max_bytes: the most bytes, counted as for :meth:`transactions`; a larger event is alone.

        Raises:
            ConfigError: if one of them is not above 0.
        """
        ...

    @overload
    def transactions(
        self: ChangeSource[Event], max_bytes: int
    ) -> AsyncIterator[TransactionEvent]: ...
    @overload
    def transactions(
        self, max_bytes: int
    ) -> AsyncIterator[TransactionEvent | RawTransactionEvent]: ...

    def transactions(self, max_bytes: int) -> AsyncIterator[Any]:
        """Iterate over whole transactions that have changes.

        Args:
            max_bytes: the most bytes that one transaction may take: its values, as PostgreSQL
                writes them, and 100 bytes for each change.

        Raises:
            TransactionTooLargeError: from the iterator, if a transaction is larger.
        """
        ...

    def ack(self, upto: Acknowledgeable) -> None:
        """Acknowledge everything up to and including ``upto``."""
        ...

    @property
    def position(self) -> Position | None:
        """The position of the last event handed over; None before the first, and in a snapshot."""
        ...

    def stats(self) -> SourceStats:
        """Return the counters and positions of this moment."""
        ...

    async def aclose(self) -> None:
        """Send the last acknowledgement, release the slot and close the connection."""
        ...
