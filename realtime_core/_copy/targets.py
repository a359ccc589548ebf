"""Target: the database that tables are copied to, and where the position of a copy is stored.

PostgreSQL reads the texts that the source has written. What does not fit is found out before
anything is copied.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

import psycopg
from psycopg import RawCursor

from .. import sqlite_values
from .._text import one_line
from ..changes import Relation
from ..errors import RealtimeError
from ..records import Column
from ..replication.commands import quote_identifier
from ..sources._sessions import stream_parameters
from ..sql import KEY_EQUALITY, RowStatements, Statement
from ..types.wider import holds_values

__all__ = ["DRIVER_ERRORS", "SqliteTarget", "Steps", "Target", "TargetColumn", "TargetError"]

Steps: TypeAlias = list[tuple[Statement, list[Sequence[Any]]]]
"""Statements in their order, each with the values of the rows that it is executed for."""

DRIVER_ERRORS: Final = (psycopg.Error, sqlite3.Error, OverflowError)
"""What targets raise, besides TargetError, when their databases refuse something."""
_CHECKPOINTS: Final = "realtime_copy"
"""The table with the position of each copy, by its name."""
_PATIENCE: Final = 60.0
"""Seconds to wait for others who write to a SQLite file."""


class TargetError(RealtimeError):
    """The target refused something, or has not what the copy has left there."""


class TargetColumn(NamedTuple):
    """A column of a table in the target."""

    name: str
    declared: str
    """Its type, as the target writes it."""
    is_required: bool
    """Whether a row must have a value for it: it is NOT NULL, and has no default."""
    is_generated: bool
    """Whether the target makes its values, and takes no others."""
    is_key: bool
    """Whether it belongs to the primary key."""
    type_name: str
    """The name of its type, or of its domain's base type; in SQLite the collation
    of a key that takes different texts for the same."""
    modifier: int = -1
    """The type's modifier, -1 for none."""


