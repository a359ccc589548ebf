"""The parts of benchmarks.rooms that are about presence."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import re
import signal
import statistics
import sys
import time
import tracemalloc
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

from benchmarks.fanout import Bench, Row
from benchmarks.load.programs import LineProgram, cpu_time
from realtime_server.fanout.bus import LocalBus
from realtime_server.fanout.presence import Presence, PresenceLimits
from realtime_server.fanout.room import Member
from realtime_server.fanout.rooms import Rooms
from realtime_server.phoenix.broadcasts import RoomName
from realtime_server.phoenix.serializers import SERIALIZERS
from tests.server.net.test_connection import Client, open_connection
from tests.server_process import ServerProcess
from tests.waiting import eventually

__all__ = ["changes", "first_change", "memory", "storm"]

TOPIC = "realtime:crowd"
ROUNDS = 3
MOST_HELD_MS = 20


class Crowd(LineProgram):
    """Members of a room, which tell joins and leaves: see presence.c."""

    @classmethod
    async def open(cls, directory: Path, port: int, count: int) -> Self:
        crowd = await cls._start(directory / "presence", port, count, TOPIC)
        assert await crowd._line() == "open"
        return crowd

    async def join(self, milliseconds: int) -> float:
        """Join and track, spread over this time; return how long after the last of them has tracked
        itself everybody knew of everybody, in seconds."""
        return await self._ended("known", "join", milliseconds)

    async def change(self, count: int, milliseconds: int) -> float:
        """Track something else so many times; return how long after the last of them everybody
        had heard of it, in seconds."""
        return await self._ended("changed", "change", count, milliseconds)

    async def report(self) -> dict[str, Any]:
        """Return what came since the last report."""
        await self._told("report")
        found: dict[str, Any] = json.loads(await self._line())
        return found

    async def _ended(self, expected: str, *told: object) -> float:
        await self._told(*told)
        word, microseconds = (await self._line()).split()
        assert word == expected
        return float(microseconds) / 1e6


class TimedServer:
    """A server that says what it does."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self.pid = server.process.pid

    def counted(self, name: str) -> float:
        """Return a metric."""
        url = f"http://127.0.0.1:{self._server.port}/metrics"
        with urllib.request.urlopen(url) as response:
            found = re.search(rf"^{name} (\S+)$", response.read().decode(), re.MULTILINE)
        assert found is not None
        return float(found[1])

    async def held(self) -> Row:
        """Return for how long its event loop was held at most since the last call."""
        before = len(self._server.log)
        self._server.process.send_signal(signal.SIGUSR1)
        found: list[str] = []

        def said() -> bool:
            found.extend(line for line in self._server.log[before:] if "held for" in line)
            return bool(found)

        await eventually(said)
        _, _, clock, processor, _, _, by = found[0].split(maxsplit=6)
        row: Row = {"held_ms": float(clock), "held_cpu_ms": float(processor)}
        if row["held_cpu_ms"] > MOST_HELD_MS:
            row["held_by"] = by.strip()
        return row


@contextlib.asynccontextmanager
async def crowd_of(bench: Bench, count: int) -> AsyncIterator[tuple[TimedServer, Crowd]]:
    """Yield a server of its own, and clients that have connected to it."""
    settings = {
        "PUBLICATIONS": '["item_1"]',
        "MAX_PRESENCE_CALLS_PER_SECOND": "1000",
        # Nobody sends heartbeats, however long a busy machine takes.
        "IDLE_TIMEOUT": "3600000",
    }
    with ServerProcess(bench.dsn, module="benchmarks.load.held", **settings) as process:
        process.wait_until_streaming()
        server = TimedServer(process)
        try:
            async with await Crowd.open(bench.directory, process.port, count) as crowd:
                await server.held()
                yield server, crowd
        except Exception:
            print(*process.log[-10:], sep="", file=sys.stderr)
            raise


async def storm(bench: Bench) -> list[Row]:
    """A thousand join and track within one second."""
    rows = []
    for _ in range(ROUNDS):
        async with crowd_of(bench, 1000) as (server, crowd):
            cpu = cpu_time(server.pid)
            known = await crowd.join(1000)
            cpu = cpu_time(server.pid) - cpu
            held = await server.held()
            report = await crowd.report()
            rendered = server.counted("realtime_presence_rendered_bytes_total")
            rows.append(
                {
                    "members": 1000,
                    "frames": report["frames"],
                    "sent_mb": round(report["bytes"] / 1e6, 1),
                    "rendered_mb": round(rendered / 1e6, 2),
                    "flushes": round(server.counted("realtime_presence_flushes_total")),
                    "all_known_after_s": round(known, 2),
                    "cpu_s": round(cpu, 2),
                    **held,
                }
            )
    return rows


