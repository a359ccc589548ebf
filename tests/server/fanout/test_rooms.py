"""Rooms: who gets what is broadcast, in which order, and in how many writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest

from realtime_server.fanout import room_holds, room_turns
from realtime_server.fanout.bus import LocalBus
from realtime_server.fanout.dispatch import Dispatch
from realtime_server.fanout.frames import BinaryFrame, Frame, Frames, TextFrame
from realtime_server.fanout.room import Member
from realtime_server.fanout.room_stats import RoomStats
from realtime_server.fanout.rooms import Rooms
from realtime_server.phoenix.broadcasts import Broadcast, RoomName
from realtime_server.phoenix.reasons import BroadcastReason
from realtime_server.phoenix.serializers import SERIALIZERS

TOPIC = "realtime:room"
ROOM = RoomName(TOPIC)
OTHER = RoomName("realtime:2")
PRIVATE = RoomName(TOPIC, is_private=True)
V1, V2 = SERIALIZERS["1.0.0"], SERIALIZERS["2.0.0"]


class Inbox:
    """An outbox that keeps each write."""

    def __init__(self) -> None:
        self.writes: list[list[Frame]] = []
        self.is_behind = True

    def write(self, frames: Frames) -> None:
        # Only changes are brought to clients that were away.
        assert (frames.ordinal, frames.ping) == (0, b"")
        self.writes.append([*frames.frames])

    @property
    def frames(self) -> list[Frame]:
        return [frame for write in self.writes for frame in write]

    def payloads(self) -> list[Any]:
        """What was broadcast, as JSON."""
        found = []
        for frame in self.frames:
            message = json.loads(frame.payload)
            payload = message["payload"] if isinstance(message, dict) else message[4]
            found.append(payload["payload"])
        return found


class RecordingBus(LocalBus):
    def __init__(self) -> None:
        self.told: list[tuple[str | RoomName, str | RoomName]] = []

    def publish(self, room: RoomName, broadcast: Broadcast) -> None:
        self.told.append((room, broadcast.event))

    def subscribe(self, room: RoomName) -> None:
        self.told.append(("+", room))

    def unsubscribe(self, room: RoomName) -> None:
        self.told.append(("-", room))


class Loop:
    """Rooms, and an event loop that takes its turns when it is told to."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.bus = RecordingBus()
        self.rooms = Rooms(self.bus, later=self._later, clock=clock)
        self._calls: list[Callable[[], None]] = []

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def turn(self) -> bool:
        calls, self._calls = self._calls, []
        for call in calls:
            call()
        return bool(calls)

    def turns(self) -> int:
        """Take turns until nothing is left to do; return how many there were."""
        return next(number for number in count() if not self.turn())

    def join(self, room: RoomName = ROOM, vsn: str = "2.0.0", **options: bool) -> Member:
        asked = {"takes_bytes": vsn == "2.0.0", "hears_itself": False, **options}
        member = Member(room, SERIALIZERS[vsn], Inbox(), **asked)
        self.rooms.join(member)
        return member

    def send(
        self, payload: Any, sender: Member | None = None, room: RoomName = ROOM, event: str = "m"
    ) -> bool:
        broadcast = Broadcast(event, json.dumps(payload).encode())
        return self.rooms.publish([(room, broadcast)], sender) is None


def inbox(member: Member) -> Inbox:
    assert isinstance(member.outbox, Inbox)
    return member.outbox


@pytest.fixture
def loop() -> Loop:
    return Loop()


def test_all_but_the_sender_get_a_broadcast_in_their_own_form(loop: Loop) -> None:
    sender, other, old = loop.join(), loop.join(), loop.join(vsn="1.0.0")
    loop.send({"x": 1}, sender)
    loop.turns()
    payload = '{"type":"broadcast","event":"m","payload":{"x": 1}}'
    (frame,) = inbox(other).frames
    assert frame.payload.decode() == f'[null,null,"{TOPIC}","broadcast",{payload}]'
    (frame,) = inbox(old).frames
    assert frame.payload.decode() == (
        f'{{"topic":"{TOPIC}","event":"broadcast","ref":null,"payload":{payload}}}'
    )
    assert inbox(sender).writes == []


