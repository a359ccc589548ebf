"""RoundPublisher: publishes to clients that came back the changes that they may see now.

A change may have been committed minutes ago, and its row may belong to somebody else by now. So
each viewer is checked again, with the claims of the new join, and is shown only rows that still
have the values of the change, whatever RLS_STRICT says. An error shows nothing.

The viewers of a round are checked together, with a shortened timeout. A viewer whose policies take
longer is left out, and has a round of its own from then on, with the whole timeout, so that the
others do not wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence, Set
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Final, Self

import attrs
import psycopg

from realtime_core import Event, Gap, RowChange

from ..config import OutputPlugin, RlsDelete, ServerConfig
from ..config.database.addresses import resolve_dsn
from ..config.database.connections import brief
from ..fanout.hub import Hub
from ..fanout.payloads.oversize import size_of
from ..fanout.turns import run_steps
from ..logs import LineLimit
from ..replay.publishing import CannotPublishError, Published
from .checker import Checker, CheckResult
from .costly_viewers import is_costly
from .counters import Counters
from .delivery import Delivery
from .lookup.locks import Locks
from .lookup.visibility import Visibility
from .matcher import Matcher
from .pending_changes import PendingChange, Shown
from .reader import Read
from .table_check import Lookup
from .viewers import Viewer

__all__ = ["RoundPublisher", "make_round_publisher"]

logger = logging.getLogger("realtime.rls")

_CONNECTIONS: Final = 3
"""Connections that check rows for clients that came back. Live changes have other connections."""
_ALONE: Final = 2
"""How many of these may check slow viewers."""
RETRY: Final = 0.5
"""After how many seconds a failed check is tried again."""


class RoundPublisher:
    """Publishes changes to the hub of a round. Use it as a context manager.

    Args:
        checker: decides, strictly, what viewers are shown.
        lookup: looks rows up for one viewer, with the whole timeout.
        locks: waits for tables that are locked.
        visibility: has the connections for all of these. The publisher opens and closes it.
        counters: counts the failures and the timeouts.
        patience: seconds for which clients wait for a database that is away.
    """

    def __init__(
        self,
        checker: Checker,
        lookup: Lookup,
        locks: Locks,
        visibility: Visibility,
        counters: Counters,
        *,
        patience: float,
    ) -> None:
        self._checker = checker
        self._lookup = lookup
        # Waits for tables that are being altered.
        self._locks = locks
        self._visibility = visibility
        self._counters = counters
        self._patience = patience
        self._lines = LineLimit()
        self._turns_alone = asyncio.Semaphore(_ALONE)
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

    async def __call__(self, hub: Hub, events: list[Event]) -> Published:
        """Publish events to a hub, and return the viewers for which that takes too long.

        Raises:
            CannotPublishError: if the database cannot say who may see the rows.
        """
        done = _Done()
        reads: list[Read] = []
        for event in events:
            if isinstance(event, RowChange):
                reads.append(Read(event, size_of(event)))
            elif isinstance(event, Gap):
                await self._publish(hub, reads, done)
                reads = []
                async with self._writing:
                    telling = Delivery(hub, self._counters).telling(
                        event, later_for=frozenset(done.apart)
                    )
                    await run_steps(telling)
        await self._publish(hub, reads, done)
        return Published(done.slow, done.apart, done.costly - done.slow - done.apart)

    async def _publish(self, hub: Hub, reads: Sequence[Read], done: _Done) -> None:
        if not reads:
            return
        pending = await Matcher(hub).match(reads)
        if done.apart:
            pending = [one.without(frozenset(done.apart)) for one in pending]
        if len(_viewers(pending)) <= 1:
            shown = await self._check_alone(pending, done)
        else:
            shown = await self._check_together(pending, done)
        async with self._writing:
            decided = list(zip(pending, shown, strict=True))
            await run_steps(Delivery(hub, self._counters).handing_out(decided))

    async def _check_alone(self, pending: Sequence[PendingChange], done: _Done) -> list[Shown]:
        """Check the one viewer of a round, which has the whole timeout."""
        async with self._turns_alone:
            result = await self._check(pending, self._lookup)
        self._counters.timeouts += result.timeouts.total()
        done.slow |= result.timeouts.keys()
        return [_without(shown, done.slow) for shown in result.shown]

    async def _check_together(self, pending: Sequence[PendingChange], done: _Done) -> list[Shown]:
        """Check the viewers of a round, except for viewers whose policies take too long."""
        everybody = _viewers(pending)
        decided: list[Shown] = [{} for _ in pending]
        left: Sequence[PendingChange] = pending
        while True:
            result = await self._check(left)
            late = result.timeouts.keys()
            for shown, more in zip(decided, result.shown, strict=True):
                shown.update(_without(more, late))
            done.costly |= {one for one, taken in result.seconds.items() if is_costly(taken)}
            too_long = {viewer for viewer, count in result.timeouts.items() if count}
            done.apart |= too_long or late
            # The viewers behind the one that used up the time were not checked.
            unasked = late - done.apart
            if not unasked:
                return decided
            left = [one.without(everybody - unasked) for one in pending]

    async def _check(
        self, pending: Sequence[PendingChange], lookup: Lookup | None = None
    ) -> CheckResult:
        """Check changes; wait while a table is locked, or the database is away.

        Raises:
            CannotPublishError: if that takes too long, or the database refuses to answer.
        """
        until = asyncio.get_running_loop().time() + self._patience
        while True:
            try:
                result = await self._checker.check(pending, lookup)
                if not result.locked:
                    return result
                await self._locks.released(result.locked)
            except psycopg.OperationalError as exc:
                # The connection was lost, or the server starts.
                if asyncio.get_running_loop().time() >= until:
                    raise CannotPublishError(brief(exc)) from exc
                others = self._lines.take()
                if others is not None:
                    logger.warning(
                        "clients that came back wait until the database can check what they may "
                        "see: %s; so many more such failures since the last such line: %d",
                        brief(exc),
                        others,
                    )
                await asyncio.sleep(RETRY)
            except psycopg.Error as exc:
                raise CannotPublishError(brief(exc)) from exc


@attrs.define
class _Done:
    """The viewers of a round for which it takes too long, as in :class:`.Published`."""

    slow: set[Viewer] = attrs.field(factory=set)
    apart: set[Viewer] = attrs.field(factory=set)
    costly: set[Viewer] = attrs.field(factory=set)


def _viewers(pending: Sequence[PendingChange]) -> frozenset[Viewer]:
    return frozenset().union(*(one.viewers | one.others for one in pending))


def _without(shown: Shown, viewers: Set[Viewer]) -> Shown:
    return {viewer: view for viewer, view in shown.items() if viewer not in viewers}


def make_round_publisher(config: ServerConfig, counters: Counters) -> RoundPublisher:
    """Return the publisher for clients that come back, with connections of its own.

    Args:
        config: the server's settings.
        counters: the server's counters of RLS mode.
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
        checker,
        visibility.check_alone,
        Locks(visibility.catalog),
        visibility,
        counters,
        # What was missed is kept for no longer.
        patience=config.replay_window / 1000,
    )
