"""One change on thousands of sockets: how fast, how late, how fair, in how much memory.

    python -m benchmarks.fanout            # all of it, three minutes
    python -m benchmarks.fanout deflate    # one part

PostgreSQL, the servers and the load client are processes of their own on this machine. The
server's own write path is compared, in turns within one run, with the same server writing by
`websockets.broadcast` and by `await send()` in a loop, and with a loop in C that writes the
same frames to the same number of sockets. "In step" means that the next transaction is
written when the last one has arrived everywhere, so each is a wake-up of its own. Where the time
from commit to receipt is measured, clients send heartbeats, as real ones do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import psycopg

from benchmarks._report import environment, save
from benchmarks.load.programs import Client, Floor, compile_programs, cpu_time
from realtime_server.demo.embedded import EmbeddedPostgres
from tests.server_process import ServerProcess

OURS, BROADCAST, SEND, FLOOR = "ours", "websockets.broadcast", "await send", "C loop"
# Each server has a table of its own, so that all may run at the same time.
TABLES = {OURS: "item_1", BROADCAST: "item_2", SEND: "item_3"}
WRITE_PATHS = {OURS: "own", BROADCAST: "broadcast", SEND: "send"}
DATA = "repeat('x', 376)"
# What compresses as well as what people write does; it depends on the row, lest it be the same
# for all.
WORDS = (
    "(select left(string_agg((string_to_array("
    "'the of and to in is that was for it with as his on be at by this had not are but', ' '"
    ")) [1 + abs(hashint4(g * 100 + w)) %% 22] || abs(hashint4(w * g)) %% 10, ' '), 376)"
    " from generate_series(1, 100) w)"
)
FRAME_BYTES = 750
ROUNDS = 5
HEARTBEAT = 25_000
"""Milliseconds between two of a client's, as stock clients have it."""
INSERT = "insert into {} (data) select {} from generate_series(1, %s::int) g"
WRITER = """
import sys, time, psycopg
dsn, statement, transactions, rows, rate = sys.argv[1:]
connection = psycopg.connect(dsn, autocommit=True)
start = time.perf_counter()
for number in range(int(transactions)):
    if float(rate):
        time.sleep(max(0, start + number / float(rate) - time.perf_counter()))
    connection.execute(statement, (int(rows),), prepare=True)
"""

Row: TypeAlias = dict[str, Any]


class Bench:
    """The database and the compiled programs."""

    def __init__(self, dsn: str, directory: Path) -> None:
        self.dsn = dsn
        self.directory = directory
        self.connection = psycopg.connect(dsn, autocommit=True)
        for table in TABLES.values():
            self.connection.execute(
                f"drop publication if exists {table}; drop table if exists {table};"
                f"create table {table} (id bigserial primary key, data text);"
                f"create publication {table} for table {table}"
            )
        self.connection.execute(
            "drop publication if exists keyed; drop table if exists keyed;"
            "create table keyed (id bigserial primary key, key int, data text);"
            "create publication keyed for table keyed"
        )

    @contextlib.contextmanager
    def server(self, variant: str, table: str | None = None, **settings: str) -> Iterator[Any]:
        settings["PUBLICATIONS"] = f'["{table or TABLES[variant]}"]'
        settings["BENCH_WRITE_PATH"] = WRITE_PATHS[variant]
        with ServerProcess(self.dsn, module="benchmarks.load.variants", **settings) as server:
            server.wait_until_streaming()
            try:
                yield server
                path = WRITE_PATHS[variant]
                if variant != OURS and f"writes by {path}\n" not in server.log:
                    raise RuntimeError(f"the server did not write by {path}")
            except Exception:
                print(*server.log[-10:], sep="", file=sys.stderr)
                raise

    def client(self, port: int, count: int, topic: str, **options: int) -> Awaitable[Client]:
        # Else they are all of one address, and nobody could tell which of them comes back.
        return Client.join(self.directory, port, count, topic, **{"sessions": 1, **options})

    async def write(self, table: str, transactions: int, rows: int, rate: float) -> None:
        """Write from a process of its own, so many transactions a second, 0: all at once."""
        writer = await asyncio.create_subprocess_exec(
            sys.executable, "-c", WRITER, self.dsn, INSERT.format(table, DATA),
            str(transactions), str(rows), str(rate),
        )  # fmt: skip
        if await writer.wait():
            raise RuntimeError("the writer failed")


