"""What a ChangeSource promises, on each of them.

On a MemoryDatabase it runs everywhere; on real servers these are integration tests.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from realtime_core import (
    BackfillStep,
    Begin,
    Change,
    ChangeSource,
    Commit,
    CommittedTransaction,
    ConfigError,
    Delete,
    Event,
    FilterError,
    Gap,
    GapReason,
    Idle,
    Insert,
    LogicalMessage,
    Position,
    PositionMismatchError,
    RowStructureError,
    SlotInUseError,
    SlotLostError,
    Snapshot,
    SnapshotBegin,
    SnapshotComplete,
    StreamIdentity,
    TransactionTooLargeError,
    Truncate,
    Update,
)
from tests.core.sources.worlds import (
    FanOutMemoryWorld,
    MemoryWorld,
    PgoutputWorld,
    PostgresWorld,
    RawPgoutputWorld,
    SyncMemoryWorld,
    SyncPgoutputWorld,
    SyncWal2JsonWorld,
    Wal2JsonWorld,
    World,
)
from tests.fix_postgres import Database, Server, unique_name
from tests.waiting import eventually

T = TypeVar("T")

MEMORY_WORLDS: dict[str, Callable[[], World]] = {
    "memory": MemoryWorld,
    "sync-memory": SyncMemoryWorld,
    "fan-out-memory": FanOutMemoryWorld,
}
WORLDS: dict[str, tuple[str, Callable[[Database], PostgresWorld]]] = {
    "pgoutput-17": ("pg17", PgoutputWorld),
    "pgoutput-18": ("pg18", PgoutputWorld),
    "raw-17": ("pg17", RawPgoutputWorld),
    "raw-18": ("pg18", RawPgoutputWorld),
    "sync-pgoutput-18": ("pg18", SyncPgoutputWorld),
    "wal2json-2": ("pg17", lambda database: Wal2JsonWorld(database, 2)),
    "sync-wal2json-1": ("pg17", lambda database: SyncWal2JsonWorld(database, 1)),
}


@pytest.fixture(scope="module")
def databases(request: pytest.FixtureRequest) -> Iterator[Callable[[str], Database]]:
    """One database on each server, made when it is asked for."""
    made: dict[str, Database] = {}

    def get(fixture: str) -> Database:
        if fixture not in made:
            server: Server = request.getfixturevalue(fixture)
            database = made[fixture] = Database(server, unique_name("contract"))
            server.create_database(database.name)
        return made[fixture]

    yield get
    for database in made.values():
        database.drop()


@pytest.fixture(
    params=[
        *MEMORY_WORLDS,
        *(pytest.param(name, marks=pytest.mark.integration) for name in WORLDS),
    ]
)
def world(request: pytest.FixtureRequest, databases: Callable[[str], Database]) -> Iterator[World]:
    if request.param in MEMORY_WORLDS:
        yield MEMORY_WORLDS[request.param]()
        return
    fixture, make = WORLDS[request.param]
    database = databases(fixture)
    if "wal2json" in request.param and not database.server.has_wal2json():
        pytest.skip("wal2json is not installed")
    made = make(database)
    yield made
    made.close()


async def soon(awaitable: Awaitable[T]) -> T:
    """Fail rather than hang."""
    async with asyncio.timeout(30):
        return await awaitable


async def take(source: ChangeSource, count: int) -> list[Any]:
    return [await soon(anext(source)) for _ in range(count)]


async def take_ids(source: ChangeSource, count: int) -> list[int]:
    return ids(await take(source, count))


def ids(events: list[Event]) -> list[int]:
    return [event.record["id"] for event in events if isinstance(event, Insert)]


def position(event: Event) -> Position:
    assert not isinstance(event, Begin | Gap)
    return event.position


# Attaching


async def test_what_is_committed_once_it_is_attached_is_handed_over(world: World) -> None:
    async with world.source(persistent=True) as source:
        await soon(source.attached())
        assert source.stats().connected
        world.insert(1)
        assert await take_ids(source, 1) == [1]
        # And so it is as long as nothing breaks.
        await soon(source.attached())
    async with world.source() as source:
        await soon(source.attached())


@pytest.mark.slow
async def test_several_wait_until_it_is_attached_and_may_give_up(world: World) -> None:
    async with world.source() as first, world.source(persistent=True) as second:
        reading = asyncio.create_task(take_ids(second, 1))
        waiting = [asyncio.create_task(second.attached()) for _ in range(3)]
        # Longer than an attempt takes, where there is a server.
        done, _ = await asyncio.wait([reading, *waiting], timeout=0.2)
        assert not done
        waiting.pop().cancel()
        await first.aclose()
        for wait in waiting:
            await soon(wait)
        world.insert(1)
        assert await soon(reading) == [1]
        assert second.stats().reconnects == 0


async def test_a_persistent_source_attaches_though_nobody_reads_or_waits(world: World) -> None:
    async with world.source(persistent=True) as source:
        await eventually(lambda: source.stats().connected)
        world.insert(1)
        assert await take_ids(source, 1) == [1]


async def test_who_waits_hears_why_it_cannot_attach(world: World) -> None:
    async with world.source() as source:
        world.insert(1)
        await take(source, 1)
        world.break_connections()
        world.move_slot()
        # Reading notices that the connection has broken.
        with pytest.raises(SlotLostError):
            await take(source, 1)
        with pytest.raises(SlotLostError):
            await soon(source.attached())


async def test_who_waits_for_a_source_that_is_closed_hears_of_that(world: World) -> None:
    async with world.source():
        async with world.source(persistent=True) as source:
            waiting = asyncio.create_task(source.attached())
            await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="closed"):
            await soon(waiting)
        with pytest.raises(RuntimeError, match="closed"):
            await source.attached()


# What is handed over


async def test_every_kind_of_change_in_commit_order(world: World) -> None:
    async with world.source() as source:
        world.write(("insert", 1, "one"), ("insert", 2, None))
        world.write(("update", 1, 1, "uno"))
        world.write(("update", 1, 10, "dieci"))
        world.write(("delete", 10))
        world.write(("insert", 3, "never"), roll_back=True)
        world.write(("insert", 4, "last"))
        first, second, third, fourth, fifth, sixth = events = await take(source, 6)
    assert isinstance(first, Insert)
    assert isinstance(second, Insert)
    assert first.record.as_python() == {"id": 1, "name": "one"}
    assert second.record.as_text() == {"id": "2", "name": None}
    assert isinstance(third, Update)
    assert third.record.as_text() == {"id": "1", "name": "uno"}
    assert third.old_record is None
    assert isinstance(fourth, Update)
    assert fourth.record["id"] == 10
    assert fourth.old_record is not None
    assert fourth.old_record.as_text() == {"id": "1"}
    assert isinstance(fifth, Delete)
    assert fifth.old_record.as_python() == {"id": 10}
    assert isinstance(sixth, Insert)
    assert sixth.relation.table == "item"
    assert [column.is_key for column in sixth.relation.columns] == [True, False]
    indexes = [event.index for event in events]  # type: ignore[union-attr]
    assert indexes == [0, 1, 0, 0, 0, 0]
    times = [event.transaction.commit_time for event in events]  # type: ignore[union-attr]
    assert times == sorted(times)


async def test_truncates_and_messages(world: World) -> None:
    async with world.source() as source:
        world.insert(1)
        world.write(("message", "app", "hello"), ("truncate",))
        world.insert(2)
        if not (world.sends_truncate and world.sends_messages):
            # wal2json's format 1 has neither.
            assert await take_ids(source, 2) == [1, 2]
            return
        inserted, message, truncate = await take(source, 3)
        source.ack(truncate)
    assert isinstance(message, LogicalMessage)
    assert (message.prefix, message.content) == ("app", b"hello")
    assert message.transaction is not None
    assert isinstance(truncate, Truncate)
    assert [relation.table for relation in truncate.relations] == ["item"]
    assert position(inserted) < message.position < truncate.position


async def test_positions_grow_and_can_be_written_down(world: World) -> None:
    async with world.source() as source:
        assert source.position is None
        for number in range(1, 10, 3):
            world.insert(number, number + 1, number + 2)
        events = await take(source, 9)
        positions = [position(event) for event in events]
        assert positions == sorted(set(positions))
        assert source.position == positions[-1]
        assert [Position.parse(str(each)) for each in positions] == positions


async def test_events_with_boundaries(world: World) -> None:
    async with world.source(boundaries=True) as source:
        world.insert(1, 2)
        events = await until(source, lambda event: isinstance(event, Commit))
        begin, *changes, commit = events
        assert isinstance(begin, Begin)
        assert isinstance(commit, Commit)
        assert ids(changes) == [1, 2]
        assert commit.changes == 2
        assert commit.transaction == begin.transaction
        assert commit.position == position(changes[-1]) == source.position
        assert commit.end_lsn >= commit.transaction.commit_lsn > 0


async def until(source: ChangeSource, is_last: Callable[[Event], bool]) -> list[Event]:
    """Take events from the first one of a transaction that has changes."""
    events: list[Event] = []
    while not (events and is_last(events[-1])):
        events.append(await soon(anext(source)))
        if len(events) > 1 and isinstance(events[-1], Commit) and not events[-1].changes:
            # wal2json sends transactions without changes, too.
            events.clear()
    return events


async def test_batches_are_never_empty_and_may_be_left(world: World) -> None:
    async with world.source() as source:
        world.insert(1, 2, 3)
        found: list[int] = []
        for _ in range(100):
            async for batch in source.batches():
                assert batch
                found += ids(batch)
                assert source.position == position(batch[-1])
                break
            world.write_elsewhere()
            if len(found) == 3:
                break
        assert found == [1, 2, 3]
        world.insert(4)
        batch = await soon(anext(source.batches()))
        assert ids(batch) == [4]


async def test_batches_are_bounded_in_rows_and_time(world: World) -> None:
    async with world.source() as source:
        world.insert(1, 2, 3, 4, 5)
        batches = source.batches(max_rows=2, max_wait=60)  # type: ignore[call-arg]
        assert ids(await soon(anext(batches))) == [1, 2]
        assert ids(await soon(anext(batches))) == [3, 4]
        waiting = asyncio.ensure_future(anext(batches))
        world.insert(6)
        assert ids(await soon(waiting)) == [5, 6]
        world.insert(7)
        late = source.batches(max_rows=2, max_wait=0.01)  # type: ignore[call-arg]
        assert ids(await soon(anext(late))) == [7]
        world.insert(8, 9)
        assert ids(await soon(anext(late))) == [8, 9]


async def test_batches_are_bounded_in_bytes(world: World) -> None:
    async with world.source() as source:
        for number in (1, 2, 3, 4):
            world.write(("insert", number, "x" * 1000))
        world.write(("insert", 5, "x" * 9000))
        world.write(("insert", 6, "x"))
        batches = source.batches(max_bytes=2500, max_wait=60)  # type: ignore[call-arg]
        assert ids(await soon(anext(batches))) == [1, 2]
        assert ids(await soon(anext(batches))) == [3, 4]
        # What is larger comes alone.
        assert ids(await soon(anext(batches))) == [5]
        late = source.batches(max_bytes=2500, max_wait=0.01)  # type: ignore[call-arg]
        assert ids(await soon(anext(late))) == [6]


async def test_small_transactions_are_whole_in_batches(world: World) -> None:
    async with world.source() as source:
        batches = source.batches()
        for number in range(30):
            reading = asyncio.ensure_future(anext(batches))
            # It waits already, or is only about to.
            for _ in range(number % 3):
                await asyncio.sleep(0)
            wanted = [10 * number + place for place in range(10)]
            world.insert(*wanted)
            assert ids(await soon(reading)) == wanted


async def test_transactions_come_whole(world: World) -> None:
    async with world.source() as source:
        world.insert(1, 2, 3)
        world.write_elsewhere()
        world.insert(4)
        transactions = source.transactions(1_000_000)
        first = await soon(anext(transactions))
        second = await soon(anext(transactions))
        assert isinstance(first, CommittedTransaction)
        assert isinstance(second, CommittedTransaction)
        assert ids(list(first.changes)) == [1, 2, 3]
        assert first.position == first.changes[-1].position
        assert ids(list(second.changes)) == [4]
        assert first.transaction.xid < second.transaction.xid
        source.ack(second)
        assert source.stats().unacknowledged == 0


async def test_a_transaction_beyond_the_bound_is_an_error_that_loses_nothing(
    world: World,
) -> None:
    async with world.source() as source:
        world.write(("insert", 1, "x" * 2000), ("insert", 2, "y"))
        world.insert(3)
        with pytest.raises(TransactionTooLargeError) as caught:
            await soon(anext(source.transactions(1000)))
        assert caught.value.max_bytes == 1000
        whole = await soon(anext(source.transactions(10_000)))
        assert isinstance(whole, CommittedTransaction)
        assert ids(list(whole.changes)) == [1, 2]
        assert caught.value.xid == whole.transaction.xid
        assert await take_ids(source, 1) == [3]
        with pytest.raises(ConfigError):
            source.transactions(0)


async def test_the_ways_to_read_may_be_mixed(world: World) -> None:
    async with world.source() as source:
        world.insert(1, 2, 3)
        world.insert(4, 5)
        assert await take_ids(source, 1) == [1]
        rest = await soon(anext(source.transactions(1_000_000)))
        assert isinstance(rest, CommittedTransaction)
        assert ids(list(rest.changes)) == [2, 3]
        found: list[int] = []
        while len(found) < 2:
            found += ids(await soon(anext(source.batches())))
        assert found == [4, 5]


# Filters


def takes_filters(world: World) -> bool:
    """Return whether a world's sources take a filter; see to it that the others refuse it."""
    if not world.filters:
        with pytest.raises(ConfigError, match="filter needs decoded rows"):
            world.source(filter="id=eq.1")
    return world.filters


