"""Presence of rooms that have members at several processes, in time that tests make."""

from __future__ import annotations

from typing import Any

import pytest

from realtime_server.cluster import shared_presence
from realtime_server.cluster.carrier import NotSent
from realtime_server.cluster.presence_messages import (
    BEATS,
    Beat,
    Bye,
    Change,
    Check,
    Message,
    Snapshot,
    decode_presence,
    encode_presence,
    node_subject,
    room_id,
    room_subject,
)
from realtime_server.cluster.shared_presence import BEAT, SILENT, SharedPresence
from realtime_server.fanout.presence_state import Entry
from realtime_server.fanout.room import Member
from realtime_server.phoenix.broadcasts import RoomName
from tests.server.cluster.carriers import Wire, Wires
from tests.server.fanout.test_presence import ROOM, World, take, told

ROOM_ID = room_id(ROOM)
NODE = b"elsewher"


class Process:
    """One of several."""

    def __init__(self, wires: Wires, number: int, **limits: float) -> None:
        self.node = bytes([number]) * 8
        self.world = World(refs=f"ref{number}", **limits)
        self.wire = Wire(wires)
        self.shared = SharedPresence(self.world.presence, self.wire, self.node, self.world.now)
        self.wire.begin(lambda subject, data: self.shared.take(subject, data, self.world.now))
        self._next_beat = self.world.now + BEAT
        self.stands_still = False

    def run(self, seconds: float) -> None:
        until = self.world.now + seconds
        while self._next_beat <= until:
            self.world.run(self._next_beat - self.world.now)
            self.shared.tick(self.world.now)
            self._next_beat += BEAT
        self.world.run(until - self.world.now)

    def skip(self, seconds: float) -> None:
        """Stand still."""
        self.world.now += seconds
        self._next_beat += seconds

    def state(self) -> dict[str, list[Any]]:
        """Return what somebody who comes now is shown, without refs."""
        late = self.world.join()
        self.world.run(1)
        found: dict[str, list[Any]] = told(late)[0]
        self.world.leave(late)
        return {key: sorted(metas, key=str) for key, metas in found.items()}


class Processes:
    def __init__(self, count: int, **limits: float) -> None:
        self.wires = Wires()
        self.all = [Process(self.wires, number, **limits) for number in range(1, count + 1)]

    def run(self, seconds: float = 0.3) -> None:
        steps = max(round(seconds / 0.05), 1)
        for _ in range(steps):
            for each in self.all:
                each.run(seconds / steps)


@pytest.fixture
def two() -> Processes:
    return Processes(2)


def test_members_at_other_processes_are_shown(two: Processes) -> None:
    here, there = two.all
    ann, bob = here.world.join(), there.world.join()
    two.run()
    assert told(ann) == told(bob) == [{}]
    here.world.track(ann, "ann", n=1)
    two.run()
    assert told(ann) == told(bob) == [({"ann": [{"n": 1}]}, {})]
    there.world.track(bob, "bob")
    here.world.track(ann, "ann", n=2)
    two.run()
    assert told(ann)[-1] == ({"bob": [{}]}, {})
    two.run()
    for process in two.all:
        assert process.state() == {"ann": [{"n": 2}], "bob": [{}]}
    take(bob)
    here.world.leave(ann)
    two.run()
    assert told(bob) == [({}, {"ann": [{"n": 2}]})]


def test_who_comes_first_to_a_room_learns_of_all_others_at_once(
    two: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared_presence, "_ENTRIES_BYTES", 700)
    here, there = two.all
    for number in range(20):
        here.world.track(here.world.join(), f"member {number}", text="x" * 100)
    two.run()
    count = two.wires.count
    bob = there.world.join()
    two.run(0.5)
    (state,) = told(bob)
    assert state.keys() == {f"member {number}" for number in range(20)}
    # It takes several messages.
    assert two.wires.count - count > 4


def test_a_room_that_concerns_nobody_here_costs_nothing(two: Processes) -> None:
    here, there = two.all
    ann, bob = here.world.join(), there.world.join()
    there.world.track(bob)
    two.run()
    here.world.leave(ann)
    two.run(3)
    count = two.wires.count
    there.world.track(bob, n=2)
    two.run(1)
    assert here.wire.subjects == {BEATS, node_subject(here.node)}
    assert two.wires.count == count
    # It is asked for when somebody comes.
    assert here.state() == {"ann": [{"n": 2}]}


