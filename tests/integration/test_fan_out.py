"""The way to the sockets: every client gets everything in order, however it is written."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.raw_client import RawClient
from tests.server_helpers import DEADLINE, open_client
from tests.server_process import ServerProcess
from tests.waiting import eventually

pytestmark = pytest.mark.integration

TOPIC = "realtime:public:item"
TOPICS = (TOPIC, "realtime:*")
PUBLICATIONS = '["shop"]'
SOCKETS = 20
TRANSACTIONS = 80


@pytest.fixture
def item(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int primary key, data text)")
        database.execute("create publication shop for table item")
        yield database


async def write(database: Database, rows: int, data: str) -> None:
    """Insert rows with the ids from 1 on, in one transaction."""
    statement = "insert into item select g, %s from generate_series(1, %s) g"
    await asyncio.to_thread(database.execute, statement, (data, rows))


# All ways at once.


class Writer:
    """Writes transactions of all sizes, then small ones for ever; ids grow by one."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self.begun = 0
        """The last row whose commit was asked for."""
        self.enough: int | None = None
        """The last row of the transactions of all sizes, when they are committed."""

    async def run(self, dsn: str) -> None:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            for number in itertools.count():
                rows = self._random.choice([1, 1, 2, 10, 10, 300]) if self.enough is None else 1
                first, self.begun = self.begun, self.begun + rows
                await connection.execute(
                    "insert into item select %s + g, repeat('x', %s) from generate_series(1, %s) g",
                    (first, self._random.randrange(1000), rows),
                )
                if number == TRANSACTIONS:
                    self.enough = self.begun
                await asyncio.sleep(self._random.random() * 0.05)


class Listener:
    """Connects, joins, leaves and is gone at random, until the last row."""

    def __init__(self, port: int, writer: Writer, number: int) -> None:
        self._port = port
        self._writer = writer
        self._random = random.Random(number)
        self.compressions: set[bool] = set()
        self.rows = 0

    async def run(self) -> None:
        while not await self._connect():
            pass

    async def _connect(self) -> bool:
        """Stay for a while; return whether it was until the last row."""
        options: dict[str, Any] = self._random.choice(
            [
                {"compression": None},
                {"compression": "deflate"},
                {
                    "compression": None,
                    "extensions": [ClientPerMessageDeflateFactory(server_max_window_bits=10)],
                },
            ]
        )
        uri = f"ws://127.0.0.1:{self._port}/socket/websocket"
        async with connect(uri, proxy=None, open_timeout=DEADLINE, **options) as websocket:
            self.compressions.add(bool(websocket.protocol.extensions))
            topics = self._random.sample(TOPICS, self._random.choice([1, 2]))
            done = False
            # The last time until the end.
            while not done and self._random.random() < 0.7:
                done = await self._listen(websocket, topics)
            if not done and self._random.random() < 0.5:
                websocket.transport.abort()
        return done

    async def _listen(self, websocket: ClientConnection, topics: list[str]) -> bool:
        """Join, take rows, and leave, or stay until the last row and return True."""
        got: dict[str, list[int]] = {topic: [] for topic in topics}
        first: dict[str, int] = {}
        patience = self._random.choice([3, 30, 300])
        is_slow = self._random.random() < 0.2
        for topic in topics:
            await _say(websocket, topic, "phx_join")
        left: set[str] = set()
        last = 0
        while True:
            async with asyncio.timeout(DEADLINE):
                frame = json.loads(await websocket.recv())
            topic, event = frame["topic"], frame["event"]
            if event == "INSERT":
                number = int(frame["payload"]["record"]["id"])
                assert number >= last, "two topics are not in the order of commits"
                assert topic not in left
                last = number
                got[topic].append(number)
                self.rows += 1
            elif event == "phx_reply" and topic not in first:
                # What is committed from now on must come.
                first[topic] = self._writer.begun + 1
            elif event == "phx_reply":
                left.add(topic)
            if is_slow and last % 16 == 0:
                await asyncio.sleep(0.005)
            if len(first) < len(topics):
                continue
            if left == set(topics) or self._has_all(got):
                break
            if self._writer.enough is None and len(got[topics[0]]) == patience:
                for each in topics:
                    await _say(websocket, each, "phx_leave")
                patience = -1
        for topic, numbers in got.items():
            assert numbers == list(range(numbers[0], numbers[-1] + 1)) if numbers else True
            assert not numbers or numbers[0] <= first[topic]
        return not left

    def _has_all(self, got: dict[str, list[int]]) -> bool:
        enough = self._writer.enough
        return enough is not None and all(rows and rows[-1] > enough for rows in got.values())


