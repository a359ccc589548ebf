"""RLS mode: the time from a row's commit to its clients, beside STREAM mode's.

    python -m benchmarks.rls_latency

A server in a process of its own on the embedded PostgreSQL 18, which has no wal2json. One row a
transaction, 20 a second, under a policy that compares an owner. Every client sends a heartbeat
each second, and comes with a token.

* *1 client*: RLS mode, STREAM mode, and RLS mode with 300 ms between two checks, which is what it
  took when it polled its slot.
* *1,000 clients* with the same claims: RLS mode and STREAM mode.

The servers run at the same time and take turns, several rounds of each; a row's age is that at
the client, against PostgreSQL's commit timestamp on the same clock, which RLS mode gives in whole
milliseconds, cut off: half of one is added on average.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, Final

import attrs
import psycopg

from benchmarks._report import environment, save
from benchmarks.load.programs import Client, compile_programs, cpu_time
from realtime_server.demo.embedded import EmbeddedPostgres
from tests.server_process import ServerProcess
from tests.tokens import SECRET, make_token

RATE: Final = 20
"""Rows a second."""
SECONDS: Final = 5
ROUNDS: Final = 2
HEARTBEAT: Final = 1000
"""Milliseconds between two of a client's."""
OWNER: Final = "11111111-2222-3333-4444-555555555555"

SETUP: Final = f"""
    create role reader;
    create table docs (id bigserial primary key, owner uuid, body text);
    alter table docs enable row level security;
    create policy own on docs to reader using (
        owner = (select (nullif(current_setting('request.jwt.claims', true), '')::jsonb
            ->> 'sub')::uuid)
    );
    grant select on docs to reader;
    insert into docs (owner, body)
        select '{OWNER}', repeat('x', 100) from generate_series(1, 10000);
    create publication bench for table docs;
    analyze docs
"""
WRITER: Final = f"""
import sys, time
import psycopg
connection = psycopg.connect(sys.argv[1], autocommit=True)
begin = time.monotonic()
for number in range(int(sys.argv[2])):
    time.sleep(max(begin + number / {RATE} - time.monotonic(), 0))
    connection.execute(
        "insert into docs (owner, body) values ('{OWNER}', repeat('x', 100))", prepare=True
    )
"""


@attrs.frozen
class Server:
    """A way to serve."""

    name: str
    settings: dict[str, str]


STREAM: Final = Server("STREAM", {"REPLICATION_MODE": "STREAM"})
RLS: Final = Server("RLS", {"REPLICATION_MODE": "RLS"})
POLLING: Final = Server(
    "RLS, a check each 300 ms",
    {"REPLICATION_MODE": "RLS", "REPLICATION_POLL_INTERVAL": "300"},
)


async def compare(dsn: str, directory: Path, clients: int, *ways: Server) -> list[dict[str, Any]]:
    """Measure servers side by side, in turns: only one has clients that listen at a time."""
    common = {
        "SECURE_CHANNELS": "true",
        "JWT_SECRET": SECRET,
        "PUBLICATIONS": '["bench"]',
    }
    found: dict[str, list[dict[str, float]]] = {way.name: [] for way in ways}
    for _ in range(ROUNDS):
        for way in ways:
            with ServerProcess(dsn, **common, **way.settings) as server:
                server.wait_until_streaming()
                found[way.name].append(await one(dsn, directory, server, clients))
    return [
        {
            "server": way.name,
            "clients": clients,
            **{name: round(median(one[name] for one in found[way.name]), 2) for name in FIGURES},
        }
        for way in ways
    ]


FIGURES: Final = ("p50_ms", "p99_ms", "max_ms", "cpu_us_a_row")


async def one(dsn: str, directory: Path, server: ServerProcess, clients: int) -> dict[str, float]:
    """Write rows at their rate; return how old they are at the clients."""
    rows = RATE * SECONDS
    client = await Client.join(
        directory, server.port, clients, "realtime:public:docs", heartbeat=HEARTBEAT
    )
    async with client:
        # The first ones make plans.
        for number in (RATE, rows):
            await client.expect(number)
            cpu = cpu_time(server.process.pid)
            await write(dsn, number)
            await client.arrived()
            report = await client.report()
        cpu = cpu_time(server.process.pid) - cpu
    ages = report["latency_us"]
    return {
        "p50_ms": ages["p50"] / 1000,
        "p99_ms": ages["p99"] / 1000,
        "max_ms": ages["max"] / 1000,
        "cpu_us_a_row": cpu / rows * 1e6,
    }


async def write(dsn: str, rows: int) -> None:
    """Write from a process of its own."""
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, dsn, str(rows))
    if await writer.wait():
        raise RuntimeError("the writer failed")


async def measure(dsn: str, directory: Path) -> list[dict[str, Any]]:
    results = []
    for clients, ways in ((1, (STREAM, RLS, POLLING)), (1000, (STREAM, RLS))):
        for result in await compare(dsn, directory, clients, *ways):
            print(json.dumps(result), flush=True)
            results.append(result)
    return results


def main() -> None:
    os.environ["APIKEY"] = make_token({"role": "reader", "sub": OWNER})
    with contextlib.ExitStack() as stack:
        dsn = os.environ.get("BENCH_DSN") or stack.enter_context(EmbeddedPostgres()).dsn
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        compile_programs(directory)
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(SETUP)
        results = asyncio.run(measure(dsn, directory))
    by_name = {(one["server"], one["clients"]): one["p50_ms"] for one in results}
    result = {
        **environment("psycopg", "psycopg-binary"),
        "rows_a_second": RATE,
        "heartbeat_ms": HEARTBEAT,
        "results": results,
        "p50_to_polling": round(by_name[POLLING.name, 1] / by_name[RLS.name, 1], 1),
        "p50_to_stream_1000_clients": round(by_name[RLS.name, 1000] / by_name["STREAM", 1000], 2),
    }
    print(save("rls_latency", "python -m benchmarks.rls_latency", result))


if __name__ == "__main__":
    main()
