"""Clients that broadcast to each other, from frame to frame. No network."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from realtime_server.fanout import room_turns
from realtime_server.fanout.bus import LocalBus
from realtime_server.fanout.rooms import Rooms
from realtime_server.fanout.turns import call_later
from realtime_server.net import stream_notices
from realtime_server.phoenix.broadcasts import RoomName
from tests.server.net.test_connection import Client, open_connection
from tests.waiting import eventually

DATA = Path(__file__).parents[2] / "data" / "broadcast_frames.jsonl"
TOPIC = "realtime:room"


def make_rooms() -> Rooms:
    return Rooms(LocalBus(), later=call_later, clock=time.perf_counter)


def received(client: Client) -> list[Any]:
    """Return the frames that a client got: JSON of text frames, bytes of binary ones."""
    reader = StreamReader()
    reader.feed_data(client.websocket.transport.sent())
    found: list[Any] = []
    while reader.buffer:
        try:
            next(Frame.parse(reader.read_exact, mask=False))
        except StopIteration as stop:
            frame: Frame = stop.value
        data = bytes(frame.data)
        found.append(json.loads(data) if frame.opcode is Opcode.TEXT else data)
    return found


async def push(client: Client, *frames: str | bytes) -> None:
    for frame in frames:
        client.websocket.incoming.put_nowait(frame)
    await client.settle()


def v2(event: str, payload: Any, ref: str = "2", topic: str = TOPIC) -> str:
    return json.dumps(["1", ref, topic, event, payload])


async def join(client: Client, **broadcast: Any) -> None:
    await push(client, v2("phx_join", {"config": {"broadcast": broadcast}}, "1"))
    (answer,) = received(client)
    assert answer[4]["status"] == "ok"


def broadcast(payload: Any, event: str = "m") -> dict[str, Any]:
    return {"type": "broadcast", "event": event, "payload": payload}


def heard(payload: Any, event: str = "m") -> list[Any]:
    return [None, None, TOPIC, "broadcast", broadcast(payload, event)]


def reply(status: str, response: Any, ref: str = "2") -> list[Any]:
    return ["1", ref, TOPIC, "phx_reply", {"status": status, "response": response}]


def kind_3(payload: bytes, encoding: int = 1, metadata: bytes = b"", event: str = "m") -> bytes:
    parts = [b"1", b"2", TOPIC.encode(), event.encode(), metadata]
    return bytes([3, *map(len, parts), encoding]) + b"".join(parts) + payload


# What stock clients send, as it was recorded, and what the original answers.


def scenarios() -> dict[tuple[str, str], list[dict[str, Any]]]:
    found = defaultdict(list)
    for line in DATA.read_text(encoding="utf-8").splitlines():
        frame = json.loads(line)
        found[frame["client"], frame["scenario"]].append(frame)
    return found


def expected(frame: dict[str, Any]) -> Any:
    """Return what this server sends where the original sends a frame; None: nothing."""
    means = frame.get("means")
    if means is not None:
        if means["encoding"] == "bytes":
            return bytes.fromhex(frame["hex"])
        # JSON goes out as text, which all clients read.
        told = broadcast(means["payload"], means["event"])
        return [None, None, means["topic"], "broadcast", told]
    message = json.loads(frame["text"])
    event, payload = (
        (message["event"], message["payload"]) if isinstance(message, dict) else message[3:]
    )
    if event == "broadcast":
        if "event" not in payload:
            return None
        # Nothing else of a push goes on, and a payload is always there.
        known = {name: payload[name] for name in ("type", "event", "payload") if name in payload}
        known = {"payload": {}, **known}
        if isinstance(message, dict):
            return {**message, "payload": known}
        return [*message[:4], known]
    if event == "presence_state":
        return None
    if isinstance(message, list) and message[:2] == ["3", "5"]:
        told = {
            "error": "invalid_payload",
            "reason": "a broadcast is an object with a string event, in valid Unicode",
        }
        return [*message[:4], {"status": "error", "response": told}]
    return message


KIND_0 = [
    *("3", "6", "realtime:room:x", "phx_reply"),
    {
        "status": "error",
        "response": {
            "error": "invalid_payload",
            "reason": "a binary push of kind 0 can be relayed to nobody; push an object, or kind 3",
        },
    },
]


@pytest.mark.parametrize(("client", "scenario"), sorted(scenarios()))
async def test_recorded_clients_get_what_they_got(client: str, scenario: str) -> None:
    frames = scenarios()[client, scenario]
    told: dict[str, list[Any]] = defaultdict(list)
    got: dict[str, list[Any]] = defaultdict(list)
    rooms = make_rooms()
    async with contextlib.AsyncExitStack() as stack:
        sockets: dict[str, Client] = {}
        for frame in frames:
            name = frame["conn"]
            match frame["dir"]:
                case "open":
                    vsn = frame["url"].partition("vsn=")[2]
                    opened = open_connection(rooms=rooms, vsn=vsn)
                    sockets[name] = await stack.enter_async_context(opened)
                case "c2s":
                    data = frame["text"] if "text" in frame else bytes.fromhex(frame["hex"])
                    await push(sockets[name], data)
                    if frame.get("means", {}).get("kind") == 0:
                        told[name].append(KIND_0)
                case "s2c":
                    if (message := expected(frame)) is not None:
                        told[name].append(message)
            for each, socket in sockets.items():
                got[each] += received(socket)
    assert {name: frames for name, frames in got.items() if frames} == told
    assert len(told) >= (1 if scenario == "ack_self" else 2)


# Acknowledgements.


async def test_a_broadcast_is_answered_where_that_was_asked_for() -> None:
    rooms = make_rooms()
    async with (
        open_connection(rooms=rooms, vsn="2.0.0") as asks,
        open_connection(rooms=rooms, vsn="2.0.0") as does_not,
    ):
        await join(asks, ack=True)
        await join(does_not)
        await push(asks, v2("broadcast", broadcast({"x": 1})))
        assert (received(asks), received(does_not)) == ([reply("ok", {})], [heard({"x": 1})])
        await push(does_not, v2("broadcast", broadcast(7)))
        assert (received(asks), received(does_not)) == ([heard(7)], [])


@pytest.fixture
def long_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what comes together in one turn: a busy machine may stand still for longer than one."""
    monkeypatch.setattr(room_turns, "_TURN", 60.0)


