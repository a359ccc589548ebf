"""Presence: who gets a room's state and its diffs, when, and in how many frames."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import pytest

from realtime_server.fanout.bus import LocalBus
from realtime_server.fanout.frames import Frame, Frames
from realtime_server.fanout.presence import Presence, PresenceLimits
from realtime_server.fanout.presence_state import PIECE, Entry, Node
from realtime_server.fanout.room import Member
from realtime_server.fanout.room_stats import PresenceStats
from realtime_server.fanout.rooms import Rooms
from realtime_server.phoenix.broadcasts import Broadcast, RoomName
from realtime_server.phoenix.reasons import BroadcastReason, PresenceReason
from realtime_server.phoenix.serializers import SERIALIZERS

ROOM = RoomName("realtime:room")
THERE: Node = ("there", 1)
INTERVAL = 0.1


class Inbox:
    """An outbox that keeps what it is sent."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.is_behind = False

    def write(self, frames: Frames) -> None:
        self.frames += frames.frames

    def take(self) -> list[tuple[str, Any]]:
        """Return events and payloads that came since the last call."""
        found = []
        for frame in self.frames:
            message = json.loads(frame.payload)
            if isinstance(message, dict):
                assert message["ref"] is None
                found.append((message["event"], message["payload"]))
            else:
                assert message[:3] == [None, None, ROOM.topic]
                found.append((message[3], message[4]))
        self.frames.clear()
        return found


class OtherServers:
    """Keeps what they are told."""

    def __init__(self, told: list[Any]) -> None:
        self._told = told

    def begin(self, name: RoomName) -> None:
        self._told.append(("+", name))

    def end(self, name: RoomName) -> None:
        self._told.append(("-", name))

    def tell(self, name: RoomName, changes: Mapping[int, Entry | None]) -> None:
        self._told.append((name, changes))


class World:
    """One server's presence, and its time."""

    def __init__(
        self, told: list[Any] | None = None, *, refs: str = "ref-", **limits: float
    ) -> None:
        self.now = 100.0
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._order = count()
        new_refs = (f"{refs}{number:012}" for number in count(1))
        self.rooms = Rooms(LocalBus(), later=self.later, clock=lambda: self.now)
        asked: dict[str, Any] = {
            **{"interval": INTERVAL, "members": 10_000, "state_bytes": 1 << 21},
            **limits,
        }
        self.presence = Presence(
            self.rooms,
            PresenceLimits(**asked),
            later=self.later,
            clock=lambda: self.now,
            new_ref=lambda: next(new_refs),
        )
        if told is not None:
            self.presence.others = OtherServers(told)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        self._calls.append((self.now + seconds, next(self._order), call))

    def run(self, seconds: float = 0.0) -> None:
        """Let time pass, and do all that is due by then."""
        until = self.now + seconds
        while self._one(until):
            pass
        self.now = until

    def one(self) -> None:
        """Do one thing that is due now, if anything is."""
        self._one(self.now)

    def _one(self, until: float) -> bool:
        next_one = min(self._calls, key=lambda each: each[:2], default=None)
        if next_one is None or next_one[0] > until:
            return False
        self._calls.remove(next_one)
        when, _, call = next_one
        self.now = max(self.now, when)
        call()
        return True

    def join(self, vsn: str = "2.0.0", *, watches: bool = True) -> Member:
        member = Member(ROOM, SERIALIZERS[vsn], Inbox(), takes_bytes=True, hears_itself=False)
        self.rooms.join(member)
        if watches:
            self.presence.watch(member)
        return member

    def track(self, member: Member, key: str = "ann", **meta: Any) -> PresenceReason | None:
        encoded = json.dumps(key).encode(), json.dumps(meta).encode()
        return self.presence.track(member, *encoded)

    def leave(self, member: Member) -> None:
        self.presence.leave(member)
        self.rooms.leave(member)


def take(member: Member) -> list[tuple[str, Any]]:
    assert isinstance(member.outbox, Inbox)
    return member.outbox.take()


