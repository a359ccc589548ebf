"""SnapshotPhase: has a source hand over a snapshot before it attaches, and again where needed.

If the slot is the only checkpoint, it may be made only when the consumer is done with all rows:
that there is a slot tells the next process that it needs no snapshot. A consumer with its own
checkpoint stores the snapshot's position there, and the slot has to exist by then.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from random import Random
from typing import Any, Final

from ..errors import SlotInUseError, SourceError
from ..snapshot import SnapshotBegin, SnapshotComplete
from ._attach import SnapshotNeeded
from ._attempts import Attempts
from ._backoff import Backoff
from ._filtering import RowFilter
from ._plugin import PluginFacts
from ._snapshot_run import SnapshotRun, SnapshotSpoiledError
from .base import Acknowledgeable
from .stream_options import StreamSettings

__all__ = ["SnapshotPhase"]

logger = logging.getLogger("realtime.source")

_MENTION: Final = 10.0
"""Seconds after which a log line says that a snapshot waits for its acknowledgement."""


class SnapshotPhase:
    """The snapshot of a source, while there is one to be handed over.

    Args:
        settings: the source's settings.
        plugin: the output plugin.
        attempts: attaches the source.
        random: yields the random numbers for delays and names.
        row_filter: the source's filter; None if it has none.
        took: called with the labels of enum types when a snapshot was taken.
    """

    def __init__(
        self,
        settings: StreamSettings,
        plugin: PluginFacts,
        attempts: Attempts,
        random: Random,
        row_filter: RowFilter | None,
        took: Callable[[Mapping[tuple[str, str], tuple[str, ...]]], None],
    ) -> None:
        self._settings = settings
        self._plugin = plugin
        self._attempts = attempts
        self._random = random
        self._filter = row_filter
        self._took = took
        self._backoff = Backoff(*settings.backoff, random)
        # Why a snapshot is needed; None while none is.
        self._needed: SnapshotNeeded | None = None
        # The snapshot under way.
        self._run: SnapshotRun | None = None
        # Takes it.
        self._task: asyncio.Task[SnapshotRun] | None = None
        # The events of a snapshot that no read has taken.
        self._events: deque[Any] = deque()
        # Its begin, once that was handed over.
        self._begun: SnapshotBegin | None = None
        # The end of the snapshot, once all rows were handed over.
        self._complete: SnapshotComplete | None = None
        # Whether the end was handed over, too.
        self._told = False
        self._acknowledged = asyncio.Event()
        # Whether no snapshot was ever taken.
        self._is_first = True

    @property
    def active(self) -> bool:
        """Whether a snapshot is to be handed over before the stream goes on."""
        return self._needed is not None

    @property
    def taken(self) -> bool:
        """Whether a snapshot is being handed over. What is committed now comes behind it."""
        return self._run is not None

    def need(self, needed: SnapshotNeeded, *, amid_transaction: bool) -> SnapshotBegin | None:
        """Note that a snapshot is needed before the source can attach.

        Returns:
            What the consumer is to be told before it is taken; None for nothing. A part of a
            transaction may be held in one of the same server, and the next slot is not made until
            that has ended.
        """
        if self._needed is not None:
            return None
        self._needed = needed
        return SnapshotBegin((), needed.reason) if amid_transaction else None

    async def take(self) -> None:
        """Wait until the snapshot is taken. Several tasks may wait; cancelling one does no harm.

        Raises:
            SourceError: if it cannot be taken, and trying again cannot help.
        """
        if self._run is not None:
            return
        if self._task is None:
            self._task = asyncio.create_task(self._begin())
        task = self._task
        await asyncio.wait({task})
        if self._task is task:
            self._task = None
        if task.cancelled():
            raise StopAsyncIteration
        task.result()

    async def _begin(self) -> SnapshotRun:
        assert self._needed is not None
        while True:
            run = SnapshotRun(self._settings, self._plugin, self._needed, self._random)
            try:
                begin = await run.begin()
            except BaseException as exc:
                run.close()
                if not isinstance(exc, SourceError) or not self._may_retry(exc):
                    raise
                await self._pause(exc)
                continue
            self._took(run.enums)
            self._run, self._complete, self._told = run, None, False
            self._is_first = False
            self._acknowledged.clear()
            self._events.append(begin)
            logger.info("taking a snapshot at %s; tables: %d", run.origin.lsn, len(begin.tables))
            return run

    async def fill(self, queue: deque[Any]) -> None:
        """Put the next events of the snapshot into the queue, or attach behind it.

        Cancelling this loses nothing.

        Raises:
            SourceError: if the snapshot cannot go on.
        """
        try:
            await self._fill(queue)
        except SnapshotNeeded as needed:
            # The slot cannot be made, or is behind the snapshot.
            logger.warning("the stream cannot begin at the snapshot; taking a new one")
            self._break_off(queue)
            self._needed = needed
        except SourceError as exc:
            # Until the next read nothing of it may hold locks, or hold back VACUUM.
            if not self._may_retry(exc):
                self._give_up()
                raise
            self._break_off(queue)
            await self._pause(exc)

    async def _fill(self, queue: deque[Any]) -> None:
        run = self._run
        if run is None:
            await self.take()
            return
        if self._events:
            self._begun = self._events[0]
            queue.extend(self._events)
            self._events.clear()
            return
        if self._complete is None:
            rows = await run.rows()
            if rows is not None:
                passes = None if self._filter is None else self._filter.passes_row
                queue.extend(
                    rows
                    if passes is None
                    else [row for row in rows if passes(row.relation, row.record)]
                )
                return
            self._complete = run.complete()
        if not (self._settings.own_checkpoint or self._settings.is_temporary):
            if not self._told:
                self._told = True
                queue.append(self._complete)
                return
            await self._wait_for_ack()
        self._attempts.origin = run.origin
        await self._attempts.wait()

    async def _wait_for_ack(self) -> None:
        try:
            async with asyncio.timeout(_MENTION):
                await self._acknowledged.wait()
        except TimeoutError:
            logger.warning(
                "the changes behind the snapshot wait until it is acknowledged: call ack() with "
                "the SnapshotComplete once all rows of the snapshot are stored"
            )
            await self._acknowledged.wait()

    def acknowledge(self, upto: Acknowledgeable) -> None:
        """Let the stream begin if ``upto`` is the end of the snapshot."""
        complete = self._complete
        if complete is not None and self._told and upto in (complete, complete.position):
            self._acknowledged.set()

    def attached(self, queue: deque[Any]) -> None:
        """Note that the source was attached, behind the snapshot if there is one."""
        if self._run is None or self._complete is None:
            return
        if not self._told:
            queue.append(self._complete)
        logger.info("the snapshot is complete: %d rows", self._complete.rows)
        self._give_up()
        self._needed = None
        self._backoff.reset()

    def _break_off(self, queue: deque[Any]) -> None:
        """Give up the snapshot, and let the consumer drop its rows before the next one is taken.

        A consumer may hold them in a transaction of the same server, and the next slot is not made
        until that has ended.
        """
        if self._begun is not None:
            queue.append(self._begun)
        self._give_up()

    def _give_up(self) -> None:
        if self._run is not None:
            self._run.close()
        self._run = None
        self._begun = None
        self._complete = None
        self._events.clear()
        self._attempts.origin = None

    def _may_retry(self, exc: SourceError) -> bool:
        if self._settings.persistent or isinstance(exc, SnapshotSpoiledError):
            return True
        return exc.transient and not isinstance(exc, SlotInUseError) and not self._is_first

    async def _pause(self, exc: SourceError) -> None:
        delay = self._backoff.next()
        logger.warning("%s; taking a new snapshot in %.1f s", exc, delay)
        await asyncio.sleep(delay)

    async def settle(self, within: float) -> None:
        """Make the slot if the rows were acknowledged: else the next process copies all again.

        Args:
            within: the most seconds that it may take.
        """
        run = self._run
        if run is None or not self._acknowledged.is_set():
            return
        self._attempts.origin = run.origin
        try:
            async with asyncio.timeout(within):
                await self._attempts.wait()
        except (TimeoutError, SourceError, SnapshotNeeded, StopAsyncIteration) as exc:
            logger.warning(
                "the source was closed before its slot was made (%s); the next one takes another "
                "snapshot",
                str(exc) or type(exc).__name__,
            )

    async def aclose(self) -> None:
        """End the snapshot that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self._give_up()
