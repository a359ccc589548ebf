"""The part of benchmarks.rooms in which a member floods a large room, beside a small one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

from benchmarks._report import percentile
from benchmarks._sender import TOPIC, Sender
from benchmarks.fanout import DATA, HEARTBEAT, INSERT, OURS, TABLES, Bench, Row
from benchmarks.load.programs import LineProgram

__all__ = ["flood"]

CROWD, CROWD_TOPIC = 5000, "realtime:crowd"
FEW = 10
ROUNDS, TIMES = 5, 50
PAUSE = 0.02
"""Seconds between two messages in step."""
SETTLE = 0.5
"""Seconds from the beginning of a flood, or its end, until times are taken."""
PUSHES_PER_SECOND = 1000
"""Of the member that floods."""


class Flooder(LineProgram):
    """The member that floods."""

    @classmethod
    async def start(cls, port: int) -> Self:
        module = ("-m", "benchmarks.load.flooder")
        return await cls._start(sys.executable, *module, port, CROWD_TOPIC, PUSHES_PER_SECOND)

    @contextlib.asynccontextmanager
    async def flooding(self, answers: Counter[str]) -> AsyncIterator[None]:
        await self._told("flood")
        assert await self._line() == "flooding"
        await asyncio.sleep(SETTLE)
        yield
        await self._told("stop")
        answers.update(json.loads(await self._line()))
        await asyncio.sleep(SETTLE)


def waited(pid: int) -> float:
    """Milliseconds that a process has waited for a processor, ready to run, since it began."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e6


async def flood(bench: Bench) -> list[Row]:
    """In step to ten others, while a member of a room of 5,000 floods it, and while nobody does."""
    table = TABLES[OURS]
    answers: Counter[str] = Counter()
    times: dict[tuple[str, bool], list[float]] = {}
    # How much of each time the server waited for a processor, which the clients need as well.
    waits: dict[tuple[str, bool], list[float]] = {}
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(bench.server(OURS))

        async def join(count: int, topic: str, **options: int) -> Any:
            options["heartbeat"] = HEARTBEAT
            client = await bench.client(server.port, count, topic, **options)
            return await stack.enter_async_context(client)

        crowd = await join(CROWD, CROWD_TOPIC, config=1)
        few = {
            "broadcast": await join(FEW, TOPIC, config=1),
            "change": await join(FEW, f"realtime:public:{table}"),
        }
        sender = await Sender.join(server.port)
        stack.callback(sender.close)

        async def insert(rows: int) -> None:
            bench.connection.execute(INSERT.format(table, DATA), (rows,), prepare=True)

        send = {"broadcast": sender.send, "change": insert}
        flooder = await stack.enter_async_context(await Flooder.start(server.port))

        async def in_step(*, is_flooded: bool) -> None:
            for _ in range(TIMES):
                for name, client in few.items():
                    await asyncio.sleep(PAUSE)
                    await client.expect(1)
                    before = waited(server.process.pid)
                    await send[name](1)
                    seconds = await client.arrived()
                    key = name, is_flooded
                    waits.setdefault(key, []).append(waited(server.process.pid) - before)
                    times.setdefault(key, []).append(seconds * 1000)

        for number in range(ROUNDS + 1):
            await in_step(is_flooded=False)
            async with flooder.flooding(answers):
                await in_step(is_flooded=True)
            if not number:
                times.clear()
                waits.clear()
        # To end five thousand connections takes its time.
        await crowd.leave()
        await asyncio.to_thread(server.stop)
    rows: list[Row] = []
    for name in few:
        quiet, flooded = times[name, False], times[name, True]
        p50, p99 = ([percentile(each, share) for each in (quiet, flooded)] for share in (0.5, 0.99))
        waiting = [waits[name, is_flooded] for is_flooded in (False, True)]
        without = [
            percentile([max(a - b, 0.0) for a, b in zip(*both, strict=True)], 0.99)
            for both in zip((quiet, flooded), waiting, strict=True)
        ]
        rows.append(
            {
                "in step": name,
                "clients": FEW,
                "p50_ms": round(p50[0], 2),
                "p50_flooded_ms": round(p50[1], 2),
                "p99_ms": round(p99[0], 2),
                "p99_flooded_ms": round(p99[1], 2),
                "p99_ratio": round(p99[1] / p99[0], 2),
                "p99_server_waits_ms": round(percentile(waiting[0], 0.99), 2),
                "p99_server_waits_flooded_ms": round(percentile(waiting[1], 0.99), 2),
                "p99_without_waits_ms": round(without[0], 2),
                "p99_without_waits_flooded_ms": round(without[1], 2),
            }
        )
    rows.append(
        {
            "flooded": CROWD,
            "pushes_a_second": PUSHES_PER_SECOND,
            "answers": dict(answers),
        }
    )
    return rows
