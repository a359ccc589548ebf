"""JSON as text: whether it is JSON at all, and where in it each value begins and ends.

What clients broadcast is relayed as the bytes that came, so that large numbers and the order of
members stay as they are. orjson does not tell where a value is; :mod:`json` does. Both are stricter
than RFC 8259 somewhere: orjson takes no lone surrogate, which JavaScript writes for half a
character, and no number beyond a double; :mod:`json` reads these, but takes NaN as well, if it is
not told otherwise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NoReturn

import orjson

__all__ = [
    "behind",
    "check_json",
    "end_of",
    "items",
    "load_leniently",
    "members",
    "read_value",
    "start_of",
]


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Numbers become floats, which have no limit on their digits.
_values: Final = json.JSONDecoder(parse_constant=_refuse, parse_int=float)
_whole: Final = json.JSONDecoder(parse_constant=_refuse)
_read: Final = _values.raw_decode
_blank: Final = re.compile(r"[ \t\n\r]*").match


def check_json(data: bytes) -> None:
    """Check that bytes are one JSON text.

    Raises:
        ValueError: if they are not.
    """
    try:
        orjson.loads(data)
    except orjson.JSONDecodeError:
        try:
            _values.decode(data.decode())
        except RecursionError as exc:
            raise ValueError("it is nested too deeply") from exc


def load_leniently(text: str) -> Any:
    """Read JSON that may have lone surrogates.

    Raises:
        ValueError: if it is no JSON, or nested too deeply.
    """
    try:
        return _whole.decode(text)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc


def start_of(text: str, at: int = 0) -> int:
    """Return where the next value begins, behind white space."""
    match = _blank(text, at)
    assert match is not None  # it matches nothing at all, too
    return match.end()


def behind(text: str, at: int) -> int:
    """Return where the next entry of an object or an array begins, or its bracket is.

    Args:
        text: JSON; it has been checked before.
        at: where the entry before it ends.
    """
    at = start_of(text, at)
    return start_of(text, at + 1) if text[at] == "," else at


def read_value(text: str, at: int) -> tuple[Any, int]:
    """Return a value, and where it ends.

    Args:
        text: JSON; it has been checked before.
        at: where the value begins.

    Raises:
        RecursionError: if it is nested too deeply.
    """
    return _read(text, at)


def end_of(text: str, at: int) -> int:
    """Return where a value ends.

    Args:
        text: JSON; it has been checked before.
        at: where the value begins.

    Raises:
        RecursionError: if it is nested too deeply.
    """
    return _read(text, at)[1]


def members(text: str, at: int) -> Iterator[tuple[str, Any, int, int]]:
    """Iterate over the members of an object: name, value, where the value begins and ends.

    Args:
        text: JSON; it has been checked before.
        at: where the object's brace is.

    Raises:
        RecursionError: if a value is nested too deeply.
    """
    at = start_of(text, at + 1)
    if text[at] == "}":
        return
    while True:
        name, at = _read(text, at)
        begin = start_of(text, start_of(text, at) + 1)
        value, end = _read(text, begin)
        yield name, value, begin, end
        at = start_of(text, end)
        if text[at] == "}":
            return
        at = start_of(text, at + 1)


def items(text: str, at: int) -> Iterator[tuple[Any, int, int]]:
    """Iterate over the items of an array: the value, where it begins and ends.

    Args:
        text: JSON; it has been checked before.
        at: where the array's bracket is.

    Raises:
        RecursionError: if a value is nested too deeply.
    """
    at = start_of(text, at + 1)
    if text[at] == "]":
        return
    while True:
        value, end = _read(text, at)
        yield value, at, end
        at = start_of(text, end)
        if text[at] == "]":
            return
        at = start_of(text, at + 1)
