"""Arrays: their text taken apart, their order, and what they contain.

Source: "Arrays", "Array Input and Output Syntax", in the PostgreSQL documentation.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, Final, TypeAlias

from .base import Compare, Kind, Reader, UnreadableError

__all__ = ["array_of"]


class _Elements(tuple[Any, ...]):
    """The elements of an array, in their order."""

    @cached_property
    def present(self) -> frozenset[Any]:
        """Those that can be equal to something: NULLs are not. Made once for all filters."""
        return frozenset(self) - {_NULL}


Array: TypeAlias = tuple[_Elements, int, tuple[int, ...], tuple[int, ...]]
"""Elements, number of dimensions, their lengths, their lower bounds: ordered like arrays.

An element is ``(0, key)``; NULL, which comes last, is ``(1,)``.
"""

_NULL: Final = (1,)
_MAX_DIMENSIONS: Final = 6
_BOUNDS: Final = re.compile(r"\s*((?:\[[+-]?\d{1,9}(?::[+-]?\d{1,9})?\])+)\s*=\s*", re.ASCII)
_BOUND: Final = re.compile(r"\[([+-]?\d+)(?::([+-]?\d+))?\]", re.ASCII)
_SPACE: Final = " \t\n\r\v\f"
# Possessive: what could be given back is kept for each character, more than 100 bytes of it.
_ELEMENT: Final = re.compile(
    r'[ \t\n\r\v\f]*(?:"([^"\\]*+(?:\\.[^"\\]*+)*+)"[ \t\n\r\v\f]*'
    r'|([^"\\{},]*+(?:\\.[^"\\{},]*+)*+))',
    re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
# One dimension without quotes, escapes, white space and empty elements.
_PLAIN: Final = re.compile(r'\{[^"\\{}, \t\n\r\v\f]++(?:,[^"\\{}, \t\n\r\v\f]++)*+\}')


def array_of(element: Kind) -> Kind:
    """Return the kind of arrays of a kind."""
    return Kind(
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


def _reader(read: Reader) -> Reader:
    def read_array(text: str) -> Array:
        if _PLAIN.fullmatch(text) is not None and "null" not in text.lower():
            # In a tenth of the time.
            plain = _Elements([(0, read(each)) for each in text[1:-1].split(",")])
            return plain, 1, (len(plain),), (1,)
        lower: list[int] | None = None
        declared: list[int] = []
        bounds = _BOUNDS.match(text)
        at = 0
        if bounds is not None:
            at = bounds.end()
            lower = []
            for first, second in _BOUND.findall(bounds[1]):
                lower.append(int(first) if second else 1)
                declared.append(int(second or first) - lower[-1] + 1)
        parser = _Parser(text, at, read)
        parser.parse()
        lengths = tuple(parser.lengths)
        if lower is not None and tuple(declared) != lengths:
            raise UnreadableError("its bounds do not fit its elements")
        if not parser.elements:
            return _Elements(), 0, (), ()
        elements = _Elements(parser.elements)
        return elements, len(lengths), lengths, tuple(lower or (1 for _ in lengths))

    return read_array


class _Parser:
    """Reads ``{…}`` in one pass, without recursion."""

    def __init__(self, text: str, at: int, read: Reader) -> None:
        self._text = text
        self._at = at
        self._read = read
        self.elements: list[Any] = []
        self.lengths: list[int] = []
        """Of each dimension; found by the first subarray of each depth."""

    def parse(self) -> None:
        if not self._next("{"):
            raise UnreadableError('write an array as {1,2,3} or {"a b",NULL}')
        counts = [0]
        leaf_depth = 0
        if self._next("}"):
            self._end()
            return
        while counts:
            if self._next("{"):
                counts[-1] += 1
                counts.append(0)
                if len(counts) > _MAX_DIMENSIONS:
                    raise UnreadableError(f"an array has at most {_MAX_DIMENSIONS} dimensions")
                if leaf_depth and len(counts) > leaf_depth:
                    raise UnreadableError("it mixes elements and arrays")
                continue
            if leaf_depth and len(counts) != leaf_depth:
                raise UnreadableError("its subarrays have different dimensions")
            leaf_depth = len(counts)
            self._element()
            counts[-1] += 1
            while counts and self._next("}"):
                self._close(len(counts) - 1, counts.pop())
            if counts and not self._next(","):
                raise UnreadableError("expected a comma or } behind an element of the array")
        self._end()
        self.lengths = self.lengths[:leaf_depth]

    def _close(self, depth: int, count: int) -> None:
        while len(self.lengths) <= depth:
            self.lengths.append(0)
        if self.lengths[depth] not in (0, count):
            raise UnreadableError("its subarrays have different lengths")
        self.lengths[depth] = count

    def _element(self) -> None:
        found = _ELEMENT.match(self._text, self._at)
        assert found is not None
        self._at = found.end()
        quoted, bare = found.groups()
        if quoted is not None:
            self.elements.append((0, self._read(_ESCAPE.sub(r"\1", quoted))))
            return
        bare = bare.rstrip(_SPACE) if "\\" not in bare else bare
        if not bare:
            raise UnreadableError('the array has an empty element; the empty text is ""')
        if bare.lower() == "null":
            self.elements.append(_NULL)
        else:
            self.elements.append((0, self._read(_ESCAPE.sub(r"\1", bare))))

    def _next(self, letter: str) -> bool:
        text, at = self._text, self._at
        while at < len(text) and text[at] in _SPACE:
            at += 1
        if not text.startswith(letter, at):
            return False
        self._at = at + 1
        return True

    def _end(self) -> None:
        if self._text[self._at :].strip(_SPACE):
            raise UnreadableError("there is something behind the array's last }")


def _contains(outer: Array, inner: Array) -> bool:
    # A NULL is not present.
    return outer[0].present.issuperset(inner[0])


def _contained(inner: Array, outer: Array) -> bool:
    return _contains(outer, inner)


def _overlaps(one: Array, other: Array) -> bool:
    return not one[0].present.isdisjoint(other[0].present)


_ARRAY_RELATIONS: Final[dict[str, Compare]] = {
    "@>": _contains,
    "<@": _contained,
    "&&": _overlaps,
}