async def test_only_what_passes_is_handed_over_at_the_place_that_it_has(world: World) -> None:
    if not takes_filters(world):
        return
    async with world.source(filter="id=in.(2,5)") as source:
        world.insert(1, 2, 3, 4, 5)
        world.write(("update", 2, 2, "two"), ("delete", 5), ("delete", 1))
        found = await take(source, 4)
        assert [type(event) for event in found] == [Insert, Insert, Update, Delete]
        assert ids(found) == [2, 5]
        assert [position(event).index for event in found] == [1, 4, 0, 1]
        world.insert(6, 7)
        world.write(("insert", 8, None), ("update", 8, 5, None))
        await take(source, 1)
        stats = source.stats()
        assert (stats.changes, stats.filtered, stats.filter_errors) == (12, 7, 0)


async def test_a_slot_moves_past_what_a_filter_leaves_out(world: World) -> None:
    if not takes_filters(world):
        return
    async with world.source(filter={"*": "id=eq.5"}) as source:
        reading = asyncio.create_task(anext(source))
        world.insert(1)
        end = world.end_of_wal()
        await eventually(lambda: world.confirmed() >= end)
        world.insert(4, 5, 6)
        source.ack(await soon(reading))
        stood = world.confirmed()
        world.insert(7)
        waiting = asyncio.create_task(anext(source))
        await eventually(lambda: world.confirmed() > stood)
        waiting.cancel()
    async with world.source() as source:
        world.insert(8)
        assert await take_ids(source, 1) == [8]


