"""Limits on real sockets: what meets one is told so and counted, and the others are served."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from realtime_server.server import RealtimeServer
from tests.server_helpers import DEADLINE, dev_config, open_client
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

NOWHERE = "host=127.0.0.1 port=1 dbname=none user=nobody"
UPGRADE = (
    b"GET /socket/websocket?%b HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n%b\r\n"
)
HANDSHAKE = UPGRADE % (b"", b"")

LIMITS = {
    "MAX_CONNECTIONS": "3",
    "MAX_CHANNELS": "2",
    "MAX_JOINS_PER_SECOND": "50",
    "MAX_MESSAGES_PER_SECOND": "100",
    "MAX_FRAME_BYTES": "4096",
    "MAX_PAYLOAD_BYTES": "1024",
    "MAX_HEADER_BYTES": "4096",
    "MAX_QUERY_BYTES": "2048",
    "HANDSHAKE_TIMEOUT": "1000",
    "ALLOWED_ORIGINS": '["https://app.example"]',
}
AT_ONCE: Any = {"config": {}}
"""A join that waits for no database."""


@pytest_asyncio.fixture(loop_scope="module")
async def server() -> AsyncIterator[RealtimeServer]:
    # Nothing is attempted a second time: there is no database.
    backoff = {"DB_RECONNECT_BACKOFF_MIN": "60000", "DB_RECONNECT_BACKOFF_MAX": "60000"}
    async with RealtimeServer(dev_config(NOWHERE, **backoff, **LIMITS)) as server:
        yield server


async def fetch(port: int, request: bytes) -> bytes:
    """Send a request; return what comes until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(DEADLINE):
        writer.write(request)
        answer = await reader.read()
    writer.close()
    return answer


