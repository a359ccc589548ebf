"""JSON: documents, paths into them, and the order and containment of jsonb.

A value of type ``json`` is treated like ``to_jsonb`` of it. Keys are in the order of jsonb's B-tree
indexes: objects are greater than arrays, then come booleans, numbers, strings and null. Of two
objects or arrays the one with more items is greater; otherwise their items are compared. A document
that is an empty array is less than anything else.

Source: "jsonb Indexing" and "jsonb Containment and Existence" in the PostgreSQL documentation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import cached_property
from json.encoder import encode_basestring
from typing import Any, Final, NoReturn, TypeAlias

from .base import Compare, DataType, UnreadableError
from .numbers import NUMERIC_SCALE, parse_numeric

__all__ = ["JSON", "JSONB", "json_path", "read_document"]

Document: TypeAlias = Any
"""A dict, list, str, :class:`_Number` or bool, or None for JSON's null."""

Parsed: TypeAlias = tuple[Document, dict[tuple[int, bool], Any]]
"""A document, and the keys and texts that were made of its parts, for other paths to the same
part."""

Ordered: TypeAlias = tuple[Any, ...]
"""A key: the rank of the value's type, then whatever orders the values of that type."""

_NULL, _STRING, _NUMBER, _BOOL, _ARRAY, _OBJECT = 0, 1, 2, 3, 16, 17
_EMPTY_AT_THE_TOP: Final = -1
_SHORT: Final = 100
"""Digits of a number that takes little time to read."""
_MOST_LEVELS: Final = 200
"""The most objects and arrays within each other. Without this bound Python's own would apply, which
depends on how deep its stack is already."""


class _Items(tuple[Any, ...]):
    """The elements of an array, in their order."""

    @cached_property
    def present(self) -> frozenset[Any]:
        """The elements, each once. The set is made once for all filters."""
        return frozenset(self)

    @cached_property
    def containers(self) -> list[Any]:
        """The arrays and objects among the elements."""
        return [item for item in self if item[0] in (_ARRAY, _OBJECT)]


class _TooDeepError(UnreadableError):
    """Says that a document has too many levels."""

    def __init__(self) -> None:
        super().__init__(f"it is nested more than {_MOST_LEVELS} levels deep")


class _Number(str):
    """A number, as the text that it is written in."""

    __slots__ = ()


def _refuse_constant(name: str) -> NoReturn:
    raise UnreadableError(f"{name} is not JSON")


_decode: Final = json.JSONDecoder(
    parse_int=_Number, parse_float=_Number, parse_constant=_refuse_constant
).decode


def read_document(text: str) -> Parsed:
    """Parse a JSON document.

    Raises:
        ValueError: if the text is not JSON, or nested too deeply.
    """
    try:
        return _decode(text), {}
    except RecursionError:
        raise UnreadableError("it is nested too deeply") from None


def json_path(path: Sequence[str | int], *, as_text: bool) -> Callable[[Parsed], Any]:
    """Return a function that takes a document and returns the part that a path leads to.

    The function returns the key of the part, or its text if the path ends with ``->>``. It returns
    None, for NULL, if the path leads to nothing.

    Args:
        path: object keys, and places in arrays.
        as_text: whether the path ends with ``->>``.
    """
    finish = _text if as_text else _top

    def follow(parsed: Parsed) -> Any:
        value, made = parsed
        for key in path:
            if isinstance(key, str):
                if not isinstance(value, dict) or key not in value:
                    return None
                value = value[key]
            elif isinstance(value, dict):
                return None
            else:
                # For jsonb a scalar is like an array that has it as its element.
                items = value if isinstance(value, list) else [value]
                if not -len(items) <= key < len(items):
                    return None
                value = items[key]
        if not (
            isinstance(value, (dict, list)) or (type(value) is _Number and len(value) > _SHORT)
        ):
            return finish(value)
        # The document keeps its parts alive, so nothing else has the same id().
        part = (id(value), as_text)
        if part not in made:
            try:
                made[part] = finish(value)
            except _TooDeepError:
                _note_deep(value, made)
        if made[part] is _TOO_DEEP:
            raise _TooDeepError
        return made[part]

    return follow


_TOO_DEEP: Final = object()
"""Stands for the key and the text of a part that is nested too deeply."""


def _note_deep(part: Document, made: dict[tuple[int, bool], Any]) -> None:
    """Note which objects and arrays of a part, and whether the part itself, have too many levels.

    Otherwise each path to another one of them would take the time to find that out again.
    """
    level = [part]
    levels = []
    while level:
        levels.append(level)
        level = [
            item
            for each in level
            for item in (each.values() if isinstance(each, dict) else each)
            if isinstance(item, (dict, list))
        ]
    heights: dict[int, int] = {}
    for level in reversed(levels):
        for each in level:
            items = each.values() if isinstance(each, dict) else each
            height = 1 + max((heights.get(id(item), 0) for item in items), default=0)
            heights[id(each)] = height
            if height > _MOST_LEVELS:
                made[id(each), True] = made[id(each), False] = _TOO_DEEP