class WritePath:
    """Somebody who writes to sockets, and the client that reads them."""

    def __init__(self, name: str, pid: int, client: Client, clients: int, send: Any) -> None:
        self.name = name
        self.pid = pid
        self.client = client
        self.clients = clients
        self._send = send
        self.rates: list[float] = []
        self.costs: list[float] = []

    async def run(self, transactions: int, rows: int) -> None:
        """Write transactions in step; note frames a second, processor time a frame."""
        cpu, seconds = cpu_time(self.pid), 0.0
        for _ in range(transactions):
            await self.client.expect(rows)
            await self._send(rows)
            seconds += await self.client.arrived()
        frames = self.clients * transactions * rows
        self.rates.append(frames / seconds)
        self.costs.append((cpu_time(self.pid) - cpu) / frames * 1e6)
        await self.client.report()


@contextlib.asynccontextmanager
async def write_paths(
    bench: Bench,
    clients: int,
    *names: str,
    deflate: int = 0,
    heartbeat: int = 0,
    data: str = DATA,
    **settings: str,
) -> AsyncIterator[list[WritePath]]:
    async with contextlib.AsyncExitStack() as stack:
        found = []
        for name in names:
            if name == FLOOR:
                floor, port = await Floor.start(bench.directory, clients, FRAME_BYTES)
                await stack.enter_async_context(floor)
                client = await bench.client(port, clients, "realtime:public:item")
                await floor.ready()
                send, pid = floor.write, floor.pid
            else:
                table = TABLES[name]
                server = stack.enter_context(bench.server(name, **settings))
                topic = f"realtime:public:{table}"
                options = {"deflate": deflate, "heartbeat": heartbeat}
                client = await bench.client(server.port, clients, topic, **options)
                pid = server.process.pid

                async def send(rows: int, statement: str = INSERT.format(table, data)) -> None:
                    bench.connection.execute(statement, (rows,), prepare=True)

            await stack.enter_async_context(client)
            found.append(WritePath(name, pid, client, clients, send))
        yield found


def ratios(found: list[WritePath]) -> Iterator[Row]:
    """Compare each with all others, round by round."""
    for path in found:
        row: Row = {
            "write path": path.name,
            "frames_per_second": round(statistics.median(path.rates)),
            "cpu_us_per_frame": round(statistics.median(path.costs), 2),
        }
        for other in found:
            if other is not path:
                speed = zip(path.rates, other.rates, strict=True)
                cost = zip(other.costs, path.costs, strict=True)
                row[f"to {other.name}"] = {
                    "frames_per_second": round(statistics.median(a / b for a, b in speed), 2),
                    "frames_per_cpu_second": round(statistics.median(a / b for a, b in cost), 2),
                }
        yield row


async def in_step(
    bench: Bench, clients: int, rows: int, transactions: int, *names: str, **settings: Any
) -> list[Row]:
    """Transactions one after the other, each server in turn."""
    async with write_paths(bench, clients, *names, **settings) as found:
        for path in found:
            await path.run(2, rows)
            path.rates.clear()
            path.costs.clear()
        for _ in range(ROUNDS):
            for path in found:
                await path.run(transactions, rows)
    return [{"clients": clients, "rows": rows, **row} for row in ratios(found)]


# The parts.


async def throughput(bench: Bench) -> list[Row]:
    rows = []
    for clients, count, transactions in ((1000, 1, 20), (1000, 10, 8)):
        rows += await in_step(bench, clients, count, transactions, OURS, BROADCAST, SEND, FLOOR)
    rows += await in_step(bench, 5000, 1, 6, OURS, BROADCAST, FLOOR)
    return rows


async def one_client(bench: Bench) -> list[Row]:
    """What a row costs before the fan-out, and how fast one client gets many."""
    rows = []
    for count, transactions in ((1, 200), (10, 100)):
        async with write_paths(bench, 1, OURS) as [path]:
            await path.run(transactions, count)
        rows.append({"clients": 1, "rows": count, "cpu_us_per_row": round(path.costs[0], 1)})
    async with write_paths(bench, 1, OURS) as [path]:
        await path.run(1, 20_000)
    rows.append(
        {
            "clients": 1,
            "rows": 20_000,
            "cpu_us_per_row": round(path.costs[0], 1),
            "rows_per_second": round(path.rates[0]),
        }
    )
    return rows


