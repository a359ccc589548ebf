"""Reads the texts of values for which psycopg has no Python type, for :mod:`._structure`.

PostgreSQL sends a composite, and an array or a range of an application's own type, as one text. The
classes that it shall become say of which types its parts are.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import json
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import cache
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, get_type_hints, is_typeddict
from uuid import UUID

import attrs

from .oids import BUILTIN_TYPES
from .types.arrays import split_array
from .types.python_values import make_converter
from .types.ranges import split_multirange, split_range

__all__ = [
    "COLLECTIONS",
    "SCALARS",
    "as_array",
    "as_composite",
    "as_range",
    "as_scalar",
    "fields_of",
    "has_text_form",
    "is_class",
    "is_collection",
    "is_pydantic",
    "is_range",
    "is_tuple_of_several",
    "split_composite",
    "unpacked",
]

COLLECTIONS: Final[dict[Any, Callable[[list[Any]], Any]]] = {
    list: list,
    tuple: tuple,
    set: set,
    frozenset: frozenset,
    collections.abc.Sequence: list,
}
"""What an array can become; a tuple is of one type, and of any length."""


def _hex(text: str) -> bytes:
    if text[:2] != "\\x":
        raise ValueError("bytea_output of the session is not hex")
    return bytes.fromhex(text[2:])


def _interval(text: str) -> timedelta:
    (oid,) = (oid for oid, name in BUILTIN_TYPES.items() if name == "interval")
    value: timedelta = make_converter("", oid, "interval", "pg_catalog")(text)
    return value


SCALARS: Final[dict[Any, Callable[[str], Any]]] = {
    bool: {"t": True, "f": False}.__getitem__,
    int: int,
    float: float,
    bytes: _hex,
    Decimal: Decimal,
    date: date.fromisoformat,
    datetime: datetime.fromisoformat,
    time: time.fromisoformat,
    timedelta: _interval,
    UUID: UUID,
    dict: json.loads,
}
"""What makes a value of a text, by the type of the value."""


def has_text_form(kind: Any) -> bool:
    """Say whether :func:`as_scalar` makes values of a type."""
    kind = get_origin(kind) or kind
    return kind in SCALARS or getattr(kind, "__module__", "") == "ipaddress"


def as_scalar(text: Any, kind: Any) -> Any:
    """Return the value of a text.

    Raises:
        ValueError: if it is none of that type.
    """
    kind = get_origin(kind) or kind
    try:
        return SCALARS.get(kind, kind)(text)
    except (KeyError, TypeError, ArithmeticError, AttributeError):
        said = "NULL" if text is None else repr(text)
        raise ValueError(f"{said} is no {kind.__name__}") from None


def as_array(text: str) -> list[Any]:
    """Return the elements of an array, as texts or None, in lists of lists if it has dimensions.

    Raises:
        ValueError: if the text is no array.
    """
    try:
        elements, lengths, _ = split_array(text)
    except ValueError as exc:
        raise ValueError(f"{text!r} is no array: {exc}") from None
    items: list[Any] = list(elements)
    for length in lengths[:0:-1]:
        items = [items[at : at + length] for at in range(0, len(items), length)]
    return items


def as_range(text: str, kind: Any, structure: Callable[[str, Any], Any]) -> Any:
    """Return a range or multirange of psycopg's.

    Args:
        text: PostgreSQL's text of it.
        kind: ``Range[date]``, ``Multirange[date]`` and the like.
        structure: makes a bound of its text and type.

    Raises:
        ValueError: if the text is none.
    """
    from psycopg.types.range import Range

    bound: Any = (get_args(kind) or (str,))[0]

    def read(lower: str | None, upper: str | None, bounds: str) -> Any:
        ends = [None if end is None else structure(end, bound) for end in (lower, upper)]
        return Range(ends[0], ends[1], bounds)

    origin = get_origin(kind) or kind
    is_single = issubclass(origin, Range)
    try:
        parts = [split_range(text)] if is_single else split_multirange(text)
    except ValueError:
        raise ValueError(f"{text!r} is no {origin.__name__}") from None
    ranges = [Range(empty=True) if part is None else read(*part) for part in parts]
    return ranges[0] if is_single else origin(ranges)


def as_composite(text: str, kind: Any) -> tuple[dict[str, Any], bool]:
    """Return the fields of a composite, or of a JSON object, by the names of a class's attributes.

    Returns:
        The fields, and whether they are texts.

    Raises:
        ValueError: if the text is neither, or a composite of more or fewer fields.
    """
    if text.startswith("{"):
        return json.loads(text), False
    texts, names = split_composite(text), list(fields_of(kind))
    if len(texts) != len(names):
        raise ValueError(
            f"a composite of {len(texts)} fields is no {kind.__name__}, which has {len(names)}"
        )
    return dict(zip(names, texts, strict=True)), True


def unpacked(value: Any, kind: Any) -> Any:
    """Return a value with composites and arrays in it as dicts and lists, for pydantic's validator.

    Args:
        value: a row's values by column, or one of the values.
        kind: the class that it shall become; any other type leaves it as it is.
    """
    if get_origin(kind) in (Union, UnionType):
        kinds = [arg for arg in get_args(kind) if is_class(arg) or is_collection(arg)]
        return unpacked(value, kinds[0]) if kinds else value
    if is_class(kind):
        if isinstance(value, str) and value.startswith("("):
            value = as_composite(value, kind)[0]
        if not isinstance(value, dict):
            return value
        fields = fields_of(kind)
        return {name: unpacked(each, fields.get(name)) for name, each in value.items()}
    if is_collection(kind):
        if isinstance(value, str) and value[:1] in ("{", "["):
            value = as_array(value)
        if isinstance(value, list):
            return [unpacked(each, (get_args(kind) or (Any,))[0]) for each in value]
    return value


def is_pydantic(kind: Any) -> bool:
    """Say whether it is a model or a dataclass of pydantic's."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__")


