"""What a consumer of a source receives: changes, and the events around them.

A ``match`` statement tells the classes apart. An attribute that a kind of change always has is
never None. "Logical Replication Message Formats" in the PostgreSQL documentation says where each of
them comes from.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import TYPE_CHECKING, Generic, TypeAlias

from ._data_classes import define, frozen, frozen_by_hand
from .lsn import LSN
from .positions import Position, StreamIdentity
from .records import Column, Record, Shape

__all__ = [
    "Begin",
    "Change",
    "Commit",
    "CommittedTransaction",
    "Delete",
    "Event",
    "Gap",
    "GapReason",
    "Idle",
    "Insert",
    "LogicalMessage",
    "RawChange",
    "RawEvent",
    "RawRows",
    "Relation",
    "ReplicaIdentity",
    "RowChange",
    "Transaction",
    "Truncate",
    "Update",
]


if TYPE_CHECKING:
    from typing_extensions import TypeVar

    C = TypeVar("C", default="Change", covariant=True)
    """The kinds of changes in a transaction."""
    R = TypeVar("R", default=Record, covariant=True)
    """The kinds of rows in a change: Record, or the classes that ``source.typed`` was given."""
else:
    # Python 3.11 knows no defaults of type variables, and needs none to run.
    from typing import TypeVar

    C = TypeVar("C", covariant=True)
    R = TypeVar("R", covariant=True)


class ReplicaIdentity(enum.Enum):
    """Which columns of the old row PostgreSQL sends with an UPDATE or a DELETE.

    See ``ALTER TABLE … REPLICA IDENTITY`` in the PostgreSQL documentation.
    """

    DEFAULT = "d"
    """The columns of the primary key."""
    NOTHING = "n"
    """No columns."""
    FULL = "f"
    """All columns."""
    INDEX = "i"
    """The columns of a unique index that was chosen."""


# Relations are compared by identity. A new Relation message makes a new object, and whatever was
# computed from the old one is discarded with it.
@frozen_by_hand
class Relation:
    """A table, as it was when a row was written to it."""

    oid: int
    """The table's OID; 0 (InvalidOid) from wal2json, which does not write it."""
    schema: str
    """The name of the table's schema; empty from wal2json without ``include-schemas``."""
    table: str
    """The table's name."""
    replica_identity: ReplicaIdentity
    """The table's replica identity. wal2json does not write it, so there it is inferred."""
    columns: tuple[Column, ...]
    """The published columns, in their order."""
    shape: Shape
    """The shape of whole rows."""
    key_shape: Shape
    """The shape of old rows that have only the columns of the replica identity."""
    key_places: tuple[int, ...]
    """The places of the replica identity's columns in a whole row."""

    def __init__(
        self,
        oid: int,
        schema: str,
        table: str,
        replica_identity: ReplicaIdentity,
        columns: tuple[Column, ...],
    ) -> None:
        put = object.__setattr__
        put(self, "oid", oid)
        put(self, "schema", schema)
        put(self, "table", table)
        put(self, "replica_identity", replica_identity)
        put(self, "columns", columns)
        put(self, "shape", Shape(columns, str(self)))
        key = tuple(column for column in columns if column.is_key)
        put(self, "key_shape", Shape(key, str(self)))
        places = tuple(place for place, column in enumerate(columns) if column.is_key)
        put(self, "key_places", places)

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


@frozen
class Transaction:
    """The transaction that a change belongs to. It has been committed."""

    xid: int
    """The ID of the top-level transaction, 32 bits; 0 (InvalidTransactionId) from wal2json without
    ``include-xids``."""
    commit_lsn: LSN
    """The LSN of the commit record; 0 (InvalidXLogRecPtr) from wal2json in format 1 or without
    ``include-lsn``."""
    commit_time: datetime | None
    """The time of the commit in UTC, in microseconds; None from wal2json without
    ``include-timestamp``."""
    origin: str | None = None
    """The name of the replication origin if the transaction was replicated from elsewhere; from
    wal2json the origin's number."""
    stream: StreamIdentity | None = None
    """The stream that the transaction was read from; None if it is not known."""
    gid: str | None = None
    """The global identifier of a prepared transaction (PREPARE TRANSACTION)."""


