"""Arrays: how their text is split into elements, their order, and containment.

Source: "Arrays", "Array Input and Output Syntax", in the PostgreSQL documentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from typing import Any, Final, TypeAlias

from .base import Compare, DataType, TextReader, UnreadableError

__all__ = ["ArrayText", "array_of", "split_array"]


class _Elements(tuple[Any, ...]):
    """The elements of an array, in their order."""

    @cached_property
    def distinct(self) -> frozenset[Any]:
        """The elements, each once. The set is made once for all filters."""
        return frozenset(self)

    @cached_property
    def present(self) -> frozenset[Any]:
        """The elements that are not NULL and so can be equal to something."""
        distinct = frozenset(self)
        return distinct - {_NULL} if _NULL in distinct else distinct


Array: TypeAlias = tuple[_Elements, int, tuple[int, ...], tuple[int, ...]]
"""The key of an array: its elements, the number of dimensions, their lengths and lower bounds.

In this order arrays compare as in PostgreSQL. An element is ``(0, key)``. NULL, which comes last,
is ``(1,)``.
"""

_Match: TypeAlias = Callable[[str, int], "re.Match[str] | None"]

ArrayText: TypeAlias = tuple[Sequence[str | None], tuple[int, ...], tuple[int, ...]]
"""An array's elements as texts without quotes and escapes, or None for NULL; the lengths of its
dimensions, the outermost first; and their lower bounds."""

_NULL: Final = (1,)
_MAX_DIMENSIONS: Final = 6
_BOUNDS: Final = re.compile(r"\s*((?:\[[+-]?\d{1,9}(?::[+-]?\d{1,9})?\])+)\s*=\s*", re.ASCII)
_BOUND: Final = re.compile(r"\[([+-]?\d+)(?::([+-]?\d+))?\]", re.ASCII)
_SPACE: Final = " \t\n\r\v\f"
# One dimension without quotes, escapes and white space.
_PLAIN: Final = re.compile(rf'\{{[^"\\{{}}{_SPACE}]+\}}').fullmatch
_OPENING: Final = re.compile(rf"[{_SPACE}]*\{{").match


def split_array(text: str, delimiter: str = ",") -> ArrayText:
    """Split the text of an array, in any form that PostgreSQL writes or reads.

    Args:
        text: the array, such as ``{1,NULL,"a b"}`` or ``[0:1]={{1,2},{3,4}}``.
        delimiter: the character between two elements: a semicolon for boxes, otherwise a comma.

    Raises:
        UnreadableError: if the text is not an array.
    """
    if _PLAIN(text) is not None:
        # Takes a third of the time.
        items = text[1:-1].split(delimiter)
        if "" not in items:
            if "n" in text or "N" in text:
                nulls = [None if each.lower() == "null" else each for each in items]
                return nulls, (len(items),), (1,)
            return items, (len(items),), (1,)
    if text.startswith("{"):
        elements, lengths = _nested(text, 0, delimiter)
        return elements, lengths, (1,) * len(lengths)
    bounds = _BOUNDS.match(text)
    elements, lengths = _nested(text, bounds.end() if bounds is not None else 0, delimiter)
    if bounds is None:
        return elements, lengths, (1,) * len(lengths)
    lower: list[int] = []
    declared: list[int] = []
    for first, second in _BOUND.findall(bounds[1]):
        lower.append(int(first) if second else 1)
        declared.append(int(second or first) - lower[-1] + 1)
    if tuple(declared) != lengths:
        raise UnreadableError("its bounds do not fit its elements")
    return elements, lengths, tuple(lower)


def _nested(text: str, at: int, delimiter: str) -> tuple[list[str | None], tuple[int, ...]]:
    """Read ``{…}`` once and without recursion; return its elements and the dimensions' lengths."""
    next_element, next_end = _patterns(delimiter)
    elements: list[str | None] = []
    lengths: list[int] = []
    # How many elements or arrays each open array has so far, from the outermost to the innermost.
    counts: list[int] = []
    while True:
        at = _open(text, at, counts, len(lengths))
        if not lengths:
            lengths = [0] * len(counts)
        first = len(elements)
        end: str | None = delimiter
        while end == delimiter:
            found = next_element(text, at)
            assert found is not None
            quoted, bare, end = found.groups()
            at = found.end()
            if bare is None:
                elements.append(_unescape(quoted) if "\\" in quoted else quoted)
            elif "\\" in bare:
                elements.append(_unescape(bare))
            elif bare:
                if bare[-1] in _SPACE:
                    bare = bare.rstrip(_SPACE)
                elements.append(None if len(bare) == 4 and bare.lower() == "null" else bare)
            elif end == "}" and len(counts) == 1 and not elements:
                _check_end(text, at)
                return [], ()
            elif end is None and text.startswith("{", at):
                raise UnreadableError("it mixes elements and arrays")
            else:
                raise UnreadableError('the array has an empty element; the empty text is ""')
        counts[-1] = len(elements) - first
        while end == "}":
            count = counts.pop()
            depth = len(counts)
            if lengths[depth] != count:
                if lengths[depth]:
                    raise UnreadableError("its subarrays have different lengths")
                lengths[depth] = count
            if not depth:
                _check_end(text, at)
                return elements, tuple(lengths)
            counts[-1] += 1
            end = text[at : at + 1]
            at += 1
            if end not in ("}", delimiter):
                # There may be white space before it.
                found = next_end(text, at - 1)
                end = found[1] if found is not None else None
                at = found.end() if found is not None else at
        if end is None:
            raise UnreadableError("expected a comma or } behind an element of the array")


