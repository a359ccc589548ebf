"""Converts the fields of rows to Python values, as psycopg does.

A function of the standard library reads the texts of the most common types: see
:func:`text_function`. psycopg has a loader for every other type. This module finds that loader, and
raises :exc:`~realtime_core.errors.ValueConversionError` for whatever it refuses. psycopg is
imported at the first conversion, so that a program that only decodes does not need it.

Binary fields, and texts of arrays with backslashes, are checked before they are loaded. psycopg's
loaders are written for what libpq returns: those in C read past the end of a number that is too
short, and write past the end of an element that ends with a backslash.

There is no connection whose settings would say how to read a text. It is read as the sessions of
the sources write it, which set DateStyle to ISO, IntervalStyle to postgres and TimeZone to UTC.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from math import inf, prod
from struct import Struct
from types import FunctionType
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .._implementation import IMPLEMENTATION
from ..errors import ValueConversionError
from ..oids import BUILTIN_TYPES
from .intervals import written_fields

if TYPE_CHECKING:
    from psycopg.abc import AdaptContext, Buffer, Transformer
    from psycopg.abc import Loader as AbstractLoader

__all__ = ["Converter", "builtin_type", "make_converter", "text_function"]

Converter: TypeAlias = Callable[[str | bytes], Any]
"""Converts one field, a text or the bytes of a binary one, to its Python value."""

_OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}

# The least and the most bytes that a binary value of a type may have.
_SIZES: Final[dict[str, tuple[int, float]]] = {
    "bool": (1, 1),
    "date": (4, 4),
    "float4": (4, 4),
    "float8": (8, 8),
    "int2": (2, 2),
    "int4": (4, 4),
    "int8": (8, 8),
    "interval": (16, 16),
    "numeric": (8, inf),
    "oid": (4, 4),
    "time": (8, 8),
    "timestamp": (8, 8),
    "timestamptz": (8, 8),
    "timetz": (12, 12),
    "uuid": (16, 16),
}

_array_head: Final = Struct("!iiI")
_array_bound: Final = Struct("!ii")
_array_item: Final = Struct("!i")
_MAX_DIMENSIONS: Final = 6

# PostgreSQL quotes each element that has a backslash (its documentation, section "Array Input and
# Output Syntax"). This takes time in proportion to the text's length, whatever that has.
_has_escapes_in_quotes: Final = re.compile(
    r"""(?: (?: \[ -?\d+ : -?\d+ \] )+ = )? \{
    (?: [^{"\\]++ | (?<= [{,] ) (?: \{ | "(?: [^"\\]++ | \\. )*+" ) )*+""",
    re.DOTALL | re.VERBOSE,
).fullmatch

_unpack_interval: Final = Struct("!qii").unpack


def make_converter(
    column: str, type_oid: int, type_name: str, type_schema: str, *, table: str = ""
) -> Converter:
    """Return the function that converts the fields of one column.

    Values of a domain are converted as those of its base type, whose name the stream gives. Values
    of a type that psycopg does not know, such as an enum, stay texts.

    Args:
        column: the column's name, for errors.
        type_oid: the OID of its type; of a domain, the domain's.
        type_name: ``pg_type.typname``; of a domain, its base type's.
        type_schema: the schema of the type that ``type_name`` names.
        table: the table's name, for errors.
    """
    from psycopg.pq import Format

    oid = _base_type(type_oid, type_name, type_schema)
    transformer = _transformer()
    info = transformer.adapters.types.get(oid)
    is_array = info is not None and info.oid != oid
    load_text = transformer.get_loader(oid, Format.TEXT).load
    load_binary = (
        transformer.get_loader(oid, Format.BINARY).load if _has_binary_loader(oid) else None
    )

    def convert(value: str | bytes) -> Any:
        try:
            if isinstance(value, str):
                if is_array and "\\" in value and not _has_escapes_in_quotes(value):
                    raise ValueError("malformed array: a backslash is outside of quotes")
                return load_text(value.encode())
            if load_binary is not None:
                return load_binary(value)
        except Exception as exc:
            # psycopg's Error is not the only one: deeply nested JSON raises RecursionError, an
            # interval too long for timedelta OverflowError, a binary field too short struct.error.
            text = value if isinstance(value, str) else None
            raise ValueConversionError(column, type_name, text, str(exc), table=table) from exc
        reason = "no binary loader for this type"
        raise ValueConversionError(column, type_name, None, reason, table=table)

    return convert


def text_function(type_oid: int, type_name: str, type_schema: str) -> Callable[[str], Any] | None:
    """Return a function that converts most texts of a type; None if there is none.

    The function returns what psycopg's loader would return. If it raises anything at all, the
    caller has to ask the loader, which may be able to read the text, and otherwise says what is
    wrong with it. A loader takes 0.3 µs, and ``int`` alone a tenth of that.

    Args:
        type_oid: the OID of a column's type; of a domain, the domain's.
        type_name: ``pg_type.typname``; of a domain, its base type's.
        type_schema: the schema of the type that ``type_name`` names.
    """
    oid = _base_type(type_oid, type_name, type_schema)
    if oid in BUILTIN_TYPES:
        function = _TEXT_FUNCTIONS.get(BUILTIN_TYPES[oid])
        if IMPLEMENTATION == "c" and (function is None or isinstance(function, FunctionType)):
            from realtime_core_c.values import text_function

            return text_function(BUILTIN_TYPES[oid], function)
        return function
    from psycopg.pq import Format

    # Values of types that psycopg does not know, such as enums, stay texts.
    return None if _transformer().adapters.get_loader(oid, Format.TEXT) else str


def builtin_type(type_oid: int, type_name: str, type_schema: str) -> str:
    """Return the name of a column's type, or of its domain's base type; "" if it is not built in.

    Args:
        type_oid: as for :func:`text_function`.
        type_name: as for :func:`text_function`.
        type_schema: as for :func:`text_function`.
    """
    return BUILTIN_TYPES.get(_base_type(type_oid, type_name, type_schema), "")


def _base_type(type_oid: int, type_name: str, type_schema: str) -> int:
    """Return the OID of a domain's base type; of any other type, its own.

    The stream gives a domain's own OID with the name of its base type.
    """
    if type_oid not in BUILTIN_TYPES and type_schema == "pg_catalog":
        return _OIDS.get(type_name, type_oid)
    return type_oid


def _bytea(text: str) -> bytes:
    if text[:2] != "\\x":
        raise ValueError("bytea_output of the session is not hex")
    return bytes.fromhex(text[2:])


def _json(text: str) -> Any:
    value, end = _read_json(text)
    if end != len(text):
        raise ValueError("something follows the JSON value")
    return value


def _timestamptz(text: str) -> datetime:
    if text[-3:] != "+00":
        raise ValueError("the time zone of the session is not UTC")
    return datetime.fromisoformat(text)


# Takes half as long as json.loads, which looks for white space and for options.
_read_json: Final = json.JSONDecoder().raw_decode
_TEXT_FUNCTIONS: Final[dict[str, Callable[[str], Any]]] = {
    "bool": {"t": True, "f": False}.__getitem__,
    "bpchar": str,
    "bytea": _bytea,
    "date": date.fromisoformat,
    "float4": float,
    "float8": float,
    "int2": int,
    "int4": int,
    "int8": int,
    "json": _json,
    "jsonb": _json,
    "name": str,
    "numeric": Decimal,
    "oid": int,
    "text": str,
    "timestamp": datetime.fromisoformat,
    "timestamptz": _timestamptz,
    "varchar": str,
}


def _has_binary_loader(oid: int) -> bool:
    """Say whether psycopg can load binary values of a type, and of its elements if it is an array.

    psycopg would return bytes for elements of a type that it does not know.
    """
    from psycopg.pq import Format

    adapters = _transformer().adapters
    info = adapters.types.get(oid)
    element_oid = info.oid if info is not None else oid
    return all(
        adapters.get_loader(needed, Format.BINARY) is not None for needed in {oid, element_oid}
    )


@cache
def _transformer() -> Transformer:
    """Return psycopg's Transformer, with other loaders for intervals and for binary values."""
    import psycopg
    from psycopg.adapt import AdaptersMap, Loader, RecursiveLoader, Transformer
    from psycopg.pq import Format
    from psycopg.types import TypeInfo

    # Without a connection psycopg's loader in Python reads no text of an interval. The one in C
    # reads 'infinity' as an interval of zero, and lets large binary values overflow.
    class IntervalLoader(Loader):
        def load(self, data: Buffer) -> timedelta:
            return _interval_from_text(bytes(data))

    class IntervalBinaryLoader(Loader):
        format = Format.BINARY

        def load(self, data: Buffer) -> timedelta:
            microseconds, days, months = _unpack_interval(data)
            return _interval(months, days, microseconds)

    class SizedBinaryLoader(Loader):
        """Passes a value of the right size to psycopg's own loader."""

        format = Format.BINARY

        def __init__(self, oid: int, context: AdaptContext | None = None) -> None:
            super().__init__(oid, context)
            self._least, self._most = _SIZES[BUILTIN_TYPES[oid]]
            self._load = loaders[oid](oid, context).load

        def load(self, data: Buffer) -> Any:
            if not self._least <= len(data) <= self._most:
                raise ValueError(f"{len(data)} bytes are no value of this type")
            return self._load(data)

    class ArrayBinaryLoader(RecursiveLoader):
        format = Format.BINARY

        def load(self, data: Buffer) -> list[Any]:
            element_oid, lengths, items = _array_items(bytes(data))
            info = self._tx.adapters.types.get(self.oid)
            if info is None or element_oid != info.oid:
                raise ValueError(f"an array of another type, {element_oid}")
            load = self._tx.get_loader(element_oid, Format.BINARY).load
            values = [None if item is None else load(item) for item in items]
            for length in reversed(lengths[1:]):
                values = [values[at : at + length] for at in range(0, len(values), length)]
            return values

    class Context:
        adapters = AdaptersMap(psycopg.adapters)
        connection = None

    adapters = Context.adapters
    # The only built-in type that psycopg does not know, which matters for arrays of it.
    TypeInfo("pg_snapshot", _OIDS["pg_snapshot"], _OIDS["_pg_snapshot"]).register(Context())
    adapters.register_loader("interval", IntervalLoader)
    adapters.register_loader("interval", IntervalBinaryLoader)

    loaders: dict[int, type[AbstractLoader]] = {}
    for name in _SIZES:
        loader = adapters.get_loader(_OIDS[name], Format.BINARY)
        assert loader is not None
        loaders[_OIDS[name]] = loader
        adapters.register_loader(_OIDS[name], SizedBinaryLoader)
    for info in adapters.types:
        if info.array_oid:
            adapters.register_loader(info.array_oid, ArrayBinaryLoader)
    return Transformer(Context())


def _array_items(data: bytes) -> tuple[int, list[int], list[bytes | None]]:
    """Return the OID of a binary array's element type, its lengths, and its elements.

    The lengths are those of the dimensions, from the outermost to the innermost.
    """
    dimensions, _, element_oid = _array_head.unpack_from(data)
    if not 0 <= dimensions <= _MAX_DIMENSIONS:
        raise ValueError(f"an array has no {dimensions} dimensions")
    at = _array_head.size
    lengths = []
    for _ in range(dimensions):
        lengths.append(_array_bound.unpack_from(data, at)[0])
        at += _array_bound.size
    count = prod(lengths) if lengths else 0
    # Each element has at least four bytes, so a length that is too large shows before any loop.
    if any(length < 1 for length in lengths) or count > (len(data) - at) // _array_item.size:
        raise ValueError(f"an array of {len(data)} bytes cannot have dimensions {lengths}")
    items: list[bytes | None] = []
    for _ in range(count):
        (length,) = _array_item.unpack_from(data, at)
        at += _array_item.size
        if length == -1:
            items.append(None)
            continue
        if not 0 <= length <= len(data) - at:
            raise ValueError(f"an element of {length} bytes in an array of {len(data)}")
        items.append(data[at : at + length])
        at += length
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes left over at the end of an array")
    return element_oid, lengths, items


def _interval_from_text(data: bytes) -> timedelta:
    text = data.decode()
    fields = written_fields(text)
    if fields is None:
        raise ValueError(f"timedelta cannot hold {text!r}")
    return _interval(*fields)


def _interval(months: int, days: int, microseconds: int) -> timedelta:
    """Return the timedelta that psycopg makes, with 30 days for a month and 365 for a year."""
    years, rest = divmod(abs(months), 12)
    months_days = 365 * years + 30 * rest
    if months < 0:
        months_days = -months_days
    return timedelta(days=days + months_days, microseconds=microseconds)