async def test_a_filter_that_does_not_fit_ends_the_stream_and_loses_nothing(world: World) -> None:
    if not takes_filters(world):
        return
    async with world.source(filter="missing=eq.1") as source:
        world.insert(1)
        for _ in range(2):
            with pytest.raises(FilterError, match=r"item has no column 'missing'; it has id, name"):
                await soon(anext(source))
    async with world.source(filter="id=lt.3") as source:
        world.insert(2)
        assert await take_ids(source, 2) == [1, 2]


async def test_a_filter_that_cannot_be_read_is_a_problem_of_the_settings(world: World) -> None:
    for filter in ("id=foo.1", {"item": "id=eq.1"}):
        with pytest.raises(ConfigError):
            world.source(filter=filter)
    # The world ends with its slot, so there has to be one.
    async with world.source():
        pass


# Cancelling, and one consumer


@pytest.mark.parametrize("way", ["events", "batches", "transactions"])
async def test_cancelling_a_read_loses_nothing(world: World, way: str) -> None:
    async with world.source() as source:

        async def read() -> list[int]:
            if way == "events":
                return ids([await anext(source)])
            if way == "batches":
                return ids(await anext(source.batches()))
            transaction = await anext(source.transactions(1_000_000))
            assert isinstance(transaction, CommittedTransaction)
            return ids(list(transaction.changes))

        found: list[int] = []
        for number in range(10):
            reading = asyncio.create_task(read())
            # Cancelled before it begins, while it waits, and when something may have come.
            for _ in range(number % 4):
                await asyncio.sleep(0)
            if number % 2:
                world.insert(2 * number, 2 * number + 1)
            reading.cancel()
            results = await asyncio.gather(reading, return_exceptions=True)
            found += [each for result in results if isinstance(result, list) for each in result]
        world.insert(100)
        while found[-1:] != [100]:
            found += await soon(read())
    assert found == [*(n for number in (1, 3, 5, 7, 9) for n in (2 * number, 2 * number + 1)), 100]


