"""Wal2JsonSource against PostgreSQL 17: the changes are pgoutput's."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql

from realtime_core import (
    UNCHANGED,
    Change,
    ChangeSource,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    OutputPluginError,
    OutputPluginNotAllowedError,
    PgoutputSource,
    Position,
    Truncate,
    Update,
    Wal2JsonSource,
)
from tests.fix_postgres import Database, Server, unique_name
from tests.waiting import eventually, eventually_sync

pytestmark = [pytest.mark.integration, pytest.mark.pg17]

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "wal2json.md"


@pytest.fixture
def database(pg17: Server) -> Iterator[Database]:
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    database = Database(pg17, unique_name("wal2json"))
    pg17.create_database(database.name)
    yield database
    database.drop()


ODD = """Odd "name" .*,'\\"""

WORK = (
    "insert into item values (1, 'one', 1.50, repeat('x', 9000)), (2, null, 'NaN', null)",
    "update item set name = 'uno' where id = 1",
    "update item set id = 10 where id = 1",
    "begin; delete from item where id = 2; insert into whole values (1, 'a'); commit",
    "update whole set v = null",
    "delete from whole",
    "begin; insert into item values (3); rollback",
    'insert into "Odd ""name"" .*,\'\\" values (1)',
    "select pg_logical_emit_message(true, 'app', 'in a transaction')",
    "select pg_logical_emit_message(false, 'app', 'alone')",
    "insert into unseen values (1)",
    "truncate whole",
    "insert into item values (1000)",
)


async def until_last(source: ChangeSource) -> list[Change]:
    changes: list[Change] = []
    async with asyncio.timeout(60):
        async for event in source:
            assert isinstance(event, Change)
            changes.append(event)
            if isinstance(event, Insert) and event.record.as_text().get("id") == "1000":
                break
    return changes


def facts(change: Change) -> tuple[Any, ...]:
    place = (change.position.lsn, change.position.index)
    xid = None if change.transaction is None else change.transaction.xid
    time = None if change.transaction is None else change.transaction.commit_time
    match change:
        case LogicalMessage():
            return ("message", place, xid, time, change.prefix, change.content)
        case Truncate():
            tables = tuple(map(str, change.relations))
            return ("truncate", place, xid, time, tables)
        case Insert():
            rows = (change.record.as_text(),)
        case Update(old_record=old):
            rows = (change.record.as_text(), None if old is None else old.as_text())
        case Delete():
            rows = (change.old_record.as_text(),)
    return (type(change).__name__, place, xid, time, str(change.relation), *rows)


@pytest.mark.parametrize("format_version", [1, 2])
async def test_the_changes_are_pgoutputs(database: Database, format_version: Any) -> None:
    database.execute("create table item (id int primary key, name text, n numeric, big text)")
    database.execute("alter table item alter big set storage external")
    database.execute("create table whole (id int, v text); alter table whole replica identity full")
    database.execute('create table "Odd ""name"" .*,\'\\" (id int primary key)')
    database.execute("create table unseen (id int)")
    database.execute('create publication shop for table item, whole, "Odd ""name"" .*,\'\\"')
    messages = format_version == 2
    async with (
        PgoutputSource(database.dsn, publications=["shop"], messages=messages) as truth,
        Wal2JsonSource(
            database.dsn,
            format_version=format_version,
            tables=[("public", "item"), (None, "whole"), ("public", ODD)],
            messages=messages,
        ) as source,
    ):
        with database.connect() as connection:
            for statement in WORK:
                connection.execute(statement.encode())
        found = list(map(facts, await until_last(source)))
        expected = list(map(facts, await until_last(truth)))
    if format_version == 1:
        # It has no TRUNCATE, and of a place the index only.
        found = [(kind, place[1], *rest) for kind, place, *rest in found]
        expected = [
            (kind, place[1], *rest) for kind, place, *rest in expected if kind != "truncate"
        ]
        # Nor NULLs in an old row.
        expected = [(*each[:-1], without_nulls(each[-1])) for each in expected]
        found = [(*each[:-1], without_nulls(each[-1])) for each in found]
    assert found == expected


def without_nulls(last: Any) -> Any:
    return {k: v for k, v in last.items() if v is not None} if isinstance(last, dict) else last


async def test_tables_actions_and_prefixes_choose(database: Database) -> None:
    for table in ("a", "b", "c"):
        database.execute(f"create table {table} (id int primary key)")
    async with Wal2JsonSource(
        database.dsn,
        exclude_tables=[("public", "b")],
        actions=["insert", "truncate"],
        messages=True,
        message_prefixes=["seen", """odd*.'"prefix"""],
    ) as source:
        for statement in (
            "insert into a values (1)",
            "insert into b values (1)",
            "delete from a",
            "select pg_logical_emit_message(false, 'unseen', '1')",
            "select pg_logical_emit_message(false, 'seen', '2')",
            """select pg_logical_emit_message(true, 'odd*.''"prefix', '3')""",
            "truncate a",
            "update c set id = 2",
            "insert into c values (1000)",
        ):
            database.execute(statement)
        changes = await until_last(source)
    assert [type(change).__name__ for change in changes] == [
        *("Insert", "LogicalMessage", "LogicalMessage", "Truncate", "Insert")
    ]


