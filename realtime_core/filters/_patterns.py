"""Compiles the patterns of a filter, within bounds for all of them together.

What a pattern is compiled to takes time and memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from ..types.base import UnreadableError
from ..types.texts import fold
from ._like import like
from ._long_text import searchable
from ._regex import regex
from .nodes import Comparison, Operator

__all__ = ["PATTERNS", "SLOW", "Patterns", "fold_text", "search_text", "weight"]

PATTERNS: Final = frozenset({Operator.LIKE, Operator.ILIKE, Operator.MATCH, Operator.IMATCH})
"""The operators whose values are patterns."""

_WILDCARDS: Final = re.compile("[%*]")
_LONGEST_PATTERN: Final = 1000
"""The most characters of a pattern."""
_MOST_INSTRUCTIONS: Final = 6_000
"""The most instructions that RE2 may have for all regular expressions of a filter, which takes 2
ms. ``\\w`` and similar classes have 1,200, as there are so many letters. A class of ASCII has one
or two."""
_MOST_PIECES: Final = 1000
"""The most pieces with a ``_`` that all LIKE patterns of a filter may have; each takes 20 µs."""
_LONGEST_SEARCHED: Final = 65_536
"""The most characters of a value that LIKE searches. Regular expressions have bounds of their
own."""
_SHORT_PIECE: Final = 64
"""Characters of a piece with ``_`` that costs as many conditions as it has characters."""
_LONG_PIECE: Final = 100
"""Conditions that a longer piece costs, which is compared at all places at once."""
_PIECES_EACH: Final = 5
"""Pieces of a LIKE pattern that take as long to read as one condition."""
SLOW: Final = 50
"""Conditions that take as long as one search that is slow for RE2, which is 5 ms."""


class Patterns:
    """Compiles the patterns of one filter, and refuses those that exceed the bounds.

    Attributes:
        instructions: how many instructions RE2 has for the regular expressions so far.
        count: how many patterns there have been so far.
    """

    def __init__(self) -> None:
        self.instructions = 0
        self.count = 0
        self._pieces = 0

    def test(
        self, node: Comparison, *, ignore_case: bool
    ) -> tuple[Callable[[str], bool], Callable[[str], str] | None]:
        """Return the test of a comparison whose operator is one of :data:`PATTERNS`.

        Args:
            node: the comparison.
            ignore_case: whether to ignore case even if the operator does not.

        Returns:
            The test, and what the value has to become that it is given; None: nothing else.

        Raises:
            ValueError: if the pattern is invalid, or exceeds a bound together with those before it.
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
            return predicate, fold_text if folds else search_text
        ignore_case = ignore_case or node.operator is Operator.IMATCH
        predicate, size = regex(pattern, ignore_case=ignore_case)
        self.instructions += size
        if self.instructions > _MOST_INSTRUCTIONS:
            raise ValueError(
                "with those before it the filter's patterns are too large: RE2 has "
                f"{self.instructions:,} instructions for them, at most {_MOST_INSTRUCTIONS:,} "
                r"are taken; \w stands for all letters that there are, [A-Za-z0-9_] for few"
            )
        return predicate, None


def search_text(text: str) -> str:
    """Return a value as LIKE's patterns are looked for in it.

    Raises:
        UnreadableError: if the value is too long to be searched.
    """
    if len(text) > _LONGEST_SEARCHED:
        raise UnreadableError(
            f"a pattern is not looked for in more than {_LONGEST_SEARCHED:,} characters"
        )
    return searchable(text)


def fold_text(text: str) -> str:
    """Return the same in lower case, for patterns that ignore case.

    Raises:
        UnreadableError: if the value is too long to be searched.
    """
    return searchable(fold(search_text(text)))


def weight(node: Comparison) -> int:
    """Return how many simple conditions take as long as a comparison with a pattern."""
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
    # A piece that may stand anywhere is looked for in the whole text.
    anywhere = any(pieces[1:-1])
    return 1 + anywhere + len(pieces) // _PIECES_EACH + tried
