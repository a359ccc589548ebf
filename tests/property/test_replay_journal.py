"""The journal, as a property: whatever was written before a kill is true of every client.

Server processes come, are killed and are followed by others at any time, also within a record of
several parts. Clients join them, get changes, prove that they have some of them, go away and are
taken over. A reader that starts at any snapshot and stops anywhere finds every client that has
not ended, and never above what it has.
"""

from __future__ import annotations

import random
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_server.replay import records
from realtime_server.replay.journal import Journal
from realtime_server.replay.records import Seal, digest, journal_secret
from tests.journals import read_message
from tests.property.examples import examples

pytestmark = pytest.mark.slow

SECRET = journal_secret("password", "secret")
STREAM = digest("shop")


@attrs.define
class Client:
    """A channel as it is, seen from above."""

    key: bytes
    number: int
    has: int
    """The last change that it has."""
    proven: int
    away: bool = False
    ended: bool = False
    written: int | None = None
    """How long the WAL is when it is known to everybody; None: it is not written yet."""


@attrs.define
class Process:
    """A server process."""

    slot: int
    journal: Journal
    clients: list[Client] = attrs.field(factory=list)


class World:
    """Server processes with slots of their own, and one WAL.

    Args:
        seed: for all that is left to chance.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.time = 1000.0
        self.change = 0
        """The last change that was committed."""
        self.wal: list[bytes] = []
        """What messages were written."""
        self.starts = [0]
        """Where one may begin to read: a snapshot comes next."""
        self.past: list[dict[bytes, Client]] = [{}]
        """The clients as they were when the WAL was as long as the index says."""
        self.processes: dict[int, Process] = {}
        self.clients: list[Client] = []
        self.servers = 0
        for slot in (1, 2):
            self.boot(slot)

    def boot(self, slot: int) -> None:
        """Kill the process of a slot, if there is one, and start another."""
        former = self.processes.pop(slot, None)
        for client in former.clients if former is not None else ():
            client.away = True
            if client.written is None:
                # Nobody has heard of it.
                client.ended = True
        self.servers += 1
        seal = Seal(SECRET, STREAM, digest(str(slot)), self.servers.to_bytes(8))
        journal = Journal(seal, clock=lambda: self.time)
        self.read_all(journal)
        self.processes[slot] = process = Process(slot, journal)
        self.write(process, boot=True)

    def read_all(self, journal: Journal) -> None:
        for data in self.wal:
            read_message(journal, data)

    def write(self, process: Process, killed_after: int | None = None, **what: bool) -> None:
        """Write a record, and have all read it."""
        due = [client for client in process.clients if client.written is None]
        ended = [client for client in self.clients if client.ended]
        if what:
            self.starts.append(len(self.wal))
        data = list(process.journal.write(**what))
        for part in data[:killed_after]:
            self.wal.append(part)
            for other in self.processes.values():
                read_message(other.journal, part)
            self.past.append(self.past[-1])
        if killed_after is not None and killed_after < len(data):
            return
        for client in due:
            client.written = len(self.wal)
        self.past[-1] = {
            client.key: attrs.evolve(client)
            for client in self.clients
            if client.written is not None and client not in ended
        }

    # What may happen

    def step(self) -> None:
        self.time += 0.1
        process = self.random.choice(list(self.processes.values()))
        happening: Any = self.random.choice(
            [
                *([self.commit] * 3),
                *([self.join] * 3),
                *([self.prove] * 4),
                self.leave,
                self.close,
                self.take_over,
                *([self.low] * 3),
                *([self.write] * 3),
                self.snapshot,
                self.kill,
            ]
        )
        happening(process)

    def commit(self, process: Process) -> None:
        self.change += 1

    def join(self, process: Process) -> None:
        number = len(self.clients)
        client = Client(number.to_bytes(16), number, self.change, self.change)
        self.clients.append(client)
        process.clients.append(client)
        process.journal.joined(number, client.key, number, (client.proven, 0))

    def here(self, process: Process) -> list[Client]:
        return [client for client in process.clients if not (client.away or client.ended)]

    def prove(self, process: Process) -> None:
        for client in self.here(process):
            if self.random.random() < 0.5:
                client.has = self.random.randint(client.has, self.change)
                client.proven = self.random.randint(client.proven, client.has)

    def leave(self, process: Process) -> None:
        for client in self.here(process)[:1]:
            client.away = True
            place = (client.proven, 0)
            process.journal.joined(client.number, client.key, client.number, place, since=self.time)

    def close(self, process: Process) -> None:
        for client in process.clients[:1]:
            client.ended = True
            process.clients.remove(client)
            process.journal.ended(client.number)

    def take_over(self, process: Process) -> None:
        """Have a client come back to another process, and be up to now there."""
        for client in self.clients:
            found = process.journal.find(client.key)
            if found and not client.ended:
                client.ended = True
                process.journal.taken(found[0])
                break

    def low(self, process: Process) -> None:
        here = [client.proven for client in self.here(process)]
        process.journal.low((min(here, default=self.change), 0))

    def snapshot(self, process: Process) -> None:
        self.write(process, snapshot=True)

    def kill(self, process: Process) -> None:
        """Kill a process while it writes, and start another."""
        self.write(process, killed_after=self.random.randint(0, 3))
        self.boot(process.slot)

    # What must hold

    def check(self, start: int) -> None:
        """Read the WAL from somewhere on, and compare each time with what was true then."""
        seal = Seal(SECRET, STREAM, digest("reader"), bytes(8))
        reader = Journal(seal, clock=lambda: self.time)
        # In the middle of the WAL all is known when the first snapshot is whole.
        is_whole = start == 0
        for stop, data in enumerate(self.wal[start:], start + 1):
            read_message(reader, data)
            is_whole = is_whole or (self.past[stop] is not self.past[stop - 1])
            if is_whole:
                self.compare(reader, self.past[stop])

    def compare(self, reader: Journal, known: dict[bytes, Client]) -> None:
        for key, client in known.items():
            found = reader.find(key)
            assert found or client.ended, client
            for member in found:
                assert member.place[0] <= client.has, (member, client)
        keys = {client.key for client in self.clients}
        places = [member.place for key in keys for member in reader.find(key)]
        assert reader.lowest() == min(places, default=None)


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have records of several parts."""
    monkeypatch.setattr(records, "_ENTRIES", 2)


@examples(150)
@given(st.integers(0, 2**32), st.integers(1, 120))
def test_a_kill_at_any_time_leaves_places_that_are_not_above_what_clients_have(
    seed: int, steps: int
) -> None:
    world = World(seed)
    for _ in range(steps):
        world.step()
    for start in world.starts:
        world.check(start)