def _open(text: str, at: int, counts: list[int], dimensions: int) -> int:
    """Read the braces before an element.

    Args:
        text: the array.
        at: where to read.
        counts: gets a 0 for each array that is opened.
        dimensions: how many the array has; 0 if that is not known yet.

    Returns:
        The place behind the braces.
    """
    while not dimensions or len(counts) < dimensions:
        if text.startswith("{", at):
            at += 1
        else:
            found = _OPENING(text, at)
            if found is None:
                break
            at = found.end()
        counts.append(0)
        if len(counts) > _MAX_DIMENSIONS:
            raise UnreadableError(f"an array has at most {_MAX_DIMENSIONS} dimensions")
    if not counts:
        raise UnreadableError('write an array as {1,2,3} or {"a b",NULL}')
    if len(counts) < dimensions:
        raise UnreadableError("its subarrays have different dimensions")
    return at


@cache
def _patterns(delimiter: str) -> tuple[_Match, _Match]:
    """Return two patterns: of an element up to the delimiter or brace, and of these alone."""
    end = rf"([{delimiter}}}])"
    # The quantifiers are possessive. Others keep more than 100 bytes for each character.
    quoted = rf'"([^"\\]*+(?:\\.[^"\\]*+)*+)"[{_SPACE}]*'
    bare = rf'([^"\\{{}}{delimiter}]*+(?:\\.[^"\\{{}}{delimiter}]*+)*+)'
    return (
        re.compile(rf"[{_SPACE}]*(?:{quoted}|{bare}){end}?", re.DOTALL).match,
        re.compile(rf"[{_SPACE}]*{end}").match,
    )


def _unescape(text: str) -> str:
    # Backslashes make pairs from the left. A pattern takes more than ten times as long.
    return "\\".join([part.replace("\\", "") for part in text.split("\\\\")])


def _check_end(text: str, at: int) -> None:
    if len(text) > at and text[at:].strip(_SPACE):
        raise UnreadableError("something follows the array's last }")


def array_of(element: DataType) -> DataType:
    """Return the DataType of arrays whose elements have the given DataType."""
    return DataType(
        f"{element.name}[]",
        _reader(element.read),
        _reader(element.parse),
        comparable=element.comparable,
        ordered=element.ordered,
        by_text=element.by_text,
        rank=_reader(element.rank) if element.rank is not None else None,
        relations=_ARRAY_RELATIONS if element.comparable else {},
        remedy=element.remedy,
    )


def _reader(read: TextReader) -> TextReader:
    def read_array(text: str) -> Array:
        elements, lengths, lower = split_array(text)
        keys = _Elements([_NULL if each is None else (0, read(each)) for each in elements])
        return keys, len(lengths), lengths, lower

    return read_array


def _contains(outer: Array, inner: Array) -> bool:
    # NULL is not in ``present``, so it is never contained. Python goes through the smaller set.
    return inner[0].distinct <= outer[0].present


def _contained(inner: Array, outer: Array) -> bool:
    return _contains(outer, inner)


def _overlaps(one: Array, other: Array) -> bool:
    return not one[0].present.isdisjoint(other[0].present)


_ARRAY_RELATIONS: Final[dict[str, Compare]] = {
    "@>": _contains,
    "<@": _contained,
    "&&": _overlaps,
}
