"""PgoutputSource against real servers."""

from __future__ import annotations

import asyncio
import logging
import threading
from datetime import UTC, datetime

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from realtime_core import (
    Begin,
    Commit,
    ConfigError,
    ConnectionLostError,
    Delete,
    Event,
    Gap,
    GapReason,
    Insert,
    PgoutputSource,
    Position,
    PositionMismatchError,
    PublicationNotFoundError,
    SlotInUseError,
    SlotLostError,
    SlotUnavailableError,
    SourceError,
    Truncate,
    Update,
)
from realtime_core.sources import _stream, catalog
from tests.fix_postgres import Database, Server, unique_name
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
from tests.proxy import Proxy
from tests.waiting import eventually, eventually_sync

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]


async def test_every_kind_of_change_arrives_in_commit_order(table: Database) -> None:
    async with open_source(table) as source:
        insert(table, 1)
        table.execute("update item set name = 'other' where id = 1")
        table.execute("update item set id = 2 where id = 1")
        table.execute("delete from item where id = 2")
        table.execute("truncate item restart identity cascade")
        first, second, third, fourth, fifth = await take(source, 5)
        assert isinstance(first, Insert)
        assert first.record.as_python() == {"id": 1, "name": "name 1"}
        assert str(first.relation) == "public.item"
        assert isinstance(second, Update)
        assert second.old_record is None
        assert isinstance(third, Update)
        assert third.record["id"] == 2
        assert third.old_record is not None
        assert third.old_record.as_python() == {"id": 1}
        assert isinstance(fourth, Delete)
        assert fourth.old_record.as_text() == {"id": "2"}
        assert isinstance(fifth, Truncate)
        assert (fifth.cascade, fifth.restart_identity) == (True, True)
        positions = [event.position for event in (first, second, third, fourth, fifth)]
        assert positions == sorted(positions)
        assert source.position == positions[-1]
        assert Position.parse(str(positions[0])) == positions[0]
        age = datetime.now(UTC) - first.transaction.commit_time
        assert abs(age.total_seconds()) < 60


async def test_batches_bring_several_changes_at_once_and_boundaries_frame_them(
    table: Database,
) -> None:
    async with open_source(table, boundaries=True) as source:
        insert(table, 1, 2, 3)
        events: list[Event] = []
        async for batch in source.batches():
            assert batch
            events += batch
            if isinstance(events[-1], Commit):
                break
        assert [type(event) for event in events] == [Begin, Insert, Insert, Insert, Commit]
        commit = events[-1]
        assert isinstance(commit, Commit)
        assert commit.changes == 3
        assert source.position == commit.position == events[3].position  # type: ignore[union-attr]


async def test_a_cancelled_read_loses_nothing(table: Database) -> None:
    async with open_source(table) as source:
        for number in range(20):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(source), 0.005)
            insert(table, number)
            (event,) = await take(source, 1)
            assert ids([event]) == [number]


async def test_session_settings_of_role_database_and_options_do_not_change_the_text(
    database: Database,
) -> None:
    database.execute(
        "create table item (id int primary key, at timestamptz, span interval, raw bytea, d date)"
    )
    database.execute("create publication shop for table item")
    for setting in ("datestyle = 'German'", "timezone = 'Asia/Tokyo'", "bytea_output = 'escape'"):
        database.execute(f"alter database {database.name} set {setting}")
    dsn = make_conninfo(database.dsn, options="-c intervalstyle=iso_8601 -c search_path=pg_catalog")
    async with PgoutputSource(dsn, publications=["shop"]) as source:
        database.execute(
            "insert into item values (1, '2026-11-24 12:00:00.5+09', '1 mon 02:03:04', '\\x00ff',"
            " '2026-12-31')"
        )
        (event,) = await take(source, 1)
        assert isinstance(event, Insert)
        assert event.record.as_text() == {
            "id": "1",
            "at": "2026-11-24 03:00:00.5+00",
            "span": "1 mon 02:03:04",
            "raw": "\\x00ff",
            "d": "2026-12-31",
        }


async def test_nothing_is_acknowledged_unless_the_consumer_says_so(table: Database) -> None:
    slot = unique_name("slot")
    async with open_source(table, slot=slot, status_interval=0.05) as source:
        insert(table, 1)
        insert(table, 2)
        await take(source, 2)
        before = confirmed(table, slot)
    assert confirmed(table, slot) == before
    async with open_source(table, slot=slot) as source:
        assert ids(await take(source, 2)) == [1, 2]


