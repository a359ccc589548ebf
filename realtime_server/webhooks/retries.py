"""Retries: whether a request is tried again after an answer, and when.

This module reads no clock and does no I/O: times and random numbers are arguments.
"""

from __future__ import annotations

import enum
import re
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Final

__all__ = ["Verdict", "pause", "retry_after", "verdict_on"]

_TRY_AGAIN: Final = frozenset((408, 425, 429))
_GONE: Final = 410
_SECONDS: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_MOST_DOUBLINGS: Final = 32


class Verdict(enum.Enum):
    """The meaning of an answer for its request."""

    DONE = "done"
    AGAIN = "again"
    """Another attempt may succeed."""
    GIVEN_UP = "given up"
    """No attempt will succeed."""
    GONE = "gone"
    """The endpoint wants no more requests at all."""


def verdict_on(status: int) -> Verdict:
    """Decide by an answer's status whether the request is delivered, tried again or given up. A
    redirect is not followed: the request is given up."""
    if 200 <= status < 300:
        return Verdict.DONE
    if status >= 500 or status in _TRY_AGAIN:
        return Verdict.AGAIN
    return Verdict.GONE if status == _GONE else Verdict.GIVEN_UP


def retry_after(text: str | None, now: float) -> float:
    """Return for how many seconds an answer asks to wait; 0 if it does not say.

    Args:
        text: the header's value: seconds, or a date (RFC 9110, section 10.2.3).
        now: seconds since 1970.
    """
    if text is None:
        return 0.0
    text = text.strip()
    if _SECONDS.fullmatch(text):
        return float(text)
    try:
        date = parsedate_to_datetime(text)
        # Only the oldest of the three forms names no zone; it is UTC, too (section 5.6.7).
        return max((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now, 0.0)
    except (ValueError, OverflowError):
        return 0.0


def pause(failures: int, *, least: float, most: float, asked_for: float, random: float) -> float:
    """Return the seconds until the next attempt.

    Args:
        failures: how many attempts have failed, 1 or more.
        least: seconds after the first failure; they double each time.
        most: seconds up to which they double.
        asked_for: seconds that ``Retry-After`` asks to wait, which the result has at least.
        random: a number from 0 to 1: up to a half is taken off, so that not all come back at once.
    """
    doubled = min(least * 2.0 ** min(failures - 1, _MOST_DOUBLINGS), most)
    return max(doubled * (1 - random / 2), asked_for)
