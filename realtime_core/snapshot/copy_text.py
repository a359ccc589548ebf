"""Reads rows in the text format of COPY: see "File Formats" of COPY in PostgreSQL's documentation.

Rows come as PostgreSQL writes them: it escapes a backslash and all control characters that have a
letter of their own, and never writes octal or hexadecimal codes.
"""

from __future__ import annotations

import re
from typing import Final

from ..errors import DecodeError
from ..records import Field

__all__ = ["read_rows"]

_NULL: Final = r"\N"
_ESCAPE: Final = re.compile(r"\\(.)", re.DOTALL)
_LETTERS: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v"}


def read_rows(data: bytes, columns: int) -> list[tuple[Field, ...]]:
    """Return the fields of whole rows, each of which ends with a newline.

    Args:
        data: the rows, in UTF-8.
        columns: how many columns they have.

    Raises:
        DecodeError: if they have another number of columns, or are not UTF-8.
    """
    try:
        text = data.decode()
    except UnicodeDecodeError as exc:
        raise DecodeError(f"a row of a snapshot is not UTF-8: {exc}") from None
    lines = text.split("\n")
    if lines.pop():
        raise DecodeError("the last row of a snapshot has no end")
    rows: list[tuple[Field, ...]]
    if columns == 0:
        return [()] * len(lines)
    if "\\" not in text:
        rows = [tuple(line.split("\t")) for line in lines]
    else:
        rows = [
            tuple(map(_field, line.split("\t"))) if "\\" in line else tuple(line.split("\t"))
            for line in lines
        ]
    widths = set(map(len, rows))
    if widths - {columns}:
        raise DecodeError(
            f"a row of a snapshot has {max(widths - {columns})} fields, its table {columns} columns"
        )
    return rows


def _field(text: str) -> str | None:
    if "\\" not in text:
        return text
    return None if text == _NULL else _ESCAPE.sub(_unescaped, text)


def _unescaped(match: re.Match[str]) -> str:
    letter = match[1]
    return _LETTERS.get(letter, letter)
