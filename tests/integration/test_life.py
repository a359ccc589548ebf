"""How the server ends, and what it hands over across its ends: nothing is skipped.

Real processes, real signals, real sockets, under load.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server, running_postgres, unique_name
from tests.integration.conftest import fresh_database, until_streaming
from tests.raw_client import RawClient
from tests.recording_server import read_record
from tests.server_helpers import DEADLINE, PhoenixClient, dev_config, open_client
from tests.server_process import ServerProcess
from tests.tokens import SECRET, make_token
from tests.waiting import eventually

pytestmark = pytest.mark.integration

TOPIC = "realtime:public:item"
RESTARTED = (1012, "the server restarts")


@pytest.fixture
def shop(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int8 primary key, filling text)")
        database.execute("create publication shop for table item")
        yield database


class Load:
    """Writes rows 0, 1, 2 …, each in a transaction of its own, some hundreds a second.

    It goes on over a restart of PostgreSQL.

    Args:
        pause: seconds between two rows.
    """

    def __init__(self, database: Database, *, pause: float = 0.001) -> None:
        self.written = 0
        self._pause = pause
        self._database = database
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._write)

    def __enter__(self) -> Load:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._done.set()
        self._thread.join()

    def stop(self) -> int:
        """Write no more; return how many rows there are."""
        self._done.set()
        self._thread.join()
        return self.written

    def _write(self) -> None:
        while not self._done.is_set():
            with contextlib.suppress(psycopg.OperationalError), self._database.connect() as one:
                while not self._done.wait(self._pause):
                    # Whether a commit went through whose answer was lost, nobody knows.
                    one.execute(
                        "insert into item values (%s) on conflict do nothing", (self.written,)
                    )
                    self.written += 1


def id_of(frame: Any) -> int:
    return int(frame["payload"]["record"]["id"])


async def collect(client: PhoenixClient, into: list[Any]) -> tuple[int, str]:
    """Append frames until the socket closes; return how it did."""
    with contextlib.suppress(Exception):
        while True:
            into.append(await client.receive())
    return await client.closed()


# Ends in good order.


async def test_what_was_published_arrives_before_the_close_frame(shop: Database) -> None:
    async with RealtimeServer(dev_config(shop.dsn)) as server, open_client(server.port) as client:
        await until_streaming(shop)
        await client.join(TOPIC)
        async with open_client(server.port) as witness:
            await witness.join(TOPIC)
            # More than the kernel's buffers take: some of it waits in the server.
            shop.execute(
                "insert into item select n, repeat('x', 500) from generate_series(0, 5999) n"
            )
            while id_of(await witness.receive()) != 5999:
                pass
            ending = asyncio.create_task(server.__aexit__(None, None, None))
            frames: list[Any] = []
            assert await collect(client, frames) == RESTARTED
            assert [id_of(frame) for frame in frames] == list(range(6000))
            assert await witness.closed() == RESTARTED
            await ending


async def test_clients_that_do_not_read_hold_up_the_end_no_longer_than_the_bound(
    shop: Database,
) -> None:
    config = dev_config(shop.dsn, DRAIN_TIMEOUT="1000", SLOT_NAME=unique_name("slot"))
    async with RealtimeServer(config) as server, open_client(server.port) as client:
        await until_streaming(shop)
        await client.join(TOPIC)
        stuck = [await RawClient.join(server.port, TOPIC) for _ in range(3)]
        for one in stuck:
            one.stop_reading()
        shop.execute("insert into item select n, repeat('x', 500) from generate_series(0, 5999) n")
        while id_of(await client.receive()) != 5999:
            pass
        ending = asyncio.create_task(server.__aexit__(None, None, None))
        # Whoever reads need not wait for them.
        assert await client.closed() == RESTARTED
        assert not ending.done()
        async with asyncio.timeout(DEADLINE):
            await ending
        for one in stuck:
            assert one.ids == [] or one.ids[-1] < 5999
            one.close()


async def test_a_second_signal_cuts_off_clients_that_do_not_read(shop: Database) -> None:
    settings = {
        "PUBLICATIONS": '["shop"]',
        "DRAIN_TIMEOUT": "600000",
        # Nobody is cut off as too slow: then the end would have nobody to wait for.
        "OUTBOX_MAX_BYTES": "1000000000",
        "OUTBOX_MAX_AGE": "600000",
    }
    with ServerProcess(shop.dsn, **settings) as server:
        server.wait_until_streaming()
        async with open_client(server.port) as client:
            await client.join(TOPIC)
            stuck = await RawClient.join(server.port, TOPIC, receive_buffer=4096)
            stuck.stop_reading()
            shop.execute(
                "insert into item select n, repeat('x', 500) from generate_series(0, 9999) n"
            )
            while id_of(await client.receive()) != 9999:
                pass
            server.process.send_signal(signal.SIGTERM)
            assert await client.closed() == RESTARTED
            assert await asyncio.to_thread(server.stop) == 0
            log = await asyncio.to_thread(server.whole_log)
            assert "is too slow" not in log
            # It was still there: by itself the end would not have come.
            assert "cutting off the clients that are left" in log
            stuck.close()


@pytest.mark.slow
async def test_twenty_restarts_under_load_leave_no_hole(shop: Database, tmp_path: Path) -> None:
    record = tmp_path / "record"
    record.touch()
    slot = unique_name("slot")
    shop.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    settings = {
        "PUBLICATIONS": '["shop"]',
        "SLOT_NAME": slot,
        "RECORD": str(record),
        # The machine may be busy.
        "DRAIN_TIMEOUT": "30000",
        # What is handed out again on purpose is recorded, too.
        "REPLAY_WINDOW": "0",
    }
    with Load(shop) as load:
        for _ in range(20):
            with ServerProcess(shop.dsn, module="tests.recording_server", **settings) as server:
                server.wait_until_streaming()
                async with open_client(server.port) as client:
                    await client.join(TOPIC)
                    frames = [await client.receive()]
                    collecting = asyncio.create_task(collect(client, frames))
                    await eventually(lambda: len(frames) > 100)  # noqa: B023
                    server.process.send_signal(signal.SIGTERM)
                    assert await collecting == RESTARTED
                assert await asyncio.to_thread(server.process.wait, 30) == 0
            # All that was handed over since the join has arrived, in order.
            handed = read_record(record)
            ids = [id_of(frame) for frame in frames]
            assert ids == list(range(ids[0], handed[-1] + 1))
        rows = load.stop()
    with ServerProcess(shop.dsn, module="tests.recording_server", **settings):
        await eventually(lambda: rows - 1 in read_record(record))
    handed = read_record(record)
    assert sorted(set(handed)) == list(range(rows))
    # Hardly ever does anything come twice, as the last acknowledgement is sent and taken, unless
    # PostgreSQL is too busy to take it in time.
    assert sum(later <= earlier for earlier, later in pairwise(handed)) < 10


# PostgreSQL ends, and comes back.


@pytest.fixture
def spare() -> Iterator[Database]:
    """A database on a server of its own, which may be stopped."""
    with running_postgres() as postgres, fresh_database(Server(postgres.dsn, postgres)) as database:
        database.execute("create table item (id int8 primary key)")
        database.execute("create publication shop for table item")
        yield database


async def across_restarts(database: Database, frames: list[Any], **settings: str) -> int:
    """Restart PostgreSQL under load, twice; return how many rows there are.

    A client of the server, which is a process of its own, puts what it gets into ``frames``.
    """
    settings = {"PUBLICATIONS": '["shop"]', "DB_RECONNECT_BACKOFF_MAX": "200", **settings}
    with ServerProcess(database.dsn, **settings) as server:
        server.wait_until_streaming()
        async with open_client(server.port) as client:
            await client.join(TOPIC)
            collecting = asyncio.create_task(collect(client, frames))

            async def see_more() -> None:
                seen = len(frames)
                await eventually(lambda: len(frames) > seen + 100)

            with Load(database) as load:
                await see_more()
                for mode in ("fast", "immediate"):
                    # In this thread: PostgreSQL ends with the one that starts it.
                    database.server.restart(mode)
                    await see_more()
                rows = load.stop()
            await eventually(
                lambda: frames[-1]["event"] == "INSERT" and id_of(frames[-1]) == rows - 1
            )
            assert server.stop() == 0
            # The same socket all the time.
            assert await collecting == RESTARTED
    return rows


async def test_a_restart_of_postgresql_under_load_loses_nothing_with_a_permanent_slot(
    spare: Database,
) -> None:
    frames: list[Any] = []
    rows = await across_restarts(spare, frames, SLOT_NAME="permanent")
    assert [id_of(frame) for frame in frames] == list(range(rows))


async def test_a_restart_of_postgresql_under_load_is_told_with_a_temporary_slot(
    spare: Database,
) -> None:
    frames: list[Any] = []
    rows = await across_restarts(spare, frames)
    gaps = [index for index, frame in enumerate(frames) if frame["event"] == "system"]
    assert [frames[index]["payload"]["gap"]["reason"] for index in gaps] == ["temporary_slot"] * 2
    # Between the gaps nothing is missing.
    ids = [None if frame["event"] == "system" else id_of(frame) for frame in frames]
    for part in (ids[: gaps[0]], ids[gaps[0] + 1 : gaps[1]], ids[gaps[1] + 1 :]):
        assert part == list(range(part[0], part[-1] + 1))
    assert ids[0] == 0
    assert ids[-1] == rows - 1


async def test_a_join_that_waits_for_the_database_does_not_hold_up_the_end(
    spare: Database,
) -> None:
    settings = {
        "REPLICATION_MODE": "RLS",
        "SECURE_CHANNELS": "true",
        "JWT_SECRET": SECRET,
        "PUBLICATIONS": '["shop"]',
        "DRAIN_TIMEOUT": "1000",
    }
    token = make_token({"role": "postgres"})
    with ServerProcess(spare.dsn, **settings) as server:
        async with open_client(server.port, query=f"vsn=1.0.0&apikey={token}") as client:
            status = ""
            while status != "ok":  # at first the database is not attached
                await client.send(TOPIC, "phx_join", {}, ref="1")
                status = (await client.receive())["payload"]["status"]
            with spare.server.down("immediate"):
                # One finds a connection that is broken, and the next waits for another.
                for number in range(5):
                    await client.send(f"{TOPIC}:id=eq.{number}", "phx_join", {}, ref=f"{number}")
                server.wait_for_log(re.compile("error connecting in 'rls subscriptions'"))
                # Half of the time that it would wait.
                assert await asyncio.to_thread(server.stop, within=15) == 0
            assert await client.closed() == RESTARTED
