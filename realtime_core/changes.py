"""What a consumer receives: changes, and what frames them.

A ``match`` statement tells them apart. Fields that a kind of change always has are
never None. See "Logical Replication Message Formats" in the PostgreSQL documentation
for where each fact comes from.
"""

from __future__ import annotations

import enum
from datetime import datetime
from typing import TypeAlias

import attrs

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
    "Relation",
    "ReplicaIdentity",
    "RowChange",
    "Transaction",
    "Truncate",
    "Update",
]


class ReplicaIdentity(enum.Enum):
    """Which old values UPDATE and DELETE carry; see ``ALTER TABLE … REPLICA IDENTITY``."""

    DEFAULT = "d"
    """The primary key's."""
    NOTHING = "n"
    """None."""
    FULL = "f"
    """All."""
    INDEX = "i"
    """A chosen unique index's."""


# Compared by identity: a new Relation message makes a new relation, and everything that
# was computed from the old one goes with it.
@attrs.frozen(eq=False)
class Relation:
    """A table, as it was when its row was written."""

    oid: int
    """0 (InvalidOid) where the format does not tell: wal2json."""
    schema: str
    """Empty where the format does not tell: wal2json without ``include-schemas``."""
    table: str
    replica_identity: ReplicaIdentity
    """Inferred where the format does not tell: wal2json."""
    columns: tuple[Column, ...]
    shape: Shape = attrs.field(init=False, repr=False)
    """Of full rows."""
    key_shape: Shape = attrs.field(init=False, repr=False)
    """Of old rows that carry the replica identity's columns only."""
    key_places: tuple[int, ...] = attrs.field(init=False, repr=False)
    """Where the identity's columns stand in a full row."""

    @shape.default
    def _shape(self) -> Shape:
        return Shape(self.columns)

    @key_shape.default
    def _key_shape(self) -> Shape:
        return Shape(tuple(column for column in self.columns if column.is_key))

    @key_places.default
    def _key_places(self) -> tuple[int, ...]:
        return tuple(place for place, column in enumerate(self.columns) if column.is_key)

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}"


@attrs.frozen
class Transaction:
    """The transaction that a change belongs to. It is committed already."""

    xid: int
    """Top-level transaction ID, 32 bits; 0 (InvalidTransactionId) where the format does not
    tell: wal2json without ``include-xids``."""
    commit_lsn: LSN
    """Of its commit record; 0 (InvalidXLogRecPtr) where the format does not tell: wal2json
    without ``include-lsn``, and its format 1."""
    commit_time: datetime | None
    """In UTC, with microseconds; None only from wal2json without ``include-timestamp``."""
    origin: str | None = None
    """Name of the replication origin, for one that was itself replicated; from wal2json its
    number."""
    stream: StreamIdentity | None = None
    gid: str | None = None
    """Global identifier, of a prepared transaction (PREPARE TRANSACTION)."""


# attrs.define rather than frozen: one of these is made for every row, and a frozen class
# takes 2.5 times as long to construct (348 ns against 137 ns for three fields).
@attrs.define
class _Placed:
    transaction: Transaction
    index: int
    """Place within the transaction, from 0."""

    @property
    def position(self) -> Position:
        """Where the change stands; what :meth:`ChangeSource.ack` takes."""
        return Position(self.transaction.commit_lsn, self.index, self.transaction.stream)


@attrs.define
class Insert(_Placed):
    """A new row."""

    relation: Relation
    record: Record


@attrs.define
class Update(_Placed):
    """A changed row."""

    relation: Relation
    record: Record
    """The new row. Unchanged TOAST is UNCHANGED, except where ``old_record`` has its value."""
    old_record: Record | None
    """The old row under FULL; the old key where the key changed; else None."""


@attrs.define
class Delete(_Placed):
    """A removed row."""

    relation: Relation
    old_record: Record
    """The old row under FULL, else the replica identity's columns."""


@attrs.define
class Truncate(_Placed):
    """Tables emptied by one TRUNCATE."""

    relations: tuple[Relation, ...]
    cascade: bool
    restart_identity: bool


