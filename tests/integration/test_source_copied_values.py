"""What snapshots and backfills make of odd values, of many tables, and of lost connections."""

from __future__ import annotations

import os
from typing import Any

import attrs
import pytest

from realtime_core import (
    BackfillStep,
    PgoutputSource,
    Snapshot,
    SnapshotBegin,
    SnapshotComplete,
    SnapshotProgress,
    SourceError,
    ValueConversionError,
    Wal2JsonSource,
)
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database, make_table
from tests.integration.source_helpers import kill_walsenders, soon
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]

OPTIONS: Any = {"publications": ["shop"], "snapshot": "initial", "backoff": (0.01, 0.1)}
BEYOND_PYTHON = {
    "date": ("infinity", "-infinity", "4713-01-01 BC", "5874897-12-31"),
    "timestamp": ("infinity", "0044-03-15 10:00:00 BC", "294276-12-31 23:59:59.999999"),
    "timestamptz": ("-infinity", "10000-01-01 00:00:00+00"),
    "time": ("24:00:00",),
    "interval": ("178000000 years", "-2147483648 days"),
    "date[]": ("{infinity,2026-01-01}",),
}
"""Types' texts that have no Python value."""
NO_NUMBERS = {"numeric": ("NaN", "Infinity", "-Infinity"), "float8": ("NaN", "Infinity", "-0")}


@attrs.define
class Typed:
    id: int
    v: Any


async def until(source: Any, kind: type) -> list[Any]:
    """Read up to the end of a snapshot or of a backfill, and return the rows."""
    found = []
    while True:
        match await soon(anext(source)):
            case Snapshot(record=record):
                found.append(record)
            case event if isinstance(event, kind) and getattr(event, "is_last", True):
                source.ack(event) if kind is SnapshotComplete else None
                return found


async def test_values_that_python_cannot_hold_come_as_text(table: Database) -> None:
    values = BEYOND_PYTHON | NO_NUMBERS
    for number, (type_name, texts) in enumerate(values.items()):
        rows = ", ".join(f"({number * 10 + n}, '{text}')" for n, text in enumerate(texts))
        table.execute(
            f"create table v{number} (id int primary key, v {type_name});"
            f"alter publication shop add table v{number}; insert into v{number} values {rows}"
        )
    expected = [text for texts in values.values() for text in texts]
    async with PgoutputSource(table.dsn, **OPTIONS) as source:
        copied = await until(source, SnapshotComplete)
        filled, streamed = [], []
        for number, texts in enumerate(values.values()):
            await source.backfill(f"public.v{number}")
            filled += await until(source, BackfillStep)
            table.execute(f"update v{number} set id = -id - 1")
            streamed += [(await soon(anext(source))).record for _ in texts]
    beyond = sum(map(len, BEYOND_PYTHON.values()))
    for records in (copied, filled, streamed):
        assert [record.text("v") for record in records] == expected
        for record in records[:beyond]:
            with pytest.raises(ValueConversionError, match=r"row\.text"):
                record["v"]
        assert [str(float(record["v"])) for record in records[beyond:]] == [
            *("nan", "inf", "-inf", "nan", "inf", "-0.0")
        ]


async def test_typed_rows_of_a_snapshot_say_which_value_does_not_fit(table: Database) -> None:
    table.execute(
        "create table v (id int primary key, v date); alter publication shop add table v;"
        "insert into v values (1, '2026-01-02'), (2, 'infinity'), (3, '2026-01-03')"
    )
    source = PgoutputSource(table.dsn, **OPTIONS).typed({"public.v": Typed}, on_error=str)
    async with source:
        found = await until(source, SnapshotComplete)
    assert [found[0].id, found[2].id] == [1, 3]
    assert found[1] == (
        "table public.v, column 'v' of type date: date too large (after year 10K): 'infinity'; "
        "row.text('v') has its text"
    )


