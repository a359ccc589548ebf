"""Several consumers of one source, on a real server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from realtime_core import (
    Consumer,
    ConsumerDroppedError,
    Insert,
    Snapshot,
    SnapshotBegin,
    SnapshotComplete,
)
from tests.fix_postgres import Database, unique_name
from tests.integration.source_helpers import confirmed, ids, kill_walsenders, open_source, soon
from tests.integration.test_docs import blocks, lines_of
from tests.waiting import eventually

pytestmark = pytest.mark.integration


@pytest.fixture
def shop(database: Database) -> Database:
    database.execute("create table item (id int primary key, name text)")
    database.execute("create publication shop for table item")
    return database


def insert(database: Database, first: int, last: int) -> None:
    query = "insert into item select g, repeat('x', 100) from generate_series(%s::int, %s) g"
    database.execute(query, (first, last))


async def take_rows(consumer: Consumer, count: int) -> list[int]:
    found: list[int] = []
    batches = consumer.batches()
    while len(found) < count:
        found += ids(await soon(anext(batches)))
    return found


def test_the_howtos_program_prints_what_it_says(database: Database, tmp_path: Path) -> None:
    page = "docs/howto/fan-out.md"
    source, _ = blocks(page, "python")
    prepare, changes = blocks(page, "sql")
    (expected,) = blocks(page, "text")
    program = tmp_path / "two_tasks.py"
    program.write_text(source.replace('slot="two_tasks"', f'slot="{unique_name("slot")}"'))
    database.execute(prepare)
    command = [sys.executable, str(program), database.dsn]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            printed = lines_of(process)
            shown = [next(printed)]
            for statement in changes.strip().splitlines():
                database.execute(statement)
            shown += [next(printed) for _ in range(len(expected.splitlines()) - 1)]
        finally:
            process.kill()
    # Each of the two is in order.
    for word in ("following", "orders", "thank"):
        lines = [line for line in expected.splitlines() if line.startswith(word)]
        assert [line for line in shown if line.startswith(word)] == lines


async def test_the_slot_follows_the_slowest_over_a_broken_connection(shop: Database) -> None:
    slot = unique_name("slot")
    async with open_source(shop, slot=slot, status_interval=0.1) as source:
        fan_out = source.fan_out(max_events=1_000)
        fast, slow = fan_out.consumer("fast"), fan_out.consumer("slow")
        insert(shop, 1, 10)
        rows = await take_rows(fast, 10)
        fast.ack(fast.position)  # type: ignore[arg-type]
        stands = confirmed(shop, slot)
        kill_walsenders(shop)
        insert(shop, 11, 20)
        rows += await take_rows(fast, 10)
        assert rows == list(range(1, 21))
        assert source.stats().reconnects == 1
        fast.ack(fast.position)  # type: ignore[arg-type]
        assert await take_rows(slow, 20) == rows
        assert confirmed(shop, slot) == stands
        slow.ack(slow.position)  # type: ignore[arg-type]
        end = source.stats().confirmed_lsn
        await eventually(lambda: confirmed(shop, slot) >= end > stands)


async def test_one_that_is_slow_is_dropped_and_a_late_one_gets_whole_transactions(
    shop: Database,
) -> None:
    slot = unique_name("slot")
    async with open_source(shop, slot=slot, status_interval=0.1) as source:
        fan_out = source.fan_out(max_events=500)
        fast, slow = fan_out.consumer("fast"), fan_out.consumer("slow", on_full="drop")
        insert(shop, 1, 5_000)
        first = await soon(anext(fast))
        late = fan_out.consumer("late")
        insert(shop, 5_001, 5_010)
        assert isinstance(first, Insert)
        assert [1, *await take_rows(fast, 5_009)] == list(range(1, 5_011))
        assert await take_rows(late, 10) == list(range(5_001, 5_011))
        with pytest.raises(ConsumerDroppedError):
            await soon(anext(slow))
        for consumer in (fast, late):
            consumer.ack(consumer.position)  # type: ignore[arg-type]
        end = source.stats().confirmed_lsn
        await eventually(lambda: confirmed(shop, slot) >= end)


async def test_each_gets_the_snapshot_and_the_slot_waits_for_all(shop: Database) -> None:
    slot = unique_name("slot")
    insert(shop, 1, 3)
    async with open_source(shop, slot=slot, snapshot="initial") as source:
        fan_out = source.fan_out()
        consumers = [fan_out.consumer(name) for name in ("one", "two")]
        ends = []
        for consumer in consumers:
            events = [await soon(anext(consumer)) for _ in range(5)]
            assert [type(event) for event in events] == [
                *(SnapshotBegin, Snapshot, Snapshot, Snapshot, SnapshotComplete)
            ]
            ends.append(events[-1])
        made = "select count(*) from pg_replication_slots where slot_name = %s"
        consumers[0].ack(ends[0])  # type: ignore[arg-type]
        assert shop.execute(made, (slot,)) == [(0,)]
        consumers[1].ack(ends[1])  # type: ignore[arg-type]
        insert(shop, 4, 4)
        for consumer in consumers:
            assert await take_rows(consumer, 1) == [4]
        assert shop.execute(made, (slot,)) == [(1,)]
