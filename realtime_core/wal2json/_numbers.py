"""Reads the fields around a row: numbers, LSNs, commit times and replication origins."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

from ..errors import DecodeError
from ..lsn import LSN

__all__ = ["commit_time", "lsn", "origin", "unsigned_32"]

# PostgreSQL's timestamptz_to_str() writes ISO style whatever DateStyle is, and leaves out zeros at
# the end of the fraction.
_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d{1,6})?[-+]\d\d(?::\d\d){0,2}", re.ASCII
).fullmatch
_INTEGER: Final = re.compile(r"-?\d{1,10}", re.ASCII).fullmatch


def unsigned_32(text: Any, name: str) -> int:
    """Read an unsigned 32-bit number. Format 2 writes OIDs from 2**31 on as negative numbers.

    Args:
        text: the number as it is written.
        name: of the field, for the error.

    Raises:
        DecodeError: if the text is not a 32-bit number.
    """
    if isinstance(text, str) and _INTEGER(text) is not None:
        number = int(text)
        if -(2**31) <= number < 2**32:
            return number & 0xFFFFFFFF
    raise DecodeError(f"{name!r} is not a 32-bit number")


def lsn(text: Any, name: str) -> LSN:
    """Read an LSN.

    Args:
        text: the LSN as it is written; None, without ``include-lsn``, is read as LSN 0.
        name: of the field, for the error.

    Raises:
        DecodeError: if the text is not an LSN.
    """
    if text is None:
        return LSN(0)
    try:
        return LSN.parse(text)
    except (ValueError, TypeError) as exc:
        raise DecodeError(f"{name!r} is not an LSN") from exc


def commit_time(text: Any) -> datetime | None:
    """Read a commit time, which may be in any time zone, and return it in UTC.

    Without ``include-timestamp`` there is none, and None is returned.

    Raises:
        DecodeError: if the text is not a time, or not one that a datetime can hold.
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
    """Read a replication origin: its number as text, since wal2json does not write its name.

    Number 0 means that the transaction has no origin, and None is returned.

    Raises:
        DecodeError: if the text is not a number.
    """
    if text is None:
        return None
    number = unsigned_32(text, "origin")
    return str(number) if number else None