async def test_the_last_acknowledgement_is_sent_on_close_and_the_slot_is_free(
    table: Database,
) -> None:
    slot = unique_name("slot")
    for number in range(5):
        async with open_source(table, slot=slot, status_interval=60) as source:
            insert(table, number)
            (event,) = await take(source, 1)
            assert ids([event]) == [number]
            assert isinstance(event, Insert)
            source.ack(event)
        held = table.execute(
            "select active from pg_replication_slots where slot_name = %s", (slot,)
        )
        assert held == [(False,)]


async def test_a_source_is_left_amid_a_large_transaction_as_soon_as_at_any_time(
    table: Database,
) -> None:
    """The server would send all of it first, more than it can in two seconds."""
    slot = unique_name("slot")
    table.execute("create table big (id int primary key, body text)")
    table.execute("alter publication shop add table big")
    async with open_source(table, slot=slot, status_interval=60) as source:
        insert(table, 1)
        table.execute("insert into big values (0, repeat('x', 5000000))")
        # 4 GB in the stream, and 60 MB on the disk, since what is compressed is copied so.
        table.execute("insert into big select g, body from big, generate_series(1, 800) g")
        small, last_small, first_big = await take(source, 3)
        assert isinstance(small, Insert)
        assert isinstance(last_small, Insert)
        assert isinstance(first_big, Insert)
        assert (small.record["id"], last_small.record["id"], first_big.record["id"]) == (1, 0, 1)
        source.ack(last_small)
        began = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - began < _stream._STOP_TIMEOUT
    # The slot is free, and stands where it was acknowledged.
    held = table.execute("select active from pg_replication_slots where slot_name = %s", (slot,))
    assert held == [(False,)]
    assert confirmed(table, slot) > last_small.transaction.commit_lsn
    async with open_source(table, slot=slot) as source:
        (again,) = await take(source, 1)
        assert isinstance(again, Insert)
        assert again.position == first_big.position


async def test_the_last_acknowledgement_is_kept_though_the_server_was_busy_sending(
    table: Database,
) -> None:
    """While it can send without waiting, it does not look for what it is told."""
    slot = unique_name("slot")
    async with open_source(table, slot=slot, status_interval=60) as source:
        insert(table, 0)
        table.execute("insert into item select g from generate_series(1, 500000) g")
        small, *_ = await take(source, 3)
        assert isinstance(small, Insert)
        source.ack(small)
    assert confirmed(table, slot) > small.transaction.commit_lsn


async def test_a_transaction_counts_when_its_last_change_is_acknowledged(table: Database) -> None:
    slot = unique_name("slot")
    async with open_source(table, slot=slot) as source:
        insert(table, 1, 2)
        insert(table, 3)
        first, *_ = await take(source, 3)
        assert isinstance(first, Insert)
        source.ack(first)
    async with open_source(table, slot=slot) as source:
        repeated = await take(source, 3)
        assert ids(repeated) == [1, 2, 3]
        assert isinstance(repeated[1], Insert)
        source.ack(repeated[1].position)
    async with open_source(table, slot=slot) as source:
        assert ids(await take(source, 1)) == [3]


async def test_acknowledging_what_was_not_handed_over_or_another_streams_is_refused(
    table: Database,
) -> None:
    async with open_source(table) as source:
        insert(table, 1)
        (event,) = await take(source, 1)
        assert isinstance(event, Insert)
        place = event.position
        with pytest.raises(ValueError, match="not handed over yet"):
            source.ack(Position(place.lsn, place.index + 1, place.stream))
        with pytest.raises(PositionMismatchError):
            source.ack(Position(place.lsn, place.index))


async def test_an_idle_slot_moves_while_other_tables_are_written(table: Database) -> None:
    table.execute("create table other (data text)")
    slot = unique_name("slot")
    async with open_source(table, slot=slot, status_interval=0.1) as source:
        reading = asyncio.create_task(anext(source))  # type: ignore[arg-type]
        table.execute("insert into other select repeat('x', 1000) from generate_series(1, 1000)")
        target = wal_position(table)
        # The server's keepalives tell how far it has decoded.
        await eventually(lambda: confirmed(table, slot) >= target, within=60)
        assert not reading.done()
        insert(table, 1)
        assert ids([await soon(reading)]) == [1]