def test_private_rooms_of_the_same_topic_are_others(two: Processes) -> None:
    private = RoomName(ROOM.topic, is_private=True)
    assert room_id(private) != ROOM_ID
    here, there = two.all
    ann = here.world.join()
    here.world.track(ann, "ann")
    secret = Member(private, ann.serializer, ann.outbox, takes_bytes=True, hears_itself=False)
    there.world.rooms.join(secret)
    there.world.presence.track(secret, b'"secret"', b"{}")
    two.run(5)
    assert here.state() == {"ann": [{}]}


def test_a_process_whose_end_is_noticed_leaves_at_once_in_one_flush(two: Processes) -> None:
    here, there = two.all
    ann = here.world.join()
    for number in range(10):
        there.world.track(there.world.join(), f"member {number}")
    two.run()
    take(ann)
    two.all.remove(there)
    there.wire.end()
    two.run(0.2)
    ((joins, leaves),) = told(ann)
    assert (joins, len(leaves)) == ({}, 10)


def test_a_process_that_is_not_heard_is_gone_after_half_a_minute_in_one_flush(
    two: Processes,
) -> None:
    here, there = two.all
    ann = here.world.join()
    for number in range(10):
        there.world.track(there.world.join(), f"member {number}")
    two.run(5)
    take(ann)
    two.all.remove(there)
    there.wire.vanish()
    two.run(SILENT - 2 * BEAT)
    assert told(ann) == []
    two.run(4 * BEAT)
    ((joins, leaves),) = told(ann)
    assert (joins, len(leaves)) == ({}, 10)
    # Nothing is kept of it.
    two.run(5)
    assert here.state() == {}


def test_a_process_that_stood_still_blames_nobody(two: Processes) -> None:
    here, there = two.all
    ann = here.world.join()
    there.world.track(there.world.join(), "bob")
    two.run(5)
    take(ann)
    here.skip(100)
    two.run(BEAT)
    assert told(ann) == []
    assert here.state() == {"bob": [{}]}


@pytest.mark.parametrize("seconds", [0.3, 10.0, 40.0])
def test_after_a_break_both_know_of_all(two: Processes, seconds: float) -> None:
    here, there = two.all
    ann, bob = here.world.join(), there.world.join()
    here.world.track(ann, "ann")
    there.world.track(bob, "bob")
    two.run(5)
    two.wires.loses = lambda sender, taker: True
    for number in range(3):
        here.world.track(ann, "ann", n=number)
        there.world.leave(bob)
        bob = there.world.join()
        there.world.track(bob, f"bob {number}")
        two.run(seconds / 3)
    gone = {"bob": [{}]} if seconds < SILENT else {}
    assert {key: value for key, value in here.state().items() if key != "ann"} == gone
    two.wires.loses = lambda sender, taker: False
    two.run(4)
    for process in two.all:
        assert process.state() == {"ann": [{"n": 2}], "bob 2": [{}]}
    # What each client was told adds up.
    take(ann)
    two.run(5)
    assert take(ann) == []


def test_while_the_way_is_broken_nothing_waits(two: Processes) -> None:
    here, there = two.all
    ann = here.world.join()
    there.world.join()
    two.run()
    here.wire.problem = NotSent.AWAY
    here.world.track(ann)
    two.run(0.2)
    assert here.shared.lost > 0
    assert there.state() == {}
    here.wire.problem = None
    two.run(3)
    assert there.state() == {"ann": [{}]}


def test_one_that_missed_a_change_asks_once(two: Processes) -> None:
    here, there = two.all
    ann, other = here.world.join(), here.world.join()
    bob = there.world.join()
    here.world.track(ann, n=0)
    two.run()
    two.wires.loses = lambda sender, taker: sender is here.wire
    here.world.track(other, "other")
    two.run(0.2)
    two.wires.loses = lambda sender, taker: False
    count = two.wires.count
    here.world.track(ann, n=2)
    two.run(0.2)
    assert told(bob)[-1] == ({"other": [{}], "ann": [{"n": 2}]}, {"ann": [{"n": 0}]})
    # The change, the question, and its answer.
    assert two.wires.count - count <= 3 + 2 * 1


