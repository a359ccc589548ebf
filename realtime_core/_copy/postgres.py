"""PostgresTarget: copies to PostgreSQL, which reads the texts that the source has written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import RawCursor

from .._text import one_line
from ..changes import Relation
from ..records import Column
from ..replication.commands import quote_identifier
from ..sources._sessions import stream_parameters
from .plan import Convert, TablePlan, TargetColumn, TargetTable
from .targets import Steps, Target, TargetError, check_found

__all__ = ["PostgresTarget"]

# A search path of the user's may begin with somebody else's schema.
_SETTINGS: Final = {"search_path": "pg_catalog", "application_name": "realtime_copy"}
_COLUMNS: Final = """
    SELECT a.attname, t.typname, format_type(a.atttypid, a.atttypmod), a.atttypmod,
           a.attnotnull AND NOT a.atthasdef AND a.attidentity = '',
           a.attgenerated <> '' OR a.attidentity = 'a',
           a.attnum = ANY (SELECT unnest(i.indkey) FROM pg_index i
                           WHERE i.indrelid = a.attrelid AND i.indisprimary)
    FROM pg_attribute a
    JOIN pg_type d ON d.oid = a.atttypid
    JOIN pg_type t ON t.oid = CASE d.typtype WHEN 'd' THEN d.typbasetype ELSE d.oid END
    WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped
    ORDER BY a.attnum
"""
_WIDER: Final = {
    "int2": ("int4", "int8", "numeric"),
    "int4": ("int8", "numeric"),
    "int8": ("numeric",),
    "float4": ("float8",),
    "bpchar": ("varchar",),
}
"""The types besides text that hold all values of a type, if they have no modifier."""


class PostgresTarget(Target):
    """A PostgreSQL database as the target.

    Args:
        dsn: its connection string.

    Raises:
        TargetError: from each method, if PostgreSQL refuses.
    """

    mark = "$"

    def __init__(self, dsn: str) -> None:
        # The texts are read as the source's session has written them.
        parameters = stream_parameters(dsn, more=_SETTINGS)
        del parameters["replication"]
        try:
            with psycopg.connect(dsn) as connection:
                query = "SELECT pg_catalog.current_schema()"
                (schema,) = connection.execute(query).fetchone() or (None,)
            self._connection = psycopg.connect(**parameters, cursor_factory=RawCursor)
        except psycopg.Error as exc:
            raise TargetError(f"cannot connect to the target: {one_line(exc)}") from exc
        self.checkpoints = f"{quote_identifier(schema or 'public')}.realtime_copy"

    def table(self, relation: Relation) -> TargetTable | None:
        name = f"{quote_identifier(relation.schema)}.{quote_identifier(relation.table)}"
        rows, _ = self.run(_COLUMNS, [name])
        columns = {
            column: TargetColumn(
                declared, partial(_is_misfit, type_name, modifier), is_required, is_generated
            )
            for column, type_name, declared, modifier, is_required, is_generated, _ in rows
        }
        return TargetTable(name, columns, tuple(row[0] for row in rows if row[6])) if rows else None

    def converters(self, relation: Relation) -> Iterable[Convert | None]:
        return [None] * len(relation.columns)

    def has(self, table: str) -> bool:
        return self.run("SELECT to_regclass($1)", [table])[0] != [(None,)]

    def run(self, query: str, values: Sequence[Any] = ()) -> tuple[list[tuple[Any, ...]], int]:
        with _errors():
            cursor = self._connection.execute(query.encode(), values or None)
            return cursor.fetchall() if cursor.description else [], cursor.rowcount

    def fill(self, plan: TablePlan, rows: Sequence[Sequence[Any]]) -> None:
        statement = f"COPY {plan.table.name} ({plan.columns}) FROM STDIN"
        with _errors(), self._connection.cursor().copy(statement.encode()) as copying:
            for row in rows:
                copying.write_row(row)

    def execute(self, steps: Steps) -> None:
        done = []
        # Without a round trip for each statement.
        with _errors(), self._connection.pipeline():
            for statement, rows in steps:
                cursor = self._connection.cursor()
                cursor.executemany(statement.sql.encode(), rows)
                done.append((statement, len(rows), cursor))
        for statement, wanted, cursor in done:
            check_found(statement, wanted, cursor.rowcount)

    def end(self, *, commit: bool) -> None:
        with _errors():
            (self._connection.commit if commit else self._connection.rollback)()

    def close(self) -> None:
        self._connection.close()


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except psycopg.Error as exc:
        raise TargetError(f"the target refused: {one_line(exc)}") from exc


def _is_misfit(type_name: str, modifier: int, column: Column) -> bool:
    if modifier == -1:
        return type_name not in (column.type_name, "text", *_WIDER.get(column.type_name, ()))
    theirs = column.type_modifier
    if type_name != column.type_name or theirs == -1:
        return True
    if type_name in ("varchar", "varbit"):
        return modifier < theirs
    if type_name == "numeric":
        scale, their_scale = modifier - 4 & 0x7FF, theirs - 4 & 0x7FF
        digits, their_digits = modifier - 4 >> 16, theirs - 4 >> 16
        return scale < their_scale or digits - scale < their_digits - their_scale
    return modifier != theirs
