"""CatchUpPublisher: publishes to clients that came back the changes that they may see now.

A change may have been committed minutes ago, and its row may belong to somebody else by now. So
each viewer is checked again, with the claims of the new join, and is shown only rows that still
have the values of the change, whatever RLS_STRICT says. An error shows nothing.

The viewers of a round are checked together, with a shortened timeout. A viewer whose policies take
longer is left out, and has a round of its own from then on, with the whole timeout, so that the
others do not wait for it. A viewer that asks for rows of a locked table waits outside of the round.
If the database refuses to check all of them, halves of the viewers are checked by themselves, until
it is known for whom it refuses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
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
from ..logs import LineLimit
from ..replay.publishing import CannotPublishError, Published, write_all
from .checker import Checker, CheckResult
from .costly_viewers import is_costly
from .counters import Counters
from .delivery import Delivery
from .lookup.locks import LockedRelation, Locks
from .lookup.visibility import Visibility
from .matcher import Matcher
from .pending_changes import PendingChange, Shown
from .reader import Read
from .table_check import Lookup
from .viewers import Viewer

__all__ = ["CatchUpPublisher", "make_catch_up_publisher"]

logger = logging.getLogger("realtime.rls")

_CONNECTIONS: Final = 3
"""Connections that check rows for clients that came back. Live changes have other connections."""
_ALONE: Final = 2
"""How many of these may check slow viewers."""
_MOST_REFUSALS: Final = 200
"""How many checks of a step may be refused. Then all viewers of whom nothing is decided yet are
given up, as the fault is most likely not theirs."""
RETRY: Final = 0.5
"""After how many seconds a failed check is tried again."""


class CatchUpPublisher:
    """Publishes changes to the hub of a round. Use it as a context manager.

    Args:
        checker: decides what viewers are shown, always as with RLS_STRICT.
        lookup: looks rows up for one viewer, with the whole timeout.
        locks: waits for tables that are locked.
        visibility: has the connections for these three. The publisher opens and closes it.
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
        self._refusal_lines = LineLimit()
        self._turns_alone = asyncio.Semaphore(_ALONE)
        # Rounds check at the same time, and write one after the other.
        self._writing = asyncio.Lock()
        # Each waits for tables that are locked.
        self._waiting: set[asyncio.Task[None]] = set()
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
        waiting = list(self._waiting)
        for task in waiting:
            task.cancel()
        if waiting:
            await asyncio.wait(waiting)
        await self._stack.aclose()

    async def renew(self) -> None:
        """Use new connections, because the changes come from another server now."""
        await self._visibility.renew()

    async def __call__(self, hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        """Publish changes, or a gap, to a hub, as :class:`.Publish` says.

        Raises:
            CannotPublishError: if the database has been away for too long.
        """
        delivery = Delivery(hub, self._counters)
        if isinstance(events[0], Gap):
            async with self._writing:
                return Published(is_last=await write_all(delivery.telling(events[0])))
        reads = [Read(event, size_of(event)) for event in events if isinstance(event, RowChange)]
        if not reads:
            return Published()
        pending = await Matcher(hub).match(reads)
        done = _Step(pending)
        if is_alone:
            await self._check_alone(done)
        else:
            await self._check_together(done)
        async with self._writing:
            handing_out = delivery.handing_out(list(zip(pending, done.shown, strict=True)))
            is_cancelled = await write_all(handing_out)
        return Published(
            done.slow,
            done.apart,
            done.costly,
            done.refused,
            done.locked_out,
            self._when_released(done.locked) if done.locked_out else lambda: True,
            is_last=is_cancelled,
        )

    async def _check_alone(self, step: _Step) -> None:
        """Check the one viewer of a round, which has the whole timeout."""
        async with self._turns_alone:
            result = await self._check(step, step.everybody, self._lookup)
        if result is None:
            return
        self._counters.timeouts += result.timeouts.total()
        step.take(result)
        step.slow |= result.timeouts.keys() - step.locked_out

    async def _check_together(self, step: _Step) -> None:
        """Check the viewers of a round, except for viewers whose policies take too long."""
        unasked = [step.everybody]
        while unasked:
            viewers = unasked.pop()
            result = await self._check(step, viewers)
            if result is None:
                unasked += step.halves(viewers)
                continue
            step.take(result)
            step.costly |= {one for one, taken in result.seconds.items() if is_costly(taken)}
            late = result.timeouts.keys() - step.locked_out
            too_long = {viewer for viewer in late if result.timeouts[viewer]}
            if not too_long and not result.locked_out:
                # There is nobody for whom they would have to wait, so they are not asked again.
                too_long = late
            step.apart |= too_long
            # The viewers behind the one that used up the time were not checked.
            if left := frozenset(late - too_long):
                unasked.append(left)

    async def _check(
        self, step: _Step, viewers: frozenset[Viewer], lookup: Lookup | None = None
    ) -> CheckResult | None:
        """Check the changes of a step for some viewers; wait while the database is away.

        Returns:
            The result; None if the database refuses, which may be because of any of the viewers.

        Raises:
            CannotPublishError: if the database has been away for too long.
        """
        until = asyncio.get_running_loop().time() + self._patience
        pending = step.pending_of(viewers)
        while True:
            try:
                return await self._checker.check(pending, lookup)
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
                if step.refuse(viewers):
                    self._mention_refusal(exc)
                return None

    def _mention_refusal(self, exc: psycopg.Error) -> None:
        others = self._refusal_lines.take()
        if others is not None:
            logger.warning(
                "a client that came back misses changes, since the database refuses to check what "
                "it may see: %s; so many more such refusals since the last such line: %d",
                brief(exc),
                others,
            )

    def _when_released(self, locked: Collection[LockedRelation]) -> Callable[[], bool]:
        """Return what says whether tables are not locked any more."""
        task = asyncio.create_task(self._locks.released(locked))
        self._waiting.add(task)
        task.add_done_callback(self._waiting.discard)
        return task.done


class _Step:
    """What is decided of a step of a round.

    Args:
        pending: the changes.
    """

    def __init__(self, pending: Sequence[PendingChange]) -> None:
        self._pending = pending
        self.everybody = _viewers(pending)
        """All viewers."""
        self.shown: list[Shown] = [{} for _ in pending]
        """What is shown of each change."""
        self.slow: set[Viewer] = set()
        self.apart: set[Viewer] = set()
        self.costly: set[Viewer] = set()
        self.refused: set[Viewer] = set()
        self.locked_out: set[Viewer] = set()
        self.locked: set[LockedRelation] = set()
        """The tables for which ``locked_out`` wait."""
        self._refusals = 0

    def pending_of(self, viewers: frozenset[Viewer]) -> Sequence[PendingChange]:
        """Return the changes for some viewers."""
        others = self.everybody - viewers
        return [one.without(others) for one in self._pending] if others else self._pending

    def take(self, result: CheckResult) -> None:
        """Take what a check has decided."""
        late = result.timeouts.keys()
        for shown, more in zip(self.shown, result.shown, strict=True):
            shown.update((viewer, view) for viewer, view in more.items() if viewer not in late)
        self.locked_out |= result.locked_out
        self.locked |= result.locked

    def refuse(self, viewers: frozenset[Viewer]) -> bool:
        """Note that the database refused a check; return whether nobody is asked for again."""
        self._refusals += 1
        if len(viewers) > 1 and self._refusals < _MOST_REFUSALS:
            return False
        self.refused |= viewers
        return True

    def halves(self, viewers: frozenset[Viewer]) -> list[frozenset[Viewer]]:
        """Return the halves of some viewers, to be checked by themselves; none if they are given
        up."""
        left = [viewer for viewer in viewers if viewer not in self.refused]
        half = len(left) // 2
        return [frozenset(some) for some in (left[half:], left[:half]) if some]


def _viewers(pending: Sequence[PendingChange]) -> frozenset[Viewer]:
    return frozenset().union(*(one.viewers | one.others for one in pending))


def make_catch_up_publisher(config: ServerConfig, counters: Counters) -> CatchUpPublisher:
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
    return CatchUpPublisher(
        checker,
        visibility.check_alone,
        Locks(visibility.catalog),
        visibility,
        counters,
        # What was missed is kept for no longer.
        patience=config.replay_window / 1000,
    )
