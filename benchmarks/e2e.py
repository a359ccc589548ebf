"""From COMMIT in PostgreSQL to a WebSocket client: rows a second and latency.

    python -m benchmarks.e2e

Everything is real and on this machine: an embedded PostgreSQL (or the one that BENCH_DSN
names), the server in a process of its own, a writer in another, and raw clients here, which
parse no JSON. Latency is the time from the ``commit_timestamp`` of a row's payload to its
arrival, on one clock, while the clients send heartbeats as real ones do.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg

from benchmarks._report import environment, percentile, save
from realtime_server.demo.embedded import EmbeddedPostgres
from tests.raw_client import RawClient
from tests.server_process import ServerProcess
from tests.waiting import eventually

TOPIC = "realtime:public:item"
_COMMITTED = re.compile(rb'"commit_timestamp":"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6})Z"')

# (clients, rows, rows a transaction)
THROUGHPUT = [(1, 100_000, 100), (1, 20_000, 1), (100, 5_000, 100), (100, 2_000, 1)]
# (clients, rows a second, seconds, seconds between a client's heartbeats)
LATENCY = [(1, 100, 15, 0.05), (1, 1000, 15, 0.05), (100, 100, 15, 5.0), (100, 200, 15, 5.0)]

WRITER = """
import sys, time, psycopg
dsn, rows, batch, rate = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
connection = psycopg.connect(dsn, autocommit=True)
statement = "insert into item (data) select repeat('x', 100) from generate_series(1, %s::int)"
start = time.perf_counter()
for number in range(0, rows, batch):
    if rate:
        time.sleep(max(0, start + number / rate - time.perf_counter()))
    connection.execute(statement, (batch,), prepare=True)
connection.close()
"""


class TimedClient(RawClient):
    """Also notes how long after its commit each row arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.latencies: list[float] = []

    def data_received(self, data: bytes) -> None:
        now = time.time()
        for match in _COMMITTED.finditer(data):
            committed = datetime.fromisoformat(match[1].decode()).replace(tzinfo=UTC)
            self.latencies.append(now - committed.timestamp())
        super().data_received(data)


@contextlib.contextmanager
def database() -> Iterator[str]:
    """Yield a DSN with an empty table and its publication."""
    with contextlib.ExitStack() as stack:
        dsn = os.environ.get("BENCH_DSN") or stack.enter_context(EmbeddedPostgres()).dsn
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("drop publication if exists bench")
            connection.execute("drop table if exists item")
            connection.execute("create table item (id bigserial primary key, data text)")
            connection.execute("create publication bench for table item")
        yield dsn


async def run(
    dsn: str,
    client_type: type[RawClient],
    clients: int,
    rows: int,
    batch: int,
    rate: float,
    heartbeat: float | None = None,
) -> tuple[list[RawClient], float, float]:
    """Write ``rows`` while ``clients`` listen; return them, the time, the server's CPU time."""
    with ServerProcess(dsn, PUBLICATIONS='["bench"]') as server:
        server.wait_until_streaming()
        listeners = []
        for _ in range(clients):
            listeners.append(await client_type.join(server.port, TOPIC, heartbeat=heartbeat))
        cpu = server.cpu_time()
        start = time.perf_counter()
        writer = subprocess.Popen(  # noqa: ASYNC220 (starts at once, waited for at the end)
            [sys.executable, "-c", WRITER, dsn, str(rows), str(batch), str(rate)]
        )
        await eventually(lambda: all(len(one.ids) >= rows for one in listeners), within=300)
        elapsed = time.perf_counter() - start
        writer.wait()
        used = server.cpu_time() - cpu
        for one in listeners:
            assert one.ids == list(range(one.ids[0], one.ids[0] + rows)), "rows missing"
            one.close()
        return listeners, elapsed, used


async def throughput(dsn: str, clients: int, rows: int, batch: int) -> dict[str, Any]:
    _, elapsed, cpu = await run(dsn, RawClient, clients, rows, batch, 0)
    return {
        "clients": clients,
        "rows": rows,
        "rows_per_transaction": batch,
        "rows_per_second": round(rows / elapsed),
        "frames_per_second": round(rows * clients / elapsed),
        "server_cpu_us_per_frame": round(cpu / (rows * clients) * 1e6, 1),
    }


async def latency(
    dsn: str, clients: int, rate: int, seconds: int, heartbeat: float
) -> dict[str, Any]:
    rows = rate * seconds
    listeners, _, cpu = await run(dsn, TimedClient, clients, rows, 1, rate, heartbeat)
    samples = [
        value for one in listeners if isinstance(one, TimedClient) for value in one.latencies
    ]
    return {
        "clients": clients,
        "rows_per_second": rate,
        "heartbeats": sum(one.heartbeats for one in listeners),
        "samples": len(samples),
        "p50_ms": round(percentile(samples, 0.50) * 1000, 2),
        "p99_ms": round(percentile(samples, 0.99) * 1000, 2),
        "max_ms": round(max(samples) * 1000, 2),
        "server_cpu_us_per_frame": round(cpu / len(samples) * 1e6, 1),
    }


async def main() -> None:
    with database() as dsn:
        with psycopg.connect(dsn) as connection:
            server = connection.info.parameter_status("server_version")
        result = {
            "environment": {
                **environment("psycopg", "websockets", "orjson"),
                "postgresql": server,
            },
            "throughput": [await throughput(dsn, *case) for case in THROUGHPUT],
            "latency": [await latency(dsn, *case) for case in LATENCY],
        }
    for kind in ("throughput", "latency"):
        rows = result[kind]
        print(" | ".join(rows[0]))
        for row in rows:
            print(" | ".join(str(value) for value in row.values()))
    print(save("e2e", "python -m benchmarks.e2e", result))


if __name__ == "__main__":
    asyncio.run(main())
