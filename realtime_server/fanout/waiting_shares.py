"""WaitingShares: how much of what may wait to be written to rooms each sender may have waiting.

What may wait is bounded in bytes, and in the time that this process takes to write it. That follows
from how fast it has written lately, so that the bound is what the machine, its load and the rooms'
sizes make it: nobody has to know that. A sender may have as much waiting as is left free for
others: so one that floods has half of it, and a second one a third, and whoever sends little is
never refused because of them.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_WAITING_BYTES", "MAX_WAITING_SECONDS", "WaitingShares"]

MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Bytes of events and payloads that may wait to be written, of all rooms together."""
MAX_WAITING_SECONDS: Final = 1.0
"""Seconds that it may take to write what waits, of all rooms together."""

_FIRST_GUESS: Final = 5e-6
"""Seconds of one delivery, until it is known."""
_MEMORY: Final = 100_000
"""After so many deliveries the former ones count for half of what they did."""


class _Waiting:
    """What waits of one sender, or of all."""

    __slots__ = ("count", "deliveries", "size")

    def __init__(self) -> None:
        self.count = self.deliveries = self.size = 0

    def add(self, count: int, deliveries: int, size: int) -> None:
        self.count += count
        self.deliveries += deliveries
        self.size += size


class WaitingShares:
    """What waits to be written to rooms, by sender."""

    def __init__(self) -> None:
        self._all = _Waiting()
        self._of: dict[object, _Waiting] = {}
        # How many deliveries took how long lately.
        self._deliveries = _MEMORY // 10
        self._seconds = self._deliveries * _FIRST_GUESS

    def fits(self, sender: object, deliveries: int, size: int) -> bool:
        """Return whether a sender may have more waiting. What comes while nothing waits always may.

        Args:
            sender: whose it is.
            deliveries: frames to members that it becomes.
            size: of its payloads and events, in bytes.
        """
        everything, own = self._all, self._of.get(sender)
        if not everything.count:
            return True
        deliveries_after = everything.deliveries + deliveries
        size_after = everything.size + size
        if own is not None:
            # As much as it has is to be left for others.
            deliveries_after += own.deliveries + deliveries
            size_after += own.size + size
        takes = deliveries_after * self._seconds / self._deliveries
        return size_after <= MAX_WAITING_BYTES and takes <= MAX_WAITING_SECONDS

    def add(self, sender: object, deliveries: int, size: int) -> None:
        """Note one more broadcast that waits."""
        waiting = self._of.get(sender)
        if waiting is None:
            waiting = self._of[sender] = _Waiting()
        waiting.add(1, deliveries, size)
        self._all.add(1, deliveries, size)

    def remove(self, sender: object, deliveries: int, size: int) -> None:
        """Note that a broadcast waits no more."""
        waiting = self._of[sender]
        waiting.add(-1, -deliveries, -size)
        self._all.add(-1, -deliveries, -size)
        if not waiting.count:
            del self._of[sender]

    def wrote(self, deliveries: int, seconds: float) -> None:
        """Note how long it took to write so many frames."""
        self._deliveries += deliveries
        self._seconds += seconds
        if self._deliveries > _MEMORY:
            self._deliveries //= 2
            self._seconds /= 2
