"""Server processes on one database, and their clients, on a clock that the test moves.

Servers have slots of their own; a server may have several workers. Connections are cut, and a
process sees it at once, or late. Pages close their connections themselves, and may have less then
than their browsers have answered for. Some clients answer no pings for a while. They come back to
any process. Processes are killed before they have written what they know, and others follow them.
They read what others have written late, and not always all of it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any, cast

import attrs

from realtime_server.replay.identity import Key
from realtime_server.replay.journal import Journal
from realtime_server.replay.late_records import take_what_is_known_late
from realtime_server.replay.ledger import Ledger
from realtime_server.replay.membership import Membership
from realtime_server.replay.memberships import Memberships
from realtime_server.replay.needs import Needs
from realtime_server.replay.places import BEFORE, Place
from realtime_server.replay.records import Seal, digest, journal_secret
from realtime_server.replay.standing import LASTS, Standing
from realtime_server.replay.standings import Standings
from tests.journals import read_message, tell

__all__ = ["Client", "World"]

SECRET = journal_secret("password", "secret")
WINDOW = 1e9
LATE = 3.0
"""Seconds for which a process may not read what others have written, or not write."""
APART = 5.0
PATIENCE = 10.0
"""Seconds after which a join does not wait for the journal any more."""


@attrs.define(eq=False)
class Connection:
    """A connection, as the server sees it, and its proof. Ordinals are the numbers of changes."""

    world: World
    is_up: bool = True
    last_ref: int = 0
    messages: int = 0
    has_answered: bool = True
    began: int = 0
    """The number of the last ping to anybody when it began."""
    seen: int = 0
    """The number of the last ping that was answered."""
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
    tells: bool = False
    """Whether its client is told of a gap, or that it begins anew."""

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
            if self.stalled_at is None:
                self.world.pings += 1
                self.seen = self.world.pings
                if on_answer is not None:
                    on_answer(True)

    def when_answered(self, ordinal: int, on_answer: Callable[[bool], None]) -> None:
        pass

    def forget(self, ordinal: int) -> None:
        pass

    def count_write(self) -> int:
        self.world.change()
        return self.written


@attrs.define(eq=False)
class Client:
    key: Key
    ref: int
    has: int | None = None
    """Up to which change it has everything; None before its first join."""
    process: Process | None = None
    connection: Connection | None = None
    member: Membership | None = None
    is_owed: bool = False
    """Whether it has still to be told of a gap, which its process has written into the journal."""
    lacks: int | None = None
    """The change behind which changes were skipped, of which it was told of no gap."""
    had: list[tuple[float, int]] = attrs.field(factory=list)
    """What it has had, and since when."""

    def has_got(self, end: int, now: float) -> None:
        self.has = end
        self.had.append((now, end))


@attrs.define(eq=False)
class Subscription:
    viewer: None = None


@attrs.define(eq=False)
class Joining:
    """A channel of which it is not decided yet where it goes on."""

    client: Client
    standing: Standing
    mark: int
    """What has to be read before."""
    since: float
    arrives: bool
    is_held: bool = True
    """Whether that was not read yet."""
    silent: list[Membership] = attrs.field(factory=list)
    """Those who may be the same client, and have not answered."""


class Process:
    """A server process.

    Args:
        world: in which it is.
        number: of the process; each has another one.
        server: the number of the server, which has a slot of its own.
        worker: the number of the process among the server's.
    """

    def __init__(self, world: World, number: int, server: int, worker: int) -> None:
        self.world = world
        self.server = server
        self.worker = worker
        self.read_up_to = 0
        seal = Seal(SECRET, digest("shop"), digest(f"{server}/{worker}"), number.to_bytes(8))
        self.journal = Journal(seal, clock=lambda: world.clock)
        self.standings = Standings(self, self.clock)
        self.memberships = Memberships(
            self.standings.place,
            window=WINDOW,
            most_away=1000,
            clock=lambda: world.clock,
            why_lost=self.standings.why_lost,
        )
        self.ledger = Ledger(
            self.journal,
            self,
            self.standings,
            self.memberships.absences,
            shared=self.memberships.shared_sessions,
            taken_places=self.memberships.taken_places,
            clock=lambda: world.clock,
            wall_clock=lambda: world.clock,
        )
        self.memberships.on_change = self.standings.note
        self.journal.on_new = partial(take_what_is_known_late, self.memberships)
        self.memberships.on_lacking = self.tell_lacking
        self.open: dict[Membership, Standing] = {}
        # Of these it is not decided yet where they go on, and those were lost before it was.
        self.joining: dict[Membership, Joining] = {}
        self.gone: dict[Membership, Joining] = {}
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

    def read(self, up_to: int | None = None) -> None:
        """Read what was written."""
        for data in self.world.wal[self.read_up_to : up_to]:
            read_message(self.journal, data)
            self.read_up_to += 1

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
        for _ in self.standings.settling(now, highest=highest):
            pass
        self.journal.low(self.needs.lasting_here())
        tell(self.ledger)
        if self.journal.is_due or what:
            self.world.wal += [*self.journal.write(**what)][:parts]

    # Channels

    def join(
        self,
        client: Client,
        *,
        began: int | None = None,
        arrives: bool = True,
        waits: bool | None = None,
    ) -> None:
        """Let a client join.

        Args:
            client: who joins.
            began: see :attr:`Connection.began`.
            arrives: whether what is sent to it arrives.
            waits: whether it waits until what was written before is read, and then for
                :meth:`decide_one`; False: for that only; None: for nothing.
        """
        connection = Connection(self.world, last_ref=client.ref, messages=1)
        connection.began = connection.seen = self.world.pings if began is None else began
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
        joining = Joining(client, standing, len(self.world.wal), self.world.clock, arrives)
        self.joining[member] = joining
        if waits is None:
            self.ask(member, joining)
            self.decide(member)
        elif not waits:
            self.ask(member, joining)

    def ask(self, member: Membership, joining: Joining) -> None:
        """Ask the clients that may be the same one whether they are there."""
        joining.is_held = False
        for one in self.memberships.others(member):
            other = cast(Connection, one.client)
            other.ask()
            if other.is_up:
                self.memberships.shared_sessions.find(member.key)
            elif one not in self.gone:
                joining.silent.append(one)

    def release(self) -> None:
        """Let those go on who have waited until what others had written was read."""
        for member, former in list(self.gone.items()):
            if self.is_over(former):
                del self.gone[member]
                self.leave_absence(member, former.standing)
        for member, joining in list(self.joining.items()):
            if joining.is_held and self.is_over(joining):
                self.ask(member, joining)

    def is_over(self, joining: Joining) -> bool:
        return self.read_up_to >= joining.mark or self.world.clock - joining.since > PATIENCE

    def decide_one(self) -> None:
        """Decide where the first goes on of those who have a key."""
        first: dict[Key, Membership] = {}
        for member, joining in self.joining.items():
            if not joining.is_held:
                first.setdefault(member.key, member)
        if first:
            self.decide(self.world.random.choice(list(first.values())))

    def decide(self, member: Membership) -> None:
        joining = self.joining.pop(member)
        client, standing = joining.client, joining.standing
        connection = cast(Connection, member.client)
        is_there = client.member is member
        arrives = joining.arrives and connection.stalled_at is None
        choice = self.memberships.choose(member, joining.silent)
        self.standings.note(member)
        if choice.place is not None:
            place = min(choice.place, standing.began)
            if client.has is not None and is_there:
                has = client.has if client.lacks is None else client.lacks
                connection.tells = choice.lost is not None or choice.is_anew
                client.lacks = None if place <= (has, 0) else has
                if connection.tells and arrives:
                    client.lacks = None
                has_strangers = client.key in self.world.strange
                skips = client.lacks is not None and not connection.tells
                # Where several decide late, one is told of it as soon as another finds nothing.
                is_suspected = (
                    self.world.has_put_off
                    and member.may_lack is not None
                    and not member.key.is_exact
                )
                assert not skips or has_strangers or is_suspected, "what it has missed is skipped"
                is_told = connection.tells or not client.is_owed
                assert is_told or has_strangers, "it is told of no gap"
            if choice.lost is not None:
                # It may be told of the gap again: as long as a page may take back what it has
                # proven, its process tells others of the place before the gap.
                self.world.is_kept = False
            if self.world.is_kept:
                assert place >= self.floor, "what it has missed is not kept"
            standing.go_on(place)
            standing.lost = choice.lost
        elif client.has is not None and is_there:
            # It is told so. Of several that cannot be told apart this happens to one whose former
            # channel had sent more than its process has written.
            connection.tells = True
            client.lacks = None if arrives else client.has
            same = [one for one in self.world.clients if one.key == client.key]
            assert len(same) > 1, "it is taken for a new one"
        connection.written = self.world.end
        # What it has missed is written to it, and not proven yet.
        if not arrives and connection.stalled_at is None:
            connection.stalled_at = connection.written
        standing.note_told()
        self.world.change()
        standing.go_live()
        if arrives and is_there:
            client.has_got(self.world.end, self.world.clock)
            client.is_owed = client.is_owed and not connection.tells

    def leave(self, member: Membership) -> None:
        """See that a connection is gone."""
        standing, joining = self.open.pop(member), self.joining.pop(member, None)
        del self.needs.visits[cast(Any, member.client)]
        self.standings.end(standing)
        if joining is not None and joining.is_held:
            joining.mark, joining.since = len(self.world.wal), self.world.clock
            self.gone[member] = joining
        else:
            self.leave_absence(member, standing)

    def leave_absence(self, member: Membership, standing: Standing) -> None:
        place, why = standing.place(self), standing.why_lost
        if standing.is_settled or standing.knows_start(self.world.clock):
            member.is_anew = False
        absence = self.memberships.depart(member, place, began=standing.first, lost=why)
        if absence is not None:
            self.standings.on_absence(standing, absence)
        self.standings.remove(standing)

    def tell_lacking(self, member: Membership, place: Place) -> None:
        """Tell a client of a gap that it has jumped over."""
        self.standings.lose(self.open[member])
        for client in self.world.clients:
            if client.member is member and cast(Connection, member.client).stalled_at is None:
                client.lacks = None


class World:
    """A database, server processes and clients.

    Args:
        clients: who have joined when it begins.
        seed: for all that is left to chance.
        workers: how many processes each server has.
        is_kept: see the attribute.
        puts_off: whether it may be decided later than at the join where a client goes on.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        seed: int,
        *,
        workers: Sequence[int] = (1, 1),
        is_kept: bool = False,
        puts_off: bool = False,
    ) -> None:
        self.random = random.Random(seed)
        self.puts_off, self.has_put_off = False, puts_off
        self.is_kept = is_kept
        """Whether each process has all that its clients need when they come from the other one.
        That is not so of clients that need more than was told of them: of pages that have closed
        their connections themselves, and clients that answer no pings for long."""
        self.clock = 1000.0
        self.end = 1
        self.wal: list[bytes] = []
        self.numbers = self.pings = 0
        self.strange: set[Key] = set()
        """Keys whose clients may go on behind what they have, and be told of it later."""
        self.clients: list[Client] = []
        self.processes: list[Process] = []
        for server, count in enumerate(workers):
            for worker in range(count):
                self.processes.append(self.boot(server, worker))
        for client in clients:
            self.clients.append(client)
            self.come(client)
            # One that is new takes a former one over if that has gone meanwhile; not here.
            for process in self.processes:
                process.read()
                self.clock += 1
                process.write()
        self.puts_off = puts_off

    def boot(self, server: int, worker: int) -> Process:
        self.numbers += 1
        process = Process(self, self.numbers, server, worker)
        for one in self.processes:
            if one.server == server and one.worker == 0:
                # It reads everything that the second slot has, which that one keeps.
                process.floor = one.floor
        process.read()
        process.write(boot=True)
        process.read()
        return process

    def come_for_the_first_time(self, key: Key, ref: int) -> None:
        """Have somebody come who has the key of others, perhaps on a connection that is old."""
        self.strange.add(key)
        client = Client(key, ref)
        self.clients.append(client)
        process = self.random.choice(self.processes)
        process.read()
        process.join(client, began=self.random.choice((0, self.pings // 2, self.pings)))
        process.write()

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
                self.tell_gap,
                *(self.cut, self.vanish) * 2,
                *((self.close, self.close_and_kill) * 2 if not self.is_kept else ()),
                *(self.come,) * 6,
                *(self.notice, self.write, self.read) * 2,
                *(self.release, self.decide) * 3,
                self.kill,
            )
        )
        of_process = (self.notice, self.write, self.read, self.release, self.decide, self.kill)
        happening(process if happening in of_process else client)

    def change(self, client: Client | None = None) -> None:
        self.end += 1
        for process in self.processes:
            for member in process.open:
                if member not in process.joining:
                    cast(Connection, member.client).written = self.end
        for one in self.clients:
            is_reached = one.connection is not None and one.connection.stalled_at is None
            if is_reached and not self.is_joining(one):
                one.has_got(self.end, self.clock)

    def is_joining(self, client: Client) -> bool:
        """Return whether it is not decided yet where a client goes on, so that it gets nothing."""
        return client.process is not None and client.member in client.process.joining

    def prove(self, client: Client) -> None:
        """Answer the last ping, or one of long ago."""
        connection = client.connection
        if connection is not None:
            oldest = self.random.choice((connection.proven, connection.arrived))
            connection.proven = self.random.randint(oldest, connection.arrived)
            if connection.stalled_at is None and connection.proven == connection.written:
                self.pings += 1
                connection.seen = self.pings

    def stall(self, client: Client) -> None:
        """Have nothing arrive any more, or all that has not arrived."""
        if client.connection is None:
            return
        if client.connection.stalled_at is None:
            client.connection.stalled_at = client.connection.written
        else:
            client.connection.stalled_at = None
            if self.is_joining(client):
                return
            client.has_got(self.end, self.clock)
            if client.connection.tells:
                client.is_owed, client.lacks = False, None

    def tell_gap(self, client: Client) -> None:
        """Tell a client of a gap, of which it learns at once, or when more arrives."""
        process, connection, member = client.process, client.connection, client.member
        if process is None or connection is None or member is None or self.is_joining(client):
            return
        client.is_owed = connection.tells = True
        if connection.stalled_at is None:
            connection.stalled_at = connection.written
            if self.random.random() < 0.5:
                self.stall(client)
        process.standings.lose(process.open[member])
        process.write()

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
        if client.lacks is not None:
            client.lacks = min(client.lacks, client.has)
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
        waits = self.random.choice((None, False, True)) if self.puts_off and not is_new else None
        process.join(client, arrives=is_new or self.random.random() < 0.8, waits=waits)
        if is_new:
            # One that is not in the journal cannot be found.
            process.write()

    def end_all(self) -> None:
        """Have all come back, and be told where they go on."""
        self.puts_off = False
        for client in self.clients:
            self.come(client)
        for process in self.processes:
            process.read()
            process.release()
            while process.joining:
                process.decide_one()

    def write(self, process: Process) -> None:
        process.write()

    def release(self, process: Process) -> None:
        process.release()

    def decide(self, process: Process) -> None:
        process.decide_one()

    def write_all(self) -> None:
        for process in self.processes:
            process.write()

    def prove_all(self) -> None:
        for client in self.clients:
            if client.connection is not None:
                client.connection.ask()

    def read(self, process: Process) -> None:
        process.read(self.random.randint(process.read_up_to, len(self.wal)))

    def kill(self, process: Process) -> None:
        """Kill a process, perhaps while it writes, and start another."""
        if self.random.random() < 0.5:
            process.write(parts=self.random.randrange(3))
        self.kill_at_once(process)

    def kill_at_once(self, process: Process) -> None:
        killed = [process]
        if self.random.random() < 0.5:
            # The whole server.
            killed = [one for one in self.processes if one.server == process.server]
        for client in self.clients:
            if client.process in killed:
                self.lose(client, is_noticed=False)
        for one in killed:
            self.processes[self.processes.index(one)] = self.boot(one.server, one.worker)
