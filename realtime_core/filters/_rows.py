"""Rows as filters see them: the one place that takes a field from a record.

NULL is None. What a message does not tell, a column that was not sent or unchanged TOAST,
is :data:`~realtime_core.records.UNCHANGED`: it has a value, but nobody here knows it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..changes import Delete, Insert, ReplicaIdentity, RowChange, Update
from ..records import UNCHANGED, Field, Record
from ..types.base import UnreadableError
from .nodes import Side

__all__ = ["Row", "Source", "earlier", "row_of"]


class Source:
    """Where a value comes from: a column, on its way from text to key.

    One serves all filters of a relation that read the same; a row remembers by it what was
    converted already.
    """

    __slots__ = ("__weakref__", "base", "column", "convert", "of_row", "side")

    def __init__(
        self,
        column: str,
        side: Side,
        convert: Callable[[Any], Any] | None,
        base: Source | None = None,
        of_row: Source | None = None,
    ) -> None:
        self.column = column
        self.side = side
        self.convert = convert
        """Of the text, or of the base's value; None takes it as it is. May return None, NULL."""
        self.base = base
        """What it is computed from, None for the column's text."""
        self.of_row = of_row
        """The same of the row that is judged, where it is of ``old.`` or ``new.``."""


class Row:
    """One version of a row, and what was already read of it.

    Args:
        record: the version that a filter is about; None if nothing is known of it.
        old: what ``old.`` means.
        new: what ``new.`` means.
    """

    __slots__ = ("_new", "_old", "_record", "_unreadable", "_values")

    def __init__(
        self, record: Record | None, old: Record | None = None, new: Record | None = None
    ) -> None:
        self._record = record
        self._old = old
        self._new = new
        self._values: dict[Source, Any] = {}
        # Why a source has no value. To find that out takes as long as to make one, and the next
        # filter asks again.
        self._unreadable: dict[Source, Exception] | None = None

    def value(self, source: Source) -> Any:
        """Return a key, or None for NULL, or UNCHANGED for what is not known.

        Raises:
            UnreadableError: if the field was sent in binary.
            ValueError: if the field is no value of its type.
        """
        values = self._values
        if source in values:
            return values[source]
        if self._unreadable is not None and source in self._unreadable:
            # Without what it went through the first time, which would grow with each filter.
            raise self._unreadable[source].with_traceback(None)
        if source.of_row is not None and self._side(source.side) is self._record:
            # An INSERT's row is the new one, too, and what is made of it may take long.
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

    def _field(self, source: Source) -> Field:
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


def row_of(change: RowChange) -> Row:
    """Return what decides on a change: the new row, of a DELETE what is known of the old one."""
    match change:
        case Insert(record=record):
            return Row(record, None, record)
        case Update(record=record):
            return Row(record, _old_record(change), record)
        case Delete(old_record=record):
            return Row(record, record, None)


def earlier(change: Update) -> Row:
    """Return what is known of the row before an UPDATE."""
    return Row(_old_record(change))


def _old_record(change: Update) -> Record | None:
    if change.old_record is not None:
        return change.old_record
    relation = change.relation
    if relation.replica_identity in (ReplicaIdentity.DEFAULT, ReplicaIdentity.INDEX):
        # No old key is sent because the key is what it was.
        key = tuple(change.record.raw(column.name) for column in relation.key_shape.columns)
        return Record(relation.key_shape, key)
    return None
