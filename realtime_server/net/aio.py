"""Small tools for asyncio code: a token bucket, and an end of tasks that is waited for.

They know neither sockets nor messages. The token bucket does not read a clock: the caller says
what time it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Final

__all__ = ["TokenBucket", "cancel_within"]

_MAX_DEBT: Final = 5.0
"""Seconds that a bucket needs to refill, at most, after :meth:`TokenBucket.borrow`."""
_CANCEL_INTERVAL: Final = 1.0
"""Seconds between two cancellations of the same task."""


class TokenBucket:
    """Limits how often something may happen: so many times a second, after a burst of as many.

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


async def cancel_within(tasks: Collection[asyncio.Task[Any]], within: float) -> None:
    """Wait until all tasks have ended; cancel those that take longer than ``within``.

    A task is cancelled again each second until it ends. One cancellation may not be enough:
    psycopg answers the first one by asking the database to cancel the query, and waits for the
    answer, which a database that hangs never sends.

    Args:
        tasks: to wait for. Their results and exceptions are left for the caller to read.
        within: seconds until the first cancellation.
    """
    pending = set(tasks)
    while pending:
        _, pending = await asyncio.wait(pending, timeout=within)
        for task in pending:
            task.cancel()
        within = _CANCEL_INTERVAL
