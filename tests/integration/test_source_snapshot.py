"""A source that hands over the rows of its tables before their changes."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from realtime_core import (
    CommittedTransaction,
    GapReason,
    Insert,
    PgoutputSource,
    PrivilegeError,
    Snapshot,
    SnapshotBegin,
    SnapshotComplete,
    SnapshotProgress,
    SnapshotTimeoutError,
    SourceError,
    Truncate,
    Wal2JsonSource,
    drop_slot,
    slot_status,
)
from realtime_core.sources import _slot_checks, _snapshot_run
from realtime_core.sources._sessions import copying_connection
from tests.fix_postgres import Database, unique_name
from tests.integration.source_helpers import drop_slot_of, insert, kill_walsenders, soon
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]


@asynccontextmanager
async def open_source(database: Database, **options: Any) -> AsyncIterator[PgoutputSource[Any]]:
    options = {"snapshot": "initial", "publications": ["shop"], "backoff": (0.01, 0.1)} | options
    async with PgoutputSource(database.dsn, **options) as source:
        yield source


async def rows_of(source: Any) -> list[Snapshot]:
    """Read one snapshot to its end, and acknowledge it."""
    begin = await soon(anext(source))
    assert isinstance(begin, SnapshotBegin)
    rows = []
    while isinstance(event := await soon(anext(source)), Snapshot):
        rows.append(event)
    assert isinstance(event, SnapshotComplete)
    source.ack(event)
    return rows


def record_ids(rows: list[Any]) -> list[int]:
    return [row.record["id"] for row in rows]


async def test_rows_come_first_and_then_the_changes(table: Database) -> None:
    insert(table, 3, 1, 2)
    slot = unique_name("slot")
    async with open_source(table, slot=slot) as source:
        # It is behind the snapshot, though no row was read yet.
        insert(table, 4)
        assert not source.stats().connected
        begin = await soon(anext(source))
        assert isinstance(begin, SnapshotBegin)
        assert [str(relation) for relation in begin.tables] == ["public.item"]
        assert begin.reason is None
        rows = [await soon(anext(source)) for _ in range(3)]
        assert [row.record.as_python() for row in rows] == [
            {"id": number, "name": f"name {number}"} for number in (1, 2, 3)
        ]
        complete = await soon(anext(source))
        assert isinstance(complete, SnapshotComplete)
        assert complete.rows == 3
        assert source.position == complete.position
        assert await slot_status(table.dsn, slot) is None
        source.ack(complete)
        change = await soon(anext(source))
        assert isinstance(change, Insert)
        assert change.record["id"] == 4
        assert change.relation.columns == rows[0].relation.columns
        source.ack(change)
    # The next process has the slot, and needs no snapshot.
    async with open_source(table, slot=slot) as source:
        insert(table, 5)
        change = await soon(anext(source))
        assert isinstance(change, Insert)
        assert change.record["id"] == 5
    count = (
        "select count(*) from pg_replication_slots"
        " where temporary and database = current_database()"
    )
    await eventually(lambda: table.execute(count) == [(0,)])


async def test_a_process_that_ends_in_the_snapshot_leaves_nothing_behind(table: Database) -> None:
    insert(table, 1, 2)
    slot = unique_name("slot")
    async with open_source(table, slot=slot) as source:
        assert isinstance(await soon(anext(source)), SnapshotBegin)
        assert isinstance(await soon(anext(source)), Snapshot)
    count = "select count(*) from pg_replication_slots where database = current_database()"
    await eventually(lambda: table.execute(count) == [(0,)])
    async with open_source(table, slot=slot) as source:
        assert record_ids(await rows_of(source)) == [1, 2]


async def test_a_process_that_ends_behind_the_acknowledged_snapshot_leaves_its_slot(
    table: Database,
) -> None:
    insert(table, 1)
    slot = unique_name("slot")
    async with open_source(table, slot=slot) as source:
        assert record_ids(await rows_of(source)) == [1]
        insert(table, 2)
    async with open_source(table, slot=slot) as source:
        insert(table, 3)
        changes = [await soon(anext(source)) for _ in range(2)]
    assert all(isinstance(change, Insert) for change in changes)
    assert record_ids(changes) == [2, 3]


async def test_a_consumer_with_its_own_checkpoint_stores_the_snapshots_position(
    table: Database,
) -> None:
    insert(table, 1)
    slot = unique_name("slot")
    async with open_source(table, slot=slot, start_at=None) as source:
        events = [await soon(anext(source)) for _ in range(3)]
        assert isinstance(events[2], SnapshotComplete)
        # The slot is there before the position can be stored.
        assert await slot_status(table.dsn, slot) is not None
        insert(table, 2)
    # It was not stored, so the next process takes another snapshot, with the same slot.
    async with open_source(table, slot=slot, start_at=None) as source:
        insert(table, 3)
        events = [await soon(anext(source)) for _ in range(5)]
        assert record_ids(events[1:3]) == [1, 2]
        assert isinstance(events[4], Insert)
        assert record_ids(events[4:]) == [3]
    complete = events[3]
    assert isinstance(complete, SnapshotComplete)
    async with open_source(table, slot=slot, start_at=complete.position) as source:
        assert record_ids([await soon(anext(source))]) == [3]


async def test_a_temporary_slot_needs_no_acknowledgement(table: Database) -> None:
    insert(table, 1)
    async with open_source(table) as source:
        insert(table, 2)
        events = [await soon(anext(source)) for _ in range(4)]
        assert [type(event) for event in events] == [
            *(SnapshotBegin, Snapshot, SnapshotComplete, Insert)
        ]


async def test_batches_and_transactions_have_the_rows_too(table: Database) -> None:
    insert(table, *range(300))
    async with open_source(table) as source:
        rows = 0
        async for batch in source.batches():
            rows += sum(isinstance(event, Snapshot) for event in batch)
            if isinstance(batch[-1], SnapshotComplete):
                break
        assert rows == 300
        insert(table, 1001, 1002)
        transaction = await soon(anext(source.transactions(10_000)))
        assert isinstance(transaction, CommittedTransaction)
        assert record_ids(list(transaction.changes)) == [1001, 1002]
    async with open_source(table, filter="id=lt.2") as source:
        insert(table, -1, 5000)
        items = [await soon(anext(source.transactions(10_000))) for _ in range(5)]
        assert record_ids(items[1:3]) == [0, 1]
        assert isinstance(items[4], CommittedTransaction)
        assert record_ids(list(items[4].changes)) == [-1]


async def test_no_read_that_is_cancelled_loses_a_row(table: Database) -> None:
    table.execute("insert into item select n, 'x' from generate_series(1, 5000) n")
    rows = []
    async with open_source(table, slot=unique_name("slot")) as source:
        while True:
            try:
                async with asyncio.timeout(0.0005):
                    event = await anext(source)
            except TimeoutError:
                continue
            if isinstance(event, SnapshotComplete):
                break
            if isinstance(event, Snapshot):
                rows.append(event)
        assert record_ids(rows) == list(range(1, 5001))
        insert(table, 6000)
        source.ack(event)
        while True:
            try:
                async with asyncio.timeout(0.001):
                    change = await anext(source)
                break
            except TimeoutError:
                continue
        assert record_ids([change]) == [6000]


async def test_a_lost_connection_begins_the_snapshot_again(
    table: Database, caplog: pytest.LogCaptureFixture
) -> None:
    table.execute("insert into item select n, repeat('x', 1000) from generate_series(1, 20000) n")
    async with open_source(table, slot=unique_name("slot")) as source:
        assert isinstance(await soon(anext(source)), SnapshotBegin)
        assert isinstance(await soon(anext(source)), Snapshot)
        with table.connect() as writer:
            # The next slot waits for it; that the rows are void is said before that.
            writer.execute("begin; insert into item values (0, 'not committed')")
            table.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where datname = current_database() and query like 'COPY%'"
            )
            while not isinstance(event := await soon(anext(source)), SnapshotBegin):
                assert isinstance(event, Snapshot)
            writer.execute("rollback")
        assert isinstance(await soon(anext(source)), SnapshotBegin)
        # Without the temporary slot it would be copied for nothing.
        assert isinstance(await soon(anext(source)), Snapshot)
        kill_walsenders(table)
        for _ in range(2):
            while not isinstance(event := await soon(anext(source)), SnapshotBegin):
                assert isinstance(event, Snapshot)
        assert "temporary slot has ended (terminating connection" in caplog.text
        rows = 0
        while isinstance(event := await soon(anext(source)), Snapshot):
            rows += 1
        assert isinstance(event, SnapshotComplete)
        assert rows == event.rows == 20000
        # Now the session with the temporary slot is lost.
        kill_walsenders(table)
        source.ack(event)
        assert isinstance(await soon(anext(source)), SnapshotBegin)
        assert len(await rows_of(source)) == 20000
        insert(table, 0)
        assert record_ids([await soon(anext(source))]) == [0]


async def test_where_changes_may_be_lost_there_is_a_snapshot(table: Database) -> None:
    insert(table, 1)
    slot = unique_name("slot")
    async with open_source(table, slot=slot, snapshot="when_needed") as source:
        assert record_ids(await rows_of(source)) == [1]
        insert(table, 2)
        change = await soon(anext(source))
        source.ack(change)
        await source.aclose()
    # Somebody moves the slot while nobody streams.
    insert(table, 3)
    start = change.position
    table.execute(f"select pg_replication_slot_advance('{slot}', pg_current_wal_insert_lsn())")
    async with open_source(table, slot=slot, snapshot="when_needed", start_at=start) as source:
        begin = await soon(anext(source))
        assert isinstance(begin, SnapshotBegin)
        assert begin.reason is GapReason.START_BEHIND_SLOT
        assert record_ids([await soon(anext(source)) for _ in range(3)]) == [1, 2, 3]
        assert isinstance(await soon(anext(source)), SnapshotComplete)
        insert(table, 4)
        assert record_ids([await soon(anext(source))]) == [4]
        # A slot that is dropped while it streams.
        kill_walsenders(table)
        await drop_slot(table.dsn, slot)
        insert(table, 5)
        begin = await soon(anext(source))
        assert isinstance(begin, SnapshotBegin)
        assert begin.reason is GapReason.SLOT_MISSING
        assert record_ids([await soon(anext(source)) for _ in range(5)]) == [1, 2, 3, 4, 5]
        assert isinstance(await soon(anext(source)), SnapshotComplete)
        insert(table, 6)
        assert record_ids([await soon(anext(source))]) == [6]


async def test_a_gap_amid_a_transaction_is_said_before_the_next_snapshot_is_taken(
    table: Database,
) -> None:
    slot = unique_name("slot")
    async with open_source(table, slot=slot, snapshot="when_needed") as source:
        assert await rows_of(source) == []
        # More than the sockets take, so that the end is never sent.
        many = "insert into item select n, repeat('x', 10000) from generate_series(1, 2000) n"
        table.execute(many)
        assert record_ids([await soon(anext(source))]) == [1]
        with table.connect() as writer:
            # As of a consumer's: the next slot waits for it.
            writer.execute("begin; insert into item values (0, 'not committed')")
            dropping = asyncio.create_task(asyncio.to_thread(drop_slot_of, table, slot))
            while not isinstance(event := await soon(anext(source)), SnapshotBegin):
                assert isinstance(event, Insert)
            await dropping
            assert event == SnapshotBegin((), GapReason.SLOT_MISSING)
            writer.execute("rollback")
        begin = await soon(anext(source))
        assert isinstance(begin, SnapshotBegin)
        assert len(begin.tables) == 1
        assert begin.reason is GapReason.SLOT_MISSING
        assert record_ids([await soon(anext(source)) for _ in range(2000)])[::1999] == [1, 2000]


TYPES = """
    create type mood as enum ('sad', 'ok');
    create domain short as varchar(5);
    create domain shorter as short;
    create type pair as (a int, b text);
    create table types (
        id bigint primary key, i2 int2, n numeric(10, 3), f float8, b bool, t text, c char(4),
        v varchar(20), ts timestamptz, d date, iv interval, u uuid, j jsonb, by bytea, m mood,
        s shorter, p pair, ia int[], ta text[], ma mood[], r int4range, ip inet, o regclass
    );
