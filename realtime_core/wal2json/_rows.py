"""Turns the columns and values of a row in wal2json's JSON into columns and fields of a record."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

from ..errors import DecodeError
from ..records import Column, Field
from ._numbers import unsigned_32
from ._types import parse_type

__all__ = ["NO_COLUMNS", "Names", "JsonRow", "Signature", "bytea_places", "columns_of", "fields_of"]

Names: TypeAlias = tuple[str, ...]

Signature: TypeAlias = tuple[Names, Names | None, Names | None]
"""The names, the types and the types' OIDs of a row's columns, as they are written; None for the
types or OIDs if the options leave them out."""

JsonRow: TypeAlias = tuple[Signature, Sequence[Any]]
"""The signature of a row's columns, and its values as JSON has them."""

NO_COLUMNS: Final[Signature] = ((), None, None)

_HEX: Final = re.compile(r"[0-9a-fA-F]*+").fullmatch


def columns_of(signature: Signature) -> tuple[Column, ...]:
    """Return the columns that a signature describes. None of them is marked as a key yet.

    Raises:
        DecodeError: if a name or a type is not a string, or two columns have the same name.
    """
    names, types, oids = signature
    texts = types if types is not None else ("",) * len(names)
    for text in (*names, *texts):
        if not isinstance(text, str):
            raise DecodeError("the name of a column or type is not a string")
    if len(set(names)) != len(names):
        raise DecodeError("two columns of a row have the same name")
    numbers = [0] * len(names) if oids is None else [unsigned_32(oid, "typeoid") for oid in oids]
    if not len(names) == len(texts) == len(numbers):
        raise DecodeError(
            f"a row has {len(names)} names, {len(texts)} types and {len(numbers)} types' OIDs"
        )
    columns = []
    for name, text, oid in zip(names, texts, numbers, strict=True):
        kind = parse_type(text, oid)
        columns.append(Column(name, oid, kind.name, kind.schema, kind.modifier, False))
    return tuple(columns)


def bytea_places(columns: tuple[Column, ...]) -> tuple[int, ...]:
    """Return the places of the columns whose type is bytea."""
    return tuple(
        place
        for place, column in enumerate(columns)
        if column.type_name == "bytea" and column.type_schema == "pg_catalog"
    )


def fields_of(values: Sequence[Any], bytea: tuple[int, ...]) -> tuple[Field, ...]:
    """Return PostgreSQL's texts of a row's values.

    Args:
        values: as JSON has them, with numbers as strings.
        bytea: the places of columns of type bytea, whose ``\\x`` wal2json leaves out.
    """
    # Numbers are strings already, so most values are fields as they are.
    fields = [
        value if value.__class__ is str or value is None else _boolean(value) for value in values
    ]
    for place in bytea:
        value = fields[place]
        if value is not None:
            fields[place] = _bytea_text(value)
    return tuple(fields)


def _boolean(value: Any) -> str:
    if value is True:
        return "t"
    if value is False:
        return "f"
    raise DecodeError("a value is a list or an object")


def _bytea_text(value: str) -> str:
    # In format 2, with include-domain-data-type, a domain's value keeps its prefix.
    digits = value.removeprefix("\\x")
    if len(digits) % 2 or _HEX(digits) is None:
        raise DecodeError(
            "a bytea value is not hexadecimal: wal2json cuts off its first two characters, so the "
            "session that reads the slot must have bytea_output = 'hex'"
        )
    return f"\\x{digits}"
