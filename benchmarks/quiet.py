"""What a change costs while little happens, and how late it arrives.

    python -m benchmarks.quiet                     # two minutes
    python -m benchmarks.quiet --against ../former  # in turns with another checkout's server

Five hundred transactions a second of one row each, of which each goes to one of twenty clients
and wakes everybody on its way: nothing is shared, nothing comes together. The figure is the
server's processor time, in user and system mode, which other programs of the machine change
less than the clock. Then the time from COMMIT to one client that also sends heartbeats, as all
real ones do. PostgreSQL, the server, the load client and the writer are processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias

import psycopg

from benchmarks._report import environment, save
from benchmarks.load.programs import Client, compile_programs, cpu_time
from realtime_server.demo.embedded import EmbeddedPostgres
from tests.server_process import ServerProcess

OURS, FORMER = "ours", "former"
CLIENTS = 20
ROUNDS = 5
# (transactions a second, seconds)
COSTS = [(500, 4), (100, 6)]
# (rows a second, milliseconds between two heartbeats, seconds)
LATENCIES = [(100, 50, 6), (100, 25_000, 6)]
WRITER = """
import sys, time, psycopg
dsn, clients, transactions, rate = sys.argv[1], *map(int, sys.argv[2:])
connection = psycopg.connect(dsn, autocommit=True)
statement = "insert into quiet (key, data) values (%s::int, repeat('x', 376))"
start = time.perf_counter()
for number in range(transactions):
    time.sleep(max(0, start + number / rate - time.perf_counter()))
    connection.execute(statement, (number % clients,), prepare=True)
"""

Row: TypeAlias = dict[str, Any]


class Bench:
    """The database, the compiled programs, and the checkouts whose servers take turns."""

    def __init__(self, dsn: str, directory: Path, checkouts: dict[str, Path]) -> None:
        self.dsn = dsn
        self.directory = directory
        self.checkouts = checkouts
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(
                "drop publication if exists quiet; drop table if exists quiet;"
                "create table quiet (id bigserial primary key, key int, data text);"
                "create publication quiet for table quiet"
            )
            self.version = connection.info.server_version

    @contextlib.contextmanager
    def server(self, checkout: Path, event_loop: str) -> Iterator[ServerProcess]:
        # A safe path has no current directory ahead of what is named here.
        where = {"PYTHONPATH": str(checkout), "PYTHONSAFEPATH": "1"}
        settings = {"PUBLICATIONS": '["quiet"]', "EVENT_LOOP": event_loop, **where}
        with ServerProcess(self.dsn, **settings) as server:
            server.wait_until_streaming()
            yield server

    async def write(self, clients: int, transactions: int, rate: int) -> None:
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, self.dsn, *map(str, (clients, transactions, rate))
        )
        if await writer.wait():
            raise RuntimeError("the writer failed")

    async def round(
        self, checkout: Path, event_loop: str, clients: int, rate: int, seconds: int, **options: int
    ) -> Row:
        """Let a server of its own hand out rows at a rate; return what that took."""
        topic = "realtime:public:quiet" + (":key=eq.%d" if clients > 1 else "")
        with self.server(checkout, event_loop) as server:
            pid = server.process.pid
            join = Client.join(self.directory, server.port, clients, topic, **options)
            async with await join as client:
                # What is made once for a table, and cold caches, are no figures of a change.
                await self._run(client, clients, rate // 2, rate)
                begin = cpu_time(pid)
                report = await self._run(client, clients, rate * seconds, rate)
                return {"cpu": (cpu_time(pid) - begin) / report["frames"] * 1e6, **report}

    async def _run(self, client: Client, clients: int, transactions: int, rate: int) -> Row:
        await client.expect(transactions // clients)
        await self.write(clients, transactions, rate)
        await client.arrived()
        return await client.report()

    async def cost(self, event_loop: str, rate: int, seconds: int) -> list[Row]:
        """Return the processor time of a change."""
        found: dict[str, list[float]] = {name: [] for name in self.checkouts}
        for _ in range(ROUNDS):
            for name, checkout in self.checkouts.items():
                row = await self.round(checkout, event_loop, CLIENTS, rate, seconds)
                found[name].append(row["cpu"])
        return [
            {
                "server": name,
                "event_loop": event_loop,
                "clients": CLIENTS,
                "transactions_per_second": rate,
                "cpu_us_per_change": round(statistics.median(costs), 1),
                "least": round(min(costs), 1),
                "most": round(max(costs), 1),
                **self._ratio(costs, found, name),
            }
            for name, costs in found.items()
        ]

    def _ratio(self, costs: list[float], found: dict[str, list[float]], name: str) -> Row:
        """Compare with the former, round by round."""
        if name == FORMER or FORMER not in found:
            return {}
        pairs = zip(costs, found[FORMER], strict=True)
        return {"to former": round(statistics.median(a / b for a, b in pairs), 3)}

    async def latency(self, event_loop: str, rate: int, heartbeat: int, seconds: int) -> list[Row]:
        """Return how long after its commit a row arrives at the only client."""
        rows = []
        for _ in range(2):
            for name, checkout in self.checkouts.items():
                one = await self.round(checkout, event_loop, 1, rate, seconds, heartbeat=heartbeat)
                rows.append(
                    {
                        "server": name,
                        "event_loop": event_loop,
                        "rows_per_second": rate,
                        "heartbeat_ms": heartbeat,
                        **_milliseconds(one["latency_us"]),
                        "heartbeats": one.get("heartbeat_us", {}).get("n", 0),
                    }
                )
        return rows


def _milliseconds(microseconds: dict[str, int]) -> Row:
    return {f"{name}_ms": round(microseconds[name] / 1000, 2) for name in ("p50", "p99", "max")}


def _print(rows: list[Row]) -> None:
    for row in rows:
        print("  ".join(f"{key}: {value}" for key, value in row.items()), flush=True)


async def main() -> None:
    parser = argparse.ArgumentParser(description="What a change costs while little happens.")
    parser.add_argument("--against", type=Path, help="another checkout, for ratios")
    parser.add_argument("--event-loop", choices=("asyncio", "uvloop"), default="asyncio")
    parser.add_argument("--part", choices=("cost", "latency"), help="that alone; saves nothing")
    arguments = parser.parse_args()
    checkouts = {OURS: Path(__file__).parents[1]}
    if arguments.against is not None:
        checkouts[FORMER] = arguments.against.resolve(strict=True)
    result: Row = {"environment": environment("websockets", "orjson", "psycopg")}
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        compile_programs(directory)
        dsn = os.environ.get("BENCH_DSN") or stack.enter_context(EmbeddedPostgres()).dsn
        bench = Bench(dsn, directory, checkouts)
        result["environment"]["postgresql"] = bench.version
        for name, part, cases in (
            ("cost", bench.cost, COSTS),
            ("latency", bench.latency, LATENCIES),
        ):
            if arguments.part in (None, name):
                result[name] = []
                for case in cases:
                    rows = await part(arguments.event_loop, *case)  # type: ignore[operator]
                    _print(rows)
                    result[name] += rows
    if arguments.part is None:
        print(save("quiet", "python -m benchmarks.quiet", result))


if __name__ == "__main__":
    asyncio.run(main())
