"""Record: the row of a change, converted only where it is looked at.

A row arrives as text. Most consumers read a few columns of a few rows, so a
record keeps the fields as they came, together with the shape that every row of
its relation shares, and converts a field when it is asked for.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeAlias

import attrs

from .errors import ValueConversionError
from .values import Converter, make_converter

__all__ = ["UNCHANGED", "Column", "Field", "Record", "Shape", "Unchanged"]


class Unchanged(enum.Enum):
    """The type of :data:`UNCHANGED`."""

    UNCHANGED = "UNCHANGED"

    def __repr__(self) -> str:
        return self.value


UNCHANGED: Final = Unchanged.UNCHANGED
"""Stands for a TOASTed value that an UPDATE did not touch and PostgreSQL did not send.

It is not NULL: the row has a value there, only this message does not carry it.
"""

Field: TypeAlias = str | bytes | Unchanged | None
"""One field of a tuple: text, binary (``binary 'true'``), NULL, or unchanged TOAST."""


@attrs.frozen
class Column:
    """A column, as the stream describes it."""

    name: str
    type_oid: int
    """OID of the column's own type; of a domain, the domain's. 0 (InvalidOid) where the format
    does not tell: wal2json without ``include-type-oids``."""
    type_name: str
    """``pg_type.typname``: ``int4``, ``_text`` for an array; of a domain, its base type's."""
    type_schema: str
    """Empty where the format does not tell: wal2json, for a type that is not built in."""
    type_modifier: int
    """``atttypmod``; -1 when the type takes none."""
    is_key: bool
    """Whether the column belongs to the replica identity. Under FULL, all do."""


class Shape:
    """What all rows with the same columns share: names, their places, converters."""

    __slots__ = ("columns", "converters", "index", "names")

    def __init__(self, columns: tuple[Column, ...]) -> None:
        self.columns = columns
        self.names = tuple(column.name for column in columns)
        self.index = {name: place for place, name in enumerate(self.names)}
        # Made at the first typed access: decoding alone needs no driver.
        self.converters: list[Converter | None] = [None] * len(columns)

    def convert(self, place: int, value: str | bytes) -> Any:
        converter = self.converters[place]
        if converter is None:
            column = self.columns[place]
            converter = make_converter(
                column.name, column.type_oid, column.type_name, column.type_schema
            )
            self.converters[place] = converter
        return converter(value)


class Record(Mapping[str, Any]):
    """A row as a mapping from column name to Python value.

    ``record["id"]`` converts as psycopg does: int, Decimal, datetime, list…; NULL is
    None; unchanged TOAST is :data:`UNCHANGED`.

    Two records are equal when their columns' names and undecoded fields are.

    Raises:
        KeyError: for a column that this record does not have.
        ValueConversionError: from typed access, when Python cannot hold the value
            (``infinity``, years before 1 or after 9999, ``24:00:00``).
    """

    __slots__ = ("fields", "shape")

    def __init__(self, shape: Shape, fields: tuple[Field, ...]) -> None:
        self.shape = shape
        self.fields = fields
        """The undecoded fields, in the order of ``shape.columns``."""

    def __getitem__(self, name: str) -> Any:
        place = self.shape.index[name]
        value = self.fields[place]
        if value is None or value is UNCHANGED:
            return value
        return self.shape.convert(place, value)

    def __iter__(self) -> Iterator[str]:
        return iter(self.shape.names)

    def __len__(self) -> int:
        return len(self.fields)

    def __contains__(self, name: object) -> bool:
        return name in self.shape.index

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Record):
            return self.shape.names == other.shape.names and self.fields == other.fields
        return Mapping.__eq__(self, other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        pairs = (f"{name}={field!r}" for name, field in zip(self, self.fields, strict=True))
        return f"Record({', '.join(pairs)})"

    def raw(self, name: str) -> Field:
        """Return the field as it came: text, bytes of a binary tuple, None or UNCHANGED."""
        return self.fields[self.shape.index[name]]

    def text(self, name: str) -> str | Unchanged | None:
        """Return PostgreSQL's text of the field, None, or UNCHANGED.

        Raises:
            KeyError: for a column that this record does not have.
            ValueConversionError: if the field was sent in binary, which has no text.
        """
        place = self.shape.index[name]
        return self._text(place)

    def as_text(self) -> dict[str, str | Unchanged | None]:
        """Return all fields as :meth:`text` does."""
        return {name: self._text(place) for place, name in enumerate(self.shape.names)}

    def as_python(self) -> dict[str, Any]:
        """Return all fields as ``record[name]`` does."""
        return {name: self[name] for name in self.shape.names}

    def _text(self, place: int) -> str | Unchanged | None:
        value = self.fields[place]
        if isinstance(value, bytes):
            column = self.shape.columns[place]
            raise ValueConversionError(
                column.name,
                column.type_name,
                None,
                "a binary field has no text; start the stream without binary",
            )
        return value