async def test_an_unacknowledged_transaction_holds_the_slot_though_keepalives_pass(
    table: Database,
) -> None:
    table.execute("create table other (data text)")
    slot = unique_name("slot")
    async with open_source(table, slot=slot, status_interval=0.05) as source:
        insert(table, 1)
        (event,) = await take(source, 1)
        held = confirmed(table, slot)
        reading = asyncio.create_task(anext(source))  # type: ignore[arg-type]
        table.execute("insert into other select repeat('x', 1000) from generate_series(1, 1000)")
        target = wal_position(table)
        sent = "select sent_lsn - '0/0' from pg_stat_replication"
        await eventually(lambda: table.execute(sent)[0][0] >= target)
        assert confirmed(table, slot) == held
        assert isinstance(event, Insert)
        source.ack(event)
        await eventually(lambda: confirmed(table, slot) >= target, within=60)
        insert(table, 2)
        assert ids([await soon(reading)]) == [2]


async def test_the_connection_outlives_a_consumer_that_is_stuck(table: Database) -> None:
    dsn = make_conninfo(table.dsn, options="-c wal_sender_timeout=2s")
    async with PgoutputSource(dsn, publications=["shop"]) as source:
        insert(table, 1)
        await take(source, 1)
        (pid,) = table.execute("select active_pid from pg_replication_slots")[0]
        table.execute(
            "insert into item select g, repeat('x', 500) from generate_series(2, 20000) g"
        )
        # The consumer awaits something else, three times as long as the server's patience.
        await asyncio.sleep(6)
        assert table.execute("select active_pid from pg_replication_slots")[0] == (pid,)
        assert ids(await take(source, 19_999)) == list(range(2, 20_001))


async def test_fifty_broken_connections_under_load_lose_and_repeat_nothing(
    table: Database,
) -> None:
    slot = unique_name("slot")
    received: list[int] = []
    positions: list[Position] = []
    killed = threading.Event()
    written: list[int] = []

    async def consume(source: PgoutputSource) -> None:
        async for batch in source.batches():
            for event in batch:
                assert isinstance(event, Insert)
                received.append(event.record["id"])
                positions.append(event.position)
            # Not every batch, so that a break finds unacknowledged ones too.
            if len(received) % 3:
                source.ack(positions[-1])
            if written and len(received) >= written[0]:
                return

    def write() -> int:
        statement = "insert into item select g, 'x' from generate_series(%s::int, %s::int) g"
        rows = 0
        with table.connect() as connection:
            while not killed.is_set():
                # Always some on the way, and not more than can soon be read.
                eventually_sync(lambda rows=rows: rows - len(received) < 3000)
                # Of all sizes, so that breaks fall within transactions too.
                size = 1 + rows * 7919 % 400
                connection.execute(statement, (rows, rows + size - 1))
                rows += size
        return rows

    def kill() -> None:
        query = "select pg_terminate_backend(active_pid) from pg_replication_slots where active"
        with table.connect() as connection:
            for _ in range(50):
                arrived = len(received)
                eventually_sync(lambda arrived=arrived: len(received) > arrived)
                eventually_sync(lambda: connection.execute(query).fetchall())
        killed.set()

    async with open_source(table, slot=slot, backoff=(0.001, 0.01)) as source:
        consuming = asyncio.create_task(consume(source))
        async with asyncio.timeout(120):
            rows, _ = await asyncio.gather(asyncio.to_thread(write), asyncio.to_thread(kill))
            # One more, that nobody waits for the last one in vain.
            written.append(rows + 1)
            insert(table, rows)
            await consuming
    assert received == list(range(rows + 1))
    assert positions == sorted(set(positions))


async def test_a_temporary_slots_reconnect_is_a_gap(table: Database) -> None:
    async with open_source(table, on_gap="continue") as source:
        last = None
        for round_number in range(5):
            insert(table, round_number)
            (event,) = await take(source, 1)
            assert isinstance(event, Insert)
            last = event.position
            kill_walsenders(table)
            (gap,) = await take(source, 1)
            assert isinstance(gap, Gap)
            assert gap.reason is GapReason.TEMPORARY_SLOT
            assert gap.after == last
            assert gap.until > last