async def test_text_that_is_not_utf8_is_an_error_that_names_the_table(pg: Server) -> None:
    encoding = "encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C' template template0"
    with fresh_database(pg, encoding) as database:
        make_table(database)
        database.execute(r"insert into item values (1, 'ok'), (2, E'caf\xe9')")
        problem = r"a row of public\.item has text that cannot be sent as UTF-8 .*0xe9"
        async with PgoutputSource(database.dsn, **OPTIONS) as source:
            with pytest.raises(SourceError, match=problem):
                await until(source, SnapshotComplete)
            database.execute("update item set name = 'cafe' where id = 2")
            # The next read takes another snapshot.
            assert [row["name"] for row in await until(source, SnapshotComplete)] == ["ok", "cafe"]
            database.execute(r"begin; truncate item; insert into item values (3, E'\xe9'); commit")
        async with PgoutputSource(database.dsn, publications=["shop"]) as source:
            await source.backfill("public.item")
            with pytest.raises(SourceError, match=problem):
                await until(source, BackfillStep)


async def test_a_chunk_whose_connection_is_lost_is_read_again(table: Database) -> None:
    table.execute("insert into item select n, 'x' from generate_series(1, 60) n")
    reading = (
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and query like 'COPY%' and state = 'active'"
    )
    async with PgoutputSource(table.dsn, publications=["shop"], backoff=(0.01, 0.1)) as source:
        where = "pg_sleep(0.02) is not null"
        await source.backfill("public.item", where=where, chunk_rows=30)
        await eventually(lambda: table.execute(reading))
        found = await until(source, BackfillStep)
    assert [row["id"] for row in found] == list(range(1, 61))


async def test_a_backfill_outlives_the_stream_that_is_lost_amid_a_chunk(table: Database) -> None:
    table.execute("insert into item select n, 'x' from generate_series(1, 60) n")
    slot = unique_name("slot")
    async with PgoutputSource(
        table.dsn, publications=["shop"], slot=slot, backoff=(0.01, 0.1)
    ) as source:
        where = "pg_sleep(0.02) is not null"
        await source.backfill("public.item", where=where, chunk_rows=30)
        copying = "select 1 from pg_stat_activity where query like 'COPY%' and state = 'active'"
        await eventually(lambda: table.execute(copying))
        table.execute("update item set name = 'changed' where id in (2, 50)")
        kill_walsenders(table)
        found = await until(source, BackfillStep)
        assert source.stats().reconnects == 1
    assert sorted({row["id"] for row in found}) == list(range(1, 61))
    assert {row["id"] for row in found if row["name"] == "changed"} == {2, 50}


TABLES = int(os.environ.get("SNAPSHOT_TABLES", "60"))


async def test_many_tables_are_copied_by_few_connections(table: Database) -> None:
    """SNAPSHOT_TABLES says how many."""
    table.execute(
        f"do $$ begin for n in 1..{TABLES} loop execute format('create table t%s (id int primary"
        " key); insert into t%1$s values (1), (2), (3); alter publication shop add table t%1$s',"
        " n); end loop; end $$"
    )
    steps: list[SnapshotProgress] = []
    ours = "select count(*) from pg_stat_activity where datname = %s and pid <> pg_backend_pid()"
    options = OPTIONS | {"snapshot_connections": 3, "snapshot_progress": steps.append}
    async with PgoutputSource(table.dsn, **options) as source:
        begin = await soon(anext(source))
        assert isinstance(begin, SnapshotBegin)
        assert len(begin.tables) == TABLES + 1
        # Three copy, one keeps the slot, and one asks.
        assert table.execute(ours, (table.name,))[0][0] <= 5
        copied = await until(source, SnapshotComplete)
    assert len(copied) == 3 * TABLES
    assert steps[-1].tables_done == steps[-1].tables == TABLES + 1


async def test_wal2json_has_all_rows_of_a_table_that_is_altered(wal2json_table: Database) -> None:
    from tests.integration.test_source_altered import FIRST, REST, backfilled, rows

    ways = {
        "alter table item alter id type bigint": REST,
        "alter table item drop note": [row[:2] for row in REST],
    }
    async with Wal2JsonSource(wal2json_table.dsn, tables=[("public", "item")]) as source:
        for ddl, rest in ways.items():
            assert rows(await backfilled(source, wal2json_table, ddl)) == [*FIRST, *rest]
