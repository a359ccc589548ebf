"""RunningCall: a query on a connection, which is cancelled when it takes too long.

First it is canceled, which its policy may catch; then its session is ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import psycopg
from psycopg import AsyncConnection

__all__ = ["RunningCall"]

logger = logging.getLogger("realtime.rls")


class RunningCall:
    """Cancels a query after some time. A session's ``statement_timeout`` would take two more
    statements for each query.

    Args:
        connection: the connection on which the call, and nothing else, runs.
        terminate: ends the session with a process id.
    """

    def __init__(
        self, connection: AsyncConnection[Any], terminate: Callable[[int], asyncio.Task[None]]
    ) -> None:
        self._connection = connection
        self._pid = connection.info.backend_pid
        self._terminate = terminate
        self._requests: list[asyncio.Task[None]] = []
        self.is_terminated = False
        """Whether the call's session was ended."""

    @contextlib.asynccontextmanager
    async def ended_after(self, limit: float | None, patience: float) -> AsyncIterator[None]:
        """Cancel the query after ``limit`` seconds, and end its session ``patience`` seconds
        later."""
        loop = asyncio.get_running_loop()
        timers = [loop.call_later(patience, self._end)]
        if limit is not None:
            timers.append(loop.call_later(limit, self._cancel))
        try:
            yield
        except asyncio.CancelledError:
            # The task that made the call was canceled, and the driver has waited for its end.
            if self._connection.closed and not self.is_terminated:
                self._terminate(self._pid)
            raise
        finally:
            for timer in timers:
                timer.cancel()
            if self._requests:
                try:
                    # The request to cancel must not come so late that it cancels the next
                    # statement.
                    await asyncio.wait(self._requests)
                except asyncio.CancelledError:
                    await self._connection.close()
                    raise
            if self.is_terminated:
                # The call may have returned just before its session ends. Nobody else gets the
                # connection then.
                await self._connection.close()

    def _cancel(self) -> None:
        self._requests.append(asyncio.create_task(self._request()))

    async def _request(self) -> None:
        try:
            await self._connection.cancel_safe(timeout=1.0)
        except psycopg.Error as exc:
            # Then the session is ended.
            logger.debug("a call cannot be canceled: %s", exc)

    def _end(self) -> None:
        self.is_terminated = True
        self._terminate(self._pid)
