"""RawPgoutputSource hands over what PgoutputSource does, but for the rows, which are bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from psycopg.conninfo import make_conninfo

from realtime_core import (
    Begin,
    Commit,
    CommittedTransaction,
    ConfigError,
    Event,
    Gap,
    GapReason,
    Idle,
    PgoutputSource,
    Position,
    PositionMismatchError,
    RawEvent,
    RawPgoutputSource,
    RawRows,
    StreamIdentity,
)
from realtime_core.pgoutput import ChangeDecoder, Encoder
from tests.fix_postgres import Database, unique_name
from tests.integration.source_helpers import (
    drop_slot_of,
    insert,
    kill_walsenders,
    soon,
)
from tests.pgoutput_streams import Seen, seen

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]

END = "the end"


@asynccontextmanager
async def open_raw(database: Database, **settings: Any) -> AsyncIterator[RawPgoutputSource]:
    settings = {"publications": ["shop"], "backoff": (0.01, 0.1), "boundaries": True} | settings
    async with RawPgoutputSource(database.dsn, **settings) as source:
        yield source


def is_end(event: object) -> bool:
    return getattr(event, "prefix", None) == END


async def read_raw(source: RawPgoutputSource) -> list[RawEvent]:
    """Read up to the message that says that there is no more."""
    events: list[RawEvent] = []
    while not events or not is_end(events[-1]):
        events.append(await soon(anext(source)))
    return events


async def read(source: PgoutputSource[Event]) -> list[Seen]:
    events: list[Event] = []
    while not events or not is_end(events[-1]):
        events.append(await soon(anext(source)))
    return [seen(event) for event in events if not isinstance(event, Idle)]


def decoded(events: Iterable[RawEvent], stream: StreamIdentity | None) -> list[Seen]:
    """Write the events as messages, and decode these as another process would."""
    encoder = Encoder()
    messages = [
        message
        for event in events
        if not isinstance(event, Idle | Gap)
        for message in encoder.encode(event)
    ]
    return [seen(event) for event in ChangeDecoder(stream).decode(messages)]


def write_a_bit_of_everything(database: Database) -> None:
    statements = (
        "create type mood as enum ('sad', 'glad')",
        "create domain price as numeric check (value > 0)",
        "create table thing (id int primary key, mood mood, price price, tags text[], note text)",
        "alter table thing alter note set storage external",
        "alter publication shop add table thing",
        "insert into thing select g, 'sad', g, array['a', null], repeat('x', 3000)"
        " from generate_series(1, 200) g",
        "update thing set price = price + 1",
        "update thing set id = id + 1000 where id < 10",
        "insert into item select g, 'item' from generate_series(1, 100) g",
        "begin; insert into thing (id) values (2001); insert into item values (2001, 'x');"
        " insert into thing (id) values (2002); delete from item where id < 5; commit",
        "begin; insert into thing (id) values (3001); alter table thing add column more int;"
        " insert into thing (id, more) values (3002, 1); commit",
        "alter table thing replica identity full",
        "update thing set more = 2 where id > 2000",
        "select pg_logical_emit_message(true, 'app', 'hello')",
        "select pg_logical_emit_message(false, 'app', 'now')",
        "begin; savepoint a; insert into item values (4001, 'no'); rollback to a;"
        " insert into item values (4002, 'yes'); commit",
        "alter type mood rename to feeling",
        "insert into thing (id, mood) values (4003, 'glad')",
        "insert into item select g, repeat('y', 100) from generate_series(5000, 5300) g",
        "truncate thing, item",
        f"select pg_logical_emit_message(false, '{END}', '')",
    )
    for statement in statements:
        database.execute(statement)


@pytest.mark.parametrize("streaming", ["off", "on", "parallel"])
async def test_the_bytes_become_the_changes_that_the_other_source_yields(
    table: Database, streaming: str
) -> None:
    # All but the smallest transactions are streamed then, if any are.
    dsn = make_conninfo(table.dsn, options="-c logical_decoding_work_mem=64kB")
    options: dict[str, Any] = {
        **{"publications": ["shop"], "messages": True, "boundaries": True},
        **{"streaming": streaming, "max_memory": 20_000},
    }
    async with (
        PgoutputSource(dsn, slot=unique_name("decoded"), **options) as source,
        RawPgoutputSource(dsn, slot=unique_name("raw"), **options) as raw,
    ):
        write_a_bit_of_everything(table)
        expected = await read(source)
        events = await read_raw(raw)
        assert source.position is not None
        assert decoded(events, source.position.stream) == expected
        assert raw.stats().changes == source.stats().changes
        assert raw.stats().transactions == source.stats().transactions
        assert raw.position == source.position
    rows = sum(len(event.messages) for event in events if isinstance(event, RawRows))
    runs = sum(isinstance(event, RawRows) for event in events)
    assert rows > 500
    assert runs < rows / 10


async def test_a_break_in_the_middle_of_rows_neither_loses_nor_repeats(table: Database) -> None:
    """Rows that come together may be new in part."""
    slot = unique_name("slot")
    async with open_raw(table, slot=slot, max_rows=7) as source:
        found: list[tuple[int, int]] = []
        for number in range(6):
            first = 1000 * number
            insert(table, *range(first, first + 300))
            while len(found) < 300 * number + 50 * number:
                found += places(await soon(anext(source)))
            kill_walsenders(table)
            while len(found) < 300 * (number + 1):
                found += places(await soon(anext(source)))
        assert len(found) == len(set(found)) == 1800
        assert found == sorted(found)
        assert source.stats().gaps == 0
        assert source.stats().changes == 1800
        assert source.stats().reconnects >= 4


def places(event: RawEvent) -> list[tuple[int, int]]:
    """Return the places of an event's rows."""
    if not isinstance(event, RawRows):
        return []
    lsn = event.transaction.commit_lsn
    return [(lsn, event.index + number) for number in range(len(event.messages))]


