"""Typed payloads: the member ``data`` of the server's event ``postgres_changes``.

A :class:`Projection` is made once for a relation and a selection of columns. It writes a row's
fields into bytes without making a dict of them.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Final, TypeAlias

import orjson

from ..changes import (
    Change,
    Delete,
    Insert,
    Relation,
    ReplicaIdentity,
    Transaction,
    Truncate,
    Update,
)
from ..errors import ValueConversionError
from ..records import UNCHANGED, Record, Shape
from .envelope import around_index, make_head
from .json_values import Renderer, renderer

__all__ = ["Projection", "change_as_json", "identity_of", "row_as_json"]

_Columns: TypeAlias = list[tuple[int, str, Renderer]]
"""The places of columns, their names as JSON with a colon, and what renders their values."""

_KINDS: Final = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
_NOTHING: Final = Record(Shape(()), ())
_MOST_TABLES: Final = 1000
"""How many tables' projections are kept for :func:`change_as_json`."""


class Projection:
    """Renders changes of a relation, with all columns or with selected ones.

    Args:
        relation: the table, as the stream describes it.
        select: the names of the columns to show, besides those of the primary key; None for all.
            Under REPLICA IDENTITY FULL the stream does not say which columns the primary key has.
        error: why something is not shown; None if nothing is wrong.
    """

    def __init__(
        self,
        relation: Relation,
        select: Collection[str] | None = None,
        *,
        error: str | None = None,
    ) -> None:
        shown = set(relation.shape.names if select is None else select)
        if relation.replica_identity is not ReplicaIdentity.FULL:
            shown |= set(relation.key_shape.names)
        self.shown: Collection[str] = shown
        """The names of the columns that are shown."""
        self._columns: dict[Shape, _Columns] = {}
        columns = [
            (column.name, column.type_name) for column in relation.columns if column.name in shown
        ]
        self._heads = {
            kind: make_head(relation.schema, relation.table, kind, columns, error)
            for kind in _KINDS
        }
        # The transaction of the last change, and the bytes around its index. It is one object,
        # because several threads may render changes.
        self._last: tuple[Transaction | None, bytes, bytes] = (None, b"", b"")

    def payload(
        self,
        kind: str,
        change: Change,
        record: Record | None,
        old_record: Record | None,
    ) -> bytes:
        """Return a change as JSON.

        Args:
            kind: the event to send: ``INSERT``, ``UPDATE``, ``DELETE`` or ``TRUNCATE``.
            change: the change, for its time and position.
            record: the new row; None if the payload has none.
            old_record: the old row or its replica identity; None if the payload has none.
        """
        transaction, before_index, behind_index = self._last
        if change.transaction is not transaction:
            before_index, behind_index = around_index(change)
            self._last = change.transaction, before_index, behind_index
        parts = [self._heads[kind], before_index, b"%d" % change.index, behind_index]
        if record is not None:
            parts += [b',"record":', self._row(record)]
        if old_record is not None:
            parts += [b',"old_record":', self._row(old_record)]
        parts.append(b"}")
        return b"".join(parts)

    def _row(self, record: Record) -> bytes:
        columns = self._columns.get(record.shape)
        if columns is None:
            columns = self._columns[record.shape] = self._shown_of(record.shape)
        return _row(columns, record)

    def _shown_of(self, shape: Shape) -> _Columns:
        return [column for column in _columns_of(shape) if shape.names[column[0]] in self.shown]


def _row(columns: _Columns, record: Record) -> bytes:
    fields = record.fields
    parts = []
    for place, name, render in columns:
        value = fields[place]
        if value is None:
            parts.append(f"{name}null")
        elif isinstance(value, str):
            parts.append(name + render(value))
        elif value is not UNCHANGED:
            column = record.shape.columns[place]
            raise ValueConversionError(
                *(column.name, column.type_name, None),
                "a binary field has no JSON; start the stream without binary",
                table=record.shape.table,
            )
    return f"{{{','.join(parts)}}}".encode()


@lru_cache(maxsize=_MOST_TABLES)
def _columns_of(shape: Shape) -> _Columns:
    return [
        (place, f"{orjson.dumps(column.name).decode()}:", renderer(column))
        for place, column in enumerate(shape.columns)
    ]


@lru_cache(maxsize=_MOST_TABLES)
def _projection_of(relation: Relation) -> Projection:
    return Projection(relation)


def row_as_json(record: Record) -> bytes:
    """Return a row as JSON: see :meth:`Record.as_json`."""
    return _row(_columns_of(record.shape), record)


def identity_of(relation: Relation, record: Record) -> Record:
    """Return the old row of an UPDATE without one: its replica identity has not changed."""
    if relation.replica_identity is ReplicaIdentity.FULL:
        # The identity is all columns, any of which may have changed.
        return _NOTHING
    fields = record.fields
    return Record(relation.key_shape, tuple([fields[place] for place in relation.key_places]))


def change_as_json(change: Insert | Update | Delete | Truncate, relation: Relation) -> bytes:
    """Return a change as JSON: see :meth:`Insert.as_json`.

    Args:
        change: the change.
        relation: the table; of a TRUNCATE one of its tables.
    """
    projection = _projection_of(relation)
    match change:
        case Insert(record=record):
            return projection.payload("INSERT", change, record, None)
        case Update(record=record, old_record=old):
            old = identity_of(relation, record) if old is None else old
            return projection.payload("UPDATE", change, record, old)
        case Delete(old_record=old):
            return projection.payload("DELETE", change, None, old)
    return projection.payload("TRUNCATE", change, None, None)
