"""Attacks by connections and frames. Each function is one attempt; the server ends most of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import zlib

from tests.hostile.wire import (
    connection,
    flood,
    frame,
    frame_head,
    handshake,
    join,
    message,
    new_token,
    until_closed,
    websocket,
)

__all__ = [
    "binary_frame",
    "deaf",
    "deaf_to_large_rows",
    "deflate_bomb",
    "forged_handshake",
    "fragment_flood",
    "giant_frame",
    "half_open",
    "heartbeat_flood",
    "http_flood",
    "invalid_utf8",
    "large_post",
    "no_frame",
    "ping_flood",
    "reconnect_storm",
    "slow_handshake",
    "slow_reader",
    "unmatched_events",
]

_HEARTBEAT = message("phoenix", "heartbeat", {})
_DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover\r\n"


async def half_open(port: int) -> None:
    """Connect, say half of a request or nothing, and wait."""
    async with connection(port) as (reader, writer):
        request = handshake()
        writer.write(request[: random.randrange(len(request))])
        await until_closed(reader)


async def slow_handshake(port: int) -> None:
    """Send a request drop by drop."""
    request = handshake()
    async with connection(port) as (reader, writer):
        closed = asyncio.ensure_future(until_closed(reader))
        for place in range(len(request)):
            writer.write(request[place : place + 1])
            await asyncio.wait({closed}, timeout=0.1)
            if closed.done():
                break
        await closed


async def reconnect_storm(port: int) -> None:
    """Connect, join, and be gone."""
    async with websocket(port) as (reader, writer):
        writer.write(join(["id=gt.0"]))
        await reader.read(4096)


async def forged_handshake(port: int) -> None:
    """Ask for a WebSocket with a token that nobody signed."""
    async with connection(port) as (reader, writer):
        writer.write(handshake(f"{new_token()[:-4]}AAAA"))
        await until_closed(reader)


async def http_flood(port: int) -> None:
    """Ask for the metrics, again and again on one connection."""
    request = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    async with connection(port) as (reader, writer):
        for _ in range(50):
            writer.write(request)
            if not await reader.read(65536):
                return


async def giant_frame(port: int) -> None:
    """Announce 64 MB, and send them."""
    async with websocket(port) as (reader, writer):
        writer.write(frame_head(1, 64 * 1024 * 1024))
        with contextlib.suppress(OSError):
            for _ in range(64):
                writer.write(b"x" * 65536)
                await writer.drain()
        await until_closed(reader)


async def deflate_bomb(port: int) -> None:
    """Send a kilobyte that becomes a megabyte, time and again."""
    await flood(port, _bomb(1_000_000) * 200, extensions=_DEFLATE)


async def heartbeat_flood(port: int) -> None:
    await flood(port, _HEARTBEAT * 20_000)


async def ping_flood(port: int) -> None:
    await flood(port, frame(b"", 9) * 100_000)


async def fragment_flood(port: int) -> None:
    """Send a message in pieces of nothing."""
    await flood(port, frame(b"", 1, fin=0) + frame(b"", 0, fin=0) * 100_000)


async def unmatched_events(port: int) -> None:
    """Send what no topic is there for, each answered with an error; and what is not served."""
    events = (
        message("realtime:nowhere", "broadcast", {"text": "x" * 100}),
        message("realtime:room", "presence", {}),
        message("realtime:room", f"event {'x' * 100}", {}),
        message("realtime:nowhere", "access_token", {"access_token": "x" * 100}),
    )
    await flood(port, join(["id=gt.0"]) + b"".join(events) * 1000)


async def deaf(port: int) -> None:
    """Join everything, ask for pongs, read nothing."""
    async with websocket(port, limit=1024) as (reader, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(join(topic="realtime:*"))
        with contextlib.suppress(OSError):
            while not writer.transport.is_closing():
                writer.write(frame(b"x" * 125, 9) * 100)
                await writer.drain()
                await asyncio.sleep(0.1)
        await until_closed(reader)


async def deaf_to_large_rows(port: int) -> None:
    """Join a table of large rows, and read nothing."""
    async with websocket(port, limit=1024, receive_buffer=4096) as (reader, writer):
        writer.write(join(topic="realtime:public:large"))
        await reader.readuntil(b'"ok"')
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        # Whoever reads nothing sees no end, but its heartbeats fail.
        while not writer.transport.is_closing():
            writer.write(_HEARTBEAT)
            await asyncio.sleep(0.5)


async def slow_reader(port: int) -> None:
    """Join a table of large rows, and read 20 KB a second of them."""
    async with websocket(port, limit=1024, receive_buffer=4096) as (reader, writer):
        writer.write(join(topic="realtime:public:large"))
        while await reader.read(2048):  # noqa: ASYNC110 (so slow it is)
            await asyncio.sleep(0.1)


async def invalid_utf8(port: int) -> None:
    await flood(port, frame(b'{"topic":"\xff\xfe"}'))


async def binary_frame(port: int) -> None:
    await flood(port, frame(b"\x03\x01\x01\x0a\x01\x00\x01", 2))


async def no_frame(port: int) -> None:
    await flood(port, b"\xff" * 4096)


async def large_post(port: int) -> None:
    head = b"POST /api HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000\r\n\r\n"
    async with connection(port) as (reader, writer):
        writer.write(head)
        with contextlib.suppress(OSError):
            for _ in range(64):
                writer.write(b"x" * 65536)
                await writer.drain()
        await until_closed(reader)


def _bomb(size: int) -> bytes:
    """A compressed frame that inflates to a heartbeat's JSON and ``size`` spaces."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = compressor.compress(b" " * size) + compressor.flush(zlib.Z_SYNC_FLUSH)
    # RFC 7692, section 7.2.1: the end of a flush is left out; RSV1 marks the frame.
    return frame(data.removesuffix(b"\x00\x00\xff\xff"), 0x41)
