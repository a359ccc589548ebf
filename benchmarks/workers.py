"""What several server processes on one port bring, and what they cost.

    python -m benchmarks.workers                # all of it, four minutes
    python -m benchmarks.workers latency        # one part

One process and two workers have the same settings, replay over restarts among them, and take turns
within one run. "In step" means that each serves a thousand clients, and the next transaction is
written when the last one has arrived everywhere. The clients send heartbeats as real ones do, and
discard what comes, as clients on other machines cost these cores nothing; once they look into it
instead. PostgreSQL and the clients share the cores with the servers, and what each program has
used of the processor is given. The processor time of two workers a frame is that of all three
processes. "Latency" is the time from COMMIT to a hundred clients, while a hundred rows a second are
written; it ends when the system has a message for its client, as on another machine the client need
not wait for these cores. Then a worker is killed several times, and the time is taken until another
one in its place accepts connections; and what comes to twenty clients of the other worker in the
three seconds that begin with the kill is compared with three before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import psycopg

from benchmarks._report import environment, percentile, save
from benchmarks.fanout import WRITER
from benchmarks.load.programs import Client, compile_programs, cpu_time
from realtime_server.demo.embedded import EmbeddedPostgres
from tests.raw_client import RawClient
from tests.server_process import ServerProcess, child_pids, worker_pids

COUNTS = (1, 2)
CLIENTS = 1000
LATENCY_CLIENTS = 100
ROUNDS = 7
KILLS = 10
RATE, SECONDS = 100, 5
WATCHERS, WATCHED_SECONDS = 20, 3
SETTINGS = {
    # Replay has as much to do in one process as in several.
    "REPLAY_SECRET": "s" * 32,
    # Clients that are not measured now send no heartbeats.
    "IDLE_TIMEOUT": "3600000",
}
HEARTBEAT = 25_000
"""Milliseconds between two of a client's, as stock clients have it."""
INSERT = "insert into {} (data) select repeat('x', 376) from generate_series(1, %s::int)"

OTHERS = ("clients", "PostgreSQL", "writer")
"""The programs that are not the server."""

Row: TypeAlias = dict[str, Any]


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1])


class Servers:
    """One process, or a supervisor and its workers, with clients.

    Args:
        server: the process that was started.
        table: of which each client gets the changes.
    """

    def __init__(self, server: ServerProcess, table: str) -> None:
        self.server = server
        self.table = table
        self.client: Client
        self.rates: list[float] = []
        self.costs: list[float] = []
        # The processor time of each program, a frame.
        self.shares: list[dict[str, float]] = []

    def workers(self) -> list[int]:
        return worker_pids(self.server.process.pid)

    def _times(self, postgres: int) -> dict[str, float]:
        """Return the processor time that each program has used."""
        workers = self.workers()
        return {
            "supervisor" if workers else "server": cpu_time(self.server.process.pid),
            **{f"worker {n}": cpu_time(pid) for n, pid in enumerate(workers, 1)},
            "clients": cpu_time(self.client.pid),
            "PostgreSQL": sum(cpu_time(pid) for pid in (postgres, *child_pids(postgres))),
            "writer": time.process_time(),
        }

    async def run(self, connection: psycopg.Connection, transactions: int, rows: int) -> None:
        """Write transactions in step; note frames a second, and processor time a frame."""
        postgres = parent(connection.info.backend_pid)
        before, seconds = self._times(postgres), 0.0
        for _ in range(transactions):
            await self.client.expect(rows)
            connection.execute(INSERT.format(self.table), (rows,), prepare=True)  # type: ignore[arg-type]
            seconds += await self.client.arrived()
        frames = CLIENTS * transactions * rows
        share = {
            name: (now - before[name]) / frames * 1e6 for name, now in self._times(postgres).items()
        }
        self.rates.append(frames / seconds)
        self.costs.append(sum(share[name] for name in share if name not in OTHERS))
        self.shares.append(share)
        await self.client.report()

    def share(self) -> dict[str, float]:
        """Return the medians of the processor time of each program, a frame."""
        return {
            name: round(statistics.median(share[name] for share in self.shares), 2)
            for name in self.shares[0]
        }