@attrs.define
class LogicalMessage:
    """What ``pg_logical_emit_message`` wrote."""

    lsn: LSN
    """The end of the message's own record; 0 where the format does not tell, as
    ``commit_lsn``."""
    prefix: str
    content: bytes
    transaction: Transaction | None
    """None for a non-transactional message: it arrives when it was written, even if the
    transaction that wrote it is rolled back."""
    index: int
    stream: StreamIdentity | None = None

    @property
    def position(self) -> Position:
        """Where the message stands: in its transaction, else just before the end of its record,
        since a commit record may begin right there."""
        if self.transaction is None:
            return Position(LSN(max(self.lsn - 1, 0)), 0, self.stream)
        return Position(self.transaction.commit_lsn, self.index, self.stream)


@attrs.frozen
class Begin:
    """A transaction's changes follow. Yielded with ``boundaries=True`` only."""

    transaction: Transaction


@attrs.frozen
class Commit:
    """A transaction's changes are complete. Yielded with ``boundaries=True`` only."""

    transaction: Transaction
    end_lsn: LSN
    """Where the WAL goes on after the commit record: what an acknowledgement reports. 0 only
    from wal2json without ``include-lsn``."""
    changes: int
    """How many changes the transaction had in the stream, before any local filter."""

    @property
    def position(self) -> Position:
        """The position of the transaction's last change; acknowledges all of it."""
        transaction = self.transaction
        return Position(transaction.commit_lsn, max(self.changes - 1, 0), transaction.stream)


class GapReason(enum.Enum):
    """Why changes may be missing."""

    TEMPORARY_SLOT = "temporary_slot"
    """A temporary slot ended with its connection."""
    SLOT_MISSING = "slot_missing"
    """The slot was dropped by somebody else, or never came along to a promoted standby."""
    SLOT_MOVED = "slot_moved"
    """The slot stands beyond what was acknowledged here: somebody advanced it, or made it anew."""
    SLOT_INVALIDATED = "slot_invalidated"
    """PostgreSQL has given the slot up; ``pg_replication_slots.invalidation_reason`` says why."""
    WAL_REMOVED = "wal_removed"
    """WAL that the slot needs is gone: ``max_slot_wal_keep_size``."""
    SLOT_OLDER_THAN_PUBLICATION = "slot_older_than_publication"
    """The slot has to pass WAL from before its publication was made, and cannot."""
    NEW_TIMELINE = "new_timeline"
    """A standby was promoted that had not received all that was handed over."""
    OTHER_CLUSTER = "other_cluster"
    """Another cluster answers at the same address."""
    START_BEHIND_SLOT = "start_behind_slot"
    """The slot was acknowledged beyond ``start_at``."""
    LAG = "lag"
    """More than ``max_lag_bytes`` of WAL had piled up, and the slot was recreated."""


@attrs.frozen
class Gap:
    """Changes between two positions were lost. Yielded with ``on_gap="continue"``."""

    after: Position | None
    """The last position handed over; None when there was none."""
    until: Position
    """Where the stream goes on: everything committed later arrives. Of what was committed
    between the two some may arrive, too."""
    reason: GapReason


@attrs.frozen
class Idle:
    """Nothing to hand over up to here. Yielded to consumers that keep their own checkpoint.

    Storing and acknowledging its position lets the slot move while only other tables are written.
    """

    position: Position


@attrs.frozen
class CommittedTransaction:
    """A whole transaction, as :meth:`ChangeSource.transactions` yields it."""

    transaction: Transaction
    changes: tuple[Insert | Update | Delete | Truncate | LogicalMessage, ...]
    """In the order they were made; after ``start_at``, those beyond it."""
    position: Position
    """Of the last change; acknowledges all of them."""


RowChange: TypeAlias = Insert | Update | Delete
Change: TypeAlias = Insert | Update | Delete | Truncate | LogicalMessage
Event: TypeAlias = (
    Insert | Update | Delete | Truncate | LogicalMessage | Begin | Commit | Gap | Idle
)
