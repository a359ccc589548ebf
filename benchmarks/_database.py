"""The part of benchmarks.rooms that is about broadcasts from the database."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from psycopg import AsyncConnection

from benchmarks._report import percentile
from benchmarks.fanout import DATA, INSERT, OURS, TABLES, Bench, Row
from benchmarks.load.programs import Client
from realtime_server.messages.partitions import keep_partitions
from realtime_server.rls.setup.migrations import migrate

__all__ = ["latency"]

MEMBERS = 100
TIMES = 300
WARM_UP = 30
PAUSE = 0.02
"""Seconds between two transactions."""
SEND = f"""
    select realtime.send(
        jsonb_build_object(
            'commit_timestamp', '2026-11-29T00:00:00.000000Z',
            'record', jsonb_build_object('id', %s::int, 'data', {DATA})
        ),
        'm', 'room', false
    )
"""


async def latency(bench: Bench) -> list[Row]:
    """From COMMIT to the last of a hundred members: a broadcast of the database, and a change."""
    async with await AsyncConnection.connect(bench.dsn, autocommit=True) as connection:
        await migrate(connection)
        await keep_partitions(connection, datetime.now(UTC))
    table = TABLES[OURS]
    times: dict[str, list[float]] = {"change": [], "from the database": []}
    with bench.server(OURS, BROADCAST_FROM_DATABASE="true") as server:
        listeners = await bench.client(server.port, MEMBERS, f"realtime:public:{table}")
        members = await bench.client(server.port, MEMBERS, "realtime:room", config=1)
        async with listeners, members:
            for number in range(1, WARM_UP + TIMES + 1):
                for found, client, statement, parameter in zip(
                    times.values(),
                    (listeners, members),
                    (INSERT.format(table, DATA), SEND),
                    (1, number),
                    strict=True,
                ):
                    await asyncio.sleep(PAUSE)
                    seconds = await _one(bench, client, statement, parameter)
                    if number > WARM_UP:
                        found.append(seconds * 1000)
    rows: list[Row] = []
    for name, found in times.items():
        p50, p99 = (percentile(found, share) for share in (0.5, 0.99))
        rows.append({"write path": name, "clients": MEMBERS, "p50_ms": p50, "p99_ms": p99})
    change, ours = rows
    for share in ("p50", "p99"):
        ours[f"{share}_ratio"] = round(ours[f"{share}_ms"] / change[f"{share}_ms"], 2)
    for row in rows:
        row.update({name: round(row[name], 2) for name in ("p50_ms", "p99_ms")})
    return rows


async def _one(bench: Bench, client: Client, statement: str, parameter: int) -> float:
    connection = bench.connection
    connection.execute("begin")
    connection.execute(statement.encode(), (parameter,), prepare=True)
    await client.expect(1)
    connection.execute("commit")
    return await client.arrived()