@contextlib.contextmanager
def serve(dsn: str, count: int) -> Iterator[Servers]:
    table = f"item_{count}"
    settings = {**SETTINGS, "PUBLICATIONS": f'["{table}"]', "SLOT_NAME": f"workers_{count}"}
    with ServerProcess(dsn, patience=120, WORKERS=str(count), **settings) as server:
        server.wait_until_streaming()
        try:
            yield Servers(server, table)
        except Exception:
            print(*server.log[-10:], sep="", file=sys.stderr)
            raise


async def in_step(
    connection: psycopg.Connection, found: list[Servers], rows: int, *, discard: bool
) -> Row:
    transactions = 50 if rows == 1 else 20
    for each in found:
        await each.run(connection, 1, rows)
        await each.client.discard(discard)
        await each.run(connection, 2, rows)
        each.rates, each.costs, each.shares = [], [], []
    for _ in range(ROUNDS):
        for each in found:
            await each.run(connection, transactions, rows)
    one, two = found
    rates = [b / a for a, b in zip(one.rates, two.rates, strict=True)]
    costs = [b / a for a, b in zip(one.costs, two.costs, strict=True)]
    result = {
        "clients": CLIENTS,
        "clients_discard": discard,
        "rows": rows,
        "frames_per_second": [round(statistics.median(each.rates)) for each in found],
        "cpu_us_per_frame": [round(statistics.median(each.costs), 2) for each in found],
        "cpu_us_per_frame_by_program": [each.share() for each in found],
        "two_to_one_frames_per_second": round(statistics.median(rates), 2),
        "two_to_one_cpu_per_frame": round(statistics.median(costs), 2),
    }
    for each in found:
        # What is looked into now has to follow what was discarded.
        await each.client.discard(False)
        await each.run(connection, 1, rows)
    return result


async def latency(dsn: str, found: list[Servers]) -> Row:
    """Write rows at a steady pace, in turns; return the median times of the rounds."""
    medians: list[list[float]] = [[] for _ in found]
    late: list[list[float]] = [[] for _ in found]
    for number in range(ROUNDS + 1):
        for each, median, p99 in zip(found, medians, late, strict=True):
            rows = RATE * SECONDS
            await each.client.expect(rows)
            writer = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", WRITER, dsn, INSERT.format(each.table)),
                *map(str, (rows, 1, RATE)),
            )
            if await writer.wait():
                raise RuntimeError("the writer failed")
            await each.client.arrived()
            times = (await each.client.report())["latency_us"]
            if number:
                median.append(times["p50"] / 1000)
                p99.append(times["p99"] / 1000)
    one, two = medians
    return {
        "clients": LATENCY_CLIENTS,
        "rows_per_second": RATE,
        "p50_ms": [round(statistics.median(each), 2) for each in medians],
        "p99_ms": [round(statistics.median(each), 2) for each in late],
        "two_to_one_p50": round(statistics.median(b / a for a, b in zip(one, two, strict=True)), 2),
    }


