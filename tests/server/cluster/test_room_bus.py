"""Rooms whose members are at several processes, on carriers that are lists."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from realtime_server.cluster.carrier import NotSent
from realtime_server.cluster.room_bus import RoomBus
from realtime_server.cluster.room_messages import broadcast_subject
from realtime_server.fanout import room_turns
from realtime_server.fanout.room import Member
from realtime_server.fanout.room_stats import BusStats
from realtime_server.fanout.rooms import Rooms
from realtime_server.phoenix.broadcasts import Broadcast, RoomName
from realtime_server.phoenix.reasons import BroadcastReason
from realtime_server.phoenix.serializers import SERIALIZERS
from tests.server.cluster.carriers import Wire, Wires
from tests.server.fanout.test_rooms import Inbox

ROOM = RoomName("realtime:room")
PRIVATE = RoomName(ROOM.topic, is_private=True)
ONE = Broadcast("m", b"1")


class Node:
    """A process."""

    def __init__(self, wires: Wires, name: int) -> None:
        self.wire = Wire(wires)
        self.bus = RoomBus(self.wire, bytes([name] * 8))
        self.wire.begin(self.bus.take)
        self.rooms = Rooms(self.bus, later=self._later, clock=lambda: 0.0)
        self._calls: list[Callable[[], None]] = []

    def _later(self, seconds: float, call: Callable[[], None]) -> None:
        self._calls.append(call)

    def turn(self) -> None:
        calls, self._calls = self._calls, []
        for call in calls:
            call()

    def member(self, room: RoomName = ROOM, *, hears_itself: bool = False) -> tuple[Member, Inbox]:
        inbox = Inbox()
        member = Member(
            room,
            SERIALIZERS["2.0.0"],
            inbox,
            takes_bytes=True,
            hears_itself=hears_itself,
        )
        self.rooms.join(member)
        return member, inbox


@pytest.fixture
def nodes() -> list[Node]:
    wires = Wires()
    return [Node(wires, name) for name in range(3)]


def test_members_at_other_processes_hear_it_in_the_order_sent(nodes: list[Node]) -> None:
    here, there, elsewhere = nodes
    sender, own = here.member()
    _, heard = there.member()
    _, private = there.member(PRIVATE)
    _, other = elsewhere.member(RoomName("realtime:other"))
    for number in range(5):
        broadcast = Broadcast("m", str(number).encode())
        assert here.rooms.publish([(ROOM, broadcast)], sender) is None
    for node in nodes:
        node.turn()
    assert heard.payloads() == [0, 1, 2, 3, 4]
    assert own.frames == private.frames == other.frames == []
    assert here.bus.stats() == BusStats(sent=5)
    assert there.bus.stats() == BusStats(received=5)
    here.rooms.publish([(PRIVATE, ONE)], sender)
    there.turn()
    assert (private.payloads(), heard.payloads()) == ([1], [0, 1, 2, 3, 4])
    # A message of another process goes on no further.
    assert there.rooms.stats().broadcasts == elsewhere.bus.stats().received == 0


def test_a_room_is_listened_to_while_it_has_members(nodes: list[Node]) -> None:
    here = nodes[0]
    first, _ = here.member()
    second, _ = here.member()
    assert here.wire.subjects == {broadcast_subject(ROOM)}
    here.rooms.leave(first)
    assert here.wire.subjects == {broadcast_subject(ROOM)}
    here.rooms.leave(second)
    assert here.wire.subjects == set()


@pytest.mark.parametrize(
    ("problem", "reason"),
    [(NotSent.AWAY, BroadcastReason.AWAY), (NotSent.FULL, BroadcastReason.BEHIND)],
)
def test_who_asks_is_told_that_others_did_not_get_it(
    nodes: list[Node], problem: NotSent, reason: BroadcastReason
) -> None:
    here = nodes[0]
    sender, heard = here.member(hears_itself=True)
    here.wire.problem = problem
    told: list[BroadcastReason | None] = []
    assert here.rooms.publish([(ROOM, ONE)], sender, told.append) is None
    here.turn()
    here.wire.problem = None
    here.rooms.publish([(ROOM, ONE)], sender, told.append)
    here.turn()
    assert told == [reason, None]
    assert heard.payloads() == [1, 1]
    assert here.bus.stats() == BusStats(sent=1, lost=1)


def test_of_a_batch_the_answer_is_that_of_its_worst_part(nodes: list[Node]) -> None:
    here = nodes[0]
    told: list[BroadcastReason | None] = []

    def send(subject: str, data: bytes) -> NotSent | None:
        return NotSent.AWAY if subject == broadcast_subject(ROOM) else None

    here.wire.send = send  # type: ignore[method-assign]
    batch = [(ROOM, ONE), (RoomName("realtime:other"), ONE)]
    here.rooms.publish(batch, done=told.append)
    here.turn()
    assert told == [BroadcastReason.AWAY]


def test_what_is_too_large_for_the_others_goes_to_nobody(nodes: list[Node]) -> None:
    here = nodes[0]
    sender, heard = here.member(hears_itself=True)
    large = Broadcast("m", b'"' + b"x" * here.wire.max_bytes + b'"')
    assert here.rooms.publish([(ROOM, ONE), (ROOM, large)], sender) is (
        BroadcastReason.TOO_LARGE_TO_CARRY
    )
    here.turn()
    assert heard.frames == []


def test_what_others_send_is_bounded_while_it_waits_to_be_written(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_turns, "MAX_WAITING_BYTES", 8)
    here, there = nodes[:2]
    _, heard = there.member()
    for _ in range(5):
        here.rooms.publish([(ROOM, ONE)])
        here.turn()
    there.turn()
    assert heard.payloads() == [1, 1]
    assert there.bus.stats() == BusStats(received=2, lost=3)


def test_a_process_that_floods_leaves_a_share_and_turns_for_the_others(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room_turns, "MAX_WAITING_BYTES", 8)
    flooding, quiet, there = nodes
    _, heard = there.member()
    for _ in range(5):
        flooding.rooms.publish([(ROOM, ONE)])
        flooding.turn()
    quiet.rooms.publish([(ROOM, Broadcast("m", b"2"))])
    there.turn()
    assert heard.payloads() == [1, 2, 1]
