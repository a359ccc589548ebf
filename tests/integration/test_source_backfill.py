"""A source that hands over the rows of a table while its stream goes on."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from realtime_core import (
    UNCHANGED,
    BackfillStep,
    ConfigError,
    Delete,
    Insert,
    MemorySource,
    PgoutputSource,
    Snapshot,
    SourceError,
    Truncate,
    Update,
    Wal2JsonSource,
)
from tests.fix_postgres import Database, unique_name
from tests.integration.kill_phases import kill_in_some_phase
from tests.integration.source_helpers import insert, kill_walsenders, soon
from tests.waiting import eventually, eventually_sync

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]

Row = tuple[Any, ...]
LARGE = "(select string_agg(md5(random()::text), '') from generate_series(1, 100))"
CHUNKS_READ = """
    select count(*) from pg_stat_activity where datname = current_database() and state = 'idle'
    and query like '%realtime-core:backfill%' and pid <> pg_backend_pid()
"""
"""How many connections have read a chunk and written the message behind it."""


@asynccontextmanager
async def open_source(database: Database, **options: Any) -> AsyncIterator[Any]:
    options = {"publications": ["shop"], "backoff": (0.01, 0.1)} | options
    async with PgoutputSource(database.dsn, **options) as source:
        yield source


async def until_done(source: Any) -> list[Any]:
    """Read up to the end of a backfill, and return its events."""
    events = []
    while True:
        event = await soon(anext(source))
        events.append(event)
        if isinstance(event, BackfillStep) and event.is_last:
            return events


def record_ids(events: list[Any]) -> list[int]:
    return [event.record["id"] for event in events if isinstance(event, Snapshot)]


async def test_rows_come_in_chunks_of_the_key(table: Database) -> None:
    insert(table, *range(5))
    async with open_source(table) as source:
        await source.backfill("public.item", where="id <> 2", chunk_rows=2)
        events = await until_done(source)
        assert record_ids(events) == [0, 1, 3, 4]
        steps = [event for event in events if isinstance(event, BackfillStep)]
        assert [(step.after, step.is_last) for step in steps] == [
            *((("1",), False), (("4",), False), (("4",), True))
        ]
        assert steps[-1].progress.rows == 4
        assert source.position is None
        # The next one goes on behind a key.
        await source.backfill("public.item", after=steps[0].after)
        assert record_ids(await until_done(source)) == [2, 3, 4]
        insert(table, 9)
        change = await soon(anext(source))
        assert isinstance(change, Insert)


def test_programs_without_an_event_loop_have_it_too(table: Database) -> None:
    insert(table, *range(5))
    with PgoutputSource.sync(table.dsn, publications=["shop"]) as source:
        source.backfill("public.item", where="id > 1", chunk_rows=2)
        events: list[Any] = []
        while not (events and isinstance(events[-1], BackfillStep) and events[-1].is_last):
            events.append(source.next(timeout=30))
    assert record_ids(events) == [2, 3, 4]


def test_not_every_source_has_backfills() -> None:
    with MemorySource.sync() as source, pytest.raises(TypeError, match="MemorySource has no"):
        source.backfill("public.item")


class Copy:
    """A copy of a table that knows nothing of the rows until they come."""

    def __init__(self) -> None:
        self.rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        self.backfilled = 0

    def apply(self, event: Any) -> None:
        match event:
            case Snapshot(record=record) | Insert(record=record):
                self.backfilled += isinstance(event, Snapshot)
                assert UNCHANGED not in record.fields
                self.rows[self.key(record)] = record.as_text()
            case Update(record=record, old_record=old):
                before = self.rows.pop(self.key(record if old is None else old), None)
                if before is not None or old is not None:
                    # An update finds no row before it has come, unless the key has changed.
                    changed = record.as_text(omit_unchanged=True)
                    self.rows[self.key(record)] = (before or {}) | changed
            case Delete(old_record=old):
                self.rows.pop(self.key(old), None)
            case Truncate():
                self.rows.clear()

    @staticmethod
    def key(record: Any) -> tuple[Any, ...]:
        return record.text("a"), record.text("b")


@contextmanager
def writing(database: Database, seed: int, *, truncates: bool = False) -> Iterator[None]:
    """Have rows made, changed and removed by several sessions meanwhile."""
    stop = threading.Event()

    def write(random: Random) -> None:
        with database.connect() as connection:
            execute = connection.execute
            while not stop.is_set():
                with connection.transaction(force_rollback=random.random() < 0.1):
                    for _ in range(random.choice((1, 1, 4))):
                        a, b = random.randrange(40), random.choice(("x", "o'clock", "ü\\"))
                        match random.randrange(10):
                            case 0 | 1 | 2:
                                execute(
                                    f"insert into rows values (%s, %s, 0, {LARGE})"
                                    " on conflict (a, b) do update set n = rows.n + 1",
                                    (a, b),
                                )
                            case 3 | 4 | 5 | 6:
                                execute("update rows set n = n + 1 where a = %s and b = %s", (a, b))
                            case 7:
                                execute("delete from rows where a = %s and b = %s", (a, b))
                            case 8:
                                execute(
                                    "update rows set a = a + 1000 where a = %s and b = %s", (a, b)
                                )
                            case 9 if truncates and random.random() < 0.1:
                                execute("truncate rows")

    threads = [
        threading.Thread(target=_go_on, args=(write, Random(seed * 10 + number), stop))
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def _go_on(write: Any, random: Random, stop: threading.Event) -> None:
    while not stop.is_set():
        try:
            write(random)
        except (psycopg.errors.DeadlockDetected, psycopg.errors.UniqueViolation):
            continue


@pytest.mark.parametrize("truncates", [False, True])
async def test_a_backfilled_copy_is_the_table(table: Database, truncates: bool) -> None:
    source = PgoutputSource(
        table.dsn, publications=["rows"], slot=unique_name("slot"), backoff=(0.01, 0.1)
    )
    await copy_while_it_is_written(table, source, truncates=truncates)


async def test_with_wal2json_a_backfilled_copy_is_the_table(wal2json_table: Database) -> None:
    source = Wal2JsonSource(
        wal2json_table.dsn,
        tables=[("public", "rows")],
        slot=unique_name("slot"),
        backoff=(0.01, 0.1),
    )
    await copy_while_it_is_written(wal2json_table, source, truncates=True)


async def copy_while_it_is_written(table: Database, source: Any, *, truncates: bool) -> None:
    seed = Random().randrange(10**6)
    print("seed", seed)
    table.execute(
        "create table rows (a int, b text, n int, large text, primary key (b, a));"
        "create publication rows for table rows;"
        f"insert into rows select a, b, 0, {LARGE} || a from generate_series(1, 39) a,"
        " unnest(array['x', 'o''clock', E'ü\\\\']) b"
    )
    async with source:
        copy = Copy()
        with writing(table, seed, truncates=truncates):
            for round_ in range(3):
                copy.rows.clear()
                await source.backfill("public.rows", chunk_rows=(7, 20, 500)[round_])
                done = False
                while not done:
                    event = await soon(anext(source))
                    copy.apply(event)
                    done = isinstance(event, BackfillStep) and event.is_last
                assert copy.backfilled > 0 or truncates
        table.execute("insert into rows values (-1, 'end', 0, '')")
        while ("-1", "end") not in copy.rows:
            copy.apply(await soon(anext(source)))
        found = {
            (str(a), b): {"a": str(a), "b": b, "n": str(n), "large": large}
            for a, b, n, large in table.execute("select a, b, n, large from rows")
        }
        assert copy.rows == found


async def test_it_goes_on_where_a_connection_was_lost(table: Database) -> None:
    table.execute("insert into item select n, 'x' from generate_series(1, 2000) n")
    lost = """
        select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and pid <> pg_backend_pid()
    """
    async with open_source(table, slot=unique_name("slot")) as source:
        await source.backfill("public.item", chunk_rows=100)
        found = []
        while True:
            event = await soon(anext(source))
            if isinstance(event, BackfillStep):
                if event.is_last:
                    break
                if len(found) in (300, 1000):
                    # The stream's, too.
                    table.execute(lost)
            else:
                found.append(event)
        assert record_ids(found) == list(range(1, 2001))
        insert(table, 0)
        assert isinstance(await soon(anext(source)), Insert)


async def test_one_that_fails_is_an_error_of_the_next_read_alone(table: Database) -> None:
    insert(table, 1)
    async with open_source(table) as source:
        await source.backfill("public.item", where="no such thing")
        with pytest.raises(SourceError, match="syntax error"):
            await soon(anext(source))
        insert(table, 2)
        assert isinstance(await soon(anext(source)), Insert)
        await source.backfill("public.item")
        assert record_ids(await until_done(source)) == [1, 2]


async def test_after_a_gap_the_chunk_is_read_again(table: Database) -> None:
    table.execute("insert into item select n, 'x' from generate_series(1, 500) n")
    async with open_source(table, on_gap="continue") as source:
        # A temporary slot ends with its connection. The source notices when it is read.
        kill_walsenders(table)
        await source.backfill("public.item", chunk_rows=500)
        await eventually(lambda: table.execute(CHUNKS_READ) == [(1,)])
        # Nobody tells the source of this change.
        table.execute("update item set name = 'y' where id = 7")
        events = await until_done(source)
        rows = {row.record["id"]: row.record["name"] for row in events if type(row) is Snapshot}
        assert len(rows) == 500
        assert rows[7] == "y"


@pytest.mark.parametrize(
    ("name", "after", "problem"),
    [
        ("item", (), "name it as schema.table"),
        ("public.other", (), "add it to the publication"),
        ("public.keyless", (), "primary key, which the table does not have"),
        ("public.item", ("1", "2"), "after has 2 values, and the primary key 1 columns"),
        ("public.odd", (), "replica identity is an index without id"),
    ],
)
async def test_what_cannot_be_backfilled_is_refused(
    table: Database, name: str, after: tuple[str, ...], problem: str
) -> None:
    table.execute(
        """
        create table other (id int primary key); create table keyless (id int);
        create table odd (id int primary key, code int not null unique);
        alter table odd replica identity using index odd_code_key;
        alter publication shop add table keyless, odd;
        """
    )
    async with open_source(table) as source:
        with pytest.raises(ConfigError, match=problem):
            await source.backfill(name, after=after)
        with pytest.raises(ConfigError, match="chunk_rows is a number"):
            await source.backfill("public.item", chunk_rows=0)


async def test_a_table_may_be_altered_meanwhile(table: Database) -> None:
    insert(table, *range(6))
    async with open_source(table) as source:
        await source.backfill("public.item", chunk_rows=2)
        found: list[Any] = []
        while not (found and isinstance(found[-1], BackfillStep) and found[-1].is_last):
            found.append(await soon(anext(source)))
            if len(found) == 3:
                table.execute("alter table item add column more int default 7")
                table.execute("update item set name = 'new' where id = 5")
        assert record_ids(found) == [0, 1, 2, 3, 4, 5]
        last = [event for event in found if isinstance(event, Snapshot)][-1]
        assert last.record.as_python() == {"id": 5, "name": "new", "more": 7}
        await source.backfill("public.item", chunk_rows=2)
        await soon(anext(source))
        table.execute("drop table item")
        with pytest.raises(SourceError, match="dropped"):
            await until_done(source)


async def test_a_table_may_leave_the_publication_and_have_other_columns_in_it(
    table: Database,
) -> None:
    table.server.needs(15, "column lists of publications")
    insert(table, *range(6))
    async with open_source(table) as source:
        await source.backfill("public.item", chunk_rows=2)
        assert record_ids([await soon(anext(source)) for _ in range(2)]) == [0, 1]
        # The chunk that was read ahead has both columns.
        table.execute("alter publication shop set table item (id)")
        rows = [event for event in await until_done(source) if isinstance(event, Snapshot)]
        assert [row.record["id"] for row in rows] == [2, 3, 4, 5]
        assert rows[-1].record.as_text() == {"id": "5"}
        for what in ("table item", "tables in schema public"):
            if what != "table item":
                table.execute(f"alter publication shop add {what}")
            await source.backfill("public.item", chunk_rows=2)
            await soon(anext(source))
            table.execute(f"alter publication shop drop {what}")
            with pytest.raises(SourceError, match="it is not streamed any more"):
                await until_done(source)
        # The stream goes on.
        table.execute("alter publication shop add table item; insert into item values (7, 'x')")
        assert (await soon(anext(source))).record["id"] == 7


async def test_it_waits_for_those_that_are_writing_to_the_table(table: Database) -> None:
    insert(table, 1)
    async with open_source(table, filter="id=lt.3") as source:
        with table.connect() as writer:
            writer.execute("begin")
            writer.execute("insert into item values (2, 'x'), (3, 'y')")
            await source.backfill("public.item")
            waiting = (
                "select count(*) from pg_stat_activity where query like '%virtualtransaction%'"
            )
            await eventually(lambda: table.execute(waiting) > [(1,)])
            writer.execute("commit")
        assert record_ids(await until_done(source)) == [1, 2]


PROGRAM = """
import asyncio, json, sqlite3, sys
from realtime_core import *

