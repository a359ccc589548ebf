"""Who is present in one room: what is shown, and what is told of changes."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any, TypeVar

from realtime_server.fanout.presence_state import PIECE, Entry, Flush, Node, PresenceState

T = TypeVar("T")

HERE: Node = ("here", 1)
THERE: Node = ("there", 1)


def entry(ref: str, key: str = "ann", **meta: Any) -> Entry:
    return Entry(json.dumps(key).encode(), json.dumps(meta).encode(), ref)


def meta(ref: str, before: str = "", **meta: Any) -> dict[str, Any]:
    return {**meta, "phx_ref": ref, **({"phx_ref_prev": before} if before else {})}


def ended(pieces: Generator[None, None, T]) -> T:
    """Make all pieces; return what they make."""
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            found: T = end.value
            return found


def flush(state: PresenceState) -> Flush:
    return ended(state.flushing())


def diff(state: PresenceState) -> Any:
    return json.loads(flush(state).diff or "null")


def shown(state: PresenceState) -> Any:
    return json.loads(ended(state.rendering()))


def test_nobody_is_present() -> None:
    state = PresenceState(HERE)
    assert (flush(state), ended(state.rendering())) == ((b"", {}), b"{}")


def test_members_come_change_and_go() -> None:
    state = PresenceState(HERE)
    state.put(1, entry("r1", n=1))
    state.put(2, entry("r2", "bob"))
    assert shown(state) == {}
    assert diff(state) == {
        "joins": {"ann": {"metas": [meta("r1", n=1)]}, "bob": {"metas": [meta("r2")]}},
        "leaves": {},
    }
    state.put(1, entry("r3", n=2))
    assert diff(state) == {
        "joins": {"ann": {"metas": [meta("r3", "r1", n=2)]}},
        "leaves": {"ann": {"metas": [meta("r1", n=1)]}},
    }
    assert shown(state) == {
        "bob": {"metas": [meta("r2")]},
        "ann": {"metas": [meta("r3", "r1", n=2)]},
    }
    state.put(1, None)
    state.put(2, None)
    # Those who leave have their metadata with them, as it was shown.
    assert diff(state) == {
        "joins": {},
        "leaves": {"ann": {"metas": [meta("r3", "r1", n=2)]}, "bob": {"metas": [meta("r2")]}},
    }
    assert (shown(state), state.members, state.size) == ({}, 0, 0)


def test_what_is_not_shown_in_between_is_never_told() -> None:
    state = PresenceState(HERE)
    state.put(1, entry("r1"))
    state.put(1, None)
    assert flush(state) == (b"", {})
    state.put(1, entry("r2", n=1))
    flush(state)
    for number in range(3, 6):
        state.put(1, entry(f"r{number}", n=number))
    state.put(1, None)
    state.put(1, entry("r9", n=9))
    assert diff(state) == {
        "joins": {"ann": {"metas": [meta("r9", "r2", n=9)]}},
        "leaves": {"ann": {"metas": [meta("r2", n=1)]}},
    }


def test_members_share_a_key_and_a_key_stays_when_one_comes_back() -> None:
    state = PresenceState(HERE)
    state.put(1, entry("r1"))
    flush(state)
    state.put(1, None)
    state.put(2, entry("r2"))
    assert diff(state) == {
        "joins": {"ann": {"metas": [meta("r2")]}},
        "leaves": {"ann": {"metas": [meta("r1")]}},
    }
    state.put(3, entry("r3"))
    flush(state)
    assert shown(state) == {"ann": {"metas": [meta("r2"), meta("r3")]}}
    state.put(2, None)
    flush(state)
    assert shown(state) == {"ann": {"metas": [meta("r3")]}}


def test_the_same_version_changes_nothing() -> None:
    state = PresenceState(HERE)
    state.put(7, entry("r1"), THERE)
    flush(state)
    state.put(7, entry("r1"), THERE)
    state.put(8, None, THERE)
    assert flush(state) == (b"", {})


def test_what_other_servers_have_is_put_together() -> None:
    state = PresenceState(HERE)
    state.put(1, entry("r1"))
    for membership, there in ((1, entry("r2")), (2, entry("r3", "bob"))):
        state.put(membership, there, THERE)
    told = flush(state)
    assert {*told.own} == {1}
    assert shown(state) == {
        "ann": {"metas": [meta("r1"), meta("r2")]},
        "bob": {"metas": [meta("r3")]},
    }
    assert state.members == 3
    # Another life of the server has none of what the former had.
    state.put(1, entry("r4", "bob"), ("there", 2))
    state.keep(THERE, ())
    told = flush(state)
    assert told.own == {}
    assert json.loads(told.diff) == {
        "joins": {"bob": {"metas": [meta("r4")]}},
        "leaves": {"ann": {"metas": [meta("r2")]}, "bob": {"metas": [meta("r3")]}},
    }
    state.keep(("there", 2), {3})
    state.put(1, None)
    assert flush(state).own == {1: None}
    assert (shown(state), state.members, state.size) == ({}, 0, 0)


def test_a_state_is_no_larger_than_its_size() -> None:
    state = PresenceState(HERE)
    for number in range(50):
        state.put(number, entry("x" * 16, f'"{number}"', a="é" * number))
        flush(state)
        state.put(number, entry("y" * 16, f'"{number}"', a="é" * number))
    flush(state)
    assert 0.5 * state.size < len(ended(state.rendering())) <= state.size + 2


def test_ten_thousand_may_share_a_key() -> None:
    state = PresenceState(HERE)
    for number in range(10_000):
        state.put(number, entry(f"r{number}"))
    (joins,) = diff(state)["joins"].values()
    assert len(joins["metas"]) == state.members == 10_000
    # What one of them changes is told without the others.
    state.put(7, entry("new", n=1))
    assert diff(state) == {
        "joins": {"ann": {"metas": [meta("new", "r7", n=1)]}},
        "leaves": {"ann": {"metas": [meta("r7")]}},
    }
    assert len(shown(state)["ann"]["metas"]) == 10_000
    for number in range(10_000):
        state.put(number, None)
    (leaves,) = diff(state)["leaves"].values()
    assert len(leaves["metas"]) == 10_000
    assert (shown(state), state.members, state.size) == ({}, 0, 0)


def test_a_large_flush_gives_way_and_what_changes_meanwhile_is_told_once() -> None:
    count = 3 * PIECE
    state = PresenceState(HERE)
    for number in range(count):
        state.put(number, entry(f"r{number}", f"key {number}"))
    pieces = state.flushing()
    next(pieces)
    # Of these one was compared, and the others were not.
    state.put(0, entry("new", "key 0"))
    state.put(count - 1, entry("new last", f"key {count - 1}"))
    state.put(count - 2, None)
    yields = 1
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            joins = json.loads(end.value.diff)["joins"]
            break
        yields += 1
    assert yields >= 5
    assert joins["key 0"] == {"metas": [meta("r0")]}
    assert joins[f"key {count - 1}"] == {"metas": [meta("new last")]}
    assert len(joins) == count - 1
    assert state.changes == 1
    assert diff(state) == {
        "joins": {"key 0": {"metas": [meta("new", "r0")]}},
        "leaves": {"key 0": {"metas": [meta("r0")]}},
    }
