"""Lane: what waits for a viewer whose policies take too long, in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import psycopg

from .candidates import Candidate
from .viewers import Viewer

__all__ = ["Lane"]

logger = logging.getLogger("realtime.rls")

_MOST_WAITING: Final = 10_000
"""Changes that may wait for a viewer who is asked for apart; beyond, they are given up."""
_RETRY: Final = 1.0
"""Seconds until a viewer is asked for again whose connection was lost."""


class Lane:
    """What waits for a viewer who is asked for apart, and the task that works it off.

    It holds so much; what comes beyond is given up by whoever brings it.
    """

    def __init__(
        self, work: Callable[[Sequence[Candidate]], Awaitable[None]], viewer: Viewer
    ) -> None:
        self._work = work
        self._viewer = viewer
        self._waiting: deque[Sequence[Candidate]] = deque()
        self._size = 0
        self._woken = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    def put(self, candidates: Sequence[Candidate]) -> bool:
        """Take a part of a batch; False if too much waits already."""
        if self._size and self._size + len(candidates) > _MOST_WAITING:
            return False
        self._waiting.append(candidates)
        self._size += len(candidates)
        self._woken.set()
        return True

    def cancel(self) -> asyncio.Task[None]:
        """End; return the task that does."""
        self._task.cancel()
        return self._task

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            while self._waiting:
                try:
                    await self._work(self._waiting[0])
                except psycopg.Error as exc:
                    logger.warning(
                        "role %s is asked for apart again: %s",
                        self._viewer.role,
                        " ".join(str(exc).split()),
                    )
                    await asyncio.sleep(_RETRY)
                else:
                    self._size -= len(self._waiting.popleft())
            self._woken.clear()