def apply(target, event):
    match event:
        case Snapshot(record=row) | Insert(record=row):
            target.execute("INSERT OR REPLACE INTO item VALUES (:id, :name)", row.as_text())
        case Update(record=row, old_record=old):
            key = row.text("id") if old is None else old.text("id")
            found = target.execute("DELETE FROM item WHERE id = ?", [key]).rowcount
            if found or old is not None:
                target.execute("INSERT OR REPLACE INTO item VALUES (:id, :name)", row.as_text())
        case Delete(old_record=old):
            target.execute("DELETE FROM item WHERE id = ?", [old.text("id")])
        case BackfillStep(after=after, is_last=is_last):
            target.execute("UPDATE checkpoint SET after = ?", [json.dumps((after, is_last))])

async def main(dsn, slot, file):
    target = sqlite3.connect(file)
    target.execute("CREATE TABLE IF NOT EXISTS item (id INTEGER PRIMARY KEY, name TEXT)")
    target.execute("CREATE TABLE IF NOT EXISTS checkpoint (position TEXT, after TEXT)")
    position, after = target.execute("SELECT * FROM checkpoint").fetchone()
    start = None if position is None else Position.parse(position)
    after, is_last = json.loads(after)
    source = PgoutputSource(
        dsn, publications=["shop"], slot=slot, slot_in_use="wait", start_at=start
    )
    async with source:
        if not is_last:
            await source.backfill("public.item", after=after, chunk_rows=100)
        async for batch in source.batches():
            with target:
                for event in batch:
                    apply(target, event)
                if source.position is not None:
                    target.execute("UPDATE checkpoint SET position = ?", [str(source.position)])
            if source.position is not None:
                source.ack(source.position)

