"""The numbers, positions and times around the rows."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

from ..errors import DecodeError
from ..lsn import LSN

__all__ = ["commit_time", "lsn", "origin", "unsigned_32"]

# timestamptz_to_str() writes ISO style whatever DateStyle is, and cuts zeros off the fraction.
_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?[-+]\d\d(?::\d\d){0,2}", re.ASCII
).fullmatch
_INTEGER: Final = re.compile(r"-?\d{1,10}", re.ASCII).fullmatch


def unsigned_32(text: Any, name: str) -> int:
    """Read a 32-bit number; format 2 writes OIDs above 2**31 as negative ones.

    Raises:
        DecodeError: if it is not that.
    """
    if isinstance(text, str) and _INTEGER(text) is not None:
        number = int(text)
        if -(2**31) <= number < 2**32:
            return number & 0xFFFFFFFF
    raise DecodeError(f"{name!r} is not a 32-bit number")


def lsn(text: Any, name: str) -> LSN:
    """Read an LSN; None, without ``include-lsn``, is LSN 0.

    Raises:
        DecodeError: if it is not that.
    """
    if text is None:
        return LSN(0)
    try:
        return LSN.parse(text)
    except (ValueError, TypeError) as exc:
        raise DecodeError(f"{name!r} is not an LSN") from exc


def commit_time(text: Any) -> datetime | None:
    """Read a commit time in any time zone; None without ``include-timestamp``.

    Raises:
        DecodeError: if it is not one that Python can hold.
    """
    if text is None:
        return None
    try:
        if _TIME(text) is not None:
            return datetime.fromisoformat(text).astimezone(UTC)
    except (ValueError, TypeError, OverflowError) as exc:
        raise DecodeError("'timestamp' is out of range") from exc
    raise DecodeError("'timestamp' is not a time of the years 1 to 9999 in ISO style")


def origin(text: Any) -> str | None:
    """Read a replication origin: its number, as text, as the name is not sent; 0 is none.

    Raises:
        DecodeError: if it is not a number.
    """
    if text is None:
        return None
    number = unsigned_32(text, "origin")
    return str(number) if number else None
