"""A node: what a server process has for replay's life beyond it, without the server."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from realtime_core import LSN, Event, LogicalMessage, PgoutputSource, SlotStatus, slot_status
from realtime_server.replay.durable import Durable
from realtime_server.replay.journal import Journal
from realtime_server.replay.places import BEFORE, Place, place_of
from realtime_server.replay.records import PREFIX, Seal, digest, journal_secret
from realtime_server.replay.second_slot import SecondSlot
from realtime_server.replay.second_slot_past import SecondSlotPast
from realtime_server.replay.wal_messages import WalMessages
from tests.fix_postgres import Database
from tests.waiting import eventually

MEGABYTE = 1_000_000


class Node:
    """A process that streams from a slot, and keeps a second one.

    Args:
        database: with the publication shop.
        slot: name of its slot.
        max_bytes: that the second slot may keep.
        window: seconds for which a client may be away.
        dsn: of the database, with another role than the owner, for instance.
    """

    def __init__(
        self,
        database: Database,
        slot: str,
        *,
        max_bytes: int = 1024 * MEGABYTE,
        window: float = 300.0,
        dsn: str = "",
    ) -> None:
        self.database = database
        self.slot = slot
        self.second = f"{slot}_replay"
        self._dsn = dsn or database.dsn
        self.handed: Place = BEFORE
        """Up to where changes were handed out."""
        self.needed: LSN | None = None
        """What the second slot has to keep; None: all have what was handed out."""
        self.restored: list[Event] = []
        """What was read from the second slot."""
        self.live: list[Event] = []
        """What came through the main one."""
        self.start = LSN(0)
        """Where the main stream began."""
        self.seal = Seal(
            journal_secret("password", "secret"),
            digest("shop"),
            digest(slot),
            secrets.token_bytes(8),
        )
        self.source = PgoutputSource(
            self._dsn,
            publications=["shop"],
            slot=slot,
            messages="nontransactional",
            persistent=True,
            on_gap="continue",
            replace_slot=True,
            boundaries=True,
            backoff=(0.01, 0.1),
        )
        self.writes_to = self._dsn
        """Where its journal's connection leads; everything else stays where it is."""
        self.messages = WalMessages(self._resolve_messages, PREFIX)
        self.journal = Journal(self.seal, clock=time.time)
        self.second_slot = SecondSlot(
            self._resolve,
            slot=slot,
            name=self.second,
            max_bytes=max_bytes,
            clock=time.monotonic,
        )
        self.durable = Durable(
            self.journal,
            self.messages,
            SecondSlotPast(
                self.second_slot,
                partial(
                    PgoutputSource,
                    self._dsn,
                    publications=["shop"],
                    slot=self.second,
                    messages="nontransactional",
                    boundaries=True,
                    start_at=None,
                ),
            ),
            window=window,
            stream=lambda: self.source.stats().stream,
            reconnects=lambda: self.source.stats().reconnects,
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def _resolve(self) -> str:
        return self._dsn

    def first_needed_lsn(self) -> LSN | None:
        return self.needed

    def lasting_here(self) -> Place:
        return self.handed if self.needed is None else (self.needed, -1)

    async def _resolve_messages(self) -> str:
        return self.writes_to

    async def open(self) -> None:
        await self.source.__aenter__()
        await self.source.attached()
        self.start = self.source.stats().confirmed_lsn
        self.tasks = [
            asyncio.create_task(self._read()),
            asyncio.create_task(self.durable.run(self)),
        ]
        async with contextlib.aclosing(self.durable.restore((self.start, -1))) as batches:
            async for events in batches:
                self.restored += events
        async with asyncio.timeout(30):
            await self.durable.caught_up.wait()

    async def settle(self) -> None:
        """Return when all that was noted in the journal was written, and has been read."""
        await eventually(lambda: not self.journal.is_due and self.journal.is_heard)

    async def _read(self) -> None:
        async for batch in self.source.batches():
            for event in batch:
                if isinstance(event, LogicalMessage):
                    self.durable.read(event)
            self.live += batch
            for event in batch:
                if not isinstance(event, LogicalMessage):
                    self.handed = place_of(event) or self.handed
            self.durable.published()
            self._acknowledge(batch)

    def _acknowledge(self, batch: Sequence[Any]) -> None:
        for event in reversed(batch):
            if hasattr(event, "position"):
                self.source.ack(event)
                break

    async def kill(self) -> None:
        """End without a word."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.source.aclose()
        await self.messages.aclose()

    async def slot_status(self) -> SlotStatus | None:
        return await slot_status(self.database.dsn, self.second)


@contextlib.asynccontextmanager
async def open_node(database: Database, slot: str, **options: Any) -> AsyncIterator[Node]:
    node = Node(database, slot, **options)
    try:
        await node.open()
        yield node
    finally:
        await node.kill()
