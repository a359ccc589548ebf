"""The part of benchmarks.rooms in which a member floods a large room, beside a small one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections import Counter
from collections.abc import AsyncIterator
from typing import Self

from benchmarks._report import percentile
from benchmarks.fanout import DATA, HEARTBEAT, INSERT, OURS, TABLES, Bench, Row
from benchmarks.load.programs import LineProgram

__all__ = ["flood"]

CROWD, CROWD_TOPIC = 5000, "realtime:crowd"
FEW = 10
ROUNDS, TIMES = 5, 50
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


class Neighbours(LineProgram):
    """Ten clients of another room, or of a table."""

    @classmethod
    async def start(cls, port: int, server: int, *table: str) -> Self:
        module = ("-m", "benchmarks.load.neighbours")
        found = await cls._start(sys.executable, *module, port, server, *table)
        assert await found._line() == "joined"
        return found

    async def in_step(self, times: int) -> list[tuple[float, float, float]]:
        """Return of each message how many milliseconds it took, and for how many of these the
        clients, and the server, waited for a processor."""
        await self._told(times)
        return [(took, own, servers) for took, own, servers in json.loads(await self._line())]


def step_back(*programs: LineProgram) -> None:
    """Have programs run only where no other wants the processor: on a busy machine they would
    hardly run at all."""
    for program in programs:
        os.sched_setscheduler(program.pid, os.SCHED_IDLE, os.sched_param(0))


async def flood(bench: Bench) -> list[Row]:
    """In step to ten others, while a member of a room of 5,000 floods it, and while nobody does."""
    table = TABLES[OURS]
    answers: Counter[str] = Counter()
    times: dict[tuple[str, bool], list[tuple[float, float, float]]] = {}
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(bench.server(OURS))
        port, pid = server.port, server.process.pid
        options = {"config": 1, "heartbeat": HEARTBEAT}
        crowd = await bench.client(port, CROWD, CROWD_TOPIC, **options)
        await stack.enter_async_context(crowd)
        insert = INSERT.format(table, DATA).replace("%s", "1")
        of_a_table = (f"realtime:public:{table}", bench.dsn, insert)
        few = {
            "broadcast": await Neighbours.start(port, pid),
            "change": await Neighbours.start(port, pid, *of_a_table),
        }
        for each in few.values():
            await stack.enter_async_context(each)
        flooder = await stack.enter_async_context(await Flooder.start(port))
        # They have machines of their own elsewhere: here they get what the others leave.
        step_back(crowd, flooder)

        async def in_step(*, is_flooded: bool) -> None:
            for name, neighbours in few.items():
                times.setdefault((name, is_flooded), []).extend(await neighbours.in_step(TIMES))

        for number in range(ROUNDS + 1):
            await in_step(is_flooded=False)
            async with flooder.flooding(answers):
                await in_step(is_flooded=True)
            if not number:
                times.clear()
                answers.clear()
        # To end five thousand connections takes its time.
        await crowd.leave()
        await asyncio.to_thread(server.stop)
    rows: list[Row] = []
    for name in few:
        row: Row = {"in step": name, "clients": FEW}
        p99 = []
        for is_flooded, which in ((False, ""), (True, "_flooded")):
            took, own, servers = zip(*times[name, is_flooded], strict=True)
            p99.append(percentile(took, 0.99))
            row[f"p50{which}_ms"] = round(percentile(took, 0.5), 2)
            row[f"p99{which}_ms"] = round(p99[-1], 2)
            row[f"p99_clients_wait{which}_ms"] = round(percentile(own, 0.99), 2)
            row[f"p99_server_waits{which}_ms"] = round(percentile(servers, 0.99), 2)
        row["p99_ratio"] = round(p99[1] / p99[0], 2)
        rows.append(row)
    rows.append(
        {
            "flooded": CROWD,
            "pushes_a_second": PUSHES_PER_SECOND,
            "answers": dict(answers),
        }
    )
    return rows
