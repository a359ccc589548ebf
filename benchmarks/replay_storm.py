"""What it costs when all clients come back at once.

    python -m benchmarks.replay_storm         # 1,000 clients, and 10,000; four minutes
    python -m benchmarks.replay_storm 1000    # so many; saves nothing

All clients of a server lose their connections at the same time, miss changes, and come back at
once: their handshakes never wait for anything but the server. Three such storms take turns within
one run, on the same server with the same clients: one in which all have missed changes and get
them, one in which they have missed nothing, and one of fresh joins, in which clients leave as pages
do that go, and so begin anew. A storm is over when all clients have what they missed, and the first
change after that. Meanwhile other clients, which stay, get fifty rows a second of another table.

The figures are the server's processor time, in user and system mode, which other programs of the
machine change less than the clock, and what clients that stayed notice: the time from a row's
COMMIT until they have it, and the longest wait for the answer to a heartbeat, which is about how
long the event loop did nothing else at most.
PostgreSQL, the server, the clients and the writer are processes of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import statistics
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from typing import Final
from urllib.request import urlopen

import attrs

from benchmarks._report import environment, save
from benchmarks.fanout import (
    BROADCAST,
    DATA,
    HEARTBEAT,
    INSERT,
    OURS,
    TABLES,
    Bench,
    Row,
    open_bench,
)
from benchmarks.load.programs import Client, cpu_time
from tests.server_process import ServerProcess

CLIENTS: Final = (1000, 10_000)
MISSED: Final = 500
"""Rows that clients miss."""
TOGETHER: Final = 10
"""Rows of one transaction."""
ROUNDS: Final = 5
FEW_ROUNDS: Final = 2
"""With more clients."""
AT_ONCE: Final = 256
"""Handshakes and joins that are on their way at a time: enough that none waits for another one's
client. More of them would fill the listening socket's queue."""
STAYING: Final = 20
"""Clients that stay."""
RATE: Final = 50
"""Rows a second that they get."""
OFTEN: Final = 100
"""Milliseconds between two heartbeats of theirs."""
CROWDED, QUIET = TABLES[OURS], TABLES[BROADCAST]
MISSED_SOME, MISSED_NOTHING, FRESH = "missed changes", "missed nothing", "fresh joins"
WRITER: Final = f"""
import sys, threading, time, psycopg
connection = psycopg.connect(sys.argv[1], autocommit=True)
is_on = threading.Event()
def write():
    while is_on.wait():
        begin = time.monotonic()
        connection.execute("insert into {QUIET} (data) values (repeat('x', 100))", prepare=True)
        time.sleep(max(begin + 1 / {RATE} - time.monotonic(), 0))
threading.Thread(target=write, daemon=True).start()
for line in sys.stdin:
    is_on.set() if line == "on\\n" else is_on.clear()
"""
_SAMPLE: Final = re.compile(r"^realtime_(\S+) (\S+)$", re.MULTILINE)
_PATIENCE: Final = 120.0
"""Seconds after which what should be so will not be."""
_QUIET: Final = 2.5
"""Seconds in which each client that has something to prove is asked, and answers."""


def metrics(port: int) -> dict[str, float]:
    """Return the server's metrics."""
    with urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        return {name: float(value) for name, value in _SAMPLE.findall(answer.read().decode())}


async def until(port: int, is_so: Callable[[dict[str, float]], bool]) -> dict[str, float]:
    """Wait until something is so of the server's metrics; return these."""
    async with asyncio.timeout(_PATIENCE):
        while True:
            found = await asyncio.to_thread(metrics, port)
            if is_so(found):
                return found
            await asyncio.sleep(0.1)


async def all_proven(port: int) -> None:
    """Wait until all clients have proven what they have: until no further proof comes."""
    proofs = -1.0
    while (now := (await asyncio.to_thread(metrics, port))["replay_proofs_total"]) != proofs:
        proofs = now
        await asyncio.sleep(_QUIET)