def test_who_wants_its_own_broadcasts_gets_them(loop: Loop) -> None:
    sender, other = loop.join(hears_itself=True), loop.join()
    loop.send(1, sender)
    loop.turns()
    assert inbox(sender).payloads() == inbox(other).payloads() == [1]


def test_what_no_member_sent_goes_to_all(loop: Loop) -> None:
    members = [loop.join(), loop.join()]
    loop.send(1)
    loop.turns()
    assert [inbox(member).payloads() for member in members] == [[1], [1]]


def test_rooms_do_not_hear_each_other(loop: Loop) -> None:
    here, there = loop.join(), loop.join(RoomName("realtime:room:2"))
    loop.send(1, room=RoomName("realtime:room:2"))
    loop.send(2, room=RoomName("realtime:nobody"))
    loop.turns()
    assert (inbox(here).writes, inbox(there).payloads()) == ([], [1])


def test_public_and_private_members_of_a_topic_never_hear_each_other(loop: Loop) -> None:
    public, private = loop.join(), loop.join(PRIVATE)
    assert (loop.rooms.size(ROOM), loop.rooms.size(PRIVATE)) == (1, 1)
    loop.send("public")
    loop.send("private", room=PRIVATE)
    loop.send("by a private member", private, PRIVATE)
    loop.send("by a public member", public)
    loop.turns()
    assert (inbox(public).payloads(), inbox(private).payloads()) == (["public"], ["private"])
    loop.rooms.leave(public)
    loop.send("nobody's")
    loop.send("private again", room=PRIVATE)
    loop.turns()
    assert inbox(private).payloads() == ["private", "private again"]
    assert loop.bus.told == [
        *(("+", ROOM), ("+", PRIVATE)),
        *((ROOM, "m"), (PRIVATE, "m"), (PRIVATE, "m"), (ROOM, "m")),
        *(("-", ROOM), (ROOM, "m"), (PRIVATE, "m")),
    ]


def test_a_member_that_does_not_hear_may_send_and_may_hear_later(loop: Loop) -> None:
    deaf, other = loop.join(hears=False, hears_itself=True), loop.join()
    loop.send(1, deaf)
    loop.send(2, other)
    loop.turns()
    assert (inbox(deaf).writes, inbox(other).payloads()) == ([], [1])
    assert loop.rooms.size(ROOM) == 2
    loop.rooms.leave(other)
    loop.rooms.hear(deaf)
    loop.rooms.hear(deaf)
    loop.send(3)
    loop.turns()
    assert inbox(deaf).payloads() == [3]
    loop.rooms.leave(deaf)
    loop.rooms.hear(deaf)
    assert loop.rooms.stats().members == loop.rooms.size(ROOM) == 0
    silent = loop.join(hears=False)
    loop.rooms.leave(silent)
    assert loop.rooms.stats().rooms == 0


def from_database(number: int) -> Broadcast:
    return Broadcast("m", b"%d" % number, meta=b'{"id":"%d"}' % number)


def test_what_comes_while_stored_messages_are_read_is_held_and_nothing_comes_twice(
    loop: Loop,
) -> None:
    outbox = Inbox()
    hold = loop.rooms.hold(PRIVATE, outbox)
    other = loop.join(PRIVATE)
    # 2 and 3 were stored before they came; 4 comes after the member has joined.
    for number in (2, 3, 5):
        loop.rooms.publish([(PRIVATE, from_database(number))])
    own = Member(PRIVATE, V2, outbox, takes_bytes=True, hears_itself=False)
    loop.rooms.publish([(PRIVATE, Broadcast("m", b"0"))], own)
    loop.turns()
    hold.stored = [from_database(number) for number in (1, 2, 3, 4)]
    member = Member(
        PRIVATE, V2, outbox, takes_bytes=True, hears_itself=False, replayed=hold.metas()
    )
    loop.rooms.join(member)
    hold.drop()
    hold.drop()
    got = [(one.payload, b"replayed" in one.meta) for one in hold.broadcasts()]
    assert got == [(b"1", True), (b"2", True), (b"3", True), (b"4", True), (b"5", False)]
    for number in (4, 6, 4):
        loop.rooms.publish([(PRIVATE, from_database(number))])
    loop.turns()
    # What is stored once comes once with the stream: after that, it would be another.
    assert inbox(member).payloads() == [6, 4]
    assert inbox(other).payloads() == [2, 0, 3, 5, 4, 6, 4]
    loop.rooms.leave(member)
    loop.rooms.leave(other)
    assert loop.rooms.stats().rooms == 0


