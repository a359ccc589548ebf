"""Broadcaster: reads, matches, has it checked, delivers, acknowledges, in this order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

import psycopg

from realtime_core import Gap

from ..config.database.connections import brief
from ..fanout.turns import Steps, run_steps
from ..metrics import Metrics
from .delivery import Delivery
from .matcher import Matcher
from .pending_changes import Decided, PendingChange
from .reader import Batch, Reader

__all__ = ["Broadcaster", "Check", "Telling"]

logger = logging.getLogger("realtime.rls")

_RETRY: Final = 0.5
"""Seconds until the database is asked again."""


Check: TypeAlias = Callable[[Sequence[PendingChange]], Awaitable[Decided]]
"""Says what is shown of each change, in order; a psycopg.Error says that nothing was decided."""
Telling: TypeAlias = Callable[[Gap], Steps]
"""Tells everybody of a gap, behind what came before it; each step says for how many seconds others
should have a turn."""


class Broadcaster:
    """Takes each change from the stream to those who may see it.

    Args:
        matcher: says who gets it if they may see it.
        check: asks who may.
        delivery: hands it out.
        telling: tells of gaps.
        metrics: of the server.
        moved: called when changes come from another server or timeline than before, and before
            any of them is checked: else the former server might be asked.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        matcher: Matcher,
        check: Check,
        delivery: Delivery,
        telling: Telling,
        metrics: Metrics,
        moved: Callable[[], Awaitable[None]],
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._matcher = matcher
        self._check = check
        self._delivery = delivery
        self._telling = telling
        self._metrics = metrics
        self._moved = moved
        self._clock = clock
        # System identifier and timeline.
        self._origin: tuple[int, int] | None = None

    async def run(self, reader: Reader) -> None:
        """Take everything until the stream ends.

        A batch is acknowledged when it has been handed to every outbox: a crash in between
        repeats it, and never skips it. What is asked of the database may be cancelled; a
        cancellation while it is handed out waits until that is done.

        Raises:
            RealtimeError: if the stream cannot go on.
        """
        async with contextlib.aclosing(reader.batches()) as batches:
            async for batch in batches:
                decided = await self._decide(batch)
                try:
                    await self._hand_out(batch, decided)
                except asyncio.CancelledError:
                    reader.acknowledge(batch)
                    raise
                reader.acknowledge(batch)

    async def _decide(self, batch: Batch) -> Decided:
        """Return what is shown to whom. While the database cannot be asked, it waits."""
        await self._look_for_another_origin(batch)
        candidates = await self._matcher.match(batch.reads)
        while True:
            try:
                return await self._check(candidates)
            except psycopg.Error as exc:
                logger.warning(
                    "changes wait until row level security can be asked for: %s", brief(exc)
                )
                await asyncio.sleep(_RETRY)

    async def _look_for_another_origin(self, batch: Batch) -> None:
        stream = batch.reads[0].change.transaction.stream if batch.reads else None
        if stream is None:
            return
        origin = (stream.system_identifier, stream.timeline)
        if origin != self._origin:
            if self._origin is not None:
                await self._moved()
            self._origin = origin

    async def _hand_out(self, batch: Batch, decided: Decided) -> None:
        if batch.gap is not None:
            await run_steps(self._telling(batch.gap))
            return
        await run_steps(self._delivery.handing_out(decided))
        commit_time = batch.reads[0].change.transaction.commit_time if batch.reads else None
        if commit_time is not None:
            age = self._clock() - commit_time.timestamp()
            # Two machines' clocks may differ by more than it took.
            self._metrics.commit_to_socket.observe(max(age, 0.0))