async def _say(websocket: ClientConnection, topic: str, event: str) -> None:
    await websocket.send(json.dumps({"topic": topic, "event": event, "payload": {}, "ref": "1"}))


@pytest.mark.slow
@pytest.mark.parametrize("event_loop", ["asyncio", "uvloop"])
async def test_every_write_path_hands_over_everything_once_and_in_order(
    item: Database, event_loop: str
) -> None:
    with ServerProcess(
        item.dsn,
        PUBLICATIONS=PUBLICATIONS,
        EVENT_LOOP=event_loop,
        WEBSOCKET_COMPRESSION="true",
        # Channels that come back are brought up to now one by one; this is about those that are.
        REPLAY_WINDOW="0",
        # So that most writes find the kernel's buffer full.
        SEND_BUFFER_BYTES="16384",
    ) as server:
        server.wait_until_streaming()
        writer = Writer(seed=1)
        listeners = [Listener(server.port, writer, number) for number in range(SOCKETS)]
        async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
            writing = tasks.create_task(writer.run(item.dsn))
            async with asyncio.TaskGroup() as listening:
                for listener in listeners:
                    listening.create_task(listener.run())
            writing.cancel()
        assert set[bool]().union(*(one.compressions for one in listeners)) == {True, False}
        assert sum(listener.rows for listener in listeners) > SOCKETS * writer.begun / 4
        assert not [line for line in server.log if re.search("too slow|Traceback|ERROR", line)]


# Bounds.


async def test_a_transaction_larger_than_the_bound_does_not_cut_off_who_reads_alone(
    item: Database,
) -> None:
    # Of several who read, a minority that is slower than the others is not waited for.
    rows = 4000
    with ServerProcess(
        item.dsn,
        PUBLICATIONS=PUBLICATIONS,
        OUTBOX_MAX_BYTES=str(1024 * 1024),
        SEND_BUFFER_BYTES="16384",
    ) as server:
        server.wait_until_streaming()
        reader = await RawClient.join(server.port, TOPIC)
        await write(item, rows, "x" * 1000)
        await eventually(lambda: len(reader.ids) == rows or reader.lost.done(), within=60)
        assert not [line for line in server.log if "too slow" in line]
        assert reader.ids == list(range(1, rows + 1))
        reader.close()


async def test_a_client_whose_bytes_wait_too_long_is_cut_off_and_the_others_are_not(
    item: Database,
) -> None:
    with ServerProcess(
        item.dsn,
        PUBLICATIONS=PUBLICATIONS,
        OUTBOX_MAX_AGE="300",
        SEND_BUFFER_BYTES="4096",
        EXPOSE_METRICS="true",
    ) as server:
        server.wait_until_streaming()
        stuck = await RawClient.join(server.port, TOPIC, receive_buffer=4096)
        stuck.stop_reading()
        reader = await RawClient.join(server.port, TOPIC)
        await write(item, 300, "x" * 1000)
        await eventually(lambda: any("OUTBOX_MAX_AGE" in line for line in server.log))
        await eventually(lambda: any("(1006)" in line for line in server.log))
        await eventually(lambda: len(reader.ids) == 300)
        assert not reader.lost.done()
        reader.close()
        stuck.close()


# Turns.


async def test_a_heartbeat_is_answered_while_a_large_transaction_is_handed_out(
    item: Database,
) -> None:
    rows = 20_000
    with ServerProcess(item.dsn, PUBLICATIONS=PUBLICATIONS) as server:
        server.wait_until_streaming()
        readers = [await RawClient.join(server.port, TOPIC) for _ in range(3)]
        async with open_client(server.port) as other:
            writing = asyncio.create_task(write(item, rows, "x" * 100))
            await eventually(lambda: readers[0].ids)
            beats = 0
            while len(readers[0].ids) < rows:
                assert await other.drain() == []
                beats += 1
            await writing
            # The first one may have been answered by the end.
            assert beats > 1
        for reader in readers:
            await eventually(lambda: len(reader.ids) == rows)  # noqa: B023
            reader.close()
