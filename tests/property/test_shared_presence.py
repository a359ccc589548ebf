"""Presence at several processes, whatever is lost between them, held against a dictionary."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_server.cluster.shared_presence import SILENT
from realtime_server.fanout.room import Member
from tests.property.examples import examples
from tests.property.test_presence import Listener
from tests.server.cluster.test_shared_presence import Processes
from tests.server.fanout.test_presence import take

PROCESSES = 3
processes = st.integers(0, PROCESSES - 1)
places = st.integers(0, 5)
steps = st.lists(
    st.tuples(st.just("join"), processes, st.none())
    | st.tuples(st.just("leave"), places, st.none())
    | st.tuples(st.just("track"), places, st.integers(0, 2))
    | st.tuples(st.just("untrack"), places, st.none())
    | st.tuples(st.just("lose"), processes, processes)
    | st.tuples(st.just("heal"), st.none(), st.none())
    | st.tuples(st.just("wait"), st.sampled_from([0.05, 0.5, 4.0, SILENT + 5]), st.none()),
    max_size=40,
)


@pytest.mark.slow
@examples(200)
@given(steps)
def test_all_know_of_all_once_messages_come_again(taken: list[tuple[str, Any, Any]]) -> None:
    run = Processes(PROCESSES)
    members: list[tuple[int, Member]] = []
    listeners: dict[int, Listener] = defaultdict(Listener)
    tracked: dict[int, dict[str, Any]] = {}
    lost: set[tuple[int, int]] = set()
    order = [process.wire for process in run.all]
    run.wires.loses = lambda one, two: (order.index(one), order.index(two)) in lost

    def listen() -> None:
        for place, (_, member) in enumerate(members):
            # The state comes once, and each diff fits it.
            listeners[place].hear(take(member))

    for what, who, more in taken:
        listen()
        if what == "join" and len(members) < 6:
            members.append((who, run.all[who].world.join()))
        elif what == "lose":
            lost.add((who, more))
        elif what == "heal":
            lost.clear()
        elif what == "wait":
            run.run(who)
        elif what in ("leave", "track", "untrack") and who < len(members):
            process, member = members[who]
            world = run.all[process].world
            if not member.is_open:
                continue
            if what == "track":
                world.track(member, f"key {who}", n=more)
                tracked[who] = {"n": more}
                continue
            tracked.pop(who, None)
            if what == "leave":
                world.leave(member)
            else:
                world.presence.untrack(member)
    lost.clear()
    run.run(8)
    listen()
    expected = {f"key {who}": [meta] for who, meta in tracked.items()}
    for process in run.all:
        assert process.state() == expected
    for place, (_, member) in enumerate(members):
        state = listeners[place].state
        if member.is_open:
            assert state is not None
            assert {*state} == {*expected}
