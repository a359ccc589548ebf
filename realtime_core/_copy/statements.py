"""TablePlan: the SQL that writes a table's rows and changes to a target."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ..changes import Delete, Insert, Relation, Update
from ..records import Record, Unchanged
from ..replication.commands import quote_identifier
from ..snapshot import Snapshot

if TYPE_CHECKING:
    from .targets import Target

__all__ = ["Statement", "TablePlan"]


class Statement(NamedTuple):
    """A statement that is executed with the values of one row after the other."""

    sql: str
    finds_a_row: bool = False
    """Whether it is an error if there is no row for it."""
    copy: str = ""
    """The COPY that does the same in PostgreSQL, if there is one."""


class TablePlan:
    """The statements for one table, as it is described now.

    Args:
        relation: the table in the source.
        key: the columns of its primary key.
        target: where it is copied to.
    """

    def __init__(self, relation: Relation, key: Sequence[str], target: Target) -> None:
        self._key, self._mark, self._converters = key, target.mark, target.converters(relation)
        self._table = table = target.name(relation.schema, relation.table)
        self._names = names = relation.shape.names
        self._equality = target.equality(relation)
        self._updates: dict[tuple[str, ...], Statement] = {}
        columns = ", ".join(map(quote_identifier, names))
        marks = ", ".join(f"{target.mark}{place}" for place in range(1, len(names) + 1))
        insert = f"INSERT INTO {table} ({columns}) VALUES ({marks})"
        rest = [quote_identifier(name) for name in names if name not in key]
        pairs = ", ".join(f"{name} = excluded.{name}" for name in rest)
        action = f"UPDATE SET {pairs}" if rest else "NOTHING"
        conflict = f"ON CONFLICT ({', '.join(map(quote_identifier, key))}) DO {action}"
        self._insert = Statement(insert, copy=f"COPY {table} ({columns}) FROM STDIN")
        self._upsert = Statement(f"{insert} {conflict}")
        self._delete = Statement(f"DELETE FROM {table} WHERE {self._where()}", finds_a_row=True)
        # TRUNCATE would lock out those who read the table, until the transaction ends.
        self.empty = Statement(f"DELETE FROM {table}")

    def step(self, event: Snapshot | Insert | Update | Delete) -> tuple[Statement, Sequence[Any]]:
        """Return the statement for a row or a change, and its values."""
        if isinstance(event, Delete):
            return self._delete, self._key_of(event.old_record)
        row = event.record
        if isinstance(event, Update):
            old = event.old_record
            if Unchanged in map(type, row.fields) or (
                old is not None and self._key_of(old) != self._key_of(row)
            ):
                # An upsert would need all values, and would leave the row of the old key.
                sent = row.as_text(omit_unchanged=True)
                key = self._key_of(row if old is None else old)
                return self._update(tuple(sent)), [*self._values(sent, sent.values()), *key]
        statement = self._insert if isinstance(event, Snapshot) else self._upsert
        return statement, self._values(self._names, row.fields) if self._converters else row.fields

    def _key_of(self, record: Record) -> Sequence[Any]:
        return self._values(self._key, map(record.raw, self._key))

    def _values(self, names: Iterable[str], fields: Iterable[Any]) -> Sequence[Any]:
        converters = map(self._converters.get, names)
        return [
            field if convert is None or field is None else convert(field)
            for convert, field in zip(converters, fields, strict=True)
        ]

    def _update(self, names: tuple[str, ...]) -> Statement:
        if names not in self._updates:
            pairs = ", ".join(
                f"{quote_identifier(name)} = {self._mark}{place}"
                for place, name in enumerate(names, 1)
            )
            sql = f"UPDATE {self._table} SET {pairs} WHERE {self._where(len(names))}"
            self._updates[names] = Statement(sql, finds_a_row=True)
        return self._updates[names]

    def _where(self, before: int = 0) -> str:
        conditions = []
        for place, name in enumerate(self._key, before + 1):
            equals, cast = self._equality.get(name, ("=", ""))
            mark = f"{self._mark}{place}{cast}"
            conditions.append(f"{quote_identifier(name)} {equals} {mark}")
        return " AND ".join(conditions)