def test_who_leaves_before_a_stored_message_is_written_does_not_get_it(loop: Loop) -> None:
    stored = from_database(1)
    has_it = Member(
        PRIVATE, V2, Inbox(), takes_bytes=True, hears_itself=False, replayed=[stored.meta]
    )
    loop.rooms.join(has_it)
    stays, leaves = loop.join(PRIVATE), loop.join(PRIVATE)
    dispatch = Dispatch(lambda: 0.0)
    for members, frame in loop.rooms.frames(PRIVATE, stored):
        dispatch.add(members, frame)
    loop.rooms.leave(leaves)
    assert list(dispatch.hand_out()) == []
    assert inbox(stays).payloads() == [1]
    assert inbox(leaves).frames == inbox(has_it).frames == []


def test_a_hold_is_bounded_and_leaves_nothing_behind(
    loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_holds, "MAX_HELD_BYTES", 1000)
    hold = loop.rooms.hold(ROOM, Inbox())
    assert loop.rooms.size(ROOM) == 1
    for _ in range(3):
        loop.send(1)
    loop.turns()
    assert (len(hold.held), hold.is_full) == (3, False)
    loop.send(1)
    loop.turns()
    assert (hold.held, hold.is_full) == ([], True)
    hold.drop()
    assert (loop.rooms.size(ROOM), loop.rooms.stats().rooms) == (0, 0)


def test_bytes_go_to_those_who_can_read_them(loop: Loop) -> None:
    sender, new, old = loop.join(), loop.join(), loop.join(vsn="1.0.0")
    careful = loop.join(takes_bytes=False)
    loop.rooms.publish([(ROOM, Broadcast("bin", b"\1\2\xff", is_json=False))], sender)
    loop.turns()
    (frame,) = inbox(new).frames
    assert isinstance(frame, BinaryFrame)
    assert frame.payload == b"\4\x0d\3\0\0realtime:roombin\1\2\xff"
    assert inbox(old).writes == inbox(careful).writes == inbox(sender).writes == []


def test_all_of_one_turn_is_one_write_in_one_order(loop: Loop) -> None:
    ann, bob, cat = loop.join(), loop.join(), loop.join()
    for number in range(6):
        loop.send(number, (ann, bob)[number % 2])
    assert inbox(cat).writes == []
    loop.turns()
    assert [inbox(one).payloads() for one in (cat, ann, bob)] == [
        [0, 1, 2, 3, 4, 5],
        [1, 3, 5],
        [0, 2, 4],
    ]
    assert [len(inbox(one).writes) for one in (ann, bob, cat)] == [1, 1, 1]


def test_an_outbox_in_several_rooms_gets_one_write_for_each(loop: Loop) -> None:
    ann = loop.join()
    there = Member(OTHER, V2, ann.outbox, takes_bytes=True, hears_itself=False)
    loop.rooms.join(there)
    bob = loop.join(OTHER)
    loop.send(1)
    loop.send(2, bob, room=OTHER)
    loop.send(3, there, room=OTHER)
    loop.send(4)
    loop.turns()
    assert inbox(ann).payloads() == [1, 4, 2]
    assert len(inbox(ann).writes) == 2
    assert inbox(bob).payloads() == [3]


