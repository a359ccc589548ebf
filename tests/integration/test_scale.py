"""Large transactions and slow clients, with the server in a process of its own."""

from __future__ import annotations

import asyncio
import re
import sys

import pytest

from tests.fix_postgres import Database
from tests.raw_client import RawClient
from tests.server_process import ServerProcess
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MB = 1024 * 1024
PUBLICATIONS = '["shop"]'


@pytest.fixture
def table(database: Database) -> Database:
    database.execute("create table item (id int primary key, data text)")
    database.execute("create publication shop for table item")
    return database


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_memory_does_not_grow_with_a_transaction(table: Database) -> None:
    peaks = {}
    for rows in (20_000, 200_000):
        with ServerProcess(table.dsn, PUBLICATIONS=PUBLICATIONS) as server:
            server.wait_until_streaming()
            client = await RawClient.join(server.port, "realtime:public:item")
            write = "insert into item select g, repeat('x', 200) from generate_series(1, %s) g"
            writing = asyncio.create_task(asyncio.to_thread(table.execute, write, (rows,)))
            await eventually(lambda: len(client.ids) >= rows, within=120)  # noqa: B023
            await writing
            assert client.ids == list(range(1, rows + 1))
            peaks[rows] = server.peak_memory()
            client.close()
            table.execute("truncate item")
    assert peaks[200_000] - peaks[20_000] < 20 * MB, peaks


async def test_a_client_that_stops_reading_is_dropped_and_the_others_get_everything(
    table: Database,
) -> None:
    rows, bound = 5_000, 2 * MB
    with ServerProcess(table.dsn, PUBLICATIONS=PUBLICATIONS, OUTBOX_MAX_BYTES=str(bound)) as server:
        server.wait_until_streaming()
        topic = "realtime:public:item"
        stuck = await RawClient.join(server.port, topic, receive_buffer=4096)
        stuck.stop_reading()
        others = [await RawClient.join(server.port, topic) for _ in range(99)]
        write = "insert into item select g, repeat('x', 1500) from generate_series(1, %s) g"
        await asyncio.to_thread(table.execute, write, (rows,))
        await eventually(lambda: all(len(client.ids) >= rows for client in others), within=120)
        for client in others:
            assert client.ids == list(range(1, rows + 1))
        dropped = [line for line in server.log if "too slow" in line]
        assert len(dropped) == 1
        waiting = re.search(r"(\d+) bytes wait for it, at most (\d+) may", dropped[0])
        assert waiting is not None
        assert int(waiting[2]) == bound
        for client in others:
            client.close()
        stuck.close()