def _text(value: Document) -> str | None:
    """Return what ``->>`` returns: a string itself, jsonb's text of another value, None for
    null."""
    if value is None or type(value) is str:
        return value
    return _dump(value)


def _dump(value: Document, room: int = _MOST_LEVELS) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case _Number():
            if value.isdigit():
                return value
            number = parse_numeric(value)
            # jsonb's numbers are numeric, which has no exponent and no negative zero.
            text = f"{number:f}"
            return text if number else _zero(value)
        case str():
            return encode_basestring(value)
        case _ if not room:
            raise _TooDeepError
        case list():
            return f"[{', '.join([_dump(item, room - 1) for item in value])}]"
        case _:
            pairs = (
                f"{encode_basestring(key)}: {_dump(item, room - 1)}"
                for key, item in sorted(value.items(), key=_storage_order)
            )
            return f"{{{', '.join(pairs)}}}"


def _zero(text: str) -> str:
    """Return a zero with as many digits behind the decimal point as numeric keeps."""
    digits, _, exponent = text.lower().partition("e")
    scale = len(digits.partition(".")[2]) - int(exponent or 0)
    if scale > NUMERIC_SCALE:
        raise UnreadableError("a zero in it is out of range")
    return f"0.{'0' * scale}" if scale > 0 else "0"


def _storage_order(pair: tuple[str, Any]) -> tuple[int, bytes]:
    key = pair[0].encode()
    return len(key), key


def _key(value: Document, room: int = _MOST_LEVELS) -> Ordered:
    match value:
        case None:
            return (_NULL,)
        case bool():
            return (_BOOL, value)
        case _Number():
            return (_NUMBER, _number(value))
        case str():
            return (_STRING, value)
        case _ if not room:
            raise _TooDeepError
        case list():
            return (_ARRAY, len(value), _Items([_key(item, room - 1) for item in value]))
        case _:
            flat: list[Ordered | str] = []
            for key, item in sorted(value.items(), key=_storage_order):
                flat += (key, _key(item, room - 1))
            return (_OBJECT, len(value), tuple(flat))


def _number(text: str) -> Any:
    # Most numbers are short integers, and a document may have tens of thousands of them.
    return Decimal(text) if text.isdigit() and len(text) <= _SHORT else parse_numeric(text)


def _top(value: Document) -> Ordered:
    if value == [] and isinstance(value, list):
        return (_EMPTY_AT_THE_TOP, 0, _Items())
    return _key(value)


_MOST_LOOKS: Final = 15_000
"""The most values that one comparison with ``@>`` may look at, which takes 5 ms."""


def _contains(outer: Ordered, inner: Ordered) -> bool:
    """Say whether a document contains another one, ``@>``.

    At the top, an array contains a scalar if it is one of the elements.
    """
    arrays = (_ARRAY, _EMPTY_AT_THE_TOP)
    if outer[0] in arrays and inner[0] not in (*arrays, _OBJECT):
        return inner in outer[2].present
    return _contains_deep(outer, inner, [_MOST_LOOKS])


def _contains_deep(outer: Ordered, inner: Ordered, looks: list[int]) -> bool:
    """Say whether a part of a document contains a part of another one.

    ``looks`` has one number: how many values may still be looked at.
    """
    if inner[0] == _OBJECT:
        if outer[0] != _OBJECT or outer[1] < inner[1]:
            return False
        _look(outer, looks)
        pairs = _pairs(outer)
        return all(
            key in pairs and _contains_deep(pairs[key], item, looks)
            for key, item in _pairs(inner).items()
        )
    if inner[0] in (_ARRAY, _EMPTY_AT_THE_TOP):
        if outer[0] not in (_ARRAY, _EMPTY_AT_THE_TOP):
            return False
        _look(outer, looks)
        return all(
            item in outer[2].present
            or (
                item[0] in (_ARRAY, _OBJECT)
                and any(_contains_deep(each, item, looks) for each in outer[2].containers)
            )
            for item in inner[2]
        )
    return outer == inner


def _look(container: Ordered, looks: list[int]) -> None:
    # Each object and array in one array may have to be compared with each one in the other.
    looks[0] -= 1 + len(container[2])
    if looks[0] < 0:
        raise UnreadableError("comparing so many objects and arrays with each other takes too long")


def _pairs(value: Ordered) -> dict[str, Ordered]:
    flat = value[2]
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _contained(inner: Ordered, outer: Ordered) -> bool:
    return _contains(outer, inner)


def _parse(text: str) -> Ordered:
    try:
        value, _ = read_document(text)
    except json.JSONDecodeError as exc:
        raise ValueError(
            f"it is not JSON ({exc.msg}); compare text with ->>, as in data->>name=eq.Ann"
        ) from None
    return _top(value)


def _read(text: str) -> Ordered:
    return _top(read_document(text)[0])


_JSON_RELATIONS: Final[dict[str, Compare]] = {
    "@>": _contains,
    "<@": _contained,
}

JSONB: Final = DataType("jsonb", _read, _parse, relations=_JSON_RELATIONS)

JSON: Final = DataType(
    "json",
    _read,
    _parse,
    comparable=False,
    ordered=False,
    remedy="compare something inside, as in data->>name=eq.Ann",
)
