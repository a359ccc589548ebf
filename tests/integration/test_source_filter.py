"""A source with a filter: what it hands over, and what it acknowledges."""

from __future__ import annotations

import asyncio

import pytest
from psycopg.conninfo import make_conninfo

from realtime_core import (
    ConfigError,
    Delete,
    FilterError,
    Insert,
    PgoutputSource,
    Position,
    Truncate,
    Update,
    Wal2JsonSource,
)
from realtime_core.sources import _stream
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.integration.source_helpers import (
    confirmed,
    ids,
    insert,
    kill_walsenders,
    open_source,
    soon,
    take,
)
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]

MANY = 3000
# A row of it makes a transaction large enough to be streamed.
BULK = f"insert into item select g, repeat('x', 200) from generate_series(1, {MANY}) g"


def streamed(database: Database) -> str:
    """Return a DSN whose walsender streams whatever is larger than 64 kB."""
    return make_conninfo(database.dsn, options="-c logical_decoding_work_mem=64kB")


async def test_only_what_passes_is_handed_over_at_the_place_that_it_has(table: Database) -> None:
    async with open_source(table, filter="id=in.(2,5),name=like.name*") as source:
        insert(table, 1, 2, 3, 4, 5)
        table.execute("update item set name = 'other' where id = 2")
        table.execute("update item set name = 'name 22' where id = 2")
        table.execute("delete from item where id = 2")
        table.execute("truncate item")
        found = await take(source, 4)
        assert [type(each) for each in found] == [Insert, Insert, Update, Truncate]
        assert ids(found) == [2, 5]
        # The index counts what was left out.
        assert [each.position.index for each in found[:2]] == [1, 4]  # type: ignore[union-attr]
        assert source.stats().changes == 9
        assert source.stats().filtered == 5


async def test_filters_may_differ_by_table(table: Database) -> None:
    table.execute("create table other (n int); create table third (x text)")
    table.execute("alter publication shop add table other, third")
    filters = {"public.item": "id=gt.1", "public.third": "x=not.is.null"}
    async with open_source(table, filter=filters) as source:
        insert(table, 1, 2)
        table.execute("insert into other values (1)")
        table.execute("insert into third values (null), ('x')")
        found = await take(source, 3)
        assert [str(each.relation) for each in found] == [  # type: ignore[union-attr]
            "public.item",
            "public.other",
            "public.third",
        ]


@pytest.mark.parametrize("kind", [PgoutputSource, Wal2JsonSource])
async def test_citext_is_compared_whatever_the_case(
    kind: type[PgoutputSource | Wal2JsonSource], pg17: Server
) -> None:
    """Its OID is another one in each database, and it may be in any schema."""
    with fresh_database(pg17) as database:
        database.execute(
            "create schema extensions; create extension citext schema extensions;"
            " create domain address as extensions.citext;"
            " create table people (id int primary key, name extensions.citext,"
            " mail address, aliases extensions.citext[]);"
            " create publication shop for table people"
        )
        rows = "(1, 'Ada', 'Ada@X', '{A,b}'), (2, 'ada', 'ADA@x', '{c}'), (3, 'bob', 'b', null)"
        for text, wanted in {
            "name=eq.ADA": [1, 2],
            "name=in.(BOB,x)": [3],
            "name=like.A*": [1, 2],
            "name=gt.ADA": [3],
            "mail=eq.ada@x": [1, 2],
            "aliases=cs.{a,B}": [1],
        }.items():
            async with (
                PgoutputSource(database.dsn, publications=["shop"], filter=text)
                if kind is PgoutputSource
                else Wal2JsonSource(database.dsn, filter=text)
            ) as source:
                database.execute(f"insert into people values {rows}")
                database.execute("insert into people values (9, 'ADA', 'ada@x', '{a,b}')")
                database.execute("insert into people values (10, 'BOB', 'x', null)")
                database.execute("truncate people")
                found = ids([await soon(anext(source)) for _ in wanted])
                assert found == wanted, text