class Watcher(RawClient):
    """Notes when each row came."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.times += [time.perf_counter()] * (len(self.ids) - len(self.times))


async def restarts(dsn: str, servers: Servers) -> Row:
    """Kill workers, and see how long it takes until there are as many that listen, and what the
    clients of the other one notice, to whom rows come at a steady pace."""
    times, quiet, beside_kill, ratios = [], [], [], []
    async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
        for _ in range(KILLS):
            topic = f"realtime:public:{servers.table}"
            clients = [
                await Watcher.join(servers.server.port, topic, heartbeat=1) for _ in range(WATCHERS)
            ]
            before = await write_rows(connection, servers.table)
            victim = random.choice(servers.workers())
            restart = asyncio.create_task(restarted(servers.server.port, victim))
            after = await write_rows(connection, servers.table)
            times.append(await restart)
            others = [client for client in clients if not client.lost.done()]
            assert 0 < len(others) < WATCHERS, "all clients were at one worker"
            quiet.append(p99_of(others, before))
            beside_kill.append(p99_of(others, after))
            ratios.append(beside_kill[-1] / quiet[-1])
            for client in clients:
                client.close()
    return {
        "kills": KILLS,
        "seconds_until_it_listens_median": round(percentile(times, 0.5), 2),
        "seconds_max": round(max(times), 2),
        "clients": WATCHERS,
        "rows_per_second": RATE,
        "p99_ms_of_the_others": [
            round(statistics.median(each), 2) for each in (quiet, beside_kill)
        ],
        "p99_to_quiet": round(statistics.median(ratios), 2),
    }


async def write_rows(connection: psycopg.AsyncConnection, table: str) -> dict[int, float]:
    """Write rows at a steady pace; return when each was about to be committed, by its id."""
    begun: dict[int, float] = {}
    statement = f"{INSERT.format(table)} returning id"
    start = time.perf_counter()
    for number in range(RATE * WATCHED_SECONDS):
        await asyncio.sleep(start + number / RATE - time.perf_counter())
        now = time.perf_counter()
        cursor = await connection.execute(statement, (1,), prepare=True)  # type: ignore[arg-type]
        [(row,)] = await cursor.fetchall()
        begun[row] = now
    await asyncio.sleep(0.5)
    return begun


async def restarted(port: int, victim: int) -> float:
    """Kill a worker; return how many seconds later there are as many that listen as before."""
    begin = time.perf_counter()
    os.kill(victim, signal.SIGKILL)
    while listeners(port, but=victim) < len(COUNTS):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    return time.perf_counter() - begin


def p99_of(clients: list[Watcher], begun: dict[int, float]) -> float:
    """Return the 99th percentile of the milliseconds until rows came to clients."""
    delays = [
        (at - begun[row]) * 1000
        for client in clients
        for row, at in zip(client.ids, client.times, strict=True)
        if row in begun
    ]
    assert len(delays) == len(clients) * len(begun), "rows are missing"
    return percentile(delays, 0.99)


def listeners(port: int, *, but: int) -> int:
    """Return how many sockets listen on a port, once a process has ended."""
    with contextlib.suppress(OSError):
        # Its sockets are closed when it is a zombie, or is not there any more.
        if Path(f"/proc/{but}/stat").read_text().rpartition(") ")[2][0] not in "ZX":
            return 0
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(
        line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A" for line in lines
    )


@contextlib.asynccontextmanager
async def joined(
    directory: Path, found: list[Servers], count: int, **options: int
) -> AsyncIterator[None]:
    """Have so many clients join each."""
    async with contextlib.AsyncExitStack() as stack:
        for each in found:
            topic = f"realtime:public:{each.table}"
            each.client = await Client.join(directory, each.server.port, count, topic, **options)
            await stack.enter_async_context(each.client)
        yield


async def main(wanted: list[str]) -> None:
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        compile_programs(directory)
        dsn = os.environ.get("BENCH_DSN") or stack.enter_context(EmbeddedPostgres()).dsn
        connection = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        for count in COUNTS:
            table = f"item_{count}"
            connection.execute(
                f"drop publication if exists {table}; drop table if exists {table};"
                f"create table {table} (id bigserial primary key, data text);"
                f"create publication {table} for table {table}"
            )
        found = [stack.enter_context(serve(dsn, count)) for count in COUNTS]
        result: Row = {"environment": environment("psycopg", "websockets")}
        if not wanted or "step" in wanted:
            result["in_step"] = []
            async with joined(directory, found, CLIENTS, sessions=1, heartbeat=HEARTBEAT):
                for rows, discard in ((1, True), (10, True), (1, False)):
                    row = await in_step(connection, found, rows, discard=discard)
                    result["in_step"].append(row)
                    print(result["in_step"][-1], flush=True)
        if not wanted or "latency" in wanted:
            async with joined(directory, found, LATENCY_CLIENTS, sessions=1, arrival=1):
                result["latency"] = await latency(dsn, found)
                print(result["latency"], flush=True)
        if not wanted or "restarts" in wanted:
            result["restarts"] = await restarts(dsn, found[1])
            print(result["restarts"], flush=True)
    if not wanted:
        print(f"saved {save('workers', 'python -m benchmarks.workers', result)}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