"""
VALUES = r"""
    insert into types values (
        {0}, -3, 1.5, 0.1::float8 + 0.2, true, E'tab\tline\nback\\slash\r \\N €', 'ab', '',
        '2026-01-02 03:04+05', 'infinity', '1 year 2 days',
        '6f1b9e5c-1111-4222-8333-123456789abc', '{{"a": [1, null]}}', '\x00ff0a5c', 'sad', 'abc',
        '(1,"x y")', '{{1,null,3}}', '{{"a,b",null,"\\"}}', '{{ok}}', '[1,5)', '10.0.0.0/8',
        'types'
    );
    insert into types (id) values ({0} + 1)
"""


async def test_values_and_columns_are_those_of_the_stream(table: Database) -> None:
    table.execute(TYPES)
    table.execute("create publication every for table types")
    table.execute(VALUES.format(1))
    async with open_source(table, publications=["every"]) as source:
        table.execute(VALUES.format(11))
        events = [await soon(anext(source)) for _ in range(6)]
        for copied, streamed in ((events[1], events[4]), (events[2], events[5])):
            assert isinstance(copied, Snapshot)
            assert isinstance(streamed, Insert)
            assert copied.record.fields[1:] == streamed.record.fields[1:]
            assert copied.relation.columns == streamed.relation.columns
            assert copied.relation.oid == streamed.relation.oid
            assert copied.relation.replica_identity == streamed.relation.replica_identity
        assert events[1].record["t"] == "tab\tline\nback\\slash\r \\N €"
        assert set(events[2].record.fields[1:]) == {None}


async def test_tables_are_described_as_the_stream_describes_them(table: Database) -> None:
    table.execute(
        """
        create schema "Odd. 'name";
        create table "Odd. 'name"."T.1" (b int, "a b" int, primary key ("a b", b));
        create table full_identity (x int, y text);
        alter table full_identity replica identity full;
        create table by_index (x int not null unique, y text);
        alter table by_index replica identity using index by_index_x_key;
        create table no_identity (id int primary key, y text);
        alter table no_identity replica identity nothing;
        create table generated (id int primary key, twice int generated always as (id * 2) stored);
        create table parent (id int primary key);
        create table heir () inherits (parent);
        create publication every for all tables;
        """
    )
    write = """
        insert into "Odd. 'name"."T.1" values (1, 2), (2, 1);
        insert into full_identity values (1, 'a'); insert into by_index values (1, 'a');
        insert into no_identity values (1, 'a'); insert into generated values (1);
        insert into parent values (1); insert into heir values (2);
    """
    table.execute(write)
    async with open_source(table, publications=["every"]) as source:
        begin = await soon(anext(source))
        assert isinstance(begin, SnapshotBegin)
        copied = [await soon(anext(source)) for _ in range(8)]
        assert isinstance(await soon(anext(source)), SnapshotComplete)
        table.execute(
            "truncate full_identity, by_index, no_identity, generated, parent, heir,"
            ' "Odd. \'name"."T.1";' + write
        )
        assert isinstance(await soon(anext(source)), Truncate)
        streamed = {
            (str(change.relation), change.record.fields): change.relation
            for change in [await soon(anext(source)) for _ in range(8)]
        }
        assert len(streamed) == 8
        for row in copied:
            relation = streamed.pop((str(row.relation), row.record.fields))
            assert row.relation.columns == relation.columns, relation
            assert row.relation.replica_identity == relation.replica_identity
        odd = [row.record.fields for row in copied if row.relation.table == "T.1"]
        assert odd == [("2", "1"), ("1", "2")]
        assert {"item", "full_identity", "heir"} <= {each.table for each in begin.tables}


async def test_the_publications_lists_and_filters_hold(table: Database) -> None:
    table.server.needs(15, "a publication's column list")
    table.execute(
        """
        create table part (id int, region text, secret text, primary key (id, region))
            partition by list (region);
        create table part_eu partition of part for values in ('eu');
        create table part_us partition of part for values in ('us');
        create publication root for table part (id, region) where (id > 1 and region = 'eu')
            with (publish_via_partition_root);
        create publication more for table part (id, region) where (id = 1), item (id)
            with (publish_via_partition_root);
        create publication leaves for table part;
        insert into part values (1, 'us', 's'), (2, 'eu', 's'), (3, 'us', 's'), (4, 'eu', 's');
        insert into item values (7, 'x');
        """
    )
    published = {"publications": ["root", "more"], "snapshot_connections": 2}
    async with open_source(table, **published) as source:
        # One copies each of the two tables, and either may come first.
        rows = sorted(await rows_of(source), key=lambda row: str(row.relation))
        table.execute("insert into part values (9, 'eu', 's'), (1, 'eu', 's')")
        changes = [await soon(anext(source)) for _ in range(2)]
    found = [(str(row.relation), row.record.fields) for row in rows]
    assert found == [
        ("public.item", ("7",)),
        ("public.part", ("1", "us")),
        ("public.part", ("2", "eu")),
        ("public.part", ("4", "eu")),
    ]
    assert changes[0].relation.columns == rows[-1].relation.columns
    assert str(changes[0].relation) == "public.part"
    async with open_source(table, publications=["leaves"]) as source:
        rows = await rows_of(source)
    assert [(str(row.relation), row.record["id"]) for row in rows] == [
        *(("public.part_eu", 1), ("public.part_eu", 2), ("public.part_eu", 4)),
        *(("public.part_eu", 9), ("public.part_us", 1), ("public.part_us", 3)),
    ]
    table.execute("drop publication leaves; create publication leaves for table part_us")
    async with open_source(table, publications=["leaves", "root"]) as source:
        begin = await soon(anext(source))
        assert [str(each) for each in begin.tables] == ["public.part"]
    # PostgreSQL would end the stream at the first change of it, when the rows are copied.
    table.execute("create publication fewer for table item (id, name), part_eu (id, region)")
    with pytest.raises(SourceError, match=r"have different .* public\.item, "):
        async with open_source(table, publications=["more", "fewer"]):
            pass
    # A list of all columns that are not generated is none.
    table.execute(
        """
        create table made (id int primary key, twice int generated always as (id * 2) stored);
        create publication listed for table made (id);
        create publication unlisted for table made;
        insert into made values (1)
        """
    )
    async with open_source(table, publications=["listed", "unlisted"]) as source:
        assert [row.record.as_text() for row in await rows_of(source)] == [{"id": "1"}]


async def test_tables_are_copied_side_by_side_and_progress_is_told(table: Database) -> None:
    steps: list[SnapshotProgress] = []
    for number in range(5):
        table.execute(
            f"create table t{number} (id int primary key);"
            f"insert into t{number} select generate_series(1, {1000 * number}); analyze t{number};"
            f"alter publication shop add table t{number}"
        )
    table.execute("analyze item")
    options = {"snapshot_connections": 3, "snapshot_progress": steps.append}
    async with open_source(table, **options) as source:
        used = "select count(*) from pg_stat_activity where query like 'COPY%%' and datname = %s"
        await eventually(lambda: table.execute(used, (table.name,)) == [(3,)])
        rows = await rows_of(source)
    for number in range(5):
        mine = [row for row in rows if row.relation.table == f"t{number}"]
        assert record_ids(mine) == list(range(1, 1000 * number + 1))
    last = steps[-1]
    assert (last.rows, last.tables_done, last.tables) == (10000, 6, 6)
    assert last.estimate == 10000
    assert last.bytes > 4 * 10000
    assert rows[0].progress.table is rows[0].relation


async def test_rows_that_the_role_may_not_see_are_an_error(table: Database) -> None:
    insert(table, 1)
    role = unique_name("copier")
    table.execute(f"create role {role} login replication")
    try:
        dsn = make_conninfo(table.dsn, user=role)
        options: Any = {"publications": ["shop"], "snapshot": "initial"}
        with pytest.raises(PrivilegeError, match="permission denied for table item"):
            async with PgoutputSource(dsn, **options):
                pass
        table.execute(f"grant select on item to {role}; alter table item enable row level security")
        with pytest.raises(PrivilegeError, match="row-level security"):
            async with PgoutputSource(dsn, **options) as source:
                await rows_of(source)
        table.execute(f"alter role {role} bypassrls")
        async with PgoutputSource(dsn, **options) as source:
            assert record_ids(await rows_of(source)) == [1]
    finally:
        table.execute(f"drop owned by {role}; drop role {role}")


async def test_no_row_is_lost_of_a_table_that_joins_as_the_snapshot_begins(
    table: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    table.execute("create table late (id int primary key); insert into late values (1)")

    async def join_and_connect(*arguments: Any, **options: Any) -> Any:
        # The snapshot was exported, and does not see this row; nor is the row's change published.
        monkeypatch.undo()
        table.execute("insert into late values (2); alter publication shop add table late")
        table.execute("insert into late values (3)")
        return await copying_connection(*arguments, **options)

    monkeypatch.setattr(_snapshot_run, "copying_connection", join_and_connect)
    async with open_source(table) as source:
        assert record_ids(await rows_of(source)) == [1, 2, 3]
    assert "a publication was altered as the snapshot began" in caplog.text


async def test_no_table_is_a_snapshot_too(table: Database) -> None:
    table.execute("create publication nothing")
    async with open_source(table, publications=["nothing"], slot=unique_name("s")) as source:
        assert await rows_of(source) == []
        table.execute("alter publication nothing add table item")
        insert(table, 1)
        assert record_ids([await soon(anext(source))]) == [1]


ALTERATIONS = (
    "alter table item alter column id type bigint",
    "alter table item drop column name",
    "alter table item drop constraint item_pkey",
    "truncate item",
    "drop table item",
)


async def test_a_table_is_altered_when_it_has_been_copied(table: Database) -> None:
    table.execute("insert into item select n, repeat('x', 1000) from generate_series(1, 20000) n")
    oldest = """
        select count(backend_xmin), count(*) filter (where query like 'COPY%')
        from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()
    """
    async with open_source(table, slot=unique_name("slot")) as source:
        assert table.execute(oldest) == [(1, 1)]
        with table.connect() as other:
            other.execute("set lock_timeout to '10ms'")
            for alteration in ALTERATIONS:
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    other.execute(alteration)
        await soon(anext(source))
        while not isinstance(event := await soon(anext(source)), SnapshotComplete):
            pass
        assert event.rows == 20000
        # Nobody is kept from anything, nor is VACUUM, for as long as the rows are being stored.
        assert table.execute(oldest) == [(0, 0)]
        table.execute("alter table item drop column name; truncate item")
        table.execute("insert into item values (1)")
        source.ack(event)
        changes = [await soon(anext(source)) for _ in range(2)]
    assert isinstance(changes[0], Truncate)
    assert changes[1].record.as_text() == {"id": "1"}


async def test_a_snapshot_that_is_not_read_in_time_holds_nothing_back(table: Database) -> None:
    table.execute("insert into item select n, repeat('x', 1000) from generate_series(1, 20000) n")
    async with open_source(table, slot=unique_name("slot"), snapshot_timeout=0.5) as source:
        await soon(anext(source))
        mine = "datname = current_database() and pid <> pg_backend_pid()"
        copies = f"select 1 from pg_stat_activity where query like 'COPY%' and {mine}"
        assert table.execute(copies)
        await eventually(lambda: not table.execute(copies))
        with pytest.raises(SnapshotTimeoutError, match=r"within 0\.5 s; raise snapshot_timeout"):
            [_ async for _ in source]
        table.execute("truncate item")
        insert(table, 1)
        assert record_ids(await rows_of(source)) == [1]


async def test_a_snapshot_waits_for_its_locks_no_longer_than_it_may(
    table: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_slot_checks, "_PATIENCE", 0.1)
    connections = 0
    with table.connect() as other:
        pid = other.info.backend_pid

        async def dsn() -> str:
            nonlocal connections
            connections += 1
            if connections == 3:
                other.execute("begin; alter table item add more int")
            return table.dsn

        options: Any = {"publications": ["shop"], "snapshot": "initial", "snapshot_timeout": 1}
        with pytest.raises(SnapshotTimeoutError):
            async with PgoutputSource(dsn, **options):
                pass
        holding = """
            select 1 from pg_stat_activity where datname = current_database()
            and (wait_event_type = 'Lock' or backend_xmin is not null)
            and pid <> pg_backend_pid()
        """
        await eventually(lambda: not table.execute(holding))
    assert re.search(rf"are not locked yet: PostgreSQL waits for .*: PID {pid} ", caplog.text)


async def test_wal2json_has_snapshots_too(wal2json_table: Database) -> None:
    table = wal2json_table
    table.execute("create table other (id int primary key, note text, at timestamptz)")
    table.execute("insert into other values (1, null, 'infinity'), (2, '', '2026-01-02')")
    insert(table, 1)
    slot = unique_name("slot")
    for version in (1, 2):
        options: Any = {"format_version": version, "exclude_tables": [("public", "item")]}
        async with Wal2JsonSource(
            table.dsn, slot=f"{slot}_{version}", snapshot="initial", **options
        ) as source:
            rows = await rows_of(source)
            table.execute("insert into other select id + 10 * id, note, at from other")
            changes = [await soon(anext(source)) for _ in range(2)]
            table.execute("delete from other where id > 10")
        for row, change in zip(rows, changes, strict=True):
            assert str(row.relation) == str(change.relation) == "public.other"
            assert row.record.fields[1:] == change.record.fields[1:]
            assert row.record["note"] == change.record["note"]
