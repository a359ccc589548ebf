"""Clients that mean no good, for tests and benchmarks.

    python -m tests.hostile PORT

It says "ready" when all of them are at it, goes on until its input ends, and then says how
often each did what it does, as JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self

__all__ = ["HostileProcess"]

HALF_OPEN = 1000
HANDSHAKE = (
    b"GET /socket/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
PAUSE = 0.05
"""Seconds between two attempts of one client: who is cut off comes back, and not at once."""


class HostileProcess:
    """Some thirty attackers and a thousand half-open connections, in a process of their own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.attempts: dict[str, int] = {}
        """How often each kind of attacker did what it does; known at the end."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.hostile", str(self._port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        out, _ = self._process.communicate(timeout=30)
        self.attempts = json.loads(out)


# What they do. Each function is one attempt; it ends when the server ends it.


async def half_open(port: int) -> None:
    """Connect, say half of a request or nothing, and wait."""
    async with connection(port) as (reader, writer):
        writer.write(HANDSHAKE[: id(writer) // 64 % len(HANDSHAKE)])
        await until_closed(reader)


async def slow_handshake(port: int) -> None:
    """Send a request drop by drop."""
    async with connection(port) as (reader, writer):
        closed = asyncio.ensure_future(until_closed(reader))
        for place in range(len(HANDSHAKE)):
            writer.write(HANDSHAKE[place : place + 1])
            await asyncio.wait({closed}, timeout=0.1)
            if closed.done():
                break
        await closed


async def giant_frame(port: int) -> None:
    async with websocket(port) as (reader, writer):
        writer.write(frame_head(1, 64 * 1024 * 1024))
        with contextlib.suppress(OSError):
            for _ in range(64):
                writer.write(b"x" * 65536)
                await writer.drain()
        await until_closed(reader)


async def join_flood(port: int) -> None:
    """Join one topic after the other, and read the answers."""
    joins = b"".join(
        frame(b'{"topic":"realtime:x:y%d","event":"phx_join","payload":{},"ref":"1"}' % number)
        for number in range(5000)
    )
    await flood(port, joins)


async def large_regexes(port: int) -> None:
    """Join with a hundred patterns, each of which is large for RE2."""
    await flood(port, join([rf'v=match."\\w{{90}}{number}"' for number in range(100)]) * 50)


async def many_conditions(port: int) -> None:
    """Join with 6,000 conditions, and again."""
    filters = [
        ",".join(f"v=not.like.*{place}_{number}*" for number in range(60)) for place in range(100)
    ]
    await flood(port, join(filters) * 10)


async def long_lists(port: int) -> None:
    """Join with a list of what is no binding."""
    await flood(port, join([], bindings=[1] * 60_000) * 10)


async def long_topics(port: int) -> None:
    """Join topics whose filters are none."""
    topics = (f"realtime:public:todos:{number:04}{'x' * 4000}" for number in range(500))
    await flood(port, b"".join(join(None, topic=topic) for topic in topics))


async def heartbeat_flood(port: int) -> None:
    heartbeat = frame(b'{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}')
    await flood(port, heartbeat * 20_000)


async def ping_flood(port: int) -> None:
    await flood(port, frame(b"", 9) * 100_000)


async def fragment_flood(port: int) -> None:
    await flood(port, frame(b"", 1, fin=0) + frame(b"", 0, fin=0) * 100_000)


async def deaf(port: int) -> None:
    """Join everything, ask for pongs, read nothing."""
    async with websocket(port, limit=1024) as (reader, writer):
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(frame(b'{"topic":"realtime:*","event":"phx_join","payload":{},"ref":"1"}'))
        with contextlib.suppress(OSError):
            while not writer.transport.is_closing():
                writer.write(frame(b"x" * 125, 9) * 100)
                await writer.drain()
                await asyncio.sleep(0.1)
        await until_closed(reader)


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


ATTACKERS: dict[Callable[[int], Awaitable[None]], int] = {
    half_open: HALF_OPEN,
    slow_handshake: 10,
    giant_frame: 2,
    join_flood: 2,
    large_regexes: 2,
    many_conditions: 2,
    long_lists: 2,
    long_topics: 2,
    heartbeat_flood: 2,
    ping_flood: 2,
    fragment_flood: 1,
    deaf: 2,
    invalid_utf8: 2,
    binary_frame: 2,
    no_frame: 2,
    large_post: 1,
}


# What they use.


@contextlib.asynccontextmanager
async def connection(
    port: int, limit: int = 65536
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def websocket(
    port: int, limit: int = 65536
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async with connection(port, limit) as (reader, writer):
        writer.write(HANDSHAKE)
        await reader.readuntil(b"\r\n\r\n")
        yield reader, writer


async def flood(port: int, frames: bytes) -> None:
    async with websocket(port) as (reader, writer):
        writer.write(frames)
        await until_closed(reader)


async def until_closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(65536):
            pass


def join(
    filters: list[str] | None, *, bindings: list[Any] | None = None, topic: str = "realtime:room"
) -> bytes:
    """A join with a binding for each filter, or these bindings; None: without config."""
    if bindings is None:
        table = {"event": "*", "schema": "public", "table": "item"}
        bindings = [{**table, "filter": each} for each in filters or ()]
    payload = {} if filters is None else {"config": {"postgres_changes": bindings}}
    message = {"topic": topic, "event": "phx_join", "payload": payload, "ref": "1"}
    return frame(json.dumps(message).encode())


def frame_head(opcode: int, size: int, fin: int = 0x80) -> bytes:
    """A client's frame's head; a mask of zeros changes nothing."""
    head = bytes((fin | opcode,))
    if size < 126:
        head += bytes((0x80 | size,))
    elif size < 65536:
        head += bytes((0xFE,)) + size.to_bytes(2)
    else:
        head += bytes((0xFF,)) + size.to_bytes(8)
    return head + bytes(4)


def frame(payload: bytes, opcode: int = 1, *, fin: int = 0x80) -> bytes:
    return frame_head(opcode, len(payload), fin) + payload


async def main(port: int) -> None:
    attempts: Counter[str] = Counter()
    began = asyncio.Event()
    waiting = sum(ATTACKERS.values())

    async def attack_again_and_again(attack: Callable[[int], Awaitable[None]]) -> None:
        nonlocal waiting
        waiting -= 1
        if waiting == 0:
            began.set()
        while True:
            attempts[attack.__name__] += 1
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                await attack(port)
            await asyncio.sleep(PAUSE)

    tasks = [
        asyncio.create_task(attack_again_and_again(attack))
        for attack, count in ATTACKERS.items()
        for _ in range(count)
    ]
    await began.wait()
    print("ready", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    print(json.dumps(attempts))


if __name__ == "__main__":
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    asyncio.run(main(int(sys.argv[1])))
