"""No client that comes back to another server goes on behind what it has, whatever is killed.

Two server processes with slots of their own share a database, and clients one network. Connections
are cut, and a server sees it at once, or late. Clients come back to either server. Processes are
killed before they have written what they know, and others follow them. What a client has received
is known here and not there; a place that is chosen for it must not be higher.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable
from typing import Any, cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_server.replay import records
from realtime_server.replay.identity import Key
from realtime_server.replay.journal import Journal
from realtime_server.replay.ledger import Ledger
from realtime_server.replay.membership import Membership
from realtime_server.replay.memberships import Memberships
from realtime_server.replay.places import Place
from realtime_server.replay.records import Seal, digest, journal_secret
from realtime_server.replay.standing import Standing
from realtime_server.replay.standings import Standings
from tests.property.examples import examples

pytestmark = pytest.mark.slow

SECRET = journal_secret("password", "secret")
WINDOW = 1e9


@attrs.define(eq=False)
class Connection:
    """A connection, as the server sees it, and its proof. Ordinals are the numbers of changes."""

    is_up: bool = True
    last_ref: int = 0
    messages: int = 0
    has_answered: bool = True
    written: int = 0
    proven: int = 0
    is_unprovable: bool = False
    is_overdue: bool = False

    @property
    def sure(self) -> int:
        return self.proven

    @property
    def heard(self) -> Hashable:
        return self.messages, self.proven

    def ask(self, on_answer: Callable[[bool], None] | None = None) -> None:
        if self.is_up:
            self.messages += 1
            self.proven = self.written


@attrs.define(eq=False)
class Client:
    key: Key
    ref: int
    has: int | None = None
    """Up to which change it has everything; None before its first join."""
    process: Process | None = None
    connection: Connection | None = None
    member: Membership | None = None


@attrs.define(eq=False)
class Subscription:
    viewer: None = None


class Process:
    """A server process.

    Args:
        world: in which it is.
        number: of the process; each has another one.
        slot: that it reads.
    """

    def __init__(self, world: World, number: int, slot: int) -> None:
        self.world = world
        self.slot = slot
        self.read_up_to = 0
        seal = Seal(SECRET, digest("shop"), digest(str(slot)), number.to_bytes(8))
        self.journal = Journal(seal, clock=lambda: world.clock)
        self.standings = Standings(self)
        self.memberships = Memberships(
            self.standings.place, window=WINDOW, most_away=1000, clock=lambda: world.clock
        )
        self.ledger = Ledger(
            self.journal,
            self,
            self.standings,
            self.memberships.absences,
            clock=lambda: world.clock,
            wall_clock=lambda: world.clock,
        )
        self.memberships.on_change = self.standings.note
        self.open: dict[Membership, Standing] = {}

    # Where the live hub stands

    @property
    def handed(self) -> Place:
        return (self.world.end, 0)

    def handed_to(self, viewer: Hashable) -> Place:
        return self.handed

    def place_at(self, ordinal: int, viewer: Hashable) -> Place:
        return (ordinal, 0)

    # The journal

    def read(self) -> None:
        """Read everything that was written."""
        for data in self.world.wal[self.read_up_to :]:
            self.journal.read(data)
        self.read_up_to = len(self.world.wal)

    def write(self, *, parts: int | None = None, **what: bool) -> None:
        """Write what is known, or the first parts of it."""
        self.standings.settle(lambda subscription: None, self.world.clock)
        connections = [cast(Connection, member.client) for member in self.open]
        unproven = (one.proven for one in connections if one.proven < one.written)
        self.journal.low((min(unproven, default=self.world.end), 0))
        self.ledger.tell()
        if self.journal.is_due or what:
            self.world.wal += [*self.journal.write(**what)][:parts]

    # Channels

    def join(self, client: Client) -> None:
        connection = Connection(last_ref=client.ref, messages=1)
        connection.written = connection.proven = self.world.end
        member = Membership(client.key, client.ref, connection)
        subscription = cast(Any, Subscription())
        standing = Standing(
            subscription,
            member,
            cast(Any, connection),
            self.handed,
            self.world.end,
            self.world.clock,
        )
        client.process, client.connection, client.member = self, connection, member
        self.open[member] = standing
        self.standings.add(standing)
        self.memberships.enter(member)
        silent = []
        for one in self.memberships.others(member):
            other = cast(Connection, one.client)
            other.ask()
            if not other.is_up:
                silent.append(one)
        choice = self.memberships.choose(member, silent)
        self.standings.note(member)
        if choice.place is not None:
            place = min(choice.place, self.handed)
            is_told = client.has is None or choice.lost is not None
            assert is_told or place <= (client.has or 0, 0), "what it has missed is skipped"
            standing.go_on(place)
        elif client.has is not None:
            # It is told so. Of several that cannot be told apart this happens to one whose former
            # channel had sent more than its process has written.
            assert len(self.world.clients) > 1, "it is taken for a new one"
        # What it has missed is written to it, and not proven yet.
        self.world.change()
        standing.go_live()
        client.has = self.world.end

    def leave(self, member: Membership) -> None:
        """See that a connection is gone."""
        standing = self.open.pop(member)
        self.standings.end(standing)
        self.memberships.depart(member, standing.place(self), began=standing.first)
        self.standings.remove(standing)


class World:
    def __init__(self, key: Key, refs: list[int], seed: int) -> None:
        self.random = random.Random(seed)
        self.clock = 1000.0
        self.end = 1
        self.wal: list[bytes] = []
        self.numbers = 0
        self.processes: list[Process] = []
        for slot in range(2):
            self.processes.append(self.boot(slot))
        self.clients = [Client(key, ref) for ref in refs]
        for client in self.clients:
            self.come(client)
            # One that is new takes a former one over if that has gone meanwhile; not here.
            for process in self.processes:
                process.read()
                self.clock += 1
                process.write()

    def boot(self, slot: int) -> Process:
        self.numbers += 1
        process = Process(self, self.numbers, slot)
        process.read()
        process.write(boot=True)
        process.read()
        return process

    # What may happen

    def step(self) -> None:
        self.clock += self.random.choice((0.01, 0.1, 0.7))
        client = self.random.choice(self.clients)
        process = self.random.choice(self.processes)
        happening = self.random.choice(
            (
                *(self.change,) * 4,
                *(self.prove,) * 4,
                *(self.beat,) * 2,
                *(self.cut, self.vanish) * 2,
                *(self.come,) * 6,
                *(self.notice, self.write, self.read) * 2,
                self.kill,
            )
        )
        happening(
            process if happening in (self.notice, self.write, self.read, self.kill) else client
        )

    def change(self, client: Client | None = None) -> None:
        self.end += 1
        for process in self.processes:
            for member in process.open:
                cast(Connection, member.client).written = self.end
        for one in self.clients:
            if one.connection is not None:
                one.has = self.end

    def prove(self, client: Client) -> None:
        if client.connection is not None:
            client.connection.ask()

    def beat(self, client: Client) -> None:
        client.ref += 1
        if client.connection is not None:
            client.connection.last_ref = client.ref
            client.connection.messages += 1

    def cut(self, client: Client) -> None:
        self.lose(client, is_noticed=True)

    def vanish(self, client: Client) -> None:
        self.lose(client, is_noticed=False)

    def lose(self, client: Client, *, is_noticed: bool) -> None:
        process, connection, member = client.process, client.connection, client.member
        client.process = client.connection = client.member = None
        if process is None or connection is None or member is None:
            return
        connection.is_up = False
        if is_noticed:
            process.leave(member)

    def notice(self, process: Process) -> None:
        gone = [one for one in process.open if not cast(Connection, one.client).is_up]
        if gone:
            process.leave(self.random.choice(gone))

    def come(self, client: Client) -> None:
        """Come back, to either process, after more than the moment in which records are written."""
        if client.connection is not None:
            return
        for process in self.processes:
            process.write()
        process = self.random.choice(self.processes)
        process.read()
        client.ref += 1
        is_new = client.has is None
        process.join(client)
        if is_new:
            # One that is not in the journal cannot be found.
            process.write()

    def write(self, process: Process) -> None:
        process.write()

    def read(self, process: Process) -> None:
        process.read()

    def kill(self, process: Process) -> None:
        """Kill a process, perhaps while it writes, and start another."""
        if self.random.random() < 0.5:
            process.write(parts=self.random.randrange(3))
        for client in self.clients:
            if client.process is process:
                self.lose(client, is_noticed=False)
        at = self.processes.index(process)
        self.processes[at] = self.boot(process.slot)


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have records of several parts."""
    monkeypatch.setattr(records, "_ENTRIES", 2)


@pytest.mark.parametrize("is_exact", [False, True], ids=["shared", "session"])
@pytest.mark.parametrize("clients", [1, 2, 3])
@given(st.integers(0, 2**32), st.integers(1, 150), st.lists(st.integers(0, 20), min_size=3))
@examples(150)
def test_nobody_who_comes_back_to_another_server_loses_anything(
    clients: int, is_exact: bool, seed: int, steps: int, refs: list[int]
) -> None:
    if is_exact:
        clients = 1
    world = World(Key(b"k" * 16, is_exact=is_exact), refs[:clients], seed)
    for _ in range(steps):
        world.step()
    for client in world.clients:
        world.come(client)
