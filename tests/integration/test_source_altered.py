"""Tables that are altered while their rows are copied, by a snapshot or by a backfill."""

from __future__ import annotations

from typing import Any

import pytest

from realtime_core import (
    BackfillStep,
    ConfigError,
    Insert,
    PgoutputSource,
    Snapshot,
    SnapshotBegin,
    SnapshotComplete,
    SourceError,
    Truncate,
)
from tests.fix_postgres import Database
from tests.integration.source_helpers import soon
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]

WHILE_IT_BEGINS: dict[str, tuple[str, list[dict[str, str]]]] = {
    "truncate item; insert into item values (7, 'g')": ("item", [{"id": "7", "name": "g"}]),
    "alter table item alter id type bigint": ("item", [{"id": "1", "name": "a"}]),
    "alter table item rename name to title": ("item", [{"id": "1", "title": "a"}]),
    "alter table item drop note": ("item", [{"id": "1", "name": "a"}]),
    "alter table item rename to old; create table item (id int, name text, note text)": (
        "old",
        [{"id": "1", "name": "a"}],
    ),
    "alter table item rename name to x; alter table item rename note to name": (
        "item",
        [{"id": "1", "x": "a"}],
    ),
    "alter table item drop constraint item_pkey": ("item", [{"id": "1", "name": "a"}]),
    "alter table item add more int default 7": ("item", [{"id": "1", "name": "a"}]),
    "drop table item": ("", []),
}
"""What is done between a snapshot and the locks on its tables, and what of them it has then,
without what is null."""


async def test_a_snapshot_has_tables_as_they_are_when_they_are_locked(database: Database) -> None:
    database.execute("create publication shop")
    for ddl, (name, found) in WHILE_IT_BEGINS.items():
        database.execute(
            "drop table if exists item, old;"
            "create table item (id int primary key, name text, note text);"
            "insert into item values (1, 'a'); alter publication shop add table item"
        )
        connections = 0

        async def dsn(ddl: str = ddl) -> str:
            nonlocal connections
            connections += 1
            # The first one asks for a slot, the second one makes it and exports the snapshot.
            if connections == 3:
                database.execute(ddl)
            return database.dsn

        options: Any = {"snapshot": "initial", "backoff": (0.01, 0.1)}
        async with PgoutputSource(dsn, publications=["shop"], **options) as source:
            begin = await soon(anext(source))
            assert isinstance(begin, SnapshotBegin)
            copied = []
            while isinstance(event := await soon(anext(source)), Snapshot):
                copied.append({k: v for k, v in event.record.as_text().items() if v is not None})
        assert isinstance(event, SnapshotComplete)
        assert [each.table for each in begin.tables] == [name] * bool(name), ddl
        assert copied == found, ddl


WAITS_FOR_A_LOCK = """
    select 1 from pg_stat_activity
    where datname = current_database() and wait_event_type = 'Lock' and query like 'COPY%'
"""


def made(database: Database) -> Database:
    """Make the table of one case, with the rows 1 to 8."""
    database.execute(
        "drop table if exists item, other;"
        "create table item (id int primary key, name text not null unique, note text);"
        "alter publication shop add table item;"
        "insert into item select n, 'n' || n, 'note' from generate_series(1, 8) n"
    )
    return database


async def backfilled(source: Any, database: Database, ddl: str) -> list[Any]:
    """Alter the table while its second chunk is read, behind the chunk's snapshot."""
    made(database)
    await source.backfill("public.item", chunk_rows=3)
    while not isinstance(first := await soon(anext(source)), Snapshot):
        pass
    events = [first]
    with database.connect() as other, other.transaction():
        # The next chunk is read when this task waits next.
        other.execute(ddl)
        await eventually(lambda: database.execute(WAITS_FOR_A_LOCK))
    while not (isinstance(events[-1], BackfillStep) and events[-1].is_last):
        events.append(await soon(anext(source)))
    return events


def rows(events: list[Any]) -> list[tuple[str | None, ...]]:
    return [each.record.fields for each in events if isinstance(each, Snapshot)]


N, NOTE = [f"n{number}" for number in range(9)], "note"
FIRST = [(str(n), N[n], NOTE) for n in range(1, 4)]
REST = [(str(n), N[n], NOTE) for n in range(4, 9)]


GOES_ON = {
    "alter table item alter id type bigint": REST,
    "alter table item add more int default random()": [(*row, None) for row in REST],
    "alter table item drop note": [row[:2] for row in REST],
    "alter table item rename name to title": REST,
    "alter table item rename to other; create table item (id int, name text, note text)": REST,
    "alter table item rename name to x; alter table item rename note to name": REST,
}


async def test_a_backfill_has_all_rows_of_a_table_that_is_altered(table: Database) -> None:
    async with PgoutputSource(table.dsn, publications=["shop"]) as source:
        for ddl, rest in GOES_ON.items():
            found = rows(await backfilled(source, table, ddl))
            assert [(*row[:3], *(None for _ in row[3:])) for row in found] == [*FIRST, *rest], ddl


async def test_a_backfill_goes_on_behind_a_truncate(table: Database) -> None:
    async with PgoutputSource(table.dsn, publications=["shop"]) as source:
        events = await backfilled(
            source, table, "truncate item; insert into item values (2, 'b'), (7, 'g')"
        )
    truncated = next(n for n, event in enumerate(events) if isinstance(event, Truncate))
    assert rows(events[:truncated]) == FIRST
    later = [event for event in events[truncated:] if isinstance(event, Insert | Snapshot)]
    assert {event.record["id"]: event.record["name"] for event in later} == {2: "b", 7: "g"}


CANNOT_GO_ON: dict[str, tuple[type[Exception], str]] = {
    "drop table item": (SourceError, "the table was dropped"),
    "alter table item alter id type text": (SourceError, "primary key was changed"),
    "alter table item drop constraint item_pkey": (SourceError, "primary key was changed"),
    "alter table item drop constraint item_pkey; alter table item add primary key (name)": (
        SourceError,
        "primary key was changed",
    ),
    "alter table item replica identity using index item_name_key": (
        ConfigError,
        "replica identity is an index without id",
    ),
}


async def test_a_backfill_that_cannot_go_on_says_why(table: Database) -> None:
    async with PgoutputSource(table.dsn, publications=["shop"]) as source:
        for ddl, (error, problem) in CANNOT_GO_ON.items():
            with pytest.raises(error, match=problem):
                await backfilled(source, table, ddl)
