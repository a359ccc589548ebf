"""Makes objects of an application's own classes of rows, with cattrs.

cattrs generates a function for each class, which takes the Python values of a row. The hooks below
let a value through only if it is of the attribute's type, and convert what PostgreSQL has no Python
type for: enums, and composites, which come as texts.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterator
from datetime import date, datetime, time
from decimal import Decimal
from functools import cache
from types import UnionType
from typing import Any, Final, TypeVar, Union, get_args, get_origin, is_typeddict
from uuid import UUID

import attrs
from cattrs import BaseValidationError, ClassValidationError, Converter
from cattrs.errors import AttributeValidationNote, IterableValidationNote

from .errors import RowStructureError, ValueConversionError
from .records import UNCHANGED, Record, Unchanged

__all__ = ["structure"]

T = TypeVar("T")

_WIDER: Final[dict[type, tuple[type, ...]]] = {
    float: (float, int, Decimal),
    Decimal: (Decimal, int),
}
"""The types of values that an attribute takes besides its own: no value of theirs is changed by
more than a float's precision."""
_FROM_TEXT: Final[dict[type, Callable[[str], Any]]] = {
    bool: {"t": True, "f": False}.__getitem__,
    int: int,
    float: float,
    Decimal: Decimal,
    date: date.fromisoformat,
    datetime: datetime.fromisoformat,
    time: time.fromisoformat,
    UUID: UUID,
}
"""How the text of a composite's field becomes a value."""


def structure(record: Record, kind: type[T]) -> T:
    """Make an object of a class of a row: see :meth:`Record.structure`."""
    try:
        values = record.as_python()
    except ValueConversionError:
        # It is an error only if the class has an attribute for it.
        values = {name: record[name] for name in _fields(kind) if name in record}
    if is_typeddict(kind):
        # It would keep the others.
        values = {name: values[name] for name in _fields(kind) if name in values}
    try:
        return _converter().structure(values, kind)
    except ClassValidationError as exc:
        raise _error(record, kind, values, exc) from exc


def _error(
    record: Record, kind: type, values: dict[str, Any], exc: ClassValidationError
) -> RowStructureError:
    # The first problem, at the bottom of the groups that cattrs makes of problems.
    column, *path = _places(exc)
    table = record.shape.table
    if column not in values:
        return RowStructureError(
            table, column, None, f"the row has no such column, which {kind.__name__} needs"
        )
    problem: BaseException = exc
    while isinstance(problem, BaseValidationError):
        problem = problem.exceptions[0]
    place = f", at {'.'.join(path)} of it" if path else ""
    return RowStructureError(table, column, type(values[column]), f"{problem}{place}")


def _places(exc: BaseException) -> Iterator[str]:
    """Yield the attributes and indexes that lead to the first problem."""
    while isinstance(exc, BaseValidationError):
        exc = exc.exceptions[0]
        for note in getattr(exc, "__notes__", ()):
            if isinstance(note, AttributeValidationNote):
                yield note.name
            elif isinstance(note, IterableValidationNote):
                yield str(note.index)


@cache
def _converter() -> Converter:
    """Return the converter of rows, whose values are Python's."""
    converter = Converter()
    _take_only_their_own(converter)
    converter.register_structure_hook_func(_has_unchanged, _structure_unchanged)
    converter.register_structure_hook_func(_is_enum, _structure_enum)
    converter.register_structure_hook_factory(_is_class, _class_hook)
    return converter


@cache
def _text_converter() -> Converter:
    """Return the converter of composites, whose values are texts."""
    converter = Converter()
    for kind, convert in _FROM_TEXT.items():
        converter.register_structure_hook(kind, _text_hook(kind, convert))
    converter.register_structure_hook_func(lambda kind: kind is str, _structure_exactly)
    converter.register_structure_hook_func(_is_enum, _structure_enum)
    converter.register_structure_hook_factory(_is_class, _class_hook)
    return converter