# These classes are not frozen because an object is made for every row, and to make a frozen one
# takes 2.5 times as long (348 ns instead of 137 ns for three attributes).
@define
class _Placed:
    transaction: Transaction
    """The transaction that made the change."""
    index: int
    """The place of the change among those of the transaction, from 0."""

    @property
    def position(self) -> Position:
        """The position of the change in the stream, to be passed to :meth:`ChangeSource.ack`."""
        return Position(self.transaction.commit_lsn, self.index, self.transaction.stream)


@define
class _OfRow(_Placed):
    relation: Relation

    def as_json(self) -> bytes:
        """Return the change as the JSON that the server sends to clients of ``postgres_changes``.

        See "postgres_changes" in the documentation for its members, and "Values" for the values:
        each is what ``to_jsonb`` makes of it, and an UNCHANGED one is left out.

        Raises:
            ValueConversionError: if a field was sent in binary.
            AttributeError: if the row is an object of a class.
        """
        # Reading changes alone needs no orjson.
        from .payloads import change_as_json

        return change_as_json(self, self.relation)  # type: ignore[arg-type]


@define
class Insert(_OfRow, Generic[R]):
    """A row that was inserted."""

    record: R
    """The new row."""


@define
class Update(_OfRow, Generic[R]):
    """A row that was updated."""

    record: R
    """The new row. A TOASTed value that did not change is UNCHANGED, unless ``old_record`` has
    it."""
    old_record: R | None
    """The whole old row with REPLICA IDENTITY FULL; otherwise the old key if the key has changed,
    or None."""


@define
class Delete(_OfRow, Generic[R]):
    """A row that was deleted."""

    old_record: R
    """The whole old row with REPLICA IDENTITY FULL; otherwise the columns of the replica
    identity."""


@define
class Truncate(_Placed):
    """The tables that one TRUNCATE emptied."""

    relations: tuple[Relation, ...]
    """The tables."""
    cascade: bool
    """Whether the statement had CASCADE."""
    restart_identity: bool
    """Whether the statement had RESTART IDENTITY."""

    def as_json(self, relation: Relation) -> bytes:
        """Return what the server sends of it for one of its tables: see :meth:`Insert.as_json`.

        Args:
            relation: the table.
        """
        from .payloads import change_as_json

        return change_as_json(self, relation)


@define
class LogicalMessage:
    """A message that ``pg_logical_emit_message`` wrote."""

    lsn: LSN
    """The LSN behind the message's own record; 0 wherever ``commit_lsn`` would be 0."""
    prefix: str
    """The prefix, which says whom the message is for."""
    content: bytes
    """The content."""
    transaction: Transaction | None
    """The transaction of the message; None for a message that is not transactional. Such a message
    arrives when it was written, even if the transaction that wrote it is rolled back."""
    index: int
    """The place of the message among the changes of its transaction, from 0."""
    stream: StreamIdentity | None = None
    """The stream that the message was read from; None if it is not known."""

    @property
    def position(self) -> Position:
        """The position of the message in the stream.

        That of a message that is not transactional is just before the end of its record, because a
        commit record may begin at the end.
        """
        if self.transaction is None:
            return Position(LSN(max(self.lsn - 1, 0)), 0, self.stream)
        return Position(self.transaction.commit_lsn, self.index, self.stream)


@define
class RawRows:
    """Rows of one table that follow each other in a transaction, as the bytes that came.

    A :class:`RawPgoutputSource` yields them instead of :class:`Insert`, :class:`Update` and
    :class:`Delete`.
    """

    transaction: Transaction
    """The transaction that wrote the rows."""
    index: int
    """The place of the first row among the changes of the transaction, from 0. The others have the
    places behind it."""
    relation: Relation
    """The table. It is the same object until PostgreSQL describes the table anew."""
    messages: tuple[bytes, ...]
    """The message of each row, as pgoutput wrote it: Insert, Update or Delete. The message of a
    streamed transaction's row comes without its xid, as if it had not been streamed."""

    @property
    def position(self) -> Position:
        """The position of the last row. Acknowledging it acknowledges all rows."""
        transaction = self.transaction
        last = self.index + len(self.messages) - 1
        return Position(transaction.commit_lsn, last, transaction.stream)


