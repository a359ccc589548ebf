"""The poller reads a slot without losing or repeating anything, and says what keeps it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import warnings
from collections.abc import AsyncIterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio
from psycopg import sql
from psycopg.conninfo import make_conninfo

from realtime_core import GapReason, Insert
from realtime_core.errors import SlotInUseError
from realtime_server.catalog.connections import Connections
from realtime_server.rls import poller
from realtime_server.rls.poller import Batch, Poller
from realtime_server.rls.slot import SlotSession
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.rls_helpers import at, roles
from tests.server_helpers import DEADLINE
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.pg17]


class Reader:
    """Reads a poller's batches in the background, acknowledging each."""

    def __init__(self, poller: Poller) -> None:
        self.poller = poller
        self.batches: list[Batch] = []
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with contextlib.aclosing(self.poller.batches()) as batches:
            async for batch in batches:
                self.batches.append(batch)

    @property
    def ids(self) -> list[str]:
        """Of the rows inserted."""
        return [
            read.change.record.raw("id")  # type: ignore[misc]
            for batch in self.batches
            for read in batch.reads
            if isinstance(read.change, Insert)
        ]

    @property
    def gaps(self) -> list[GapReason]:
        return [batch.gap.reason for batch in self.batches if batch.gap is not None]

    async def until(self, *ids: object) -> None:
        """Wait until these have come, and nothing else."""
        wanted = [str(each) for each in ids]
        await eventually(lambda: len(self.ids) >= len(wanted) or self._task.done())
        assert self.ids == wanted

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        await self.poller.aclose()


class Stage:
    def __init__(self, database: Database, pool: Connections) -> None:
        self.database = database
        self.pool = pool
        self.readers: list[Reader] = []

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        for statement in statements:
            rows = self.database.execute(statement)
        return rows

    def poller(self, slot: str | None = None, *, dsn: str | None = None, **more: Any) -> Poller:
        async def where() -> str:
            return dsn or self.database.dsn

        settings = {"limit": 100, "interval": 0.01, "backoff": (0.01, 0.05), **more}
        return Poller(where, self.pool, publication="shop", slot=slot, **settings)

    async def start(self, slot: str | None = None, **more: Any) -> Reader:
        """Start to read, and return when it reads."""
        reader = Reader(self.poller(slot, **more))
        self.readers.append(reader)
        await eventually(lambda: reader.poller.stats().connected)
        return reader

    def insert(self, *ids: int, table: str = "notes") -> None:
        for each in ids:
            self.execute(f"insert into {table} (id) values ({each})")

    def slot_lsn(self, slot: str) -> Any:
        return self.database.execute(
            "select confirmed_flush_lsn - '0/0' from pg_replication_slots where slot_name = %s",
            (slot,),
        )[0][0]


@pytest_asyncio.fixture
async def stage(pg17: Server) -> AsyncIterator[Stage]:
    if not pg17.has_wal2json():
        pytest.skip("wal2json is not installed")
    with fresh_database(pg17) as database:
        database.execute("create table notes (id int primary key, body text)")
        database.execute("create publication shop for all tables")
        pool = Connections(at(database.dsn), name="test", size=4)
        async with pool:
            stage = Stage(database, pool)
            yield stage
            for reader in stage.readers:
                await reader.stop()


@pytest.fixture
def slot() -> str:
    return unique_name("slot")


async def test_changes_come_in_order_with_their_transactions(stage: Stage) -> None:
    reader = await stage.start()
    stage.insert(1, 2)
    stage.execute("begin; insert into notes values (3); insert into notes values (4); commit")
    await reader.until(1, 2, 3, 4)
    changes = [read.change for batch in reader.batches for read in batch.reads]
    positions = [change.position for change in changes]
    assert positions == sorted(positions)
    assert [position.index for position in positions] == [0, 0, 0, 1]
    assert changes[2].transaction.commit_time is not None
    assert {position.stream.publications for position in positions if position.stream} == {
        ("shop",)
    }


