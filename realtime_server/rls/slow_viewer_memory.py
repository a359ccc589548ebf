"""SlowViewerMemory: a bound on the memory of the changes in all queues of slow viewers together.

Each queue is bounded, but a hundred of them could take the server's memory all the same. Queues in
which the same change waits share it, so it counts once for as long as it waits in any of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from .counters import Counters
from .pending_changes import PendingChange

__all__ = ["AROUND", "SlowViewerMemory"]

AROUND: Final = 1024
"""Bytes that the Python objects of a change take besides its texts; the objects that belong to one
viewer's part of a change take as many."""


class SlowViewerMemory:
    """Counts the bytes of the changes that wait for slow viewers.

    Args:
        max_bytes: how many bytes may wait.
        counters: has the number of bytes that wait.
    """

    def __init__(self, max_bytes: int, counters: Counters) -> None:
        self._max_bytes = max_bytes
        self._counters = counters
        # The number of queues in which each change waits, by the change's id(), which is unique
        # while the change waits.
        self._shares: dict[int, int] = {}

    @property
    def is_exceeded(self) -> bool:
        """Whether more bytes wait than the bound allows."""
        return self._counters.waiting_bytes > self._max_bytes

    @property
    def has_room(self) -> bool:
        """Whether at most half of the allowed bytes wait."""
        return self._counters.waiting_bytes <= self._max_bytes // 2

    @property
    def is_above_target(self) -> bool:
        """Whether more bytes wait than should be left once changes are given up. The target is an
        eighth below the bound: else the next change would exceed the bound again."""
        return self._counters.waiting_bytes > self._max_bytes - self._max_bytes // 8

    def take(self, candidates: Iterable[PendingChange]) -> None:
        """Count changes that begin to wait in a queue."""
        shares, size = self._shares, 0
        for one in candidates:
            key = id(one.change)
            others = shares.get(key, 0)
            shares[key] = others + 1
            size += AROUND if others else 2 * AROUND + one.size
        self._counters.waiting_bytes += size

    def give_back(self, candidates: Iterable[PendingChange]) -> None:
        """Count changes that have left a queue. Call this before they are deleted."""
        shares, size = self._shares, 0
        for one in candidates:
            key = id(one.change)
            others = shares.pop(key) - 1
            if others:
                shares[key] = others
            size += AROUND if others else 2 * AROUND + one.size
        self._counters.waiting_bytes -= size
