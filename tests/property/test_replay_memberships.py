"""No client that comes back goes on behind what it has received, whatever the faults.

Clients share one network and one server on a clock that the test moves. Connections are cut, and
the server sees it at once, or late, or not before the client is back. What a client has received
is known here and not there; a place that is chosen for it must not be higher.
"""

from __future__ import annotations

import random

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_server.replay.identity import Key
from realtime_server.replay.lost_reasons import LostReason
from realtime_server.replay.membership import Membership
from realtime_server.replay.memberships import Memberships
from realtime_server.replay.places import Place

from .examples import examples

WINDOW = 300.0


@attrs.define(eq=False)
class Connection:
    """A connection as the server sees it, and whether it is still one."""

    is_up: bool = True
    last_ref: int = 0
    heard: int = 0
    has_answered: bool = True
    proven: int = -1
    """Up to which change the client has proven that it has it; -1: nothing."""
    first: int = 0
    """The change behind which its channel began."""
    joined_at: int = 0
    began: int = 0
    """The ordinal of the last ping to anybody when it began."""
    seen: int = 0
    """The ordinal of the last ping that was answered."""
    lost: LostReason | None = None
    """Why nobody could go on from its place."""
    silent: list[Membership] = attrs.field(factory=list)


@attrs.define(eq=False)
class Client:
    key: Key
    ref: int
    has: int | None = None
    """Up to which change it has everything; None before its first join."""
    proved: int = 0
    """The highest of what it has proven."""
    lacks: int | None = None
    """The change behind which changes were skipped, of which it was told of no gap."""
    connection: Connection | None = None
    member: Membership | None = None


class World:
    def __init__(self, keys: list[Key], refs: list[int]) -> None:
        self.clock = 0.0
        self.end = 0
        self.memberships = Memberships(
            self.place_of,
            window=WINDOW,
            most_away=1000,
            clock=lambda: self.clock,
            why_lost=lambda member: member.client.lost,  # type: ignore[attr-defined]
        )
        self.clients = [Client(key, ref) for key, ref in zip(keys, refs, strict=False)]
        self.open: dict[Membership, Client] = {}
        self.memberships.on_lacking = self.tell_lacking
        self.ordinal = 0
        self.told_in_vain = 0
        self.has_strangers = False
        for client in self.clients:
            self.join(client)
            self.decide(client)

    def come_for_the_first_time(self, ref: int, age: float) -> None:
        """Have somebody else come who has the first client's key.

        Args:
            ref: of its last message.
            age: how old its connection is, as a part of the time since the beginning.
        """
        self.has_strangers = True
        client = Client(self.clients[0].key, ref)
        self.clients.append(client)
        self.join(client, began=round((1 - age) * self.ordinal))
        self.decide(client)

    def answer(self, connection: Connection) -> None:
        """Have a client answer a ping that is sent now."""
        self.ordinal += 1
        connection.seen = self.ordinal
        connection.heard += 1

    def tell_lacking(self, member: Membership, place: Place) -> None:
        """Tell a client of a gap that it has jumped over."""
        connection = member.client
        assert isinstance(connection, Connection)
        connection.lost = LostReason.LOST
        client = self.open[member]
        if client.member is member:
            client.lacks = None

    @staticmethod
    def place_of(member: Membership) -> Place:
        connection = member.client
        assert isinstance(connection, Connection)
        return (max(connection.proven, connection.first), 0)

    def write(self) -> None:
        self.end += 1
        for client in self.clients:
            if client.member is not None and client.member.is_chosen and client.connection:
                client.has = self.end

    def prove(self, client: Client) -> None:
        connection = client.connection
        if connection is not None and client.member is not None and client.member.is_chosen:
            assert client.has is not None
            connection.proven = client.proved = client.has
            connection.lost = None
            self.answer(connection)

    def beat(self, client: Client) -> None:
        client.ref += 1
        if client.connection is not None:
            client.connection.last_ref = client.ref
            client.connection.heard += 1

    def cut(self, client: Client, *, is_noticed: bool) -> None:
        member = client.member
        if client.connection is None:
            return
        client.connection.is_up = False
        client.connection = client.member = None
        if member is not None and is_noticed:
            self.notice(member)

    def notice(self, member: Membership) -> None:
        """The server sees that a connection is gone."""
        del self.open[member]
        connection = member.client
        assert isinstance(connection, Connection)
        began = connection.first if member.is_chosen else connection.joined_at
        place = self.place_of(member) if member.is_chosen else (connection.joined_at, 0)
        self.memberships.depart(member, place, began=(began, 0), lost=connection.lost)

    def notice_one(self, number: int) -> None:
        gone = [one for one in self.open if not one.client.is_up]  # type: ignore[attr-defined]
        if gone:
            self.notice(gone[number % len(gone)])

    def join(self, client: Client, *, began: int | None = None) -> None:
        """Come back, on a new connection; the server asks who is still there."""
        if client.connection is not None:
            return
        client.ref += 1
        connection = client.connection = Connection(last_ref=client.ref, heard=1)
        connection.began = connection.seen = self.ordinal if began is None else began
        connection.joined_at = connection.first = self.end
        member = client.member = Membership(client.key, client.ref, connection)
        self.memberships.enter(member)
        self.open[member] = client
        for one in self.memberships.others(member):
            other = one.client
            assert isinstance(other, Connection)
            if other.is_up:
                self.answer(other)
                self.memberships.shared_sessions.find(member.key)
            else:
                connection.silent.append(one)

    def decide(self, client: Client) -> None:
        """Have the server choose where a client goes on, and those before it that have its key."""
        member = client.member
        if member is None or member.is_chosen:
            return
        for one in list(self.open):
            if one.key == member.key and not one.is_chosen:
                self.choose(one)
            if one is member:
                break

    def decide_late(self) -> None:
        """Have it choose for the one that has waited for the longest; its client may be gone."""
        waiting = [one for one in self.open if not one.is_chosen]
        if waiting:
            self.choose(waiting[0])

    def choose(self, member: Membership) -> None:
        connection = member.client
        assert isinstance(connection, Connection)
        choice = self.memberships.choose(member, connection.silent)
        joined = (connection.joined_at, 0)
        place = connection.first = (joined if choice.place is None else choice.place)[0]
        client = self.open[member]
        if client.member is not member:
            # Its client has gone, unseen.
            return
        if choice.lost is not None:
            connection.lost = choice.lost
            client.lacks = None
        elif client.has is not None:
            has = client.has if client.lacks is None else client.lacks
            client.lacks = has if place > has else None
        if client.has is not None:
            assert choice.place is not None, "a client that was there before is taken for a new one"
            if not self.has_strangers:
                assert choice.lost is not LostReason.LOST, "the client is told of a gap in vain"
                assert client.lacks is None, "what the client has missed is skipped"
        is_exact = self.memberships.shared_sessions.is_exact(client.key) and not self.has_strangers
        if is_exact and choice.place is not None and choice.lost is None:
            assert place >= client.proved, "what the client has proven comes again"
        client.has = self.end

    def expire(self) -> None:
        self.clock += WINDOW + 1
        for _ in self.memberships.absences.tidying():
            pass