async def test_a_slot_moves_past_what_nobody_wanted(table: Database) -> None:
    async with open_source(
        table, slot="picky", filter="id=eq.5", status_interval=0.1, boundaries=True
    ) as source:
        reading = asyncio.create_task(anext(source.batches()))
        before = confirmed(table, "picky")
        insert(table, 1)
        insert(table, 2, 3)
        await eventually(lambda: confirmed(table, "picky") > before)
        await soon(reading)

    async with open_source(table, slot="picky", filter="id=eq.5", status_interval=0.1) as source:
        insert(table, 4, 5, 6)
        insert(table, 7)
        (five,) = await take(source, 1)
        waiting = asyncio.create_task(anext(source))
        stood = confirmed(table, "picky")
        source.ack(five)
        # To the end of the transaction of 7, although 6 and 7 were never seen.
        await eventually(lambda: confirmed(table, "picky") > stood)
        await eventually(lambda: source.stats().unacknowledged == 0)
        waiting.cancel()

    # What is acknowledged that way does not come again, with another filter either.
    async with open_source(table, slot="picky") as source:
        insert(table, 8)
        assert ids(await take(source, 1)) == [8]


async def test_what_was_not_acknowledged_comes_again_and_nothing_twice(table: Database) -> None:
    async with open_source(table, slot="picky", filter="id=in.(2,4,6)") as source:
        table.execute("begin; insert into item values (1), (2), (3), (4); commit")
        assert ids(await take(source, 2)) == [2, 4]
        kill_walsenders(table)
        insert(table, 5, 6)
        assert ids(await take(source, 1)) == [6]
    async with open_source(table, slot="picky", filter="id=in.(2,4,6)") as source:
        assert ids(await take(source, 3)) == [2, 4, 6]


async def test_a_checkpoint_of_ones_own_goes_on_behind_what_passed(table: Database) -> None:
    stored: Position | None = None
    seen: list[int] = []
    for number in range(4):
        async with open_source(
            table, slot="own", start_at=stored, filter="id=gt.1", status_interval=0.1
        ) as source:
            insert(table, 10 * number + 1, 10 * number + 2, 10 * number + 3)
            while len(seen) < 3 * number + 2:
                event = await soon(anext(source))
                stored = event.position  # type: ignore[union-attr]
                seen += ids([event])
                assert stored is not None
                source.ack(stored)
    assert seen == [2, 3, 11, 12, 13, 21, 22, 23, 31, 32, 33]


async def test_whole_transactions_are_those_parts_that_pass(table: Database) -> None:
    async with open_source(table, filter="id=gt.2") as source:
        transactions = source.transactions(1_000_000)
        insert(table, 1)
        insert(table, 2, 3, 4)
        found = await soon(anext(transactions))
        assert ids(found.changes) == [3, 4]  # type: ignore[union-attr]


async def test_enums_are_compared_in_their_declared_order(table: Database) -> None:
    table.execute("create type mood as enum ('sad', 'ok', 'happy')")
    table.execute("alter table item add mood mood")
    async with open_source(table, filter="mood=gt.sad") as source:
        table.execute("insert into item values (1, '', 'sad'), (2, '', 'happy'), (3, '', 'ok')")
        assert ids(await take(source, 2)) == [2, 3]
        assert source.enum_orders["public", "mood"] == ("sad", "ok", "happy")


async def test_a_filter_that_does_not_fit_ends_the_stream_and_loses_nothing(
    table: Database,
) -> None:
    async with open_source(table, slot="picky", filter="missing=eq.1") as source:
        insert(table, 1)
        for _ in range(2):
            with pytest.raises(
                FilterError, match=r"public\.item has no column 'missing'; it has id"
            ):
                await soon(anext(source))
    async with open_source(table, slot="picky", filter="id=eq.1") as source:
        assert ids(await take(source, 1)) == [1]


