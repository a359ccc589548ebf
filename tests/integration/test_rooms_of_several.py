"""Rooms whose members are at several machines that share a NATS.

None of it needs the database.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from realtime_server.cluster import nats_carrier
from realtime_server.cluster.connection import NatsConnection
from realtime_server.cluster.room_messages import broadcast_subject, encode_broadcast
from realtime_server.phoenix.broadcasts import Broadcast, RoomName
from realtime_server.server import RealtimeServer
from tests.integration.test_rooms import TOPIC, heard, member, post, status
from tests.integration.test_stream_http import NOWHERE, exchange
from tests.nats_server import LATEST, NatsServer
from tests.server_helpers import PhoenixClient, dev_config
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

on_latest = pytest.mark.parametrize("nats", [LATEST], indirect=True, ids=["latest"])
JSON = b"Content-Type: application/json"
BYTES = b"Content-Type: application/octet-stream"


def settings(nats: NatsServer, name: str) -> dict[str, str]:
    return {"NATS_URL": nats.url, "SLOT_NAME": name, "CLUSTER_ROLE": "server"}


@contextlib.asynccontextmanager
async def machines(nats: NatsServer, name: str, **more: str) -> AsyncIterator[list[RealtimeServer]]:
    """Have two servers that share a NATS."""
    config = dev_config(NOWHERE, **settings(nats, name), **more)
    async with RealtimeServer(config) as one, RealtimeServer(config) as two:
        await reached(one)
        await reached(two)
        yield [one, two]


async def reached(server: RealtimeServer, *, is_away: bool = False) -> None:
    """Wait until a server reaches the others, or does so no more."""
    assert server.room_node is not None
    carrier: Any = server.room_node.carrier
    await eventually(lambda: carrier.is_away == is_away)


async def push(client: PhoenixClient, payload: Any, event: str = "m", ref: str = "2") -> None:
    message = {"type": "broadcast", "event": event, "payload": payload}
    await client.send(TOPIC, "broadcast", message, ref=ref, join_ref="1")


async def until_heard(listener: PhoenixClient, sender: PhoenixClient) -> None:
    """Wait until a member hears another one, whose server may just have been told of it."""
    async with asyncio.timeout(30):
        receiving = asyncio.ensure_future(listener.receive())
        while not receiving.done():
            await push(sender, "?")
            await asyncio.wait({receiving}, timeout=0.05)
    await push(sender, "now")
    while await listener.receive() != heard(listener, "now"):
        pass


@on_latest
async def test_members_at_two_servers_are_in_one_room(nats: NatsServer) -> None:
    async with machines(nats, "rooms_one") as (one, two):
        async with (
            member(one.port, ack=True) as sender,
            member(two.port, self=True) as new,
            member(two.port, "1.0.0") as old,
        ):
            await until_heard(new, sender)
            await old.drain()
            await sender.drain()
            for number in range(100):
                await push(sender, number, ref=str(number))
            for client in (new, old):
                for number in range(100):
                    assert await client.receive() == heard(client, number)
            # Once each, and to the sender only its answers.
            assert await old.drain() == await new.drain() == []
            assert await sender.drain() == [
                sender.reply(TOPIC, {}, ref=str(number), join_ref="1") for number in range(100)
            ]
            # By HTTP at a server where nobody is who hears it, or somebody.
            for port in (one.port, two.port):
                assert status(await exchange(port, post(b'{"x": 1}', JSON))) == 202
                for client in (sender, new, old):
                    assert await client.receive() == heard(client, {"x": 1})
            assert status(await exchange(one.port, post(b"\xff\0", BYTES))) == 202
            frame = await new.websocket.recv()
            assert isinstance(frame, bytes)
            assert frame.endswith(b"\xff\0")
            assert await old.drain() == []
        assert two.room_node is not None
        assert two.room_node.stats().strange == two.room_node.stats().lost == 0


@on_latest
async def test_what_strangers_publish_in_nats_is_counted_and_left(nats: NatsServer) -> None:
    async with machines(nats, "rooms_strange") as (one, two):
        config = dev_config(NOWHERE, **settings(nats, "rooms_strange"))
        assert two.room_node is not None
        async with (
            await NatsConnection.open(config, name="stranger") as stranger,
            member(one.port) as sender,
            member(two.port) as client,
        ):
            await until_heard(client, sender)
            room = RoomName(TOPIC)
            good = encode_broadcast(b"stranger", room, Broadcast("m", b"{}"))
            other = encode_broadcast(b"stranger", RoomName("realtime:2"), Broadcast("m", b"1"))
            private = encode_broadcast(b"stranger", RoomName(TOPIC, True), Broadcast("m", b"1"))
            nested = encode_broadcast(b"stranger", room, Broadcast("m", b"[" * 100_000))
            strange = [b"", b"{}", good[:-1], good + b',"ids":[1]', other, private, nested]
            subject = f"{config.stream_name}.rt.{broadcast_subject(room)}"
            for data in strange:
                await stranger.publish(subject, data)
            stranger.send(subject, good, headers={"x": "y"})
            assert await client.receive() == heard(client, {})
            assert await client.drain() == []
            assert two.room_node.stats().strange == len(strange)


async def test_while_nats_is_away_senders_are_told_and_members_here_hear_them(
    new_nats: Any, caplog: pytest.LogCaptureFixture
) -> None:
    nats = new_nats(more="max_payload: 40000")
    async with (
        machines(nats, "rooms_away") as (one, two),
        member(one.port, ack=True) as sender,
        member(one.port) as near,
        member(two.port) as far,
    ):
        await until_heard(far, sender)
        await near.drain()
        await sender.drain()
        # Larger than NATS takes: it goes to nobody.
        await push(sender, "x" * 50_000)
        answer = await sender.receive()
        assert answer[4]["response"]["error"] == "payload_size_exceeded"
        body = b'"' + b"x" * 50_000 + b'"'
        assert status(await exchange(one.port, post(body, JSON))) == 422
        assert await near.drain() == await far.drain() == []

        with nats.down():
            await reached(one, is_away=True)
            await push(sender, "away")
            answer = await sender.receive()
            assert answer[4]["status"] == "error"
            assert answer[4]["response"]["error"] == "other_servers_unavailable"
            assert status(await exchange(one.port, post(b"1", JSON))) == 503
            assert await near.receive() == heard(near, "away")
            assert await near.receive() == heard(near, 1)
        await reached(one)
        await reached(two)
        await until_heard(far, sender)
        # What was not handed over is gone.
        said = [record for record in caplog.records if "at this server alone" in record.message]
        assert len(said) == 2
        assert one.room_node is not None
        assert one.room_node.stats().lost == 2


async def test_a_nats_that_stands_still_holds_nobody_up(
    new_nats: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_carrier, "_STUCK", 3.0)
    nats = new_nats()
    async with (
        machines(nats, "rooms_slow", MAX_MESSAGES_PER_SECOND="100000") as (one, two),
        member(one.port, ack=True) as sender,
        member(one.port) as near,
        member(two.port) as far,
    ):
        await until_heard(far, sender)
        await near.drain()
        await sender.drain()
        nats.pause()
        try:
            codes: list[str] = []
            for number in range(150):
                await push(sender, f"{number} " + "x" * 200_000, ref=str(number))
                assert (await near.receive())[4]["payload"].startswith(f"{number} ")
                answer = (await sender.receive())[4]
                codes.append("" if answer["status"] == "ok" else answer["response"]["error"])
            # What NATS does not take waits up to a bound, and then is lost, which is said.
            assert {*codes} == {"", "other_servers_unavailable"}
            assert 16 * 2**20 / 200_000 <= codes.index("other_servers_unavailable") < 140
            await reached(one, is_away=True)
        finally:
            nats.resume()
        await reached(one)
        await reached(two)
        await until_heard(far, sender)
