"""No client that comes back to another server goes on behind what it has, whatever is killed.

What a client has received is known in :mod:`.replay_world`, and not to its servers; a place that is
chosen for it must not be higher.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime_server.replay import records
from realtime_server.replay.identity import Key
from realtime_server.replay.lost_reasons import LostReason
from realtime_server.replay.needs import OVERDUE
from realtime_server.replay.standing import LASTS

from .examples import examples
from .replay_world import Client, Process, World

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have records of several parts."""
    monkeypatch.setattr(records, "_ENTRIES", 2)


@pytest.mark.parametrize(
    ("clients", "is_exact"),
    [(1, False), (2, False), (3, False), (1, True)],
    ids=["1-shared", "2-shared", "3-shared", "session"],
)
@given(
    st.integers(0, 2**32),
    st.integers(1, 150),
    st.lists(st.integers(0, 20), min_size=3),
    st.booleans(),
)
@examples(150)
def test_nobody_who_comes_back_to_another_server_loses_anything(
    clients: int, is_exact: bool, seed: int, steps: int, refs: list[int], puts_off: bool
) -> None:
    key = Key(b"k" * 16, is_exact=is_exact)
    world = World([Client(key, ref) for ref in refs[:clients]], seed, puts_off=puts_off)
    for _ in range(steps):
        world.step()
    world.end_all()


@pytest.mark.parametrize("is_exact", [False, True], ids=["shared", "session"])
@pytest.mark.parametrize("workers", [(1, 1), (2, 1)])
@given(st.integers(0, 2**32), st.integers(1, 150), st.booleans())
@example(98, 92, False).via("comes and goes so fast that it seemed to be two clients")
@examples(75)
def test_each_server_keeps_what_a_client_of_the_other_may_need(
    workers: tuple[int, ...], is_exact: bool, seed: int, steps: int, puts_off: bool
) -> None:
    clients = [Client(Key(bytes(16), is_exact=is_exact), 0)]
    world = World(clients, seed, workers=workers, is_kept=True, puts_off=puts_off)
    for _ in range(steps):
        world.step()
    world.end_all()


