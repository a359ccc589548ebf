"""RLS mode's broadcaster: reads, matches, checks, sends and acknowledges changes, in this order."""

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
from ..fanout.database_broadcasts import DatabaseBroadcasts
from ..fanout.stream.broadcaster import LiveStream
from ..fanout.turns import Steps, run_steps
from ..metrics import Metrics
from .delivery import Delivery
from .matcher import Matcher
from .pending_changes import Decided, PendingChange
from .reader import Batch, BatchReader

__all__ = ["Broadcaster", "Check", "Telling"]

logger = logging.getLogger("realtime.rls")

_RETRY: Final = 0.5
"""After how many seconds a failed check is tried again."""


Check: TypeAlias = Callable[[Sequence[PendingChange]], Awaitable[Decided]]
"""Returns what each viewer may see of each change, in order; raises psycopg.Error if nothing could
be decided."""
Telling: TypeAlias = Callable[[Gap], Steps]
"""Tells all channels of a gap, after all changes that came before it, in steps."""


class Broadcaster:
    """Sends each change of the stream to the clients that may see it.

    Args:
        matcher: finds the channels that ask for a change.
        check: asks PostgreSQL what each viewer may see.
        delivery: sends the changes.
        telling: tells channels of gaps.
        metrics: the server's metrics.
        moved: called when changes come from another server or timeline than before, before any of
            them is checked: else the former server might be asked.
        replay: keeps what is sent for clients that are away, and lets those go live that have come
            back; None: nobody does.
        broadcasts: gets the rows of ``realtime.messages``; None: they go to nobody.
        clock: returns the time as seconds since 1970.
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
        replay: LiveStream | None = None,
        broadcasts: DatabaseBroadcasts | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._matcher = matcher
        self._check = check
        self._delivery = delivery
        self._telling = telling
        self._metrics = metrics
        self._moved = moved
        self._replay = replay
        self._broadcasts = broadcasts
        self._clock = clock
        # The system identifier and the timeline of the last changes.
        self._origin: tuple[int, int] | None = None

    async def run(self, reader: BatchReader) -> None:
        """Read, check, send and acknowledge changes until the stream ends.

        A batch is acknowledged when it is in the outbox of every client that gets it, or waits in
        the queue of a viewer that is checked separately. So a crash repeats it, and never skips it,
        except for what waits in such queues. A cancellation ends a check at once, but waits while
        a batch is sent until that is done.

        Raises:
            RealtimeError: if the stream cannot go on.
        """
        async with contextlib.aclosing(reader.batches()) as batches:
            async for batch in batches:
                if self._replay is not None:
                    # From the match on, no channel may come that has got the batch already.
                    self._replay.before(batch.events)
                if batch.messages and self._broadcasts is not None:
                    # They need no check, so they do not wait for that of the changes.
                    await run_steps(self._broadcasts.sending(batch.messages))
                if not batch.reads and batch.gap is None:
                    self._finish(reader, batch)
                    continue
                decided = await self._decide(batch)
                try:
                    await self._hand_out(batch, decided)
                except asyncio.CancelledError:
                    self._finish(reader, batch)
                    raise
                self._finish(reader, batch)

    def _finish(self, reader: BatchReader, batch: Batch) -> None:
        if self._replay is not None:
            self._replay.after()
        reader.acknowledge(batch)

    async def _decide(self, batch: Batch) -> Decided:
        """Return what each viewer may see; wait while the database cannot be asked."""
        await self._look_for_another_origin(batch)
        pending = await self._matcher.match(batch.reads)
        while True:
            try:
                return await self._check(pending)
            except psycopg.Error as exc:
                logger.warning(
                    "changes wait until the database can check who may see them: %s", brief(exc)
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
            # The clocks of two machines may differ by more than this took.
            self._metrics.commit_to_socket.observe(max(age, 0.0))
