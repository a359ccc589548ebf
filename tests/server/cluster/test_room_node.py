"""RoomNode: what comes to a process goes to its rooms, or to their presence, or nowhere."""

from __future__ import annotations

import asyncio
import logging

import pytest

from realtime_server.cluster.presence_messages import BEATS, Beat, Bye, encode_presence
from realtime_server.cluster.room_bus import RoomBus
from realtime_server.cluster.room_messages import broadcast_subject, encode_broadcast
from realtime_server.cluster.room_node import RoomNode
from realtime_server.cluster.shared_presence import SharedPresence
from realtime_server.fanout.presence import Presence, PresenceLimits
from realtime_server.fanout.room_stats import BusStats
from realtime_server.fanout.rooms import Rooms
from realtime_server.phoenix.broadcasts import Broadcast, RoomName
from tests.server.cluster.carriers import Wire, Wires

ROOM = RoomName("realtime:room")
NODE = b"elsewher"


class Broken(Wire):
    async def run(self) -> None:
        raise ZeroDivisionError


def make_node(wire: Wire) -> RoomNode:
    bus = RoomBus(wire, bytes(8))
    rooms = Rooms(bus, later=lambda *_: None, clock=lambda: 0.0)
    presence = Presence(
        rooms,
        PresenceLimits(interval=0.1, members=9, state_bytes=9999),
        later=lambda *_: None,
        clock=lambda: 0.0,
        new_ref=str,
    )
    return RoomNode(wire, bus, SharedPresence(presence, wire, bytes(8), 0.0), clock=lambda: 0.0)


def test_what_no_server_has_written_is_counted_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wire = Wire(Wires())
    node = make_node(wire)
    good = encode_broadcast(NODE, ROOM, Broadcast("m", b"1"))
    beat = encode_presence(Beat(NODE, 0, {}))
    with caplog.at_level(logging.WARNING, "realtime.rooms"):
        for data in (b"", b"{}", good[:-1], good + b"1}", good.replace(b"room", b"rooM")):
            wire.take(broadcast_subject(ROOM), data)
        for subject in (BEATS, "p.room", "strange"):
            wire.take(subject, beat[:-1])
    assert node.stats() == BusStats(strange=8)
    [record] = caplog.records
    assert "that no server has written is left" in record.getMessage()
    wire.take(broadcast_subject(ROOM), good)
    wire.take(BEATS, beat)
    wire.take(BEATS, encode_presence(Bye(NODE)))
    assert node.stats() == BusStats(received=3, strange=8)


@pytest.mark.asyncio
async def test_what_ends_a_carrier_ends_the_node() -> None:
    with pytest.raises(ZeroDivisionError):
        await make_node(Broken(Wires())).run()
    assert len(asyncio.all_tasks()) == 1
