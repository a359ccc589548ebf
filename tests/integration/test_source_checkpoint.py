"""A consumer that keeps its own checkpoint: it goes on where that stands, and trusts it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from realtime_core import (
    CommittedTransaction,
    Event,
    Gap,
    Idle,
    Insert,
    LogicalMessage,
    PgoutputSource,
    Position,
    PositionMismatchError,
    drop_slot,
)
from tests.fix_postgres import Database, unique_name
from tests.integration.source_helpers import (
    confirmed,
    ids,
    insert,
    kill_walsenders,
    open_source,
    soon,
    take,
    wal_position,
)
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]


async def rows(source: PgoutputSource, count: int) -> list[Event]:
    """Take so many events that are not idle positions."""
    found: list[Event] = []
    while len(found) < count:
        event = await soon(anext(source))
        if not isinstance(event, Idle):
            found.append(event)
    return found


def position_of(event: Event) -> Position:
    assert isinstance(event, Insert)
    return event.position


async def test_what_lies_beyond_the_start_is_handed_over(table: Database) -> None:
    slot = unique_name("slot")
    async with open_source(table, slot=slot, start_at=None) as source:
        insert(table, 1, 2, 3)
        insert(table, 4)
        events = await rows(source, 4)
    for handled in range(4):
        start = position_of(events[handled])
        expected = [1, 2, 3, 4][handled + 1 :]
        async with open_source(table, slot=slot, start_at=start) as source:
            insert(table, 10 + handled)
            expected += [10, 11, 12, 13][: handled + 1]
            assert ids(await rows(source, len(expected))) == expected


async def test_a_start_within_a_transaction_gives_the_rest_of_it_as_a_whole(
    table: Database,
) -> None:
    slot = unique_name("slot")
    async with open_source(table, slot=slot, start_at=None) as source:
        insert(table, 1, 2, 3)
        start = position_of((await rows(source, 1))[0])
    async with open_source(table, slot=slot, start_at=start) as source:
        whole = await soon(anext(source.transactions(10_000)))
        assert isinstance(whole, CommittedTransaction)
        assert ids(whole.changes) == [2, 3]
        assert source.position == whole.position


async def test_the_slot_never_passes_what_was_acknowledged(table: Database) -> None:
    slot = unique_name("slot")
    async with open_source(table, slot=slot, start_at=None, status_interval=0.05) as source:
        insert(table, 1)
        (event,) = await rows(source, 1)
        source.ack(event)
        lsn = position_of(event).lsn
        # The transaction's end may come later than its change, and has to be read.
        reading = asyncio.create_task(rows(source, 1))
        await eventually(lambda: confirmed(table, slot) > lsn)
        # Keepalives tell of this, and must not move it.
        table.execute("create table other (data text)")
        table.execute("insert into other select repeat('x', 1000) from generate_series(1, 1000)")
        insert(table, 2)
        await reading
    assert confirmed(table, slot) == lsn + 1
    # Exactly there no gap is seen, and nothing is repeated.
    async with open_source(table, slot=slot, start_at=position_of(event)) as source:
        assert ids(await rows(source, 1)) == [2]


@pytest.mark.parametrize("is_asked", [False, True])
async def test_a_start_moves_the_slot_when_it_is_acknowledged(
    table: Database, is_asked: bool
) -> None:
    slot = unique_name("slot")
    async with open_source(table, slot=slot, start_at=None) as source:
        for number in (1, 2):
            insert(table, number)
        start = position_of((await rows(source, 2))[1])
    before = confirmed(table, slot)
    start_at = (lambda: start) if is_asked else start
    for is_acknowledged in (False, True):
        async with open_source(table, slot=slot, start_at=start_at) as source:
            insert(table, 3 + is_acknowledged)
            # By then everything before it has come again.
            assert ids(await rows(source, 1)) == [3]
            if is_acknowledged:
                source.ack(start)
        assert confirmed(table, slot) == (start.lsn + 1 if is_acknowledged else before)


async def test_an_idle_slot_moves_when_its_idle_positions_are_acknowledged(
    table: Database,
) -> None:
    table.execute("create table other (data text)")
    slot = unique_name("slot")
    stored: list[Position] = []

    async def consume(source: PgoutputSource) -> None:
        async for event in source:
            assert isinstance(event, Idle | Insert)
            stored.append(event.position)
            source.ack(event)

    async with open_source(table, slot=slot, start_at=None, status_interval=0.05) as source:
        consuming = asyncio.create_task(consume(source))
        insert(table, 1)
        table.execute("insert into other select repeat('x', 1000) from generate_series(1, 1000)")
        target = wal_position(table)
        await eventually(lambda: confirmed(table, slot) >= target)
        consuming.cancel()
        await asyncio.wait({consuming})
    assert stored == sorted(stored)
    # The slot has moved by nothing but idle positions, and that is no gap.
    insert(table, 2)
    async with open_source(table, slot=slot, start_at=stored[-1]) as source:
        assert ids(await rows(source, 1)) == [2]


async def test_idle_positions_come_only_to_those_who_ask_with_a_start(table: Database) -> None:
    async with open_source(table, slot=unique_name("slot"), status_interval=0.02) as source:
        reading = asyncio.create_task(anext(source))  # type: ignore[arg-type]
        before = source.stats().received_lsn
        table.execute("create table other (data text)")
        await eventually(lambda: source.stats().received_lsn > before)
        assert not reading.done()
        insert(table, 1)
        assert ids([await soon(reading)]) == [1]


async def test_reconnects_repeat_nothing_from_before_the_start(table: Database) -> None:
    slot = unique_name("slot")
    async with open_source(table, slot=slot, start_at=None) as source:
        insert(table, 1, 2, 3)
        start = position_of((await rows(source, 2))[1])
    async with open_source(table, slot=slot, start_at=start) as source:
        kill_walsenders(table)
        assert ids(await rows(source, 1)) == [3]
        kill_walsenders(table)
        insert(table, 4)
        assert ids(await rows(source, 1)) == [4]


async def test_an_acknowledged_message_without_a_transaction_is_not_repeated(
    table: Database,
) -> None:
    slot = unique_name("slot")
    emit = "select pg_logical_emit_message(false, 'note', %s)"
    async with open_source(table, slot=slot, messages=True) as source:
        table.execute(emit, ("one",))
        table.execute(emit, ("two",))
        first, second = await take(source, 2)
        assert isinstance(first, LogicalMessage)
        assert isinstance(second, LogicalMessage)
        source.ack(first)
    async with open_source(table, slot=slot, messages=True) as source:
        (event,) = await take(source, 1)
        assert isinstance(event, LogicalMessage)
        assert event.content == b"two"
        assert event.position == second.position
    async with open_source(table, slot=slot, messages=True, start_at=first.position) as source:
        (event,) = await rows(source, 1)
        assert isinstance(event, LogicalMessage)
        assert event.content == b"two"


async def test_a_start_may_be_given_as_text_that_was_stored(table: Database) -> None:
    slot = unique_name("slot")
    async with open_source(table, slot=slot, start_at=None) as source:
        insert(table, 1)
        text = str(position_of((await rows(source, 1))[0]))
    dsn = make_conninfo(table.dsn, application_name="again")
    start = Position.parse(text)
    async with PgoutputSource(dsn, publications=["shop"], slot=slot, start_at=start) as source:
        insert(table, 2)
        assert ids(await rows(source, 1)) == [2]
        source.ack(start)


async def test_a_checkpoint_is_carried_over_to_another_list_of_publications(
    table: Database,
) -> None:
    """As the how-to describes it: the slot has to be behind the new publication's making."""
    slot = unique_name("slot")
    table.execute("create table other (id int primary key)")
    stored: list[Position] = []

    async def consume(source: PgoutputSource, count: int) -> list[int]:
        found: list[int] = []
        async for item in source.transactions(100_000):
            if isinstance(item, CommittedTransaction):
                found += ids(item.changes)
            stored.append(item.position)  # type: ignore[union-attr]
            source.ack(item)
            if len(found) == count:
                break
        return found

    options: dict[str, Any] = {"slot": slot, "status_interval": 0.05}
    async with open_source(table, start_at=None, **options) as source:
        insert(table, 1)
        assert await soon(consume(source, 1)) == [1]
        table.execute("create publication more for table other")
        end = wal_position(table)
        with table.connect() as connection, connection.transaction():
            connection.execute("insert into other values (100)")
            connection.execute("insert into item values (2, 'x')")
            connection.execute("insert into other values (101)")
        assert await soon(consume(source, 1)) == [2]
    assert stored[-1].lsn >= end
    names = ["shop", "more"]
    with pytest.raises(PositionMismatchError, match=r"end_of_transaction\(\)"):
        async with open_source(table, publications=names, start_at=stored[-1], **options):
            pass
    start = Position.parse(str(stored[-1])).end_of_transaction()
    async with open_source(table, publications=names, start_at=start, **options) as source:
        source.ack(start)
        with table.connect() as connection, connection.transaction():
            connection.execute("insert into item values (3, 'x')")
            connection.execute("insert into other values (102)")
        # Nothing of the last transaction comes, though another publication has more of it.
        assert await soon(consume(source, 2)) == [3, 102]
    async with open_source(table, publications=names, start_at=stored[-1], **options) as source:
        insert(table, 4)
        assert await soon(consume(source, 1)) == [4]


