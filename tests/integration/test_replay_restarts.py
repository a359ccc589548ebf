"""Clients that come back after the server has ended, or to another one: STREAM mode."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from realtime_core import PgoutputSource
from realtime_server.replay import durable, second_slot
from realtime_server.replay.standing import LASTS
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database, until_streaming
from tests.integration.replay_client import ReplayClient
from tests.server_helpers import dev_config
from tests.server_process import ServerProcess
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

SETTINGS = {
    "REPLAY_WINDOW": "300000",
    "REPLAY_WAL_MB": "1024",
    "REPLAY_SECRET": "the same for all servers".ljust(32, "."),
    "REPLAY_PING_INTERVAL": "50",
    "PUBLICATIONS": '["shop"]',
}
SESSION = "8f14e45f-ceea-467f-a1d0-"


@pytest.fixture
def item(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int primary key, data text)")
        database.execute("create publication shop for table item")
        yield database


@contextlib.asynccontextmanager
async def serve(item: Database, slot: str, **settings: str) -> AsyncIterator[RealtimeServer]:
    config = dev_config(item.dsn, SLOT_NAME=slot, **{**SETTINGS, **settings})
    async with RealtimeServer(config) as server:
        await until_streaming(item)
        yield server


async def write(item: Database, *ids: int) -> None:
    for one in ids:
        await asyncio.to_thread(item.execute, "insert into item values (%s, 'x')", (one,))


async def until_kept(item: Database, slot: str) -> None:
    """Wait until there is a second slot."""
    query = "select 1 from pg_replication_slots where slot_name = %s"
    await eventually(lambda: item.execute(query, (f"{slot}_replay",)))


@contextlib.asynccontextmanager
async def process(item: Database, slot: str, **settings: str) -> AsyncIterator[ServerProcess]:
    server = ServerProcess(item.dsn, SLOT_NAME=slot, **{**SETTINGS, **settings})
    await asyncio.to_thread(server.__enter__)
    try:
        yield server
    finally:
        server.process.send_signal(signal.SIGCONT)
        await asyncio.to_thread(server.__exit__, None, None, None)


async def test_a_restart_loses_and_repeats_nothing(item: Database) -> None:
    slot = unique_name("slot")
    clients = []
    async with serve(item, slot) as server:
        await until_kept(item, slot)
        clients = [ReplayClient(server.port, session=f"{SESSION}{number}") for number in range(3)]
        first = [await client.come() for client in clients]
        assert [one["resumed"] for one in first] == [False] * 3
        await write(item, 1, 2, 3)
        for client in clients:
            await client.until(3)
        await write(item, 4)
    await write(item, 5, 6)
    async with serve(item, slot) as server:
        await write(item, 7)
        for client in clients:
            client.port = server.port
            again = await client.come()
            assert again["resumed"] is True
        await write(item, 8)
        for client in clients:
            await client.until(8)
            assert client.ids == [1, 2, 3, 4, 5, 6, 7, 8]
            assert client.gaps == []
        # A page that is loaded anew gets nothing old.
        fresh = ReplayClient(server.port, session=f"{SESSION}new")
        assert (await fresh.come())["resumed"] is False
        await write(item, 9)
        await fresh.until(9)
        assert fresh.ids == [9]
        for client in (*clients, fresh):
            await client.close()


async def test_a_client_that_is_new_does_not_wait_for_the_second_slot(item: Database) -> None:
    slot = unique_name("slot")
    known = ReplayClient(0, session=f"{SESSION}a")
    async with serve(item, slot) as server:
        await until_kept(item, slot)
        known.port = server.port
        await known.come()
        await write(item, 1)
        await known.until(1)
    await write(item, 2)
    # As a process that has ended may do for a while.
    user = PgoutputSource(item.dsn, publications=["shop"], slot=f"{slot}_replay")
    async with user, serve(item, slot) as server:
        known.port = server.port
        await known.connect()
        joining = asyncio.create_task(known.join())
        new = ReplayClient(server.port, session=f"{SESSION}new")
        assert (await new.come())["resumed"] is False
        await write(item, 3)
        await new.until(3)
        assert not joining.done()
        await user.aclose()
        assert (await joining)["resumed"] is True
        await known.until(3)
        assert (known.ids, new.ids) == ([1, 2, 3], [3])
        await known.close()
        await new.close()


async def test_a_server_that_ends_before_it_knows_who_was_here_forgets_nobody(
    item: Database,
) -> None:
    slot = unique_name("slot")
    waits, stays_away = (ReplayClient(0, session=f"{SESSION}{one}") for one in "ab")
    async with serve(item, slot) as server:
        await until_kept(item, slot)
        for client in (waits, stays_away):
            client.port = server.port
            await client.come()
        await write(item, 1)
        for client in (waits, stays_away):
            await client.until(1)
    await write(item, 2)
    user = PgoutputSource(item.dsn, publications=["shop"], slot=f"{slot}_replay")
    async with user:
        for number in (3, 4):
            async with serve(item, slot) as server:
                waits.port = server.port
                await waits.connect()
                joining = asyncio.create_task(waits.join())
                await write(item, number)
                assert not joining.done()
            joining.cancel()
            await asyncio.wait({joining})
    async with serve(item, slot) as server:
        for client in (waits, stays_away):
            client.port = server.port
            assert (await client.come())["resumed"] is True
            await client.until(4)
            assert (client.ids, client.gaps) == ([1, 2, 3, 4], [])
            await client.close()


async def test_restarts_in_a_row(item: Database) -> None:
    slot = unique_name("slot")
    client = ReplayClient(0, session=f"{SESSION}a")
    away = ReplayClient(0, session=f"{SESSION}b")
    for number in range(4):
        async with serve(item, slot) as server:
            await until_kept(item, slot)
            client.port = away.port = server.port
            assert (await client.come())["resumed"] is (number > 0)
            if number in (0, 3):
                assert (await away.come())["resumed"] is (number > 0)
            await write(item, 2 * number)
            await client.until(2 * number)
            if number == 3:
                # It may be brought up to now later than the other one.
                await away.until(6)
        await write(item, 2 * number + 1)
    assert client.ids == [*range(7)]
    assert away.ids == [*range(7)]
    assert client.gaps == away.gaps == []


async def test_a_kill_loses_nothing(item: Database) -> None:
    slot = unique_name("slot")
    client = ReplayClient(0, session=f"{SESSION}a")
    away = ReplayClient(0, session=f"{SESSION}b")
    async with process(item, slot) as killed:
        client.port = away.port = killed.port
        await until_kept(item, slot)
        await client.come()
        await away.come()
        await write(item, 1, 2)
        await client.until(2)
        await away.until(2)
        # The journal follows within a moment.
        await asyncio.sleep(1)
        await away.cut()
        await write(item, 3)
        await client.until(3)
        await asyncio.sleep(1)
        killed.process.kill()
        await eventually(lambda: killed.process.poll() is not None)
        await write(item, 4)
        async with process(item, slot) as server:
            client.port = away.port = server.port
            for each in (client, away):
                await each.connect()
                assert (await each.join())["resumed"] is True
            await write(item, 5)
            for each in (client, away):
                await each.until(5)
                assert list(dict.fromkeys(each.ids)) == [1, 2, 3, 4, 5]
                assert each.gaps == []
                await each.close()


async def test_another_server_takes_clients_over(item: Database) -> None:
    slots = [unique_name("slot"), unique_name("slot")]
    async with process(item, slots[0]) as one, process(item, slots[1]) as other:
        for slot in slots:
            await until_kept(item, slot)
        client = ReplayClient(one.port, session=f"{SESSION}a")
        await client.come()
        await write(item, 1)
        await client.until(1)
        # The journal follows within a moment.
        await asyncio.sleep(1)
        await client.cut()
        await write(item, 2)
        client.port = other.port
        assert (await client.come())["resumed"] is True
        await client.until(2)
        await asyncio.sleep(1)
        # Killed, it has left everything to the first one.
        other.process.kill()
        await write(item, 3)
        client.port = one.port
        await client.connect()
        assert (await client.join())["resumed"] is True
        await client.until(3)
        assert list(dict.fromkeys(client.ids)) == [1, 2, 3]
        assert client.gaps == []
        await client.close()


async def test_the_warm_standby_takes_clients_over(item: Database) -> None:
    slot = unique_name("slot")
    async with process(item, slot) as main:
        await until_kept(item, slot)
        client = ReplayClient(main.port, session=f"{SESSION}a")
        await client.come()
        await write(item, 1)
        await client.until(1)
        await asyncio.sleep(1)
        async with process(item, slot) as standby:
            main.process.kill()
            await write(item, 2)
            client.port = standby.port
            await client.connect()
            assert (await client.join())["resumed"] is True
            await client.until(2)
            assert list(dict.fromkeys(client.ids)) == [1, 2]
            assert client.gaps == []
            await client.close()


async def test_what_was_written_elsewhere_is_no_gap(
    item: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second slot moves on over WAL of other tables, and clients with it."""
    monkeypatch.setattr(second_slot, "_STEP", 100_000)
    monkeypatch.setattr(durable, "_INTERVAL", 0.1)
    item.execute("create table other (id int, data text)")
    bulk = "insert into other select g, repeat('x', 1000) from generate_series(1, 1000) g"
    slot = unique_name("slot")
    moved = "select confirmed_flush_lsn > %s::pg_lsn from pg_replication_slots where slot_name = %s"
    stays, leaves = ReplayClient(0, session=f"{SESSION}a"), ReplayClient(0, session=f"{SESSION}b")
    async with serve(item, slot) as server:
        await until_kept(item, slot)
        for client in (stays, leaves):
            client.port = server.port
            await client.come()
        await write(item, 1)
        for client in (stays, leaves):
            await client.until(1)
        replay = server.replay
        assert replay is not None
        replay.proofs.apart = 0.0
        await eventually(lambda: not replay.needs.without_proof())
        for client in (stays, leaves):
            await client.beat()
            await client.beat()
        ((end,),) = item.execute("select pg_current_wal_lsn()")

        def is_moved_on() -> bool:
            item.execute(bulk)
            return item.execute(moved, (end, f"{slot}_replay")) == [(True,)]

        await eventually(is_moved_on)
        await leaves.cut()
    async with serve(item, slot) as server:
        for client in (stays, leaves):
            client.port = server.port
            assert (await client.come())["resumed"] is True
        await write(item, 2)
        for client in (stays, leaves):
            await client.until(2)
            assert list(dict.fromkeys(client.ids)) == [1, 2]
            assert client.gaps == []
            await client.close()


