"""One port for WebSockets and plain HTTP, and what strangers may send to it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import logging
from collections.abc import AsyncIterator
from importlib.resources import files

import attrs
import pytest
from websockets.asyncio.client import connect

from realtime_core import ServerError
from realtime_server.server import RealtimeServer
from tests.integration.conftest import Stage
from tests.server_helpers import DEADLINE, PhoenixClient, dev_config, open_client
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

PAGE = (files("realtime_server.net.inspector") / "page" / "index.html").read_bytes()

NOWHERE = "host=127.0.0.1 port=1 dbname=none user=nobody"
"""For servers that need no database to show what a test wants."""

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
UPGRADE = (
    b"GET /socket/websocket?vsn=1.0.0 HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: " + base64.b64encode(b"0123456789abcdef") + b"\r\n\r\n"
)
HEALTH_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 3\r\nconnection: close\r\ncache-control: no-store\r\n\r\n"
)
NOT_FOUND = (
    b"Not found. WebSocket clients connect to /socket/websocket or /realtime/v1/websocket; "
    b"with INSPECTOR=true a page at / shows changes as they come.\n"
)


@contextlib.asynccontextmanager
async def raw(
    port: int, host: str = "127.0.0.1"
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TCP connection."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        async with asyncio.timeout(DEADLINE):
            yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def exchange(port: int, *pieces: bytes, end: bool = False) -> bytes:
    """Send pieces, each on its own, and read until the server closes."""
    async with raw(port) as (reader, writer):
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
        if end:
            writer.write_eof()
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while data := await reader.read(65536):
                received += data
        return received


async def test_the_same_port_serves_the_page_and_websockets(one_stage: Stage) -> None:
    async with one_stage.client() as client:
        await client.join("realtime:*")
        answer = await exchange(one_stage.port, GET)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\n")
        assert answer.endswith(b"\r\n\r\n" + PAGE)
        assert await client.drain() == []


@pytest.mark.parametrize(
    ("request_bytes", "answer"),
    [
        (b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n\r\n", HEALTH_HEAD),
        (b"GET /health?a=b HTTP/1.1\r\nHost: localhost\r\n\r\n", HEALTH_HEAD + b"ok\n"),
        (
            b"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\ncontent-type: text/plain; charset=utf-8\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(NOT_FOUND), NOT_FOUND),
        ),
        (
            b"GET /socket/websocket?vsn=1.0.0 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"HTTP/1.1 404 Not Found\r\ncontent-type: text/plain; charset=utf-8\r\n"
            b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(NOT_FOUND), NOT_FOUND),
        ),
        (
            b"DELETE / HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"HTTP/1.1 405 Method Not Allowed\r\ncontent-type: text/plain; charset=utf-8\r\n"
            b"content-length: 0\r\nconnection: close\r\nallow: GET, HEAD\r\n\r\n",
        ),
    ],
)
async def test_plain_requests_are_answered(
    one_stage: Stage, request_bytes: bytes, answer: bytes
) -> None:
    assert await exchange(one_stage.port, request_bytes) == answer


async def test_a_head_in_pieces_is_put_together(one_stage: Stage) -> None:
    pieces = [GET[place : place + 1] for place in range(len(GET))]
    assert (await exchange(one_stage.port, *pieces)).endswith(b"\r\n\r\n" + PAGE)


async def test_an_upgrade_in_pieces_with_its_first_frame_attached_is_served(
    one_stage: Stage,
) -> None:
    text = b'{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}'
    # A mask of zeros changes nothing.
    frame = bytes((0x81, 0x80 | len(text), 0, 0, 0, 0)) + text
    stream = UPGRADE + frame
    async with raw(one_stage.port) as (reader, writer):
        for place in range(0, len(stream), 7):
            writer.write(stream[place : place + 7])
            await writer.drain()
            await asyncio.sleep(0)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
        reply = (
            b'{"topic":"phoenix","event":"phx_reply","ref":"1",'
            b'"payload":{"status":"ok","response":{}}}'
        )
        assert await reader.readexactly(2 + len(reply)) == bytes((0x81, len(reply))) + reply


@pytest.mark.parametrize("first", [b"", b"Upgrade: websocket\r\nConnection: Upgrade\r\n"])
async def test_a_head_that_is_too_long_is_431(one_stage: Stage, first: bytes) -> None:
    head = b"GET / HTTP/1.1\r\nHost: localhost\r\n" + first + b"Cookie: "
    answer = await exchange(one_stage.port, head, *[b"x" * 8192] * 9)
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize(
    "garbage",
    [
        b"\0\1\2\3\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x99" * 100 + b"\r\n\r\n",
        b"hello\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\r\n\r\n\r\n\r\n",
    ],
)
async def test_garbage_is_400(garbage: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with RealtimeServer(dev_config(NOWHERE)) as server:
        answer = await refused_answer(server, garbage, caplog)
        assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert answer.endswith(b"\r\n\r\nThe request is not what HTTP/1.1 (RFC 9112) asks for.\n")


async def refused_answer(
    server: RealtimeServer, request: bytes, caplog: pytest.LogCaptureFixture
) -> bytes:
    """Return the answer to what is malformed: it is counted and logged, and quoted nowhere."""
    caplog.set_level(logging.INFO, "realtime.listener")
    async with raw(server.port) as (reader, writer):
        host, port = writer.get_extra_info("sockname")
        writer.write(request)
        answer = await reader.read()
    metrics = server.metrics.render().decode()
    assert 'realtime_handshakes_total{result="malformed"} 1.0' in metrics
    assert 'realtime_handshakes_total{result="ok"}' not in metrics
    lines = [record for record in caplog.records if record.name != "realtime.source"]
    assert f"request by {host}:{port} refused: malformed" in [it.getMessage() for it in lines]
    assert [it for it in lines if it.levelno > logging.INFO] == []
    assert "sesame" not in caplog.text
    return answer


@pytest.mark.parametrize(
    ("place", "broken"),
    [
        (b" HTTP/1.1", b""),
        (b" HTTP/1.1", b" HTTP/one"),
        (b"/websocket?", b"/web socket?"),
        (b"Host: localhost", b"Host localhost"),
        (b"Host: localhost", b"Ho st: localhost"),
        (b"Host: localhost", b"Host: localhost\r\nX: te\0st"),
        (b"Host: localhost", b"Host: localhost\r\n folded"),
        (b"Host: localhost", b"Host: localhost\r\nContent-Length: 5"),
        (b"Host: localhost", b"Host: localhost\r\nTransfer-Encoding: chunked"),
        (b"GET ", b"\0\1\2\3"),
    ],
)
async def test_an_upgrade_that_cannot_be_read_is_400(
    place: bytes, broken: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    request = UPGRADE.replace(place, broken).replace(b"?", b"?apikey=sesame&")
    assert place in UPGRADE
    async with RealtimeServer(dev_config(NOWHERE)) as server:
        # More of it than is looked at in one piece.
        answer = await refused_answer(server, request + b"x" * 5000, caplog)
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert f"Content-Length: {len(body)}".encode() in head.split(b"\r\n")
        assert body.startswith(b"The request is not what HTTP/1.1 (RFC 9112) and RFC 6455 ask for;")


@pytest.mark.parametrize("start", [b"", b"GET", b"\x16\x03\x01", UPGRADE[:-1]])
async def test_who_leaves_before_the_end_of_the_head_is_let_go(
    one_stage: Stage, start: bytes
) -> None:
    assert await exchange(one_stage.port, start, end=True) == b""


@pytest.mark.parametrize(
    ("place", "broken", "status", "why"),
    [
        (b"Version: 13", b"Version: 8", b"400", b"invalid Sec-WebSocket-Version header"),
        (b"Sec-WebSocket-Key", b"X-Key", b"400", b"missing Sec-WebSocket-Key header"),
        (b"Connection: Upgrade", b"Connection: close", b"426", b"invalid Connection header"),
        (b"Host: localhost", b"Cookie: " + b"x" * 9000, b"431 400", b"8192 bytes"),
        (b"Host: localhost", b"\r\n".join([b"A: b"] * 150), b"431 400", b"128 headers"),
    ],
)
async def test_a_broken_handshake_is_refused_with_the_reason(
    place: bytes, broken: bytes, status: bytes, why: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    request = UPGRADE.replace(place, broken).replace(b"?", b"?apikey=sesame&")
    async with RealtimeServer(dev_config(NOWHERE)) as server:
        head, _, body = (await refused_answer(server, request, caplog)).partition(b"\r\n\r\n")
        # The earlier library has no answer of its own to what is too long.
        assert head.split(b" ")[1] in status.split(b" ")
        assert why in body


async def test_a_body_does_not_hurt(one_stage: Stage) -> None:
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n"
    assert (await exchange(one_stage.port, head)).startswith(b"HTTP/1.1 405 ")
    await exchange(one_stage.port, head + b"hello" * 100_000)
    assert (await exchange(one_stage.port, GET)).endswith(b"\r\n\r\n" + PAGE)


async def test_http_1_0_is_answered(one_stage: Stage) -> None:
    answer = await exchange(one_stage.port, b"GET / HTTP/1.0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\n" + PAGE)


async def test_a_client_that_is_slow_with_its_head_is_given_up() -> None:
    config = dev_config(NOWHERE, HANDSHAKE_TIMEOUT="500")
    async with RealtimeServer(config) as server, open_client(server.port) as quick:
        for beginning in (b"", b"GET / HTTP/1.1\r\nHost: te"):
            answer = await exchange(server.port, beginning)
            assert answer.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
            assert answer.endswith(b"did not come within 500 ms (HANDSHAKE_TIMEOUT).\n")
        # A client that was quick enough is not given up later.
        assert await quick.drain() == []


@pytest.mark.parametrize(
    "head", [b"Content-Length: 50000000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"]
)
async def test_a_large_body_is_sent_in_peace_and_the_answer_is_read_after_it(
    one_stage: Stage, head: bytes
) -> None:
    async with raw(one_stage.port) as (reader, writer):
        writer.write(b"POST / HTTP/1.1\r\nHost: localhost\r\n" + head)
        # A reset by the server would show in drain().
        for _ in range(64):
            writer.write(b"x" * 65536)
            await writer.drain()
        writer.write_eof()
        answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")


async def test_connections_that_never_asked_for_anything_do_not_hold_up_the_end() -> None:
    async with contextlib.AsyncExitStack() as stack:
        async with RealtimeServer(dev_config(NOWHERE)) as server:
            idle = [await stack.enter_async_context(raw(server.port)) for _ in range(3)]
            idle[0][1].write(b"GET / HT")
            # The server has accepted them when a later connection is answered.
            await exchange(server.port, GET)
            begin = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - begin < 5
        for reader, _ in idle:
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""


async def test_after_the_end_the_port_is_free() -> None:
    async with RealtimeServer(dev_config(NOWHERE)) as server:
        port = server.port
    async with RealtimeServer(dev_config(NOWHERE, PORT=str(port))) as server:
        assert server.port == port


async def test_a_port_in_use_is_refused_before_anything_is_started() -> None:
    async with RealtimeServer(dev_config(NOWHERE)) as server:
        with pytest.raises(ServerError, match=f"port {server.port} is in use"):
            async with RealtimeServer(dev_config(NOWHERE, PORT=str(server.port))):
                pass


@pytest.mark.usefixtures("impatient")
async def test_without_loopback_both_families_are_served() -> None:
    config = attrs.evolve(dev_config(NOWHERE), loopback=False)
    async with RealtimeServer(config) as server:
        async with open_client(server.port) as client:
            await client.join("realtime:*")
        try:
            websocket = await connect(f"ws://[::1]:{server.port}/socket/websocket", proxy=None)
        except OSError as exc:
            # Without IPv6 on the loopback there is nobody to serve.
            if exc.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            return
        async with websocket:
            await PhoenixClient(websocket, "1.0.0").join("realtime:*")


@pytest.mark.usefixtures("impatient")
async def test_clients_are_served_though_there_is_no_database(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        RealtimeServer(dev_config(NOWHERE)) as server,
        open_client(server.port, "2.0.0") as client,
    ):
        await client.join("realtime:*")
        assert await client.drain() == []
        await eventually(lambda: "cannot connect to PostgreSQL" in caplog.text)