class Target:
    """A connection to a PostgreSQL database, with a transaction that begins by itself.

    Args:
        dsn: the connection string.

    Raises:
        DRIVER_ERRORS: from each method, if the target refuses.
    """

    mark: ClassVar = "$"
    """What stands before the number of a parameter."""
    # Asks for each TargetColumn of a table, by its schema and name.
    _columns_query: ClassVar = """
        SELECT a.attname, format_type(a.atttypid, a.atttypmod),
               a.attnotnull AND NOT a.atthasdef AND a.attidentity = '',
               a.attgenerated <> '' OR a.attidentity = 'a',
               EXISTS (SELECT FROM pg_index i WHERE i.indrelid = a.attrelid AND i.indisprimary
                       AND a.attnum = ANY (i.indkey)),
               t.typname, a.atttypmod
        FROM pg_attribute a
        JOIN pg_type d ON d.oid = a.atttypid
        JOIN pg_type t ON t.oid = CASE d.typtype WHEN 'd' THEN d.typbasetype ELSE d.oid END
        WHERE a.attrelid = to_regclass(format('%I.%I', $1::text, $2::text))
              AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
    """

    def __init__(self, dsn: str) -> None:
        # The texts are read as the source's session has written them.
        parameters = stream_parameters(dsn, more={"application_name": _CHECKPOINTS})
        del parameters["replication"]
        self._connection: Any = psycopg.connect(**parameters, cursor_factory=RawCursor)
        query = "SELECT coalesce(pg_catalog.current_schema(), 'public')"
        (self._schema,) = self.run(query).fetchone()
        self._checkpoints = self.name(self._schema, _CHECKPOINTS)
        # A search path of the user's may begin with somebody else's schema.
        self.run("SET search_path = pg_catalog")
        self.end(commit=True)

    def close(self) -> None:
        """Close the connection; what was not committed is undone."""
        self._connection.close()

    def end(self, *, commit: bool) -> None:
        """Commit the transaction, or undo it."""
        (self._connection.commit if commit else self._connection.rollback)()

    def run(self, query: str, values: Sequence[Any] = ()) -> Any:
        """Execute one statement, and return the driver's cursor."""
        return self._connection.execute(query, values)

    def execute(self, steps: Steps) -> None:
        """Execute statements.

        Raises:
            TargetError: if a row is not there that one of them is for.
        """
        checked = []
        # Without a round trip for each statement; but a pipeline takes no COPY.
        has_copy = any(statement.copy for statement, _ in steps)
        with nullcontext() if has_copy else self._connection.pipeline():
            cursor = self._connection.cursor()
            for statement, rows in steps:
                if statement.copy:
                    with cursor.copy(statement.copy) as copying:
                        for row in rows:
                            copying.write_row(row)
                elif statement.finds_a_row:
                    finding = self._connection.cursor()
                    finding.executemany(statement.sql, rows)
                    checked.append((statement, len(rows), finding))
                else:
                    # Where kinds of changes alternate, executemany takes half as long again.
                    for row in rows:
                        cursor.execute(statement.sql, row, prepare=True)
        for statement, wanted, finding in checked:
            _check_found(statement, wanted, finding.rowcount)

    # Tables

    def name(self, schema: str, table: str) -> str:
        """Return the name of a table, as SQL."""
        return f"{quote_identifier(schema)}.{quote_identifier(table)}"

    def statements(self, relation: Relation, key: Sequence[str]) -> RowStatements:
        """Return what writes rows and changes of one of the source's tables."""
        found = self.run(KEY_EQUALITY, [relation.schema, relation.table])
        equality = {name: (equals, cast) for name, equals, cast in found}
        table = self.name(relation.schema, relation.table)
        return RowStatements(relation, key, table=table, equality=equality)

    def has_rows(self, relation: Relation) -> bool:
        """Return whether the table for one of the source's has any rows."""
        name = self.name(relation.schema, relation.table)
        return self.run(f"SELECT 1 FROM {name} LIMIT 1").fetchone() is not None

    def problems(self, relation: Relation, key: Sequence[str]) -> Iterator[str]:
        """Yield a sentence for each reason why a table cannot be copied.

        Args:
            relation: the table in the source.
            key: the columns of its primary key.
        """
        columns = {column.name: column for column in self._columns(relation.schema, relation.table)}
        theirs = [name for name, column in columns.items() if column.is_key]
        if relation.table.lower() == _CHECKPOINTS:
            yield f"table {relation} has the name of the target's table of positions: rename it"
        if not key:
            yield f"table {relation} has no primary key in the source: add one"
        elif not set(key) <= set(relation.key_shape.names):
            yield f"table {relation} needs REPLICA IDENTITY DEFAULT, and all of its key published"
        if not columns:
            yield (
                f"the target has no table {relation}: create it, with the same columns and primary "
                "key; in a SQLite file its name is without the schema"
            )
            return
        if key and set(key) != set(theirs):
            has = f"({', '.join(theirs)})" if theirs else "there is none"
            yield f"the primary key of table {relation} is ({', '.join(key)}), in the target {has}"
        for column in relation.columns:
            copied = columns.pop(column.name, None)
            where = f"column {column.name!r} of table {relation}"
            if copied is None:
                yield f"the target has no {where}, of type {column.type_name}: add it"
            elif copied.is_generated:
                yield f"the target makes the values of {where} itself: let it take others"
            elif not self.holds(copied, column):
                yield f"{where} has type {column.type_name}, which {copied.declared} cannot hold"
        for name in (name for name, column in columns.items() if column.is_required):
            yield (
                f"the source has no column {name!r} of table {relation}, which is NOT NULL in the "
                "target: give it a default"
            )

    def _columns(self, schema: str, table: str) -> list[TargetColumn]:
        return [TargetColumn(*row) for row in self.run(self._columns_query, [schema, table])]

    @staticmethod
    def holds(theirs: TargetColumn, column: Column) -> bool:
        """Return whether a column of the target holds all values of one of the source's."""
        return holds_values(column, theirs.type_name, theirs.modifier)

    # Positions

    def checkpoint(self, name: str) -> tuple[str | None, list[str]]:
        """Return the position of a copy and its tables, as stored last; None if nothing was."""
        found = None
        if self._columns(self._schema, _CHECKPOINTS):
            query = f"SELECT position, tables FROM {self._checkpoints} WHERE name = {self.mark}1"
            found = self.run(query, [name]).fetchone()
        self.end(commit=False)
        return (None, []) if found is None else (found[0], json.loads(found[1]))

    def claim(self, name: str) -> None:
        """Take over a copy that begins anew: until the commit nobody else can store a position."""
        if not self._columns(self._schema, _CHECKPOINTS):
            columns = "name text PRIMARY KEY, position text NOT NULL, tables text NOT NULL"
            self.run(f"CREATE TABLE {self._checkpoints} ({columns})")
            self.end(commit=True)
        insert = f"INSERT INTO {self._checkpoints} VALUES ({self.mark}1, '', '[]')"
        self.run(f"{insert} ON CONFLICT (name) DO UPDATE SET position = ''", [name])

    def store(self, name: str, position: str, tables: Iterable[str], former: str) -> None:
        """Store a position.

        Args:
            name: the copy's name.
            position: the position.
            tables: the tables that are copied up to it.
            former: the position that was stored last; "" after :meth:`claim`.

        Raises:
            TargetError: if somebody else has stored one.
        """
        mark, values = self.mark, [position, json.dumps(sorted(tables)), name, former]
        pairs = f"position = {mark}1, tables = {mark}2"
        where = f"name = {mark}3 AND position = {mark}4"
        if self.run(f"UPDATE {self._checkpoints} SET {pairs} WHERE {where}", values).rowcount != 1:
            raise TargetError(f"another process writes to the copy {name!r}: stop one of them")


