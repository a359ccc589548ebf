"""RoundPublisher: publishes to those who came back what their viewers may see now.

A change may have been committed minutes ago, and its row may be another's by now. So each viewer is
checked again, with the claims of the new join, and shown only rows that still have the values that
the change has, whatever RLS_STRICT says. An error shows nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Container, Hashable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Final, Self

import psycopg

from realtime_core import Event, Gap, RowChange

from ..config import OutputPlugin, RlsDelete, ServerConfig
from ..config.database.addresses import resolve_dsn
from ..config.database.connections import brief
from ..fanout.hub import Hub
from ..fanout.payloads.oversize import size_of
from ..fanout.turns import run_steps
from .checker import Checker, Verdict
from .counters import Counters
from .delivery import Delivery
from .lookup.locks import Locks
from .lookup.visibility import Visibility
from .matcher import Matcher
from .pending_changes import PendingChange
from .reader import Read
from .table_check import Lookup
from .viewers import Viewer

__all__ = ["RoundPublisher", "make_round_publisher"]

logger = logging.getLogger("realtime.rls")

_CONNECTIONS: Final = 2
"""How many connections check rows for those who came back. Live changes have others."""
RETRY: Final = 0.5
"""After how many seconds a failed check is tried again."""


class RoundPublisher:
    """Publishes changes to the hub of a round. Use it as a context manager.

    Args:
        checker: decides, strictly, what viewers are shown.
        lookup: looks rows up for one viewer, with the whole timeout.
        locks: waits for tables that are locked.
        visibility: what these ask. It is opened and closed with the publisher.
        counters: of the server.
    """

    def __init__(
        self,
        checker: Checker,
        lookup: Lookup,
        locks: Locks,
        visibility: Visibility,
        counters: Counters,
    ) -> None:
        self._checker = checker
        self._lookup = lookup
        # Waits for tables that are being altered.
        self._locks = locks
        self._visibility = visibility
        self._counters = counters
        # Rounds check at the same time, and write one after the other.
        self._writing = asyncio.Lock()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._visibility)
        await self._stack.enter_async_context(self._locks)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._stack.aclose()

    async def renew(self) -> None:
        """Ask another server from now on, since the changes come from there."""
        await self._visibility.renew()

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
                verdict = await self._checker.check(pending, lookup)
                if not verdict.locked:
                    return verdict
                await self._locks.released(verdict.locked)
            except psycopg.Error as exc:
                logger.warning(
                    "clients that came back wait until the database can check what they may see: "
                    "%s",
                    brief(exc),
                )
                await asyncio.sleep(RETRY)


def make_round_publisher(config: ServerConfig, counters: Counters) -> RoundPublisher:
    """Return what publishes to those who come back, with connections of its own.

    Args:
        config: of the server.
        counters: of the server.
    """
    visibility = Visibility(
        partial(resolve_dsn, config),
        timeout=config.rls_check_timeout / 1000,
        name="rls replay",
        size=_CONNECTIONS,
    )
    is_wal2json = config.output_plugin is OutputPlugin.WAL2JSON
    checker = Checker(
        visibility,
        counters,
        publications=config.publications if is_wal2json else (),
        max_record_bytes=config.max_record_bytes,
        strict=True,
        asks_for_deleted=config.rls_delete is RlsDelete.POLICY,
    )
    return RoundPublisher(
        checker, visibility.check_alone, Locks(visibility.catalog), visibility, counters
    )
