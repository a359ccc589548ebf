"""What a source needs of memory and of the server's disk, when much is written."""

from __future__ import annotations

import asyncio

import psutil
import pytest
from psycopg.conninfo import make_conninfo

from realtime_core import Idle, Insert, PgoutputSource, slot_status
from tests.fix_postgres import Database, unique_name
from tests.integration.source_helpers import confirmed, ids, open_source, soon, take, wal_position
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MB = 1_000_000


def write(database: Database, table: str, megabytes: int) -> None:
    """Write so much WAL, in one transaction."""
    database.execute(
        f"insert into {table} select g, repeat('x', 7900)"
        f" from generate_series(1, {megabytes * MB // 8000}) g"
    )


@pytest.fixture
def other(table: Database) -> Database:
    for name in ("item", "other"):
        table.execute(f"create table if not exists {name} (id int, data text)")
    table.execute("alter table item alter name set storage external")
    table.execute("alter table other alter data set storage external")
    return table


@pytest.mark.parametrize("own_checkpoint", [False, True])
async def test_an_idle_slot_follows_what_other_tables_write(
    other: Database, own_checkpoint: bool
) -> None:
    other.server.needs(16, "pg_log_standby_snapshot")
    slot = unique_name("slot")
    options = {"start_at": None} if own_checkpoint else {}
    async with open_source(other, slot=slot, status_interval=0.2, **options) as source:

        async def consume() -> Insert:
            async for event in source:
                if not isinstance(event, Idle):
                    assert isinstance(event, Insert)
                    return event
                source.ack(event)
            raise AssertionError("the stream ended")

        reading = asyncio.create_task(consume())
        before = confirmed(other, slot)
        for _ in range(10):
            await asyncio.to_thread(write, other, "other", 20)
        assert wal_position(other) - before > 200 * MB

        async def retained() -> int:
            # restart_lsn moves with such a record, which comes every 15 seconds otherwise.
            other.execute("select pg_log_standby_snapshot()")
            status = await slot_status(other.dsn, slot)
            assert status is not None
            assert status.retained_bytes is not None
            return status.retained_bytes

        target = wal_position(other)
        await eventually(lambda: confirmed(other, slot) >= target, within=60)
        async with asyncio.timeout(60):
            while await retained() > 2 * MB:
                pass
        assert source.stats().changes == 0
        other.execute("insert into item values (1, 'at last')")
        assert ids([await soon(reading)]) == [1]


async def test_a_stuck_consumer_keeps_its_connection_and_needs_no_memory(other: Database) -> None:
    """The bound: what one wake-up brings, and what libpq and the socket hold of the rest."""
    slot = unique_name("slot")
    timeout = 2
    dsn = make_conninfo(other.dsn, options=f"-c wal_sender_timeout={timeout}s")
    async with PgoutputSource(dsn, publications=["shop"], slot=slot) as source:
        other.execute("insert into item values (0, 'first')")
        assert ids(await take(source, 1)) == [0]
        query = "select active_pid from pg_replication_slots where slot_name = %s"
        (pid,) = other.execute(query, (slot,))
        process = psutil.Process()
        before = process.memory_info().rss
        await asyncio.to_thread(write, other, "item", 80)
        # Stuck in an await, three times as long as the server's patience.
        await asyncio.sleep(3 * timeout)
        grown = process.memory_info().rss - before
        assert other.execute(query, (slot,)) == [pid]
        assert source.stats().reconnects == 0
        assert grown < 8 * MB
        received = 0
        async with asyncio.timeout(60):
            async for batch in source.batches():
                received += len(batch)
                if received == 10_000:
                    break
        # Nor while it catches up: it holds a few rows of 8 kB at a time.
        assert process.memory_info().rss - before < 24 * MB