@pytest.mark.usefixtures("long_turns")
async def test_ones_own_comes_before_its_answer() -> None:
    async with open_connection(rooms=make_rooms(), vsn="2.0.0") as client:
        await join(client, ack=True, self=True)
        await push(client, v2("broadcast", broadcast(1), "2"), v2("broadcast", broadcast(2), "3"))
        assert received(client) == [
            heard(1),
            heard(2),
            reply("ok", {}, "2"),
            reply("ok", {}, "3"),
        ]


HOSTILE: list[tuple[str, str | bytes, str]] = [
    ("no object", v2("broadcast", [1]), "invalid_payload"),
    ("null", v2("broadcast", None), "invalid_payload"),
    ("no event", v2("broadcast", {"ids": 1}), "invalid_payload"),
    ("half a name", v2("broadcast", {"event": "\ud800"}), "invalid_payload"),
    ("no JSON", kind_3(b"{"), "invalid_payload"),
    ("NaN", kind_3(b"NaN"), "invalid_payload"),
    ("no UTF-8", kind_3(b'"\xff"'), "invalid_payload"),
    ("deep", kind_3(b"[" * 100_000 + b"]" * 100_000), "invalid_payload"),
    (
        "deep text",
        v2("broadcast", 0)[:-2] + '{"event":"m","payload":' + "[" * 990 + "]" * 990 + "}]",
        "invalid_payload",
    ),
    ("metadata", kind_3(b"1", metadata=b"[1]"), "invalid_payload"),
    ("persist", kind_3(b"1", metadata=b'{"persist":true}'), "persist_unavailable"),
    ("large", v2("broadcast", broadcast("x" * 1100)), "payload_size_exceeded"),
    ("large event", v2("broadcast", broadcast(1, "x" * 1100)), "payload_size_exceeded"),
    (
        "large frame",
        v2("broadcast", {"event": "m", "payload": 1, "junk": "x" * 330_000}),
        "payload_size_exceeded",
    ),
    ("large bytes", kind_3(b"x" * 1100, 0), "payload_size_exceeded"),
]


