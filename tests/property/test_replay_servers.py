"""No client that comes back to another server goes on behind what it has, whatever is killed.

Two server processes with slots of their own share a database, and clients one network. Connections
are cut, and a server sees it at once, or late. Pages close their connections themselves, and may
have less then than their browsers have answered for. Some answer no pings for a while. Clients come
back to either server. Processes are killed before they have written what they know, and others
follow them. What a client has received is known here and not there; a place that is chosen for it
must not be higher.
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
from realtime_server.replay.needs import OVERDUE, Needs
from realtime_server.replay.places import BEFORE, Place
from realtime_server.replay.records import Seal, digest, journal_secret
from realtime_server.replay.standing import LASTS, Standing
from realtime_server.replay.standings import Standings
from tests.journals import read_message, tell
from tests.property.examples import examples

pytestmark = pytest.mark.slow

SECRET = journal_secret("password", "secret")
WINDOW = 1e9
LATE = 3.0
"""Seconds for which a process may not read what others have written, or not write."""
APART = 5.0


@attrs.define(eq=False)
class Connection:
    """A connection, as the server sees it, and its proof. Ordinals are the numbers of changes."""

    is_up: bool = True
    last_ref: int = 0
    messages: int = 0
    has_answered: bool = True
    began: int = 0
    seen: int = 0
    written: int = 0
    proven: int = 0
    proven_before_close: int = 0
    proven_at_message: int = 0
    last_message: float = 0.0
    is_unprovable: bool = False
    is_overdue: bool = False
    standings: dict[Subscription, Standing] = attrs.field(factory=dict)
    had_before: int | None = None
    """What its client had when it connected; None: nothing. A page handles everything that came on
    a former connection before it opens another one."""
    stalled_at: int | None = None
    """Up to which change everything has arrived; None: all that was written has."""
    owes_since: float | None = None
    owed: int = 0

    @property
    def proof(self) -> Connection:
        return self

    @property
    def arrived(self) -> int:
        return self.written if self.stalled_at is None else max(self.stalled_at, self.proven)

    @property
    def sure(self) -> int:
        return min(self.proven, self.proven_before_close)

    def owes(self, now: float) -> float:
        if self.proven >= self.written:
            self.owes_since = None
        elif self.owes_since is None or self.proven != self.owed:
            self.owes_since, self.owed = now, self.proven
        return 0.0 if self.owes_since is None else now - self.owes_since

    def received(self, now: float) -> None:
        self.messages += 1
        if now - self.last_message >= APART:
            self.last_message = now
            self.proven_before_close, self.proven_at_message = self.proven_at_message, self.proven

    @property
    def heard(self) -> Hashable:
        return self.messages, self.proven

    def ask(self, on_answer: Callable[[bool], None] | None = None) -> None:
        if self.is_up:
            self.messages += 1
            self.proven = self.arrived


@attrs.define(eq=False)
class Client:
    key: Key
    ref: int
    has: int | None = None
    """Up to which change it has everything; None before its first join."""
    process: Process | None = None
    connection: Connection | None = None
    member: Membership | None = None
    had: list[tuple[float, int]] = attrs.field(factory=list)
    """What it has had, and since when."""

    def has_got(self, end: int, now: float) -> None:
        self.has = end
        self.had.append((now, end))


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
        # They ask it for what the live hub has handed out, and there are no queues and rounds.
        here = cast(Any, self)
        self.needs = Needs(
            here, here, self.standings, here, self.memberships.absences, here, window=WINDOW
        )
        self.needs.journal = self.journal
        self.places = tuple
        self.floor: Place = BEFORE
        """Behind which its log is complete."""
        self.was_up_to_date = world.clock
        """When it last read and wrote."""

    # Where the live hub stands

    @property
    def handed(self) -> Place:
        return (self.world.end, 0)

    def handed_to(self, viewer: Hashable) -> Place:
        return self.handed

    def place_at(self, ordinal: int, viewer: Hashable = None) -> Place:
        return (ordinal, 0)

    def lowest_at(self, ordinal: int, place: Place) -> Place:
        return place

    @property
    def ordinal(self) -> int:
        return self.world.end

    def clock(self) -> float:
        return self.world.clock

    def of(self, connection: Connection) -> tuple[()]:
        return ()

    # The journal

    def read(self) -> None:
        """Read everything that was written."""
        for data in self.world.wal[self.read_up_to :]:
            read_message(self.journal, data)
        self.read_up_to = len(self.world.wal)

    def trim(self) -> None:
        """Give up what nobody needs."""
        for _ in self.needs.looking():
            pass
        self.floor = max(self.floor, self.needs.lowest())
        if any(cast(Connection, one.client).is_overdue for one in self.open):
            self.world.is_kept = False

    def write(self, *, parts: int | None = None, **what: bool) -> None:
        """Write what is known, or the first parts of it."""
        self.trim()
        now, highest = self.world.clock, self.needs.highest_proven
        for _ in self.standings.settling(lambda subscription: None, now, highest=highest):
            pass
        self.journal.low(self.needs.lasting_here())
        tell(self.ledger)
        if self.journal.is_due or what:
            self.world.wal += [*self.journal.write(**what)][:parts]

    # Channels

    def join(self, client: Client) -> None:
        connection = Connection(last_ref=client.ref, messages=1)
        connection.written = connection.proven = self.world.end
        connection.proven_before_close = connection.proven_at_message = self.world.end
        connection.last_message = self.world.clock
        connection.had_before = client.has
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
        connection.standings[subscription] = standing
        self.needs.visits[cast(Any, connection)] = None
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
            if self.world.is_kept:
                assert place >= self.floor, "what it has missed is not kept"
            standing.go_on(place)
        elif client.has is not None:
            # It is told so. Of several that cannot be told apart this happens to one whose former
            # channel had sent more than its process has written.
            assert len(self.world.clients) > 1, "it is taken for a new one"
        # What it has missed is written to it, and not proven yet.
        self.world.change()
        standing.go_live()
        client.has_got(self.world.end, self.world.clock)

    def leave(self, member: Membership) -> None:
        """See that a connection is gone."""
        standing = self.open.pop(member)
        del self.needs.visits[cast(Any, member.client)]
        self.standings.end(standing)
        self.memberships.depart(member, standing.place(self), began=standing.first)
        self.standings.remove(standing)


class World:
    def __init__(self, key: Key, refs: list[int], seed: int, *, is_kept: bool = False) -> None:
        self.random = random.Random(seed)
        self.is_kept = is_kept
        """Whether each process has all that its clients need when they come from the other one.
        That is not so of clients that need more than was told of them: of pages that have closed
        their connections themselves, and clients that answer no pings for long."""
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
        if len(self.processes) > slot:
            # It reads everything from the second slot that its predecessor has kept.
            process.floor = self.processes[slot].floor
        process.read()
        process.write(boot=True)
        process.read()
        return process

    # What may happen

    def step(self) -> None:
        self.clock += self.random.choice((0.01, 0.1, 0.1, 0.7, 0.7, 3.0))
        for process in self.processes:
            # Records come within a moment, and are late at times, but not for long.
            if self.is_kept and self.clock - process.was_up_to_date > LATE:
                process.write()
                process.read()
                process.was_up_to_date = self.clock
        client = self.random.choice(self.clients)
        process = self.random.choice(self.processes)
        happening = self.random.choice(
            (
                *(self.change,) * 4,
                *(self.prove,) * 4,
                *(self.beat,) * 2,
                self.stall,
                *(self.cut, self.vanish) * 2,
                *((self.close, self.close_and_kill) * 2 if not self.is_kept else ()),
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
            if one.connection is not None and one.connection.stalled_at is None:
                one.has_got(self.end, self.clock)

    def prove(self, client: Client) -> None:
        """Answer the last ping, or one of long ago."""
        connection = client.connection
        if connection is not None:
            oldest = self.random.choice((connection.proven, connection.arrived))
            connection.proven = self.random.randint(oldest, connection.arrived)

    def stall(self, client: Client) -> None:
        """Have nothing arrive any more, or all that has not arrived."""
        if client.connection is None:
            return
        if client.connection.stalled_at is None:
            client.connection.stalled_at = client.connection.written
        else:
            client.connection.stalled_at = None
            client.has_got(self.end, self.clock)

    def beat(self, client: Client) -> None:
        client.ref += 1
        if client.connection is not None:
            client.connection.last_ref = client.ref
            client.connection.received(self.clock)

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

    def close(self, client: Client, *, behind: float | None = None) -> None:
        """Have a page close its connection, of which it has handled nothing for a while."""
        process, connection, member = client.process, client.connection, client.member
        until = self.clock - (self.random.uniform(0, LASTS) if behind is None else behind)
        had = [(since, end) for since, end in client.had if since <= until]
        handled = [end for _, end in had]
        if process is None or connection is None or member is None:
            return
        if connection.had_before is not None:
            handled.append(connection.had_before)
        if not handled:
            return
        client.process = client.connection = client.member = None
        client.has, client.had = max(handled), had
        connection.is_up = False
        connection.proven = connection.sure
        process.leave(member)

    def close_and_kill(self, client: Client) -> None:
        """Have its process be killed right after a page has closed its connection."""
        process = client.process
        if process is not None and client.connection is not None and self.random.random() < 0.5:
            # The browser has just answered what the page has not handled.
            self.change()
            client.connection.ask()
            process.write()
        self.close(client)
        if process is not None:
            self.kill(process)

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

    def write_all(self) -> None:
        for process in self.processes:
            process.write()

    def prove_all(self) -> None:
        for client in self.clients:
            if client.connection is not None:
                client.connection.ask()

    def read(self, process: Process) -> None:
        process.read()

    def kill(self, process: Process) -> None:
        """Kill a process, perhaps while it writes, and start another."""
        if self.random.random() < 0.5:
            process.write(parts=self.random.randrange(3))
        self.kill_at_once(process)

    def kill_at_once(self, process: Process) -> None:
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
@given(
    st.integers(0, 2**32),
    st.integers(1, 150),
    st.lists(st.integers(0, 20), min_size=3),
)
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


@pytest.mark.parametrize("is_exact", [False, True], ids=["shared", "session"])
@given(st.integers(0, 2**32), st.integers(1, 150))
@examples(150)
def test_each_server_keeps_what_a_client_of_the_other_may_need(
    is_exact: bool, seed: int, steps: int
) -> None:
    world = World(Key(b"k" * 16, is_exact=is_exact), [0], seed, is_kept=True)
    for _ in range(steps):
        world.step()
    world.come(world.clients[0])


def test_what_came_since_a_join_is_kept_until_others_have_read_of_that() -> None:
    world = World(Key(b"k" * 16, is_exact=True), [], 0, is_kept=True)
    client = Client(Key(b"k" * 16, is_exact=True), 0)
    world.clients.append(client)
    one, other = world.processes
    for _ in range(20):
        world.clock += 1
        world.change()
        world.write_all()
    one.join(client)
    world.clock += 1
    world.change()
    other.trim()
    one.write()
    other.read()
    world.cut(client)
    world.change()
    one.write()
    other.read()
    client.ref += 1
    other.join(client)


@pytest.fixture
def world() -> World:
    """A world with one client, whose place follows from its proofs."""
    world = World(Key(b"k" * 16, is_exact=True), [0], 0)
    settle(world)
    return world


def settle(world: World) -> None:
    for _ in range(2):
        world.change()
        world.prove_all()
        world.write_all()
        world.clock += LASTS


def test_a_page_that_closes_right_before_a_kill_has_not_handled_what_was_proven(
    world: World,
) -> None:
    [client] = world.clients
    process = client.process
    assert process is not None
    world.change()
    world.prove_all()
    world.write_all()
    world.clock += 0.1
    world.close(client, behind=0.5)
    world.kill_at_once(process)
    world.come(client)


def test_a_page_that_closes_right_before_a_kill_has_not_handled_what_it_had_missed(
    world: World,
) -> None:
    [client] = world.clients
    world.cut(client)
    world.change()
    world.write_all()
    world.clock += LASTS
    world.come(client)
    process = client.process
    assert process is not None
    world.prove_all()
    for _ in range(2):
        world.write_all()
        world.clock += 0.1
    world.close(client, behind=0.5)
    world.kill_at_once(process)
    world.come(client)


def test_who_answers_after_long_has_a_place_of_its_own_until_it_has_caught_up(
    world: World,
) -> None:
    [client] = world.clients
    process, connection = client.process, client.connection
    assert process is not None
    assert connection is not None
    world.change()
    world.stall(client)
    for _ in range(3):
        world.change()
        world.write_all()
        world.clock += OVERDUE
    world.write_all()
    # It has got some of it, and has been asked for more.
    world.prove_all()
    for _ in range(3):
        world.write_all()
        world.clock += LASTS
    world.kill_at_once(process)
    world.come(client)