async def metrics(port: int) -> dict[str, float]:
    answer = await fetch(port, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    head, _, body = answer.decode().partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 OK\r\n"), head
    lines = [line.rpartition(" ") for line in body.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def counted(port: int, limit: str) -> float:
    return (await metrics(port)).get(f'realtime_limits_total{{limit="{limit}"}}', 0.0)


def frame(payload: bytes, opcode: int = 1, fin: int = 0x80) -> bytes:
    """A client's frame; a mask of zeros changes nothing."""
    size = len(payload)
    if size < 126:
        head = bytes((fin | opcode, 0x80 | size))
    elif size < 65536:
        head = struct.pack("!BBH", fin | opcode, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", fin | opcode, 0x80 | 127, size)
    return head + bytes(4) + payload


# What the client is told, and what is counted.


async def test_a_connection_too_many_is_503_and_may_come_when_another_went(
    server: RealtimeServer,
) -> None:
    port = server.port
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_client(port)) for _ in range(3)]
        for request in (HANDSHAKE, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"):
            answer = await fetch(port, request)
            assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
            assert b"ConnectionRateLimitReached: 3 connections are open" in answer
        with pytest.raises(InvalidStatus) as caught:
            async with connect(f"ws://127.0.0.1:{port}/socket/websocket", proxy=None):
                pass
        assert caught.value.response.status_code == 503
        await clients[0].websocket.close()
        await eventually(lambda: server.open_connections < 3)
        assert await counted(port, "connections") == 3


@pytest.mark.parametrize("query", [b"vsn=1.0.0&apikey=" + b"x" * 2048, b"x" * 3000])
async def test_a_query_that_is_too_long_is_414(server: RealtimeServer, query: bytes) -> None:
    before = await counted(server.port, "query")
    answer = await fetch(server.port, UPGRADE % (query, b""))
    assert answer.startswith(b"HTTP/1.1 414 ")
    assert answer.endswith(b"The query is longer than 2048 bytes (MAX_QUERY_BYTES).\n")
    assert await counted(server.port, "query") == before + 1


async def test_a_head_that_is_too_long_is_431(server: RealtimeServer) -> None:
    answer = await fetch(server.port, UPGRADE % (b"", b"Cookie: " + b"x" * 4096 + b"\r\n"))
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert answer.endswith(b"is longer than 4096 bytes (MAX_HEADER_BYTES).\n")
    assert await counted(server.port, "header") == 1


async def test_a_slow_handshake_is_408(server: RealtimeServer) -> None:
    answer = await fetch(server.port, HANDSHAKE[:-1])
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b"did not come within 1000 ms (HANDSHAKE_TIMEOUT).\n")
    assert await counted(server.port, "handshake") == 1


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (b"https://app.example", b"101"),
        (b"https://evil.example", b"403"),
        (b"null", b"403"),
    ],
)
async def test_other_origins_are_403(server: RealtimeServer, origin: bytes, status: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    async with asyncio.timeout(DEADLINE):
        writer.write(UPGRADE % (b"", b"Origin: " + origin + b"\r\n"))
        head = await reader.readuntil(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 " + status)
    result = "ok" if status == b"101" else "origin"
    assert (await metrics(server.port))[f'realtime_handshakes_total{{result="{result}"}}'] == 1


async def test_a_topic_too_many_and_a_payload_too_large_are_refused(
    server: RealtimeServer,
) -> None:
    async with open_client(server.port) as client:
        for topic in ("realtime:1", "realtime:2"):
            await client.send(topic, "phx_join", AT_ONCE)
            assert await client.receive() == client.reply(topic, {"postgres_changes": []})
        await client.send("realtime:3", "phx_join", {})
        assert await client.receive() == client.refusal(
            "realtime:3",
            "ChannelRateLimitReached: this connection has joined 2 topics, the most it may "
            "(MAX_CHANNELS); leave some",
        )
        await client.send("realtime:3", "phx_join", {"x": "x" * 1024})
        assert await client.receive() == client.refusal(
            "realtime:3",
            "PayloadTooLarge: the payload is larger than 1024 bytes (MAX_PAYLOAD_BYTES)",
        )
        assert await counted(server.port, "channels") == 1
        assert await counted(server.port, "payload") == 1


async def test_joins_that_come_too_fast_are_refused(server: RealtimeServer) -> None:
    async with open_client(server.port) as client:
        text = json.dumps(client.frame("realtime:1", "phx_join", AT_ONCE, ref="1"))
        for _ in range(60):
            await client.send_raw(text)
        answers = [await client.receive() for _ in range(60)]
        refused = client.refusal(
            "realtime:1",
            "ClientJoinRateLimitReached: more than 50 joins a second (MAX_JOINS_PER_SECOND); wait",
        )
        joined = client.reply("realtime:1", {"postgres_changes": []})
        assert [answer for answer in answers if answer not in (joined, refused)] == []
        assert answers[:50] == [joined] * 50
        # On a busy machine they come more slowly, and all of them may be within the rate.
        assert await counted(server.port, "joins") == answers.count(refused)


async def flood(port: int, data: bytes) -> tuple[int, str]:
    """Send frames; return the close code and reason."""
    async with connect(f"ws://127.0.0.1:{port}/socket/websocket", proxy=None) as websocket:
        websocket.transport.write(data)
        with contextlib.suppress(ConnectionClosed):
            async with asyncio.timeout(DEADLINE):
                while True:
                    await websocket.recv()
        assert websocket.close_code is not None
        return websocket.close_code, websocket.close_reason or ""


HEARTBEAT = frame(b'{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}')


@pytest.mark.parametrize(
    "one",
    [
        HEARTBEAT,
        frame(b"", opcode=9),
        frame(b"x" * 125, opcode=10),
    ],
    ids=["heartbeats", "pings", "pongs"],
)
async def test_messages_that_come_too_fast_end_the_connection(
    server: RealtimeServer, one: bytes
) -> None:
    """One piece of data holds all of them, so the machine's speed does not matter."""
    assert await flood(server.port, one * 400) == (
        1008,
        "more than 100 messages a second (MAX_MESSAGES_PER_SECOND)",
    )
    assert await counted(server.port, "messages") == 1


async def test_fragments_are_counted_as_messages(server: RealtimeServer) -> None:
    fragments = frame(b"", fin=0) + frame(b"", opcode=0, fin=0) * 400
    assert (await flood(server.port, fragments))[0] == 1008


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(b"x" * 4097), 1009),
        # What only claims to be large need not arrive.
        (frame(b"x" * 10_000_000)[:14], 1009),
        (frame(b"x" * 4000, fin=0) + frame(b"x" * 4000, opcode=0), 1009),
        (frame(b"\xff\xfe"), 1007),
        (frame(b'{"topic":"\xc3\x28"}'), 1007),
        (frame(b"{"), 1007),
        (frame(b"[]"), 1008),
        (frame(b"\0" * 10, opcode=2), 1003),
        (frame(b"", opcode=3), 1002),
        (b"\x81\x05hello", 1002),
        (frame(b"", opcode=0), 1002),
        (frame(b"x" * 126, opcode=9), 1002),
    ],
)
async def test_what_is_no_message_closes_the_connection_with_the_code_that_fits(
    server: RealtimeServer, data: bytes, code: int
) -> None:
    assert (await flood(server.port, data))[0] == code
    closed = f'realtime_connections_closed_total{{code="{code}"}}'
    # The server notices the end a little later than the client.
    async with asyncio.timeout(DEADLINE):
        while (await metrics(server.port)).get(closed) != 1:
            pass


async def test_a_client_that_does_not_read_its_pongs_is_cut_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = dev_config(NOWHERE, OUTBOX_MAX_BYTES="65536", MAX_MESSAGES_PER_SECOND="1000000")
    async with RealtimeServer(config) as server:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, ("127.0.0.1", server.port))
        await loop.sock_sendall(sock, HANDSHAKE)
        ping = frame(b"x" * 125, opcode=9) * 500
        with contextlib.suppress(OSError):
            async with asyncio.timeout(DEADLINE):
                while server.metrics.outbox.slow_clients == 0:
                    await loop.sock_sendall(sock, ping)
        sock.close()
        assert server.metrics.outbox.slow_clients == 1
        (line,) = (one for one in caplog.messages if "is too slow" in one)
        assert line.endswith("bytes wait for it, and OUTBOX_MAX_BYTES is 65536; disconnected")