class SqliteTarget(Target):
    """A SQLite file. Its tables have the names of the source's tables, without the schemas.

    Args:
        path: the file.

    Raises:
        TargetError: if it cannot be opened.
    """

    mark = "?"
    _schema, _checkpoints = "", _CHECKPOINTS
    # A key of another collation than BINARY takes different texts for the same: rows would merge.
    _columns_query = """
        SELECT c.name, c.type || coalesce(' COLLATE ' || k.coll, ''),
               "notnull" AND dflt_value IS NULL AND NOT pk, hidden > 1, pk, coalesce(k.coll, '')
        FROM pragma_table_xinfo(?2) c
        LEFT JOIN (SELECT i.name, i.coll FROM pragma_index_list(?2) l, pragma_index_xinfo(l.name) i
                   WHERE l.origin = 'pk' AND i.key AND i.coll <> 'BINARY') k ON k.name = c.name
    """

    def __init__(self, path: str) -> None:
        try:
            self._connection = sqlite3.connect(path, timeout=_PATIENCE)
        except sqlite3.Error as exc:
            # SQLite does not say which file it is.
            raise TargetError(f"the file {path!r} cannot be opened: {one_line(exc)}") from exc

    def execute(self, steps: Steps) -> None:
        for statement, rows in steps:
            cursor = self._connection.executemany(statement.sql, rows)
            _check_found(statement, len(rows), cursor.rowcount)

    def name(self, schema: str, table: str) -> str:
        return quote_identifier(table)

    def statements(self, relation: Relation, key: Sequence[str]) -> RowStatements:
        table, convert = quote_identifier(relation.table), sqlite_values.converters(relation)
        return RowStatements(relation, key, table=table, mark="?", convert=convert)

    @staticmethod
    def holds(theirs: TargetColumn, column: Column) -> bool:
        return not theirs.type_name and sqlite_values.keeps_values(theirs.declared, column)


def _check_found(statement: Statement, wanted: int, found: int) -> None:
    if statement.finds_a_row and found != wanted:
        raise TargetError(
            f"{wanted} rows have to be there for {statement.sql}, and {found} are: somebody else "
            "has written to the target; --overwrite copies all rows anew"
        )