async def test_a_second_reader_is_refused_and_the_first_goes_on(world: World) -> None:
    async with world.source() as source:
        reading = asyncio.create_task(take_ids(source, 1))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one consumer"):
            await anext(source)
        world.insert(1)
        assert await reading == [1]


# Acknowledging


async def test_nothing_is_acknowledged_unless_one_says_so(world: World) -> None:
    async with world.source() as source:
        world.insert(1)
        world.insert(2)
        assert await take_ids(source, 2) == [1, 2]
        # The second one's Commit may not have been read yet.
        assert source.stats().unacknowledged in (1, 2)
    async with world.source() as source:
        assert await take_ids(source, 2) == [1, 2]


async def test_acknowledging_is_cumulative_and_survives_closing(world: World) -> None:
    async with world.source() as source:
        for number in range(1, 5):
            world.insert(number)
        *_, third, _ = await take(source, 4)
        source.ack(third)
    async with world.source() as source:
        assert await take_ids(source, 1) == [4]


async def test_a_transaction_counts_when_its_last_change_is_acknowledged(world: World) -> None:
    async with world.source() as source:
        world.insert(1, 2)
        world.insert(3)
        first, *_ = await take(source, 3)
        source.ack(first)
    async with world.source() as source:
        again = await take(source, 3)
        assert ids(again) == [1, 2, 3]
        source.ack(position(again[1]))
    async with world.source() as source:
        assert await take_ids(source, 1) == [3]


async def test_acknowledging_too_much_or_another_streams_position_is_refused(
    world: World,
) -> None:
    async with world.source(on_gap="continue") as source:
        world.insert(1, 2)
        (event,) = await take(source, 1)
        place = position(event)
        with pytest.raises(ValueError, match="not handed over yet"):
            source.ack(Position(place.lsn, place.index + 1, place.stream))
        with pytest.raises(PositionMismatchError):
            source.ack(Position(place.lsn, place.index))
        with pytest.raises(PositionMismatchError):
            source.ack(Position(place.lsn, place.index, StreamIdentity(1, 1, ("other",))))