@pytest.mark.parametrize(
    ("frame", "code"), [case[1:] for case in HOSTILE], ids=[c[0] for c in HOSTILE]
)
async def test_what_cannot_be_sent_goes_to_nobody_and_the_channel_stays(
    frame: str | bytes, code: str
) -> None:
    rooms = make_rooms()
    # What is nested deeply is long.
    limits = {"max_payload_bytes": 1024} if len(frame) < 1500 else {}
    async with (
        open_connection(rooms=rooms, vsn="2.0.0", **limits) as sender,
        open_connection(rooms=rooms, vsn="2.0.0") as other,
    ):
        await join(sender, ack=True)
        await join(other)
        await push(sender, frame)
        (answer,) = received(sender)
        assert answer[:4] == ["1", "2", TOPIC, "phx_reply"]
        assert answer[4]["status"] == "error"
        assert answer[4]["response"]["error"] == code
        assert isinstance(answer[4]["response"]["reason"], str)
        assert received(other) == []
        assert sender.counted(f'realtime_broadcasts_refused_total{{code="{code}"}} 1.0')
        await push(sender, v2("broadcast", broadcast(1)))
        assert received(other) == [heard(1)]


KEPT = [
    '{"type":"broadcast","event":"m","payload":12345678901234567890.10}',
    '{"payload":{"b":1,"a":"\\ud800","a":2},"event":"m","ids":1,"meta":{"id":1}}',
]


@pytest.mark.parametrize("payload", KEPT)
async def test_a_payloads_bytes_are_kept(payload: str) -> None:
    rooms = make_rooms()
    async with (
        open_connection(rooms=rooms, vsn="2.0.0") as sender,
        open_connection(rooms=rooms) as other,
    ):
        await join(sender)
        await other.send("phx_join", TOPIC, {"config": {"broadcast": None}})
        await push(sender, f'["1","2","{TOPIC}","broadcast",{payload}]')
        data = other.websocket.transport.sent()
    kept = payload.split('"payload":')[1].split(',"event"')[0].rstrip("}")
    assert kept.encode() in data
    assert b"ids" not in data
    assert b"meta" not in data


async def test_half_a_character_ends_a_socket_in_anything_else() -> None:
    async with open_connection(rooms=make_rooms(), vsn="2.0.0") as client:
        await join(client)
        await push(client, v2("access_token", {"access_token": "\ud800"}))
        assert client.websocket.closed == (1007, "the message is not JSON")


# Limits.


async def test_what_is_delivered_counts_against_the_sender() -> None:
    rooms = make_rooms()
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(
                open_connection(rooms=rooms, vsn="2.0.0", max_deliveries_per_second=10)
            )
            for _ in range(4)
        ]
        for client in clients:
            await join(client, ack=True)
        sender = clients[0]
        pushes = [v2("broadcast", broadcast(number), str(number)) for number in range(5)]
        await push(sender, *pushes)
        answers = {frame[1]: frame[4] for frame in received(sender)}
        assert [answers[str(number)]["status"] for number in range(5)] == [
            *("ok", "ok"),
            *("error", "error", "error"),
        ]
        assert answers["2"]["response"] == {
            "error": "rate_limited",
            "reason": "more than 10 deliveries a second (MAX_DELIVERIES_PER_SECOND): each member "
            "of the room counts; wait",
        }
        assert received(clients[1]) == [heard(0), heard(1)]
        # Others have their own.
        await push(clients[1], v2("broadcast", broadcast(7)))
        assert received(clients[2])[-1] == heard(7)


async def test_what_waits_for_all_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room_turns, "MAX_WAITING_BYTES", 10)
    async with open_connection(rooms=make_rooms(), vsn="2.0.0") as client:
        await join(client, ack=True)
        await push(client, *(v2("broadcast", broadcast("x" * 9), ref) for ref in "23"))
        answers = {frame[1]: frame[4] for frame in received(client)}
        assert answers["2"]["status"] == "ok"
        assert answers["3"]["response"]["error"] == "rate_limited"
        assert "wait to be written" in answers["3"]["response"]["reason"]


