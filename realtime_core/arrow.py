"""Arrow: changes and rows of a snapshot as record batches, for Parquet, DuckDB, pandas and others.

It needs pyarrow, which the extra ``arrow`` brings, and imports it at the first call.

A record batch has the rows of one table, in their order. The columns of the table come first, with
the types that ``docs/howto/arrow.md`` lists, and all of them may be null: a DELETE has only the
columns of the replica identity, and an UPDATE leaves out large values that stay as they were.
Behind them are columns that say what became of the row. Their names have a prefix:

* ``_kind``: ``insert``, ``update``, ``delete``, or ``snapshot`` for a row that was there before;
  ``truncate``, or ``snapshot_begin`` when a snapshot begins: whatever there was of the table is
  gone, and the row itself is null;
* ``_lsn``, ``_index``: the position's, which grow with each change; null for rows of a snapshot;
* ``_commit_time``: when the transaction was committed;
* ``_unchanged``: the names of the columns that are null because PostgreSQL did not send them,
  :data:`UNCHANGED`; null if there are none;
* ``_old``: the replica identity's columns as they were before an UPDATE, if PostgreSQL sent them:
  the old key if it has changed, the whole old row with REPLICA IDENTITY FULL. A table without a
  replica identity does not have this column.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from .changes import (
    CommittedTransaction,
    Delete,
    Event,
    Insert,
    RawRows,
    Relation,
    Transaction,
    Truncate,
    Update,
)
from .records import UNCHANGED, Field, Record
from .snapshot import Snapshot, SnapshotBegin, SnapshotEvent

if TYPE_CHECKING:
    import pyarrow

__all__ = ["ArrowRows", "arrow_schema", "to_arrow"]

_META: Final = ("kind", "lsn", "index", "commit_time", "unchanged", "old")


@attrs.frozen
class ArrowRows:
    """What a batch has of one table, while the table's columns stayed the same."""

    relation: Relation
    """The table."""
    rows: pyarrow.RecordBatch
    """Its rows, in their order."""


def to_arrow(
    events: Iterable[Event | SnapshotEvent],
    *,
    prefix: str = "_",
    as_text: Collection[str] = (),
    on_error: Literal["raise", "null"] = "raise",
) -> list[ArrowRows]:
    """Return the rows of a batch as Arrow's record batches, one for each table.

    A table whose columns have changed within the batch has one for each of its forms. Events that
    are no rows, such as a :class:`Gap` or an :class:`Idle`, are left out.

    Args:
        events: what ``batches()`` yields, or the changes of a :class:`CommittedTransaction`.
        prefix: begins the names of the columns that tell what became of a row.
        as_text: columns that get PostgreSQL's text, as ``"schema.table.column"``: those with values
            that their Arrow type cannot hold.
        on_error: what is done with such a value in another column (``NaN`` in a numeric,
            ``infinity`` or a year before 1 in a date or timestamp, ``24:00:00`` in a time, an array
            of several dimensions): ``"raise"``, or ``"null"`` to put a null in its place.

    Raises:
        ImportError: if pyarrow is not installed.
        ValueConversionError: if a value does not fit, with ``on_error="raise"``; or if it was sent
            in binary.
        ValueError: if a table has a column of one of the names that begin with the prefix.
        TypeError: if an event has rows that cannot be reached: a whole transaction, the rows of
            a :class:`RawPgoutputSource`, or those that ``typed()`` has made.
    """
    tables: dict[Any, _Rows] = {}
    # Relations are compared by identity, and a reconnect brings new ones for the same tables. Each
    # is kept, as another one may have the identity of one that is gone.
    known: dict[int, tuple[Relation, _Rows]] = {}

    def rows_of(relation: Relation) -> _Rows:
        found = known.get(id(relation))
        if found is None:
            key = (relation.schema, relation.table, relation.columns)
            found = relation, tables.setdefault(key, _Rows(relation))
            known[id(relation)] = found
        return found[1]

    event: Any
    for event in events:
        match event:
            case Snapshot():
                rows_of(event.relation).add("snapshot", _record(event.record).fields)
            case Insert() | Update():
                kind = "insert" if type(event) is Insert else "update"
                old = event.old_record if isinstance(event, Update) else None
                rows = rows_of(event.relation)
                rows.add(kind, _record(event.record).fields, old, event.transaction, event.index)
            case Delete():
                rows = rows_of(event.relation)
                fields = _widened(_record(event.old_record), rows.names)
                rows.add("delete", fields, None, event.transaction, event.index)
            case Truncate():
                for relation in event.relations:
                    rows = rows_of(relation)
                    rows.add("truncate", rows.empty, None, event.transaction, event.index)
            case SnapshotBegin():
                for relation in event.tables:
                    rows = rows_of(relation)
                    rows.add("snapshot_begin", rows.empty)
            case CommittedTransaction():
                raise TypeError("to_arrow takes a transaction's changes: to_arrow(it.changes)")
            case RawRows():
                raise TypeError("to_arrow takes decoded changes, as PgoutputSource yields them")
    return [
        ArrowRows(rows.relation, rows.record_batch(prefix, as_text, on_error))
        for rows in tables.values()
    ]


