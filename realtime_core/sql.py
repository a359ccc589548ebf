"""RowStatements: the SQL that writes a table's rows and changes to another database.

Whoever executes the statements in the order of the events has the table as the source has it. They
suit PostgreSQL, and SQLite from 3.24 on; what they are executed with, and what is committed
together, is the consumer's. See "INSERT" in PostgreSQL's documentation, "UPSERT" in SQLite's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from .changes import Delete, Insert, Relation, Update
from .records import Record, Unchanged
from .replication.commands import quote_identifier
from .snapshot import Snapshot

__all__ = ["KEY_EQUALITY", "Convert", "RowStatements", "Statement"]

Convert: TypeAlias = Callable[[str], Any]
"""Makes the value that a driver takes of PostgreSQL's text."""

KEY_EQUALITY: Final = """
    SELECT a.attname, format('OPERATOR(%I.%s)', n.nspname, o.oprname),
           '::' || format_type(a.atttypid, -1)
    FROM pg_index i
    CROSS JOIN LATERAL unnest(i.indkey::int2[], i.indclass::oid[]) AS k (attnum, opclass)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
    JOIN pg_opclass c ON c.oid = k.opclass
    JOIN pg_amop m ON m.amopfamily = c.opcfamily AND m.amopstrategy = 3
                      AND m.amoplefttype = c.opcintype AND m.amoprighttype = c.opcintype
    JOIN pg_operator o ON o.oid = m.amopopr
    JOIN pg_namespace n ON n.oid = o.oprnamespace
    WHERE i.indrelid = to_regclass(format('%I.%I', $1::text, $2::text)) AND i.indisprimary
"""
"""Asks PostgreSQL for the ``equality`` of a table's primary key, by its schema and name: for each
column the operator of its index, which is not in pg_catalog if the type is an extension's, and the
type as which it compares. Each row is a name, and what stands for it there."""


class Statement(NamedTuple):
    """A statement that is executed with the values of one row after the other."""

    sql: str
    """Its text, with a parameter for each value."""
    finds_a_row: bool = False
    """Whether something else has written to the table if there is no row for it."""
    copy: str = ""
    """The COPY that does the same in PostgreSQL, if there is one."""


class RowStatements:
    """The statements for one table, as a relation describes it.

    Rows are the texts that PostgreSQL sends, unless ``convert`` makes other values of them.

    Args:
        relation: the table in the source.
        key: the columns of its primary key. Updates have to have them, so the replica identity is
            the primary key, or FULL.
        table: the table's name in the other database, quoted if need be.
        mark: what stands before the number of a parameter.
        convert: makes the values of columns, by their names.
        equality: how columns of the key are compared, by their names, where it is not by ``=``: an
            operator, and what stands behind the parameter, such as a cast. :data:`KEY_EQUALITY`
            asks PostgreSQL for it.

    Raises:
        ValueError: if a name is empty or has a NUL.
    """

    def __init__(
        self,
        relation: Relation,
        key: Sequence[str],
        *,
        table: str,
        mark: Literal["$", "?"] = "$",
        convert: Mapping[str, Convert] | None = None,
        equality: Mapping[str, tuple[str, str]] | None = None,
    ) -> None:
        self._key, self._table, self._mark = key, table, mark
        self._convert, self._equality = convert or {}, equality or {}
        self._names = names = relation.shape.names
        self._updates: dict[tuple[str, ...], Statement] = {}
        columns = ", ".join(map(quote_identifier, names))
        marks = ", ".join(f"{mark}{place}" for place in range(1, len(names) + 1))
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
        """Removes all rows: for a :class:`SnapshotBegin` and a :class:`Truncate`."""

    def step(self, event: Snapshot | Insert | Update | Delete) -> tuple[Statement, Sequence[Any]]:
        """Return the statement for a row or a change, and its values.

        A row of a snapshot is inserted. One that was inserted or updated is written over the one of
        its key, if there is one; but an update that has left a large value alone, or has changed
        the key, needs the row to be there.
        """
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
        return statement, self._values(self._names, row.fields) if self._convert else row.fields

    def _key_of(self, record: Record) -> Sequence[Any]:
        return self._values(self._key, map(record.raw, self._key))

    def _values(self, names: Iterable[str], fields: Iterable[Any]) -> Sequence[Any]:
        converters = map(self._convert.get, names)
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
