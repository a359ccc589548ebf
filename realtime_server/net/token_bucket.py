"""TokenBucket: limits how often something may happen.

It does not read a clock: the caller says what time it is.
"""

from __future__ import annotations

from typing import Final

__all__ = ["TokenBucket"]

_MAX_DEBT: Final = 5.0
"""Seconds that a bucket needs to refill, at most, after :meth:`TokenBucket.borrow`."""


class TokenBucket:
    """Limits how often something may happen: a number of times a second, after a burst of as many.

    Args:
        per_second: tokens that come back each second, and that the bucket holds when it is full.
        now: seconds of any clock that only goes forward.
    """

    __slots__ = ("_per_second", "_since", "_tokens")

    def __init__(self, per_second: int, now: float) -> None:
        self._per_second = per_second
        self._tokens = float(per_second)
        self._since = now

    def take(self, now: float, count: int = 1) -> bool:
        """Take ``count`` tokens if the bucket holds as many; return whether it did."""
        refilled = self._tokens + (now - self._since) * self._per_second
        self._tokens = min(refilled, float(self._per_second))
        self._since = now
        if self._tokens < count:
            return False
        self._tokens -= count
        return True

    def borrow(self, count: int) -> None:
        """Take ``count`` tokens even if the bucket holds fewer.

        The next :meth:`take` fails until they have come back. The debt is bounded: it is paid
        back within five seconds.
        """
        self._tokens = max(self._tokens - count, -_MAX_DEBT * self._per_second)
