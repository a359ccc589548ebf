"""Rate: how often somebody may do something, as a token bucket."""

from __future__ import annotations

from typing import Final

__all__ = ["Rate"]

_MOST_SECONDS: Final = 5.0
"""For which somebody waits who owes."""


class Rate:
    """So many a second, after a burst of as many.

    Args:
        per_second: what may be taken.
        now: seconds of any clock that only goes forward.
    """

    __slots__ = ("_left", "_per_second", "_since")

    def __init__(self, per_second: int, now: float) -> None:
        self._per_second = per_second
        self._left = float(per_second)
        self._since = now

    def take(self, now: float, count: int = 1) -> bool:
        """Take ``count`` if there are as many; return whether there were."""
        refilled = self._left + (now - self._since) * self._per_second
        self._left = min(refilled, float(self._per_second))
        self._since = now
        if self._left < count:
            return False
        self._left -= count
        return True

    def owe(self, count: int) -> None:
        """Take ``count`` although there are fewer: whoever takes next has to wait for them.

        No more than what comes within a few seconds is owed.
        """
        self._left = max(self._left - count, -_MOST_SECONDS * self._per_second)