ENTRY = Entry(b'"ann"', b'{"a":1}', "r" * 16)
MESSAGES: list[Message] = [
    Change(NODE, ROOM_ID, 0, 2**63, {0: ENTRY, 2**64 - 1: None}),
    Change(NODE, ROOM_ID, 1, 2, {}),
    Snapshot(NODE, ROOM_ID, 3, True, False, {7: Entry(b'""', b"{}", "-_" * 8)}),
    Check(NODE, {}),
    Check(NODE, {ROOM_ID: 0, bytes(16): 5}),
    Beat(NODE, 3, {ROOM_ID: 4}),
    Bye(NODE),
]


def readable(message: Message) -> Any:
    """Entries are compared by what is in them."""
    entries = getattr(message, "entries", {})
    return [
        {name: value for name, value in vars_of(message).items() if name != "entries"},
        {key: entry and (entry.key, entry.meta, entry.ref) for key, entry in entries.items()},
    ]


def vars_of(message: Message) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in message.__attrs_attrs__}


@pytest.mark.parametrize("message", MESSAGES, ids=[type(each).__name__ for each in MESSAGES])
def test_what_is_written_is_read(message: Message) -> None:
    data = encode_presence(message)
    read = decode_presence(data)
    assert type(read) is type(message)
    assert readable(read) == readable(message)
    for size in range(len(data)):
        # A piece of it is another message, or none: never an error of another kind.
        try:
            decode_presence(data[:size])
        except ValueError:
            continue


GOOD = encode_presence(Change(NODE, ROOM_ID, 0, 1, {1: ENTRY}))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"P2" + GOOD[2:],
        GOOD[:2] + b"X" + GOOD[3:],
        GOOD[:-1],
        GOOD + b"x",
        *(
            encode_presence(Change(NODE, ROOM_ID, 0, 1, {1: Entry(key, meta, ref)}))
            for key, meta, ref in (
                (b"ann", b"{}", "r" * 16),
                (b"1", b"{}", "r" * 16),
                (b'"a', b"{}", "r" * 16),
                (b'"a"', b"[]", "r" * 16),
                (b'"a"', b"", "r" * 16),
                (b'"a"', b"{ }", "r" * 16),
                (b'"a"', b' {"a":1}', "r" * 16),
                (b'"a"', b'{"a":1} ', "r" * 16),
                (b'"a"', b'{"a":NaN}', "r" * 16),
                (b'"a"', b'{"a":1}},{"b":1}', "r" * 16),
                (b'"a"', b'{"phx_ref":"x"}', "r" * 16),
                (b'"a"', b'{"phx_\\u0072ef_prev":"x"}', "r" * 16),
                (b'"a"', b'{"a":' + b"[" * 200 + b"]" * 200 + b"}", "r" * 16),
                (b'"a"', b"{}", '"' * 16),
                (b'"a"', b"{}", "r"),
            )
        ),
    ],
)
def test_nothing_else_is_read(two: Processes, data: bytes) -> None:
    here = two.all[0]
    here.world.join()
    with pytest.raises(ValueError, match=r"."):
        here.wire.take(room_subject(ROOM_ID), data)
    assert here.state() == {}


def test_strangers_can_neither_fill_a_room_nor_the_memory() -> None:
    here = Processes(1, state_bytes=10_000).all[0]
    ann = here.world.join()
    here.world.track(ann)
    for number in range(100):
        entries = {
            number * 10 + place: Entry(
                b'"x"', b'{"x":"%s"}' % (b"x" * 100), f"{number:08}{place:08}"
            )
            for place in range(10)
        }
        change = Change(NODE, ROOM_ID, number, number + 1, entries)
        here.wire.take(room_subject(ROOM_ID), encode_presence(change))
        # Of rooms that are not known here nothing is kept.
        other = Change(NODE, bytes(16), number, number + 1, entries)
        here.wire.take("p.other", encode_presence(other))
    metas = here.state()
    assert metas["ann"] == [{}]
    assert 10_000 < sum(len(str(meta)) for meta in metas["x"]) + 96 * len(metas["x"]) < 30_000
    here.wire.take(BEATS, encode_presence(Bye(NODE)))
    here.run(1)
    assert here.state() == {"ann": [{}]}
