"""SlowViewerQueue: what waits for a viewer whose policies take too long, in order."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import chain
from typing import Final, TypeAlias

import attrs
import psycopg

from realtime_core import Position

from ..config.database.connections import brief
from .channel_gaps import ChannelGap, ChannelGapReason
from .pending_changes import PendingChange
from .viewers import Viewer
from .waiting import AROUND, Waiting

__all__ = ["SlowViewerQueue", "Lost", "Word"]

logger = logging.getLogger("realtime.rls")

_MOST_WAITING: Final = 10_000
"""Changes that may wait behind those that are being looked at; beyond, all of them are given up."""
_MOST_BYTES: Final = 64 * 1024 * 1024
"""Of their texts, likewise."""
_MOST_AT_ONCE: Final = 1000
"""Changes that are looked at at once, if they came one by one."""
_FAR: Final = 1000
"""Changes that wait for who is far behind."""
_RETRY: Final = 1.0
"""Seconds until a viewer is asked for again whose connection was lost."""

Lost: TypeAlias = Callable[[ChannelGap], None]
"""Tells the channels."""


@attrs.frozen
class Word:
    """Something to be told behind what waits."""

    tell: Callable[[], None]


class SlowViewerQueue:
    """Works off what waits for a viewer who is asked for apart.

    Args:
        work: looks at some changes and hands them out; returns how many seconds that has taken of
            its policies.
        lost: is told what is given up, in its place among what is handed out.
        viewer: who is asked for.
        held: counts what waits in all lanes.
        enough: seconds that the policies may take of what is looked at at once. Half as much is,
            when they take longer, and twice as much when they take less than half of it.
        moved: called whenever something has been worked off.
    """

    def __init__(
        self,
        work: Callable[[Sequence[PendingChange]], Awaitable[float]],
        lost: Lost,
        viewer: Viewer,
        held: Waiting,
        enough: float,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        self._work = work
        self._lost = lost
        self._viewer = viewer
        self._held = held
        self._enough = enough
        self._moved = moved
        # In their order: handed over, looked at, given up, waiting.
        self._handed: Position | None = None
        self._current: Sequence[PendingChange] = ()
        self._loss: ChannelGap | None = None
        self._waiting: deque[Sequence[PendingChange] | Word] = deque()
        self._count = 0
        self._bytes = 0
        self._at_once = 1
        self._woken = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    @property
    def is_idle(self) -> bool:
        """Whether all that was put in is handed out, or given up and told."""
        return not (self._waiting or self._current) and self._loss is None

    @property
    def size(self) -> int:
        """Bytes that the changes take that wait, and would not if they were given up."""
        return self._bytes + self._count * AROUND

    @property
    def has_room(self) -> bool:
        """Whether less waits than half of what may."""
        return self._count < _MOST_WAITING // 2 and self._bytes < _MOST_BYTES // 2

    @property
    def is_far_behind(self) -> bool:
        """Whether so much waits that what comes now is not looked at soon."""
        return self._count > _FAR

    def put(self, candidates: Sequence[PendingChange]) -> None:
        """Take a part of a batch, which is not empty.

        When too much waits, all of it is given up: one gap takes the channels back to what
        is happening now.
        """
        self._waiting.append(candidates)
        self._held.take(candidates)
        self._count += len(candidates)
        self._bytes += _bytes_of(candidates)
        is_too_much = self._count > _MOST_WAITING or self._bytes > _MOST_BYTES
        if is_too_much and self._count > len(candidates):
            self.give_up()
        self._woken.set()

    def tell_behind(self, word: Word) -> None:
        """Take what is to be told when all that came before has been handed out, or given up."""
        self._waiting.append(word)
        self._woken.set()

    def give_up(self) -> None:
        """Give up all changes that wait behind those that are being looked at."""
        self._waiting += self._lose_what_waits(ChannelGapReason.TOO_SLOW)
        self._woken.set()

    def cancel(self) -> asyncio.Task[None]:
        """End; return the task that does."""
        self._task.cancel()
        return self._task

    def abandon(self) -> asyncio.Task[None]:
        """End, because the viewer's token is nobody's any more; tell what is given up."""
        words = self._lose_what_waits(ChannelGapReason.TOKEN_REPLACED)
        if self._current:
            self._give_up(self._current, ChannelGapReason.TOKEN_REPLACED, are_earlier=True)
            self._held.give_back(self._current)
            self._current = ()
        self._tell()
        for word in words:
            self._say(word)
        return self.cancel()

    def _lose_what_waits(self, reason: ChannelGapReason) -> list[Word]:
        """Give up all changes that wait; return what is to be told behind them."""
        parts = [part for part in self._waiting if not isinstance(part, Word)]
        words = [part for part in self._waiting if isinstance(part, Word)]
        self._waiting.clear()
        self._count = self._bytes = 0
        if parts:
            candidates = list(chain(*parts))
            self._give_up(candidates, reason)
            self._held.give_back(candidates)
        return words

    async def _run(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            self._tell()
            while self._waiting:
                part = self._waiting.popleft()
                if isinstance(part, Word):
                    self._say(part)
                    continue
                part = self._current = [*part, *self._following(len(part))]
                self._count -= len(part)
                self._bytes -= _bytes_of(part)
                await self._work_off(part)
                self._held.give_back(part)
                self._current = ()
                self._tell()
                self._moved()

    def _following(self, count: int) -> list[PendingChange]:
        """Take what came behind the next changes, and is looked at with these.

        What a policy takes for each statement it takes once then, and who was slow for a while
        catches up.
        """
        found: list[PendingChange] = []
        while self._waiting:
            part = self._waiting[0]
            if isinstance(part, Word) or count + len(part) > self._at_once:
                break
            count += len(part)
            found += part
            self._waiting.popleft()
        return found

    async def _work_off(self, candidates: Sequence[PendingChange]) -> None:
        while True:
            try:
                seconds = await self._work(candidates)
            except psycopg.Error as exc:
                logger.warning("what is asked for apart is asked for again: %s", brief(exc))
                logger.debug("the role is %s", self._viewer.role)
                await asyncio.sleep(_RETRY)
            except Exception:
                # These would fail again, and must not keep back all that follow; nor is one of
                # those to cost many others.
                self._at_once = 1
                logger.exception(
                    "changes for a role cannot be looked at, which is a fault of the server's; "
                    "please report it"
                )
                logger.debug("the role is %s", self._viewer.role)
                later, self._loss = self._loss, None
                self._give_up(candidates, ChannelGapReason.FAILED)
                self._tell()
                self._loss = later
                return
            else:
                self._handed = candidates[-1].change.position
                if seconds > self._enough:
                    self._at_once = max(min(self._at_once, len(candidates)) // 2, 1)
                elif seconds < self._enough / 2 and len(candidates) * 2 > self._at_once:
                    self._at_once = min(self._at_once * 2, _MOST_AT_ONCE)
                return

    def _give_up(
        self,
        candidates: Sequence[PendingChange],
        reason: ChannelGapReason,
        *,
        are_earlier: bool = False,
    ) -> None:
        if self._loss is None:
            self._loss = ChannelGap.of(self._viewer, reason, candidates)
        else:
            self._loss.add(candidates, are_earlier=are_earlier)

    def _tell(self) -> None:
        loss, self._loss = self._loss, None
        if loss is not None:
            loss.after = self._handed
            self._say(Word(partial(self._lost, loss)))

    def _say(self, word: Word) -> None:
        try:
            word.tell()
        except Exception:
            # What follows must go on.
            logger.exception(
                "a gap for a role cannot be told, which is a fault of the server's; "
                "please report it"
            )
            logger.debug("the role is %s", self._viewer.role)


def _bytes_of(candidates: Sequence[PendingChange]) -> int:
    return sum(one.size for one in candidates)
