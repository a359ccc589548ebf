"""MemoryDatabase: what the contract suite does not show."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from psycopg import sql

from realtime_core import (
    LSN,
    UNCHANGED,
    Commit,
    ConnectionLostError,
    DecodeError,
    Delete,
    Event,
    Gap,
    GapReason,
    Insert,
    LogicalMessage,
    MemoryDatabase,
    MemorySource,
    MemoryTable,
    Position,
    ReplicaIdentity,
    SlotLostError,
    SlotUnavailableError,
    Truncate,
    Update,
)
from realtime_core.sources.memory._texts import to_field
from tests.fix_postgres import Server

ROOT = Path(__file__).parents[3]


@pytest.fixture
def database() -> MemoryDatabase:
    return MemoryDatabase()


@pytest.fixture
def todos(database: MemoryDatabase) -> MemoryTable:
    return database.table("todos", {"id": "int8", "task": "text", "done": "bool"}, key="id")


async def everything(source: MemorySource) -> list[Event]:
    """Read all that was written."""
    source.database.end()
    async with asyncio.timeout(30):
        return [event async for event in source]


async def test_values_come_as_python_and_as_postgresqls_text(
    database: MemoryDatabase, todos: MemoryTable
) -> None:
    async with MemorySource(database) as source:
        todos.insert(id=1, task="write", done=True)
        (event,) = await everything(source)
    assert isinstance(event, Insert)
    assert event.record.as_python() == {"id": 1, "task": "write", "done": True}
    assert event.record.as_text() == {"id": "1", "task": "write", "done": "t"}
    assert str(event.relation) == "public.todos"
    assert event.transaction.xid == 700
    assert event.transaction.commit_time == datetime(2026, 1, 1, 0, 0, 1, tzinfo=UTC)


async def test_the_same_writes_give_the_same_events() -> None:
    found = []
    for _ in range(2):
        database = MemoryDatabase()
        table = database.table("t", {"id": "int8", "v": "text"}, key="id")
        async with MemorySource(database, slot="a", boundaries=True) as source:
            with database.transaction(origin="elsewhere"):
                table.insert(id=1, v="x" * 100)
                table.update(1, v="y")
            database.message("app", b"\x00", transactional=False)
            database.message("app", "text")
            found.append([str(event) for event in await everything(source)])
    assert found[0] == found[1]
    assert len(found[0]) == 4 + 1 + 3
    assert "origin='elsewhere'" in found[0][0]


async def test_a_new_slot_stands_at_the_end(database: MemoryDatabase, todos: MemoryTable) -> None:
    todos.insert(id=1)
    async with MemorySource(database, slot="a") as source:
        assert database.unacknowledged("a") == ()
        assert await everything(source) == []


@pytest.mark.parametrize("identity", list(ReplicaIdentity))
async def test_old_rows_are_what_the_replica_identity_says(
    database: MemoryDatabase, identity: ReplicaIdentity
) -> None:
    columns = {"a": "int4", "b": "int4", "v": "text"}
    table = database.table("t", columns, key=("a", "b"), replica_identity=identity)
    async with MemorySource(database) as source:
        table.insert(a=1, b=2, v="x")
        if identity is ReplicaIdentity.NOTHING:
            with pytest.raises(ValueError, match="no replica identity"):
                table.update((1, 2), v="y")
            with pytest.raises(ValueError, match="no replica identity"):
                table.delete((1, 2))
            return
        table.update((1, 2), v="y")
        table.update((1, 2), b=3)
        table.delete((1, 3))
        _, same_key, new_key, deleted = await everything(source)
    assert isinstance(same_key, Update)
    assert isinstance(new_key, Update)
    assert isinstance(deleted, Delete)
    if identity is ReplicaIdentity.FULL:
        assert same_key.old_record is not None
        assert same_key.old_record.as_text() == {"a": "1", "b": "2", "v": "x"}
        assert deleted.old_record.as_text() == {"a": "1", "b": "3", "v": "y"}
    else:
        assert same_key.old_record is None
        assert new_key.old_record is not None
        assert new_key.old_record.as_text() == {"a": "1", "b": "2"}
        assert deleted.old_record.as_text() == {"a": "1", "b": "3"}


@pytest.mark.parametrize("identity", [ReplicaIdentity.DEFAULT, ReplicaIdentity.FULL])
async def test_unchanged_toast(database: MemoryDatabase, identity: ReplicaIdentity) -> None:
    columns = {"id": "int4", "body": "text", "n": "int4"}
    table = database.table("t", columns, key="id", replica_identity=identity)
    async with MemorySource(database) as source:
        table.insert(id=1, body="large", n=1)
        table.update(1, n=2, body=UNCHANGED)
        table.update(1, n=3)
        _, first, second = await everything(source)
    assert isinstance(first, Update)
    assert isinstance(second, Update)
    full = identity is ReplicaIdentity.FULL
    assert first.record.raw("body") == ("large" if full else UNCHANGED)
    assert second.record.as_text() == {"id": "1", "body": "large", "n": "3"}


async def test_a_transaction_that_is_rolled_back_was_never_there(
    database: MemoryDatabase, todos: MemoryTable
) -> None:
    async with MemorySource(database) as source:
        todos.insert(id=1)
        with pytest.raises(ZeroDivisionError):
            fail_within(database, todos)
        assert list(todos.rows) == [("1",)]
        todos.insert(id=2)
        events = await everything(source)
    assert [event.record["id"] for event in events if isinstance(event, Insert)] == [1, 2]


def fail_within(database: MemoryDatabase, todos: MemoryTable) -> None:
    with database.transaction():
        todos.insert(id=2)
        todos.delete(1)
        database.truncate(todos)
        raise ZeroDivisionError


async def test_a_truncate_names_its_tables(database: MemoryDatabase, todos: MemoryTable) -> None:
    other = database.table("other", {"id": "int4"}, schema="shop")
    async with MemorySource(database) as source:
        todos.insert(id=1)
        database.truncate(todos, other, cascade=True)
        *_, event = await everything(source)
    assert isinstance(event, Truncate)
    assert [str(relation) for relation in event.relations] == ["public.todos", "shop.other"]
    assert (event.cascade, event.restart_identity) == (True, False)
    assert todos.rows == {}


async def test_messages(database: MemoryDatabase, todos: MemoryTable) -> None:
    async with MemorySource(database) as source:
        with database.transaction():
            todos.insert(id=1)
            database.message("app", "with it")
            # This one does not wait for the commit.
            database.message("app", b"at once", transactional=False)
        at_once, _, with_it = await everything(source)
        assert isinstance(at_once, LogicalMessage)
        assert isinstance(with_it, LogicalMessage)
        assert (at_once.content, at_once.transaction) == (b"at once", None)
        assert (with_it.content, with_it.index) == (b"with it", 1)
        assert at_once.position < with_it.position
        source.ack(with_it)
        assert source.stats().unacknowledged == 0


def test_mistakes_are_told(database: MemoryDatabase, todos: MemoryTable) -> None:
    todos.insert(id=1)
    keyless = database.table("keyless", {"v": "text"})
    keyless.insert(v="same")
    keyless.insert(v="same")
    for mistake, message in (
        (lambda: todos.insert(id=1), "public.todos has a row with key ('1',) already"),
        (lambda: todos.insert(ID=2), "has no column 'ID'; it has id, task, done"),
        (lambda: todos.update(2, task="x"), "has no row with key 2"),
        (lambda: todos.update(1, tsak="x"), "has no column 'tsak'"),
        (lambda: todos.delete(2), "has no row with key 2"),
        (lambda: keyless.update("same", v="x"), "public.keyless has no key"),
        (lambda: database.table("t", {"a": "int4"}, key="b"), "names 'b', which is not a column"),
        (lambda: MemorySource(on_gap="wait"), "on_gap is 'raise' or 'continue'"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            mistake()  # type: ignore[no-untyped-call]
    # Nothing of that has changed anything.
    assert list(todos.rows.values()) == [("1", None, None)]
    todos.insert(id=2)
    with pytest.raises(ValueError, match="already"):
        todos.update(2, id=1)
    assert len(todos.rows) == 2
    with pytest.raises(RuntimeError, match="do not nest"):
        nest(database)


def nest(database: MemoryDatabase) -> None:
    with database.transaction(), database.transaction():
        pass


def test_a_source_that_was_not_entered(database: MemoryDatabase) -> None:
    source = MemorySource(database, slot="a")
    assert source.stats().changes == 0
    with pytest.raises(RuntimeError, match="async with"):
        source.ack(Position(LSN(1)))


async def test_a_server_that_is_down(database: MemoryDatabase, todos: MemoryTable) -> None:
    async with MemorySource(database, slot="app") as source:
        todos.insert(id=1)
        with database.down():
            # What was sent already is there.
            with pytest.raises(ConnectionLostError, match="down"):
                await MemorySource(database, slot="other").__aenter__()
            reading = asyncio.create_task(anext(source))  # type: ignore[arg-type]
            await asyncio.sleep(0)
            assert not reading.done()
            assert not source.stats().connected
        event = await asyncio.wait_for(reading, 30)
        assert isinstance(event, Insert)
        assert event.record["id"] == 1
        assert source.stats().reconnects == 1


async def test_an_error_that_ends_the_stream(database: MemoryDatabase, todos: MemoryTable) -> None:
    async with MemorySource(database) as source:
        todos.insert(id=1)
        assert isinstance(await anext(source), Insert)
        database.drop_connections(DecodeError("unknown message"))
        for _ in range(2):
            with pytest.raises(DecodeError, match="unknown message"):
                await anext(source)
    async with MemorySource(database, slot="a") as source:
        database.drop_connections(SlotUnavailableError("a", "somebody else has it"))
        with pytest.raises(SlotUnavailableError):
            await anext(source)


@pytest.mark.parametrize("lose", ["drop_slot", "advance_slot", "lose_slot"])
async def test_a_slot_that_is_lost(database: MemoryDatabase, todos: MemoryTable, lose: str) -> None:
    reasons = {
        "drop_slot": GapReason.SLOT_MISSING,
        "advance_slot": GapReason.SLOT_MOVED,
        "lose_slot": GapReason.WAL_REMOVED,
    }
    async with MemorySource(database, slot="app", on_gap="continue") as source:
        todos.insert(id=1)
        first = await anext(source)
        assert isinstance(first, Insert)
        getattr(database, lose)("app")
        reading = asyncio.create_task(anext(source))  # type: ignore[arg-type]
        gap = await asyncio.wait_for(reading, 30)
        assert isinstance(gap, Gap)
        assert gap.reason is reasons[lose]
        assert gap.after == first.position
        todos.insert(id=2)
        (second,) = await everything(source)
        assert isinstance(second, Insert)
        assert second.record["id"] == 2
    with pytest.raises(KeyError):
        getattr(database, lose)("none")


async def test_a_slot_that_was_lost_before_anybody_came(database: MemoryDatabase) -> None:
    async with MemorySource(database, slot="app"):
        pass
    database.lose_slot("app", GapReason.SLOT_INVALIDATED)
    with pytest.raises(SlotLostError) as caught:
        await MemorySource(database, slot="app").__aenter__()
    assert caught.value.reason is GapReason.SLOT_INVALIDATED


async def test_what_is_not_acknowledged_can_be_seen(
    database: MemoryDatabase, todos: MemoryTable
) -> None:
    async with MemorySource(database, slot="app", boundaries=True) as source:
        todos.insert(id=1)
        todos.insert(id=2)
        *_, commit = [await anext(source) for _ in range(3)]
        assert isinstance(commit, Commit)
        source.ack(commit)
        (left,) = database.unacknowledged("app")
        assert isinstance(left, Insert)
        assert left.record["id"] == 2


# Python values as PostgreSQL writes them


@pytest.mark.parametrize(
    ("value", "type_name", "text"),
    [
        (None, "text", None),
        ("as it is", "text", "as it is"),
        (True, "bool", "t"),
        (False, "bool", "f"),
        (-5, "int8", "-5"),
        (Decimal("1.50"), "numeric", "1.50"),
        (1.0, "float8", "1"),
        (1.5e-10, "float8", "1.5e-10"),
        (float("inf"), "float8", "Infinity"),
        (float("-inf"), "float8", "-Infinity"),
        (b"\x00\xff", "bytea", "\\x00ff"),
        (UUID(int=1), "uuid", "00000000-0000-0000-0000-000000000001"),
        (date(2026, 1, 2), "date", "2026-01-02"),
        (time(1, 2, 3, 400_000), "time", "01:02:03.4"),
        (datetime(2026, 1, 2, 3, 4, 5), "timestamp", "2026-01-02 03:04:05"),
        (
            datetime(2026, 1, 2, 3, 4, 5, 60, timezone(timedelta(hours=1))),
            "timestamptz",
            "2026-01-02 02:04:05.00006+00",
        ),
        (timedelta(hours=2, microseconds=500_000), "interval", "02:00:00.5"),
        (timedelta(days=1), "interval", "1 day"),
        (timedelta(days=2, seconds=61), "interval", "2 days 00:01:01"),
        (timedelta(days=-2, seconds=61), "interval", "-1 days -23:58:59"),
        ([1, 2, None], "_int4", "{1,2,NULL}"),
        (["a b", "", "null", 'q"\\', None], "_text", '{"a b","","null","q\\"\\\\",NULL}'),
        ([[1, 2], [3, 4]], "_int4", "{{1,2},{3,4}}"),
        ({"a": [1, "ü"]}, "jsonb", '{"a": [1, "ü"]}'),
        ([1, "ü"], "jsonb", '[1, "ü"]'),
        (True, "json", "true"),
        ("sad", "mood", "sad"),
    ],
)
async def test_a_value_goes_there_and_back(value: Any, type_name: str, text: str | None) -> None:
    database = MemoryDatabase()
    table = database.table("t", {"v": type_name})
    async with MemorySource(database) as source:
        table.insert(v=value)
        (event,) = await everything(source)
    assert isinstance(event, Insert)
    assert event.record.text("v") == text
    assert event.record["v"] == value


# What PostgreSQL makes of a text, and what it refuses; an integration test asks it.
HELD = [
    ("int4", "007", "7"),
    ("int8", "0x1F", "31"),
    ("bool", "yes", "t"),
    ("uuid", "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
    ("date", "20260102", "2026-01-02"),
    ("date", "infinity", "infinity"),
    ("date", "0044-03-15 BC", "0044-03-15 BC"),
    ("timestamp", "2026-01-02T03:04:05.6000Z", "2026-01-02 03:04:05.6"),
    ("timestamptz", "2026-01-02 03:04:05", "2026-01-02 03:04:05+00"),
    ("timestamptz", "2026-01-02 03:04:05+05:30", "2026-01-01 21:34:05+00"),
    ("timestamptz", "10000-01-01 00:00:00+00", "10000-01-01 00:00:00+00"),
    ("timestamp", "9999-12-31 23:59:59.999999", "9999-12-31 23:59:59.999999"),
    ("timestamp", "0001-01-01 00:00:00", "0001-01-01 00:00:00"),
    ("text", "", ""),
    ("jsonb", "[]", "[]"),
]
REFUSED = [
    ("int2", "32768"),
    ("int4", "2147483648"),
    ("int4", "1.5"),
    ("int4", ""),
    ("int8", "abc"),
    ("bool", "2"),
    ("float8", "1e400"),
    ("numeric", "one"),
    ("date", "2026-02-30"),
    ("timestamptz", "2026-01-02 25:00"),
    ("interval", "2147483648 days"),
    ("uuid", "1234"),
    ("inet", "10.0.0.256"),
    ("bytea", "\\x0"),
    ("json", "{"),
    ("jsonb", "{'a': 1}"),
    ("_int4", "{1,x}"),
    ("int4range", "[5,1]"),
    ("bit", "102"),
]


@pytest.mark.parametrize(("type_name", "text", "stored"), HELD)
def test_a_text_is_stored_as_postgresql_writes_it(type_name: str, text: str, stored: str) -> None:
    table = MemoryDatabase().table("t", {"k": type_name}, key="k")
    table.insert(k=text)
    assert list(table.rows) == [(stored,)]
    # Its row is found by either.
    table.delete(text)
    table.insert(k=stored)
    table.delete(text)


@pytest.mark.parametrize(("type_name", "text"), REFUSED)
def test_what_a_columns_type_cannot_hold_is_refused(type_name: str, text: str) -> None:
    database = MemoryDatabase()
    table = database.table("t", {"id": "int4", "v": type_name}, key="id")
    told = rf"public\.t cannot hold {re.escape(repr(text))} in column 'v' of type {type_name}: "
    with pytest.raises(ValueError, match=told):
        table.insert(id=1, v=text)
    table.insert(id=1)
    with pytest.raises(ValueError, match=told):
        table.update(1, v=text)
    assert table.rows == {("1",): ("1", None)}


@pytest.mark.integration
def test_postgresql_stores_and_refuses_the_same(pg17: Server) -> None:
    for type_name, text, stored in HELD:
        with psycopg.connect(pg17.dsn, options="-c timezone=UTC") as connection:
            query = sql.SQL("select {}::{}").format(text, sql.Identifier(type_name))
            result = connection.execute(query).pgresult
        assert result is not None
        assert result.get_value(0, 0) == stored.encode(), (type_name, text)
    for type_name, text in REFUSED:
        assert pg17.execute("select pg_input_is_valid(%s, %s)", (text, type_name)) == [(False,)]


@pytest.mark.parametrize(
    ("type_name", "value"),
    [
        ("int4", True),
        ("int4", 2**31),
        ("int4", 1.5),
        ("text", "a\0b"),
        ("text", "\ud800"),
        ("timestamptz", time(1, 2)),
        ("bool", 2),
        ("uuid", b"x"),
    ],
)
def test_an_object_that_a_columns_type_cannot_hold_is_refused(type_name: str, value: Any) -> None:
    table = MemoryDatabase().table("t", {"v": type_name})
    with pytest.raises(ValueError, match="cannot hold"):
        table.insert(v=value)


def test_a_key_is_not_null_and_whole() -> None:
    table = MemoryDatabase().table("t", {"a": "int4", "b": "int4"}, key=("a", "b"))
    with pytest.raises(ValueError, match="no key without 'b': it cannot be NULL"):
        table.insert(a=1)
    table.insert(a=1, b=2)
    with pytest.raises(ValueError, match="cannot be NULL"):
        table.update((1, 2), a=None)
    with pytest.raises(ValueError, match=r"the key of public\.t has the columns a, b"):
        table.delete(1)


def test_a_value_without_a_text() -> None:
    assert to_field(float("nan")) == "NaN"
    for value in (object(), 1j, [UNCHANGED]):
        with pytest.raises(TypeError):
            to_field(value)


@pytest.mark.slow
def test_the_pages_example_is_a_test_that_passes_and_can_fail(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "reference" / "memory.md").read_text()
    files = dict(re.findall(r'^```python title="(.*?)"\n(.*?)^```$', page, re.M | re.S))
    assert set(files) == {"app.py", "test_app.py"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)

    def run() -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.returncode, done.stdout

    code, output = run()
    assert code == 0, output
    assert "2 passed" in output
    broken = files["app.py"].replace("source.ack(change)", "pass").replace("Gap():", "None:")
    (tmp_path / "app.py").write_text(broken)
    code, output = run()
    assert code == 1, output
    assert "2 failed" in output