def is_class(kind: Any) -> bool:
    """Say whether it is a class whose attributes are known."""
    return isinstance(kind, type) and (
        attrs.has(kind) or dataclasses.is_dataclass(kind) or is_typeddict(kind) or is_pydantic(kind)
    )


def is_collection(kind: Any) -> bool:
    """Say whether an array can become one."""
    return (get_origin(kind) or kind) in COLLECTIONS and not is_tuple_of_several(kind)


def is_tuple_of_several(kind: Any) -> bool:
    """Say whether it is a tuple with a type for each of its places, or a NamedTuple."""
    if get_origin(kind) is tuple:
        return get_args(kind)[1:] != (Ellipsis,)
    return isinstance(kind, type) and issubclass(kind, tuple) and hasattr(kind, "_fields")


def is_range(kind: Any) -> bool:
    """Say whether it is psycopg's Range or Multirange."""
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and origin.__module__ in (
        "psycopg.types.range",
        "psycopg.types.multirange",
    )


def fields_of(kind: Any) -> dict[str, Any]:
    """Return the names and types of a class's attributes, in their order; for pydantic aliases."""
    return _fields_of(kind)


@cache
def _fields_of(kind: Any) -> dict[str, Any]:
    if attrs.has(kind):
        return {field.name: field.type for field in attrs.fields(attrs.resolve_types(kind))}
    if hasattr(kind, "model_fields"):
        return {
            alias if isinstance(alias := field.validation_alias, str) else name: field.annotation
            for name, field in kind.model_fields.items()
        }
    hints = get_type_hints(kind)
    if dataclasses.is_dataclass(kind):
        return {field.name: hints[field.name] for field in dataclasses.fields(kind)}
    return hints


def split_composite(text: str) -> list[str | None]:
    """Split a composite's text, as "Composite Type Input and Output Syntax" describes it.

    Raises:
        ValueError: if it is none.
    """
    if not (text.startswith("(") and text.endswith(")")):
        raise ValueError(f"{text!r} is no composite")
    fields: list[str | None] = []
    field: str | None = None
    quoted = False
    at, end = 1, len(text) - 1
    while at < end:
        char = text[at]
        if quoted and char in '"\\' and text[at + 1 : at + 2] == char and at + 1 < end:
            field = (field or "") + char
            at += 1
        elif char == '"':
            quoted = not quoted
            field = field or ""
        elif char == "," and not quoted:
            fields.append(field)
            field = None
        else:
            field = (field or "") + char
        at += 1
    fields.append(field)
    return fields