async def test_acknowledging_what_has_no_position_is_told_what_is_wanted(world: World) -> None:
    async with world.source() as source:
        world.insert(1, 2)
        batch = await soon(anext(source.batches()))
        for wrong, words in (
            (batch, "not a list: acknowledge the last one"),
            (str(position(batch[-1])), "not a str: Position.parse() reads what str(position)"),
            (position(batch[-1]).lsn, "not an LSN"),
            (None, "not None"),
        ):
            with pytest.raises(TypeError) as caught:
                source.ack(wrong)  # type: ignore[arg-type]
            assert str(caught.value).startswith(
                "ack() takes an event, a CommittedTransaction or a "
            )
            assert words in str(caught.value)
        source.ack(batch[-1])


async def test_auto_ack_acknowledges_what_came_before(world: World) -> None:
    async with world.source(auto_ack=True) as source:
        for number in (1, 2, 3):
            world.insert(number)
        assert await take_ids(source, 2) == [1, 2]
        assert source.stats().unacknowledged <= 2
    # On leaving the block the last one too, but not with an exception.
    with contextlib.suppress(ZeroDivisionError):
        async with world.source(auto_ack=True) as source:
            assert await take_ids(source, 1) == [3]
            raise ZeroDivisionError
    async with world.source(auto_ack=True) as source:
        assert await take_ids(source, 1) == [3]
    async with world.source() as source:
        world.insert(4)
        assert await take_ids(source, 1) == [4]


async def test_an_idle_slot_moves_but_not_past_what_is_not_acknowledged(world: World) -> None:
    async with world.source() as source:
        world.insert(1)
        (event,) = await take(source, 1)
        before = world.confirmed()
        world.write_elsewhere()
        target = world.end_of_wal()
        reading = asyncio.create_task(take_ids(source, 1))
        await eventually(lambda: source.stats().received_lsn >= target)
        assert world.confirmed() == before
        source.ack(event)
        await eventually(lambda: world.confirmed() >= target)
        world.insert(2)
        assert await reading == [2]


# Breaks