async def all_at_once(bench: Bench, **options: Any) -> list[Row]:
    """Transactions of one row, as fast as PostgreSQL commits them."""
    rows: list[Row] = []
    clients, transactions = 1000, 500
    for name in (OURS, BROADCAST):
        async with write_paths(bench, clients, name, **options) as [path]:
            cpu = cpu_time(path.pid)
            await path.client.expect(transactions)
            await bench.write(TABLES[name], transactions, 1, 0)
            await path.client.arrived()
            cpu = cpu_time(path.pid) - cpu
            report = await path.client.report()
        rows.append(
            {
                "write path": name,
                "clients": clients,
                "transactions": transactions,
                "frames_per_second": round(report["frames"] / report["seconds"]),
                "cpu_us_per_frame": round(cpu / report["frames"] * 1e6, 2),
            }
        )
    return rows


async def latency(bench: Bench) -> list[Row]:
    """From commit to receipt, at a given rate."""
    rows = []
    for clients, rate in ((1000, 20), (5000, 5)):
        async with write_paths(bench, clients, OURS, BROADCAST, heartbeat=HEARTBEAT) as found:
            for path in found * 2:
                rows.append(await timed(bench, path, TABLES[path.name], rate, seconds=4))
    return rows


async def timed(
    bench: Bench, path: WritePath, table: str, rate: int, *, seconds: int, rows: int = 1
) -> Row:
    cpu = cpu_time(path.pid)
    await path.client.expect(rate * seconds * rows)
    await bench.write(table, rate * seconds, rows, rate)
    await path.client.arrived()
    cpu = cpu_time(path.pid) - cpu
    report = await path.client.report()
    return {
        "write path": path.name,
        "clients": path.clients,
        "transactions_per_second": rate,
        "rows": rows,
        **_milliseconds(report["latency_us"]),
        "heartbeats": report["heartbeat_us"]["n"],
        "cpu_us_per_frame": round(cpu / report["frames"] * 1e6, 2),
    }


def _milliseconds(microseconds: dict[str, int]) -> Row:
    names = ("p50", "p99", "max")
    return {f"{name}_ms": round(microseconds[name] / 1000, 1) for name in names}


async def topics(bench: Bench) -> list[Row]:
    """A thousand clients, each with a filter of its own; a row for each in a transaction."""
    clients = 1000
    statement = (
        f"insert into keyed (key, data) select g %% {clients}, {DATA}"
        " from generate_series(1, %s::int) g"
    )
    with bench.server(OURS, "keyed") as server:
        topic = "realtime:public:keyed:key=eq.%d"
        async with await bench.client(server.port, clients, topic) as client:

            async def send(rows: int) -> None:
                bench.connection.execute(statement, (rows * clients,), prepare=True)

            # One row for each client is one frame for each.
            path = WritePath(OURS, server.process.pid, client, clients, send)
            for _ in range(ROUNDS):
                await path.run(4, 1)
    return [
        {
            "clients": clients,
            "topics": clients,
            "frames_per_second": round(statistics.median(path.rates)),
            "cpu_us_per_frame": round(statistics.median(path.costs), 1),
        }
    ]


async def idle(bench: Bench) -> list[Row]:
    """What a connection takes while nothing happens."""
    rows = []
    for clients, joined in ((10_000, False), (10_000, True)):
        with bench.server(OURS) as server:
            before = resident(server.process.pid)
            topic = f"realtime:public:{TABLES[OURS]}"
            options = {} if joined else {"idle": 1}
            async with await bench.client(server.port, clients, topic, **options):
                grown = resident(server.process.pid) - before
        rows.append(
            {
                "connections": clients,
                "joined": joined,
                "kib_each": round(grown / clients / 1024, 1),
            }
        )
    return rows