def names(state: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the metadata of a state without refs, by key."""
    return {
        key: [
            {name: value for name, value in meta.items() if not name.startswith("phx_ref")}
            for meta in found["metas"]
        ]
        for key, found in state.items()
    }


def told(member: Member) -> list[Any]:
    """Return what came: states as they are, diffs as joins and leaves; without refs."""
    found: list[Any] = []
    for event, payload in take(member):
        if event == "presence_state":
            found.append(names(payload))
        else:
            assert event == "presence_diff"
            assert payload.keys() == {"joins", "leaves"}
            found.append((names(payload["joins"]), names(payload["leaves"])))
    return found


def test_a_member_gets_the_state_and_then_diffs() -> None:
    world = World()
    ann = world.join()
    world.run()
    assert told(ann) == [{}]
    world.run(1)
    assert world.track(ann, n=1) is None
    world.run()
    assert told(ann) == [({"ann": [{"n": 1}]}, {})]
    bob = world.join("1.0.0")
    world.run(1)
    assert (told(bob), told(ann)) == ([{"ann": [{"n": 1}]}], [])
    world.track(bob, "bob")
    world.run(1)
    assert told(ann) == told(bob) == [({"bob": [{}]}, {})]
    world.presence.untrack(ann)
    world.run()
    assert told(ann) == told(bob) == [({}, {"ann": [{"n": 1}]})]


def test_the_first_change_goes_out_at_once_and_the_next_ones_together() -> None:
    world = World()
    ann, bob = world.join(), world.join()
    world.run(1)
    take(ann), take(bob)
    world.track(ann, n=1)
    world.run()
    assert len(told(bob)) == 1
    for number in range(2, 9):
        world.run(0.01)
        world.track(ann, n=number)
    assert told(bob) == []
    world.run(0.03)
    assert told(bob) == [({"ann": [{"n": 8}]}, {"ann": [{"n": 1}]})]


def test_who_comes_while_others_change_gets_no_diff_ahead_of_the_state() -> None:
    world = World()
    ann = world.join()
    world.track(ann, n=1)
    world.run()
    take(ann)
    late = world.join()
    world.track(ann, n=2)
    assert told(late) == []
    world.run(INTERVAL)
    assert told(late) == [{"ann": [{"n": 2}]}]
    assert told(ann) == [({"ann": [{"n": 2}]}, {"ann": [{"n": 1}]})]


def test_who_does_not_ask_is_told_from_its_first_track_on() -> None:
    world = World()
    asks, quiet = world.join(), world.join(watches=False)
    world.run(1)
    world.track(asks, "asks")
    world.run(1)
    assert told(quiet) == []
    world.track(quiet, "quiet")
    world.run(1)
    assert told(quiet) == [{"asks": [{}], "quiet": [{}]}]
    world.presence.untrack(quiet)
    world.run(1)
    assert told(quiet) == [({}, {"quiet": [{}]})]


def test_the_same_again_is_not_told() -> None:
    world = World()
    ann = world.join()
    world.track(ann, n=1)
    world.run(1)
    take(ann)
    assert world.track(ann, n=1) is None
    world.run(1)
    assert take(ann) == []


def test_who_leaves_is_told_with_others_and_gets_nothing_more() -> None:
    world = World()
    stays = world.join()
    leaving = [world.join() for _ in range(5)]
    for number, member in enumerate(leaving):
        world.track(member, f"key {number}")
    world.run(1)
    take(stays)
    for member in leaving:
        take(member)
        world.leave(member)
        world.run(0.01)
    # The first to leave waits for the others, until each of them was shown for an interval.
    world.run(INTERVAL - 0.02)
    assert told(stays) == []
    world.run(0.02)
    ((joins, leaves),) = told(stays)
    assert joins == {}
    assert {*leaves} == {f"key {number}" for number in range(5)}
    assert all(take(member) == [] for member in leaving)
    assert world.presence.stats().tracked == 0


def test_who_leaves_alone_is_told_within_an_interval_and_a_crowd_in_steps() -> None:
    world = World()
    stays = world.join()
    leaving = [world.join() for _ in range(51)]
    for number, member in enumerate(leaving):
        world.track(member, f"key {number}")
    world.run(1)
    take(stays)
    world.leave(leaving[0])
    world.run(INTERVAL)
    assert told(stays) == [({}, {"key 0": [{}]})]
    world.run(1)
    # For half a second somebody leaves every 10 ms, and comes back, or does not.
    for number, member in enumerate(leaving[1:], 1):
        world.leave(member)
        if number % 2:
            world.track(world.join(), f"key {number}")
        world.run(0.01)
    world.run(2 * INTERVAL)
    leaves = [left for _, left in told(stays)]
    assert 5 <= len(leaves) <= 8
    gone = [key for left in leaves for key in left if int(key.split()[1]) % 2 == 0]
    assert sorted(gone) == sorted(f"key {number}" for number in range(2, 51, 2))
    assert world.presence.stats().tracked == 25


@pytest.mark.parametrize("pause", [0.0, 0.05, 0.09])
def test_a_key_does_not_vanish_where_its_member_joins_again(pause: float) -> None:
    world = World()
    other, ann = world.join(), world.join()
    world.track(ann, n=1)
    world.run(1)
    take(other)
    world.leave(ann)
    again = world.join()
    world.run(pause)
    world.track(again, n=2)
    world.run(1)
    assert told(other) == [({"ann": [{"n": 2}]}, {"ann": [{"n": 1}]})]
    assert told(again)[-1] in ({"ann": [{"n": 2}]}, ({"ann": [{"n": 2}]}, {"ann": [{"n": 1}]}))


def test_frames_and_renderings_do_not_grow_with_changes() -> None:
    world = World()
    members = [world.join(("1.0.0", "2.0.0")[number % 2]) for number in range(50)]
    world.run(1)
    for member in members:
        take(member)
    for number, member in enumerate(members):
        for version in range(3):
            world.track(member, str(number), version=version)
    late = world.join()
    world.run()
    frames = {id(frame) for each in members for frame in each.outbox.frames}  # type: ignore[attr-defined]
    assert len(frames) == 2
    assert [len(take(member)) for member in (*members, late)] == [1] * 51


def test_a_large_room_is_flushed_in_pieces_and_who_comes_meanwhile_is_not_forgotten() -> None:
    world = World()
    members = [world.join() for _ in range(2 * PIECE)]
    for number, member in enumerate(members):
        world.track(member, str(number))
    # One piece after the other, while others come and change.
    pieces = 0
    while not members[0].outbox.frames:  # type: ignore[attr-defined]
        world.one()
        pieces += 1
        if pieces == 2:
            late = world.join()
            world.track(late, "late")
            world.track(members[-1], str(2 * PIECE - 1), n=2)
    assert pieces > 4
    world.run(1)
    heard = [state_of(member) for member in (members[0], members[-1], late)]
    assert heard[0] == heard[1] == heard[2]
    assert len(heard[0]) == 2 * PIECE + 1
    assert heard[0][str(2 * PIECE - 1)] == [{"n": 2}]


def state_of(member: Member) -> dict[str, list[Any]]:
    """Return what a member knows of a room where nobody leaves."""
    state, *diffs = told(member)
    for joins, _ in diffs:
        state |= joins
    found: dict[str, list[Any]] = state
    return found


def test_a_large_room_is_flushed_less_often() -> None:
    world = World()
    members = [world.join() for _ in range(1000)]
    world.run(1)
    before = world.presence.stats().flushes
    for number in range(200):
        world.track(members[number], str(number))
        world.run(0.01)
    # 2 seconds, and 1,000 members: 4,000 frames a second are four flushes.
    assert 8 <= world.presence.stats().flushes - before <= 9


def test_one_order_with_broadcasts() -> None:
    world = World()
    ann, bob = world.join(), world.join()
    world.run(1)
    take(ann), take(bob)
    world.rooms.publish([(ROOM, Broadcast("m", b"1"))], bob)
    world.track(bob, "bob")
    world.rooms.publish([(ROOM, Broadcast("m", b"2"))], bob)
    world.run()
    assert [event for event, _ in take(ann)] == ["broadcast", "presence_diff", "broadcast"]


def test_members_and_bytes_are_bounded_and_whoever_is_there_stays() -> None:
    world = World(members=2, state_bytes=600)
    members = [world.join() for _ in range(3)]
    assert world.track(members[0], "0") is None
    assert world.track(members[1], "1") is None
    assert world.track(members[2], "2") is PresenceReason.MEMBERS
    assert world.track(members[1], "1", x="x" * 500) is PresenceReason.STATE
    assert world.track(members[1], "1", x="x" * 300) is None
    world.run(1)
    assert told(members[2]) == [{"0": [{}], "1": [{"x": "x" * 300}]}]
    world.leave(members[0])
    world.run(1)
    assert world.track(members[2], "2") is None


def test_nothing_is_kept_of_a_room_that_all_have_left() -> None:
    others: list[Any] = []
    world = World(others)
    members = [world.join(), world.join("1.0.0"), world.join(watches=False)]
    for member in members[:2]:
        world.track(member)
    world.run(1)
    assert world.presence.stats().tracked == 2
    for member in members:
        world.leave(member)
        world.leave(member)
    world.run(1)
    stats = world.presence.stats()
    assert stats.tracked == 0
    # Other servers are told so when it is forgotten.
    assert others.count(("-", ROOM)) == others.count(("+", ROOM)) == 1
    assert others[-1] == ("-", ROOM)
    assert stats.flushes > 0
    assert PresenceStats() != stats


def test_a_failure_of_others_does_not_end_a_rooms_flushes() -> None:
    world = World()
    ann = world.join()
    world.run(1)

    def fail(_: BroadcastReason | None) -> None:
        raise ZeroDivisionError

    world.rooms.publish([(ROOM, Broadcast("m", b"1"))], done=fail)
    with pytest.raises(ZeroDivisionError):
        world.run()
    world.rooms.publish([(ROOM, Broadcast("m", b"1"))], done=fail)
    world.track(ann, n=1)
    with pytest.raises(ZeroDivisionError):
        world.run()
    world.run(1)
    world.track(ann, n=2)
    world.run(1)
    events = [event for event, _ in take(ann)]
    assert events.count("presence_diff") >= 1


def test_other_servers_members_are_shown_and_they_are_told_of_ones_own() -> None:
    heard: list[Any] = []
    world = World(heard)
    ann = world.join()
    world.track(ann, n=1)
    world.run(1)
    (begin, (room, changes)) = heard
    ((membership, entry),) = changes.items()
    assert begin == ("+", ROOM)
    assert room == ROOM
    assert entry is not None
    assert (entry.key, entry.meta) == (b'"ann"', b'{"n": 1}')
    take(ann)
    there = Entry(b'"bob"', b"{}", "r" * 16)
    world.presence.replace(ROOM, THERE, {1: there})
    world.run(1)
    assert told(ann) == [({"bob": [{}]}, {})]
    world.presence.put(ROOM, THERE, {1: Entry(b'"bob"', b'{"n":2}', "s" * 16)})
    world.run(1)
    assert told(ann) == [({"bob": [{"n": 2}]}, {"bob": [{}]})]
    world.presence.replace(ROOM, THERE, {})
    world.run(1)
    assert told(ann) == [({}, {"bob": [{"n": 2}]})]
    assert len(heard) == 2
    world.presence.replace(ROOM, THERE, {1: there})
    world.leave(ann)
    world.run(1)
    # Nothing is kept of a room that concerns nobody here.
    assert heard[2:] == [(ROOM, {membership: None}), ("-", ROOM)]
    world.presence.put(ROOM, THERE, {2: there})
    world.run(1)
    assert heard[4:] == []


def test_what_other_servers_track_beyond_twice_the_bound_is_not_shown_as_it_was() -> None:
    world = World(state_bytes=200)
    ann = world.join()
    world.track(ann, n=1)
    world.run(1)
    take(ann)

    def entry(size: int, ref: str) -> Entry:
        return Entry(b'"bob"', b'{"x":"%b"}' % (b"x" * size), ref * 16)

    assert world.presence.put(ROOM, THERE, {1: entry(200, "r")}) == 0
    world.run(1)
    assert len(told(ann)) == 1
    # What it replaces makes room.
    assert world.presence.put(ROOM, THERE, {1: entry(190, "s")}) == 0
    world.run(1)
    ((joins, leaves),) = told(ann)
    assert (len(joins["bob"]), len(leaves["bob"])) == (1, 1)
    # One that is too large is left out, and so is what it replaces.
    assert world.presence.put(ROOM, THERE, {1: entry(400, "t")}) == 1
    world.run(1)
    ((joins, leaves),) = told(ann)
    assert (joins, [*leaves]) == ({}, ["bob"])


def test_a_departure_from_a_room_that_was_forgotten_meanwhile_leaves_its_successor_alone() -> None:
    heard: list[Any] = []
    world = World(heard)
    first, second = world.join(), world.join()
    world.track(first, "ann")
    world.track(second, "bob")
    world.run(1)
    # Both come back just before they would have gone together, and track themselves no more.
    world.leave(first)
    world.run(0.09)
    world.leave(second)
    world.run(0.02)
    for key in ("ann", "bob"):
        again = world.join()
        world.track(again, key, n=2)
        world.presence.untrack(again)
        world.leave(again)
    world.run(0.02)
    assert heard[-1] == ("-", ROOM)
    carl = world.join()
    world.track(carl, "carl")
    world.run(1)
    assert heard[-1] != ("-", ROOM)
    take(carl)
    dora = world.join()
    world.track(dora, "dora")
    world.run(1)
    assert told(carl) == [({"dora": [{}]}, {})]


@pytest.mark.parametrize("members", [1, 2 * PIECE])
def test_a_failure_while_a_flush_is_made_does_not_end_a_rooms_flushes(members: int) -> None:
    heard: list[Any] = []
    world = World(heard)
    everybody = [world.join() for _ in range(members)]
    world.run(1)
    others = world.presence.others
    assert isinstance(others, OtherServers)

    def fail(*_: object) -> None:
        others.tell = tell  # type: ignore[method-assign]
        raise ZeroDivisionError

    tell = others.tell
    others.tell = fail  # type: ignore[method-assign]
    for number, member in enumerate(everybody):
        world.track(member, str(number))
    with pytest.raises(ZeroDivisionError):
        world.run(1)
    world.run(1)
    for member in everybody:
        take(member)
    world.track(everybody[0], "0", n=2)
    world.run(1)
    assert [event for event, _ in take(everybody[0])] == ["presence_diff"]
