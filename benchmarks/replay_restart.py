"""What a restart takes when clients come back over it, and what PostgreSQL pays for that.

    python -m benchmarks.replay_restart              # all of it, three minutes
    python -m benchmarks.replay_restart postgres     # one part

A thousand rows a second are written, and clients are away for a while. Then the server is
killed and started again: with a second slot and a journal, with a log on NATS, and without replay.
The times are from the start of the process: until it streams, until a client that is new has a row,
and until those that came back have all that was committed when they did.

PostgreSQL's processor time is that of all its processes. PostgreSQL, the servers, the load client
and the writer are processes of their own on this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

from benchmarks._cluster import nats_server
from benchmarks.fanout import HEARTBEAT, OURS, TABLES, Bench, Row, run_parts
from benchmarks.replay_storm import metrics, until
from tests.fix_postgres import unique_name

CLIENTS: Final = 20
WINDOW: Final = 20
"""Seconds that clients are away for before the server is killed."""
GRACE: Final = 40
"""Seconds more that they may be away for: a start takes several on a busy machine."""
ROUNDS: Final = 2
RATE: Final = 100
"""Transactions a second, of ten rows each."""
WAL: Final = 100_000_000
"""Bytes of WAL for which PostgreSQL's share is measured."""
TABLE: Final = TABLES[OURS]
ON, LOG, OFF = "with replay", "log on NATS", "without"
_COMMON: Final = {
    "EXPOSE_METRICS": "true",
    "REPLAY_SECRET": "a secret of the benchmark, of 32 bytes or more",
}
SETTINGS: Final = {
    ON: {"REPLAY_WAL_MB": "1024", "REPLAY_WINDOW": str((WINDOW + GRACE) * 1000), **_COMMON},
    LOG: {"REPLAY_WINDOW": str((WINDOW + GRACE) * 1000), **_COMMON},
    OFF: {"REPLAY_WINDOW": "0", **_COMMON},
}
WRITER: Final = f"""
import sys, time, psycopg
connection = psycopg.connect(sys.argv[1], autocommit=True)
begin, number = time.monotonic(), 0
while True:
    connection.execute(
        "insert into {TABLE} (data) select repeat('x', 100) from generate_series(1, 10)",
        prepare=True,
    )
    number += 1
    time.sleep(max(begin + number / {RATE} - time.monotonic(), 0))
"""


@contextlib.asynccontextmanager
async def writing(bench: Bench) -> AsyncIterator[None]:
    """Have rows written all the time."""
    writer = await asyncio.create_subprocess_exec(sys.executable, "-c", WRITER, bench.dsn)
    try:
        yield
    finally:
        writer.kill()
        await writer.wait()


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def rows(bench: Bench) -> int:
    """Return how many rows were written."""
    found = bench.connection.execute(f"select last_value from {TABLE}_id_seq").fetchone()
    assert found is not None
    return int(found[0])


async def drop_slots(bench: Bench) -> None:
    """Drop all slots, as soon as nobody reads from them any more."""
    while True:
        bench.connection.execute(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active"
        )
        found = bench.connection.execute("select from pg_replication_slots").fetchall()
        if not found:
            return
        await asyncio.sleep(0.1)


async def kill_and_start(bench: Bench, kind: str, nats_url: str) -> Row:
    """Kill a server whose clients are away, and start it again."""
    slot = f"bench_{kind.split()[0]}"
    settings = {"PORT": free_port(), "SLOT_NAME": slot, **SETTINGS[kind]}
    if kind == LOG:
        settings |= {"NATS_URL": nats_url, "CLUSTER_NAME": unique_name("bench")}
    topic = f"realtime:public:{TABLE}"
    async with contextlib.AsyncExitStack() as stack:
        with bench.server(OURS, TABLE, **settings) as server:
            crowd = await bench.client(server.port, CLIENTS, topic, heartbeat=HEARTBEAT)
            await stack.enter_async_context(crowd)
            await crowd.expect(1)
            await stack.enter_async_context(writing(bench))
            await crowd.arrived()
            # Until all of them have proven something, and the journal has it.
            await asyncio.sleep(3)
            await crowd.cut()
            missed = rows(bench)
            await asyncio.sleep(WINDOW)
            server.process.send_signal(signal.SIGKILL)
            server.process.wait()
        begin = time.monotonic()
        with bench.server(OURS, TABLE, **settings) as server:
            streaming = time.monotonic() - begin
            fresh = await bench.client(server.port, 1, topic, heartbeat=HEARTBEAT)
            await stack.enter_async_context(fresh)
            await fresh.expect(1)
            await fresh.arrived()
            live = time.monotonic() - begin
            row: Row = {"server": kind, "streaming_s": streaming, "live_s": live}
            if kind != OFF:
                missed = rows(bench) - missed
                back = time.monotonic()
                await crowd.back(missed)
                await crowd.arrived()
                row |= {
                    "missed": missed,
                    "whole_s": time.monotonic() - begin,
                    "whole_since_back_s": time.monotonic() - back,
                    "repeated": (await crowd.report())["repeated"],
                }
    await drop_slots(bench)
    return row


