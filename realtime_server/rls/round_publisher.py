"""RoundPublisher: publishes to those who came back what their viewers may see now.

A change may have been committed minutes ago, and its row may be another's by now. So each viewer is
checked again, with the claims of the new join, and shown only rows that still have the values that
the change has, whatever RLS_STRICT says. An error shows nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Container, Hashable, Sequence
from typing import Final

import psycopg

from realtime_core import Event, Gap, RowChange

from ..config.database.connections import brief
from ..fanout.hub import Hub
from ..fanout.payloads.oversize import size_of
from ..fanout.turns import run_steps
from .checker import Checker, Verdict
from .counters import Counters
from .delivery import Delivery
from .matcher import Matcher
from .pending_changes import PendingChange
from .reader import Read
from .table_check import Lookup
from .viewers import Viewer

__all__ = ["RoundPublisher"]

logger = logging.getLogger("realtime.rls")

RETRY: Final = 0.5
"""After how many seconds a failed check is tried again."""


class RoundPublisher:
    """Publishes changes to the hub of a round.

    Args:
        checker: decides, strictly, what viewers are shown.
        lookup: looks up rows for one viewer, with the whole timeout.
        counters: of the server.
    """

    def __init__(self, checker: Checker, lookup: Lookup, counters: Counters) -> None:
        self._checker = checker
        self._lookup = lookup
        self._counters = counters
        # Rounds check at the same time, and write one after the other.
        self._writing = asyncio.Lock()

    async def __call__(self, hub: Hub, events: list[Event]) -> Container[Hashable]:
        """Publish events to a hub, and return the viewers for whom that takes too long."""
        slow: set[Viewer] = set()
        reads: list[Read] = []
        for event in events:
            if isinstance(event, RowChange):
                reads.append(Read(event, size_of(event)))
            elif isinstance(event, Gap):
                slow |= await self._publish(hub, reads)
                reads = []
                async with self._writing:
                    await run_steps(Delivery(hub, self._counters).telling(event))
        return slow | await self._publish(hub, reads)

    async def _publish(self, hub: Hub, reads: Sequence[Read]) -> set[Viewer]:
        if not reads:
            return set()
        pending = await Matcher(hub).match(reads)
        verdict = await self._check(pending)
        slow = await self._check_alone(pending, verdict)
        decided = list(zip(pending, verdict.shown, strict=True))
        async with self._writing:
            await run_steps(Delivery(hub, self._counters).handing_out(decided))
        return slow

    async def _check_alone(self, pending: Sequence[PendingChange], verdict: Verdict) -> set[Viewer]:
        """Check those by themselves who took too long with others; return who still does."""
        slow: set[Viewer] = set()
        for viewer in verdict.timeouts:
            for shown in verdict.shown:
                shown.pop(viewer, None)
            theirs = [one.only_for(viewer) for one in pending]
            alone = await self._check(theirs, self._lookup)
            if alone.timeouts:
                self._counters.timeouts += alone.timeouts.total()
                slow.add(viewer)
                continue
            for shown, more in zip(verdict.shown, alone.shown, strict=True):
                shown.update(more)
        return slow

    async def _check(
        self, pending: Sequence[PendingChange], lookup: Lookup | None = None
    ) -> Verdict:
        while True:
            try:
                return await self._checker.check(pending, lookup)
            except psycopg.Error as exc:
                logger.warning(
                    "clients that came back wait until the database can check what they may see: "
                    "%s",
                    brief(exc),
                )
                await asyncio.sleep(RETRY)