def resident(pid: int) -> int:
    """Bytes of memory that a process has now."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def deflate(bench: Bench) -> list[Row]:
    """With permessage-deflate; the library, as it is by default, deflates for each client."""
    rows = []
    options: dict[str, Any] = {"deflate": 1, "WEBSOCKET_COMPRESSION": "true"}
    for count, transactions in ((1, 6), (10, 3)):
        rows += await in_step(
            bench, 1000, count, transactions, OURS, BROADCAST, data=WORDS, **options
        )
    return rows + await all_at_once(bench, **options)


async def fairness(bench: Bench) -> list[Row]:
    """Fifty of a thousand stop reading: what the others notice, and what it takes."""
    clients, stuck, bound = 1000, 50, 256 * 1024
    found: list[Row] = []
    for stalled in (0, stuck) * 2:
        with bench.server(OURS, OUTBOX_MAX_BYTES=str(bound)) as server:
            topic = f"realtime:public:{TABLES[OURS]}"
            options = {"stalled": stalled, "heartbeat": HEARTBEAT}
            async with await bench.client(server.port, clients, topic, **options) as client:
                path = WritePath(OURS, server.process.pid, client, clients, None)
                before = server.peak_memory()
                row = await timed(bench, path, TABLES[OURS], 20, seconds=6, rows=10)
                dropped = sum("too slow" in line for line in server.log)
                grown = (server.peak_memory() - before) / 2**20
                found.append(
                    {"stuck": stalled, "cut_off": dropped, **row, "grown_mib": round(grown, 1)}
                )
    without, with_stuck = (
        min(row["p99_ms"] for row in found if row["stuck"] == stalled) for stalled in (0, stuck)
    )
    return [*found, {"p99_to_without": round(with_stuck / without, 2)}]


async def heartbeats(bench: Bench) -> list[Row]:
    """How long a heartbeat waits for its reply while a large transaction is handed out."""
    rows = []
    for clients, transactions, count, rate in (
        (1, 1, 100_000, 0),
        (20, 1, 100_000, 0),
        (1000, 1, 2_000, 0),
        # 20,000 frames a second.
        (1000, 60, 1, 20),
    ):
        with bench.server(OURS) as server:
            topic = f"realtime:public:{TABLES[OURS]}"
            async with await bench.client(server.port, clients, topic, probe=20) as client:
                await asyncio.sleep(0.5)
                await client.report()
                await client.expect(transactions * count)
                await bench.write(TABLES[OURS], transactions, count, rate)
                await client.arrived()
                report = await client.report()
        rows.append(
            {
                "clients": clients,
                "transactions": transactions,
                "rows": count,
                "frames_per_second": round(report["frames"] / report["seconds"]),
                **_milliseconds(report["probe_us"]),
            }
        )
    return rows


PARTS: dict[str, Callable[[Bench], Awaitable[list[Row]]]] = {
    "in step": throughput,
    "one client": one_client,
    "all at once": all_at_once,
    "latency": latency,
    "topics": topics,
    "idle": idle,
    "deflate": deflate,
    "fairness": fairness,
    "heartbeats": heartbeats,
}


@contextlib.contextmanager
def open_bench() -> Iterator[Bench]:
    """Yield the database that BENCH_DSN names, or a new one, and the compiled programs."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        compile_programs(directory)
        dsn = os.environ.get("BENCH_DSN") or stack.enter_context(EmbeddedPostgres()).dsn
        bench = Bench(dsn, directory)
        stack.callback(bench.connection.close)
        yield bench


async def run_parts(
    benchmark: str, parts: Mapping[str, Callable[[Bench], Awaitable[list[Row]]]], wanted: list[str]
) -> None:
    """Run the parts of a benchmark, print their rows, and save them if all parts are run.

    Args:
        benchmark: the benchmark's name.
        parts: the parts by name.
        wanted: the names of the parts to run; empty: all of them.
    """
    result: dict[str, Any] = {"environment": environment("websockets", "orjson", "psycopg")}
    with open_bench() as bench:
        result["environment"]["postgresql"] = bench.connection.info.server_version
        for name, part in parts.items():
            if wanted and name not in wanted:
                continue
            begin = time.perf_counter()
            print(f"-- {name}: {(part.__doc__ or 'each write path in turns').splitlines()[0]}")
            result[name] = await part(bench)
            for row in result[name]:
                print("  ".join(f"{key}: {value}" for key, value in row.items()))
            print(f"   ({time.perf_counter() - begin:.0f} s)", flush=True)
    if not wanted:
        print(save(benchmark, f"python -m benchmarks.{benchmark}", result))


if __name__ == "__main__":
    asyncio.run(run_parts("fanout", PARTS, sys.argv[1:]))
