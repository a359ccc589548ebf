"""Lane: what waits for a viewer whose policies take too long, in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Final, TypeAlias

import psycopg

from realtime_core import Position

from .candidates import Candidate
from .losses import Loss, LossReason
from .viewers import Viewer

__all__ = ["Lane", "Lost"]

logger = logging.getLogger("realtime.rls")

_MOST_WAITING: Final = 10_000
"""Changes that may wait behind those that are being looked at; beyond, all of them are given up."""
_MOST_BYTES: Final = 64 * 1024 * 1024
"""Of their texts, likewise."""
_RETRY: Final = 1.0
"""Seconds until a viewer is asked for again whose connection was lost."""

Lost: TypeAlias = Callable[[Loss], None]
"""Tells the channels."""


class Lane:
    """Works off what waits for a viewer who is asked for apart.

    Args:
        work: looks at some changes and hands them out.
        lost: is told what is given up, in its place among what is handed out.
        viewer: who is asked for.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Candidate]], Awaitable[None]],
        lost: Lost,
        viewer: Viewer,
    ) -> None:
        self._work = work
        self._lost = lost
        self._viewer = viewer
        # In their order: handed over, looked at, given up, waiting.
        self._handed: Position | None = None
        self._current: Sequence[Candidate] = ()
        self._loss: Loss | None = None
        self._waiting: deque[Sequence[Candidate]] = deque()
        self._count = 0
        self._bytes = 0
        self._woken = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @property
    def is_idle(self) -> bool:
        """Whether all that was put in is handed out, or given up and told."""
        return not (self._waiting or self._current) and self._loss is None

    def put(self, candidates: Sequence[Candidate]) -> None:
        """Take a part of a batch, which is not empty.

        When too much waits, all of it is given up: one gap takes the channels back to what
        is happening now.
        """
        self._waiting.append(candidates)
        self._count += len(candidates)
        self._bytes += _bytes_of(candidates)
        is_too_much = self._count > _MOST_WAITING or self._bytes > _MOST_BYTES
        if is_too_much and len(self._waiting) > 1:
            self._give_up(list(chain(*self._waiting)), LossReason.TOO_SLOW)
            self._waiting.clear()
            self._count = self._bytes = 0
        self._woken.set()

    def cancel(self) -> asyncio.Task[None]:
        """End; return the task that does."""
        self._task.cancel()
        return self._task

    def abandon(self) -> asyncio.Task[None]:
        """End, because the viewer's token is nobody's any more; tell what is given up."""
        if self._waiting:
            self._give_up(list(chain(*self._waiting)), LossReason.TOKEN_REPLACED)
        if self._current:
            self._give_up(self._current, LossReason.TOKEN_REPLACED, are_earlier=True)
        self._tell()
        return self.cancel()

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            self._tell()
            while self._waiting:
                self._current = self._waiting.popleft()
                self._count -= len(self._current)
                self._bytes -= _bytes_of(self._current)
                await self._work_off(self._current)
                self._current = ()
                self._tell()

    async def _work_off(self, candidates: Sequence[Candidate]) -> None:
        while True:
            try:
                await self._work(candidates)
            except psycopg.Error as exc:
                logger.warning(
                    "role %s is asked for apart again: %s",
                    self._viewer.role,
                    " ".join(str(exc).split()),
                )
                await asyncio.sleep(_RETRY)
            except Exception:
                # These would fail again, and must not keep back all that follow.
                logger.exception(
                    "changes for role %s cannot be looked at, which is a fault of the server's; "
                    "please report it",
                    self._viewer.role,
                )
                later, self._loss = self._loss, None
                self._give_up(candidates, LossReason.FAILED)
                self._tell()
                self._loss = later
                return
            else:
                self._handed = candidates[-1].change.position
                return

    def _give_up(
        self,
        candidates: Sequence[Candidate],
        reason: LossReason,
        *,
        are_earlier: bool = False,
    ) -> None:
        if self._loss is None:
            self._loss = Loss.of(self._viewer, reason, candidates)
        else:
            self._loss.add(candidates, are_earlier=are_earlier)

    def _tell(self) -> None:
        loss, self._loss = self._loss, None
        if loss is not None:
            loss.after = self._handed
            try:
                self._lost(loss)
            except Exception:
                # What follows must go on.
                logger.exception(
                    "a gap for role %s cannot be told, which is a fault of the server's; "
                    "please report it",
                    self._viewer.role,
                )


def _bytes_of(candidates: Sequence[Candidate]) -> int:
    return sum(one.size for one in candidates)
