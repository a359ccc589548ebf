"""Turns of rooms: who is written to when a large room is flooded. Nothing is timed here: the clock
stands still, so that only writes end a turn, or it goes on with each look."""

from __future__ import annotations

import json
from itertools import count, pairwise

import pytest

from realtime_server.fanout import room_turns
from realtime_server.fanout.database_broadcasts import DatabaseBroadcasts
from realtime_server.fanout.dispatch import Dispatch
from realtime_server.fanout.room import Member
from realtime_server.phoenix.broadcasts import Broadcast, RoomName
from tests.server.fanout.test_message_rows import row
from tests.server.fanout.test_rooms import Loop, inbox

CROWD, SMALL = RoomName("realtime:crowd"), RoomName("realtime:small")
PER_TURN = 24


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Loop:
    monkeypatch.setattr(room_turns, "_MOST_WRITES", PER_TURN)
    return Loop()


def reached(members: list[Member]) -> int:
    return sum(len(inbox(member).writes) for member in members)


def test_a_small_room_is_served_before_the_second_turn_of_a_flooded_one(loop: Loop) -> None:
    crowd, small = [loop.join(CROWD) for _ in range(100)], [loop.join(SMALL) for _ in range(5)]
    for number in range(10):
        loop.send(number, crowd[0], CROWD)
    loop.turn()
    assert reached(crowd) == PER_TURN
    for number in range(3):
        before = reached(crowd)
        loop.send(number, room=SMALL)
        loop.turn()
        assert all(inbox(member).payloads()[-1] == number for member in small)
        assert reached(crowd) <= before + PER_TURN
    loop.turns()
    assert all(inbox(member).payloads() == [*range(10)] for member in crowd[1:])


def test_a_room_that_is_always_new_does_not_starve_others(loop: Loop) -> None:
    crowd, small = [loop.join(CROWD) for _ in range(100)], loop.join(SMALL)
    loop.send("crowd", room=CROWD)
    for number in range(5 * (room_turns._RESTS + 1)):
        loop.send(number, room=SMALL)
        loop.turn()
        assert inbox(small).payloads()[-1] == number
    assert reached(crowd) == len(crowd)


@pytest.mark.parametrize(("seconds", "rests"), [(0.0, 0), (0.001, room_turns._RESTS)])
def test_a_room_rests_only_while_others_have_something_to_do(
    loop: Loop, seconds: float, rests: int
) -> None:
    """Between two rounds the others take so many seconds."""
    now = 0.0
    loop = Loop(lambda: now)
    crowd = [loop.join(CROWD) for _ in range(4 * PER_TURN)]
    for _ in range(2):
        loop.send(1, room=CROWD)
        # The first turn of the room is at once, and the second when it has rested.
        rounds = [reached(crowd)]
        while loop.turn():
            rounds.append(reached(crowd))
            now += seconds
        turns = [place for place in range(1, len(rounds)) if rounds[place] > rounds[place - 1]]
        assert [after - before - 1 for before, after in pairwise(turns)][1:] == [rests] * 2


def test_large_rooms_take_turns(loop: Loop) -> None:
    rooms = [RoomName(f"realtime:{number}") for number in range(3)]
    members = [[loop.join(room) for _ in range(100)] for room in rooms]
    for room in rooms:
        loop.send(1, room=room)
    while loop.turn():
        got = [reached(each) for each in members]
        assert max(got) - min(got) <= PER_TURN
    assert got == [100, 100, 100]


def test_new_rooms_share_a_turn_of_the_event_loop() -> None:
    ticks = count()
    loop = Loop(lambda: next(ticks) * room_turns._TURN / 8)
    small = [loop.join(RoomName(f"realtime:{number}")) for number in range(50)]
    for member in small:
        loop.send(1, room=member.room)
    loop.turn()
    assert 0 < reached(small) < 10
    loop.turns()
    assert reached(small) == len(small)


def test_each_sender_has_its_turn_within_a_room(loop: Loop) -> None:
    ann, bob, cat = (loop.join() for _ in range(3))
    # Of these one is more than is gathered at once.
    for number in range(10):
        loop.send([number, "x" * 70_000], ann)
    loop.send("bob", bob)
    assert loop.send("request", None)
    loop.turns()
    assert inbox(cat).payloads()[1:3] == ["bob", "request"]
    assert [one[0] for one in inbox(bob).payloads() if len(one) == 2] == [*range(10)]


def test_the_database_waits_for_one_turn_of_its_own_room_only(loop: Loop) -> None:
    broadcasts = DatabaseBroadcasts(loop.rooms, max_payload_bytes=1000, clock=lambda: 0.0)
    for _ in range(100):
        loop.join(CROWD)
    member = loop.join()
    loop.send("crowd", room=CROWD)
    loop.turn()
    message = row(payload=json.dumps(1), private="f")
    dispatch = Dispatch(lambda: 0.0)
    assert list(broadcasts.adding(message, dispatch)) == []
    # The other room goes on meanwhile.
    loop.send(2)
    before = loop.rooms.stats()
    loop.turns()
    assert inbox(member).payloads() == []
    assert list(dispatch.hand_out()) == []
    broadcasts.release()
    loop.turns()
    assert inbox(member).payloads() == [1, 2]
    assert loop.rooms.stats() == before


def test_a_room_that_is_held_and_gets_nothing_leaves_nothing_behind(loop: Loop) -> None:
    loop.join()
    assert list(loop.rooms.holding(SMALL)) == []
    loop.rooms.release(SMALL)
    assert loop.turns() == 0
    with pytest.raises(KeyError):
        loop.rooms.release(SMALL)


def test_a_sender_whose_room_is_behind_is_refused() -> None:
    """As long as nothing was written, five microseconds are taken for a delivery."""
    loop = Loop()
    crowd = [loop.join(CROWD) for _ in range(5000)]
    small = loop.join(SMALL)
    taken = sum(loop.send(number, crowd[0], CROWD) for number in range(100))
    # Half of a second.
    assert taken == 20
    # Others may take of the rest; in other rooms nobody waits, and so nobody is refused.
    assert sum(loop.send(number, crowd[1], CROWD) for number in range(100)) == 10
    assert all(loop.send(number, small, SMALL) for number in range(100))
    for _ in range(100):
        loop.rooms.publish([(CROWD, Broadcast("m", b"1"))])
    assert loop.send("small", small, SMALL)
    loop.turns()
    assert loop.send(1, crowd[0], CROWD)