def test_done_means_that_all_members_have_been_written_to(loop: Loop) -> None:
    member = loop.join()
    seen: list[Any] = []
    broadcasts = [(ROOM, Broadcast("m", b"1")), (ROOM, Broadcast("m", b"2"))]
    loop.rooms.publish(broadcasts, done=lambda _: seen.extend(inbox(member).payloads()))
    assert seen == []
    loop.turns()
    assert seen == [1, 2]


def test_who_left_gets_nothing_more_and_nothing_is_kept_of_a_room(loop: Loop) -> None:
    stays, leaves = loop.join(), loop.join()
    assert loop.rooms.stats() == RoomStats(rooms=1, members=2, broadcasts=0)
    loop.send(1)
    loop.rooms.leave(leaves)
    loop.rooms.leave(leaves)
    loop.turns()
    assert (inbox(stays).payloads(), inbox(leaves).writes) == ([1], [])
    loop.rooms.leave(stays)
    assert loop.rooms.stats() == RoomStats(rooms=0, members=0, broadcasts=1)
    assert loop.rooms.size(ROOM) == 0
    loop.send(2)
    loop.turns()
    assert inbox(stays).payloads() == [1]


def test_the_bus_hears_of_rooms_and_of_what_is_published_in_order(loop: Loop) -> None:
    ann, bob = loop.join(), loop.join()
    loop.send(1, ann, event="a")
    loop.send(1, bob, event="b")
    loop.rooms.leave(ann)
    loop.rooms.leave(bob)
    assert loop.bus.told == [("+", ROOM), (ROOM, "a"), (ROOM, "b"), ("-", ROOM)]


def ticking(step: float) -> Callable[[], float]:
    times: Iterator[float] = (number * step for number in count())
    return lambda: next(times)


def test_others_have_their_turn_while_many_are_written_to() -> None:
    loop = Loop(ticking(0.002))
    members = [loop.join() for _ in range(50)]
    loop.send("x" * 40_000)
    loop.send(1)
    assert loop.turn()
    reached = sum(bool(inbox(member).writes) for member in members)
    assert 0 < reached < 50
    # Who comes meanwhile gets what is not being written yet; who goes gets nothing more.
    loop.rooms.leave(members[-1])
    late = loop.join()
    loop.send(2)
    assert loop.turns() > 5
    assert inbox(members[-1]).writes == []
    assert inbox(late).payloads() == [1, 2]
    for member in members[:-1]:
        assert inbox(member).payloads() == ["x" * 40_000, 1, 2]


def test_slow_members_are_not_waited_for() -> None:
    """All of these outboxes say that they are behind."""
    loop = Loop()
    member = loop.join()
    for _ in range(20):
        loop.send("x" * 60_000)
    assert loop.turns() == 1
    assert len(inbox(member).frames) == 20


def test_what_waits_is_bounded(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_turns, "MAX_WAITING_BYTES", 100)
    member = loop.join()
    # One may be larger.
    assert loop.send("x" * 150)
    assert not loop.send(1)
    loop.turns()
    # As much as a sender has waiting is left for others.
    assert loop.send("x" * 40)
    assert not loop.send("x" * 10)
    assert loop.send("y" * 40, member)
    assert not loop.send(1, member)
    assert not loop.send("z" * 20, loop.join())
    assert loop.send("z", loop.join())
    loop.turns()
    assert loop.send("x" * 40)
    loop.turns()
    assert inbox(member).payloads() == ["x" * 150, "x" * 40, "z", "x" * 40]


def test_after_a_failure_the_rooms_go_on(loop: Loop) -> None:
    member = loop.join()

    def fail(problem: BroadcastReason | None) -> None:
        raise ZeroDivisionError

    loop.rooms.publish([(ROOM, Broadcast("m", b"1"))], done=fail)
    with pytest.raises(ZeroDivisionError):
        loop.turns()
    loop.send(2)
    loop.turns()
    assert inbox(member).payloads() == [1, 2]


def test_text_is_rendered_once_for_all_of_one_version(loop: Loop) -> None:
    first, second = loop.join(), loop.join()
    loop.send(1)
    loop.turns()
    assert inbox(first).frames[0] is inbox(second).frames[0]
    assert isinstance(inbox(first).frames[0], TextFrame)
