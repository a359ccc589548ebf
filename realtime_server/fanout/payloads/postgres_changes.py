"""Typed payloads: the member ``data`` of the event ``postgres_changes``.

A :class:`Projection` is made once for a relation and a selection of columns. It writes a row's
fields into bytes without making a dict of them.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import orjson

from realtime_core import Change, Record, Relation, ReplicaIdentity, Shape, Transaction

from .envelope import around_index, make_head
from .json_values import Renderer, renderer

__all__ = ["Projection"]

_KINDS: Final = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")


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
        self._columns: dict[Shape, list[tuple[int, str, Renderer]]] = {}
        columns = [
            (column.name, column.type_name) for column in relation.columns if column.name in shown
        ]
        self._heads = {
            kind: make_head(relation.schema, relation.table, kind, columns, error)
            for kind in _KINDS
        }
        self._transaction: Transaction | None = None
        self._before_index = b""
        self._behind_index = b""

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
        if change.transaction is not self._transaction:
            self._before_index, self._behind_index = around_index(change)
            self._transaction = change.transaction
        parts = [self._heads[kind], self._before_index, b"%d" % change.index, self._behind_index]
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
        fields = record.fields
        parts = []
        for place, name, render in columns:
            value = fields[place]
            if value is None:
                parts.append(f"{name}null")
            elif isinstance(value, str):
                parts.append(name + render(value))
            # Else it is an unchanged TOAST value, which the stream does not have.
        return f"{{{','.join(parts)}}}".encode()

    def _shown_of(self, shape: Shape) -> list[tuple[int, str, Renderer]]:
        return [
            (place, f"{orjson.dumps(column.name).decode()}:", renderer(column))
            for place, column in enumerate(shape.columns)
            if column.name in self.shown
        ]
