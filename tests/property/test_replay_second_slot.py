"""The second slot and the journal, as a property: whatever happens while the slot is looked after.

Changes come and are handed out, clients prove what they have, leave and join, and other processes
write, each time that the process waits for the database. It may be killed at any such time. Then
its successor finds each client that was told of, not above what it has, and with all that it has
missed still in the slot.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import LSN, StreamIdentity
from realtime_core.positions import LAST_INDEX
from realtime_server.replay import durable, journal_writer, second_slot
from realtime_server.replay.durable import Durable
from realtime_server.replay.journal import Journal
from realtime_server.replay.places import Place
from realtime_server.replay.records import Seal, digest, journal_secret
from realtime_server.replay.second_slot import SecondSlot
from realtime_server.replay.second_slot_past import SecondSlotPast
from tests.journals import read_message
from tests.property.examples import examples
from tests.server_helpers import slot_status

pytestmark = pytest.mark.slow

SECRET = journal_secret("password", "secret")
STREAM = digest("shop")


class Killed(Exception):
    """The process was killed."""


@attrs.define(eq=False)
class Client:
    """A channel as it is, seen from above."""

    number: int
    place: Place
    """Up to where it is proven to have everything."""
    away: bool = False

    @property
    def key(self) -> bytes:
        return self.number.to_bytes(16)


class Other:
    """Another process, which is behind with the same stream."""

    def __init__(self, world: World) -> None:
        self.world = world
        seal = Seal(SECRET, STREAM, digest("another slot"), (2).to_bytes(8))
        self.journal = Journal(seal, clock=lambda: 0.0)
        self.handed: Place = (1000, -1)
        self.clients: list[Client] = []

    def step(self) -> None:
        chance = self.world.random.random()
        later = [one for one in self.world.published if one > self.handed[0]]
        if chance < 0.4 and later:
            self.handed = (later[0], LAST_INDEX)
        elif chance < 0.6:
            client = Client(1000 + len(self.clients), self.handed)
            self.clients.append(client)
            self.journal.joined(client.number, client.key, 1, client.place)
        elif chance < 0.8:
            for client in self.clients:
                if not client.away:
                    client.place = self.handed
            self.journal.low(self.handed)
        elif self.clients:
            client = self.world.random.choice(self.clients)
            if not client.away:
                client.away = True
                self.journal.joined(client.number, client.key, 1, client.place, since=0.0)
        if self.world.random.random() < 0.5:
            self.world.emit(self.journal.write())


class World:
    """A database with one publication, and a process that reads it.

    Args:
        seed: for all that is left to chance.
        lifetime: after how many waits the process is killed.
    """

    origin = (1, 1)

    def __init__(self, seed: int, lifetime: int) -> None:
        self.random = random.Random(seed)
        self.lifetime = lifetime
        self.bytes = 0
        self.end = 1000
        """Of the WAL."""
        self.published: list[int] = []
        """The LSNs of the commits that are published."""
        self.messages: list[tuple[int, bytes]] = []
        """The journal's, each with its LSN."""
        self.main = self.second = 1000
        """Where the slots are."""
        self.has_second = self.has_moved = False
        self.handed: Place = (1000, -1)
        self.clients: list[Client] = []
        self.changed: list[Client] = []
        self.heard = 0
        """How many messages the process has read."""
        seal = Seal(SECRET, STREAM, digest("slot"), (1).to_bytes(8))
        self.journal = Journal(seal, clock=lambda: 0.0)
        self.second_slot = SecondSlot(
            self.dsn, slot="main", name="second", max_bytes=1 << 40, clock=lambda: 0.0
        )
        self.durable = Durable(
            self.journal,
            self,  # type: ignore[arg-type]
            SecondSlotPast(
                self.second_slot,
                lambda: None,  # type: ignore[arg-type, return-value]
            ),
            window=300.0,
            stream=lambda: StreamIdentity(*self.origin, ("shop",)),
            reconnects=lambda: 0,
            before_write=self.tell,
        )
        self.other = Other(self)

    async def dsn(self) -> str:
        return ""

    # What may happen while the process waits

    def wait(self) -> None:
        self.lifetime -= 1
        if self.lifetime < 0:
            raise Killed
        for _ in range(self.random.randint(0, 4)):
            self.step()

    def step(self) -> None:
        happening: Any = self.random.choice(
            [
                *([self.commit] * 3),
                *([self.hand_out] * 3),
                *([self.prove] * 3),
                self.acknowledge,
                self.write_elsewhere,
                self.join,
                self.leave,
                self.hear,
                self.other.step,
            ]
        )
        happening()

    def commit(self) -> None:
        self.end += 10
        self.published.append(self.end)

    def write_elsewhere(self) -> None:
        self.end += 1000

    def unread(self) -> list[int]:
        return [one for one in self.published if one > self.handed[0]]

    def hand_out(self) -> None:
        if unread := self.unread():
            self.handed = (unread[0], LAST_INDEX)

    def acknowledge(self) -> None:
        unread = self.unread()
        # A keepalive moves the slot where nothing is on its way.
        self.main = max(self.main, self.handed[0] + 1 if unread else self.end)

    def join(self) -> None:
        client = Client(len(self.clients), self.handed)
        self.clients.append(client)
        self.changed.append(client)

    def leave(self) -> None:
        if self.clients:
            client = self.random.choice(self.clients)
            client.away = True
            self.changed.append(client)

    def prove(self) -> None:
        for client in self.clients:
            if not client.away and self.random.random() < 0.8:
                client.place = self.handed

    def hear(self) -> None:
        for _, content in self.messages[self.heard :]:
            read_message(self.journal, content)
        self.heard = len(self.messages)

    def emit(self, parts: Iterable[bytes]) -> None:
        for part in parts:
            self.end += 1
            self.messages.append((self.end, part))

    # What the process asks

    def lasting_here(self) -> Place:
        return min([self.handed, *(one.place for one in self.clients if not one.away)])

    def first_needed_lsn(self) -> LSN | None:
        places = [self.handed, *(one.place for one in self.clients)]
        if (lowest := self.journal.lowest()) is not None:
            places.append(lowest)
        needed = min(places)
        return LSN(needed[0]) if needed < self.handed else None

    def tell(self) -> Iterator[None]:
        for client in self.changed:
            since = 0.0 if client.away else None
            self.journal.joined(client.number, client.key, 1, client.place, since=since)
        self.changed.clear()
        return iter(())

    # The database

    async def connected(self) -> None:
        self.wait()

    async def write(self, parts: Iterable[bytes], *, flush: bool = False) -> None:
        for part in parts:
            self.wait()
            self.emit([part])
        self.wait()

    async def execute(self, query: str, parameters: Any = None) -> Any:
        self.wait()
        if query == second_slot._COPY:
            self.has_second, self.second = True, self.main
        elif query == second_slot._MOVE:
            self.second = max(self.second, int(LSN.parse(parameters[1])))
            self.has_moved = True
        rows = [(False, -1, 0.0, True)]

        async def fetchall() -> Any:
            return rows

        return SimpleNamespace(fetchall=fetchall)

    async def slot(self, connection: Any, name: str) -> Any:
        self.wait()
        if name == "second" and not self.has_second:
            return None
        place = LSN(self.main if name == "main" else self.second)
        return slot_status(name, place, end=self.end)

    async def live(self) -> None:
        """Look after the slot, and write what is due, until the process is killed."""
        async for _ in self.durable.restore(LSN(0)):
            pass
        await self.durable.run(self)

    # What must hold

    def check(self) -> None:
        seal = Seal(SECRET, STREAM, digest("slot"), (3).to_bytes(8))
        successor = Journal(seal, clock=lambda: 0.0)
        for lsn, content in self.messages:
            if lsn > self.second:
                read_message(successor, content)
        for part in successor.write(boot=True):
            read_message(successor, part)
        for client in (*self.clients, *self.other.clients):
            for member in successor.find(client.key):
                missed = [one for one in self.published if (one, 0) > client.place]
                assert not missed or member.place < (missed[0], 0), (member, client)
                if client in self.clients and self.has_moved:
                    # What it has missed is there, and it is not told of a gap.
                    assert member.place >= (self.second, -1), (member, client)


@pytest.fixture(autouse=True)
def fake_database(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the slot moved often, in the world that is tested."""

    @contextlib.asynccontextmanager
    async def connection() -> AsyncIterator[World]:
        yield WORLDS[-1]

    async def connect(dsn: str, *, name: str) -> Any:
        WORLDS[-1].wait()
        return connection()

    async def slot(connection: World, name: str) -> Any:
        return await connection.slot(connection, name)

    monkeypatch.setattr(durable, "_INTERVAL", 0.0)
    for name in ("_TOGETHER", "_PAUSE"):
        monkeypatch.setattr(journal_writer, name, 0.0)
    monkeypatch.setattr(second_slot, "_STEP", 1)
    monkeypatch.setattr(second_slot, "connect", connect)
    monkeypatch.setattr(second_slot.catalog, "slot", slot)


WORLDS: list[World] = []
"""The world that is tested."""


@examples(300)
@given(st.integers(0, 2**32), st.integers(1, 200))
def test_a_kill_at_any_time_loses_nothing_of_what_the_slot_was_to_keep(
    seed: int, lifetime: int
) -> None:
    WORLDS[:] = [world := World(seed, lifetime)]
    try:
        asyncio.run(world.live())
    except* Killed:
        pass
    world.check()
