"""TablePlan: the SQL that writes a table's changes to a target, and what that needs there."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import attrs

from ..changes import Delete, Insert, Relation, Update
from ..records import Column, Field, Record, Unchanged
from ..replication.commands import quote_identifier

__all__ = ["Statement", "TablePlan", "TargetColumn", "TargetTable", "misfits"]

Convert: TypeAlias = Callable[[str], Any]
"""Makes the value that a target's driver takes of PostgreSQL's text."""


@attrs.frozen
class TargetColumn:
    """A column of a table in the target."""

    declared: str
    """Its type, as the target writes it."""
    misfit: Callable[[Column], bool]
    """Returns whether a column's values do not fit in."""
    is_required: bool
    """Whether a row must have a value for it: it is NOT NULL, and has no default."""
    is_generated: bool
    """Whether the target makes its values, and takes no others."""


@attrs.frozen
class TargetTable:
    """A table in the target."""

    name: str
    """Its name as SQL."""
    columns: Mapping[str, TargetColumn]
    key: tuple[str, ...]
    """The columns of its primary key."""


@attrs.frozen(eq=False)
class Statement:
    """A statement that is executed with the values of one row after the other."""

    sql: str
    finds_a_row: bool
    """Whether it is an error if there is no row for it."""


def misfits(relation: Relation, key: Sequence[str], table: TargetTable | None) -> Iterator[str]:
    """Yield a sentence for each reason why a table cannot be copied.

    Args:
        relation: the table in the source.
        key: the columns of its primary key.
        table: the table in the target; None if there is none.
    """
    if not key:
        yield f"table {relation} has no primary key in the source: add one"
    elif not set(key) <= set(relation.key_shape.names):
        yield (
            f"the replica identity of table {relation} lacks its primary key: run ALTER TABLE "
            f"{relation} REPLICA IDENTITY DEFAULT, and publish these columns"
        )
    if table is None:
        yield (
            f"the target has no table {relation}: create it, with the same columns and primary key;"
            " in a SQLite file its name is without the schema"
        )
        return
    if key and set(key) != set(table.key):
        theirs = f"({', '.join(table.key)})" if table.key else "there is none"
        yield (f"the primary key of table {relation} is ({', '.join(key)}), in the target {theirs}")
    for column in relation.columns:
        found = table.columns.get(column.name)
        where = f"column {column.name!r} of table {relation}"
        if found is None:
            yield f"the target has no {where}, of type {column.type_name}: add it"
        elif found.is_generated:
            yield f"the target makes the values of {where} itself: let it take others"
        elif found.misfit(column):
            yield f"{where} has type {column.type_name}, which {found.declared} cannot hold"
    for name in sorted(table.columns.keys() - set(relation.shape.names)):
        if table.columns[name].is_required:
            yield (
                f"the source has no column {name!r} of table {relation}, which is NOT NULL in the "
                "target: give it a default"
            )


class TablePlan:
    """The statements for one table, as it is described now.

    Args:
        relation: the table in the source.
        key: the columns of its primary key.
        table: the table in the target, which fits.
        mark: what the target's driver writes before the number of a parameter.
        converters: of each column what makes its values; None for the text itself.
    """

    def __init__(
        self,
        relation: Relation,
        key: Sequence[str],
        table: TargetTable,
        mark: str,
        converters: Iterable[Convert | None],
    ) -> None:
        self.table = table
        self._key = tuple(key)
        self._mark = mark
        names = relation.shape.names
        self._converters = tuple(converters)
        self._converts = any(self._converters)
        self._by_name = dict(zip(names, self._converters, strict=True))
        self._updates: dict[tuple[str, ...], Statement] = {}
        self.columns = ", ".join(map(quote_identifier, names))
        values = [(name, quote_identifier(name)) for name in names if name not in self._key]
        action = "NOTHING"
        if values:
            action = f"UPDATE SET {', '.join(f'{sql} = excluded.{sql}' for _, sql in values)}"
        conflict = f"ON CONFLICT ({', '.join(map(quote_identifier, self._key))}) DO {action}"
        marks = ", ".join(f"{mark}{place}" for place in range(1, len(names) + 1))
        insert = f"INSERT INTO {table.name} ({self.columns})"
        self.insert = Statement(f"{insert} VALUES ({marks})", False)
        self.upsert = Statement(f"{insert} VALUES ({marks}) {conflict}", False)
        self._delete = Statement(f"DELETE FROM {table.name} WHERE {self._where(1)}", True)

    def step(self, change: Insert | Update | Delete) -> tuple[Statement, Sequence[Any]]:
        """Return the statement for a change, and its values."""
        if isinstance(change, Delete):
            return self._delete, self.key_of(change.old_record)
        fields = change.record.fields
        if isinstance(change, Update):
            old = change.old_record
            key = self.key_of(change.record if old is None else old)
            if Unchanged in map(type, fields) or (
                old is not None and key != self.key_of(change.record)
            ):
                # An upsert would need all values, and would leave the row of the old key.
                sent = change.record.as_text(omit_unchanged=True)
                values = [self._value(name, text) for name, text in sent.items()]
                return self._update(tuple(sent)), [*values, *key]
        return self.upsert, self.values(fields)

    def values(self, fields: Sequence[Field]) -> Sequence[Any]:
        """Return the values of a whole row."""
        if not self._converts:
            return fields
        pairs = zip(self._converters, fields, strict=True)
        return [
            field if convert is None or field is None else convert(field)  # type: ignore[arg-type]
            for convert, field in pairs
        ]

    def key_of(self, record: Record) -> Sequence[Any]:
        """Return the values of a row's key."""
        return [self._value(name, record.raw(name)) for name in self._key]

    def _value(self, name: str, field: Any) -> Any:
        convert = self._by_name[name]
        return field if convert is None or field is None else convert(field)

    def _update(self, names: tuple[str, ...]) -> Statement:
        if names not in self._updates:
            pairs = ", ".join(self._equations(names, 1))
            where = self._where(len(names) + 1)
            sql = f"UPDATE {self.table.name} SET {pairs} WHERE {where}"
            self._updates[names] = Statement(sql, True)
        return self._updates[names]

    def _where(self, first: int) -> str:
        return " AND ".join(self._equations(self._key, first))

    def _equations(self, names: Iterable[str], first: int) -> Iterator[str]:
        for place, name in enumerate(names, first):
            yield f"{quote_identifier(name)} = {self._mark}{place}"