async def test_what_was_read_before_a_gap_may_still_be_acknowledged(table: Database) -> None:
    async with open_source(table, on_gap="continue") as source:
        insert(table, 1)
        (event,) = await take(source, 1)
        kill_walsenders(table)
        (gap,) = await take(source, 1)
        source.ack(event)
        source.ack(gap)
        insert(table, 2)
        assert ids(await take(source, 1)) == [2]


async def test_a_slot_that_somebody_advanced_is_a_gap(table: Database) -> None:
    slot = unique_name("slot")
    async with open_source(table, slot=slot, on_gap="continue", backoff=(0.5, 0.5)) as source:
        insert(table, 1)
        await take(source, 1)
        kill_walsenders(table)
        await eventually(
            lambda: (
                table.execute("select 1 from pg_replication_slots where active_pid is null") != []
            )
        )
        insert(table, 2)
        table.execute(
            "select pg_replication_slot_advance(%s, pg_current_wal_insert_lsn())", (slot,)
        )
        insert(table, 3)
        gap, event = await take(source, 2)
        assert isinstance(gap, Gap)
        assert gap.reason is GapReason.SLOT_MOVED
        assert ids([event]) == [3]


async def test_an_error_of_the_stream_is_said_after_the_rows_before_it(database: Database) -> None:
    database.server.needs(15, "a row filter")
    # The publication's row filter divides by zero for the third row.
    database.execute("create table item (id int primary key)")
    database.execute("create publication shop for table item where (10 / id > 0)")
    async with open_source(database, slot=unique_name("slot")) as source:
        for number in (2, 3, 0):
            database.execute("insert into item values (%s)", (number,))
        assert ids(await take(source, 2)) == [2, 3]
        with pytest.raises(SourceError, match="22012"):
            await soon(anext(source))