async def test_on_an_idle_database_nothing_is_written(item: Database) -> None:
    slot = unique_name("slot")
    item.execute("create table other (id int)")
    async with serve(item, slot) as server:
        await until_kept(item, slot)
        client = ReplayClient(server.port, session=f"{SESSION}a")
        await client.come()
        await write(item, 1)
        await client.until(1)
        replay = server.replay
        assert replay is not None
        tidy, tidied = replay.tidy, 0

        async def counted() -> None:
            nonlocal tidied
            await tidy()
            tidied += 1

        replay.tidy = counted  # type: ignore[method-assign]
        # What the row and the join are followed by is written within some of these.
        await eventually(lambda: not replay.needs.without_proof())
        proven = time.monotonic()
        await eventually(lambda: time.monotonic() - proven > LASTS)
        tidied = 0
        await eventually(lambda: tidied > 20)
        written, tidied = replay.stats().journal_bytes, 0
        assert written
        await eventually(lambda: tidied > 40)
        assert replay.stats().journal_bytes == written
        # What others write where nobody listens changes nothing either.
        await asyncio.to_thread(item.execute, "insert into other values (1)")
        tidied = 0
        await eventually(lambda: tidied > 20)
        assert replay.stats().journal_bytes == written
        await client.close()


async def test_without_a_second_slot_nothing_outlives_the_server(item: Database) -> None:
    slot = unique_name("slot")
    async with serve(item, slot, REPLAY_WAL_MB="0") as server:
        client = ReplayClient(server.port, session=f"{SESSION}a")
        await client.come()
        await write(item, 1)
        await client.until(1)
    async with serve(item, slot, REPLAY_WAL_MB="0") as server:
        client.port = server.port
        assert (await client.come())["resumed"] is False
        await client.close()
    assert not item.execute("select 1 from pg_replication_slots where slot_name like '%_replay'")


async def test_a_second_slot_that_is_left_over_is_named_and_left_alone(
    item: Database, caplog: pytest.LogCaptureFixture
) -> None:
    slot = unique_name("slot")
    async with serve(item, slot):
        await until_kept(item, slot)
    async with serve(item, slot, REPLAY_WINDOW="0"):
        line = f"SELECT pg_drop_replication_slot('{slot}_replay');"
        await eventually(lambda: line in caplog.text)
    await until_kept(item, slot)


async def test_a_gap_that_somebody_is_owed_is_told_after_a_restart(item: Database) -> None:
    slot = unique_name("slot")
    client = ReplayClient(0, session=f"{SESSION}a", answer=b"12345678")
    async with serve(item, slot) as server:
        await until_kept(item, slot)
        client.port = server.port
        await client.come()
        await write(item, 1)
        await client.until(1)
    # Nobody knows whether that has arrived.
    await write(item, 2)
    async with serve(item, slot) as server:
        client.port = server.port
        assert (await client.come())["resumed"] is False
        await eventually(lambda: client.gaps == ["unproven"])
        await client.close()
