"""SqliteTarget: copies to a SQLite file.

A table of the source has the table of its name, without the schema. SQLite converts values by the
type that a column is declared with, so each type has to keep the values as they are: see "Type
Affinity" in SQLite's documentation.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

from ..changes import Relation
from ..records import Column
from ..replication.commands import quote_identifier
from .plan import Convert, TablePlan, TargetColumn, TargetTable
from .targets import Steps, Target, TargetError, check_found

__all__ = ["SqliteTarget"]

_PATIENCE: Final = 60.0
"""Seconds to wait for others who write to the file."""
_AFFINITIES: Final = (
    ("INTEGER", ("INT",)),
    ("TEXT", ("CHAR", "CLOB", "TEXT")),
    ("NONE", ("BLOB",)),
    ("REAL", ("REAL", "FLOA", "DOUB")),
)
_TIMES: Final = ("date", "time", "timetz", "timestamp", "timestamptz", "interval")


_COLUMNS: Final = """
    SELECT name, type, "notnull" AND dflt_value IS NULL AND NOT pk, hidden > 1, pk
    FROM pragma_table_xinfo(?1)
"""


def _read_bool(text: str) -> bool:
    return text == "t"


def _read_float(text: str) -> float | str:
    # SQLite makes NULL of NaN.
    return text if text == "NaN" else float(text)


def _read_bytes(text: str) -> bytes:
    return bytes.fromhex(text[2:])


_CONVERTERS: Final[dict[str, Convert]] = {
    "bool": _read_bool,
    "bytea": _read_bytes,
    "float4": _read_float,
    "float8": _read_float,
    "int2": int,
    "int4": int,
    "int8": int,
    "oid": int,
}


class SqliteTarget(Target):
    """A SQLite file as the target.

    Args:
        path: the file.

    Raises:
        TargetError: from each method, if SQLite refuses.
    """

    mark = "?"
    checkpoints = "realtime_copy"

    def __init__(self, path: str) -> None:
        try:
            self._connection = sqlite3.connect(path, timeout=_PATIENCE)
        except sqlite3.Error as exc:
            raise TargetError(f"the target {path!r} cannot be opened: {exc}") from exc

    def table(self, relation: Relation) -> TargetTable | None:
        rows, _ = self.run(_COLUMNS, [relation.table])
        columns = {
            name: TargetColumn(
                declared or "no type", partial(_is_misfit, declared), is_required, is_generated
            )
            for name, declared, is_required, is_generated, _ in rows
        }
        key = tuple(row[0] for row in rows if row[4])
        return TargetTable(quote_identifier(relation.table), columns, key) if rows else None

    def converters(self, relation: Relation) -> Iterable[Convert | None]:
        return [_CONVERTERS.get(_type_of(column)) for column in relation.columns]

    def has(self, table: str) -> bool:
        return bool(self.run("SELECT 1 FROM sqlite_master WHERE name = ?1", [table])[0])

    def run(self, query: str, values: Sequence[Any] = ()) -> tuple[list[tuple[Any, ...]], int]:
        with _errors():
            cursor = self._connection.execute(query, values)
            return cursor.fetchall(), cursor.rowcount

    def fill(self, plan: TablePlan, rows: Sequence[Sequence[Any]]) -> None:
        self.execute([(plan.insert, rows)])

    def execute(self, steps: Steps) -> None:
        for statement, rows in steps:
            with _errors():
                cursor = self._connection.executemany(statement.sql, rows)
            check_found(statement, len(rows), cursor.rowcount)

    def end(self, *, commit: bool) -> None:
        with _errors():
            (self._connection.commit if commit else self._connection.rollback)()

    def close(self) -> None:
        self._connection.close()


@contextmanager
def _errors() -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OverflowError) as exc:
        raise TargetError(f"the target refused: {exc}") from exc


def _type_of(column: Column) -> str:
    """Return the name of a built-in type; an empty one for all others."""
    return column.type_name if column.type_schema == "pg_catalog" else ""


def _affinity(declared: str) -> str:
    upper = declared.upper()
    for affinity, parts in _AFFINITIES:
        if any(part in upper for part in parts):
            return affinity
    return "NUMERIC" if declared else "NONE"


def _is_misfit(declared: str, column: Column) -> bool:
    affinity, type_name = _affinity(declared), _type_of(column)
    convert = _CONVERTERS.get(type_name)
    if convert in (int, _read_bool):
        fits = "INTEGER NUMERIC"
    elif convert is _read_float:
        fits = "REAL NUMERIC"
    elif type_name == "bytea":
        fits = ""
    else:
        # Of other types, text that looks like a number would become one.
        fits = "TEXT NUMERIC" if type_name in _TIMES else "TEXT"
    return affinity not in ("NONE", *fits.split())
