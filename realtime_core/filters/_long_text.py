"""LongText: a long value in which very many patterns are searched for.

A search for a pattern's text goes through the whole value, and thousands of searches take longer
than other clients should have to wait. So after some searches the set of all groups of three
characters (trigrams) in the value is made once. A pattern with a group that is not in the set
cannot match, and most patterns have such a group.
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
    """A text that keeps the set of its groups of three characters once it was searched often."""

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
        """Return whether this text may contain another one, which has all of the given trigrams.

        False is certain. True may be wrong: the trigrams may be far apart here. They are collected
        only when the text has been searched often; until then the answer is always True.
        """
        if self._grams is None:
            self._searches += 1
            if self._searches < _SEARCHES:
                return True
            self._grams = _grams(self)
        return self._grams.issuperset(grams)


def searchable(text: str) -> str:
    """Return a value as patterns are searched for in it: as a LongText if it is long."""
    return LongText(text) if len(text) > _LONG else text


def grams_of(texts: Iterable[str]) -> frozenset[str]:
    """Return the groups of three characters that a value must have to contain all the texts."""
    return frozenset(gram for text in texts for gram in _grams(text))


def _grams(text: str) -> set[str]:
    # Of a plain str, slices are plain ones, too.
    plain = str(text)
    return {plain[place : place + _LENGTH] for place in range(len(plain) - _LENGTH + 1)}
