"""The reader divides the stream into batches, and waits until others see what is in them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import psycopg
import pytest
import pytest_asyncio

from realtime_core import GapReason, Insert, PgoutputSource
from realtime_server.catalog.connections import Connections
from realtime_server.rls import reader as reader_module
from realtime_server.rls.reader import Batch, Reader
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.rls_helpers import at
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.pg17]


class Reading:
    """Reads batches in the background, acknowledging each."""

    def __init__(self, reader: Reader) -> None:
        self.batches: list[Batch] = []
        self._reader = reader
        self._task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async with contextlib.aclosing(self._reader.batches()) as batches:
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


class Stage:
    def __init__(self, database: Database, pool: Connections) -> None:
        self.database = database
        self.pool = pool

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        for statement in statements:
            rows = self.database.execute(statement)
        return rows

    @contextlib.asynccontextmanager
    async def reading(
        self, *publications: str, limit: int = 100, interval: float = 0.0
    ) -> AsyncIterator[Reading]:
        source = PgoutputSource(
            self.database.dsn,
            publications=publications or ["shop"],
            boundaries=True,
            on_gap="continue",
        )
        async with source:
            reading = Reading(Reader(source, self.pool, limit=limit, interval=interval))
            try:
                yield reading
            finally:
                await reading.stop()

    def insert(self, *ids: int, table: str = "notes") -> None:
        for each in ids:
            self.execute(f"insert into {table} (id) values ({each})")


@pytest_asyncio.fixture
async def stage(pg17: Server) -> AsyncIterator[Stage]:
    with fresh_database(pg17) as database:
        database.execute("create table notes (id int primary key, body text)")
        database.execute("create publication shop for all tables")
        async with Connections(at(database.dsn), name="test", size=4) as pool:
            yield Stage(database, pool)


async def test_a_large_transaction_comes_in_parts_and_once(stage: Stage) -> None:
    async with stage.reading(limit=10) as reading:
        stage.execute("insert into notes select i from generate_series(1, 1234) i")
        await reading.until(*range(1, 1235))
        assert max(len(batch.reads) for batch in reading.batches) <= 10
        stage.insert(2000)
        await reading.until(*range(1, 1235), 2000)


async def test_batches_are_far_enough_apart_unless_there_is_much_to_read(stage: Stage) -> None:
    async with stage.reading(limit=10, interval=3600) as reading:
        stage.insert(1)
        await reading.until(1)
        # A whole batch does not wait, and what is left then does.
        stage.execute("insert into notes select i from generate_series(2, 15) i")
        await reading.until(*range(1, 12))


async def test_several_publications(stage: Stage) -> None:
    stage.execute(
        "create table one (id int primary key)",
        "create table two (id int primary key)",
        "create publication a for table one",
        "create publication b for table two",
    )
    async with stage.reading("a", "b") as reading:
        stage.insert(1, table="one")
        stage.insert(2, table="notes")
        stage.insert(3, table="two")
        await reading.until(1, 3)


@contextlib.contextmanager
def standby_away(server: Server) -> Iterator[None]:
    """Have every commit wait for a synchronous standby that is not there."""
    server.execute("alter system set synchronous_standby_names = 'nobody'")
    try:
        server.execute("select pg_reload_conf()")
        yield
    finally:
        server.execute("alter system reset synchronous_standby_names")
        server.execute("select pg_reload_conf()")


async def test_a_commit_that_others_do_not_see_yet_is_waited_for(
    stage: Stage, pg17: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is in WAL and waits for a standby, and so it is not visible."""
    monkeypatch.setattr(reader_module, "_PATIENCE", 0.0)
    async with stage.reading() as reading:
        with standby_away(pg17), psycopg.connect(stage.database.dsn, autocommit=True) as connection:
            connection.execute("set synchronous_commit = local")
            await eventually(
                lambda: (
                    connection.execute("show synchronous_standby_names").fetchone() == ("nobody",)
                )
            )
            committing = asyncio.ensure_future(asyncio.to_thread(stage.insert, 1))
            await eventually(lambda: "(synchronous_standby_names is 'nobody')" in caplog.text)
            [(xid,)] = connection.execute(
                "select backend_xid from pg_stat_activity where wait_event = 'SyncRep'"
                " and datname = current_database()"
            ).fetchall()
            line = f"changes wait for transaction {xid}, which is committed and not visible yet"
            assert caplog.text.count(line) == 1
            assert reading.ids == []
        await committing
        await reading.until(1)