async def test_a_break_neither_loses_nor_repeats(world: World) -> None:
    async with world.source() as source:
        found: list[int] = []
        places: list[Position] = []
        for number in range(0, 40, 4):
            world.insert(number, number + 1)
            world.insert(number + 2, number + 3)
            # Within the first transaction, or behind it, or at the end.
            count = (1, 2, 3, 4)[number // 4 % 4]
            events = await take(source, count)
            if number % 3:
                source.ack(events[-1])
            world.break_connections()
            events += await take(source, 4 - count)
            found += ids(events)
            places += map(position, events)
        assert found == list(range(40))
        assert places == sorted(set(places))
        stats = source.stats()
        assert stats.gaps == 0
        # One that broke with nothing left to read is noticed by the next round's read.
        assert stats.reconnects in (9, 10)


async def test_a_break_while_a_reader_waits(world: World) -> None:
    async with world.source() as source:
        for number in range(5):
            reading = asyncio.create_task(take_ids(source, 1))
            await asyncio.sleep(0)
            world.break_connections()
            world.insert(number)
            assert await reading == [number]


async def test_what_was_acknowledged_during_a_break_is_known_after_it(world: World) -> None:
    async with world.source() as source:
        world.insert(1)
        world.insert(2)
        first, second = await take(source, 2)
        world.break_connections()
        source.ack(first)
        world.insert(3)
        assert await take_ids(source, 1) == [3]
        source.ack(second)
    async with world.source() as source:
        assert await take_ids(source, 1) == [3]


async def test_a_temporary_slots_break_is_a_gap(world: World) -> None:
    async with world.source(slot=None, on_gap="continue") as source:
        world.insert(1)
        (event,) = await take(source, 1)
        world.break_connections()
        (gap,) = await take(source, 1)
        assert isinstance(gap, Gap)
        assert gap.reason is GapReason.TEMPORARY_SLOT
        assert gap.after == position(event)
        assert gap.until > gap.after
        assert source.stats().gaps == 1
        source.ack(event)
        source.ack(gap)
        world.insert(2)
        assert await take_ids(source, 1) == [2]


async def test_a_gap_raises_unless_one_goes_on(world: World) -> None:
    async with world.source() as source:
        world.insert(1)
        (event,) = await take(source, 1)
        world.break_connections()
        world.insert(2)
        world.move_slot()
        with pytest.raises(SlotLostError) as caught:
            await soon(anext(source))
        assert caught.value.reason is GapReason.SLOT_MOVED
    async with world.source(on_gap="continue") as source:
        world.insert(3)
        assert await take_ids(source, 1) == [3]
        world.break_connections()
        world.insert(4)
        world.move_slot()
        world.insert(5)
        gap, event = await take(source, 2)
        assert isinstance(gap, Gap)
        assert gap.reason is GapReason.SLOT_MOVED
        assert ids([event]) == [5]


# A consumer's own checkpoint


async def test_start_at_hands_over_what_lies_beyond(world: World) -> None:
    async with world.source(start_at=None) as source:
        world.insert(1, 2)
        world.insert(3)
        events = await take(source, 3)
    for event in events:
        # Within a transaction as well as at its end.
        stored = position(event)
        async with world.source(start_at=stored) as source:
            world.insert(10 * ids([event])[0])
            found = await until_change(source, 10 * ids([event])[0])
            assert found[: 3 - ids([event])[0]] == [1, 2, 3][ids([event])[0] :]
            # Nothing that was done with comes again, and it may be acknowledged.
            source.ack(stored)


async def until_change(source: ChangeSource, number: int) -> list[int]:
    found: list[int] = []
    while found[-1:] != [number]:
        found += await take_ids(source, 1)
    return found


async def test_idle_positions_let_a_checkpoint_move(world: World) -> None:
    async with world.source(start_at=None) as source:
        world.insert(1)
        (event,) = await take(source, 1)
        source.ack(event)
        before = world.confirmed()
        idle: Event = event
        while not isinstance(idle, Idle):
            world.write_elsewhere()
            (idle,) = await take(source, 1)
        assert idle.position > position(event)
        source.ack(idle)
    await eventually(lambda: world.confirmed() > before)
    async with world.source(start_at=idle.position) as source:
        world.insert(2)
        events = await take(source, 1)
        while isinstance(events[0], Idle):
            events = await take(source, 1)
        assert ids(events) == [2]


async def test_a_checkpoint_behind_the_slot_is_a_gap(world: World) -> None:
    async with world.source(start_at=None) as source:
        world.insert(1)
        world.insert(2)
        first, second = await take(source, 2)
        source.ack(second)
    with pytest.raises(SlotLostError) as caught:
        async with world.source(start_at=position(first)):
            pass
    assert caught.value.reason is GapReason.START_BEHIND_SLOT
    async with world.source(start_at=position(first), on_gap="continue") as source:
        (gap,) = await take(source, 1)
        assert isinstance(gap, Gap)
        assert gap.after == position(first)


# A checkpoint that is asked for


async def test_a_checkpoint_is_asked_for_once_the_slot_is_held(world: World) -> None:
    async with world.source(start_at=None) as source:
        world.insert(1, 2)
        world.insert(3)
        stored = position((await take(source, 3))[0])
    asked: list[type[Exception]] = []

    async def ask() -> Position:
        with pytest.raises(SlotInUseError) as caught:
            async with world.source():
                pass
        asked.append(caught.type)
        return stored

    async with world.source(start_at=ask) as source:
        assert asked == [SlotInUseError]
        assert ids(await changes(source, 2)) == [2, 3]
        # Where it stands is not asked for again.
        world.break_connections()
        world.insert(4)
        assert ids(await changes(source, 1)) == [4]
        assert len(asked) == 1
        source.ack(stored)


async def changes(source: ChangeSource, count: int) -> list[Event]:
    """Take so many events that are no idle positions."""
    found: list[Event] = []
    while len(found) < count:
        found += [event for event in await take(source, 1) if not isinstance(event, Idle)]
    return found


async def test_what_is_committed_while_it_is_asked_for_is_handed_over(world: World) -> None:
    def ask() -> None:
        world.insert(1)

    async with world.source(start_at=ask) as source:
        assert ids(await changes(source, 1)) == [1]


async def test_who_waits_for_a_slot_asks_for_the_checkpoint_as_it_is_then(world: World) -> None:
    """Another process moves it until it lets go of the slot."""
    stored: list[Position | None] = [None]
    async with (
        world.source(start_at=None) as first,
        world.source(start_at=lambda: stored[-1], persistent=True) as second,
    ):
        waiting = asyncio.create_task(changes(second, 1))
        world.insert(1)
        world.insert(2)
        for event in await take(first, 2):
            stored.append(position(event))
            first.ack(event)
        await first.aclose()
        world.insert(3)
        assert ids(await soon(waiting)) == [3]
        assert second.stats().gaps == 0


async def test_a_checkpoint_that_is_asked_for_may_be_behind_the_slot(world: World) -> None:
    async with world.source(start_at=None) as source:
        world.insert(1)
        world.insert(2)
        first, second = await take(source, 2)
        source.ack(second)
    stored = position(first)
    with pytest.raises(SlotLostError) as caught:
        async with world.source(start_at=lambda: stored):
            pass
    assert caught.value.reason is GapReason.START_BEHIND_SLOT
    async with world.source(start_at=lambda: stored, on_gap="continue") as source:
        (gap,) = await take(source, 1)
        assert isinstance(gap, Gap)
        assert gap.after == stored
        assert gap.until.lsn == world.confirmed()


async def test_a_checkpoint_for_a_slot_that_is_gone_is_a_gap(world: World) -> None:
    async with world.source(start_at=None, slot=None) as source:
        world.insert(1)
        stored = position((await take(source, 1))[0])
    async with world.source(start_at=lambda: stored, slot=None, on_gap="continue") as source:
        (gap,) = await take(source, 1)
        assert isinstance(gap, Gap)
        assert gap.reason is GapReason.TEMPORARY_SLOT
        assert gap.after == stored
        world.insert(2)
        assert ids(await changes(source, 1)) == [2]
    # The world ends with its slot, so there has to be one.
    async with world.source():
        pass


async def test_who_cannot_say_where_it_stands_lets_go_of_the_slot(world: World) -> None:
    async def fail() -> Position:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    def wrong() -> str:
        return "16/B374D848:0"

    with pytest.raises(ZeroDivisionError):
        async with world.source(start_at=fail):
            pass
    with pytest.raises(TypeError, match=r"the function start_at returns a Position.*not a str"):
        async with world.source(start_at=wrong):
            pass
    if not world.shares_loop:
        return
    asked = asyncio.Event()

    async def hang() -> None:
        asked.set()
        await asyncio.Event().wait()

    waiting = asyncio.create_task(world.source(start_at=hang).__aenter__())
    await soon(asked.wait())
    waiting.cancel()
    await asyncio.wait({waiting})
    # The server may take a moment to notice.
    async with world.source(persistent=True) as source:
        await soon(source.attached())
        world.insert(1)
        assert await take_ids(source, 1) == [1]


# Stats and closing


async def test_stats(world: World) -> None:
    source = world.source()
    assert source.stats().connected is False
    async with source:
        world.insert(1, 2)
        world.insert(3)
        events = await take(source, 3)
        stats = source.stats()
        assert stats.connected
        assert stats.changes == 3
        assert stats.transactions in (1, 2)  # the last Commit may not have been read yet
        assert stats.bytes_received > 0
        assert stats.received_lsn >= position(events[0]).lsn
        assert stats.lag_bytes > 0
        assert (stats.reconnects, stats.gaps) == (0, 0)
        source.ack(events[-1])
        world.insert(4)
        await take(source, 1)
        after = source.stats()
        assert after.transactions >= 2
        assert after.confirmed_lsn > stats.confirmed_lsn
    assert source.stats().connected is False


async def test_closing_ends_a_waiting_reader_and_may_be_repeated(world: World) -> None:
    source = world.source()
    async with source:
        reading = asyncio.create_task(anext(source))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await soon(source.aclose())
        with pytest.raises(StopAsyncIteration):
            await soon(reading)
        with pytest.raises(StopAsyncIteration):
            await anext(source)
        await soon(source.aclose())
    with pytest.raises(RuntimeError, match="closed"):
        await source.__aenter__()


async def test_a_close_that_is_cancelled_frees_the_slot(world: World) -> None:
    if not world.shares_loop:
        # The world ends with its slot, so there has to be one.
        async with world.source():
            return
    source = world.source()
    async with source:
        world.insert(1)
        await take(source, 1)
        closing = asyncio.create_task(source.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait({closing})
        # PostgreSQL takes a moment to notice that a connection was closed.
        patience = {} if isinstance(world, MemoryWorld) else {"slot_in_use": "wait"}
        async with world.source(**patience) as other:
            world.insert(2)
            assert await soon(take(other, 1))


async def test_a_slot_has_one_source_and_is_free_once_that_is_closed(world: World) -> None:
    async with world.source() as source:
        world.insert(1)
        await take(source, 1)
        with pytest.raises(SlotInUseError):
            async with world.source():
                pass
    for number in (2, 3):
        async with world.source() as source:
            world.insert(number)
            assert (await take_ids(source, number))[-1] == number


async def test_async_for(world: World) -> None:
    async with world.source() as source:
        world.insert(1, 2, 3)
        found: list[int] = []
        async with asyncio.timeout(30):
            async for event in source:
                assert isinstance(event, Change)
                found += ids([event])
                if len(found) == 3:
                    break
        assert found == [1, 2, 3]


# The rows that are there already


READING_TABLES = pytest.mark.parametrize(
    "world",
    [
        pytest.param(name, marks=[pytest.mark.integration, pytest.mark.slow])
        for name, (_, world) in WORLDS.items()
        if world is not RawPgoutputWorld
    ],
    indirect=True,
)


@pytest.fixture
def filled(world: World) -> World:
    world.insert(1, 2)
    return world


@READING_TABLES
async def test_rows_come_before_the_changes_until_that_is_acknowledged(filled: World) -> None:
    async with filled.source(snapshot="initial"):
        pass
    async with filled.source(snapshot="initial") as source:
        filled.insert(3)
        begin, *rows, complete = await take(source, 4)
        assert isinstance(begin, SnapshotBegin)
        assert [row.record["id"] for row in rows if isinstance(row, Snapshot)] == [1, 2]
        assert isinstance(complete, SnapshotComplete)
        source.ack(complete)
        assert await take_ids(source, 1) == [3]
    async with filled.source(snapshot="initial") as source:
        assert await take_ids(source, 1) == [3]


@READING_TABLES
async def test_a_snapshot_stands_where_a_consumer_without_a_checkpoint_begins(
    filled: World,
) -> None:
    async with filled.source(snapshot="initial", start_at=None) as source:
        complete = (await take(source, 4))[-1]
        filled.insert(3)
        assert isinstance(complete, SnapshotComplete)
        assert complete.position == source.position
    async with filled.source(snapshot="initial", start_at=complete.position) as source:
        assert await take_ids(source, 1) == [3]


@READING_TABLES
async def test_a_backfill_hands_over_rows_between_changes(filled: World) -> None:
    # Else it would hand over the message that ends a chunk, too.
    source: Any = filled.source(messages=False)
    async with source:
        filled.write(("update", 1, 1, "new"), ("delete", 2))
        [table] = {str(event.relation) for event in await take(source, 2)}
        asked = source.backfill(table)
        if inspect.isawaitable(asked):
            await asked
        row, step = await take(source, 2)
        assert isinstance(row, Snapshot)
        assert row.record.as_text() == {"id": "1", "name": "new"}
        assert isinstance(step, BackfillStep)
        assert (step.after, step.is_last) == (("1",), True)
        filled.insert(3)
        assert await take_ids(source, 1) == [3]


@pytest.mark.integration
@pytest.mark.parametrize(
    "world", [name for name in WORLDS if name != "sync-wal2json-1"], indirect=True
)
async def test_a_heartbeat_comes_while_nothing_else_does(world: PostgresWorld) -> None:
    async with world.source(heartbeat_interval=0.05) as source:
        _, beat = await take(source, 2)
        assert (beat.prefix, beat.content) == ("realtime_core.heartbeat", world.slot.encode())
        assert beat.transaction is None
        source.ack(beat)
        await eventually(lambda: world.confirmed() >= beat.position.lsn)


# Rows as objects


@dataclass
class Item:
    id: int
    name: str


DECODING_ROWS = pytest.mark.parametrize(
    "world",
    [
        *MEMORY_WORLDS,
        *(
            pytest.param(name, marks=pytest.mark.integration)
            for name, (_, world) in WORLDS.items()
            if world is not RawPgoutputWorld
        ),
    ],
    indirect=True,
)


@DECODING_ROWS
async def test_rows_are_handed_over_as_objects_in_each_way_of_reading(world: World) -> None:
    async with world.source() as plain:
        source = plain.typed({f"{world.schema}.item": Item})
        world.insert(1)
        event = await soon(anext(source))
        assert event.record == Item(1, "name 1")
        source.ack(event)
        world.write(("update", 1, 2, "two"), ("delete", 2))
        update, delete = await take(source, 2)
        assert update.record == Item(2, "two")
        # It has the key alone.
        assert update.old_record["id"] == 1
        assert delete.old_record["id"] == 2
        world.insert(3, 4)
        found: list[Any] = []
        async for batch in source.batches(max_wait=30, max_rows=2):
            found += batch
            break
        assert [event.record for event in found] == [Item(3, "name 3"), Item(4, "name 4")]
        world.insert(5, 6)
        async for whole in source.transactions(1_000_000):
            assert [change.record.id for change in whole.changes] == [5, 6]
            source.ack(whole)
            break
        # Other tables' rows stay records.
        source = plain.typed({f"{world.schema}.other": Item})
        world.insert(7)
        assert (await soon(anext(source))).record["id"] == 7


@pytest.mark.integration
@pytest.mark.parametrize("world", ["raw-17"], indirect=True)
async def test_a_source_of_bytes_makes_no_objects(world: World) -> None:
    source: Any = world.source()
    with pytest.raises(TypeError, match="has rows as bytes"):
        source.typed({f"{world.schema}.item": Item})


@DECODING_ROWS
async def test_a_row_that_does_not_fit_its_class_stays_the_next(world: World) -> None:
    table = f"{world.schema}.item"
    async with world.source() as plain:
        source = plain.typed({table: Item})
        world.write(("insert", 1, "one"), ("insert", 2, None), ("insert", 3, "three"))
        batches = source.batches()
        assert [event.record for event in await soon(anext(batches))] == [Item(1, "one")]
        for read in (batches, source, source.transactions(1_000_000)):
            with pytest.raises(RowStructureError, match=rf"{table}, column 'name': NULL is no str"):
                await soon(anext(read))
        failed: list[Exception] = []
        source = plain.typed({table: Item}, on_error=failed.append)
        assert (await soon(anext(source))).record is None
        assert [str(error) for error in failed] == [f"table {table}, column 'name': NULL is no str"]
        assert (await soon(anext(source))).record == Item(3, "three")
        source = plain.typed({table: Item}, on_error="record")
        world.write(("insert", 4, None))
        assert (await soon(anext(source))).record["id"] == 4