async def test_the_slot_moves_when_the_next_batch_is_asked_for(stage: Stage, slot: str) -> None:
    poller = stage.poller(slot)
    async with contextlib.aclosing(poller.batches()) as batches:
        first = asyncio.ensure_future(anext(batches))
        await eventually(lambda: poller.stats().connected)
        stage.insert(1)
        await first
        before = stage.slot_lsn(slot)
        assert before == poller.stats().confirmed_lsn
    await poller.aclose()
    # Not acknowledged: it comes again, to another process.
    again = await stage.start(slot)
    await again.until(1)
    await eventually(lambda: stage.slot_lsn(slot) > before)


async def test_a_permanent_slot_keeps_what_comes_in_between(stage: Stage, slot: str) -> None:
    reader = await stage.start(slot)
    stage.insert(1)
    await reader.until(1)
    await reader.stop()
    stage.insert(2)
    again = await stage.start(slot)
    stage.insert(3)
    await again.until(2, 3)
    assert again.gaps == []


async def test_an_idle_slot_moves_with_the_wal_of_others(stage: Stage, slot: str) -> None:
    await stage.start(slot)
    before = stage.slot_lsn(slot)
    stage.execute("select pg_logical_emit_message(true, 'x', repeat('x', 10000))")
    await eventually(lambda: stage.slot_lsn(slot) > before + 10000)


async def test_polls_follow_each_other_while_they_are_cut_off(stage: Stage, slot: str) -> None:
    first = await stage.start(slot)
    await first.stop()
    stage.execute(
        "do $$ begin for i in 1..500 loop insert into notes values (i); commit; end loop; end $$"
    )
    reader = await stage.start(slot, limit=10, interval=3600)
    await reader.until(*range(1, 501))
    assert len(reader.batches) > 10


async def test_a_large_transaction_comes_in_parts_and_once(stage: Stage, slot: str) -> None:
    reader = await stage.start(slot, limit=10)
    stage.execute("insert into notes select i from generate_series(1, 1234) i")
    await reader.until(*range(1, 1235))
    assert max(len(batch.reads) for batch in reader.batches) <= 100
    stage.insert(2000)
    await reader.until(*range(1, 1235), 2000)


async def test_actions_of_the_publication_are_obeyed(stage: Stage) -> None:
    stage.execute("alter publication shop set (publish = 'insert, delete')")
    reader = await stage.start()
    stage.execute(
        "insert into notes values (1)",
        "update notes set body = 'x'",
        "truncate notes",
        "insert into notes values (2)",
        "delete from notes",
    )
    await eventually(lambda: sum(len(batch.reads) for batch in reader.batches) >= 3)
    kinds = [type(read.change).__name__ for batch in reader.batches for read in batch.reads]
    assert kinds == ["Insert", "Insert", "Delete"]


async def test_a_publication_of_tables_and_of_schemas(stage: Stage) -> None:
    stage.execute(
        'create schema "a.b, c"',
        'create table "a.b, c"."x*" (id int primary key)',
        "create table other (id int primary key)",
        "create table parent (id int primary key) partition by range (id)",
        "create table leaf partition of parent for values from (0) to (1000)",
        "drop publication shop",
        'create publication shop for table notes, parent, tables in schema "a.b, c"',
    )
    reader = await stage.start()
    stage.insert(1)
    stage.insert(2, table="other")
    stage.insert(3, table='"a.b, c"."x*"')
    stage.insert(4, table="parent")
    stage.insert(5)
    await reader.until(1, 3, 4, 5)


async def test_an_empty_publication_publishes_nothing(stage: Stage, slot: str) -> None:
    """wal2json would take no tables for all tables."""
    stage.execute("drop publication shop", "create publication shop")
    reader = await stage.start(slot)
    before = stage.slot_lsn(slot)
    stage.insert(1)
    await eventually(lambda: stage.slot_lsn(slot) > before)
    stage.execute("alter publication shop add table notes")
    stage.insert(2)
    await reader.until(2)


async def test_a_table_that_joins_is_read_from_its_first_row_on(stage: Stage) -> None:
    stage.execute("drop publication shop", "create publication shop for table notes")
    reader = await stage.start()
    for number in range(5):
        table = f"late{number}"
        stage.execute(f"create table {table} (id int primary key)")
        stage.execute(f"alter publication shop add table {table}")
        stage.insert(number, table=table)
    await reader.until(*range(5))