async def test_refusals_are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with open_connection(rooms=make_rooms(), vsn="2.0.0") as client:
        await join(client)
        await push(client, *[v2("broadcast", None)] * 3)
        assert received(client) == []
        assert client.counted('realtime_broadcasts_refused_total{code="invalid_payload"} 3.0')
    assert sum("refused" in line for line in caplog.messages) == 1


# Members.


async def test_only_joins_with_config_make_members() -> None:
    rooms = make_rooms()
    async with (
        open_connection(rooms=rooms) as topic_client,
        open_connection(rooms=rooms, vsn="2.0.0") as sender,
    ):
        await topic_client.send("phx_join", TOPIC)
        await join(sender)
        await push(sender, v2("broadcast", broadcast(1)))
        assert topic_client.received() == []
        assert rooms.size(RoomName(TOPIC)) == 1


async def test_a_membership_ends_with_its_channel_and_with_its_connection() -> None:
    rooms = make_rooms()
    async with open_connection(rooms=rooms, vsn="2.0.0") as client:
        await join(client)
        await join(client)
        assert rooms.size(RoomName(TOPIC)) == 1
        await push(client, v2("phx_leave", {}))
        assert rooms.size(RoomName(TOPIC)) == 0
        received(client)
        await join(client)
        assert rooms.size(RoomName(TOPIC)) == 1
    await eventually(lambda: rooms.size(RoomName(TOPIC)) == 0)


async def test_a_push_of_an_earlier_membership_is_ignored() -> None:
    rooms = make_rooms()
    async with (
        open_connection(rooms=rooms, vsn="2.0.0") as sender,
        open_connection(rooms=rooms, vsn="2.0.0") as other,
    ):
        await join(sender, ack=True)
        await join(other)
        await push(sender, json.dumps(["0", "2", TOPIC, "broadcast", broadcast(1)]))
        assert (received(sender), received(other)) == ([], [])


@pytest.mark.usefixtures("long_turns")
async def test_pushes_that_came_together_go_out_together() -> None:
    rooms = make_rooms()
    async with (
        open_connection(rooms=rooms, vsn="2.0.0") as sender,
        open_connection(rooms=rooms, vsn="2.0.0") as other,
    ):
        await join(sender)
        await join(other)
        writes = 0
        transport = other.websocket.transport
        write = transport.write

        def count(data: bytes | bytearray | memoryview) -> None:
            nonlocal writes
            writes += 1
            write(data)

        transport.write = count  # type: ignore[method-assign]
        for times in range(1, 4):
            await push(sender, *(v2("broadcast", broadcast(number)) for number in range(10)))
            assert received(other) == [heard(number) for number in range(10)]
            assert writes == times


async def test_others_have_their_turn_while_one_floods() -> None:
    rooms = make_rooms()
    async with open_connection(rooms=rooms, vsn="2.0.0") as flooder:
        await join(flooder)
        for number in range(200):
            flooder.websocket.incoming.put_nowait(v2("broadcast", broadcast(number)))
        rounds = 0
        while not flooder.websocket.incoming.empty():
            await asyncio.sleep(0)
            rounds += 1
        assert rounds >= 200 / 20


async def test_others_have_their_turn_after_each_push_that_is_refused() -> None:
    rooms = make_rooms()
    async with open_connection(rooms=rooms, vsn="2.0.0", max_deliveries_per_second=1) as flooder:
        await join(flooder, ack=True)
        for number in range(50):
            flooder.websocket.incoming.put_nowait(v2("broadcast", broadcast(number)))
        answered = []
        while not flooder.websocket.incoming.empty():
            await asyncio.sleep(0)
            answered.append(len(received(flooder)))
        # The one that is taken is answered when it has been written.
        assert max(answered) <= 2
        assert sum(answered) >= 48


async def test_who_wants_no_bytes_gets_none() -> None:
    rooms = make_rooms()
    async with (
        open_connection(rooms=rooms, vsn="2.0.0") as sender,
        open_connection(rooms=rooms, vsn="2.0.0") as other,
    ):
        await join(sender, ack=True)
        await join(other, bytes=False)
        await push(sender, kind_3(b"\0\xff", 0))
        assert (received(sender), received(other)) == ([reply("ok", {})], [])


