"""JournalReader: takes the journal's messages from the stream, without holding the stream up.

A message that comes with the stream's changes is checked, and waits. It is read beside the stream,
in slices of time, because a snapshot may be about hundred thousands of channels. While a process
begins, what is older is read first, from the past (:mod:`.past`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from realtime_core import LogicalMessage

from ..fanout.turns import Turn
from .journal import Journal
from .records import MOST_BYTES, PREFIX, Part

__all__ = ["JournalReader", "may_be_record"]

logger = logging.getLogger("realtime.replay")

_MOST_WAITING: Final = 16 * 1024 * 1024
"""Bytes of messages that wait to be read. When there are more, they are read at once."""


def may_be_record(message: LogicalMessage) -> bool:
    """Return whether a message may be a part of a record, as far as that shows without the secret.

    Every role of the database may write messages of any length.
    """
    is_one = message.prefix == PREFIX and message.transaction is None
    return is_one and len(message.content) <= MOST_BYTES


class JournalReader:
    """Reads what all server processes of the database have written into the journal.

    Args:
        journal: takes the entries.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self.caught_up = asyncio.Event()
        """Set when the journal is known up to when this process has got its slot."""
        self.on_read: Callable[[], None] = lambda: None
        """Called when a message was read that has come through the main stream."""
        self._has_said_unknown = False
        # What has come through the main stream.
        self._waiting: deque[Part] = deque()
        self.waiting_bytes = 0
        """Bytes of what has come, and has not been read."""
        # The part that is being read.
        self._reading: Iterator[None] = iter(())
        self._come = asyncio.Event()
        # Set while nothing that has come is to be read.
        self._idle = asyncio.Event()
        self._idle.set()
        # While what is older is read, the rest waits.
        self._may_read = asyncio.Event()

    def take(self, message: LogicalMessage) -> None:
        """Queue a message of the main stream for :meth:`run`, if it is one of the journal's.

        If the queue is full, everything in it is read at once, even before older messages of the
        past were read; the journal ignores those then.
        """
        part = self._verified(message)
        if part is None:
            return
        self._waiting.append(part)
        self.waiting_bytes += len(part.data)
        self._idle.clear()
        if self.waiting_bytes > _MOST_WAITING:
            self._read_all()
        self._come.set()

    def begin(self) -> None:
        """Allow the queued messages to be read, now that all older ones were read."""
        self._may_read.set()

    async def read_older(self, message: LogicalMessage) -> None:
        """Read a message that is older than what has come through the main stream."""
        part = self._verified(message)
        if part is not None:
            turn = Turn()
            self._reading = self._journal.steps(part)
            for _ in self._reading:
                await turn.give_way()

    async def idle(self) -> None:
        """Wait until all that has come was read."""
        await self._idle.wait()

    async def run(self) -> None:
        """Read the messages that :meth:`take` has queued into the journal; never return."""
        await self._may_read.wait()
        while True:
            await self._come.wait()
            self._come.clear()
            turn = Turn()
            while self._waiting:
                self._reading = self._next()
                for _ in self._reading:
                    await turn.give_way()
                self._note()
                await turn.give_way()
            self._idle.set()

    def _verified(self, message: LogicalMessage) -> Part | None:
        if message.prefix != PREFIX or message.transaction is not None:
            return None
        part = self._journal.verify(message.content)
        if part is None and self._journal.refused == 1:
            logger.warning(
                "a message with the prefix %r is none of this deployment's, and is ignored, as "
                "will be others: servers of a database have the same PUBLICATIONS, and the same "
                "REPLAY_SECRET, or else DB_PASSWORD and JWT_SECRET",
                PREFIX,
            )
        return part

    def _next(self) -> Iterator[None]:
        part = self._waiting.popleft()
        self.waiting_bytes -= len(part.data)
        return self._journal.steps(part)

    def _read_all(self) -> None:
        # The one that is being read comes first.
        for _ in self._reading:
            pass
        while self._waiting:
            for _ in self._next():
                pass
        self._note()

    def _note(self) -> None:
        journal = self._journal
        if journal.unknown and not self._has_said_unknown:
            self._has_said_unknown = True
            logger.warning(
                "the journal of replay has a record with entries that this version does not know, "
                "so clients of the server that wrote it may be told of a gap when they come here, "
                "as will those of others; run one version on all servers of a database"
            )
        if journal.booted_at >= 0 and journal.heard >= journal.booted_at:
            self.caught_up.set()
        self.on_read()
