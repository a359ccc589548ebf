"""LIKE, in a time that no pattern can make grow without bound.

What stands between two ``%`` of a pattern, a piece, has a fixed length. The leftmost place where a
piece fits is as good as any other, so nothing is ever tried twice. ``*`` is PostgREST's alias of
``%``. A character behind a backslash has no special meaning. ILIKE is LIKE for a pattern and a text
that are folded to lower case.

Source: "Pattern Matching", "LIKE", in the PostgreSQL documentation.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, TypeAlias

from ._long_text import LongText, grams_of

__all__ = ["like"]

TextTest: TypeAlias = Callable[[str], bool]

_PIECES: Final = re.compile(r"\\(.)|([%*])|(_)|([^\\%*_]+)", re.DOTALL)
_SHORT: Final = 64


def like(pattern: str) -> tuple[TextTest, int]:
    """Return the test of a pattern, and how many of its pieces have a ``_``.

    Such pieces become regular expressions, which takes longer than everything else.

    Raises:
        ValueError: if the pattern ends with a backslash.
    """
    pieces = _split(pattern)
    compiled = sum(not _is_literal(piece) for piece in pieces)
    first, *rest = pieces
    if not rest:
        return _whole(first), compiled
    *middle, last = rest
    if not compiled:
        inner = [_joined(piece) for piece in middle]
        test = _plain(*map(_joined, (first, last)), inner=inner)
    else:
        test = _general(first, middle, last)
    grams = grams_of(text for piece in pieces for text in _runs(piece))
    return _unless_impossible(test, grams), compiled


_Piece: TypeAlias = list[tuple[str, str]]
"""A sequence of ("=", text) for a text as it is, and ("_", "") for any one character."""


def _split(pattern: str) -> list[_Piece]:
    pieces: list[_Piece] = [[]]
    at = 0
    for found in _PIECES.finditer(pattern):
        at = found.end()
        escaped, wildcard, single, literal = found.groups()
        if wildcard:
            pieces.append([])
        elif single:
            pieces[-1].append(("_", ""))
        else:
            pieces[-1].append(("=", escaped or literal))
    if at < len(pattern):
        raise ValueError("a pattern must not end with a backslash; write two for one")
    return pieces


def _is_literal(piece: _Piece) -> bool:
    return all(kind == "=" for kind, _ in piece)


def _joined(piece: _Piece) -> str:
    return "".join(text for _, text in piece)


def _runs(piece: _Piece) -> list[str]:
    """Return the texts of a piece that stand between two ``_``."""
    runs = [""]
    for kind, text in piece:
        if kind == "=":
            runs[-1] += text
        else:
            runs.append("")
    return runs


def _unless_impossible(test: TextTest, grams: frozenset[str]) -> TextTest:
    if not grams:
        return test

    def quick_test(text: str) -> bool:
        if type(text) is LongText and not text.may_have(grams):
            return False
        return test(text)

    return quick_test


def _whole(piece: _Piece) -> TextTest:
    if _is_literal(piece):
        whole = _joined(piece)
        return lambda text: text == whole
    match = _fixed(piece).fullmatch
    return lambda text: match(text) is not None


def _plain(first: str, last: str, *, inner: list[str]) -> TextTest:
    least = len(first) + len(last)

    def test(text: str) -> bool:
        if len(text) < least or not text.startswith(first) or not text.endswith(last):
            return False
        at, end = len(first), len(text) - len(last)
        for piece in inner:
            at = text.find(piece, at, end)
            if at < 0:
                return False
            at += len(piece)
        return True

    return test


def _general(first: _Piece, middle: list[_Piece], last: _Piece) -> TextTest:
    begin = _fixed(first).match
    ending = _fixed(last).fullmatch
    inner = tuple(_search(piece) for piece in middle if piece)
    shortest, tail = _length(first), _length(last)

    def test(text: str) -> bool:
        end = len(text) - tail
        if end < shortest or begin(text) is None or ending(text, end) is None:
            return False
        at = shortest
        for search in inner:
            at = search(text, at, end)
            if at < 0:
                return False
        return True

    return test


def _search(piece: _Piece) -> Callable[[str, int, int], int]:
    """Return a function that finds the first place where a piece fits.

    The function takes a text and the places between which to search, and returns where the piece
    ends, or -1. A ``_`` at the beginning or the end of a piece only takes up a place. To try what
    is between them at each place takes time that grows with both lengths. So a long piece is
    compared at all places at once: a bit of an integer says for each of its beginnings whether it
    fits so far.
    """
    before = next((place for place, (kind, _) in enumerate(piece) if kind == "="), len(piece))
    core = piece[before:]
    after = next((place for place, (kind, _) in enumerate(reversed(core)) if kind == "="), 0)
    find_core = _search_core(core[: len(core) - after])

    def find(text: str, at: int, end: int) -> int:
        if at + before > end - after:
            # A negative place would count from the end of the text.
            return -1
        found = find_core(text, at + before, end - after)
        return -1 if found < 0 else found + after

    return find if before or after else find_core


def _search_core(piece: _Piece) -> Callable[[str, int, int], int]:
    if _is_literal(piece):
        literal = _joined(piece)

        def find_literal(text: str, at: int, end: int) -> int:
            found = text.find(literal, at, end)
            return -1 if found < 0 else found + len(literal)

        return find_literal

    if _length(piece) <= _SHORT:
        search = _fixed(piece).search

        def find(text: str, at: int, end: int) -> int:
            found = search(text, at, end)
            return -1 if found is None else found.end()

        return find

    letters = [letter for kind, text in piece for letter in (text if kind == "=" else [None])]
    any_letter = sum(1 << place for place, letter in enumerate(letters) if letter is None)
    places: dict[str, int] = {}
    for place, letter in enumerate(letters):
        if letter is not None:
            places[letter] = places.get(letter, any_letter) | 1 << place
    whole = 1 << len(letters) - 1

    def find_long(text: str, at: int, end: int) -> int:
        fits = 0
        for place in range(at, end):
            fits = (fits << 1 | 1) & places.get(text[place], any_letter)
            if fits & whole:
                return place + 1
        return -1

    return find_long


def _length(piece: _Piece) -> int:
    return sum(len(text) if kind == "=" else 1 for kind, text in piece)


def _fixed(piece: _Piece) -> re.Pattern[str]:
    """Return the regular expression of a piece. It has no quantifiers, so it never tries again."""
    source = "".join(re.escape(text) if kind == "=" else "." for kind, text in piece)
    return re.compile(source, re.DOTALL)
