"""Random faults under load: the consumer that stores positions ends with the table's rows.

FAULTS says how many (60 by default, for both servers together), FAULTS_SEED which. The seed is
printed, and part of every failure.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from random import Random
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from realtime_core import (
    Delete,
    Event,
    Idle,
    Insert,
    PgoutputSource,
    Position,
    SourceError,
    Update,
    ensure_slot,
)
from tests.fix_postgres import Database, unique_name
from tests.proxy import Proxy
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(1800)]

FAULTS = int(os.environ.get("FAULTS", "60")) // 2
SEED = int(os.environ.get("FAULTS_SEED", "1"))

# A dead connection is given up after twice that many seconds.
SENDER_TIMEOUT = 1.0
# How far the writer may be ahead of the reader, in rows.
AHEAD = 3000


class Writer:
    """Changes a table, one transaction after the other, whatever happens to the server."""

    def __init__(self, database: Database, random: Random, arrived: Callable[[], int]) -> None:
        self._database = database
        self._random = random
        self._arrived = arrived
        self._stop = threading.Event()
        self.next_id = 1
        self._task = asyncio.create_task(asyncio.to_thread(self._run))

    async def stop(self) -> None:
        self._stop.set()
        await self._task

    def _run(self) -> None:
        while not self._stop.is_set():
            with suppress(psycopg.OperationalError), self._database.connect() as connection:
                # Whether the transaction that broke off was committed, the table knows.
                query = "select coalesce(max(id), 0) + 1 from seen_ids"
                ((self.next_id,),) = connection.execute(query).fetchall()
                while not self._stop.is_set():
                    if self.next_id - self._arrived() < AHEAD:
                        self._write(connection)
                    else:
                        self._stop.wait(0.001)
            self._stop.wait(0.02)

    def _write(self, connection: psycopg.Connection) -> None:
        random, first = self._random, self.next_id
        # Of all sizes, so that faults fall within transactions too.
        last = first + random.choice((1, 1, 2, 5, 40, 300)) - 1
        with connection.transaction():
            connection.execute(
                "insert into item select g, repeat('x', %s) from generate_series(%s::int, %s) g",
                (random.choice((1, 20, 300)), first, last),
            )
            connection.execute("insert into seen_ids values (%s)", (last,))
            if random.random() < 0.3:
                connection.execute(
                    "update item set name = name || '+' where id %% 97 = %s and id > %s",
                    (random.randrange(97), first - 500),
                )
            if random.random() < 0.2:
                connection.execute(
                    "delete from item where id %% 89 = %s and id between %s and %s",
                    (random.randrange(89), first - 500, first),
                )
            if random.random() < 0.2:
                with suppress(psycopg.errors.UniqueViolation), connection.transaction():
                    connection.execute("insert into item values (%s, 'rolled back')", (last + 1,))
                    connection.execute("insert into item values (%s, 'rolled back')", (last + 1,))
        self.next_id = last + 1


class AbortableSource(PgoutputSource[Any]):
    def abort(self) -> None:
        """Break the connection, as the end of the process does."""
        if self._live is not None:
            self._live.connection.abort()


class Consumer:
    """Keeps a copy of the table, and its checkpoint; may be killed and started again."""

    def __init__(self, dsn: str, slot: str, random: Random) -> None:
        self._dsn = dsn
        self._slot = slot
        self._random = random
        self.rows: dict[int, str] = {}
        self.newest = 0
        self.handled = 0
        self._checkpoint: Position | None = None
        self.source: AbortableSource
        self._task: asyncio.Task[None]
        self.start()

    def start(self) -> None:
        # Streamed or not, positions are the same.
        streaming = self._random.choice(("off", "on"))
        self.source = AbortableSource(
            make_conninfo(self._dsn, options="-c logical_decoding_work_mem=64kB"),
            publications=["shop"],
            slot=self._slot,
            start_at=self._checkpoint,
            streaming=streaming,  # type: ignore[arg-type]
            slot_in_use="wait",
            sender_timeout=SENDER_TIMEOUT,
            backoff=(0.005, 0.1),
            persistent=True,
        )
        self._task = asyncio.create_task(self._run())

    async def kill(self) -> None:
        """Leave without a word to the server, as a process that is killed."""
        self._task.cancel()
        await asyncio.wait({self._task})
        self.source.abort()
        await self.source.aclose()

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        await self.source.aclose()

    def check(self) -> None:
        """Raise what has ended the consumer, if something has."""
        if self._task.done():
            self._task.result()
            raise AssertionError("the stream ended")

    async def _run(self) -> None:
        source = self.source
        async with source:
            if self._random.random() < 0.5:
                async for event in source:
                    self._handle(event)
                    if self._random.random() < 0.1:
                        source.ack(event)
            else:
                async for batch in source.batches():
                    for event in batch:
                        self._handle(event)
                    source.ack(batch[-1])

    def _handle(self, event: Event) -> None:
        assert isinstance(event, Insert | Update | Delete | Idle), event
        assert self._checkpoint is None or event.position > self._checkpoint, "handed over twice"
        self.handled += 1
        match event:
            case Insert(record=record):
                number = record["id"]
                assert number == self.newest + 1, f"row {number} came after row {self.newest}"
                self.newest = number
                self.rows[number] = record["name"]
            case Update(record=record):
                assert record["id"] in self.rows
                self.rows[record["id"]] = record["name"]
            case Delete(old_record=old):
                del self.rows[old["id"]]
        # In one with the work, as a transaction would do.
        self._checkpoint = event.position


class Faults:
    """What may happen, each by its name."""

    def __init__(self, database: Database, proxy: Proxy, consumer: Consumer, random: Random):
        self._database = database
        self._proxy = proxy
        self._consumer = consumer
        self._random = random

    def choose(self, count: int) -> list[Callable[[], Awaitable[None]]]:
        """Return so many, each of them at least once."""
        weights = {
            self.cut: 20,
            self.cut_in_mid_message: 20,
            self.terminate_backend: 18,
            self.kill_consumer: 14,
            self.refuse_connections: 10,
            self.slow_down: 8,
            self.pause: 6,
            self.stall: 2,
            self.crash_server: 2,
        }
        each = list(weights)
        chosen = each + self._random.choices(each, list(weights.values()), k=count - len(each))
        self._random.shuffle(chosen)
        return chosen

    async def cut(self) -> None:
        self._proxy.cut()

    async def cut_in_mid_message(self) -> None:
        self._proxy.cut_after(self._random.randrange(1, 5000))
        await eventually(lambda: not self._proxy.will_cut)

    async def terminate_backend(self) -> None:
        self._database.execute(
            "select pg_terminate_backend(active_pid) from pg_replication_slots where database = %s",
            (self._database.name,),
        )

    async def kill_consumer(self) -> None:
        await self._consumer.kill()
        self._consumer.start()

    async def refuse_connections(self) -> None:
        self._proxy.refusing = True
        self._proxy.cut()
        await asyncio.sleep(self._random.random() * 0.3)
        self._proxy.refusing = False

    async def slow_down(self) -> None:
        self._proxy.piece = 100
        handled = self._consumer.handled + 50
        await eventually(lambda: self._consumer.handled >= handled, within=60)
        self._proxy.piece = 64 * 1024

    async def pause(self) -> None:
        self._proxy.stall()
        await asyncio.sleep(self._random.random() * 0.2)
        self._proxy.flow()

    async def stall(self) -> None:
        """The connections stay, and nothing passes any more: the source has to notice."""
        source = self._consumer.source
        await eventually(lambda: source.stats().connected)
        reconnects = source.stats().reconnects
        self._proxy.stall()
        await eventually(
            lambda: not source.stats().connected or source.stats().reconnects > reconnects
        )
        self._proxy.cut()
        self._proxy.flow()

    async def crash_server(self) -> None:
        # In this thread: PostgreSQL ends with the one that starts it.
        self._database.server.restart("immediate")


@asynccontextmanager
async def under_load(
    database: Database, proxy: Proxy, random: Random
) -> AsyncIterator[tuple[Consumer, Writer]]:
    database.execute("create table item (id int primary key, name text)")
    database.execute("create table seen_ids (id int)")
    database.execute("create publication shop for table item")
    slot = unique_name("slot")
    await ensure_slot(database.dsn, slot)
    consumer = Consumer(proxy.lead_to(database.dsn), slot, random)
    writer = Writer(database, Random(random.random()), lambda: consumer.newest)
    try:
        yield consumer, writer
    finally:
        await writer.stop()
        await consumer.close()


async def test_random_faults_lose_and_repeat_nothing(database: Database) -> None:
    print(f"FAULTS_SEED={SEED}")
    random = Random(f"{SEED}{database.server.version}")
    happened: list[str] = []
    async with Proxy() as proxy, under_load(database, proxy, random) as (consumer, writer):
        faults = Faults(database, proxy, consumer, random)
        try:
            for fault in faults.choose(FAULTS):
                # Each one meets a stream that runs.
                handled = consumer.handled

                def goes_on(handled: int = handled) -> bool:
                    consumer.check()
                    return consumer.handled > handled

                await eventually(goes_on, within=60)
                happened.append(fault.__name__)
                await fault()
            await writer.stop()
            database.execute("insert into item values (%s, 'last')", (writer.next_id,))

            def is_done() -> bool:
                consumer.check()
                return consumer.newest == writer.next_id

            await eventually(is_done, within=60)
        except (AssertionError, SourceError) as exc:
            exc.add_note(f"FAULTS_SEED={SEED}, after {len(happened)} faults: {happened}")
            raise
        expected = dict(database.execute("select id, name from item"))
        assert consumer.rows == expected, f"FAULTS_SEED={SEED}: {happened}"
        assert len(expected) > FAULTS