async def test_a_table_that_joins_in_a_large_transaction(stage: Stage) -> None:
    """It is begun again, although its end has not been read."""
    stage.execute("drop publication shop", "create publication shop for table notes")
    reader = await stage.start(limit=10)
    stage.execute(
        "create table late (id int primary key); alter publication shop add table late;"
        " insert into notes select i from generate_series(1, 1234) i;"
        " insert into late values (2000)"
    )
    await reader.until(*range(1, 1235), 2000)


async def test_the_servers_own_schema_is_nobodys_business(stage: Stage) -> None:
    stage.execute("create schema realtime", "create table realtime.own (id int primary key)")
    reader = await stage.start()
    stage.insert(1, table="realtime.own")
    stage.insert(2)
    await reader.until(2)


async def test_a_commit_that_others_do_not_see_yet_is_waited_for(
    stage: Stage, pg17: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is in WAL and waits for a standby, and so it is not visible."""
    monkeypatch.setattr(poller, "_PATIENCE", 0.0)
    reader = await stage.start()
    pg17.execute("alter system set synchronous_standby_names = 'nobody'")
    try:
        pg17.execute("select pg_reload_conf()")
        with psycopg.connect(stage.database.dsn, autocommit=True) as connection:
            connection.execute("set synchronous_commit = local")
            await eventually(
                lambda: (
                    connection.execute("show synchronous_standby_names").fetchone() == ("nobody",)
                )
            )
            committing = asyncio.ensure_future(asyncio.to_thread(stage.insert, 1))
            waiting = (
                "select 1 from pg_stat_activity where datname = current_database()"
                " and wait_event = 'SyncRep'"
            )
            await eventually(lambda: connection.execute(waiting).fetchone())
            flushed = connection.execute("select pg_current_wal_flush_lsn() - '0/0'").fetchone()
            assert flushed is not None
            # The poller has read it, and holds it back.
            await eventually(lambda: reader.poller.stats().received_lsn >= flushed[0])
            asked = (
                "select count(*) from pg_stat_activity where datname = current_database()"
                " and query like '%pg_current_snapshot%'"
            )
            await eventually(lambda: connection.execute(asked).fetchone() != (0,))
            await eventually(lambda: "(synchronous_standby_names is 'nobody')" in caplog.text)
            assert caplog.text.count("committed and not visible yet") == 1
            assert reader.ids == []
    finally:
        pg17.execute("alter system reset synchronous_standby_names")
        pg17.execute("select pg_reload_conf()")
    await committing
    await reader.until(1)


# Breaks.


async def test_a_lost_connection_repeats_and_skips_nothing(stage: Stage, slot: str) -> None:
    reader = await stage.start(slot, limit=10)
    for number in range(1, 61):
        stage.insert(number)
        if number % 12 == 0:
            stage.execute(
                "select pg_terminate_backend(pid) from pg_stat_activity"
                " where application_name = 'realtime_server slot'"
                " and datname = current_database()"
            )
    await reader.until(*range(1, 61))
    assert reader.gaps == []
    assert reader.poller.stats().reconnects > 0


async def test_a_restart_of_postgresql_repeats_and_skips_nothing(
    stage: Stage, slot: str, pg17: Server
) -> None:
    reader = await stage.start(slot)
    stage.insert(1, 2)
    await reader.until(1, 2)
    pg17.restart("immediate")
    stage.insert(3)
    await reader.until(1, 2, 3)
    assert reader.gaps == []


async def test_a_temporary_slot_that_went_with_its_connection_is_a_gap(stage: Stage) -> None:
    reader = await stage.start()
    stage.insert(1)
    await reader.until(1)
    stage.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'realtime_server slot' and datname = current_database()"
    )
    await eventually(lambda: reader.gaps)
    assert reader.gaps == [GapReason.TEMPORARY_SLOT]
    gap = reader.batches[-1].gap
    assert gap is not None
    assert gap.after is not None
    assert gap.after < gap.until
    stage.insert(2)
    await reader.until(1, 2)


@pytest.mark.parametrize(
    ("meddle", "reason"),
    [
        ("pg_drop_replication_slot('{}')", GapReason.SLOT_MISSING),
        (
            "pg_replication_slot_advance('{}', pg_current_wal_flush_lsn())",
            GapReason.SLOT_MOVED,
        ),
    ],
)
async def test_a_slot_that_somebody_meddled_with_is_a_gap(
    stage: Stage, slot: str, meddle: str, reason: GapReason
) -> None:
    # It does not poll again by itself.
    reader = await stage.start(slot, interval=3600)
    await eventually(lambda: reader.poller.stats().confirmed_lsn >= stage.slot_lsn(slot))
    stage.insert(1)
    stage.execute(f"select {meddle.format(slot)}")
    stage.execute(
        "select pg_terminate_backend(pid, 5000) from pg_stat_activity"
        " where application_name = 'realtime_server slot' and datname = current_database()"
    )
    await reader.stop()
    poller = reader.poller
    again = Reader(poller)
    stage.readers.append(again)
    await eventually(lambda: again.gaps)
    assert again.gaps == [reason]


# Refusals.


async def wait_for_line(caplog: pytest.LogCaptureFixture, part: str) -> str:
    def found() -> str | None:
        return next((r.getMessage() for r in caplog.records if part in r.getMessage()), None)

    await eventually(found)
    line = found()
    assert line is not None
    return line


async def test_a_row_filter_is_refused_until_it_is_gone(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    stage.execute("drop publication shop", "create publication shop for table notes where (id > 1)")
    reader = Reader(stage.poller())
    stage.readers.append(reader)
    line = await wait_for_line(caplog, "row filters")
    assert "public.notes" in line
    assert "ALTER PUBLICATION" in line
    stage.execute("alter publication shop set table notes")
    await eventually(lambda: reader.poller.stats().connected)
    # One that comes later is refused too.
    stage.execute("alter publication shop set table notes where (id > 1)")
    stage.insert(1)
    await eventually(lambda: not reader.poller.stats().connected)
    stage.execute("alter publication shop set table notes")
    await eventually(lambda: reader.poller.stats().connected)


async def test_a_missing_publication_is_waited_for(
    stage: Stage, slot: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage.execute("drop publication shop")
    reader = Reader(stage.poller(slot))
    stage.readers.append(reader)
    await wait_for_line(caplog, 'CREATE PUBLICATION "shop" FOR TABLE a, b')
    # A slot that nobody can read would only hold back WAL.
    assert stage.execute(f"select 1 from pg_replication_slots where slot_name = '{slot}'") == []
    stage.execute("create publication shop for all tables")
    await eventually(lambda: reader.poller.stats().connected)
    stage.insert(1)
    await reader.until(1)


async def test_a_role_that_may_not_replicate_is_told_what_it_needs(
    stage: Stage, pg17: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with roles(pg17, "server", options="login") as (name,):
        reader = Reader(stage.poller(dsn=make_conninfo(stage.database.dsn, user=name)))
        stage.readers.append(reader)
        await wait_for_line(caplog, "ALTER ROLE … REPLICATION")
        pg17.execute(sql.SQL("alter role {} replication").format(sql.Identifier(name)))
        await eventually(lambda: reader.poller.stats().connected)
        await reader.stop()


async def test_a_plugin_that_is_not_allowed_names_the_line_that_allows_it(
    stage: Stage, pg17: Server, caplog: pytest.LogCaptureFixture
) -> None:
    known = pg17.execute("select current_setting('output_plugin_libraries', true)")[0][0]
    if known is None:
        pytest.skip("this PostgreSQL allows every output plugin")
    pg17.execute("alter system set output_plugin_libraries = pgoutput")
    try:
        pg17.execute("select pg_reload_conf()")
        await eventually(lambda: pg17.execute("show output_plugin_libraries")[0][0] == "pgoutput")
        reader = Reader(stage.poller())
        stage.readers.append(reader)
        line = await wait_for_line(caplog, "ALTER SYSTEM SET output_plugin_libraries")
        advice = re.search(r"run (ALTER SYSTEM SET .*) and (SELECT pg_reload_conf\(\))", line)
        assert advice is not None
        for statement in advice.groups():
            pg17.execute(statement)
        await eventually(lambda: reader.poller.stats().connected)
    finally:
        pg17.execute("alter system set output_plugin_libraries = pgoutput, wal2json, test_decoding")
        pg17.execute("select pg_reload_conf()")


async def test_a_plugin_that_is_not_installed_says_how_to_install_it(
    pg18: Server, caplog: pytest.LogCaptureFixture
) -> None:
    if pg18.has_wal2json():
        pytest.skip("the embedded PostgreSQL has wal2json by now")
    with fresh_database(pg18) as database:
        database.execute("create publication shop for all tables")
        pool = Connections(at(database.dsn), name="test", size=4)
        async with pool:
            stage = Stage(database, pool)
            reader = Reader(stage.poller())
            await wait_for_line(caplog, "the output plugin wal2json is not installed")
            await reader.stop()


@pytest.mark.parametrize(
    ("create", "complaint"),
    [
        ("pg_create_logical_replication_slot('{}', 'test_decoding')", "test_decoding"),
        ("pg_create_physical_replication_slot('{}')", "a physical one"),
    ],
)
async def test_a_slot_of_another_kind_is_refused(
    stage: Stage, slot: str, create: str, complaint: str, caplog: pytest.LogCaptureFixture
) -> None:
    stage.execute(f"select {create.format(slot)}")
    reader = Reader(stage.poller(slot))
    stage.readers.append(reader)
    await wait_for_line(caplog, complaint)
    stage.execute(f"select pg_drop_replication_slot('{slot}')")
    await eventually(lambda: reader.poller.stats().connected)


async def test_the_slot_stays_ours_when_a_stop_meets_a_batch_under_way(
    stage: Stage, slot: str
) -> None:
    poller = stage.poller(slot)
    under_way = asyncio.Event()

    async def publish() -> None:
        async with contextlib.aclosing(poller.batches()) as batches:
            async for _ in batches:
                under_way.set()
                await asyncio.Event().wait()

    publishing = asyncio.create_task(publish())
    await eventually(lambda: poller.stats().connected)
    stage.insert(1)
    await under_way.wait()
    publishing.cancel()
    await asyncio.wait({publishing})
    session = await SlotSession.connect(stage.database.dsn, slot)
    try:
        # Clients may still be here.
        with pytest.raises(SlotInUseError):
            await session.attach(temporary=False)
    finally:
        await session.close()
    await poller.aclose()
    # Nobody was given the batch for sure.
    await (await stage.start(slot)).until(1)


async def test_the_second_of_two_on_a_slot_waits_and_takes_over(
    stage: Stage, slot: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = await stage.start(slot)
    second = Reader(stage.poller(slot))
    stage.readers.append(second)
    [(pid,)] = stage.execute(
        "select pid from pg_stat_activity where application_name = 'realtime_server slot'"
        " and datname = current_database() and wait_event_type is distinct from 'IPC'"
        " order by backend_start limit 1"
    )
    line = await wait_for_line(caplog, "waiting until it is free")
    assert str(pid) in line
    stage.insert(1)
    written = stage.execute("select pg_current_wal_flush_lsn() - '0/0'")[0][0]
    await first.until(1)
    # It has been acknowledged: else it comes again, as after a crash.
    await eventually(lambda: first.poller.stats().confirmed_lsn >= written)
    await first.stop()
    stage.insert(2)
    async with asyncio.timeout(DEADLINE):
        await second.until(2)


async def test_a_session_that_is_given_up_while_it_opens_leaves_no_connection(
    stage: Stage, slot: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = (
        "select count(*) from pg_stat_activity where datname = current_database()"
        " and query = 'select pg_sleep(600)'"
    )
    monkeypatch.setattr("realtime_server.rls.slot._SETTINGS", "select pg_sleep(600)")
    opening = asyncio.create_task(SlotSession.connect(stage.database.dsn, slot))
    await eventually(lambda: stage.execute(sessions) == [(1,)])
    with warnings.catch_warnings(record=True) as left_open:
        warnings.simplefilter("always", ResourceWarning)
        opening.cancel()
        await asyncio.wait({opening})
        del opening
        gc.collect()
    assert [str(warning.message) for warning in left_open] == []
    await eventually(lambda: stage.execute(sessions) == [(0,)])
