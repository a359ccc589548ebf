"""Errors for arguments of a wrong type or name, which say what is wanted."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from ..positions import Position

__all__ = ["check_names", "check_start", "position_of", "strings", "type_of"]


def type_of(value: object) -> str:
    """Return the name of a value's type with its article, as "an int"."""
    if value is None:
        return "None"
    name = type(value).__name__
    return f"{'an' if name[0] in 'aeiouAEIO' or name == 'LSN' else 'a'} {name}"


def check_names(owner: type, names: Iterable[str], options: Iterable[str]) -> None:
    """Raise TypeError for the first name that is not the name of an option.

    Args:
        owner: the class whose keyword arguments are options, too.
        names: the names that were given.
        options: the names of the common options.
    """
    for name in names:
        if name in options:
            continue
        parameters = inspect.signature(owner).parameters.values()
        own = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
        known = sorted({*options, *own})
        close = get_close_matches(name, known, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(known)}"
        raise TypeError(f"{owner.__name__} has no option {name!r}: {hint}")


def check_start(start: object, *, is_answer: bool = False) -> None:
    """Raise TypeError unless ``start_at`` is a Position, None, or a function.

    Args:
        start: the argument, or what the function has returned.
        is_answer: whether the function has returned it.
    """
    if start is None or isinstance(start, Position) or (callable(start) and not is_answer):
        return
    remedy = ": Position.parse() reads what str(position) wrote" if isinstance(start, str) else ""
    wanted = "a Position, or None as long as none is stored"
    if is_answer:
        raise TypeError(f"the function start_at returns {wanted}, not {type_of(start)}{remedy}")
    raise TypeError(
        f"start_at is {wanted}, or a function that returns it, not {type_of(start)}{remedy}"
    )


def strings(name: str, value: Any) -> tuple[str, ...]:
    """Return the strings of an argument, each once and sorted.

    Raises:
        TypeError: if the argument is no iterable of strings, or is a string itself.
    """
    if isinstance(value, str):
        raise TypeError(f"{name} is a list of str, not a str: use [{value!r}]")
    try:
        items = list(value)
    except TypeError:
        raise TypeError(f"{name} is a list of str, not {type_of(value)}") from None
    for item in items:
        if not isinstance(item, str):
            raise TypeError(f"{name} has {item!r}: it takes str")
    return tuple(sorted(set(items)))


def position_of(upto: object) -> Position:
    """Return the position up to which an argument of ``ack()`` acknowledges.

    Raises:
        TypeError: if it has no position.
    """
    position = upto if isinstance(upto, Position) else getattr(upto, "position", None)
    if isinstance(position, Position):
        return position
    remedy = ""
    if isinstance(upto, list):
        remedy = ": acknowledge the last one"
    elif isinstance(upto, str):
        remedy = ": Position.parse() reads what str(position) wrote"
    raise TypeError(
        f"ack() takes an event, a CommittedTransaction or a Position, not {type_of(upto)}{remedy}"
    )
