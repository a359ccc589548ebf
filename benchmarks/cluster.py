"""What it costs to share one slot through a log on NATS JetStream, and what follows from it.

    python -m benchmarks.cluster                      # all of it, five minutes
    python -m benchmarks.cluster step latency         # some parts; saves nothing
    python -m benchmarks.cluster large --rows 10000000

The ways from the database to the clients take turns within one run: one process that reads its slot
by itself; in "latency" also two workers; and one process that reads the log, which another one
fills. PostgreSQL, NATS, the servers and the clients, which send heartbeats, share the cores.

"step": each way has a thousand clients, and the next transaction is written when the last one has
arrived everywhere. "latency": from COMMIT to a hundred clients. "backlog": the servers stand still
while transactions of a hundred rows are written, and are timed when they go on, at first with one
client of another table, then with one that gets all; over the log they keep a journal. "takeover":
the server that leads is killed, until the next row arrives from another one. "large": one
transaction that has more than the log keeps, to a server with so many clients that it cannot go as
fast as the one that leads.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import psycopg

from benchmarks._cluster import (
    Row,
    Way,
    await_ready,
    joined,
    log_ends_behind,
    log_of,
    make_table,
    nats_server,
    over_the_log,
    ratio,
    single,
    two_workers,
)
from benchmarks._report import environment, percentile, save
from benchmarks.fanout import DATA, INSERT, WRITER
from benchmarks.load.programs import Client, compile_programs
from realtime_server.demo.embedded import EmbeddedPostgres
from tests.nats_server import NatsServer
from tests.raw_client import RawClient
from tests.server_process import ServerProcess

ROUNDS = 7
CLIENTS = 1000
LATENCY_CLIENTS, RATE, SECONDS = 100, 100, 3
BACKLOG_ROUNDS, BACKLOG, PER_TRANSACTION = 5, 100_000, 100
TAKEOVERS = 20
LARGE_CLIENTS, LARGE_ROWS = 10, 1_000_000
MIB = 2**20
LOG_BYTES = 1024 * MIB
"""What the log keeps of ten million rows, a quarter; of fewer rows as many less, but ..."""
LEAST_LOG_BYTES = 256 * MIB
"""... no less: in the second until it hears how far a server is, the leader appends up to 50 MB."""


@attrs.define
class Bench:
    """The database, NATS and the compiled programs."""

    dsn: str
    directory: Path
    connection: psycopg.Connection
    nats: NatsServer
    large_rows: int = LARGE_ROWS

    @contextlib.contextmanager
    def ways(self, *others: Any, journal: bool = False) -> Iterator[list[Way]]:
        """Serve by one process, in the other ways, and over the log, there with a journal or
        without one."""
        with contextlib.ExitStack() as stack:
            for table in ("item_one", "item_two", "item_log"):
                make_table(self.connection, table)
            opened = [single(self.dsn), *(way(self.dsn) for way in others)]
            opened.append(over_the_log(self.dsn, self.nats, journal=journal))
            yield [stack.enter_context(way) for way in opened]

    def insert(self, table: str, rows: int) -> None:
        self.connection.execute(INSERT.format(table, DATA), (rows,), prepare=True)

    async def write_backlog(self, table: str) -> int:
        """Write transactions, and one more to another table; return an LSN between the two."""
        self.connection.execute(f"truncate {table}")
        await asyncio.to_thread(
            self.connection.execute,
            f"do $$ begin for i in 1..{BACKLOG // PER_TRANSACTION} loop insert into {table} (data)"
            f" select {DATA} from generate_series(1, {PER_TRANSACTION}); commit; end loop; end $$",
        )
        row = self.connection.execute("select pg_current_wal_insert_lsn() - '0/0'").fetchone()
        assert row is not None
        self.insert(f"other_{table}", 1)
        return int(row[0])


async def step(bench: Bench) -> list[Row]:
    """A thousand clients: the next transaction when the last has arrived everywhere."""
    found = []
    with bench.ways() as ways:
        async with joined(bench.directory, ways, CLIENTS):
            for rows, transactions in ((1, 20), (10, 8)):
                rates: list[list[float]] = [[] for _ in ways]
                costs: list[list[dict[str, float]]] = [[] for _ in ways]
                for number in range(ROUNDS + 1):
                    for way, rate, cost in zip(ways, rates, costs, strict=True):
                        before, seconds = way.cpu(), 0.0
                        for _ in range(transactions):
                            await way.client.expect(rows)
                            bench.insert(way.table, rows)
                            seconds += await way.client.arrived()
                        frames = CLIENTS * transactions * rows
                        await way.client.report()
                        if number:  # The first one warms up.
                            rate.append(frames / seconds)
                            cost.append(way.used_since(before, frames))
                found += [
                    {
                        "way": way.name,
                        "clients": CLIENTS,
                        "rows": rows,
                        "frames_per_second": round(statistics.median(rate)),
                        "to_one_process": ratio(rate, rates[0]),
                        "cpu_us_per_frame": _medians(cost, 3),
                    }
                    for way, rate, cost in zip(ways, rates, costs, strict=True)
                ]
    return found


async def latency(bench: Bench) -> list[Row]:
    """From COMMIT to a hundred clients, at a hundred rows a second."""
    rows = RATE * SECONDS
    with bench.ways(two_workers) as ways:
        medians: list[list[float]] = [[] for _ in ways]
        late: list[list[float]] = [[] for _ in ways]
        async with joined(bench.directory, ways, LATENCY_CLIENTS):
            for number in range(ROUNDS + 1):
                for way, median, p99 in zip(ways, medians, late, strict=True):
                    await way.client.expect(rows)
                    writer = await asyncio.create_subprocess_exec(
                        *(sys.executable, "-c", WRITER, bench.dsn, INSERT.format(way.table, DATA)),
                        *map(str, (rows, 1, RATE)),
                    )
                    if await writer.wait():
                        raise RuntimeError("the writer failed")
                    await way.client.arrived()
                    times = (await way.client.report())["latency_us"]
                    if number:
                        median.append(times["p50"] / 1000)
                        p99.append(times["p99"] / 1000)
    return [
        {
            "way": way.name,
            "clients": LATENCY_CLIENTS,
            "rows_per_second": RATE,
            "p50_ms": round(statistics.median(median), 2),
            "p99_ms": round(statistics.median(p99), 2),
            "p50_to_one_process": ratio(median, medians[0]),
        }
        for way, median, p99 in zip(ways, medians, late, strict=True)
    ]


async def backlog(bench: Bench) -> list[Row]:
    """Transactions of a hundred rows that were written before they are read."""
    with bench.ways(journal=True) as ways:
        found = []
        for wanted in (False, True):
            topic = "{}" if wanted else "other_{}"
            async with joined(bench.directory, ways, 1, topic):
                found += await _backlogs(bench, *ways, wanted=wanted)
    return found


async def _backlogs(bench: Bench, alone: Way, shared: Way, *, wanted: bool) -> list[Row]:
    names = ("one process", "leader", "server")
    seconds: dict[str, list[float]] = {name: [] for name in names}
    costs: dict[str, list[float]] = {name: [] for name in names}
    expected = BACKLOG if wanted else 1

    def note(name: str, way: Way, process: str, began: float, before: dict[str, float]) -> None:
        seconds[name].append(time.perf_counter() - began)
        costs[name].append(way.used_since(before, BACKLOG)[process])

    async with log_of(shared) as log:
        for number in range(BACKLOG_ROUNDS + 1):
            for way in (alone, shared):
                await way.client.expect(expected)
                names_here = [name for name in way.processes if name != "nats"]
                way.pause(*names_here)
                behind = await bench.write_backlog(way.table)
                began, before = time.perf_counter(), way.cpu()
                way.resume(names_here[0])
                if way is shared:
                    await log_ends_behind(log, behind)
                    note("leader", way, "leader", began, before)
                    began, before = time.perf_counter(), way.cpu()
                    way.resume("server")
                await way.client.arrived()
                note("server" if way is shared else "one process", way, "server", began, before)
                await way.client.report()
            if not number:  # It has warmed up.
                for name in names:
                    seconds[name].clear()
                    costs[name].clear()
    return [
        {
            "clients": "one" if wanted else "one of another table",
            "who": name,
            "rows": BACKLOG,
            "cpu_us_per_row": round(statistics.median(costs[name]), 2),
            "cpu_to_one_process": ratio(costs[name], costs["one process"]),
            "rows_per_second": round(BACKLOG / statistics.median(seconds[name])),
            "rows_per_second_to_one_process": ratio(seconds["one process"], seconds[name]),
        }
        for name in names
    ]


async def takeover(bench: Bench) -> list[Row]:
    """From SIGKILL of the server that leads to the next row on a socket of another one."""
    times = []
    make_table(bench.connection, "item_next")
    settings: dict[str, Any] = {
        "PUBLICATIONS": '["item_next"]',
        "SLOT_NAME": "bench_item_next",
        "NATS_URL": bench.nats.url,
    }
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(ServerProcess(bench.dsn, **settings))
        await asyncio.to_thread(await_ready, first)
        for _ in range(TAKEOVERS):
            second = stack.enter_context(ServerProcess(bench.dsn, **settings))
            await asyncio.to_thread(await_ready, second)
            client = await RawClient.join(second.port, "realtime:public:item_next")
            # At any time between two of its looks whether the slot is free.
            await asyncio.sleep(random.random())
            begin = time.perf_counter()
            first.process.kill()
            while not client.ids:
                bench.insert("item_next", 1)
                await asyncio.sleep(0.01)
            times.append(time.perf_counter() - begin)
            client.close()
            first.process.wait()
            first = second
    return [
        {
            "takeovers": TAKEOVERS,
            "seconds_median": round(percentile(times, 0.5), 2),
            "seconds_max": round(max(times), 2),
        }
    ]


async def large(bench: Bench) -> list[Row]:
    """One transaction that has more than the log keeps."""
    rows, table = bench.large_rows, "item_large"
    make_table(bench.connection, table)
    log_bytes = max(LOG_BYTES * rows // 10_000_000, LEAST_LOG_BYTES)
    settings: dict[str, Any] = {
        "PUBLICATIONS": f'["{table}"]',
        "SLOT_NAME": f"bench_{table}",
        "NATS_URL": bench.nats.url,
        "LOG_MAX_BYTES": str(log_bytes),
        # What is kept for clients that come back has a bound of its own, REPLAY_MEMORY_MB.
        "REPLAY_WINDOW": "0",
    }
    with (
        ServerProcess(bench.dsn, **settings) as leading,
        ServerProcess(bench.dsn, CLUSTER_ROLE="server", **settings) as server,
    ):
        await asyncio.to_thread(await_ready, server)
        topic = f"realtime:public:{table}"
        options = {"sessions": 1, "heartbeat": 25_000, "probe": 20}
        join = Client.join(bench.directory, server.port, LARGE_CLIENTS, topic, **options)
        async with await join as client:
            await client.expect(20_000)
            bench.insert(table, 20_000)
            await client.arrived()
            await client.report()
            before = [each.forget_peak_memory() for each in (leading, server)]
            await client.expect(rows)
            await asyncio.to_thread(bench.insert, table, rows)
            try:
                seconds = await client.arrived(within=1800)
            except RuntimeError as exc:
                exc.add_note("".join(server.log[-10:]))
                raise
            report = await client.report()
            grown = [
                round((each.peak_memory() - size) / MIB, 1)
                for each, size in zip((leading, server), before, strict=True)
            ]
            if report["frames"] != rows * LARGE_CLIENTS:
                raise RuntimeError(f"rows are missing: {report}")
    waits = [line for line in leading.log if "reading changes again after" in line]
    return [
        {
            "rows": rows,
            "log_mib": round(log_bytes / MIB),
            "clients": LARGE_CLIENTS,
            "rows_per_second": round(rows / seconds),
            "leader_grown_mib": grown[0],
            "server_grown_mib": grown[1],
            "heartbeat_p99_ms": round(report["probe_us"]["p99"] / 1000, 1),
            "heartbeat_max_ms": round(report["probe_us"]["max"] / 1000, 1),
            "held_back": len(waits),
        }
    ]


def _medians(rows: list[dict[str, float]], digits: int) -> dict[str, float]:
    return {name: round(statistics.median(row[name] for row in rows), digits) for name in rows[0]}


PARTS: dict[str, Callable[[Bench], Awaitable[list[Row]]]] = {
    "step": step,
    "latency": latency,
    "backlog": backlog,
    "takeover": takeover,
    "large": large,
}


async def main() -> None:
    parser = argparse.ArgumentParser(description="What a log that servers share costs.")
    parser.add_argument("parts", nargs="*", help=f"some of {', '.join(PARTS)}; saves nothing")
    parser.add_argument("--rows", type=int, default=LARGE_ROWS, help="of the large transaction")
    arguments = parser.parse_args()
    result: dict[str, Any] = {"environment": environment("psycopg", "websockets", "nats-py")}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        compile_programs(directory)
        dsn = os.environ.get("BENCH_DSN") or stack.enter_context(EmbeddedPostgres()).dsn
        connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        nats = stack.enter_context(nats_server(directory))
        bench = Bench(dsn, directory, connection, nats, arguments.rows)
        for name in arguments.parts or PARTS:
            begin = time.perf_counter()
            result[name] = await PARTS[name](bench)
            for row in result[name]:
                print("  ".join(f"{key}: {value}" for key, value in row.items()))
            print(f"({name}: {time.perf_counter() - begin:.0f} s)", flush=True)
    if not arguments.parts:
        print(f"saved {save('cluster', 'python -m benchmarks.cluster', result)}")


if __name__ == "__main__":
    asyncio.run(main())
