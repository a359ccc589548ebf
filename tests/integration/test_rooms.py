"""Broadcast over real sockets: by WebSocket and by HTTP, and what strangers may send."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from realtime_server.net import listener
from realtime_server.server import RealtimeServer
from tests.integration.test_stream_http import NOWHERE, exchange, raw
from tests.proxy import Proxy
from tests.server_helpers import PhoenixClient, Vsn, dev_config, open_client

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

TOPIC = "realtime:room"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def port() -> AsyncIterator[int]:
    config = dev_config(NOWHERE, HANDSHAKE_TIMEOUT="1000", MAX_FRAME_BYTES="70000")
    async with RealtimeServer(config) as server:
        yield server.port


@contextlib.asynccontextmanager
async def member(port: int, vsn: Vsn = "2.0.0", **broadcast: bool) -> AsyncIterator[PhoenixClient]:
    async with open_client(port, vsn) as client:
        config = {"config": {"broadcast": broadcast}}
        await client.send(TOPIC, "phx_join", config, ref="1", join_ref="1")
        answer = client.reply(TOPIC, {"postgres_changes": []}, join_ref="1")
        assert await client.receive() == answer
        yield client


def heard(client: PhoenixClient, payload: Any, event: str = "m") -> Any:
    broadcast = {"type": "broadcast", "event": event, "payload": payload}
    return client.frame(TOPIC, "broadcast", broadcast)


def post(body: bytes, *headers: bytes, path: bytes = b"/api/broadcast/room/events/m") -> bytes:
    lines = [b"POST " + path + b" HTTP/1.1", b"Host: localhost", *headers]
    if not any(line.lower().startswith((b"content-length", b"transfer-")) for line in headers):
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


async def test_members_of_both_versions_hear_what_any_of_them_says(port: int) -> None:
    async with member(port, ack=True) as new, member(port, "1.0.0") as old:
        message = {"type": "broadcast", "event": "m", "payload": {"x": [1]}}
        await new.send(TOPIC, "broadcast", message, ref="2", join_ref="1")
        assert await old.receive() == heard(old, {"x": [1]})
        assert await new.receive() == new.reply(TOPIC, {}, ref="2", join_ref="1")
        await old.send(TOPIC, "broadcast", message, ref="2", join_ref="1")
        assert await new.receive() == heard(new, {"x": [1]})
        assert await old.drain() == await new.drain() == []


async def test_bytes_come_as_they_were_sent(port: int) -> None:
    data = bytes(range(256)) * 200
    async with member(port) as client:
        request = post(data, b"Content-Type: application/octet-stream")
        assert status(await exchange(port, request)) == 202
        async with asyncio.timeout(30):
            frame = await client.websocket.recv()
        assert frame == b"\4\x0d\1\0\0realtime:roomm" + data


async def test_requests_are_heard_in_their_order(port: int) -> None:
    async with member(port) as client:
        for number in range(3):
            messages = [
                {"topic": "room", "event": "m", "payload": {"n": [number, place]}}
                for place in range(3)
            ]
            body = json.dumps({"messages": messages}).encode()
            assert status(await exchange(port, post(body, path=b"/api/broadcast"))) == 202
        frames = [await client.receive() for _ in range(9)]
        numbers = [frame[4]["payload"]["n"] for frame in frames]
        assert numbers == [[number, place] for number in range(3) for place in range(3)]


async def test_a_chunked_body_is_read(port: int) -> None:
    request = post(b"2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n", b"Transfer-Encoding: chunked")
    async with member(port) as client:
        for pieces in ([request], [request[:50], request[50:-8], request[-8:]]):
            assert status(await exchange(port, *pieces)) == 202
            assert await client.receive() == heard(client, [1])


@pytest.mark.parametrize(
    ("request_bytes", "expected"),
    [
        (post(b"{"), 400),
        (post(b"1" * 71_000), 413),
        (post(b"", b"Content-Length: 71000"), 413),
        (post(b"zz\r\n", b"Transfer-Encoding: chunked"), 400),
        (post(b"", b"Content-Length: x"), 400),
        (post(b"1", path=b"/api/broadcast/%ff/events/m"), 400),
        (post(b"1", path=b"/api/broadcast/room/event/m"), 404),
        (post(b"1", b"Content-Type: text/plain"), 415),
        (post(b"{}", path=b"/realtime/v1/api/broadcast"), 422),
        (post(b"1", path=b"/api/broadcast/room/events/m?private=true"), 403),
        (b"GET /api/broadcast HTTP/1.1\r\nHost: localhost\r\n\r\n", 405),
        (b"OPTIONS /api/broadcast HTTP/1.1\r\nHost: localhost\r\n\r\n", 204),
    ],
)
async def test_what_cannot_be_sent_reaches_nobody(
    port: int, request_bytes: bytes, expected: int
) -> None:
    async with member(port) as client:
        answer = await exchange(port, request_bytes)
        assert status(answer) == expected, answer
        assert await client.drain() == []


async def test_bodies_that_lie_or_crawl_are_given_up(port: int) -> None:
    """All at the same time: each waits for HANDSHAKE_TIMEOUT at most."""
    head = post(b"1", b"Content-Length: 2")
    async with member(port) as client:

        async def crawl() -> bytes:
            async with raw(port) as (reader, writer):
                writer.write(post(b"[1", b"Content-Length: 60000"))
                received = asyncio.ensure_future(reader.read(65536))
                while not received.done():
                    writer.write(b" ")
                    await asyncio.wait({received}, timeout=0.05)
                return received.result()

        slow, crawling, short = await asyncio.gather(
            exchange(port, head), crawl(), exchange(port, head, end=True)
        )
        assert [status(answer) for answer in (slow, crawling, short)] == [408, 408, 400]
        assert b"HANDSHAKE_TIMEOUT" in slow
        # What comes behind the length is no part of it.
        assert status(await exchange(port, post(b"1] garbage", b"Content-Length: 1"))) == 202
        assert await client.receive() == heard(client, 1)
        assert await client.drain() == []


async def test_a_client_that_goes_away_leaves_its_room(port: int) -> None:
    async with member(port) as stays:
        async with member(port):
            pass
        assert status(await exchange(port, post(b"7"))) == 202
        assert await stays.receive() == heard(stays, 7)


async def test_broadcast_can_be_turned_off() -> None:
    async with RealtimeServer(dev_config(NOWHERE, BROADCAST="false")) as server:
        async with member(server.port, ack=True) as client:
            await client.send(TOPIC, "broadcast", {"event": "m"}, ref="2", join_ref="1")
            answer = await client.receive()
            told = {
                "error": "broadcast_disabled",
                "reason": "BroadcastDisabled: this server has no broadcast",
            }
            assert answer == client.reply(TOPIC, told, status="error", ref="2", join_ref="1")
        assert status(await exchange(server.port, post(b"1"))) == 503


async def test_members_whose_network_is_cut_leave_together_within_the_pings_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # As from the websockets library, but sooner.
    pinging = partial(listener.serve, ping_interval=0.3, ping_timeout=0.3)
    monkeypatch.setattr(listener, "serve", pinging)
    keys = {f"cut {number}" for number in range(6)}

    async def present(port: int, key: str) -> PhoenixClient:
        client = await stack.enter_async_context(open_client(port, "2.0.0"))
        config = {"broadcast": {}, "presence": {"key": key, "enabled": True}}
        await client.send(TOPIC, "phx_join", {"config": config}, ref="1", join_ref="1")
        track = {"type": "presence", "event": "track", "payload": {}}
        await client.send(TOPIC, "presence", track, ref="2", join_ref="1")
        return client

    config = dev_config(NOWHERE, PRESENCE_INTERVAL="600")
    async with (
        RealtimeServer(config) as server,
        Proxy() as proxy,
        contextlib.AsyncExitStack() as stack,
    ):
        proxy.lead_to(f"host=127.0.0.1 port={server.port}")
        stays = await present(server.port, "stays")
        await asyncio.gather(*(present(proxy.port, key) for key in keys))
        seen: set[str] = set()
        while seen != {"stays", *keys}:
            *_, event, told = await stays.receive()
            seen |= {*(told if event == "presence_state" else told.get("joins", ()))}
        proxy.stall()
        left: list[set[str]] = []
        async with asyncio.timeout(10):
            while keys != {key for some in left for key in some}:
                *_, event, told = await stays.receive()
                assert (event, told["joins"]) == ("presence_diff", {})
                left.append({*told["leaves"]})
        # Though their pings are a moment apart.
        assert left == [keys]
        # What is sent to the room reaches who is left.
        assert status(await exchange(server.port, post(b"7"))) == 202
        assert await stays.receive() == heard(stays, 7)
        page = await exchange(server.port, b"GET /metrics HTTP/1.0\r\n\r\n")
        assert b"realtime_room_members 1.0" in page
        proxy.flow()