async def test_an_error_that_comes_with_each_attempt_is_no_busy_loop(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    database.server.needs(15, "a row filter")
    database.execute("create table item (id int primary key)")
    database.execute("create publication shop for table item where (10 / id > 0)")
    settings = {"persistent": True, "backoff": (0.2, 10)}
    async with open_source(database, slot=unique_name("slot"), **settings) as source:
        reading = asyncio.create_task(anext(source))  # type: ignore[arg-type]
        await eventually(lambda: database.execute("select 1 from pg_replication_slots"))
        database.execute("insert into item values (0)")
        await eventually(lambda: caplog.text.count("stream interrupted") >= 3)
        began = asyncio.get_running_loop().time()
        await eventually(lambda: caplog.text.count("stream interrupted") >= 5)
        # Two more attempts: 0.4 s and 0.8 s of waiting at least, once the delays have doubled.
        assert asyncio.get_running_loop().time() - began > 0.5
        reading.cancel()


async def test_another_databases_slot_is_left_alone(table: Database) -> None:
    slot = unique_name("slot")
    table.server.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    try:
        with pytest.raises(SlotUnavailableError, match="belongs to database"):
            async with open_source(table, slot=slot):
                pass
    finally:
        table.server.execute("select pg_drop_replication_slot(%s)", (slot,))


@pytest.mark.parametrize(
    ("make", "found"),
    [
        ("pg_create_physical_replication_slot(%s)", "physical"),
        ("pg_create_logical_replication_slot(%s, 'test_decoding')", "output plugin"),
    ],
)
async def test_a_slot_of_another_kind_is_left_alone(table: Database, make: str, found: str) -> None:
    slot = unique_name("slot")
    table.execute(f"select {make}", (slot,))
    with pytest.raises(SlotUnavailableError, match=found):
        async with open_source(table, slot=slot):
            pass
    table.execute("select pg_drop_replication_slot(%s)", (slot,))


async def test_another_cluster_at_the_same_address_is_a_gap(pg17: Server, pg18: Server) -> None:
    # A proxy leads the same address to one server first, then to the other.
    slot, name = unique_name("slot"), unique_name("test")
    first, second = databases = [Database(server, name) for server in (pg17, pg18)]
    for database in databases:
        database.server.execute(f"create database {name}")
        database.execute("create table item (id int primary key, name text)")
        database.execute("create publication shop for table item")
    try:
        async with Proxy() as proxy:
            proxy.lead_to(first.dsn)
            dsn = make_conninfo(first.dsn, host="127.0.0.1", port=proxy.port)
            source = PgoutputSource(
                dsn, publications=["shop"], slot=slot, on_gap="continue", backoff=(0.01, 0.1)
            )
            async with source:
                insert(first, 1, 2)
                one, two = await take(source, 2)
                proxy.lead_to(second.dsn)
                proxy.cut()
                (gap,) = await take(source, 1)
                assert isinstance(gap, Gap)
                assert gap.reason is GapReason.OTHER_CLUSTER
                source.ack(two)
                insert(second, 3)
                assert ids([one, two, *await take(source, 1)]) == [1, 2, 3]
    finally:
        for database in databases:
            database.drop()


async def test_without_on_gap_a_temporary_slots_reconnect_raises(table: Database) -> None:
    async with open_source(table) as source:
        kill_walsenders(table)
        with pytest.raises(SlotLostError, match="temporary_slot"):
            await soon(anext(source))


async def test_a_slot_that_somebody_dropped_is_a_gap(table: Database) -> None:
    slot = unique_name("slot")

    def drop() -> None:
        kill_walsenders(table)
        table.execute(
            "do $$ begin for i in 1..1000 loop begin perform pg_drop_replication_slot("
            f"'{slot}'); return; exception when object_in_use then perform pg_sleep(0.01);"
            " end; end loop; end $$"
        )

    async with open_source(table, slot=slot, on_gap="continue") as source:
        insert(table, 1)
        (event,) = await take(source, 1)
        drop()
        (gap,) = await take(source, 1)
        assert isinstance(gap, Gap)
        assert isinstance(event, Insert)
        assert (gap.reason, gap.after) == (GapReason.SLOT_MISSING, event.position)
        insert(table, 2)
        assert ids(await take(source, 1)) == [2]


async def test_a_missing_publication_is_named_before_a_slot_is_made(table: Database) -> None:
    slot = unique_name("slot")
    with pytest.raises(PublicationNotFoundError, match=r'"no""such".*CREATE PUBLICATION') as caught:
        async with open_source(table, publications=["shop", 'no"such'], slot=slot):
            pass
    assert caught.value.names == ('no"such',)
    assert table.execute("select 1 from pg_replication_slots where slot_name = %s", (slot,)) == []


async def test_publications_with_odd_names_stream(table: Database) -> None:
    table.execute("""create publication "a'b, ""c"" d" for table item""")
    async with open_source(table, publications=["shop", 'a\'b, "c" d']) as source:
        insert(table, 1)
        (event,) = await take(source, 1)
        assert isinstance(event, Insert)
        assert Position.parse(str(event.position)) == event.position


async def test_a_slot_in_use_names_its_holder(table: Database) -> None:
    slot = unique_name("slot")
    async with open_source(table, slot=slot):
        (pid,) = table.execute("select active_pid from pg_replication_slots")[0]
        with pytest.raises(SlotInUseError) as caught:
            async with open_source(table, slot=slot):
                pass
        assert caught.value.pid == pid


async def test_a_persistent_source_waits_for_what_is_missing(
    table: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "realtime.source")
    async with open_source(table, publications=["later"], persistent=True) as source:
        reading = asyncio.create_task(anext(source))  # type: ignore[arg-type]
        await eventually(lambda: "CREATE PUBLICATION" in caplog.text)
        assert "trying again in" in caplog.text
        table.execute("create publication later for table item")
        await eventually(lambda: table.execute("select 1 from pg_replication_slots where active"))
        insert(table, 1)
        assert ids([await soon(reading)]) == [1]


async def test_closing_ends_a_consumer_that_waits(table: Database) -> None:
    async with open_source(table) as source:
        waiting = asyncio.create_task(anext(source))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        await source.aclose()
        with pytest.raises(StopAsyncIteration):
            await soon(waiting)
        assert [event async for event in source] == []


async def test_two_consumers_are_refused(table: Database) -> None:
    async with open_source(table) as source:
        first = asyncio.create_task(anext(source))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="one consumer"):
            await soon(anext(source))
        first.cancel()


async def test_a_server_that_is_not_there_says_so() -> None:
    with pytest.raises(ConnectionLostError, match="check that it runs"):
        async with PgoutputSource("host=127.0.0.1 port=1", publications=["shop"]):
            pass


