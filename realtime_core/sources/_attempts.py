"""Attempts: attaches a source, again and again, until its stream runs or an error is final.

After an error that may pass by itself there is another attempt, but the very first attempt is only
repeated if the source is persistent. A slot that another process uses is checked once a second,
without backoff, because that does not mean that the database has a problem.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Final

from ..errors import SlotInUseError, SlotLostError, SourceError
from ._attach import AttachedStream, ResumePoint, SnapshotOrigin, UnreportedGap, attach
from ._backoff import Backoff
from ._plugin import PluginFacts
from ._replication_connection import ReplicationConnection
from ._slot_checks import slot_dropped
from .stream_options import StreamSettings

__all__ = ["Attempts"]

logger = logging.getLogger("realtime.source")

_STANDBY_INTERVAL: Final = 1.0
"""Seconds between two checks of a slot that another process uses."""


class Attempts:
    """Attaches a source to its slot, and tries again after errors.

    It does so in a task of its own: a task that waits for it may be cancelled at any time.

    Args:
        settings: the source's settings.
        plugin: the output plugin that it uses.
        random: yields random numbers for delays, and for the names of generated slots.
        former: returns where the source has stopped; None if it was never attached.
        attached: called with a running stream, and the name of its slot.
    """

    def __init__(
        self,
        settings: StreamSettings,
        plugin: PluginFacts,
        random: Random,
        former: Callable[[], ResumePoint | None],
        attached: Callable[[AttachedStream, str], None],
    ) -> None:
        self.unreported = UnreportedGap()
        """The gap that earlier attempts have found, and that the slot does not show."""
        self.origin: SnapshotOrigin | None = None
        """The snapshot behind which the next stream begins."""
        self._settings = settings
        self._plugin = plugin
        self._random = random
        # The function that returns where the source has stopped.
        self._former = former
        # The function to call with a running stream.
        self._attached = attached
        # The delays between attempts.
        self._backoff = Backoff(*settings.backoff, random)
        # How many seconds pass before the next attempt.
        self._delay = 0.0
        # The task that attaches; None if nobody has asked for it.
        self._task: asyncio.Task[None] | None = None
        # The connection of the attempt under way.
        self._candidate: ReplicationConnection | None = None
        # Process IDs of this source's walsenders. The last one may still use the slot for a while.
        self._own_pids: deque[int] = deque(maxlen=16)
        # Whether there shall be no more attempts.
        self._closed = False

    @property
    def started(self) -> bool:
        """Whether an attempt is under way, or has ended without anybody having waited for it."""
        return self._task is not None

    def start(self) -> None:
        """Begin an attempt at once, even if nobody waits for it."""
        self._delay = 0.0
        self._task = asyncio.create_task(self._run())

    async def wait(self) -> None:
        """Wait until the stream runs. Begin an attempt if none is under way.

        Several tasks may wait at a time; cancelling one of them does not cancel the attempt.

        Raises:
            SnapshotNeeded: if a snapshot has to be taken first.
            SourceError: if attaching fails, and trying again cannot help.
            StopAsyncIteration: if the attempts were closed.
        """
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        task = self._task
        await asyncio.wait({task})
        if self._task is task:
            self._task = None
        if self._closed or task.cancelled():
            raise StopAsyncIteration
        task.result()

    def broke_off(self, *, worked: bool) -> None:
        """Note that the stream has ended.

        Args:
            worked: whether it had worked until then; if not, the next attempt is delayed.
        """
        if worked:
            self._backoff.reset()
            self._delay = 0.0
        else:
            # An error that follows every attempt must not lead to a busy loop.
            self._delay = self._backoff.next()

    async def aclose(self, within: float) -> None:
        """End the attempt that is under way, and wait for that for at most ``within`` seconds."""
        self._closed = True
        task = self._task
        if task is None:
            return
        if not task.done() and self._candidate is not None:
            # The connection is broken off first: if the task were cancelled, psycopg would ask
            # the server to cancel its command, and wait for the answer.
            self._candidate.abort()
            await asyncio.wait({task}, timeout=within)
        task.cancel()
        # An error of the attempt is ignored, because the source is being closed.
        await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        await asyncio.sleep(self._delay)
        holder = ""
        while True:
            try:
                return await self._once()
            except SourceError as exc:
                if self._closed:
                    raise
                if not self._may_retry(exc):
                    reason = self.unreported.dropped_for
                    if reason is None:
                        raise
                    raise slot_dropped(self._settings.slot or "", reason, exc) from exc
                if isinstance(exc, SlotInUseError) and not self._is_ours(exc):
                    # The other process may use the slot for ever, or may just have ended. There
                    # is no need for a growing delay, because the database is all right.
                    if exc.holder != holder:
                        holder = exc.holder
                        if callable(self._settings.start_at):
                            # A consumer that asks where to begin only then is one of several.
                            logger.info(
                                "slot %r is active for %s; waiting until it is free",
                                *(exc.slot, holder),
                            )
                        else:
                            logger.warning(
                                "slot %r is active for %s; waiting until it is free",
                                *(exc.slot, holder),
                            )
                    await asyncio.sleep(_STANDBY_INTERVAL)
                    continue
                delay = self._backoff.next()
                if isinstance(exc, SlotInUseError):
                    logger.warning(
                        "slot %r is still active for %s, a broken connection of this source; "
                        "trying again in %.1f s",
                        *(exc.slot, exc.holder, delay),
                    )
                else:
                    logger.warning("%s; trying again in %.1f s", exc, delay)
                await asyncio.sleep(delay)

    async def _once(self) -> None:
        name = self._settings.slot or f"realtime_{self._random.getrandbits(64):016x}"
        try:
            try:
                attachment = await self._attach(name)
            except SlotLostError as exc:
                if exc.sqlstate is None:
                    raise
                # PostgreSQL has refused the slot, so it was lost after it was checked. The
                # second attempt finds out why.
                attachment = await self._attach(name)
        finally:
            # It is closed by now, or belongs to the running stream.
            self._candidate = None
        self.unreported, self.origin = UnreportedGap(), None
        self._attached(attachment, name)

    async def _attach(self, name: str) -> AttachedStream:
        return await attach(
            self._settings,
            self._plugin,
            name,
            self._former(),
            self.unreported,
            self.origin,
            self._connected,
        )

    def _connected(self, connection: ReplicationConnection) -> None:
        self._candidate = connection
        self._own_pids.append(connection.pid)

    def _may_retry(self, exc: SourceError) -> bool:
        if self._settings.persistent:
            return True
        if isinstance(exc, SlotInUseError):
            return self._is_ours(exc) or self._settings.slot_in_use == "wait"
        # If this source has dropped the slot, only this source can report the gap.
        has_gap = self.unreported.dropped_for is not None
        return exc.transient and (has_gap or self._former() is not None)

    def _is_ours(self, exc: SlotInUseError) -> bool:
        """Return whether the slot is still used by a broken connection of this source."""
        return self._former() is not None and (exc.pid is None or exc.pid in self._own_pids)