@pytest.mark.parametrize(
    ("filter", "problem"),
    [
        ("id=foo.1", "filter 'id=foo.1': unknown operator 'foo'; expected one of"),
        ({"item": "id=eq.1"}, "filter is for 'item', which is not 'schema.table' or '*'"),
        ({"*": "", "a.b": "or("}, "filter 'or(': unexpected end; expected a column's name"),
    ],
)
def test_a_filter_that_cannot_be_read_is_a_problem_of_the_settings(
    filter: str | dict[str, str], problem: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        PgoutputSource(publications=["shop"], filter=filter)
    assert any(each.startswith(problem) for each in caught.value.problems)


@pytest.mark.pg17
async def test_wal2json_filters_alike(pg17: Server) -> None:
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    database = Database(pg17, unique_name("filter"))
    pg17.create_database(database.name)
    try:
        database.execute("create table item (id int primary key, name text, at timestamptz)")
        filter = "or(id.gte.3,at.lt.2026-01-01T00:00:00Z),name=ilike.N%"
        async with Wal2JsonSource(database.dsn, filter=filter) as source:
            database.execute(
                "insert into item values (1, 'N', '2025-12-31 23:00+00'), (2, 'n', null),"
                " (3, 'x', null), (4, 'none', '2027-01-01')"
            )
            database.execute("delete from item where id = 4")
            database.execute("insert into item values (5, 'n')")
            found = [await soon(anext(source)) for _ in range(3)]
            assert ids(found) == [1, 4, 5]
            assert not any(isinstance(each, Delete) for each in found)
    finally:
        database.drop()


@pytest.fixture
def other(table: Database) -> Database:
    """A database with a second table, which has no column ``id``."""
    table.execute("create table other (nr int primary key)")
    table.execute("alter publication shop add table other")
    return table


async def test_nothing_is_read_behind_a_change_that_the_filter_does_not_fit(
    other: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even where it is the first of what is decoded at a time."""
    monkeypatch.setattr(_stream, "_TURN", -1)
    slot = unique_name("slot")
    source = PgoutputSource(
        streamed(other),
        publications=["shop"],
        slot=slot,
        streaming="on",
        filter="id=gt.0",
        auto_ack=True,
    )
    async with source:
        other.execute(f"begin; insert into other values (7); {BULK}; commit")
        insert(other, 9001)
        with pytest.raises(FilterError, match="no column 'id'"):
            await take(source, 1)
    await first_is_seven(other, slot)


async def test_closing_does_not_pass_over_a_change_that_the_filter_does_not_fit(
    other: Database,
) -> None:
    slot = unique_name("slot")
    async with open_source(other, slot=slot, filter="id=eq.0", auto_ack=True) as source:
        other.execute(
            f"begin; insert into item values (0); insert into other values (7); {BULK}; commit"
        )
        assert ids(await take(source, 1)) == [0]
        with pytest.raises(FilterError, match="no column 'id'"):
            await take(source, 1)
    await first_is_seven(other, slot)


async def first_is_seven(database: Database, slot: str) -> None:
    """Check that the slot did not pass the row of the second table."""
    async with open_source(database, slot=slot, filter={"public.item": "id=lt.0"}) as source:
        insert(database, 9002)
        (found,) = await take(source, 1)
        assert isinstance(found, Insert)
        assert found.record.as_text() == {"nr": "7"}


async def test_others_get_their_turn_while_a_source_closes_that_leaves_much_out(
    table: Database,
) -> None:
    slot = unique_name("slot")
    source = PgoutputSource(
        streamed(table), publications=["shop"], slot=slot, streaming="on", filter="id=eq.1"
    )
    seen: set[int] = set()

    async def look() -> None:
        while True:
            seen.add(source.stats().changes)
            await asyncio.sleep(0)

    async with source:
        table.execute(BULK)
        (only,) = await take(source, 1)
        assert isinstance(only, Insert)
        source.ack(only)
        other = asyncio.create_task(look())
    other.cancel()
    # It is read in parts, and to its end.
    assert len(seen) >= MANY // _stream._CHUNK - 1
    assert max(seen) == MANY
    assert confirmed(table, slot) > only.transaction.commit_lsn