def test_settings_that_cannot_work_are_all_named() -> None:
    with pytest.raises(ConfigError) as caught:
        PgoutputSource(
            "nonsense",
            publications=["shop"],
            slot="Upper-Case",
            backoff=(2, 1),
            status_interval=0,
        )
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError, match="list of names"):
        PgoutputSource(publications="shop")
    with pytest.raises(ConfigError, match="name at least one"):
        PgoutputSource(publications=[])


async def test_the_catalog_tells_what_the_stream_does_not(database: Database) -> None:
    database.execute("create type mood as enum ('sad', 'ok', 'happy')")
    database.execute("alter type mood add value 'meh' before 'ok'")
    database.execute("create table pair (a int, b int, m mood, primary key (b, a))")
    database.execute("create table keyless (a int)")
    database.execute("alter table pair replica identity full")
    oids = dict(database.execute("select relname, oid::int8 from pg_class where relkind = 'r'"))
    enum = database.execute("select 'mood'::regtype::oid::int8")[0][0]
    async with await psycopg.AsyncConnection.connect(database.dsn) as connection:
        assert await catalog.primary_key(connection, oids["pair"]) == ("b", "a")
        assert await catalog.primary_key(connection, oids["keyless"]) == ()
        assert await catalog.enum_labels(connection, enum) == ("sad", "meh", "ok", "happy")
        assert await catalog.enum_labels(connection, 23) == ()
        orders = await catalog.enum_orders(connection)
        assert orders["public", "mood"] == ("sad", "meh", "ok", "happy")
        facts = await catalog.server_facts(connection)
    assert facts.version // 10000 == database.server.version
    assert facts.database == database.name
    assert (facts.wal_level, facts.in_recovery) == ("logical", False)
    assert facts.wal_sender_timeout == 60


@pytest.mark.parametrize("stalled", ["while it attaches", "while it streams"])
async def test_a_source_is_closed_soon_though_the_server_says_nothing(
    table: Database, stalled: str
) -> None:
    async with Proxy() as proxy:
        dsn = proxy.lead_to(table.dsn)
        source = PgoutputSource(
            dsn, publications=["shop"], slot=unique_name("slot"), backoff=(0.01, 0.01)
        )
        async with source:
            if stalled == "while it attaches":
                proxy.stall_later(800)
                proxy.cut()
                reading = asyncio.create_task(anext(source))  # type: ignore[arg-type]
                await eventually(lambda: proxy.is_stalled)
            else:
                reading = asyncio.create_task(anext(source))  # type: ignore[arg-type]
                proxy.stall()
            async with asyncio.timeout(8):
                await source.aclose()
            with pytest.raises(StopAsyncIteration):
                await soon(reading)
        proxy.flow()


async def test_a_source_is_opened_once(table: Database) -> None:
    async with open_source(table) as source:
        with pytest.raises(RuntimeError, match="open already"):
            await source.__aenter__()
    with pytest.raises(RuntimeError, match="was closed"):
        await source.__aenter__()


async def test_a_server_that_falls_silent_is_given_up(
    table: Database, caplog: pytest.LogCaptureFixture
) -> None:
    """No packet says that the connection is dead, as with a firewall that forgot it."""
    async with Proxy() as proxy:
        source = PgoutputSource(
            proxy.lead_to(table.dsn),
            publications=["shop"],
            slot=unique_name("slot"),
            sender_timeout=1.5,
            backoff=(0.01, 0.1),
        )
        async with source:
            insert(table, 1)
            assert ids(await take(source, 1)) == [1]
            # A consumer that does not read hears nothing, which says nothing of the server.
            await asyncio.sleep(4.5)
            assert source.stats().reconnects == 0
            reading = asyncio.create_task(anext(source))  # type: ignore[arg-type]
            # Nor does a server that has nothing to send, for it answers.
            received = source.stats().bytes_received
            await eventually(lambda: source.stats().bytes_received > received + 100)
            assert source.stats().reconnects == 0
            proxy.stall()
            await eventually(lambda: "has sent nothing for" in caplog.text)
            proxy.cut()
            proxy.flow()
            insert(table, 2)
            assert ids([await soon(reading)]) == [2]
