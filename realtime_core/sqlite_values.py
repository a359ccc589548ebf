"""What SQLite stores of PostgreSQL's values, and which of its types keep them as they are.

SQLite converts values by the type that a column is declared with: text that looks like a number
becomes one in all columns but those of TEXT and BLOB, or without a type. See "Type Affinity" in
SQLite's documentation.
"""

from __future__ import annotations

from typing import Final

from .changes import Relation
from .records import Column
from .sql import Convert

__all__ = ["converters", "keeps_values"]


def _read_float(text: str) -> float | str:
    # SQLite makes NULL of NaN.
    return text if text == "NaN" else float(text)


_TYPES: Final[dict[str, tuple[Convert | None, tuple[str, ...]]]] = {
    "bool": ("t".__eq__, ("INTEGER", "NUMERIC")),
    "bytea": (lambda text: bytes.fromhex(text[2:]), ()),
    **dict.fromkeys(("int2", "int4", "int8", "oid"), (int, ("INTEGER", "NUMERIC"))),
    **dict.fromkeys(("float4", "float8"), (_read_float, ("REAL", "NUMERIC"))),
    **dict.fromkeys(("date", "time", "timetz"), (None, ("TEXT", "NUMERIC"))),
    **dict.fromkeys(("timestamp", "timestamptz", "interval"), (None, ("TEXT", "NUMERIC"))),
}
"""What makes the values of built-in types, and the affinities besides BLOB that keep them."""


_AFFINITIES: Final = {
    "INTEGER": ("INT",),
    "TEXT": ("CHAR", "CLOB", "TEXT"),
    "BLOB": ("BLOB",),
    "REAL": ("REAL", "FLOA", "DOUB"),
}
"""The first affinity counts of which the declared type has a part in its name."""


def converters(relation: Relation) -> dict[str, Convert]:
    """Return what makes values for SQLite of PostgreSQL's texts, by column.

    Booleans and integers become integers, floating-point numbers REAL but for NaN, and bytea bytes.
    Columns that are not named stay the texts that PostgreSQL sends: numeric keeps every digit.
    """
    found = {column.name: _type(column)[0] for column in relation.columns}
    return {name: convert for name, convert in found.items() if convert is not None}


def keeps_values(declared: str, column: Column) -> bool:
    """Return whether SQLite keeps the values of a column as they are.

    Args:
        declared: the type of SQLite's column, as in ``CREATE TABLE``; empty for none.
        column: PostgreSQL's column.
    """
    words = declared.upper()
    affinity = next(
        (found for found, parts in _AFFINITIES.items() if any(part in words for part in parts)),
        "NUMERIC" if words else "BLOB",
    )
    return affinity in ("BLOB", *_type(column)[1])


def _type(column: Column) -> tuple[Convert | None, tuple[str, ...]]:
    # Elsewhere, text that looks like a number would become one.
    name = column.type_name if column.type_schema == "pg_catalog" else ""
    return _TYPES.get(name, (None, ("TEXT",)))
