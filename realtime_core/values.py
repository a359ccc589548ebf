"""Fields to Python values, as psycopg does.

The commonest types' texts are what a function of the standard library reads; see
:func:`text_function`. For all else psycopg has a loader, so this module only finds it and
gives its refusals one face, :exc:`~realtime_core.errors.ValueConversionError`. The
driver is imported at the first typed access: decoding alone does without.

Binary fields are checked before they are loaded: psycopg's loaders are made for what libpq
hands over, and the C ones read past the end of a number that is cut, or crash.

There is no connection whose settings tell how a text is to be read: it is taken as the
sources' pinned sessions write it (DateStyle ISO, IntervalStyle postgres, TimeZone UTC).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime, timedelta
from decimal import Decimal
from functools import cache
from math import inf, prod
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .errors import ValueConversionError
from .oids import BUILTIN_TYPES
from .types.intervals import written_fields

if TYPE_CHECKING:
    from psycopg.abc import AdaptContext, Buffer, Transformer
    from psycopg.abc import Loader as AbstractLoader

__all__ = ["Converter", "make_converter", "text_function"]

Converter: TypeAlias = Callable[[str | bytes], Any]
"""Takes one field, text or binary, and returns its Python value."""

_OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}

# Bytes of a binary value: the least, and the most.
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

_unpack_interval: Final = Struct("!qii").unpack


def make_converter(column: str, type_oid: int, type_name: str, type_schema: str) -> Converter:
    """Return the function that converts one column's fields.

    A domain converts as its base type, whose name the stream gives. Types that psycopg
    does not know, enums among them, stay text.
    """
    from psycopg.pq import Format

    oid = _base_type(type_oid, type_name, type_schema)
    transformer = _transformer()
    load_text = transformer.get_loader(oid, Format.TEXT).load
    load_binary = (
        transformer.get_loader(oid, Format.BINARY).load if _has_binary_loader(oid) else None
    )

    def convert(value: str | bytes) -> Any:
        try:
            if isinstance(value, str):
                return load_text(value.encode())
            if load_binary is not None:
                return load_binary(value)
        except Exception as exc:
            # Not only psycopg's Error: deeply nested JSON is a RecursionError, an interval
            # past timedelta an OverflowError, a binary field cut short a struct.error.
            text = value if isinstance(value, str) else None
            raise ValueConversionError(column, type_name, text, str(exc)) from exc
        raise ValueConversionError(column, type_name, None, "no binary loader for this type")

    return convert


def text_function(type_oid: int, type_name: str, type_schema: str) -> Callable[[str], Any] | None:
    """Return what converts the common texts of a type without more ado, if there is such.

    What it returns is what psycopg's loader would; where it raises, whatever it raises, that
    loader decides: it may know more (and says what is wrong). The way through a loader takes
    0.3 µs, ``int`` alone a tenth of that.
    """
    oid = _base_type(type_oid, type_name, type_schema)
    if oid in BUILTIN_TYPES:
        return _TEXT_FUNCTIONS.get(BUILTIN_TYPES[oid])
    from psycopg.pq import Format

    # Whatever nobody has told psycopg of, enums among it, stays text.
    return None if _transformer().adapters.get_loader(oid, Format.TEXT) else str


def _base_type(type_oid: int, type_name: str, type_schema: str) -> int:
    """Return a domain's base type, which its name is; any other type as it is."""
    if type_oid not in BUILTIN_TYPES and type_schema == "pg_catalog":
        return _OIDS.get(type_name, type_oid)
    return type_oid


def _json(text: str) -> Any:
    value, end = _read_json(text)
    if end != len(text):
        raise ValueError("something behind it")
    return value


def _timestamptz(text: str) -> datetime:
    if text[-3:] != "+00":
        raise ValueError("not as a pinned session writes it")
    return datetime.fromisoformat(text)


# Half of what json.loads takes, which looks for spaces around and for options.
_read_json: Final = json.JSONDecoder().raw_decode
_TEXT_FUNCTIONS: Final[dict[str, Callable[[str], Any]]] = {
    "bool": {"t": True, "f": False}.__getitem__,
    "bpchar": str,
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
    """Say whether psycopg converts the type's binary form; for an array, its elements'.

    psycopg would return elements that it does not know as bytes.
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
    """Return psycopg's converter, with its defaults but for intervals and binary forms."""
    import psycopg
    from psycopg.adapt import AdaptersMap, Loader, RecursiveLoader, Transformer
    from psycopg.pq import Format
    from psycopg.types import TypeInfo

    # Without a connection psycopg's own loader reads no text (Python implementation) or reads
    # 'infinity' as an interval of nothing (C implementation, which also wraps in binary).
    class IntervalLoader(Loader):
        def load(self, data: Buffer) -> timedelta:
            return _interval_from_text(bytes(data))

    class IntervalBinaryLoader(Loader):
        format = Format.BINARY

        def load(self, data: Buffer) -> timedelta:
            microseconds, days, months = _unpack_interval(data)
            return _interval(months, days, microseconds)

    class SizedBinaryLoader(Loader):
        """Loads what has the right size, by the loader that psycopg has for it."""

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
    # The only built-in type that psycopg has not heard of; it matters for arrays.
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
    """Take a binary array apart: its elements' type, the length of each dimension, and them."""
    dimensions, _, element_oid = _array_head.unpack_from(data)
    if not 0 <= dimensions <= _MAX_DIMENSIONS:
        raise ValueError(f"an array has no {dimensions} dimensions")
    at = _array_head.size
    lengths = []
    for _ in range(dimensions):
        lengths.append(_array_bound.unpack_from(data, at)[0])
        at += _array_bound.size
    count = prod(lengths) if lengths else 0
    # Each has four bytes at least: nothing is made of a length that cannot be true.
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
    """Return what psycopg does: a month has 30 days, a year 365."""
    years, rest = divmod(abs(months), 12)
    months_days = 365 * years + 30 * rest
    if months < 0:
        months_days = -months_days
    return timedelta(days=days + months_days, microseconds=microseconds)
