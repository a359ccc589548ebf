"""Presence, whatever members come, track and go in whatever turns, held against a dictionary."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_server.fanout import presence, presence_state
from realtime_server.fanout.presence_state import PIECE, Entry
from realtime_server.fanout.room import Member
from tests.property.examples import examples
from tests.server.fanout.test_presence import INTERVAL, ROOM, THERE, World, take

State = dict[str, dict[str, Any]]
"""The metadata of each key, by ref."""

keys = st.sampled_from(["ann", "bob", "__proto__"])
places = st.integers(0, 7)
steps = st.lists(
    st.tuples(st.just("join"), st.sampled_from(["1.0.0", "2.0.0"]), st.booleans())
    | st.tuples(st.just("leave"), places, st.none())
    | st.tuples(st.just("track"), places, st.integers(0, 2))
    | st.tuples(st.just("untrack"), places, st.none())
    | st.tuples(st.just("there"), st.integers(0, 3), keys | st.none())
    | st.tuples(st.just("drop"), st.none(), st.none())
    | st.tuples(st.just("one"), st.none(), st.none())
    | st.tuples(st.just("wait"), st.sampled_from([0.0, 0.03, INTERVAL, 1.0]), st.none()),
    max_size=80,
)


def by_ref(state: Any) -> State:
    return {
        key: {meta["phx_ref"]: {**meta} for meta in found["metas"]} for key, found in state.items()
    }


class Listener:
    """What a client makes of a state and diffs, as the stock clients do."""

    def __init__(self) -> None:
        self.state: State | None = None

    def hear(self, messages: list[tuple[str, Any]]) -> None:
        for event, payload in messages:
            if event == "presence_state":
                assert self.state is None
                self.state = by_ref(payload)
                continue
            assert self.state is not None
            joins, leaves = by_ref(payload["joins"]), by_ref(payload["leaves"])
            assert joins or leaves
            for key, metas in joins.items():
                shown = self.state.setdefault(key, {})
                assert shown.keys().isdisjoint(metas)
                shown.update(metas)
            for key, metas in leaves.items():
                for ref, meta in metas.items():
                    assert self.state[key].pop(ref) == meta
                if not self.state[key]:
                    del self.state[key]


@pytest.mark.slow
@examples(300)
@given(steps, st.lists(keys, min_size=8, max_size=8), st.sampled_from([1, 2, PIECE]))
def test_each_members_state_and_diffs_are_the_rooms_state(
    taken: list[tuple[str, Any, Any]], names: list[str], piece: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        for module in (presence, presence_state):
            patch.setattr(module, "PIECE", piece)
        check(taken, names)


def check(taken: list[tuple[str, Any, Any]], names: list[str]) -> None:
    others: list[Any] = []
    world = World(others)
    # As long as the room's presence concerns somebody here, others tell of theirs.
    always = world.join()
    members: list[Member] = []
    listeners: dict[int, Listener] = defaultdict(Listener)
    tracked: dict[int, tuple[str, dict[str, Any]]] = {}
    there: dict[int, str] = {}
    asked: set[int] = set()

    def listen() -> None:
        for place, member in enumerate(members):
            messages = take(member)
            assert member.is_open or not messages
            assert place in asked or not messages
            listeners[place].hear(messages)

    for number, (what, who, more) in enumerate(taken):
        # Frames that were written before somebody leaves are its own.
        listen()
        if what == "join" and len(members) < 8:
            if more:
                asked.add(len(members))
            members.append(world.join(who, watches=more))
        elif what == "one":
            world.one()
        elif what == "wait":
            world.run(who)
        elif what == "there":
            entry = None
            if more is not None:
                entry = Entry(f'"{more}"'.encode(), b"{}", f"there-{number:010}")
            world.presence.put(ROOM, THERE, {who: entry})
            there.pop(who, None)
            if more is not None:
                there[who] = more
        elif what == "drop":
            world.presence.replace(ROOM, THERE, {})
            there.clear()
        elif what != "join" and who < len(members) and members[who].is_open:
            if what == "leave":
                world.leave(members[who])
                tracked.pop(who, None)
            elif what == "untrack":
                world.presence.untrack(members[who])
                tracked.pop(who, None)
            else:
                assert world.track(members[who], names[who], n=more) is None
                tracked[who] = names[who], {"n": more}
                asked.add(who)
    world.run(2)
    listen()
    expected: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for key, meta in tracked.values():
        expected[key].append(meta)
    for key in there.values():
        expected[key].append({})
    for place, member in enumerate(members):
        if not member.is_open or place not in asked:
            continue
        state = listeners[place].state
        assert state is not None
        found = {
            key: sorted(
                ({"n": meta["n"]} if "n" in meta else {} for meta in metas.values()), key=str
            )
            for key, metas in state.items()
        }
        assert found == {key: sorted(metas, key=str) for key, metas in expected.items()}
    assert world.presence.stats().tracked == len(tracked)
    world.presence.replace(ROOM, THERE, {})
    for member in (always, *members):
        world.leave(member)
    world.run(2)
    # Nothing is kept of the room.
    assert others[-1] == ("-", ROOM)
