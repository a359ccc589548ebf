"""LongText: a long value in which very many patterns are looked for.

A search for a pattern's text goes through the whole value, and thousands of them take longer than
others should have to wait. So after some searches it is found out once which groups of three
characters the value has at all: a pattern with another one cannot match, and most have one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

__all__ = ["LongText", "grams_of", "searchable"]

_LONG: Final = 4096
"""Characters of a value that is long."""
_SEARCHES: Final = 64
"""Searches in a value until its groups are found out, which takes as long as 200 more of them."""
_LENGTH: Final = 3


class LongText(str):
    """A text that knows its groups of three characters, once it was searched often."""

    __slots__ = ("_grams", "_searches")

    def __new__(cls, text: str) -> LongText:
        """Take a text."""
        self = super().__new__(cls, text)
        self._searches = 0
        self._grams = None
        return self

    _searches: int
    _grams: set[str] | None

    def may_have(self, grams: frozenset[str]) -> bool:
        """Say whether a text with all these groups may be in it."""
        if self._grams is None:
            self._searches += 1
            if self._searches < _SEARCHES:
                return True
            self._grams = _grams(self)
        return self._grams.issuperset(grams)


def searchable(text: str) -> str:
    """Return a value as patterns are to be looked for in it."""
    return LongText(text) if len(text) > _LONG else text


def grams_of(texts: Iterable[str]) -> frozenset[str]:
    """Return the groups that a value must have in which all these texts are."""
    return frozenset(gram for text in texts for gram in _grams(text))


def _grams(text: str) -> set[str]:
    # Of a plain str, slices are plain ones, too.
    plain = str(text)
    return {plain[place : place + _LENGTH] for place in range(len(plain) - _LENGTH + 1)}