async def restart(bench: Bench) -> list[Row]:
    """From a kill -9 under a thousand rows a second."""
    found: dict[str, list[Row]] = {kind: [] for kind in SETTINGS}
    with tempfile.TemporaryDirectory() as directory, nats_server(Path(directory)) as nats:
        for _ in range(ROUNDS):
            for kind, its in found.items():
                its.append(await kill_and_start(bench, kind, nats.url))
    return [
        {
            name: value
            if isinstance(value, str)
            else round(statistics.median(r[name] for r in its), 2)
            for name, value in its[0].items()
        }
        for its in found.values()
    ]


def database_cpu(bench: Bench) -> float:
    """Return the seconds of processor time of all of PostgreSQL's processes, also those that have
    ended."""

    # The numbers behind the name begin with the state's; ppid, then four times of the process and
    # of its children that have ended.
    def fields(pid: str) -> list[str]:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

    postmaster = fields(str(bench.connection.info.backend_pid))[1]
    total = sum(map(int, fields(postmaster)[11:15]))
    for process in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if process.name.isdigit() and (found := fields(process.name))[1] == postmaster:
                total += sum(map(int, found[11:13]))
    return total / os.sysconf("SC_CLK_TCK")


def wal_end(bench: Bench) -> int:
    found = bench.connection.execute("select pg_current_wal_lsn() - '0/0'").fetchone()
    assert found is not None
    return int(found[0])


async def postgres(bench: Bench) -> list[Row]:
    """What PostgreSQL pays for the second slot and the journal, for 100 MB of WAL."""
    found: list[Row] = []
    for kind in (ON, OFF):
        settings = {"SLOT_NAME": f"bench_{kind.split()[0]}", **SETTINGS[kind]}
        with bench.server(OURS, TABLE, **settings) as server:
            client = await bench.client(
                server.port, CLIENTS, f"realtime:public:{TABLE}", heartbeat=HEARTBEAT
            )
            async with client:
                cpu, begin, count = database_cpu(bench), wal_end(bench), rows(bench)
                while wal_end(bench) - begin < WAL:
                    bench.connection.execute(
                        f"insert into {TABLE} (data)"
                        " select repeat('x', 376) from generate_series(1, 200)"
                    )
                    await asyncio.sleep(0.02)
                last = rows(bench)
                await until(server.port, lambda m, n=last - count: m["rows_total"] >= n)  # type: ignore[misc]
                # The second slot is moved once in a tenth of the window.
                await asyncio.sleep((WINDOW + GRACE) / 10 + 1)
                end = await asyncio.to_thread(metrics, server.port)
                written = wal_end(bench) - begin
                found.append(
                    {
                        "server": kind,
                        "rows": last - count,
                        "wal_mb": round(written / 1e6, 1),
                        "wal_bytes_per_row": round(written / (last - count), 1),
                        "database_cpu_s": round(database_cpu(bench) - cpu, 2),
                        "journal_bytes": end.get("replay_journal_bytes_total", 0.0),
                        "second_slot_keeps": end.get("replay_wal_bytes", 0.0),
                    }
                )
        await drop_slots(bench)
    return found


PARTS: Final = {"restart": restart, "postgres": postgres}

if __name__ == "__main__":
    asyncio.run(run_parts("replay_restart", PARTS, sys.argv[1:]))
