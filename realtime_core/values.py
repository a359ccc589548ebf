"""Fields to Python values, through psycopg's loaders.

psycopg knows the built-in types already, so this module only finds the loader and
gives its refusals one face, :exc:`~realtime_core.errors.ValueConversionError`. The
driver is imported at the first typed access: decoding alone does without.

There is no connection whose settings tell how a text is to be read: it is taken as the
sources' pinned sessions write it (DateStyle ISO, IntervalStyle postgres, TimeZone UTC).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from struct import Struct
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from .errors import ValueConversionError
from .oids import BUILTIN_TYPES

if TYPE_CHECKING:
    from psycopg.abc import Buffer, Transformer

__all__ = ["Converter", "make_converter"]

Converter: TypeAlias = Callable[[str | bytes], Any]
"""Takes one field, text or binary, and returns its Python value."""

_OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}

_unpack_interval: Final = Struct("!qii").unpack
_INTERVAL: Final = re.compile(
    rb"(?:(?P<years>[-+]?\d+) years? ?)?"
    rb"(?:(?P<months>[-+]?\d+) mons? ?)?"
    rb"(?:(?P<days>[-+]?\d+) days? ?)?"
    rb"(?:(?P<sign>[-+])?(?P<hours>\d+):(?P<minutes>\d\d):(?P<seconds>\d\d)(?:\.(?P<fraction>\d{1,6}))?)?"
)


def make_converter(column: str, type_oid: int, type_name: str, type_schema: str) -> Converter:
    """Return the function that converts one column's fields.

    A domain converts as its base type, whose name the stream gives. Types that psycopg
    does not know, enums among them, stay text.
    """
    from psycopg.pq import Format

    oid = type_oid
    if oid not in BUILTIN_TYPES and type_schema == "pg_catalog":
        oid = _OIDS.get(type_name, type_oid)
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
    """Return psycopg's converter, with its defaults but for intervals."""
    import psycopg
    from psycopg.adapt import AdaptersMap, Loader, Transformer
    from psycopg.pq import Format

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

    class Context:
        adapters = AdaptersMap(psycopg.adapters)
        connection = None

    Context.adapters.register_loader("interval", IntervalLoader)
    Context.adapters.register_loader("interval", IntervalBinaryLoader)
    return Transformer(Context())


def _interval_from_text(data: bytes) -> timedelta:
    match = _INTERVAL.fullmatch(data)
    if match is None or not data:
        raise ValueError(f"timedelta cannot hold {data.decode(errors='replace')!r}")
    years, months, days, hours, minutes, seconds = (
        int(match[name] or 0) for name in ("years", "months", "days", "hours", "minutes", "seconds")
    )
    microseconds = ((hours * 60 + minutes) * 60 + seconds) * 1_000_000
    microseconds += int((match["fraction"] or b"").ljust(6, b"0"))
    if match["sign"] == b"-":
        microseconds = -microseconds
    return _interval(12 * years + months, days, microseconds)


def _interval(months: int, days: int, microseconds: int) -> timedelta:
    """Return what psycopg does: a month has 30 days, a year 365."""
    years, rest = divmod(abs(months), 12)
    months_days = 365 * years + 30 * rest
    if months < 0:
        months_days = -months_days
    return timedelta(days=days + months_days, microseconds=microseconds)
