"""SnapshotAge: says how long a snapshot has been held, and ends it beyond a bound.

As long as a transaction uses a snapshot, VACUUM removes no row of any table of the database that
has died since: tables and indexes grow. See "Routine Vacuuming" in PostgreSQL's documentation.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from ..errors import SnapshotTimeoutError

__all__ = ["SnapshotAge"]

logger = logging.getLogger("realtime.source")

_MENTION: Final = 600.0
"""Seconds after which a log line says so; then after twice as long, and so on."""


class SnapshotAge:
    """The time that has passed since a snapshot was taken.

    Args:
        timeout: after how many seconds it ends; None for no bound.
        progress: tells how far it has come, for the log.
        expired: called when it has to end.
    """

    def __init__(
        self,
        timeout: float | None,
        progress: Callable[[], str],
        expired: Callable[[SnapshotTimeoutError], None],
    ) -> None:
        self._timeout = timeout
        self._progress = progress
        self._expired = expired
        self._timers: list[asyncio.TimerHandle] = []
        # When it has to end, by the loop's clock.
        self._deadline: float | None = None

    def start(self) -> None:
        """Note that the snapshot was taken now."""
        loop = asyncio.get_running_loop()
        self._timers = [loop.call_later(_MENTION, self._mention, _MENTION)]
        if self._timeout is not None:
            self._deadline = loop.time() + self._timeout
            self._timers.append(loop.call_at(self._deadline, self._expire, self._timeout))

    @asynccontextmanager
    async def within(self) -> AsyncIterator[None]:
        """End what is done here when the snapshot has to end.

        Raises:
            SnapshotTimeoutError: then.
        """
        limit = asyncio.timeout_at(self._deadline)
        try:
            async with limit:
                yield
        except TimeoutError:
            # A function that returns the DSN, say, may have limits of its own.
            if self._timeout is None or not limit.expired():
                raise
            raise SnapshotTimeoutError(self._timeout) from None

    def _mention(self, seconds: float) -> None:
        logger.warning(
            "a snapshot has held back VACUUM for %d minutes, %s: until its last row is read, dead "
            "rows of the database's tables pile up; read faster, copy by more "
            "snapshot_connections, bound it with snapshot_timeout, or backfill large tables",
            *(seconds // 60, self._progress()),
        )
        loop = asyncio.get_running_loop()
        self._timers[0] = loop.call_later(seconds, self._mention, 2 * seconds)

    def _expire(self, seconds: float) -> None:
        self.stop()
        self._expired(SnapshotTimeoutError(seconds))

    def stop(self) -> None:
        """Note that nothing uses the snapshot any more."""
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
