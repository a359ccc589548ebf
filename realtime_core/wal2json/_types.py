"""Turns the names of types that ``format_type()`` writes into those of ``pg_type``.

wal2json writes ``character varying(10)``, ``timestamp(3) with time zone[]``, ``"Odd name"`` or,
in format 1 without ``include-typmod``, the plain ``typname``. See "format_type" in
PostgreSQL's src/backend/utils/adt/format_type.c.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final, NamedTuple

from ..oids import BUILTIN_TYPES

__all__ = ["Type", "can_be_toasted", "parse_type"]


class Type(NamedTuple):
    """A type, with the names that pgoutput's decoder gives it."""

    name: str
    """``pg_type.typname``."""
    schema: str
    """``pg_catalog`` for a built-in type; empty where wal2json does not write it."""
    modifier: int
    """``atttypmod``, such as the length of a varchar; -1 if the type has none."""


UNKNOWN: Final = Type("", "", -1)

_BUILTIN: Final = frozenset(BUILTIN_TYPES.values())
_SQL_NAMES: Final = {
    "bigint": "int8",
    "bit varying": "varbit",
    "boolean": "bool",
    "character": "bpchar",
    "character varying": "varchar",
    "double precision": "float8",
    "integer": "int4",
    "real": "float4",
    "smallint": "int2",
    "time with time zone": "timetz",
    "time without time zone": "time",
    "timestamp with time zone": "timestamptz",
    "timestamp without time zone": "timestamp",
}
_FORMATTED: Final = re.compile(
    r"(?P<name>.+?)(?:\((?P<modifier>[^()]*)\))?(?P<zone> with(?:out)? time zone)?(?P<array>\[\])?",
    re.S,
)
_IDENTIFIER: Final = r'"(?:[^"]|"")+"|[^".]+'
_QUALIFIED: Final = re.compile(rf"(?:(?P<schema>{_IDENTIFIER})\.)?(?P<name>{_IDENTIFIER})", re.S)
_NUMBERS: Final = re.compile(r"(-?\d{1,5})(?:,(-?\d{1,5}))?|(\d{1,9})", re.ASCII)

# Bits of an interval's fields, from PostgreSQL's src/include/utils/timestamp.h and datetime.h.
_FIELDS: Final = {"month": 1, "year": 2, "day": 3, "hour": 10, "minute": 11, "second": 12}
_FIELDS_IN_ORDER: Final = ("year", "month", "day", "hour", "minute", "second")
_FULL_RANGE: Final = 0x7FFF
_FULL_PRECISION: Final = 0xFFFF
_PRECISIONS: Final = frozenset("0123456")

_NAME_BYTES: Final = 63

# The built-in types whose pg_type.typlen is positive: their values are never TOASTed. Those of
# all other types may be.
# fmt: off
_FIXED_LENGTH: Final = frozenset(
    (
        "bool", "char", "name", "int8", "int2", "int4", "oid", "tid", "xid", "cid", "xid8",
        "pg_lsn", "float4", "float8", "money", "date", "time", "timetz", "timestamp",
        "timestamptz", "interval", "uuid", "macaddr", "macaddr8", "point", "lseg", "box",
        "line", "circle", "aclitem", "regproc", "regprocedure", "regoper", "regoperator",
        "regclass", "regtype", "regconfig", "regdictionary", "regnamespace", "regrole",
        "regcollation",
    )
)
# fmt: on


def can_be_toasted(name: str, schema: str) -> bool:
    """Say whether values of a type can be TOASTed.

    If so, an UPDATE may leave out such a column because its value is unchanged.
    """
    return schema != "pg_catalog" or name not in _FIXED_LENGTH


@lru_cache(maxsize=4096)
def parse_type(text: str, oid: int) -> Type:
    """Read a type as wal2json writes it.

    Args:
        text: the type's name as ``format_type()`` writes it; empty without ``include-types``.
        oid: the type's OID, by which a built-in type is known for certain; 0 without
            ``include-type-oids``.
    """
    if not text:
        return Type(BUILTIN_TYPES[oid], "pg_catalog", -1) if oid in BUILTIN_TYPES else UNKNOWN
    parts = _FORMATTED.fullmatch(text)
    assert parts is not None  # the name alone can be anything
    name, zone, modifier = parts["name"], parts["zone"] or "", parts["modifier"] or ""
    if name == "interval" or name.startswith("interval "):
        name, typmod = "interval", _interval_modifier(name.removeprefix("interval"), modifier)
    else:
        name = _SQL_NAMES.get(name + zone, name + zone)
        typmod = _modifier(name, modifier)
    if oid in BUILTIN_TYPES:
        return Type(BUILTIN_TYPES[oid], "pg_catalog", typmod)
    schema, name = _split(name)
    if parts["array"]:
        # PostgreSQL cuts the name of an array's type to what a name can hold.
        name = f"_{name}".encode(errors="replace")[:_NAME_BYTES].decode(errors="ignore")
    if not schema and name in _BUILTIN:
        schema = "pg_catalog"
    return Type(name, schema, typmod)


def _split(name: str) -> tuple[str, str]:
    """Split a name that may be qualified and quoted into schema and name."""
    parts = _QUALIFIED.fullmatch(name)
    if parts is None:
        return "", name
    return _unquote(parts["schema"] or ""), _unquote(parts["name"])


def _unquote(identifier: str) -> str:
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return identifier


def _modifier(name: str, text: str) -> int:
    numbers = _NUMBERS.fullmatch(text)
    if numbers is None:
        return -1
    first = int(numbers[1] or numbers[3])
    match name:
        case "varchar" | "bpchar":
            return first + 4
        case "numeric":
            return (first << 16 | int(numbers[2] or 0) & 0x7FF) + 4
        case "bit" | "varbit" | "time" | "timetz" | "timestamp" | "timestamptz":
            return first
    return -1


def _interval_modifier(fields: str, precision: str) -> int:
    names = fields.split(" to ")
    first, last = names[0].strip(), names[-1].strip()
    if not first:
        mask = _FULL_RANGE
    elif first in _FIELDS and last in _FIELDS:
        begin, end = _FIELDS_IN_ORDER.index(first), _FIELDS_IN_ORDER.index(last)
        mask = sum(1 << _FIELDS[name] for name in _FIELDS_IN_ORDER[begin : end + 1])
    else:
        return -1
    if mask == _FULL_RANGE and not precision:
        return -1
    return mask << 16 | (int(precision) if precision in _PRECISIONS else _FULL_PRECISION)
