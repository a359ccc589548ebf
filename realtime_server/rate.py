"""Rate: how often somebody may do something, as a token bucket."""

from __future__ import annotations

__all__ = ["Rate"]


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
