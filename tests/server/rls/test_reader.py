"""Reader without a database: how a stream is divided, and what is acknowledged."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from realtime_core import (
    Commit,
    GapReason,
    Insert,
    LogicalMessage,
    MemoryDatabase,
    MemorySource,
)
from realtime_server.rls import reader as reader_module
from realtime_server.rls.reader import Batch, BatchReader
from tests.waiting import eventually

SLOT = "rls"


class Shop:
    """A database with a table, whose slot is there already."""

    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.notes = self.database.table("notes", {"id": "int4", "body": "text"}, key="id")

    def insert(self, *ids: int, body: str = "") -> None:
        """Insert rows in one transaction."""
        with self.database.transaction():
            for one in ids:
                self.notes.insert(id=one, body=body)

    def unacknowledged(self) -> int:
        return len(self.database.unacknowledged(SLOT))

    @contextlib.asynccontextmanager
    async def reading(self, *, limit: int = 10, interval: float = 0.0) -> AsyncIterator[Reading]:
        source = MemorySource(self.database, slot=SLOT, boundaries=True, on_gap="continue")
        async with source:
            reading = Reading(BatchReader(source, limit=limit, interval=interval))
            try:
                yield reading
            finally:
                await reading.stop()


class Reading:
    """Reads in the background, and acknowledges each batch unless it is told to hold."""

    def __init__(self, reader: BatchReader) -> None:
        self.batches: list[Batch] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self._reader = reader
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with contextlib.aclosing(self._reader.batches()) as batches:
            async for batch in batches:
                self.batches.append(batch)
                await self.may_go_on.wait()
                self._reader.acknowledge(batch)

    def ids(self) -> list[list[Any]]:
        return [
            [read.change.record["id"] for read in batch.reads if isinstance(read.change, Insert)]
            for batch in self.batches
        ]

    async def until(self, *ids: list[int]) -> None:
        """Wait until batches with these ids have come, and nothing else."""
        await eventually(lambda: len(self.batches) >= len(ids) or self._task.done())
        assert self.ids() == list(ids)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})


async def test_what_comes_while_a_batch_is_under_way_is_the_next_one() -> None:
    shop = Shop()
    async with shop.reading() as reading:
        reading.may_go_on.clear()
        shop.insert(1)
        await reading.until([1])
        for one in (2, 3, 4):
            shop.insert(one)
        reading.may_go_on.set()
        await reading.until([1], [2, 3, 4])
        await eventually(lambda: shop.unacknowledged() == 0)


async def test_a_large_transaction_comes_in_parts() -> None:
    shop = Shop()
    async with shop.reading(limit=2) as reading:
        shop.insert(1, 2, 3, 4, 5)
        await reading.until([1, 2], [3, 4], [5])


async def test_large_values_make_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_MOST_BYTES", 100)
    shop = Shop()
    async with shop.reading() as reading:
        shop.insert(1, 2, 3, 4, 5, body="x" * 60)
        await reading.until([1, 2], [3, 4], [5])
        assert reading.batches[0].reads[0].size == 61


async def test_bytes_are_counted_and_not_letters() -> None:
    shop = Shop()
    async with shop.reading() as reading:
        shop.insert(1, body="äöü€")
        await reading.until([1])
        assert reading.batches[0].reads[0].size == 1 + 9


async def test_batches_are_apart_unless_they_are_full() -> None:
    shop = Shop()
    async with shop.reading(limit=3, interval=3600) as reading:
        shop.insert(1)
        await reading.until([1])
        shop.insert(2)
        shop.insert(3)
        # It waits, and with this one no more.
        shop.insert(4, 5)
        await reading.until([1], [2, 3, 4])


async def test_large_values_fill_a_batch_and_are_not_piled_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader_module, "_MOST_BYTES", 100)
    shop = Shop()
    async with shop.reading(limit=1000, interval=3600) as reading:
        shop.insert(1)
        await reading.until([1])
        for one in (2, 3, 4):
            shop.insert(one, body="x" * 60)
        # The interval would let a thousand of them wait.
        await reading.until([1], [2, 3])


@pytest.mark.slow
async def test_batches_that_are_not_full_come_when_it_is_time() -> None:
    shop = Shop()
    clock = asyncio.get_running_loop().time
    async with shop.reading(interval=0.2) as reading:
        shop.insert(1)
        await reading.until([1])
        begin = clock()
        shop.insert(2)
        shop.insert(3)
        await reading.until([1], [2, 3])
        assert clock() - begin > 0.1


async def test_what_is_no_change_of_a_row_is_acknowledged_by_itself() -> None:
    shop = Shop()
    async with shop.reading() as reading:
        shop.database.truncate(shop.notes)
        await eventually(lambda: shop.unacknowledged() == 0)
        assert reading.batches == []


async def test_nothing_is_acknowledged_before_it_is_done_with() -> None:
    shop = Shop()
    async with shop.reading(limit=1) as reading:
        reading.may_go_on.clear()
        shop.insert(1, 2)
        await reading.until([1])
        assert shop.unacknowledged() == 2
    # It comes again to another one.
    async with shop.reading() as again:
        await again.until([1, 2])


async def test_a_gap_stands_between_what_came_before_and_after() -> None:
    shop = Shop()
    async with shop.reading() as reading:
        reading.may_go_on.clear()
        shop.insert(1)
        await reading.until([1])
        shop.insert(2)
        shop.database.drop_slot(SLOT)
        shop.database.drop_connections()
        reading.may_go_on.set()
        await eventually(lambda: any(batch.gap is not None for batch in reading.batches))
        shop.insert(3)
        await eventually(lambda: reading.ids()[-1] == [3])
        gaps = [batch.gap and batch.gap.reason for batch in reading.batches]
        assert gaps[-2:] == [GapReason.SLOT_MISSING, None]


async def test_replay_is_told_of_changes_ends_and_messages_in_their_order() -> None:
    shop = Shop()
    async with shop.reading() as reading:
        reading.may_go_on.clear()
        shop.insert(1)
        await reading.until([1])
        shop.insert(2, 3)
        shop.database.message("prefix", b"content", transactional=False)
        reading.may_go_on.set()
        await reading.until([1], [2, 3])
        reading.may_go_on.clear()
        shop.database.message("prefix", b"alone", transactional=False)
        await reading.until([1], [2, 3], [])
    assert [[type(event) for event in batch.events] for batch in reading.batches] == [
        [Insert, Commit],
        [Insert, Insert, Commit, LogicalMessage],
        [LogicalMessage],
    ]


async def test_messages_of_the_database_are_apart_and_acknowledged() -> None:
    shop = Shop()
    columns = {"id": "text", "topic": "text"}
    messages = shop.database.table("messages", columns, key="id", schema="realtime")
    async with shop.reading() as reading:
        messages.insert(id="1", topic="t")
        await eventually(lambda: len(reading.batches) == 1)
        with shop.database.transaction():
            shop.notes.insert(id=1, body="x")
            messages.insert(id="2", topic="t")
        await eventually(lambda: len(reading.batches) == 2)
        await eventually(lambda: not shop.unacknowledged())
    first, second = reading.batches
    assert [change.record["topic"] for change in first.messages if isinstance(change, Insert)] == [
        "t"
    ]
    assert not first.reads
    assert (len(second.messages), len(second.reads)) == (1, 1)
    # Replay keeps none of them.
    told = (*first.events, *second.events)
    assert [event.relation.table for event in told if isinstance(event, Insert)] == ["notes"]