async def test_a_checkpoint_in_the_middle_of_rows_leaves_out_those_before(table: Database) -> None:
    slot = unique_name("slot")
    async with open_raw(table, slot=slot, start_at=None) as source:
        insert(table, *range(100))
        rows = await first_rows(source)
    start = Position(rows.transaction.commit_lsn, rows.index + 10, rows.transaction.stream)
    for ask in (start, lambda: start):
        async with open_raw(table, slot=slot, start_at=ask) as source:
            again = await first_rows(source)
            assert again.index == 11
            # What lies before it is not handed over, and may be acknowledged.
            source.ack(start)


async def first_rows(source: RawPgoutputSource) -> RawRows:
    while True:
        event = await soon(anext(source))
        if isinstance(event, RawRows):
            return event


async def test_whole_transactions_have_rows_up_to_a_bound_of_bytes(table: Database) -> None:
    async with open_raw(table, slot=unique_name("slot"), boundaries=False) as source:
        insert(table, *range(100))
        whole = await soon(anext(source.transactions(100_000)))
        assert isinstance(whole, CommittedTransaction)
        rows = [event for event in whole.changes if isinstance(event, RawRows)]
        assert sum(len(event.messages) for event in rows) == 100
        assert whole.position == rows[-1].position
        source.ack(whole)
        assert source.stats().unacknowledged == 0


async def test_a_gap_is_told_behind_the_rows_before_it(table: Database) -> None:
    slot = unique_name("slot")
    async with open_raw(table, slot=slot, on_gap="continue") as source:
        insert(table, 1, 2)
        rows = await first_rows(source)
        drop_slot_of(table, slot)
        event: RawEvent = rows
        while not isinstance(event, Gap):
            event = await soon(anext(source))
        assert event.reason is GapReason.SLOT_MISSING
        assert event.after == rows.position
        insert(table, 3)
        assert len((await first_rows(source)).messages) == 1


async def test_an_event_for_each_row_where_one_is_asked_for(table: Database) -> None:
    async with open_raw(table, slot=unique_name("slot"), max_rows=1) as source:
        insert(table, *range(20))
        events: list[RawEvent] = []
        while not events or not isinstance(events[-1], Commit):
            events.append(await soon(anext(source)))
        assert isinstance(events[0], Begin)
        rows = [event for event in events if isinstance(event, RawRows)]
        assert [(event.index, len(event.messages)) for event in rows] == [
            (number, 1) for number in range(20)
        ]


# A checkpoint that is asked for


async def test_a_foreign_checkpoint_that_is_asked_for_is_refused(table: Database) -> None:
    slot = unique_name("slot")
    async with open_raw(table, slot=slot, start_at=None) as source:
        insert(table, 1)
        place = (await first_rows(source)).position
    assert place.stream is not None
    foreign = Position(
        place.lsn, 0, StreamIdentity(place.stream.system_identifier, 1, ("another",))
    )
    with pytest.raises(PositionMismatchError, match=r"end_of_transaction\(\)"):
        async with open_raw(table, slot=slot, start_at=lambda: foreign):
            pass
    # The slot is free again.
    async with open_raw(table, slot=slot, slot_in_use="wait", start_at=lambda: place):
        pass


async def test_asking_may_take_a_while(table: Database) -> None:
    """The server sends already, and nobody reads until it is known where to begin."""
    slot = unique_name("slot")

    async def ask() -> None:
        for number in range(20):
            table.execute(
                "insert into item select g, repeat('x', 1000)"
                f" from generate_series({number * 1000}, {number * 1000 + 999}) g"
            )
            await asyncio.sleep(0)

    async with open_raw(table, slot=slot, start_at=ask) as source:
        found = 0
        while found < 20_000:
            found += len(places(await soon(anext(source))))
        assert found == 20_000


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="filter needs decoded rows"):
        RawPgoutputSource("", publications=["shop"], filter="id=eq.1")
    with pytest.raises(ConfigError, match="max_rows is a number of rows above 0, not 0"):
        RawPgoutputSource("", publications=["shop"], max_rows=0)
    with pytest.raises(ConfigError, match="publications is empty"):
        RawPgoutputSource("", publications=[])