asyncio.run(main(*sys.argv[1:]))
"""
KILLS = int(os.environ.get("BACKFILL_KILLS", "4"))


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_with_its_backfill(
    table: Database, tmp_path: Path
) -> None:
    """BACKFILL_KILLS says how often."""
    seed = Random().randrange(10**6)
    print("seed", seed)
    random = Random(seed)
    table.execute("insert into item select n, 'old' from generate_series(1, 20000) n")
    program, file, slot = tmp_path / "program.py", tmp_path / "copy.sqlite", unique_name("slot")
    program.write_text(PROGRAM)
    table.execute(f"select pg_create_logical_replication_slot('{slot}', 'pgoutput')")
    with sqlite3.connect(file) as target:
        target.execute("CREATE TABLE checkpoint (position TEXT, after TEXT)")
        target.execute("INSERT INTO checkpoint VALUES (NULL, '[[], false]')")
    stop = threading.Event()

    def write() -> None:
        with table.connect() as connection:
            while not stop.wait(0.001):
                known = random.randrange(20000)
                with connection.transaction():
                    connection.execute("update item set name = name || 'x' where id = %s", (known,))
                    connection.execute("delete from item where id = %s", (known - 5,))
                    connection.execute("update item set id = -id where id = %s", (known - 9,))

    def progress() -> Any:
        with sqlite3.connect(file) as target:
            return target.execute("SELECT after FROM checkpoint").fetchone()[0]

    def copied() -> Any:
        with sqlite3.connect(file) as target:
            return target.execute("SELECT id, name FROM item ORDER BY id").fetchall()

    name = unique_name("killed")
    dsn = make_conninfo(table.dsn, application_name=name)
    command = [sys.executable, str(program), dsn, slot, str(file)]
    phases: Counter[str] = Counter()
    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(KILLS):
            with subprocess.Popen(command) as process:
                last = "waiting for the place of a chunk"
                phases[kill_in_some_phase(process, table, name, random, last)] += 1
            if "true" in progress():
                # Once more from the start.
                with sqlite3.connect(file) as target:
                    target.execute("UPDATE checkpoint SET after = '[[], false]'")
    finally:
        stop.set()
        writer.join()
        print(*phases.most_common(), sep="\n")
    with subprocess.Popen(command) as process:
        try:
            eventually_sync(lambda: "true" in progress(), within=90)
            query = "select id, name from item order by id"
            eventually_sync(lambda: copied() == table.execute(query), within=90)
        finally:
            process.kill()
