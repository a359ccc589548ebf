"""The patterns of one filter, bounded together: what they become takes time and memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from ..types.base import UnreadableError
from ..types.texts import fold
from ._like import like
from ._regex import regex
from .nodes import Comparison, Operator

__all__ = ["PATTERNS", "SLOW", "Patterns", "fold_text", "weight"]

PATTERNS: Final = frozenset({Operator.LIKE, Operator.ILIKE, Operator.MATCH, Operator.IMATCH})
"""The operators whose literals are patterns."""

_WILDCARDS: Final = re.compile("[%*]")
_LONGEST_PATTERN: Final = 1000
"""Characters: what patterns become takes time and memory many times their length."""
_MOST_INSTRUCTIONS: Final = 6_000
"""Of a filter's regular expressions, for RE2, which takes 2 ms for so many: ``\\w`` and its like
are 1,200, as there are so many letters; those of ASCII alone are one or two each."""
_MOST_PIECES: Final = 1000
"""Of a filter's LIKE patterns, between two ``%``, that have a ``_``: 20 µs each."""
_LONGEST_SEARCHED: Final = 65_536
"""Characters of a row's value that LIKE searches; a regular expression has bounds of its own."""
_SHORT_PIECE: Final = 64
"""Places of a piece with ``_`` of which each costs; a longer one is compared at all places at
once."""
_LONG_PIECE: Final = 100
"""Conditions that a longer one costs."""
_PIECES_EACH: Final = 5
"""Pieces of a LIKE pattern that cost as much as a condition, to read them."""
SLOW: Final = 50
"""Conditions that take as long as a search that RE2 is slow with: 5 ms."""


class Patterns:
    """Makes the tests of a filter's patterns, as long as there are not too many.

    Attributes:
        instructions: that RE2 has for the regular expressions so far.
        count: of the patterns so far.
    """

    def __init__(self) -> None:
        self.instructions = 0
        self.count = 0
        self._pieces = 0

    def test(self, node: Comparison, *, ignore_case: bool) -> tuple[Callable[[str], bool], bool]:
        """Return the test of a comparison whose operator is one of :data:`PATTERNS`.

        It raises UnreadableError for a text that is too long to be searched.

        Args:
            node: the comparison.
            ignore_case: although its operator does not.

        Returns:
            the test, and whether it takes the text as :func:`fold_text` makes it.

        Raises:
            ValueError: if the pattern is none, or too much with those before it.
        """
        self.count += 1
        pattern = node.value
        assert isinstance(pattern, str)
        if len(pattern) > _LONGEST_PATTERN:
            raise ValueError(f"a pattern has at most {_LONGEST_PATTERN:,} characters")
        if node.operator in (Operator.LIKE, Operator.ILIKE):
            folds = ignore_case or node.operator is Operator.ILIKE
            predicate, pieces = like(fold(pattern) if folds else pattern)
            self._pieces += pieces
            if self._pieces > _MOST_PIECES:
                raise ValueError(
                    "with those before it the filter's patterns have more than "
                    f"{_MOST_PIECES:,} parts with _ between two %"
                )
            return (predicate if folds else _bounded(predicate)), folds
        ignore_case = ignore_case or node.operator is Operator.IMATCH
        predicate, size = regex(pattern, ignore_case=ignore_case)
        self.instructions += size
        if self.instructions > _MOST_INSTRUCTIONS:
            raise ValueError(
                "with those before it the filter's patterns are too large: RE2 has "
                f"{self.instructions:,} instructions for them, at most {_MOST_INSTRUCTIONS:,} "
                r"are taken; \w stands for all letters that there are, [A-Za-z0-9_] for few"
            )
        return predicate, False


def fold_text(text: str) -> str:
    """Fold a row's value for those who look for patterns whatever the letters' case.

    Raises:
        UnreadableError: if it is too long to be searched.
    """
    _check_length(text)
    return fold(text)


def weight(node: Comparison) -> int:
    """Return how many conditions cost as much as one of :data:`PATTERNS`."""
    pattern = node.value
    assert isinstance(pattern, str)
    if node.operator in (Operator.MATCH, Operator.IMATCH):
        return SLOW
    pieces = [piece.strip("_") for piece in _WILDCARDS.split(pattern)]
    tried = sum(
        len(piece) if len(piece) <= _SHORT_PIECE else _LONG_PIECE
        for piece in pieces
        if "_" in piece
    )
    # What stands anywhere is looked for in the whole text.
    anywhere = any(pieces[1:-1])
    return 1 + anywhere + len(pieces) // _PIECES_EACH + tried


def _bounded(predicate: Callable[[str], bool]) -> Callable[[str], bool]:
    def test(text: str) -> bool:
        _check_length(text)
        return predicate(text)

    return test


def _check_length(text: str) -> None:
    if len(text) > _LONGEST_SEARCHED:
        raise UnreadableError(
            f"a pattern is not looked for in more than {_LONGEST_SEARCHED:,} characters"
        )
