"""What a source with the option ``snapshot`` hands over before the changes.

A snapshot is one :class:`SnapshotBegin`, a :class:`Snapshot` for each row, and one
:class:`SnapshotComplete`. The rows are those that a transaction would see which began at the
position of the SnapshotComplete. The changes behind it are all that were committed later.
"""

from __future__ import annotations

from typing import Generic, TypeAlias

from .._data_classes import define, frozen
from ..changes import GapReason, R, Relation
from ..positions import Position

__all__ = [
    "BackfillStep",
    "Snapshot",
    "SnapshotBegin",
    "SnapshotComplete",
    "SnapshotEvent",
    "SnapshotProgress",
]


@frozen
class SnapshotProgress:
    """How far a snapshot has come."""

    table: Relation
    """The table whose rows were copied last."""
    table_rows: int
    """How many of its rows have been copied, including those that a filter leaves out."""
    table_estimate: int | None
    """How many rows PostgreSQL takes the table to have (``pg_class.reltuples``), without the
    publication's row filter; None if it was never analyzed."""
    rows: int
    """How many rows of all tables have been copied."""
    bytes: int
    """How many bytes they had, in the text format of COPY."""
    estimate: int | None
    """How many rows PostgreSQL takes all tables to have; None if it does not know."""
    tables_done: int
    """How many tables are copied to their end."""
    tables: int
    """How many tables there are."""


# An object is made for every row, and to make a frozen one takes 2.5 times as long.
@define
class Snapshot(Generic[R]):
    """A row that a table had at the place of the snapshot."""

    relation: Relation
    """The table."""
    record: R
    """The row."""
    progress: SnapshotProgress
    """How far the snapshot has come with this row and those that came with it."""


@frozen
class SnapshotBegin:
    """The rows of a snapshot follow: all rows of these tables.

    A copy has to be emptied of rows that it already has of them. A process that ended within a
    snapshot has left some, and so has a snapshot that was broken off, or a gap.

    When a snapshot is broken off there are two: one at once, and one when the next snapshot was
    taken, which may have other tables. PostgreSQL takes it when all transactions have ended that
    were writing to any database of the server, so one that has the rows has to be rolled back at
    the first.

    Where changes may have been lost behind a part of a transaction, there is one at once, too,
    without tables: that part has to be rolled back, as the rest of it will not come.
    """

    tables: tuple[Relation, ...]
    """The tables that will be copied."""
    reason: GapReason | None
    """Why changes may have been lost, if the snapshot is taken for that; None for the first one,
    and for one that is taken again because its connection was lost."""


@frozen
class SnapshotComplete:
    """The rows of a snapshot were handed over; the changes committed since come behind it.

    If the slot is the only checkpoint, the changes wait until this is acknowledged: only then the
    permanent slot is created.
    """

    position: Position
    """The position of the snapshot, which a consumer with its own checkpoint stores."""
    rows: int
    """How many rows were copied, including those that a filter leaves out."""


@frozen
class BackfillStep:
    """All rows of a backfill up to a key were handed over, as they are at this place of the stream.

    To go on from here after a crash, a consumer stores ``after``, in the same transaction as the
    rows, and passes it to :meth:`PgoutputSource.backfill`.
    """

    relation: Relation
    """The table."""
    after: tuple[str, ...]
    """The texts of the last row's primary key; what was passed if there was no row."""
    is_last: bool
    """Whether the backfill is complete."""
    progress: SnapshotProgress
    """How far the backfill has come since it began, or went on."""


SnapshotEvent: TypeAlias = Snapshot | SnapshotBegin | SnapshotComplete | BackfillStep
"""The events of a source with the option ``snapshot``, besides :data:`Event`."""
