"""Rooms, whatever joins, leaves and broadcasts come in whatever turns."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime_server.fanout.room import Member
from realtime_server.phoenix.broadcasts import RoomName
from tests.server.fanout.test_rooms import Loop, inbox

ROOMS = [RoomName("realtime:a"), RoomName("realtime:a", is_private=True), RoomName("realtime:b")]

steps = st.lists(
    st.tuples(st.just("join"), st.sampled_from(ROOMS), st.sampled_from(["1.0.0", "2.0.0"]))
    | st.tuples(st.just("leave"), st.integers(0, 7), st.none())
    | st.tuples(st.just("send"), st.integers(0, 7), st.none())
    | st.tuples(st.just("request"), st.sampled_from(ROOMS), st.none())
    | st.tuples(st.just("turn"), st.none(), st.none()),
    max_size=60,
)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(steps, st.booleans())
def test_each_member_gets_all_others_broadcasts_in_the_rooms_order(
    taken: list[tuple[str, Any, Any]], hears_itself: bool
) -> None:
    loop = Loop()
    # They hear all of their rooms.
    witnesses = {room: loop.join(room) for room in ROOMS}
    members: list[Member] = []
    expected: dict[int, list[int]] = defaultdict(list)
    waiting: dict[int, tuple[RoomName, Member | None]] = {}

    def turn() -> None:
        known = {room: len(inbox(witness).frames) for room, witness in witnesses.items()}
        loop.turns()
        written: list[int] = []
        for room, witness in witnesses.items():
            in_order = inbox(witness).payloads()[known[room] :]
            written += in_order
            for number in in_order:
                name, sender = waiting[number]
                assert name == room
                for place, member in enumerate(members):
                    if not member.is_open or member.room != room:
                        continue
                    if member is not sender or hears_itself:
                        expected[place].append(number)
            for sender in (None, *members):
                ours = [one for one in in_order if waiting[one][1] is sender]
                assert ours == sorted(ours), "one sender's are not in the order sent"
        assert sorted(written) == sorted(waiting)
        waiting.clear()

    for number, (what, who, vsn) in enumerate(taken):
        if what == "join":
            members.append(loop.join(who, vsn, hears_itself=hears_itself))
        elif what == "turn":
            turn()
        elif what == "request":
            loop.send(number, room=who)
            waiting[number] = who, None
        elif who < len(members) and members[who].is_open:
            if what == "leave":
                loop.rooms.leave(members[who])
            else:
                loop.send(number, members[who], room=members[who].room)
                waiting[number] = members[who].room, members[who]
    turn()
    for place, member in enumerate(members):
        assert inbox(member).payloads() == expected[place]
        # One turn, one write.
        assert len(inbox(member).writes) <= sum(what == "turn" for what, *_ in taken) + 1
    for member in (*members, *witnesses.values()):
        loop.rooms.leave(member)
    assert (loop.rooms.stats().rooms, loop.rooms.stats().members) == (0, 0)
