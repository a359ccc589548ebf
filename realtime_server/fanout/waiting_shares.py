"""How much of what may wait to be written to rooms each sender may have waiting.

What waits for one room is bounded by the time that this process takes to write it. That follows
from how fast it has written lately (:class:`WritePace`), so that the bound is what the machine, its
load and the rooms' sizes make it: nobody has to know that. What waits for all rooms is bounded in
bytes. Of both a sender may have as much as is left free for others (:class:`WaitingShares`): one
that floods has half of it, two have a third each, and whoever sends little is seldom refused.
"""

from __future__ import annotations

from typing import Final

__all__ = ["MAX_WAITING_BYTES", "MAX_WAITING_SECONDS", "WaitingShares", "WritePace"]

MAX_WAITING_BYTES: Final = 16 * 1024 * 1024
"""Bytes of events and payloads that may wait to be written, of all rooms together."""
MAX_WAITING_SECONDS: Final = 1.0
"""Seconds that it may take to write what waits for one room."""

_FIRST_GUESS: Final = 5e-6
"""Seconds of one delivery, until it is known."""
_LEAST: Final = 100
"""Deliveries of a write from which on it counts. What fewer take is not so much for each of them as
for the write itself, which would be no measure of what large rooms take."""
_MEMORY: Final = 100_000
"""After so many deliveries the former ones count for half of what they did."""


class WaitingShares:
    """What waits, by sender, in whatever it is counted."""

    __slots__ = ("_all", "_count", "_of")

    def __init__(self) -> None:
        self._count = 0
        self._all = 0
        # By sender: how many wait, and how much these are.
        self._of: dict[object, list[int]] = {}

    def fits(self, sender: object, amount: int, most: float) -> bool:
        """Return whether a sender may have more waiting. What comes while nothing waits always may.

        Args:
            sender: whose it is.
            amount: how much it is.
            most: what may wait of all senders together.
        """
        if not self._count:
            return True
        after = self._all + amount
        own = self._of.get(sender)
        if own is not None:
            # As much as it has is to be left for others.
            after += own[1] + amount
        return after <= most

    def add(self, sender: object, amount: int) -> None:
        """Note what waits from now on."""
        own = self._of.get(sender)
        if own is None:
            self._of[sender] = [1, amount]
        else:
            own[0] += 1
            own[1] += amount
        self._count += 1
        self._all += amount

    def remove(self, sender: object, amount: int) -> None:
        """Note that something waits no more."""
        own = self._of[sender]
        if own[0] == 1:
            del self._of[sender]
        else:
            own[0] -= 1
            own[1] -= amount
        self._count -= 1
        self._all -= amount


class WritePace:
    """How fast frames have been written to members lately."""

    __slots__ = ("_deliveries", "_seconds")

    def __init__(self) -> None:
        self._deliveries = _MEMORY // 10
        self._seconds = self._deliveries * _FIRST_GUESS

    def wrote(self, deliveries: int, seconds: float) -> None:
        """Note how long it took to write so many frames."""
        if deliveries < _LEAST:
            return
        self._deliveries += deliveries
        self._seconds += seconds
        if self._deliveries > _MEMORY:
            self._deliveries //= 2
            self._seconds /= 2

    @property
    def most_waiting(self) -> float:
        """How many deliveries may wait for one room."""
        return MAX_WAITING_SECONDS * self._deliveries / self._seconds
