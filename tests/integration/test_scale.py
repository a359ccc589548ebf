"""Large transactions and slow clients, with the server in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import resource
import sys
from typing import Any

import pytest
from websockets.asyncio.client import connect

from tests.fix_postgres import Database, Server
from tests.hostile import HostileProcess
from tests.integration.conftest import fresh_database
from tests.raw_client import RawClient
from tests.server_process import ServerProcess
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow]

MB = 1024 * 1024
PUBLICATIONS = '["shop"]'
TABLE = """
    create table item (id int primary key, data text);
    create publication shop for table item;
"""


@pytest.fixture
def table(database: Database) -> Database:
    database.execute(TABLE)
    return database


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
async def test_memory_does_not_grow_with_a_transaction(table: Database) -> None:
    peaks = {}
    for rows in (20_000, 200_000):
        # The client answers no pings, so all of it is kept for it, as far as that is allowed.
        with ServerProcess(table.dsn, PUBLICATIONS=PUBLICATIONS, REPLAY_MEMORY_MB="4") as server:
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


async def test_clients_that_stop_reading_are_dropped_and_the_others_get_everything(
    table: Database,
) -> None:
    rows, bound, topic = 2_000, 2 * MB, "realtime:public:item"
    with ServerProcess(table.dsn, PUBLICATIONS=PUBLICATIONS, OUTBOX_MAX_BYTES=str(bound)) as server:
        server.wait_until_streaming()
        stuck = [await RawClient.join(server.port, topic, receive_buffer=4096) for _ in range(10)]
        for client in stuck:
            client.stop_reading()
        others = [await RawClient.join(server.port, topic) for _ in range(90)]
        before = server.peak_memory() if sys.platform == "linux" else 0
        write = "insert into item select g, repeat('x', 1500) from generate_series(1, %s) g"
        await asyncio.to_thread(table.execute, write, (rows,))
        await eventually(lambda: all(len(client.ids) >= rows for client in others), within=120)
        for client in others:
            assert client.ids == list(range(1, rows + 1))
        dropped = [line for line in server.log if "too slow" in line]
        assert len(dropped) == len(stuck)
        waiting = re.search(r"(\d+) bytes wait for it, and OUTBOX_MAX_BYTES is (\d+)", dropped[0])
        assert waiting is not None
        assert int(waiting[2]) == bound
        if sys.platform == "linux":
            # Besides, most of the others may be a quarter of the bound behind.
            most = (len(stuck) + len(others) / 2) * bound
            assert server.peak_memory() - before < most, f"{before} bytes before"
        for client in (*others, *stuck):
            client.close()


async def test_many_that_read_nothing_cannot_take_the_servers_memory_together(
    table: Database,
) -> None:
    rows, total, topic = 2_000, 16 * MB, "realtime:public:item"
    with ServerProcess(
        table.dsn,
        PUBLICATIONS=PUBLICATIONS,
        OUTBOX_TOTAL_BYTES=str(total),
        SEND_BUFFER_BYTES="8192",
    ) as server:
        server.wait_until_streaming()
        # Each may have 8 MB by its own bound, and would have 3 MB of these rows.
        stuck = [await RawClient.join(server.port, topic, receive_buffer=4096) for _ in range(60)]
        for client in stuck:
            client.stop_reading()
        reader = await RawClient.join(server.port, topic)
        before = server.peak_memory() if sys.platform == "linux" else 0
        write = "insert into item select g, repeat('x', 1500) from generate_series(1, %s) g"
        await asyncio.to_thread(table.execute, write, (rows,))
        await eventually(lambda: len(reader.ids) >= rows, within=120)
        assert reader.ids == list(range(1, rows + 1))
        assert not reader.lost.done()
        dropped = [line for line in server.log if "OUTBOX_TOTAL_BYTES" in line]
        assert len(stuck) > len(dropped) > len(stuck) // 2
        if sys.platform == "linux":
            # A buffer that grows has a little more than is in it, and is copied.
            assert server.peak_memory() - before < 3 * total, f"{before} bytes before"
        for client in (reader, *stuck):
            client.close()


async def test_a_client_that_does_not_read_does_not_hold_up_the_end(table: Database) -> None:
    with ServerProcess(table.dsn, PUBLICATIONS=PUBLICATIONS, DRAIN_TIMEOUT="500") as server:
        server.wait_until_streaming()
        topic = "realtime:public:item"
        stuck = await RawClient.join(server.port, topic, receive_buffer=4096)
        stuck.stop_reading()
        reader = await RawClient.join(server.port, topic)
        # More than the kernel takes, less than the server allows.
        write = "insert into item select g, repeat('x', 1500) from generate_series(1, 4000) g"
        table.execute(write)
        await eventually(lambda: len(reader.ids) >= 4000, within=60)
        server.process.terminate()
        assert await asyncio.to_thread(server.process.wait, 10) == 0
        stuck.close()


async def test_one_client_cannot_take_the_servers_memory_by_joining(table: Database) -> None:
    with ServerProcess(table.dsn, PUBLICATIONS=PUBLICATIONS) as server:
        url = f"ws://127.0.0.1:{server.port}/socket/websocket"
        async with connect(url, max_queue=None) as websocket:

            async def join(topic: str) -> dict[str, Any]:
                message = {"topic": topic, "event": "phx_join", "ref": "1", "payload": {}}
                await websocket.send(json.dumps(message))
                reply: dict[str, Any] = json.loads(await websocket.recv())["payload"]
                return reply

            long = await join("realtime:public:item:name=eq." + "x" * 5000)
            assert long["status"] == "error"
            assert "longer than 4096" in long["response"]["reason"]
            for number in range(1000):
                assert (await join(f"realtime:public:item:id=eq.{number}"))["status"] == "ok"
            refused = await join("realtime:one:more")
            assert refused["status"] == "error"
            assert "joined 1000 topics" in refused["response"]["reason"]
            # A rejoin takes no more than it gives back.
            assert (await join("realtime:public:item:id=eq.7"))["status"] == "ok"


async def test_a_flood_of_messages_does_not_keep_the_others_waiting(table: Database) -> None:
    heartbeat = json.dumps({"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": "1"})
    with ServerProcess(table.dsn, PUBLICATIONS=PUBLICATIONS) as server:
        url = f"ws://127.0.0.1:{server.port}/socket/websocket"
        async with connect(url) as flooder, connect(url) as other:

            async def flood() -> None:
                while True:
                    for _ in range(50):
                        await flooder.send(heartbeat)
                    # send() gives way only when the socket is full: let the others here live.
                    await asyncio.sleep(0)

            async def read() -> None:
                async for _ in flooder:
                    pass

            flooding = [asyncio.create_task(flood()), asyncio.create_task(read())]
            for _ in range(20):
                await other.send(heartbeat)
                async with asyncio.timeout(10):
                    await other.recv()
            for task in flooding:
                task.cancel()
        assert not [line for line in server.log if "socket.send() raised" in line]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.skipif(
    0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4096,
    reason="needs more than a thousand open files",
)
async def test_hostile_clients_take_neither_rows_nor_memory_from_the_others(
    one_pg: Server,
) -> None:
    rows = 0
    settings = {"PUBLICATIONS": PUBLICATIONS, "HANDSHAKE_TIMEOUT": "3000"}
    with fresh_database(one_pg) as table, ServerProcess(table.dsn, **settings) as server:
        table.execute(TABLE)
        server.wait_until_streaming()
        others = [await RawClient.join(server.port, "realtime:public:item") for _ in range(20)]
        await asyncio.to_thread(table.execute, "insert into item values (0, 'calm')")
        await eventually(lambda: all(len(client.ids) == 1 for client in others))
        calm = server.peak_memory()
        with contextlib.ExitStack() as stack:
            enemies = HostileProcess(server.port)
            await asyncio.to_thread(stack.enter_context, enemies)
            # Until the half-open ones have been given up, and had their replacements.
            while await metric(server.port, 'realtime_limits_total{limit="handshake"}') < 1000:
                numbers = f"generate_series({rows + 1}, {rows + 20}) g"
                write = f"insert into item select g, repeat('x', 500) from {numbers}"
                await asyncio.to_thread(table.execute, write)
                rows += 20
            await eventually(lambda: all(len(client.ids) > rows for client in others), within=120)
            await asyncio.to_thread(stack.close)
        # All of it, in order, on the connections that they had.
        for client in others:
            assert client.ids == list(range(rows + 1))
            assert not client.lost.done()
            client.close()
        growth = server.peak_memory() - calm
        assert all(enemies.attempts.values()), enemies.attempts
        async with asyncio.timeout(60):
            while await metric(server.port, "realtime_active_websocket_connection_total") > 0:
                pass
        errors = [line for line in server.log if " ERROR " in line or "Traceback" in line]
    assert errors == []
    assert growth < 64 * MB, growth


async def metric(port: int, name: str) -> float:
    """Return a metric's value, 0 as long as it is not there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    text = (await reader.read()).decode()
    writer.close()
    assert text.startswith("HTTP/1.1 200 "), text
    found = re.search(f"^{re.escape(name)} (.*)$", text, re.MULTILINE)
    return 0.0 if found is None else float(found[1])
