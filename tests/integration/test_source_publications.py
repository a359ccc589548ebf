"""A publication that is gone, or was made anew, under a running stream.

Up to PostgreSQL 17 that ends the stream; PostgreSQL 18 leaves out what it has no publication
for, and warns. What it means for a consumer is the same.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any, Literal

import pytest
from psycopg.conninfo import make_conninfo

from realtime_core import (
    LSN,
    Event,
    Gap,
    GapReason,
    Insert,
    PgoutputSource,
    PublicationNotFoundError,
    SlotLostError,
)
from realtime_core.sources import _slot_checks
from realtime_core.sources._replication_connection import ReplicationConnection
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.integration.source_helpers import ids, insert, kill_walsenders, open_source, soon, take
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]

GO_ON: dict[str, Any] = {"on_gap": "continue", "replace_slot": True}
CREATE = "create publication shop for table item"
DROP = "drop publication shop"


class Writer:
    """Writes rows, and knows for each where the WAL ended before it was committed."""

    def __init__(self, database: Database) -> None:
        self._connection = database.connect()
        self._written: dict[int, int] = {}

    def insert(self, *numbers: int) -> None:
        for number in numbers:
            query = "select pg_current_wal_insert_lsn() - '0/0'"
            ((end,),) = self._connection.execute(query).fetchall()
            self._written[number] = int(end)
            self._connection.execute("insert into item values (%s)", (number,))

    def behind(self, lsn: LSN) -> list[int]:
        """Return the rows that were committed behind an LSN, whatever else there is."""
        return [number for number, end in self._written.items() if end >= lsn]

    def close(self) -> None:
        self._connection.close()


@pytest.fixture
def writer(table: Database) -> Iterator[Writer]:
    with contextlib.closing(Writer(table)) as made:
        yield made


@pytest.fixture
def table18(pg18: Server) -> Iterator[Database]:
    """A database with a table and a publication of it, on PostgreSQL 18."""
    with fresh_database(pg18) as database:
        database.execute("create table item (id int primary key, name text)")
        database.execute(CREATE)
        yield database


def gaps_in(events: list[Event]) -> list[Gap]:
    return [event for event in events if isinstance(event, Gap)]


async def until_row(source: PgoutputSource, number: int) -> list[Event]:
    events: list[Event] = []
    while ids(events)[-1:] != [number]:
        events += await take(source, 1)
    return events


def position_of(event: Event) -> Any:
    assert isinstance(event, Insert)
    return event.position


@pytest.mark.parametrize("streaming", ["off", "on"])
async def test_whatever_was_committed_behind_the_gap_arrives(
    table: Database, writer: Writer, streaming: Literal["off", "on"]
) -> None:
    async with open_source(table, slot=unique_name("slot"), streaming=streaming, **GO_ON) as source:
        writer.insert(1)
        (first,) = await take(source, 1)
        table.execute(DROP)
        writer.insert(2, 3, 4, 5, 6, 7)
        table.execute(CREATE)
        writer.insert(8)
        (gap,) = await take(source, 1)
        assert isinstance(gap, Gap)
        assert gap.reason is GapReason.SLOT_OLDER_THAN_PUBLICATION
        assert gap.after == position_of(first)
        writer.insert(9, 10)
        events = await until_row(source, 10)
        assert gaps_in(events) == []
        expected = writer.behind(gap.until.lsn)
        assert expected[-2:] == [9, 10]
        assert ids(events)[-len(expected) :] == expected
        assert source.stats().gaps == 1
        # It goes on as ever: nothing is missed, or said again.
        writer.insert(11)
        kill_walsenders(table)
        writer.insert(12)
        assert ids(await take(source, 2)) == [11, 12]
        assert source.stats().gaps == 1


async def test_a_missing_publication_is_named_and_waited_for(
    table: Database, writer: Writer
) -> None:
    """By a source that reads while it is away, and by one that is persistent."""
    for persistent in (False, True):
        slot = unique_name("slot")
        async with open_source(table, slot=slot, persistent=persistent, **GO_ON) as source:
            number = 10 * (1 + persistent)
            await source.attached()
            writer.insert(number)
            assert ids(await take(source, 1)) == [number]
            reading = asyncio.create_task(take(source, 1))
            table.execute(DROP)
            writer.insert(number + 1)
            if not persistent:
                with pytest.raises(PublicationNotFoundError, match="CREATE PUBLICATION") as caught:
                    await reading
                assert caught.value.names == ("shop",)
                with pytest.raises(PublicationNotFoundError):
                    await take(source, 1)
                reading = asyncio.create_task(take(source, 1))
                with pytest.raises(PublicationNotFoundError):
                    await reading
            else:
                await eventually(lambda: not source.stats().connected)
            writer.insert(number + 2)
            table.execute(CREATE)
            (gap,) = [await soon(reading)] if persistent else [await take(source, 1)]
            assert gaps_in(gap)[0].reason is GapReason.SLOT_OLDER_THAN_PUBLICATION
            writer.insert(number + 3)
            assert ids(await take(source, 1)) == [number + 3]


async def test_with_on_gap_raise_it_is_said_which_of_the_two_it_is(
    table: Database, writer: Writer
) -> None:
    async with open_source(table, slot=unique_name("slot")) as source:
        writer.insert(1)
        await take(source, 1)
        table.execute(DROP)
        writer.insert(2)
        for _ in range(2):
            with pytest.raises(PublicationNotFoundError, match='publication "shop" not found'):
                await take(source, 1)
        table.execute(CREATE)
        for _ in range(2):
            with pytest.raises(SlotLostError) as caught:
                await take(source, 1)
            assert caught.value.reason is GapReason.SLOT_OLDER_THAN_PUBLICATION


async def test_each_time_that_a_publication_is_made_anew_is_a_gap(
    table: Database, writer: Writer
) -> None:
    async with open_source(table, slot=unique_name("slot"), **GO_ON) as source:
        for number in range(1, 40, 10):
            writer.insert(number)
            assert ids(await take(source, 1)) == [number]
            table.execute(DROP)
            writer.insert(number + 1)
            table.execute(CREATE)
            writer.insert(number + 2)
            (gap,) = await take(source, 1)
            assert isinstance(gap, Gap)
            writer.insert(number + 3)
            events = await until_row(source, number + 3)
            assert gaps_in(events) == []
            expected = writer.behind(gap.until.lsn)
            assert expected
            assert ids(events)[-len(expected) :] == expected


@contextlib.asynccontextmanager
async def gap_behind_an_open_transaction(
    table: Database, source: PgoutputSource, statement: str
) -> AsyncIterator[asyncio.Task[list[Event]]]:
    """Have a transaction write while there is no publication, and commit at the end."""
    with table.connect() as connection:
        table.execute(DROP)
        connection.execute("begin")
        connection.execute(statement)
        insert(table, 2)
        table.execute(CREATE)
        reading = asyncio.create_task(take(source, 1))
        yield reading
        connection.execute("commit")


@pytest.mark.parametrize("streaming", ["off", "on"])
async def test_the_gap_ends_behind_transactions_that_wrote_before_the_publication_was_made(
    table: Database,
    writer: Writer,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    streaming: Literal["off", "on"],
) -> None:
    """For they are left out, though they commit later."""
    monkeypatch.setattr(_slot_checks, "_PAUSE", 0.01)
    monkeypatch.setattr(_slot_checks, "_PATIENCE", 0.05)
    dsn = make_conninfo(table.dsn, options="-c logical_decoding_work_mem=64kB")
    options: dict[str, Any] = {"backoff": (0.01, 0.1), "slot": unique_name("slot"), **GO_ON}
    bulk = "insert into item select g, repeat('x', 200) from generate_series(101, 3100) g"
    async with PgoutputSource(dsn, publications=["shop"], streaming=streaming, **options) as source:
        writer.insert(1)
        await take(source, 1)
        async with gap_behind_an_open_transaction(table, source, bulk) as reading:
            if table.server.version >= 18:
                await eventually(lambda: "write transactions to end" in caplog.text)
                assert "PID " in caplog.text
                assert not reading.done()
        (gap,) = await soon(reading)
        assert isinstance(gap, Gap)
        writer.insert(3)
        assert ids(await until_row(source, 3))[-1:] == writer.behind(gap.until.lsn)
        assert source.stats().gaps == 1


async def test_closing_does_not_wait_for_such_a_transaction(
    table: Database, writer: Writer
) -> None:
    async with open_source(table, slot=unique_name("slot"), **GO_ON) as source:
        writer.insert(1)
        await take(source, 1)
        async with gap_behind_an_open_transaction(
            table, source, "insert into item values (5)"
        ) as reading:
            await eventually(lambda: not source.stats().connected)
            await soon(source.aclose())
            with pytest.raises(StopAsyncIteration):
                await soon(reading)


async def test_other_publications_changes_are_not_lost_with_it(
    table: Database, writer: Writer
) -> None:
    """Before PostgreSQL 18 they are: the slot has to be made anew."""
    table.execute("create table other (id int primary key)")
    table.execute("create publication more for table other")
    slot = unique_name("slot")
    names = ["shop", "more"]
    async with open_source(table, slot=slot, publications=names, **GO_ON) as source:
        writer.insert(1)
        await take(source, 1)
        table.execute(DROP)
        table.execute("insert into other values (100)")
        writer.insert(2)
        table.execute("insert into other values (101)")
        table.execute(CREATE)
        table.execute("insert into other values (102)")
        events = await take(source, 1)
        while not gaps_in(events):
            events += await take(source, 1)
        writer.insert(3)
        events += await until_row(source, 3)
    expected = [100, 101, 102, 3] if table.server.version >= 18 else [3]
    found = ids(events)
    assert found[-len(expected) :] == expected
    assert len(set(found)) == len(found)
    assert 2 not in found


async def test_who_comes_next_is_told_of_the_gap_again(table18: Database) -> None:
    """As long as nothing behind it is acknowledged; PostgreSQL 18 needs no other slot for it."""
    table, writer = table18, Writer(table18)
    slot = unique_name("slot")
    positions = []
    for number in range(3):
        async with open_source(table, slot=slot, on_gap="continue") as source:
            if number == 0:
                writer.insert(1)
                (first,) = await take(source, 1)
                positions.append(position_of(first))
                table.execute(DROP)
                writer.insert(2)
                table.execute(CREATE)
            else:
                assert ids(await take(source, 1)) == [1]
            (gap,) = await take(source, 1)
            assert isinstance(gap, Gap)
            assert gap.after == positions[0]
            writer.insert(10 + number)
            events = await until_row(source, 10 + number)
            assert ids(events) == [10, 11, 12][: number + 1]
    async with open_source(table, slot=slot, on_gap="continue") as source:
        events = await take(source, 5)
        assert ids(events) == [1, 10, 11, 12]
        source.ack(position_of(events[-1]))
    async with open_source(table, slot=slot) as source:
        writer.insert(13)
        assert ids(await take(source, 1)) == [13]
    writer.close()


@pytest.mark.parametrize("attempt", [2, 3])
async def test_a_break_on_the_way_through_what_is_skipped_changes_nothing(
    table: Database, writer: Writer, monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    start = ReplicationConnection.start
    starts = count(1)

    async def cut_off(self: ReplicationConnection, *arguments: Any, **options: Any) -> None:
        await start(self, *arguments, **options)
        if next(starts) == attempt:
            kill_walsenders(table)

    monkeypatch.setattr(ReplicationConnection, "start", cut_off)
    async with open_source(table, slot=unique_name("slot"), **GO_ON) as source:
        writer.insert(1)
        await take(source, 1)
        table.execute(DROP)
        writer.insert(2)
        table.execute(CREATE)
        writer.insert(3)
        (gap,) = await take(source, 1)
        assert isinstance(gap, Gap)
        for number in (4, 5):
            writer.insert(number)
            events = await until_row(source, number)
            assert gaps_in(events) == []
        assert source.stats().gaps == 1


async def test_a_temporary_slots_gap_has_its_reason(table: Database, writer: Writer) -> None:
    async with open_source(table, on_gap="continue") as source:
        writer.insert(1)
        await take(source, 1)
        table.execute(DROP)
        writer.insert(2)
        table.execute(CREATE)
        (gap,) = await take(source, 1)
        assert isinstance(gap, Gap)
        assert gap.reason is GapReason.SLOT_OLDER_THAN_PUBLICATION
        writer.insert(3)
        assert ids(await take(source, 1)) == [3]