@frozen
class Begin:
    """The changes of a transaction follow. This is yielded only with ``boundaries=True``."""

    transaction: Transaction


@frozen
class Commit:
    """The changes of a transaction are complete. This is yielded only with ``boundaries=True``."""

    transaction: Transaction
    end_lsn: LSN
    """The LSN behind the commit record, which an acknowledgement reports to PostgreSQL; 0 from
    wal2json without ``include-lsn``."""
    changes: int
    """How many changes the transaction has in the stream, including those that a filter leaves
    out."""

    @property
    def position(self) -> Position:
        """The position of the last change. Acknowledging it acknowledges the whole transaction."""
        transaction = self.transaction
        return Position(transaction.commit_lsn, max(self.changes - 1, 0), transaction.stream)


class GapReason(enum.Enum):
    """Why changes may have been lost."""

    TEMPORARY_SLOT = "temporary_slot"
    """A temporary slot ended with its connection."""
    SLOT_MISSING = "slot_missing"
    """The slot was dropped by somebody else, or was not synchronized to the standby that was
    promoted."""
    SLOT_MOVED = "slot_moved"
    """The slot is beyond what was acknowledged here: somebody advanced it, or dropped and made it
    again."""
    SLOT_INVALIDATED = "slot_invalidated"
    """PostgreSQL has invalidated the slot. ``pg_replication_slots.invalidation_reason`` says
    why."""
    WAL_REMOVED = "wal_removed"
    """WAL that the slot needs was removed because of ``max_slot_wal_keep_size``."""
    SLOT_OLDER_THAN_PUBLICATION = "slot_older_than_publication"
    """The slot has yet to read WAL from before its publication was created, which cannot be
    decoded."""
    NEW_TIMELINE = "new_timeline"
    """A standby was promoted that had not received all changes that were yielded here."""
    OTHER_CLUSTER = "other_cluster"
    """There is another database cluster at the same address."""
    START_BEHIND_SLOT = "start_behind_slot"
    """The slot was acknowledged beyond the position ``start_at``."""
    LAG = "lag"
    """More WAL than ``max_lag_bytes`` was retained, so the slot was dropped and recreated."""
    LOG_BEHIND = "log_behind"
    """A server of a cluster found changes gone from the log that its servers share, because it had
    not read them in time. No source yields this."""
    OTHER_PUBLICATIONS = "other_publications"
    """Of several servers that share a log, the next one to read the database reads other
    publications than the one before. No source yields this."""


@frozen
class Gap:
    """Changes between two positions were lost. This is yielded only with ``on_gap="continue"``."""

    after: Position | None
    """The last position that was yielded; None if there was none."""
    until: Position
    """The position from which on the stream is complete again. Some of the changes between the two
    positions may still be yielded."""
    reason: GapReason
    """Why the changes were lost."""


@frozen
class Idle:
    """There are no changes up to a position. This is yielded to consumers with their own
    checkpoint.

    To store and acknowledge the position lets the slot advance while only other tables are written.
    """

    position: Position
    """The position."""


@frozen
class CommittedTransaction(Generic[C]):
    """A whole transaction, as :meth:`ChangeSource.transactions` yields it.

    ``CommittedTransaction`` alone has changes of any kind, and ``CommittedTransaction[RawChange]``,
    from a :class:`RawPgoutputSource`, has :class:`RawRows` instead of the rows' changes.
    """

    transaction: Transaction
    """The transaction."""
    changes: tuple[C, ...]
    """The changes in their order. Of a transaction that ``start_at`` is in, those behind it."""
    position: Position
    """The position of the last change. To acknowledge it acknowledges all of them."""


RowChange: TypeAlias = Insert | Update | Delete
Change: TypeAlias = Insert | Update | Delete | Truncate | LogicalMessage
Event: TypeAlias = (
    Insert | Update | Delete | Truncate | LogicalMessage | Begin | Commit | Gap | Idle
)
RawChange: TypeAlias = RawRows | Truncate | LogicalMessage
"""The changes of a :class:`RawPgoutputSource`."""
RawEvent: TypeAlias = RawRows | Truncate | LogicalMessage | Begin | Commit | Gap | Idle
"""The events of a :class:`RawPgoutputSource`."""