async def test_a_gap_behind_a_checkpoint_that_was_carried_over_can_be_compared(
    table: Database,
) -> None:
    slot = unique_name("slot")
    table.execute("create publication more for table item")
    async with open_source(table, slot=slot, start_at=None) as source:
        insert(table, 1)
        start = position_of((await rows(source, 1))[0]).end_of_transaction()
    await drop_slot(table.dsn, slot)
    async with open_source(
        table, slot=slot, publications=["shop", "more"], start_at=start, on_gap="continue"
    ) as source:
        (gap,) = await take(source, 1)
        assert isinstance(gap, Gap)
        assert gap.after is not None
        assert gap.after < gap.until


async def test_a_commit_right_behind_a_message_is_not_taken_for_it(table: Database) -> None:
    """A message's LSN is its record's end, where the commit record may begin."""
    slot = unique_name("slot")
    options = {"slot": slot, "messages": True, "start_at": None}
    async with open_source(table, **options) as source:
        with table.connect() as connection, connection.transaction():
            connection.execute("insert into item values (1, 'x')")
            connection.execute("select pg_logical_emit_message(false, 'note', 'now')")
        message, row = await rows(source, 2)
        assert isinstance(message, LogicalMessage)
        assert isinstance(row, Insert)
        # Otherwise this test shows nothing.
        assert message.lsn == row.transaction.commit_lsn
        assert message.position < row.position
    async with open_source(table, **options | {"start_at": message.position}) as source:
        assert ids(await rows(source, 1)) == [1]


async def test_a_break_right_behind_a_message_loses_nothing(table: Database) -> None:
    async with open_source(table, slot=unique_name("slot"), messages=True) as source:
        with table.connect() as connection, connection.transaction():
            connection.execute("insert into item values (1, 'x')")
            connection.execute("select pg_logical_emit_message(false, 'note', 'now')")
            # It is sent while the transaction runs, once something makes the server look.
            table.execute("select pg_logical_emit_message(true, 'note', 'wake up')")
            first = await soon(anext(source))
            assert isinstance(first, LogicalMessage)
            assert first.content == b"now"
            kill_walsenders(table)
        second, row = await take(source, 2)
        assert isinstance(second, LogicalMessage)
        assert ids([row]) == [1]
