"""The rows that filters are evaluated for. Only this module reads a record's fields for them.

NULL is None. The value of a column that was not sent, or of an unchanged TOASTed column, is
:data:`~realtime_core.records.UNCHANGED`: the column has a value, but it is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..changes import Delete, Insert, ReplicaIdentity, RowChange, Update
from ..records import UNCHANGED, Field, Record
from ..types.base import UnreadableError
from .nodes import Side

__all__ = ["FilterRow", "ValueSource", "row_before", "row_of"]


class ValueSource:
    """How a value that filters compare is read from a row: from which column, by which function.

    All filters on a relation that read the same value share one source. A row keeps the values that
    were read already by their sources.

    Attributes:
        column: the column's name.
        side: which version of the row is read.
        convert: the function that converts the column's text, or the value of ``base``; None if it
            is taken as it is. The function may return None, for NULL.
        base: the source whose value is converted; None if it is the column's text.
        of_row: for a source of ``old.`` or ``new.``, the same source of the row itself.
    """

    __slots__ = ("__weakref__", "base", "column", "convert", "of_row", "side")

    def __init__(
        self,
        column: str,
        side: Side,
        convert: Callable[[Any], Any] | None,
        base: ValueSource | None = None,
        of_row: ValueSource | None = None,
    ) -> None:
        self.column = column
        self.side = side
        self.convert = convert
        self.base = base
        self.of_row = of_row


class FilterRow:
    """A row that filters are evaluated for, and the values that were read from it already.

    Args:
        record: the row; None if nothing is known of it.
        old: the row from which a filter takes ``old.column``; None if there is none, or nothing is
            known of it.
        new: the row from which it takes ``new.column``; None if there is none.
    """

    __slots__ = ("_new", "_old", "_record", "_unreadable", "_values")

    def __init__(
        self, record: Record | None, old: Record | None = None, new: Record | None = None
    ) -> None:
        self._record = record
        self._old = old
        self._new = new
        self._values: dict[ValueSource, Any] = {}
        # The errors of sources whose values cannot be read. The next filter asks for the same
        # value, and an error takes as long as a value.
        self._unreadable: dict[ValueSource, Exception] | None = None

    def value(self, source: ValueSource) -> Any:
        """Return the value of a source: a key, None for NULL, or UNCHANGED if it is not known.

        Raises:
            UnreadableError: if the field was sent in binary.
            ValueError: if the field cannot be read as its column's type.
        """
        values = self._values
        if source in values:
            return values[source]
        if self._unreadable is not None and source in self._unreadable:
            # Without its traceback, which would grow with each filter.
            raise self._unreadable[source].with_traceback(None)
        if source.of_row is not None and self._side(source.side) is self._record:
            # The row of an INSERT is the new row, too. To read a value twice might take long.
            return self.value(source.of_row)
        base = source.base
        try:
            value = self._field(source) if base is None else self.value(base)
            if source.convert is not None and value is not None and value is not UNCHANGED:
                value = source.convert(value)
        except Exception as exc:
            if self._unreadable is None:
                self._unreadable = {}
            self._unreadable[source] = exc
            raise
        values[source] = value
        return value

    def _side(self, side: Side) -> Record | None:
        return self._record if side is Side.ROW else self._old if side is Side.OLD else self._new

    def _field(self, source: ValueSource) -> Field:
        record = self._side(source.side)
        if record is None:
            return UNCHANGED
        try:
            field = record.raw(source.column)
        except KeyError:
            return UNCHANGED
        if isinstance(field, bytes):
            raise UnreadableError("the field was sent in binary; start the stream without binary")
        return field


def row_of(change: RowChange) -> FilterRow:
    """Return the row that decides on a change: the new row, or for a DELETE the old one.

    Of the old row, only those columns may be known that the replica identity includes.
    """
    match change:
        case Insert(record=record):
            return FilterRow(record, None, record)
        case Update(record=record):
            return FilterRow(record, _old_record(change), record)
        case Delete(old_record=record):
            return FilterRow(record, record, None)


def row_before(change: Update) -> FilterRow:
    """Return what is known of the row before an UPDATE."""
    return FilterRow(_old_record(change))


def _old_record(change: Update) -> Record | None:
    if change.old_record is not None:
        return change.old_record
    relation = change.relation
    if relation.replica_identity in (ReplicaIdentity.DEFAULT, ReplicaIdentity.INDEX):
        # PostgreSQL sends no old key if the key has not changed.
        key = tuple(change.record.raw(column.name) for column in relation.key_shape.columns)
        return Record(relation.key_shape, key)
    return None
