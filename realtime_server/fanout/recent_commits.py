"""RecentCommits: the transactions whose private messages members have got lately.

The stream brings a transaction as soon as it is in WAL. Queries see it only when its session has
ended it, a moment later, or once a synchronous standby has answered. Who joins in between is told
of it neither by the stream nor by a query.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

__all__ = ["RecentCommits"]

_MOST: Final = 4096
"""Transactions that are remembered."""
_LATELY: Final = 60.0
"""Seconds for which they are. After a failover PostgreSQL may never have heard of them."""


class RecentCommits:
    """Remembers transactions until somebody has seen that queries see them.

    Args:
        clock: seconds of any clock that only goes forward.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        # When each was added, the earliest first.
        self._times: dict[int, float] = {}

    def add(self, xid: int) -> None:
        """Remember a transaction whose messages are handed out now.

        Args:
            xid: the lower 32 bits of its id.
        """
        times = self._times
        if xid not in times:
            if len(times) >= _MOST:
                del times[next(iter(times))]
            times[xid] = self._clock()

    def xids(self) -> Collection[int]:
        """Return those of which nobody knows whether queries see them yet."""
        since = self._clock() - _LATELY
        self._times = {xid: time for xid, time in self._times.items() if time >= since}
        return [*self._times]

    def settle(self, xids: Collection[int]) -> None:
        """Forget transactions that queries see."""
        for xid in xids:
            self._times.pop(xid, None)
