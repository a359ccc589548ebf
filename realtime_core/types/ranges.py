"""Ranges and multiranges: all bounds are on one scale, so each operator takes one or two
comparisons.

A bound is ``(0, value, step)``. The step is 0 for an inclusive bound. An exclusive bound lies
beside its value: the step is 1 for a lower bound and -1 for an upper one. A range without a lower
bound has ``(-1,)`` there, and one without an upper bound ``(1,)``. Ranges of integers and days are
first brought to the form ``[a,b)``, as PostgreSQL does.

Source: "Range Functions and Operators" in the PostgreSQL documentation.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from operator import itemgetter
from typing import Any, Final, TypeAlias

from .base import Compare, DataType, TextReader, UnreadableError
from .datetimes import DATETIMES, LAST_DATE
from .numbers import NUMBERS

__all__ = ["RANGES", "RangeText", "split_multirange", "split_range"]

Bound: TypeAlias = tuple[Any, ...]
Range: TypeAlias = tuple[Bound, ...]
"""A lower and an upper bound; or ``()`` for an empty range, which comes first as in PostgreSQL."""
RangeText: TypeAlias = tuple[str | None, str | None, str]
"""A lower and an upper bound as texts without quotes and escapes, or None; and the brackets."""

_BELOW_ALL: Final[Bound] = (-1,)
_ABOVE_ALL: Final[Bound] = (1,)
# The quantifiers are possessive. Others would keep some memory for each character.
_PART: Final = r'((?:"[^"\\]*+(?:(?:\\.|"")[^"\\]*+)*+"|\\.|[^"\\,()\[\]]++)*+)'
_RANGE: Final = re.compile(rf"\s*([\[(]){_PART},{_PART}([\])])\s*", re.DOTALL)
_EMPTY: Final = re.compile(r"\s*empty\s*", re.IGNORECASE)
_QUOTES: Final = re.compile(r'\\(.)|"("?)', re.DOTALL)

_SPELLING: Final = "write a range as [1,10) or (,5]"


def _bare(part: str) -> str:
    """Return a bound without quotes and escapes. ``""`` within quotes stands for one quote."""
    if part == '""':
        return ""
    inside = part[1:-1] if len(part) > 1 and part[0] == part[-1] == '"' else part
    return _QUOTES.sub(lambda found: found[1] or found[2], inside)


def _bounds(found: re.Match[str], read: TextReader, *, last: int | None) -> Range:
    opening, lower_text, upper_text, closing = found.groups()
    lower_value: Any = read(_bare(lower_text)) if lower_text else None
    upper_value: Any = read(_bare(upper_text)) if upper_text else None
    if lower_text and upper_text:
        if lower_value > upper_value:
            raise UnreadableError("its lower bound is above its upper bound")
        # This comes before a bound is moved: (2147483647,2147483647] is empty, not out of range.
        if lower_value == upper_value and (opening == "(" or closing == ")"):
            return ()
    lower, upper = _BELOW_ALL, _ABOVE_ALL
    if lower_text:
        step = 1 if opening == "(" else 0
        if step and last is not None and isinstance(lower_value, int):
            lower_value, step = _behind(lower_value, last), 0
        lower = (0, lower_value, step)
    if upper_text:
        step = -1 if closing == ")" else 0
        if not step and last is not None and isinstance(upper_value, int):
            upper_value, step = _behind(upper_value, last), -1
        upper = (0, upper_value, step)
    return (lower, upper) if lower <= upper else ()


def _behind(value: int, last: int) -> int:
    """Return the value that follows, for the form ``[a,b)``."""
    if value >= last:
        raise UnreadableError(
            "it is out of range: its bound is the type's last value, and has none behind it;"
            " leave the bound out, as in [1,)"
        )
    return value + 1


def _reader(read: TextReader, *, last: int | None) -> TextReader:
    def read_range(text: str) -> Range:
        if text.strip().lower() == "empty":
            return ()
        found = _RANGE.fullmatch(text)
        if found is None:
            raise UnreadableError(_SPELLING)
        return _bounds(found, read, last=last)

    return read_range


def _multi_reader(read: TextReader, *, last: int | None) -> TextReader:
    def read_multirange(text: str) -> tuple[Range, ...]:
        matches = _ranges_of(text)
        return _merged([_bounds(found, read, last=last) for found in matches if found])

    return read_multirange


def _ranges_of(text: str) -> Iterator[re.Match[str] | None]:
    """Yield the match of each range of a multirange; None for an empty one."""
    text = text.strip()
    if not (text.startswith("{") and text.endswith("}")) or len(text) < 2:
        raise UnreadableError("write a multirange as {[1,3),[5,8)}")
    at, end = 1, len(text) - 1
    while text[at:end].strip():
        found = _EMPTY.match(text, at, end) or _RANGE.match(text, at, end)
        if found is None:
            raise UnreadableError(_SPELLING)
        yield None if found.re is _EMPTY else found
        at = found.end()
        if at < end:
            if text[at] != "," or not text[at + 1 : end].strip():
                raise UnreadableError("expected a comma and a range in the multirange")
            at += 1


def split_range(text: str) -> RangeText | None:
    """Split the text of a range; None for an empty one.

    Raises:
        UnreadableError: if the text is not a range.
    """
    if _EMPTY.fullmatch(text):
        return None
    found = _RANGE.fullmatch(text)
    if found is None:
        raise UnreadableError(_SPELLING)
    return _parts(found)


def split_multirange(text: str) -> list[RangeText]:
    """Split the text of a multirange into its ranges, without empty ones.

    Raises:
        UnreadableError: if the text is not a multirange.
    """
    return [_parts(found) for found in _ranges_of(text) if found]


def _parts(found: re.Match[str]) -> RangeText:
    opening, lower, upper, closing = found.groups()
    return _bare(lower) if lower else None, _bare(upper) if upper else None, opening + closing


def _merged(ranges: list[Range]) -> tuple[Range, ...]:
    """Return ranges in their order, with those that overlap or touch joined."""
    merged: list[Range] = []
    for one in sorted(filter(None, ranges)):
        if merged and (_overlaps(merged[-1], one) or _adjacent(merged[-1], one)):
            last = merged.pop()
            one = (last[0], max(last[1], one[1]))
        merged.append(one)
    return tuple(merged)


def _contains(one: Range, other: Range) -> bool:
    return not other or (bool(one) and one[0] <= other[0] and other[1] <= one[1])


def _contained(one: Range, other: Range) -> bool:
    return _contains(other, one)


def _overlaps(one: Range, other: Range) -> bool:
    return bool(one and other) and one[0] <= other[1] and other[0] <= one[1]


def _left(one: Range, other: Range) -> bool:
    return bool(one and other) and one[1] < other[0]


def _right(one: Range, other: Range) -> bool:
    return _left(other, one)


def _not_right(one: Range, other: Range) -> bool:
    return bool(one and other) and one[1] <= other[1]


def _not_left(one: Range, other: Range) -> bool:
    return bool(one and other) and one[0] >= other[0]


def _touch(upper: Bound, lower: Bound) -> bool:
    """Say whether an upper and a lower bound meet, with nothing between them and nothing in
    both."""
    return len(upper) == len(lower) == 3 and upper[1] == lower[1] and lower[2] - upper[2] == 1


def _adjacent(one: Range, other: Range) -> bool:
    return bool(one and other) and (_touch(one[1], other[0]) or _touch(other[1], one[0]))


Multirange: TypeAlias = tuple[Range, ...]


def _span(ranges: Multirange) -> Range:
    return (ranges[0][0], ranges[-1][1]) if ranges else ()


def _last_from(ranges: Multirange, bound: Bound) -> Range:
    """Return the last range that does not begin above a bound; as they are sorted and apart,
    no other one reaches further."""
    place = bisect_right(ranges, bound, key=itemgetter(0))
    return ranges[place - 1] if place else ()


def _count_within(ranges: Multirange, outer: Range) -> int:
    """Return how many ranges lie within another one; they are in order by both bounds."""
    begin = bisect_left(ranges, outer[0], key=itemgetter(0))
    end = bisect_right(ranges, outer[1], key=itemgetter(1))
    return max(end - begin, 0)


def _multi_contains(one: Multirange, other: Multirange) -> bool:
    if len(other) > len(one):
        # Each of the many is in one of the few at most.
        return sum(_count_within(other, outer) for outer in one) == len(other)
    return all(_contains(_last_from(one, inner[0]), inner) for inner in other)


def _multi_contained(one: Multirange, other: Multirange) -> bool:
    return _multi_contains(other, one)


def _multi_overlaps(one: Multirange, other: Multirange) -> bool:
    return any(_overlaps(_last_from(one, each[1]), each) for each in other)


def _of_spans(compare: Compare) -> Compare:
    def compare_spans(one: Multirange, other: Multirange) -> bool:
        return compare(_span(one), _span(other))

    return compare_spans


_RANGE_RELATIONS: Final[dict[str, Compare]] = {
    "@>": _contains,
    "<@": _contained,
    "&&": _overlaps,
    "<<": _left,
    ">>": _right,
    "&<": _not_right,
    "&>": _not_left,
    "-|-": _adjacent,
}
_MULTIRANGE_RELATIONS: Final[dict[str, Compare]] = {
    **{operator: _of_spans(compare) for operator, compare in _RANGE_RELATIONS.items()},
    "@>": _multi_contains,
    "<@": _multi_contained,
    "&&": _multi_overlaps,
}
_SUBTYPES: Final[dict[str, tuple[DataType, int | None]]] = {
    "int4range": (NUMBERS["int4"], (1 << 31) - 1),
    "int8range": (NUMBERS["int8"], (1 << 63) - 1),
    "numrange": (NUMBERS["numeric"], None),
    "tsrange": (DATETIMES["timestamp"], None),
    "tstzrange": (DATETIMES["timestamptz"], None),
    "daterange": (DATETIMES["date"], LAST_DATE),
}
"""The type of the bounds; and its last value if it is discrete, so that each value has a next
one."""


def _data_types() -> dict[str, DataType]:
    data_types = {}
    for name, (subtype, last) in _SUBTYPES.items():
        data_types[name] = DataType(
            name,
            _reader(subtype.read, last=last),
            _reader(subtype.parse, last=last),
            relations=_RANGE_RELATIONS,
        )
        multi = name.replace("range", "multirange")
        data_types[multi] = DataType(
            multi,
            _multi_reader(subtype.read, last=last),
            _multi_reader(subtype.parse, last=last),
            relations=_MULTIRANGE_RELATIONS,
        )
    return data_types


RANGES: Final = _data_types()
"""The types by name."""
