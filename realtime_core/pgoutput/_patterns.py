"""Rows matched by a regular expression, whose engine steps over all fields in C.

A TupleData is a chain of short headers, each with the length of the text behind it, and
stepping from one to the next is what takes Python longest. So there is a pattern for the rows of
one relation. For each column it has ``n``, which is NULL, or ``t``, three zero bytes, and an
alternative for each length below 128, which takes exactly that many bytes::

    t \\0 \\0 \\0 ( \\3 ... | \\2 .. | \\1 . )  |  n

Each alternative begins with a different byte, so a row matches in one way at most, and a row that
matches as a whole has exactly the lengths that its headers say. A group holds a text's length byte
and the text; for NULL the group takes no part in the match. A
:class:`~realtime_core.records.Record` cuts the texts out when they are asked for.

Alternatives are tried in order, and each trial takes time. So lengths that were seen often come
first, and lengths that are far from any that was seen are left out.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

__all__ = ["LENGTHS", "Lengths", "Match", "Pattern", "is_utf8", "match_row", "row_pattern"]

Match: TypeAlias = re.Match[str]
Pattern: TypeAlias = re.Pattern[str]
Lengths: TypeAlias = Counter[int]
"""How often texts of each length in bytes were seen."""

LENGTHS: Final = range(128)
"""The lengths that a pattern can match: below 128 a length byte is an ASCII character."""


def row_pattern(columns: Sequence[Lengths | None]) -> Pattern:
    """Return the pattern that matches a row.

    Args:
        columns: for each column the lengths of its texts, None for a column that is always NULL.
    """
    return re.compile("".join(map(_field, columns)), re.DOTALL)


def _field(seen: Lengths | None) -> str:
    if seen is None:
        return "n"
    # Later texts may be somewhat longer than those of the few rows that were seen.
    possible = LENGTHS[: 2 * max(seen, default=0) + 8]
    ordered = sorted(possible, key=lambda length: (-seen[length], length))
    texts = "|".join(f"\\x{length:02x}.{{{length}}}+" for length in ordered)
    return f"(?>t\0\0\0({texts})|n)"


def match_row(match: Callable[[str], Match | None], body: bytes) -> Match | None:
    """Match a row that is not all ASCII; as Latin-1, each byte is one character.

    Returns:
        None if it does not match, or is not UTF-8.
    """
    row = match(body.decode("latin-1"))
    return row if row is not None and is_utf8(body) else None


def is_utf8(body: bytes) -> bool:
    """Tell whether every text of a row that matches is UTF-8.

    The bytes between the texts, lengths included, are ASCII. So all texts are UTF-8 if the whole
    row is.
    """
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