STEPS = (
    *("write",) * 6,
    *("prove",) * 3,
    *("beat",) * 3,
    *("cut", "cut", "vanish", "vanish", "notice"),
    *("join",) * 4,
    *("decide",) * 4,
    "late",
)


def steps_of(seed: int, count: int) -> list[tuple[str, int]]:
    """Return steps at random: long ways through the states, which lists of choices seldom are."""
    chance = random.Random(seed)
    steps = [(chance.choice(STEPS), chance.randrange(3)) for _ in range(count)]
    # Once in a while everybody has been away for too long.
    return [("expire", 0) if chance.random() < 0.01 else step for step in steps]


def run(world: World, steps: list[tuple[str, int]]) -> None:
    for step, number in steps:
        client = world.clients[number % len(world.clients)]
        match step:
            case "write":
                world.write()
            case "prove":
                world.prove(client)
            case "beat":
                world.beat(client)
            case "cut" | "vanish":
                world.cut(client, is_noticed=step == "cut")
            case "notice":
                world.notice_one(number)
            case "join":
                world.join(client)
            case "decide":
                world.decide(client)
            case "late":
                world.decide_late()
            case "expire":
                world.expire()
            case "stranger":
                world.come_for_the_first_time(20 * number + 5, number / 3)
    for client in world.clients:
        world.join(client)
        world.decide(client)


@pytest.mark.slow
@pytest.mark.parametrize("clients", [2, 3])
@given(st.integers(0, 2**32), st.integers(0, 100), st.lists(st.integers(0, 20), min_size=3))
@examples(100)
def test_clients_that_share_a_key_lose_nothing(
    clients: int, seed: int, count: int, refs: list[int]
) -> None:
    key = Key(b"shared", is_exact=False)
    run(World([key] * clients, refs[:clients]), steps_of(seed, count))


@pytest.mark.slow
@pytest.mark.parametrize("is_exact", [False, True], ids=["claims", "session"])
@given(st.integers(0, 2**32), st.integers(0, 100), st.lists(st.integers(0, 20), min_size=2))
@examples(150)
def test_whose_place_was_taken_is_told_at_the_latest_when_all_are_back(
    is_exact: bool, seed: int, count: int, refs: list[int]
) -> None:
    chance = random.Random(seed)
    steps = [
        ("stranger", chance.randrange(3)) if chance.random() < 0.05 else step
        for step in steps_of(seed, count)
        if step[0] != "expire"
    ]
    world = World([Key(b"shared", is_exact=is_exact)] * chance.randint(1, 2), refs)
    run(world, steps)
    assert not [client for client in world.clients if client.lacks is not None]


@pytest.mark.slow
@given(st.integers(0, 2**32), st.integers(0, 100), st.lists(st.integers(0, 20), min_size=3))
@examples(100)
def test_a_client_with_a_session_loses_nothing_and_gets_nothing_proven_again(
    seed: int, count: int, refs: list[int]
) -> None:
    keys = [Key(bytes([number]), is_exact=True) for number in range(3)]
    run(World(keys, refs[:3]), steps_of(seed, count))