async def changes(bench: Bench) -> list[Row]:
    """Twenty changes a second among a thousand members."""
    async with crowd_of(bench, 1000) as (server, crowd):
        await crowd.join(1000)
        await asyncio.sleep(1)
        await crowd.report()
        await server.held()
        cpu, seconds = cpu_time(server.pid), 5
        last = await crowd.change(20 * seconds, 1000 * seconds)
        cpu = cpu_time(server.pid) - cpu
        report = await crowd.report()
        held = await server.held()
    return [
        {
            "members": 1000,
            "changes_per_second": 20,
            "frames_per_second": round(report["frames"] / seconds),
            "cpu_us_per_frame": round(cpu / report["frames"] * 1e6, 2),
            "last_known_after_ms": round(last * 1000),
            **held,
        }
    ]


async def first_change(bench: Bench) -> list[Row]:
    """One change in a quiet room, until all have heard of it."""
    rows = []
    for members in (10, 1000):
        times = []
        async with crowd_of(bench, members) as (_, crowd):
            await crowd.join(500)
            for _ in range(10):
                await asyncio.sleep(0.5)
                times.append(await crowd.change(1, 1) * 1000)
        rows.append(
            {
                "members": members,
                "all_known_after_ms": round(statistics.median(times), 1),
                "max_ms": round(max(times), 1),
            }
        )
    return rows


class _Nobody:
    is_behind = False

    def write(self, frames: object) -> None:
        """Take it."""


async def memory(_: Bench) -> list[Row]:
    """What a member takes that tracks itself, besides its payload."""
    count, meta = 5000, b'{"name":"somebody"}'
    calls: list[Any] = []
    rooms = Rooms(LocalBus(), later=lambda _, call: calls.append(call), clock=time.perf_counter)
    limits = PresenceLimits(interval=0.0, members=count, state_bytes=1 << 30)
    refs = iter(f"{number:016}" for number in range(count))
    presence = Presence(
        rooms,
        limits,
        later=lambda _, call: calls.append(call),
        clock=lambda: 0.0,
        new_ref=lambda: next(refs),
    )
    serializer = SERIALIZERS["2.0.0"]
    room = RoomName(TOPIC)
    members = [
        Member(room, serializer, _Nobody(), takes_bytes=True, hears_itself=False)
        for _ in range(count)
    ]
    for member in members:
        rooms.join(member)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    for number, member in enumerate(members):
        presence.track(member, b'"%d"' % number, bytes(bytearray(meta)))
    while calls:
        calls.pop(0)()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    each = (after - before) / count - len(meta)
    return [
        {"of": "a member that tracks itself", "members": count, "bytes_each": round(each)},
        *await _channels(rooms, presence),
    ]


async def _channels(rooms: Rooms, presence: Presence) -> list[Row]:
    """What a channel takes that joined with ``config`` and does nothing more, beyond what it takes
    where there are no rooms."""
    services = {"rooms": rooms, "presence": presence}
    found: list[dict[str, float]] = []
    for given in (services, {}):
        async with (
            contextlib.AsyncExitStack() as stack,
            open_connection(vsn="2.0.0", **given) as first,
        ):
            # What is made once.
            await _join(first, TOPIC)
            clients = [
                await stack.enter_async_context(open_connection(vsn="2.0.0", **given))
                for _ in range(300)
            ]
            sizes = {}
            for of, topics in (("the first channel", 1), ("each further channel", 5)):
                gc.collect()
                tracemalloc.start()
                before, _ = tracemalloc.get_traced_memory()
                for client in clients:
                    for number in range(topics):
                        await _join(client, f"{TOPIC} {of} {number}")
                gc.collect()
                after, _ = tracemalloc.get_traced_memory()
                tracemalloc.stop()
                sizes[of] = (after - before) / len(clients) / topics
        found.append(sizes)
    with_rooms, without = found
    return [
        {
            "of": f"{of} of a connection, beyond one without rooms",
            "bytes_more": round(size - without[of]),
        }
        for of, size in with_rooms.items()
    ]


async def _join(client: Client, topic: str) -> None:
    config = {"broadcast": {"ack": False, "self": False}, "presence": {"enabled": False}}
    message = ["1", "1", topic, "phx_join", {"config": config}]
    client.websocket.incoming.put_nowait(json.dumps(message))
    await client.settle()
    assert b'"ok"' in client.websocket.transport.sent()