@pytest.mark.parametrize("workers", [(1, 1), (2, 1)])
@given(
    st.integers(0, 2**32),
    st.integers(1, 150),
    st.lists(st.integers(0, 20), min_size=6, max_size=6),
    st.lists(st.integers(0, 40), max_size=2),
    st.booleans(),
)
@examples(100)
def test_clients_of_all_kinds_lose_nothing_among_each_other(
    workers: tuple[int, ...],
    seed: int,
    steps: int,
    refs: list[int],
    newcomers: list[int],
    puts_off: bool,
) -> None:
    # Two that have sessions of their own, two that share one, and two that have a claim in common.
    # It may not be known whose place somebody has taken who has come for the first time meanwhile,
    # nor that two share a session, as long as no process has seen both.
    keys = [Key(bytes([min(number, 3)]) * 16, is_exact=True) for number in range(1, 5)]
    keys += [Key(b"c" * 16, is_exact=False)] * 2
    clients = [Client(key, ref) for key, ref in zip(keys, refs, strict=True)]
    world = World(clients, seed, workers=workers, puts_off=puts_off)
    world.strange.add(keys[2])
    for ref in newcomers:
        for _ in range(steps // (len(newcomers) + 1)):
            world.step()
        world.come_for_the_first_time(world.random.choice(keys[2:]), ref)
    for _ in range(steps):
        world.step()
    world.end_all()


def test_what_came_since_a_join_is_kept_until_others_have_read_of_that() -> None:
    world = World([], 0, is_kept=True)
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
    world = World([Client(Key(b"k" * 16, is_exact=True), 0)], 0)
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


@pytest.fixture(params=[False, True], ids=["another server", "a restart"])
def elsewhere(request: pytest.FixtureRequest) -> Callable[[World], Process]:
    """Where a client comes to: another server that runs, or the next process of the first one."""

    def get(world: World) -> Process:
        world.write_all()
        if request.param:
            # Of the former process only a snapshot is left.
            first, other = world.processes
            other.read()
            world.wal[:] = []
            other.write(snapshot=True)
            for one in world.processes:
                one.read_up_to = 0
            world.kill_at_once(first)
            return world.processes[0]
        world.processes[1].read()
        return world.processes[1]

    return get


def test_who_finds_its_place_taken_by_a_newcomer_is_told_at_any_server(
    elsewhere: Callable[[World], Process],
) -> None:
    world = World([], 0)
    key = Key(b"c" * 16, is_exact=False)
    owner, newcomer = Client(key, 3), Client(key, 20)
    world.clients += [owner, newcomer]
    first = world.processes[0]
    first.join(owner)
    world.cut(owner)
    world.change()
    first.join(newcomer)
    process = elsewhere(world)
    owner.ref = 5
    process.join(owner)
    assert owner.member is not None
    assert process.open[owner.member].lost is LostReason.LOST


def test_who_has_jumped_over_changes_is_told_when_another_finds_nothing_at_another_server() -> None:
    world = World([], 0)
    key = Key(b"c" * 16, is_exact=False)
    owner, newcomer, other = Client(key, 8), Client(key, 20), Client(key, 4)
    world.clients += [owner, newcomer, other]
    world.strange.add(key)
    first, second = world.processes
    first.join(owner)
    world.prove_all()
    world.cut(owner)
    world.change()
    first.join(newcomer)
    world.change()
    second.join(other)
    world.prove_all()
    world.cut(other)
    world.write_all()
    second.read()
    # It is taken for the other one, which has had more.
    owner.ref = 9
    second.join(owner)
    assert owner.lacks is not None
    world.write_all()
    first.read()
    # The other one is told itself, and so is the owner.
    other.ref = 6
    first.join(other)
    assert other.member is not None
    assert first.open[other.member].lost is LostReason.LOST
    first.write()
    second.read()
    assert owner.lacks is None


# A client that has come to another process before its former one knew of it, which looks as if two
# clients had the session until that one has been asked, or another has got its slot.


@pytest.fixture
def moved(world: World) -> World:
    """A world whose client has come to the second of three processes, which has asked the first."""
    world.processes.append(world.boot(2, 0))
    first, second, third = world.processes
    for process in world.processes:
        process.read()
    [client] = world.clients
    if client.process is not first:
        world.cut(client)
        world.write_all()
        first.read()
        client.ref += 1
        first.join(client)
        settle(world)
    world.vanish(client)
    second.read()
    client.ref += 1
    second.join(client)
    world.prove_all()
    second.write()
    third.read()
    return world


@pytest.mark.parametrize("to", [0, 1, 2])
def test_who_has_moved_and_whose_former_process_says_that_it_is_away_is_one_client(
    moved: World, to: int
) -> None:
    first, _, _ = moved.processes
    moved.notice(first)
    # It has not read that it was asked.
    first.write()
    come_back(moved, to)


@pytest.mark.parametrize("to", [0, 1, 2])
def test_who_has_moved_and_whose_former_process_is_killed_is_one_client(
    moved: World, to: int
) -> None:
    first, _, _ = moved.processes
    moved.processes[0] = moved.boot(first.server, first.worker)
    come_back(moved, to)


def test_nothing_stays_of_who_has_moved_before_its_former_process_was_killed(
    moved: World,
) -> None:
    first, second, third = moved.processes
    moved.processes[0] = moved.boot(first.server, first.worker)
    second.read()
    second.write()
    third.read()
    key = moved.clients[0].key
    assert second.journal.find(key.digest) == []
    [one] = third.journal.find(key.digest)
    assert one.server == (2).to_bytes(8)


def test_who_answers_its_process_is_another_client_also_if_that_is_killed_then(
    world: World,
) -> None:
    first, second = world.processes
    [one] = world.clients
    if one.process is second:
        first, second = second, first
    second.read()
    other = Client(one.key, one.ref + 1)
    world.clients.append(other)
    second.join(other)
    for process in (second, first, second):
        process.write()
        for reader in world.processes:
            reader.read()
    assert not second.memberships.shared_sessions.is_exact(one.key)
    world.vanish(one)
    world.boot(first.server, first.worker)
    second.read()
    [left] = second.journal.find(one.key.digest)
    assert not left.may_be_there


@pytest.mark.parametrize("to", [0, 1, 2])
@pytest.mark.parametrize("is_noticed", [True, False])
def test_who_moves_on_before_others_have_read_where_it_was_is_one_client(
    world: World, is_noticed: bool, to: int
) -> None:
    world.processes.append(world.boot(2, 0))
    first, second, third = world.processes
    third.read()
    [client] = world.clients
    for process in (first, second, third):
        # To each of them before it has read of the one before.
        world.lose(client, is_noticed=is_noticed)
        client.ref += 1
        process.join(client)
        world.prove_all()
    for _ in range(2):
        world.write_all()
        for process in world.processes:
            process.read()
    come_back(world, to, of=2)


@pytest.fixture
def hasty(world: World) -> World:
    """A world whose client has left the second and the third of three processes, one right after
    the other, before they have read of each other."""
    world.processes.append(world.boot(2, 0))
    first, second, third = world.processes
    [client] = world.clients
    if client.process is not first:
        come_back(world, 0, of=1)
        settle(world)
    world.cut(client)
    first.write()
    for process in (second, third):
        process.read()
        client.ref += 1
        process.join(client)
        world.change()
        world.prove_all()
        world.cut(client)
    for _ in range(2):
        world.write_all()
        for process in world.processes:
            process.read()
    return world


@pytest.mark.parametrize("to", [0, 1, 2])
def test_who_leaves_two_processes_before_they_have_read_of_each_other_is_one_client(
    hasty: World, to: int
) -> None:
    world, [client], process = hasty, hasty.clients, hasty.processes[to]
    client.ref += 1
    process.join(client)
    assert process.memberships.shared_sessions.is_exact(client.key)
    # Nothing stays of either, so that nothing comes again and again.
    settle(world)
    for one in world.processes:
        one.read()
    for one in world.processes:
        assert len(one.journal.find(client.key.digest)) == (one is not process)
    assert not process.memberships.absences.of(client.key)


def test_whose_place_was_taken_with_another_ones_of_the_same_session_is_told(
    hasty: World,
) -> None:
    world, [client] = hasty, hasty.clients
    first = world.processes[0]
    fourth = world.boot(3, 0)
    world.processes.append(fourth)
    # The third process has another client of the session, and the second one the first client.
    other = Client(client.key, client.ref)
    client.ref -= 1
    client.has, other.has = sorted({end for _, end in client.had})[-2], client.has
    world.clients.append(other)
    world.strange.add(client.key)
    other.ref += 5
    first.join(other)
    assert other.member is not None
    assert first.open[other.member].first <= (client.has, 0), "the lower place does not count"
    for _ in range(2):
        settle(world)
        world.write_all()
        for process in world.processes:
            process.read()
    client.ref += 9
    fourth.join(client)
    assert client.lacks is not None
    world.prove_all()
    for _ in range(3):
        world.write_all()
        for process in world.processes:
            process.read()
    assert not fourth.memberships.shared_sessions.is_exact(client.key)
    assert client.lacks is None, "it is told of no gap"


def come_back(world: World, to: int, *, of: int = 1) -> None:
    """Lose the connection to one process, and join again at any."""
    [client] = world.clients
    world.cut(client)
    world.processes[of].write()
    process = world.processes[to]
    process.read()
    client.ref += 1
    process.join(client)
    assert process.memberships.shared_sessions.is_exact(client.key)
