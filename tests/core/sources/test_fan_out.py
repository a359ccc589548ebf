"""What a FanOut adds to what the contract suite asks of a consumer."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypedDict

import pytest

from realtime_core import (
    ConfigError,
    Consumer,
    ConsumerDroppedError,
    ConsumerStats,
    Gap,
    Insert,
    MemoryDatabase,
    MemorySource,
    MemoryTable,
    Position,
    PositionMismatchError,
    Record,
    SlotLostError,
    SyncConsumer,
)
from tests.core.sources.test_queue import Scripted, change, whole
from tests.waiting import eventually


@pytest.fixture
def database() -> MemoryDatabase:
    return MemoryDatabase()


@pytest.fixture
def item(database: MemoryDatabase) -> MemoryTable:
    return database.table("item", {"id": "int4"}, key="id")


def opened(database: MemoryDatabase, **options: Any) -> MemorySource:
    return MemorySource(database, slot="shared", **options)


async def take(consumer: Consumer[Any], count: int) -> list[Any]:
    async with asyncio.timeout(30):
        return [await anext(consumer) for _ in range(count)]


async def take_ids(consumer: Consumer[Any], count: int) -> list[int]:
    return [event.record["id"] for event in await take(consumer, count)]


def unacknowledged(database: MemoryDatabase) -> list[int]:
    changes = database.unacknowledged("shared")
    return [change.record["id"] for change in changes if isinstance(change, Insert)]


async def turns(count: int = 20) -> None:
    """Let other tasks run."""
    for _ in range(count):
        await asyncio.sleep(0)


async def test_the_slot_follows_the_slowest(database: MemoryDatabase, item: MemoryTable) -> None:
    async with opened(database) as source:
        fan_out = source.fan_out()
        fast, slow = fan_out.consumer("fast"), fan_out.consumer("slow")
        for number in range(1, 5):
            item.insert(id=number)
        for change in await take(fast, 4):
            fast.ack(change)
        assert unacknowledged(database) == [1, 2, 3, 4]
        for change in await take(slow, 2):
            slow.ack(change)
        assert unacknowledged(database) == [3, 4]
        slow.ack((await take(slow, 2))[1].position)
        assert unacknowledged(database) == []
        assert fast.position == slow.position == source.position


async def test_consumers_read_in_different_ways(
    database: MemoryDatabase, item: MemoryTable
) -> None:
    async with opened(database) as source:
        fan_out = source.fan_out()
        one, two, three = (fan_out.consumer(name) for name in ("one", "two", "three"))
        with database.transaction():
            item.insert(id=1)
            item.insert(id=2)
        item.insert(id=3)
        transactions = two.transactions(1_000)
        assert len((await anext(transactions)).changes) == 2  # type: ignore[union-attr]
        assert await take_ids(one, 3) == [1, 2, 3]
        assert len(await anext(three.batches())) == 3
        assert len((await anext(transactions)).changes) == 1  # type: ignore[union-attr]


async def test_each_has_classes_of_its_own(database: MemoryDatabase, item: MemoryTable) -> None:
    class Item(TypedDict):
        id: int

    async with opened(database) as source:
        fan_out = source.typed({"public.item": Item}).fan_out()
        one, two = fan_out.consumer("one"), fan_out.consumer("two")
        two.typed({})
        item.insert(id=1)
        [typed], [plain] = await take(one, 1), await take(two, 1)
        assert typed.record == {"id": 1}
        assert isinstance(plain.record, Record)
        one.ack(typed)
        two.ack(plain)
        assert unacknowledged(database) == []


async def test_one_that_is_added_later_begins_with_the_next_transaction(
    database: MemoryDatabase, item: MemoryTable
) -> None:
    async with opened(database) as source:
        fan_out = source.fan_out()
        first = fan_out.consumer("first")
        with database.transaction():
            # More than are given at once.
            for number in range(100):
                item.insert(id=number)
        early = await take(first, 1)
        later = fan_out.consumer("later")
        item.insert(id=100)
        assert await take_ids(later, 1) == [100]
        first.ack(early[0])
        assert len(await take(first, 100)) == 100
        first.ack(first.position)
        # It was not given what came before it, and has not acknowledged what came then.
        assert unacknowledged(database) == [100]
        later.ack(later.position)
        assert unacknowledged(database) == []


async def test_one_that_is_added_within_a_transaction_begins_behind_it() -> None:
    first_part, rest = whole(1, 3)[:2], whole(1, 3)[2:]
    source = Scripted(first_part, rest + whole(2, 1))
    fan_out = source.fan_out()
    early = fan_out.consumer("early")
    await take(early, 1)
    late = fan_out.consumer("late")
    await take(early, 2)
    early.ack(change(1, 1))
    assert source.acknowledged == [change(1, 0)]
    assert await take(late, 1) == [change(2, 0)]
    early.ack(change(1, 2))
    late.ack(change(2, 0))
    assert source.acknowledged == [change(1, 0), change(1, 2)]


async def test_one_that_has_acknowledged_all_that_it_got_holds_nothing_back(
    database: MemoryDatabase, item: MemoryTable
) -> None:
    async with opened(database, filter="id=lt.5") as source:
        fan_out = source.fan_out()
        one, two = fan_out.consumer("one"), fan_out.consumer("two")
        with database.transaction():
            item.insert(id=1)
            item.insert(id=9)
        one.ack((await take(one, 1))[0])
        two.ack((await take(two, 1))[0])
        assert unacknowledged(database) == []


async def test_one_that_leaves_counts_no_more(database: MemoryDatabase, item: MemoryTable) -> None:
    async with opened(database) as source:
        fan_out = source.fan_out()
        stays, leaves = fan_out.consumer("stays"), fan_out.consumer("leaves")
        item.insert(id=1)
        async with leaves:
            await take(leaves, 1)
            stays.ack((await take(stays, 1))[0])
            assert unacknowledged(database) == [1]
        assert unacknowledged(database) == []
        assert list(fan_out.consumers) == [stays]
        with pytest.raises(StopAsyncIteration):
            await anext(leaves)
        item.insert(id=2)
        assert await take_ids(stays, 1) == [2]


async def test_what_one_that_failed_has_not_acknowledged_stays_in_the_slot(
    database: MemoryDatabase, item: MemoryTable, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(database) as source:
        fan_out = source.fan_out()
        stays, fails = fan_out.consumer("stays"), fan_out.consumer("fails")
        for number in (1, 2, 3):
            item.insert(id=number)

        async def fail() -> None:
            async with fails:
                fails.ack((await take(fails, 1))[0])
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        for change in await take(stays, 3):
            stays.ack(change)
    assert unacknowledged(database) == [2, 3]
    assert "consumer 'fails' ended by ZeroDivisionError" in caplog.text


async def test_the_log_says_where_one_began_that_failed_before_it_acknowledged_anything(
    database: MemoryDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(database) as source:
        with pytest.raises(ZeroDivisionError):
            async with source.fan_out().consumer("new"):
                raise ZeroDivisionError
    assert caplog.messages == [
        "consumer 'new' ended by ZeroDivisionError: the slot keeps what it has not acknowledged,"
        " behind the place where it began"
    ]


async def test_a_consumer_that_is_cancelled_is_no_error_in_the_log(
    database: MemoryDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "realtime.source")
    async with opened(database) as source:
        with pytest.raises(asyncio.CancelledError):
            async with source.fan_out().consumer("new"):
                raise asyncio.CancelledError
    assert [(line.levelname, line.message) for line in caplog.records if "new" in line.message] == [
        (
            "INFO",
            "consumer 'new' was cancelled: the slot keeps what it has not acknowledged,"
            " behind the place where it began",
        )
    ]


async def test_a_cancelled_read_takes_nothing_from_anybody(
    database: MemoryDatabase, item: MemoryTable
) -> None:
    async with opened(database) as source:
        fan_out = source.fan_out()
        one, two = fan_out.consumer("one"), fan_out.consumer("two")
        reads = [asyncio.ensure_future(anext(consumer)) for consumer in (one, two)]
        await turns()
        reads[0].cancel()
        await turns()
        item.insert(id=1)
        assert (await reads[1]).record["id"] == 1  # type: ignore[union-attr]
        assert await take_ids(one, 1) == [1]


async def test_closing_one_ends_its_read(database: MemoryDatabase, item: MemoryTable) -> None:
    async with opened(database) as source:
        fan_out = source.fan_out()
        one, two = fan_out.consumer("one"), fan_out.consumer("two")
        reads = [asyncio.ensure_future(anext(consumer)) for consumer in (one, two)]
        await turns()
        await one.aclose()
        with pytest.raises(StopAsyncIteration):
            await reads[0]
        item.insert(id=1)
        await reads[1]


async def test_closing_the_source_ends_all(database: MemoryDatabase) -> None:
    async with opened(database) as source:
        fan_out = source.fan_out()
        one, two = fan_out.consumer("one"), fan_out.consumer("two")
        reading = asyncio.ensure_future(anext(one))
        await turns()
    for read in (reading, anext(one), anext(two)):
        with pytest.raises(StopAsyncIteration):
            await read


async def test_the_others_wait_for_one_that_is_behind(
    database: MemoryDatabase, item: MemoryTable, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(database) as source:
        fan_out = source.fan_out(max_events=3)
        fast, slow = fan_out.consumer("fast"), fan_out.consumer("slow")
        item.insert(id=1)
        await take(fast, 1)
        assert slow.waiting_events == 3  # with Begin and Commit
        assert slow.waiting_bytes > 0
        item.insert(id=2)
        reading = asyncio.ensure_future(anext(fast))
        await turns()
        assert not reading.done()
        assert caplog.text.count("consumer 'slow' is behind: 3 events") == 1
        stats = slow.stats()
        assert isinstance(stats, ConsumerStats)
        assert (stats.waiting_events, stats.connected, stats.acknowledged) == (3, True, None)
        slow.ack((await take(slow, 1))[0])
        assert (await reading).record["id"] == 2  # type: ignore[union-attr]
        assert slow.stats().acknowledged == slow.position  # type: ignore[attr-defined]


async def test_bytes_are_bounded_too(database: MemoryDatabase, item: MemoryTable) -> None:
    async with opened(database) as source:
        fan_out = source.fan_out(max_bytes=100)
        fast, slow = fan_out.consumer("fast"), fan_out.consumer("slow")
        item.insert(id=1)
        await take(fast, 1)
        item.insert(id=2)
        reading = asyncio.ensure_future(anext(fast))
        await turns()
        assert not reading.done()
        await take(slow, 1)
        await reading


async def test_one_that_may_be_dropped_is_not_waited_for(
    database: MemoryDatabase, item: MemoryTable, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(database) as source:
        fan_out = source.fan_out(max_events=6)
        fast = fan_out.consumer("fast")
        slow = fan_out.consumer("slow", on_full="drop")
        item.insert(id=1)
        await take(fast, 1)
        item.insert(id=2)
        await take(fast, 1)
        assert list(fan_out.consumers) == [fast, slow]
        assert await take_ids(slow, 1) == [1]
        for number in (3, 4, 5):
            item.insert(id=number)
            fast.ack((await take(fast, 1))[0])
        assert list(fan_out.consumers) == [fast]
        assert unacknowledged(database) == []
        with pytest.raises(ConsumerDroppedError, match="consumer 'slow' was dropped: 6 events"):
            await take(slow, 1)
        assert "consumer 'slow' was dropped: 6 events" in caplog.text


async def test_an_error_of_the_source_comes_to_each_behind_what_it_was_given(
    database: MemoryDatabase, item: MemoryTable
) -> None:
    async with opened(database) as source:
        fan_out = source.fan_out()
        one, two = fan_out.consumer("one"), fan_out.consumer("two")
        item.insert(id=1)
        assert await take_ids(one, 1) == [1]
        database.drop_slot("shared")
        for _ in range(2):
            with pytest.raises(SlotLostError):
                await take(one, 1)
        assert await take_ids(two, 1) == [1]
        with pytest.raises(SlotLostError):
            await take(two, 1)
        with pytest.raises(SlotLostError):
            await take(fan_out.consumer("late"), 1)


async def test_what_is_acknowledged_behind_a_gap_waits_for_who_is_before_it(
    database: MemoryDatabase, item: MemoryTable
) -> None:
    async with opened(database, on_gap="continue") as source:
        fan_out = source.fan_out()
        one, two = fan_out.consumer("one"), fan_out.consumer("two")
        item.insert(id=1)
        await take(one, 1)
        database.drop_slot("shared")
        item.insert(id=2)
        gap = (await take(one, 1))[0]
        assert isinstance(gap, Gap)
        item.insert(id=3)
        assert await take_ids(one, 1) == [3]
        one.ack(one.position)
        assert unacknowledged(database) == [3]
        two.ack((await take(two, 1))[0])
        assert unacknowledged(database) == [3]
        assert (await take(two, 1))[0] is gap
        two.ack(gap)
        two.ack((await take(two, 1))[0])
        assert unacknowledged(database) == []


async def test_only_what_was_handed_over_can_be_acknowledged(
    database: MemoryDatabase, item: MemoryTable
) -> None:
    async with opened(database) as source:
        fan_out = source.fan_out()
        one, two = fan_out.consumer("one"), fan_out.consumer("two")
        item.insert(id=1)
        item.insert(id=2)
        first, second = await take(one, 2)
        with pytest.raises(ValueError, match="not handed over yet"):
            two.ack(first)
        await take(two, 1)
        two.ack(first)
        with pytest.raises(ValueError, match="not handed over yet"):
            two.ack(second)
        with pytest.raises(TypeError):
            two.ack([first])  # type: ignore[arg-type]
        with pytest.raises(PositionMismatchError):
            two.ack(Position.parse("0/1:0@1.1/"))


async def test_the_sources_auto_ack_is_that_of_each_consumer(
    database: MemoryDatabase, item: MemoryTable
) -> None:
    async with opened(database, auto_ack=True) as source:
        fan_out = source.fan_out()
        one, two = fan_out.consumer("one"), fan_out.consumer("two")
        item.insert(id=1)
        item.insert(id=2)
        async with one:
            await take(one, 2)
            await take(two, 1)
        assert unacknowledged(database) == [1, 2]
        await take(two, 1)
        assert unacknowledged(database) == [2]
    assert unacknowledged(database) == [2]


async def test_what_cannot_be_is_refused(database: MemoryDatabase) -> None:
    source = opened(database)
    with pytest.raises(ConfigError, match="max_events is a number above 0"):
        source.fan_out(max_events=0)
    fan_out = source.fan_out()
    with pytest.raises(ConfigError, match="on_full is 'wait' or 'drop', not 'block'"):
        fan_out.consumer("one", on_full="block")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="has a fan-out already"):
        source.fan_out()


async def test_a_direct_read_is_refused_and_the_fan_out_goes_on(
    database: MemoryDatabase, item: MemoryTable
) -> None:
    async with opened(database) as source:
        reading = asyncio.create_task(anext(source))
        await turns()
        with pytest.raises(RuntimeError, match="being read"):
            source.fan_out()
        item.insert(id=1)
        assert (await reading).record["id"] == 1
        one = source.fan_out().consumer("one")
        waiting = asyncio.create_task(take_ids(one, 1))
        await turns()
        for read in (source, source.batches(), source.transactions(1_000)):
            with pytest.raises(RuntimeError, match="has a fan-out"):
                await anext(read)
        item.insert(id=2)
        assert await waiting == [2]
        item.insert(id=3)
        assert await take_ids(one, 1) == [3]


# Without an event loop


def test_a_direct_read_in_another_thread_is_refused(
    database: MemoryDatabase, item: MemoryTable
) -> None:
    with MemorySource.sync(database, slot="shared") as source, ThreadPoolExecutor(1) as pool:
        one = source.fan_out().consumer("one")
        waiting = pool.submit(next, one)
        for read in (lambda: source.next(0.1), lambda: next(source.batches())):
            with pytest.raises(RuntimeError, match="has a fan-out"):
                read()
        item.insert(id=1)
        assert waiting.result(30).record["id"] == 1


def test_each_thread_reads_a_consumer(database: MemoryDatabase, item: MemoryTable) -> None:
    def read(consumer: SyncConsumer[Any]) -> list[int]:
        found = []
        with consumer:
            for change in consumer:
                found.append(change.record["id"])
                consumer.ack(change)
                if len(found) == 50:
                    break
        return found

    with MemorySource.sync(database, slot="shared") as source, ThreadPoolExecutor(3) as pool:
        fan_out = source.fan_out(max_events=30)
        consumers = [fan_out.consumer(name) for name in ("one", "two", "three")]
        reads = [pool.submit(read, consumer) for consumer in consumers]
        for number in range(50):
            item.insert(id=number)
        for reading in reads:
            assert reading.result(30) == list(range(50))
    assert unacknowledged(database) == []


def test_consumers_end_with_their_source(database: MemoryDatabase, item: MemoryTable) -> None:
    source = MemorySource.sync(database, slot="shared")
    fan_out = source.fan_out()
    with pytest.raises(RuntimeError, match="not open"):
        fan_out.consumer("early")
    with source, ThreadPoolExecutor(1) as pool:
        reads, idles = fan_out.consumer("reads"), fan_out.consumer("idles")
        item.insert(id=1)
        change = next(reads)
        with pytest.raises(TimeoutError):
            reads.next(0.01)
        reading = pool.submit(lambda: list(reads))
        source.close()
        assert reading.result(30) == []
    reads.ack(change)
    assert list(idles) == []
    with idles:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        idles.attached()


@pytest.mark.parametrize("closes", [False, True], ids=["left", "closed"])
def test_what_consumers_have_acknowledged_is_told_when_their_source_ends(
    database: MemoryDatabase, item: MemoryTable, closes: bool
) -> None:
    with MemorySource.sync(database, slot="shared") as source:
        fan_out = source.fan_out()
        consumers = fan_out.consumer("one"), fan_out.consumer("two")
        for number in range(3):
            item.insert(id=number)
        for consumer in consumers:
            for _ in range(3):
                consumer.ack(next(consumer))
        if closes:
            source.close()
    assert unacknowledged(database) == []


async def test_consumers_of_a_typed_source_get_objects(
    database: MemoryDatabase, item: MemoryTable
) -> None:
    class Item(TypedDict):
        id: int

    class Other(TypedDict):
        id: int
        name: str

    async with opened(database) as source:
        source.typed({"public.item": Item})
        fan_out = source.fan_out()
        alike, own = fan_out.consumer("alike"), fan_out.consumer("own")
        typed = own.typed({"public.item": Other}, on_error=str)
        item.insert(id=1)
        (change,) = await take(alike, 1)
        assert change.record == {"id": 1}
        alike.ack(change)
        (other,) = await take(typed, 1)  # type: ignore[arg-type]
        assert other.record.startswith("table public.item, column 'name': the row has no such")
        own.ack(other)
        await eventually(lambda: unacknowledged(database) == [])