def _take_only_their_own(converter: Converter) -> None:
    for kind in (bool, int, float, str, bytes, Decimal, date, datetime, time, UUID):
        converter.register_structure_hook(kind, _structure_exactly)
    # Types of which nothing is known, such as psycopg's ranges and ipaddress's networks.
    converter.register_structure_hook_func(_is_other, _structure_instance)


def _structure_exactly(value: Any, kind: type) -> Any:
    # A bool is no int here, and a datetime no date.
    if type(value) is kind:
        return value
    if type(value) in _WIDER.get(kind, ()):
        return kind(value)
    raise TypeError(f"{_said(value)} is no {kind.__name__}")


def _structure_instance(value: Any, kind: Any) -> Any:
    origin = get_origin(kind) or kind
    if isinstance(value, origin):
        return value
    raise TypeError(f"{_said(value)} is no {getattr(origin, '__name__', origin)}")


def _structure_enum(value: Any, kind: type[enum.Enum]) -> enum.Enum:
    """Find the member whose value is PostgreSQL's label, or else the one of that name."""
    try:
        return kind(value)
    except ValueError:
        if isinstance(value, str) and value in kind.__members__:
            return kind[value]
        raise ValueError(
            f"{_said(value)} is neither a value nor a name of {kind.__name__}"
        ) from None


def _structure_unchanged(value: Any, kind: Any) -> Any:
    if value is UNCHANGED:
        return value
    rest: Any = Union[tuple(arg for arg in get_args(kind) if arg is not Unchanged)]  # noqa: UP007
    return _converter().structure(value, rest)


def _class_hook(kind: type, converter: Converter) -> Callable[[Any, Any], Any]:
    structure_values: Callable[[Any, Any], Any]
    if is_typeddict(kind):
        structure_values = converter.gen_structure_typeddict(kind)
    else:
        structure_values = converter.gen_structure_attrs_fromdict(kind)
    names = _fields(kind)

    def hook(value: Any, kind: Any) -> Any:
        if isinstance(value, str):
            texts = _fields_of_composite(value)
            if len(texts) != len(names):
                raise ValueError(
                    f"a composite of {len(texts)} fields is no {kind.__name__}, "
                    f"which has {len(names)}"
                )
            return _text_converter().structure(dict(zip(names, texts, strict=True)), kind)
        if not isinstance(value, dict):
            raise TypeError(f"{_said(value)} is no {kind.__name__}")
        return structure_values(value, kind)

    return hook


def _text_hook(kind: type, convert: Callable[[str], Any]) -> Callable[[Any, Any], Any]:
    def hook(value: Any, _: Any) -> Any:
        try:
            return convert(value)
        except (KeyError, TypeError, ArithmeticError):
            raise ValueError(f"{_said(value)} is no {kind.__name__}") from None

    return hook


def _fields(kind: Any) -> list[str]:
    """Return the names of a class's attributes, in their order."""
    if attrs.has(kind):
        return [field.name for field in attrs.fields(kind)]
    if dataclasses.is_dataclass(kind):
        return [field.name for field in dataclasses.fields(kind)]
    return list(kind.__annotations__)


def _fields_of_composite(text: str) -> list[str | None]:
    """Split a composite's text, as "Composite Type Input and Output Syntax" describes it."""
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


def _said(value: Any) -> str:
    if value is None:
        return "NULL"
    if value is UNCHANGED:
        return "UNCHANGED, which the message does not carry,"
    return f"{value!r} of type {type(value).__name__}"


def _is_class(kind: Any) -> bool:
    return isinstance(kind, type) and (
        attrs.has(kind) or dataclasses.is_dataclass(kind) or is_typeddict(kind)
    )


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, enum.Enum)


def _has_unchanged(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType) and Unchanged in get_args(kind)


def _is_other(kind: Any) -> bool:
    origin = get_origin(kind) or kind
    return isinstance(origin, type) and origin.__module__.partition(".")[0] in (
        "psycopg",
        "ipaddress",
    )
