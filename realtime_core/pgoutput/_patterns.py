"""Rows by regular expression: the lengths of a whole row are walked in C.

A TupleData is a chain of short headers, each with the length of the text behind it, and
stepping from one to the next is what takes Python longest. A pattern does it for rows of one
relation. For each column it has ``n`` for NULL, or ``t``, three zero bytes, and an
alternative for each length below 128, which takes just so many bytes::

    t \\0 \\0 \\0 ( \\3 ... | \\2 .. | \\1 . )  |  n

Each alternative begins with another byte, so there is one way at most to match, and a row
that matches as a whole has exactly the lengths that it says. A group holds a text behind its
length; NULL is a group that took no part. :class:`~realtime_core.records.Record` cuts the
texts out when they are asked for.

Alternatives are tried in order, and memory is read for each one tried. So lengths that were
seen often come first, and those that are far from any that was seen are left out.
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
"""How often which length was seen, in bytes."""

LENGTHS: Final = range(128)
"""Those that a pattern can match: in UTF-8 their bytes are characters of their own."""


def row_pattern(columns: Sequence[Lengths | None]) -> Pattern:
    """Return the pattern of a row.

    Args:
        columns: the lengths of each one's texts; None for a column that is always NULL.
    """
    return re.compile("".join(map(_field, columns)), re.DOTALL)


def _field(seen: Lengths | None) -> str:
    if seen is None:
        return "n"
    # Texts may become somewhat longer: numbers grow, and few rows were seen.
    possible = LENGTHS[: 2 * max(seen, default=0) + 8]
    ordered = sorted(possible, key=lambda length: (-seen[length], length))
    texts = "|".join(f"\\x{length:02x}.{{{length}}}+" for length in ordered)
    return f"(?>t\0\0\0({texts})|n)"


def match_row(match: Callable[[str], Match | None], body: bytes) -> Match | None:
    """Match a row with text beyond ASCII, as Latin-1: there each byte is one character.

    Returns:
        None if it does not match, or is not UTF-8.
    """
    row = match(body.decode("latin-1"))
    return row if row is not None and is_utf8(body) else None


def is_utf8(body: bytes) -> bool:
    """Tell whether each text of a row that matches is UTF-8.

    The whole is, if each text is: what stands between them is ASCII, lengths included.
    """
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True