async def test_unchanged_toast_is_known_after_a_reconnect(database: Database) -> None:
    database.execute("create table t (id int primary key, big text, n int)")
    database.execute("alter table t alter big set storage external")
    slot = unique_name("toast")
    status = "select confirmed_flush_lsn from pg_replication_slots where slot_name = %s"
    async with (
        asyncio.timeout(60),
        Wal2JsonSource(
            database.dsn, slot=slot, tables=[(None, "t")], boundaries=True, backoff=(0.01, 0.1)
        ) as source,
    ):
        before = database.execute(status, (slot,))
        database.execute("insert into t values (1, repeat('x', 9000), 1)")
        commit = await through_commit(source)
        source.ack(commit)
        # Nothing will be repeated.
        await eventually(lambda: database.execute(status, (slot,)) != before)
        database.execute(
            "select pg_terminate_backend(active_pid, 10000) from pg_replication_slots"
            " where slot_name = %s",
            (slot,),
        )
        database.execute("update t set n = 2")
        while not isinstance(updated := await anext(source), Update):
            pass
    assert isinstance(updated, Update)
    assert updated.record.raw("big") is UNCHANGED


async def through_commit(source: ChangeSource) -> Commit:
    while not (isinstance(event := await anext(source), Commit) and event.changes):
        pass
    return event


async def test_a_server_that_does_not_allow_it(database: Database) -> None:
    if not database.execute("select 1 from pg_settings where name = 'output_plugin_libraries'"):
        pytest.skip("this PostgreSQL loads any output plugin")
    database.execute(
        sql.SQL("alter database {} set output_plugin_libraries = 'pgoutput'").format(
            sql.Identifier(database.name)
        )
    )
    with pytest.raises(OutputPluginNotAllowedError) as caught:
        await Wal2JsonSource(database.dsn).__aenter__()
    assert caught.value.plugin == "wal2json"
    assert "ALTER SYSTEM SET output_plugin_libraries" in str(caught.value)


async def test_a_server_that_does_not_have_it(pg18: Server) -> None:
    with pytest.raises(OutputPluginError, match="wal2json"):
        await Wal2JsonSource(pg18.dsn).__aenter__()


@pytest.mark.parametrize("format_version", [1, 2])
async def test_breaks_under_load_lose_and_repeat_nothing(
    database: Database, format_version: Any
) -> None:
    database.execute("create table item (id int primary key, name text)")
    received: list[int] = []
    positions: list[Position] = []
    done = threading.Event()
    written: list[int] = []

    def write() -> None:
        statement = "insert into item select g, 'x' from generate_series(%s::int, %s::int) g"
        rows = 0
        with database.connect() as connection:
            while not done.is_set():
                # Of all sizes, so that breaks fall within transactions too.
                size = 1 + rows * 7919 % 400
                connection.execute(statement, (rows, rows + size - 1))
                rows += size
                # A database that writes faster than anybody reads would take all day.
                eventually_sync(lambda rows=rows: len(received) > rows - 5000 or done.is_set())
            # Only now is it known which one is the last.
            written.append(rows)
            connection.execute("insert into item values (%s, 'last')", (rows,))

    def kill() -> None:
        query = (
            "select pg_terminate_backend(active_pid) from pg_replication_slots"
            " where database = current_database() and active"
        )
        try:
            with database.connect() as connection:
                for _ in range(12):
                    arrived = len(received)
                    eventually_sync(lambda arrived=arrived: len(received) > arrived)
                    eventually_sync(lambda: connection.execute(query).fetchall())
        finally:
            done.set()

    slot = unique_name("load")
    async with Wal2JsonSource(
        database.dsn, format_version=format_version, slot=slot, backoff=(0.001, 0.01)
    ) as source:

        async def consume() -> None:
            async for batch in source.batches():
                for event in batch:
                    assert isinstance(event, Insert)
                    received.append(event.record["id"])
                    positions.append(event.position)
                # Not every batch, so that a break finds unacknowledged ones too.
                if len(received) % 3:
                    source.ack(positions[-1])
                if written and received[-1] == written[0]:
                    return

        async with asyncio.timeout(120):
            await asyncio.gather(consume(), asyncio.to_thread(write), asyncio.to_thread(kill))
    assert received == list(range(written[0] + 1))
    assert positions == sorted(set(positions))


def test_the_pages_program_follows(database: Database, tmp_path: Path) -> None:
    (source,) = re.findall(
        r'^```python title="follow.py"\n(.*?)^```$', PAGE.read_text(), re.M | re.S
    )
    program = tmp_path / "follow.py"
    # A slot's name belongs to the whole cluster.
    slot = unique_name("orders")
    program.write_text(source.replace('slot="orders"', f'slot="{slot}"'))
    database.execute("create table orders (id int primary key)")
    with subprocess.Popen(
        [sys.executable, str(program), database.dsn], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "following\n"
        database.execute("insert into orders values (7)")
        assert process.stdout.readline().endswith(" 7\n")
        process.terminate()
