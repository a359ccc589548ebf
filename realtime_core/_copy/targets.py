"""Target: the database that tables are copied to, and where the position of a copy is stored.

PostgreSQL reads the texts that the source has written. SQLite converts values by the type that a
column is declared with, so each type has to keep them as they are: see "Type Affinity" in SQLite's
documentation. What does not fit is found out before anything is copied.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias

import psycopg
from psycopg import RawCursor

from ..changes import Relation
from ..errors import RealtimeError
from ..records import Column
from ..replication.commands import quote_identifier
from ..sources._sessions import stream_parameters
from .statements import Statement

__all__ = [
    "DRIVER_ERRORS",
    "Convert",
    "SqliteTarget",
    "Steps",
    "Target",
    "TargetColumn",
    "TargetError",
]

Convert: TypeAlias = Callable[[str], Any]
"""Makes the value that a target's driver takes of PostgreSQL's text."""
Steps: TypeAlias = list[tuple[Statement, list[Sequence[Any]]]]
"""Statements in their order, each with the values of the rows that it is executed for."""

DRIVER_ERRORS: Final = (psycopg.Error, sqlite3.Error, OverflowError)
"""What targets raise, besides TargetError, when their databases refuse something."""
_CHECKPOINTS: Final = "realtime_copy"
"""The table with the position of each copy, by its name."""
_WIDER: Final = {
    "int2": ("int4", "int8", "numeric"),
    "int4": ("int8", "numeric"),
    "int8": ("numeric",),
    "float4": ("float8",),
    "bpchar": ("varchar",),
}
"""The types besides text that hold all values of a type, if they have no modifier."""
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
    """The name of its type, or of its domain's base type; in SQLite its affinity."""
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
              AND a.attnum > 0 AND NOT a.attisdropped
        ORDER BY a.attnum
    """

    # Asks how each column of a primary key is compared: by the operator of its index, which is not
    # in pg_catalog if the type is an extension's, and as which type.
    _equality_query: ClassVar = """
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

    def converters(self, relation: Relation) -> Mapping[str, Convert]:
        """Return what makes the values, by column; the others are PostgreSQL's text."""
        return {}

    def equality(self, relation: Relation) -> Mapping[str, tuple[str, str]]:
        """Return the operator that compares a key's column, and the cast of what it is compared
        with, by column; the others have ``=`` and none."""
        found = self.run(self._equality_query, [relation.schema, relation.table]).fetchall()
        return {name: (equals, cast) for name, equals, cast in found}

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
        type_name, modifier, source = theirs.type_name, theirs.modifier, column.type_modifier
        if modifier == -1:
            return type_name in (column.type_name, "text", *_WIDER.get(column.type_name, ()))
        if type_name != column.type_name or source == -1:
            return False
        if type_name in ("varchar", "varbit"):
            return modifier >= source
        if type_name == "numeric":
            more_behind = (modifier - 4 & 0x7FF) - (source - 4 & 0x7FF)
            return 0 <= more_behind <= (modifier >> 16) - (source >> 16)
        return modifier == source

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


def _read_float(text: str) -> float | str:
    # SQLite makes NULL of NaN.
    return text if text == "NaN" else float(text)


_SQLITE_TYPES: Final[dict[str, tuple[Convert | None, tuple[str, ...]]]] = {
    "bool": ("t".__eq__, ("INTEGER", "NUMERIC")),
    "bytea": (lambda text: bytes.fromhex(text[2:]), ()),
    **dict.fromkeys(("int2", "int4", "int8", "oid"), (int, ("INTEGER", "NUMERIC"))),
    **dict.fromkeys(("float4", "float8"), (_read_float, ("REAL", "NUMERIC"))),
    **dict.fromkeys(("date", "time", "timetz"), (None, ("TEXT", "NUMERIC"))),
    **dict.fromkeys(("timestamp", "timestamptz", "interval"), (None, ("TEXT", "NUMERIC"))),
}
"""What makes the values of built-in types, and the affinities besides BLOB that keep them."""


class SqliteTarget(Target):
    """A SQLite file. Its tables have the names of the source's tables, without the schemas.

    Args:
        path: the file.
    """

    mark = "?"
    _schema, _checkpoints = "", _CHECKPOINTS
    _columns_query = """
        SELECT name, type, "notnull" AND dflt_value IS NULL AND NOT pk, hidden > 1, pk,
               CASE WHEN type LIKE '%INT%' THEN 'INTEGER'
                    WHEN type LIKE '%CHAR%' OR type LIKE '%CLOB%' OR type LIKE '%TEXT%' THEN 'TEXT'
                    WHEN type LIKE '%BLOB%' OR type = '' THEN 'BLOB'
                    WHEN type LIKE '%REAL%' OR type LIKE '%FLOA%' OR type LIKE '%DOUB%' THEN 'REAL'
                    ELSE 'NUMERIC' END
        FROM pragma_table_xinfo(?2)
    """

    def __init__(self, path: str) -> None:
        self._connection = sqlite3.connect(path, timeout=_PATIENCE)

    def execute(self, steps: Steps) -> None:
        for statement, rows in steps:
            cursor = self._connection.executemany(statement.sql, rows)
            _check_found(statement, len(rows), cursor.rowcount)

    def name(self, schema: str, table: str) -> str:
        return quote_identifier(table)

    def converters(self, relation: Relation) -> Mapping[str, Convert]:
        found = {column.name: _sqlite_type(column)[0] for column in relation.columns}
        return {name: convert for name, convert in found.items() if convert is not None}

    def equality(self, relation: Relation) -> Mapping[str, tuple[str, str]]:
        return {}

    @staticmethod
    def holds(theirs: TargetColumn, column: Column) -> bool:
        return theirs.type_name in ("BLOB", *_sqlite_type(column)[1])


def _sqlite_type(column: Column) -> tuple[Convert | None, tuple[str, ...]]:
    # Elsewhere, text that looks like a number would become one.
    name = column.type_name if column.type_schema == "pg_catalog" else ""
    return _SQLITE_TYPES.get(name, (None, ("TEXT",)))


def _check_found(statement: Statement, wanted: int, found: int) -> None:
    if statement.finds_a_row and found != wanted:
        raise TargetError(
            f"{wanted} rows have to be there for {statement.sql}, and {found} are: somebody else "
            "has written to the target; --overwrite copies all rows anew"
        )