@attrs.frozen
class Stage:
    """A server, the clients that go and come back, and those that stay."""

    bench: Bench
    server: ServerProcess
    clients: int
    crowd: Client
    staying: Client
    writer: Process

    @property
    def cpu(self) -> float:
        """Seconds of processor time that the server has used."""
        return cpu_time(self.server.process.pid)

    def write(self, rows: int) -> None:
        """Write rows for the crowd, in transactions."""
        for first in range(0, rows, TOGETHER):
            count = min(TOGETHER, rows - first)
            self.bench.connection.execute(INSERT.format(CROWDED, DATA), (count,), prepare=True)

    def say(self, line: str) -> None:
        """Tell the writer to begin or to stop."""
        assert self.writer.stdin is not None
        self.writer.stdin.write(f"{line}\n".encode())

    async def live(self) -> float:
        """Hand out as many rows as others miss; return the microseconds of a frame."""
        before = self.cpu
        await self.crowd.expect(MISSED)
        self.write(MISSED)
        await self.crowd.arrived()
        return (self.cpu - before) / (self.clients * MISSED) * 1e6

    async def storm(self, kind: str) -> Row:
        """Let all clients go and come back."""
        port, missed = self.server.port, MISSED if kind == MISSED_SOME else 0
        await all_proven(port)
        before = self.cpu
        await (self.crowd.leave() if kind == FRESH else self.crowd.cut())
        found = await until(port, lambda found: found["subscriptions"] == STAYING)
        gone = self.cpu - before
        rows = found["rows_total"] + missed
        if missed:
            self.write(missed)
        found = await until(port, lambda found: found["rows_total"] == rows)
        if found["replay_away"] != (0 if kind == FRESH else self.clients):
            raise RuntimeError(f"{found['replay_away']:.0f} clients are away")
        self.say("on")
        # What it writes first is none of the storm's.
        await until(port, lambda found: found["rows_total"] > rows)
        await self.crowd.report()
        await self.staying.report()
        memory, before = self.server.forget_peak_memory(), self.cpu
        joined = await self.crowd.back(missed)
        whole = await self.crowd.arrived() if missed else joined
        # All are live when they have what comes next.
        await self.crowd.expect(1)
        self.write(1)
        await self.crowd.arrived()
        cost = self.cpu - before
        self.say("off")
        crowd, staying = await self.crowd.report(), await self.staying.report()
        result = "fresh" if kind == FRESH else "resumed"
        await self._check(found, result)
        return {
            "cpu_us_per_client": cost / self.clients * 1e6,
            "cpu_us_per_departure": gone / self.clients * 1e6,
            "seconds_until_joined": joined,
            "seconds_until_whole": whole,
            "repeated": crowd["repeated"],
            "p50_ms": staying["latency_us"]["p50"] / 1000,
            "p99_ms": staying["latency_us"]["p99"] / 1000,
            "heartbeat_p99_ms": staying["heartbeat_us"]["p99"] / 1000,
            "longest_ms": staying["heartbeat_us"]["max"] / 1000,
            "memory_mb": memory / 1e6,
            "peak_mb": self.server.peak_memory() / 1e6,
        }

    async def _check(self, before: dict[str, float], result: str) -> None:
        """See that the clients began where they were meant to."""
        name = f'replay_joins_total{{result="{result}"}}'
        found = await asyncio.to_thread(metrics, self.server.port)
        if found[name] - before[name] != self.clients:
            raise RuntimeError(f"{found[name] - before[name]:.0f} clients {result}")


@contextlib.asynccontextmanager
async def stage(bench: Bench, clients: int) -> AsyncIterator[Stage]:
    """Yield a server with its clients."""
    bench.connection.execute(
        f"drop publication if exists storm; create publication storm for table {CROWDED}, {QUIET}"
    )
    # Whoever waits for a busy machine is not to be given up: what counts is processor time.
    settings = {
        "EXPOSE_METRICS": "true",
        "HANDSHAKE_TIMEOUT": "120000",
        "IDLE_TIMEOUT": "300000",
    }
    async with contextlib.AsyncExitStack() as stack:
        server = stack.enter_context(bench.server(OURS, "storm", **settings))
        crowd = await bench.client(
            server.port,
            clients,
            f"realtime:public:{CROWDED}",
            heartbeat=HEARTBEAT,
            inflight=min(clients, AT_ONCE),
        )
        await stack.enter_async_context(crowd)
        staying = await bench.client(
            server.port, STAYING, f"realtime:public:{QUIET}", heartbeat=OFTEN
        )
        await stack.enter_async_context(staying)
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, bench.dsn, stdin=PIPE
        )
        assert writer.stdin is not None
        yield Stage(bench, server, clients, crowd, staying, writer)
        writer.stdin.close()
        await writer.wait()


def medians(rows: list[Row]) -> Row:
    return {name: round(statistics.median(row[name] for row in rows), 3) for name in rows[0]}


def ratio(rows: list[Row], others: list[Row], name: str) -> float:
    """Compare storms of the same rounds."""
    pairs = zip(rows, others, strict=True)
    return round(statistics.median(one[name] / other[name] for one, other in pairs), 3)


async def storms(bench: Bench, clients: int, rounds: int) -> Row:
    """Let the three storms take turns."""
    kinds = (FRESH, MISSED_NOTHING, MISSED_SOME)
    found: dict[str, list[Row]] = {kind: [] for kind in kinds}
    live: list[float] = []
    async with stage(bench, clients) as here:
        for _ in range(rounds):
            live.append(await here.live())
            for kind in kinds:
                found[kind].append(await here.storm(kind))
                print(kind, medians(found[kind][-1:]), flush=True)
    some, nothing, fresh = found[MISSED_SOME], found[MISSED_NOTHING], found[FRESH]
    cost = "cpu_us_per_client"
    replayed = [(a[cost] - b[cost]) / MISSED for a, b in zip(some, nothing, strict=True)]
    return {
        "clients": clients,
        "missed": MISSED,
        **{kind: medians(rows) for kind, rows in found.items()},
        "cpu_to_fresh": ratio(some, fresh, cost),
        "cpu_of_nothing_to_fresh": ratio(nothing, fresh, cost),
        "cpu_us_per_replayed_frame": round(statistics.median(replayed), 3),
        "cpu_us_per_live_frame": round(statistics.median(live), 3),
        "replayed_to_live": round(
            statistics.median(a / b for a, b in zip(replayed, live, strict=True)), 3
        ),
        "p99_to_nothing": ratio(some, nothing, "p99_ms"),
        "memory_growth_mb": round(some[-1]["peak_mb"] - some[0]["peak_mb"], 1),
    }


async def main(clients: list[int]) -> None:
    result: Row = {"environment": environment("websockets", "orjson", "psycopg")}
    with open_bench() as bench:
        for count in clients or CLIENTS:
            row = await storms(bench, count, ROUNDS if count <= CLIENTS[0] else FEW_ROUNDS)
            result[str(count)] = row
            print("\n".join(f"{name}: {value}" for name, value in row.items()), flush=True)
    if not clients:
        print(save("replay_storm", "python -m benchmarks.replay_storm", result))


if __name__ == "__main__":
    asyncio.run(main([int(argument) for argument in sys.argv[1:]]))