async def test_a_server_without_rooms_says_so() -> None:
    async with open_connection(vsn="2.0.0") as client:
        await join(client, ack=True)
        for frame in (v2("broadcast", broadcast(1)), kind_3(b"1"), kind_3(b"\xff", 0)):
            await push(client, frame)
            (answer,) = received(client)
            assert answer[4]["response"]["error"] == "broadcast_disabled"


# Whether the database is being read.


def system(status: str, message: str) -> list[Any]:
    told = {"channel": "room", "extension": "system", "status": status, "message": message}
    return [None, None, TOPIC, "system", told]


ESTABLISHED = system("ok", "Replication connection established")


async def test_a_channel_is_told_at_once_that_the_database_is_read() -> None:
    async with open_connection(rooms=make_rooms(), vsn="2.0.0") as client:
        config = {"config": {"broadcast": {"replication_ready": True}}}
        await push(client, v2("phx_join", config, "1"))
        assert received(client) == [reply("ok", {"postgres_changes": []}, "1"), ESTABLISHED]


async def test_a_channel_is_told_when_the_database_is_read() -> None:
    attached = asyncio.Event()
    async with open_connection(rooms=make_rooms(), vsn="2.0.0", attached=attached) as client:
        for topic in (TOPIC, "realtime:left"):
            await push(
                client,
                v2("phx_join", {"config": {"broadcast": {"replication_ready": True}}}, "1", topic),
            )
        await push(client, v2("phx_leave", {}, "2", "realtime:left"))
        assert ESTABLISHED not in received(client)
        attached.set()
        await client.settle()
        assert received(client) == [ESTABLISHED]


async def test_a_channel_ends_if_the_database_is_not_read_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream_notices, "_WITHIN", 0.01)
    rooms = make_rooms()
    async with open_connection(rooms=rooms, vsn="2.0.0", attached=asyncio.Event()) as client:
        config = {"config": {"broadcast": {"replication_ready": True}}}
        await push(client, v2("phx_join", config, "1"))
        found: list[Any] = []
        await eventually(lambda: found.extend(received(client)) or len(found) == 3)
        assert found == [
            reply("ok", {"postgres_changes": []}, "1"),
            system("error", "Replication connection was not established in time"),
            ["1", "1", TOPIC, "phx_close", {}],
        ]
        assert rooms.size(RoomName(TOPIC)) == 0


async def test_long_messages_of_many_clients_have_their_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("realtime_server.fanout.turns._SHARED_SLICE", 0.0)
    rooms = make_rooms()
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(open_connection(rooms=rooms, vsn="2.0.0"))
            for _ in range(8)
        ]
        for client in clients:
            await join(client)
        for client in clients:
            for payload in ("x" * 20_000, "short"):
                client.websocket.incoming.put_nowait(v2("broadcast", broadcast(payload)))
        counts = [rooms.stats().broadcasts]
        async with asyncio.timeout(10):
            while counts[-1] < 16:
                await asyncio.sleep(0)
                counts.append(rooms.stats().broadcasts)
    # One long message in each round of the event loop, and behind it its client's short one.
    assert max(after - before for before, after in itertools.pairwise(counts)) <= 2


async def test_what_others_send_is_answered_between_two_messages_that_take_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As if to read each long one took longer.
    monkeypatch.setattr("realtime_server.net.connection.SLICE", -1.0, raising=False)
    rooms = make_rooms()
    async with contextlib.AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(open_connection(rooms=rooms, vsn="2.0.0"))
            for _ in range(4)
        ]
        for client in clients:
            await join(client)
        for client in clients:
            for _ in range(2):
                client.websocket.incoming.put_nowait(v2("broadcast", broadcast("x" * 20_000)))
        read_in: list[int] = []
        async with asyncio.timeout(10):
            for number in itertools.count():
                before = rooms.stats().broadcasts
                await asyncio.sleep(0)
                read_in += [number] * (rooms.stats().broadcasts - before)
                if len(read_in) == 8:
                    break
    # One round to read what has come meanwhile, and one to answer it.
    assert min(later - one for one, later in itertools.pairwise(read_in)) == 3
