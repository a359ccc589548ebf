"""Makes objects of classes of rows whose values fit, by one generated expression a table and class.

The expression converts the texts of a row and calls the class, without a dict or a check that the
column's type makes needless. For a row that it cannot make an object of it raises anything at all,
and :mod:`._structure` has another look, which says what is wrong if anything is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from datetime import date, datetime
from decimal import Decimal
from types import UnionType
from typing import Any, Final, Union, get_args, get_origin, is_typeddict

import attrs

from ._structure_texts import fields_of, is_pydantic
from .records import UNCHANGED, Shape

__all__ = ["arguments_of", "maker"]

_RESULTS: Final[dict[Any, type]] = {
    date.fromisoformat: date,
    datetime.fromisoformat: datetime,
    **{kind: kind for kind in (Decimal, float, int, str)},
}
"""What functions that convert texts return; they raise an error for None and for UNCHANGED."""


def maker(
    shape: Shape, kind: Any, hook_of: Callable[[Any], Callable[[Any, Any], Any]]
) -> Callable[..., Any] | None:
    """Return a function that makes an object of a row's fields, which must not be bytes.

    Args:
        shape: the shape of the rows.
        kind: the class.
        hook_of: returns for a type the function that makes it of a Python value and that type.

    Returns:
        The function; None if rows of that shape have to be looked at each time.
    """
    if is_pydantic(kind):
        return None
    types = fields_of(kind)
    names: dict[str, Any] = {"Kind": kind, "UNCHANGED": UNCHANGED, "refuse": _refuse}
    arguments = []
    for name, argument, needed in arguments_of(kind):
        place = shape.index.get(name)
        if place is not None and types[name] is not None:
            value = _expression(place, types[name], shape.text_function(place), names, hook_of)
            arguments.append((argument, value))
        elif needed or place is not None:
            return None
    if is_typeddict(kind):
        made = f"{{{', '.join([f'{name!r}: {value}' for name, value in arguments])}}}"
    else:
        made = f"Kind({', '.join([f'{name}={value}' for name, value in arguments])})"
    texts = ", ".join([f"t{place}" for place in range(len(shape.names))])
    function: Callable[..., Any] = eval(compile(f"lambda {texts}: {made}", "<rows>", "eval"), names)
    return function


def _expression(
    place: int,
    kind: Any,
    convert: Callable[[str], Any],
    names: dict[str, Any],
    hook_of: Callable[[Any], Callable[[Any, Any], Any]],
) -> str:
    """Return the expression for one attribute, and put what it calls into ``names``."""
    text = f"t{place}"
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    others = [each for each in kinds if each is not type(None)]
    may_be_null = len(others) < len(kinds)
    if others == [str] and convert is str:
        null = f" or {text} is None" if may_be_null else ""
        return f"{text} if type({text}) is str{null} else refuse()"
    names[f"f{place}"] = convert
    if others == [_RESULTS.get(convert)]:
        null = f"None if {text} is None else " if may_be_null else ""
        return f"{null}f{place}({text})"
    names[f"k{place}"], names[f"h{place}"] = kind, hook_of(kind)
    value = f"{text} if {text} is None or {text} is UNCHANGED else f{place}({text})"
    return f"h{place}({value}, k{place})"


def arguments_of(kind: Any) -> Iterator[tuple[str, str, bool]]:
    """Yield a class's attributes, what its ``__init__`` calls them, and whether it needs them."""
    if attrs.has(kind):
        for field in attrs.fields(kind):
            if field.init:
                yield field.name, field.alias or field.name, field.default is attrs.NOTHING
    elif dataclasses.is_dataclass(kind):
        missing = dataclasses.MISSING
        for each in dataclasses.fields(kind):
            if each.init:
                needed = each.default is missing and each.default_factory is missing
                yield each.name, each.name, needed
    else:
        for name in fields_of(kind):
            yield name, name, name in kind.__required_keys__


def _refuse() -> None:
    raise TypeError("the text is NULL or was not sent")
