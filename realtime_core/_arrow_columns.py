"""Which Arrow type a column of PostgreSQL has, and how its texts become an Arrow array.

Arrow parses the texts of numbers, dates and times itself, a column at a time, which takes a
fraction of the time of a Python value each. Only if it refuses some is each tried by itself, to
find them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeAlias
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from .errors import ValueConversionError
from .records import Column, Field, Unchanged
from .types.arrays import split_array

__all__ = ["arrow_type", "to_array"]

Texts: TypeAlias = Sequence[str | None]
Reader: TypeAlias = Callable[[Texts], Any]
"""Makes an Arrow array of texts; raises ValueError if one of them does not fit."""

_TYPES: Final = {
    "bool": pa.bool_(),
    "bytea": pa.binary(),
    "date": pa.date32(),
    "float4": pa.float32(),
    "float8": pa.float64(),
    "int2": pa.int16(),
    "int4": pa.int32(),
    "int8": pa.int64(),
    "oid": pa.uint32(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us"),
    "timestamptz": pa.timestamp("us", "UTC"),
    "uuid": pa.uuid(),
}
_NUMERIC_HEADER: Final = 4
"""What ``atttypmod`` has besides precision and scale: VARHDRSZ."""
_MOST_DIGITS: Final = 76
"""The most digits of an Arrow decimal."""


def arrow_type(column: Column) -> Any:
    """Return the Arrow type of a column; a type that Arrow has nothing like is a string."""
    name = column.type_name
    # Types outside of it are users' own, whatever their names are: enums, composites, extensions.
    if column.type_schema != "pg_catalog":
        return pa.string()
    if name.startswith("_"):
        return pa.list_(_scalar_type(name[1:], column.type_modifier))
    return _scalar_type(name, column.type_modifier)


def to_array(
    column: Column, kind: Any, fields: Sequence[Field], on_error: str, *, table: str
) -> Any:
    """Make an Arrow array of a column's fields; UNCHANGED becomes null.

    Args:
        column: the column.
        kind: its Arrow type, or the type of strings.
        fields: its field of each row.
        on_error: what is done with a value that the type cannot hold: ``"raise"`` or ``"null"``.
        table: the table's name, for errors.

    Raises:
        ValueConversionError: if a field is binary, or is a value that the type cannot hold.
    """
    kinds = set(map(type, fields))
    if bytes in kinds:
        reason = "a binary field cannot be put into Arrow; start the stream without binary"
        raise ValueConversionError(column.name, column.type_name, None, reason, table=table)
    texts: Any = fields
    if Unchanged in kinds:
        texts = [None if type(field) is Unchanged else field for field in fields]
    read = _reader(column, kind)
    try:
        return read(texts)
    except ValueError:
        parts = [_one(column, read, text, on_error, table) for text in texts]
        return _together(kind, parts)


def _one(column: Column, read: Reader, text: str | None, on_error: str, table: str) -> Any:
    try:
        return read((text,))
    except ValueError as exc:
        if on_error == "null":
            return read((None,))
        reason = f"Arrow's type for it cannot hold the value: {exc}"
        raise ValueConversionError(
            column.name, column.type_name, text, reason, table=table
        ) from exc


def _together(kind: Any, parts: Sequence[Any]) -> Any:
    if isinstance(kind, pa.BaseExtensionType):
        storage = pa.concat_arrays([part.storage for part in parts])
        return pa.ExtensionArray.from_storage(kind, storage)
    return pa.concat_arrays(parts)


def _scalar_type(name: str, modifier: int) -> Any:
    if name == "numeric" and modifier >= _NUMERIC_HEADER:
        precision = (modifier - _NUMERIC_HEADER) >> 16 & 0xFFFF
        scale = ((modifier - _NUMERIC_HEADER & 0x7FF) ^ 1024) - 1024
        # Since PostgreSQL 15 the scale may be larger than the precision, or negative.
        digits = max(precision, scale)
        if scale >= 0 and digits <= _MOST_DIGITS:
            make = pa.decimal128 if digits <= 38 else pa.decimal256
            return make(digits, scale)
    return _TYPES.get(name, pa.string())


def _reader(column: Column, kind: Any) -> Reader:
    if pa.types.is_list(kind):
        delimiter = ";" if column.type_name == "_box" else ","
        return partial(_read_lists, _scalar_reader(kind.value_type), kind, delimiter)
    return _scalar_reader(kind)


def _scalar_reader(kind: Any) -> Reader:
    if kind == _TYPES["uuid"]:
        return _read_uuids
    if pa.types.is_boolean(kind):
        return _read_bools
    if pa.types.is_binary(kind):
        return _read_bytes
    if pa.types.is_time(kind):
        return _read_times
    if pa.types.is_string(kind):
        return partial(pa.array, type=kind)
    return partial(_read_by_arrow, kind)


def _read_by_arrow(kind: Any, texts: Texts) -> Any:
    return pa.array(texts, pa.string()).cast(kind)


def _read_bools(texts: Texts) -> Any:
    return pc.equal(pa.array(texts, pa.string()), "t")


def _read_times(texts: Texts) -> Any:
    # Arrow reads no time of day alone.
    moments = pc.binary_join_element_wise("1970-01-01", pa.array(texts, pa.string()), " ")
    return moments.cast(pa.timestamp("us")).cast(_TYPES["time"])


def _read_bytes(texts: Texts) -> Any:
    # bytea_output is hex in the sources' sessions.
    values = [None if text is None else bytes.fromhex(text[2:]) for text in texts]
    return pa.array(values, _TYPES["bytea"])


def _read_uuids(texts: Texts) -> Any:
    values = [None if text is None else UUID(text).bytes for text in texts]
    return pa.ExtensionArray.from_storage(_TYPES["uuid"], pa.array(values, pa.binary(16)))


def _read_lists(read: Reader, kind: Any, delimiter: str, texts: Texts) -> Any:
    offsets: list[int | None] = []
    items: list[str | None] = []
    for text in texts:
        if text is None:
            offsets.append(None)
            continue
        elements, lengths, _ = split_array(text, delimiter)
        if len(lengths) > 1:
            raise ValueError(f"an array of {len(lengths)} dimensions is no list")
        offsets.append(len(items))
        items.extend(elements)
    offsets.append(len(items))
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), read(items), type=kind)
