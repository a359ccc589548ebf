"""Attempts: attaching a source again and again, until its stream runs or nothing can help.

An error is waited out when it may pass by itself: later on always, the first time only if the
source is persistent. A slot that somebody holds is looked at each second, outside of the
backoff, since that says nothing of the database.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from random import Random
from typing import Final

from ..errors import SlotInUseError, SlotLostError, SourceError
from ._attach import Attachment, OutputPlugin, ResumePoint, Untold, attach
from ._backoff import Backoff
from ._connection import ReplicationConnection
from ._slots import slot_dropped
from .options import StreamSettings

__all__ = ["Attempts"]

logger = logging.getLogger("realtime.source")

_STANDBY_INTERVAL: Final = 1.0
"""Seconds between two looks at a slot that somebody else uses."""


class Attempts:
    """Attaches in a task of its own, so that whoever waits for it may be cancelled at any time.

    Args:
        settings: of the source.
        plugin: what it reads with.
        random: source of jitter and of generated slots' names.
        former: says where the source stands; None as long as it was never attached.
        attached: takes a running stream, and its slot's name.
    """

    def __init__(
        self,
        settings: StreamSettings,
        plugin: OutputPlugin,
        random: Random,
        former: Callable[[], ResumePoint | None],
        attached: Callable[[Attachment, str], None],
    ) -> None:
        self.untold = Untold()
        """What the next attempt has to know of gaps."""
        self._settings = settings
        self._plugin = plugin
        self._random = random
        self._former = former
        self._attached = attached
        self._backoff = Backoff(*settings.backoff, random)
        # In seconds, before the next attempt.
        self._delay = 0.0
        self._task: asyncio.Task[None] | None = None
        # The connection of the latest attempt.
        self._candidate: ReplicationConnection | None = None
        # Process IDs of our walsenders: the last one may hold the slot for a while yet.
        self._own_pids: deque[int] = deque(maxlen=16)
        self._closed = False

    @property
    def started(self) -> bool:
        """Whether one is under way, or has ended and nobody has waited for it yet."""
        return self._task is not None

    def start(self) -> None:
        """Begin at once, even if nobody waits for it."""
        self._delay = 0.0
        self._task = asyncio.create_task(self._run())

    async def wait(self) -> None:
        """Wait until the stream runs. Several may; cancelling a wait leaves the attempt going.

        Raises:
            SourceError: if that fails, and trying again cannot help.
            StopAsyncIteration: if it was closed.
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
        """Say that the stream ended, and whether it had worked before."""
        if worked:
            self._backoff.reset()
            self._delay = 0.0
        else:
            # An error that comes with each attempt must not become a busy loop.
            self._delay = self._backoff.next()

    async def aclose(self, within: float) -> None:
        """End the attempt that is under way, waiting so many seconds for it, at most."""
        self._closed = True
        task = self._task
        if task is None:
            return
        if not task.done() and self._candidate is not None:
            # Not cancelled at once: psycopg would ask the server to cancel, and wait for it.
            self._candidate.abort()
            await asyncio.wait({task}, timeout=within)
        task.cancel()
        # Not its error either: whoever closes has lost interest in it.
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
                    reason = self.untold.dropped_for
                    if reason is None:
                        raise
                    raise slot_dropped(self._settings.slot or "", reason, exc) from exc
                if isinstance(exc, SlotInUseError) and not self._is_ours(exc):
                    # That may take for ever, or be over now: it says nothing of the database.
                    if exc.holder != holder:
                        holder = exc.holder
                        logger.warning(
                            "slot %r is active for %s; waiting until it is free", exc.slot, holder
                        )
                    await asyncio.sleep(_STANDBY_INTERVAL)
                    continue
                delay = self._backoff.next()
                if isinstance(exc, SlotInUseError):
                    logger.warning(
                        "slot %r is active for %s, a connection of this source that broke; trying "
                        "again in %.1f s",
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
                # PostgreSQL's word: it was lost after it was looked at. Looking again tells why.
                attachment = await self._attach(name)
        finally:
            # It is closed, or the stream's.
            self._candidate = None
        self.untold = Untold()
        self._attached(attachment, name)

    async def _attach(self, name: str) -> Attachment:
        return await attach(
            self._settings,
            self._plugin,
            name,
            self._former(),
            self.untold,
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
        # Whoever comes after us would know nothing of a gap that we have made.
        has_gap = self.untold.dropped_for is not None
        return exc.transient and (has_gap or self._former() is not None)

    def _is_ours(self, exc: SlotInUseError) -> bool:
        """Whether a connection of this source that broke holds the slot."""
        return self._former() is not None and (exc.pid is None or exc.pid in self._own_pids)
