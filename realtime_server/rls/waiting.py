"""Waiting: the memory of what waits in all lanes together, bounded.

Each lane has a bound of its own, and a hundred of them would have the server's memory all the
same. Lanes that wait for the same change share it, so it counts once, as long as it waits in any.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .counters import Counters
from .pending_changes import PendingChange

__all__ = ["AROUND", "Waiting"]

AROUND: Final = 1024
"""Bytes that Python's objects take around a change's texts, and those of one viewer around that."""


class Waiting:
    """Counts what waits in lanes, what is being looked at included.

    Args:
        max_bytes: that may wait.
        counters: where it is counted.
    """

    def __init__(self, max_bytes: int, counters: Counters) -> None:
        self._max_bytes = max_bytes
        self._counters = counters
        # In how many lanes each change waits, by its identity, which is its own as long as it does.
        self._shares: dict[int, int] = {}

    @property
    def is_too_much(self) -> bool:
        """Whether more waits than may."""
        return self._counters.waiting_bytes > self._max_bytes

    @property
    def is_more_than_enough(self) -> bool:
        """Whether more waits than should be left when something is given up: a bit less than may,
        or the next change would be too much again."""
        return self._counters.waiting_bytes > self._max_bytes - self._max_bytes // 8

    def take(self, candidates: Iterable[PendingChange]) -> None:
        """Count what begins to wait in a lane."""
        shares, size = self._shares, 0
        for one in candidates:
            key = id(one.change)
            others = shares.get(key, 0)
            shares[key] = others + 1
            size += AROUND if others else 2 * AROUND + one.size
        self._counters.waiting_bytes += size

    def give_back(self, candidates: Iterable[PendingChange]) -> None:
        """Count what waits in that lane no more, before it is let go of."""
        shares, size = self._shares, 0
        for one in candidates:
            key = id(one.change)
            others = shares.pop(key) - 1
            if others:
                shares[key] = others
            size += AROUND if others else 2 * AROUND + one.size
        self._counters.waiting_bytes -= size