def _record(row: object) -> Record:
    if isinstance(row, Record):
        return row
    raise TypeError(
        f"to_arrow takes changes with their records, not rows of typed() such as a "
        f"{type(row).__name__}: read the source itself"
    )


def arrow_schema(
    relation: Relation, *, prefix: str = "_", as_text: Collection[str] = ()
) -> pyarrow.Schema:
    """Return the schema of the record batches that :func:`to_arrow` makes of a table's rows.

    Args:
        relation: the table.
        prefix: as for :func:`to_arrow`.
        as_text: as for :func:`to_arrow`.

    Raises:
        ImportError: if pyarrow is not installed.
        ValueError: if the table has a column of one of the names that begin with the prefix.
    """
    return _Rows(relation).record_batch(prefix, as_text, "raise").schema


class _Rows:
    """Rows of one table, field by field."""

    def __init__(self, relation: Relation) -> None:
        self.relation = relation
        self.names = relation.shape.names
        self.empty: tuple[Field, ...] = (None,) * len(self.names)
        self._fields: list[Sequence[Field]] = []
        self._kinds: list[str] = []
        self._old: list[Record | None] = []
        self._transactions: list[Transaction | None] = []
        self._indexes: list[int | None] = []

    def add(
        self,
        kind: str,
        fields: Sequence[Field],
        old: Record | None = None,
        transaction: Transaction | None = None,
        index: int | None = None,
    ) -> None:
        self._kinds.append(kind)
        self._fields.append(fields)
        self._old.append(old)
        self._transactions.append(transaction)
        self._indexes.append(index)

    def record_batch(
        self, prefix: str, as_text: Collection[str], on_error: str
    ) -> pyarrow.RecordBatch:
        pa, columns = _pyarrow()
        taken = {prefix + name for name in _META} & set(self.names)
        if taken:
            raise ValueError(
                f"table {self.relation} has a column {min(taken)!r} of its own; give another prefix"
            )

        def typed(columns_of: Sequence[Any], fields: Sequence[Sequence[Field]]) -> dict[str, Any]:
            by_column = zip(*fields, strict=True) if fields else ((),) * len(columns_of)
            arrays = {}
            for column, values in zip(columns_of, by_column, strict=True):
                text = f"{self.relation}.{column.name}" in as_text
                kind = pa.string() if text else columns.arrow_type(column)
                arrays[column.name] = columns.to_array(
                    column, kind, values, on_error, table=str(self.relation)
                )
            return arrays

        arrays = typed(self.relation.columns, self._fields)
        transactions = self._transactions
        lsns = [None if each is None else int(each.commit_lsn) for each in transactions]
        times = [None if each is None else each.commit_time for each in transactions]
        arrays[f"{prefix}kind"] = pa.array(self._kinds, pa.string())
        arrays[f"{prefix}lsn"] = pa.array(lsns, pa.uint64())
        arrays[f"{prefix}index"] = pa.array(self._indexes, pa.uint32())
        arrays[f"{prefix}commit_time"] = pa.array(times, pa.timestamp("us", "UTC"))
        unchanged = [self._unchanged(fields) for fields in self._fields]
        arrays[f"{prefix}unchanged"] = pa.array(unchanged, pa.list_(pa.string()))
        keys = self.relation.key_shape
        if keys.columns:
            nothing = (None,) * len(keys.columns)
            widened = [nothing if old is None else _widened(old, keys.names) for old in self._old]
            parts = typed(keys.columns, widened)
            mask = pa.array([old is None for old in self._old], pa.bool_())
            fields = [pa.field(name, array.type) for name, array in parts.items()]
            arrays[f"{prefix}old"] = pa.StructArray.from_arrays(
                list(parts.values()), fields=fields, mask=mask
            )
        batch: pyarrow.RecordBatch = pa.record_batch(arrays)
        return batch

    def _unchanged(self, fields: Sequence[Field]) -> list[str] | None:
        if UNCHANGED not in fields:
            return None
        pairs = zip(self.names, fields, strict=True)
        return [name for name, field in pairs if field is UNCHANGED]


def _widened(record: Record, names: Sequence[str]) -> Sequence[Field]:
    """Return a record's fields in the places of more columns than it may have."""
    if record.shape.names == names:
        return record.fields
    places = record.shape.index
    return [record.fields[places[name]] if name in places else None for name in names]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
    except ImportError as exc:
        message = "to_arrow needs the package pyarrow: pip install pyarrow"
        raise ImportError(message, name="pyarrow") from exc
    from . import _arrow_columns

    return pyarrow, _arrow_columns
