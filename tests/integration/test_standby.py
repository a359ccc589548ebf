"""Two consumers of one slot: the second waits, says for whom, and takes over.

And several servers on one database, each with a slot of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime_core import Insert, PgoutputSource, SlotInUseError
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database, until_streaming
from tests.integration.test_life import RESTARTED, TOPIC, Load, collect, id_of
from tests.recording_server import read_record
from tests.server_helpers import DEADLINE, dev_config, open_client
from tests.server_process import ServerProcess
from tests.waiting import eventually

pytestmark = pytest.mark.integration

HOLDER = "select active_pid from pg_replication_slots where database = current_database()"


@pytest.fixture
def shop(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int8 primary key)")
        database.execute("create publication shop for table item")
        yield database


def waiting(messages: list[str]) -> list[str]:
    return [message for message in messages if "waiting until it is free" in message]


async def readiness(port: int) -> int:
    """Return the status of ``GET /ready``."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
    response = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(response.split()[1])


async def test_a_slot_in_use_is_looked_at_each_second_outside_the_backoff_and_said_once(
    shop: Database, caplog: pytest.LogCaptureFixture
) -> None:
    slot = unique_name("slot")
    # With these the backoff's first pause alone would outlast the test.
    patient = {"DB_RECONNECT_BACKOFF_MIN": "600000", "DB_RECONNECT_BACKOFF_MAX": "600000"}
    async with PgoutputSource(shop.dsn, publications=["shop"], slot=slot) as holder:
        ((pid,),) = shop.execute(HOLDER)
        async with (
            RealtimeServer(dev_config(shop.dsn, SLOT_NAME=slot, **patient)) as server,
            open_client(server.port) as client,
        ):
            await client.join(TOPIC)
            await eventually(lambda: waiting(caplog.messages))
            looks = (
                "select count(*) from pg_stat_activity where application_name = 'realtime_server'"
            )
            seen = 0
            # Each look is a connection of its own.
            async with asyncio.timeout(DEADLINE):
                while seen < 2:
                    await eventually(lambda: shop.execute(looks) == [(1,)])
                    await eventually(lambda: shop.execute(looks) == [(0,)])
                    seen += 1
            assert waiting(caplog.messages) == [
                f"slot '{slot}' is active for PID {pid}; waiting until it is free"
            ]
            assert await readiness(server.port) == 503
            shop.execute("insert into item values (1)")
            await holder.aclose()
            # What was committed while it waited is there.
            assert id_of(await client.receive()) == 1
            assert await readiness(server.port) == 200
            assert shop.execute(HOLDER) not in ([(pid,)], [(None,)])
            assert waiting(caplog.messages)[1:] == []


async def test_a_source_waits_if_it_was_told_to_and_fails_otherwise(shop: Database) -> None:
    slot = unique_name("slot")
    async with PgoutputSource(shop.dsn, publications=["shop"], slot=slot) as holder:
        ((pid,),) = shop.execute(HOLDER)
        with pytest.raises(SlotInUseError) as caught:
            async with PgoutputSource(shop.dsn, publications=["shop"], slot=slot):
                pass
        assert caught.value.pid == pid
        assert "slot_in_use='wait'" in str(caught.value)
        second = PgoutputSource(shop.dsn, publications=["shop"], slot=slot, slot_in_use="wait")
        entering = asyncio.create_task(second.__aenter__())
        shop.execute("insert into item values (1)")
        async with asyncio.timeout(DEADLINE):
            assert isinstance(await anext(holder), Insert)
            await holder.aclose()
            await entering
            change = await anext(second)
        assert isinstance(change, Insert)
        assert change.record["id"] == 1
        await second.aclose()


async def test_a_warm_standby_takes_over_when_the_first_server_is_killed(
    shop: Database, tmp_path: Path
) -> None:
    slot = unique_name("slot")
    shop.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    record = tmp_path / "record"
    record.touch()
    settings = {"PUBLICATIONS": '["shop"]', "SLOT_NAME": slot, "RECORD": str(record)}
    module = "tests.recording_server"
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(ServerProcess(shop.dsn, module=module, **settings))
        first.wait_until_streaming()
        ((pid,),) = shop.execute(HOLDER)
        second = stack.enter_context(ServerProcess(shop.dsn, module=module, **settings))
        second.wait_for_log(re.compile(f"slot '{slot}' is active for PID {pid}; .*waiting"))
        async with open_client(second.port) as client:
            await client.join(TOPIC)
            frames: list[object] = []
            collecting = asyncio.create_task(collect(client, frames))
            with Load(shop) as load:
                await eventually(lambda: len(read_record(record)) > 100)
                assert frames == []
                first.process.send_signal(signal.SIGKILL)
                await eventually(lambda: len(frames) > 100)
                rows = load.stop()
            await eventually(lambda: id_of(frames[-1]) == rows - 1)
            assert await asyncio.to_thread(second.stop) == 0
            assert await collecting == RESTARTED
    ids = [id_of(frame) for frame in frames]
    # All that the first did not acknowledge, each once, in order, and no gap message.
    assert ids == list(range(ids[0], rows))
    assert set(read_record(record)) == set(range(rows))


async def test_servers_with_slots_of_their_own_each_get_everything(shop: Database) -> None:
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for name in ("", unique_name("slot"), unique_name("slot")):
            config = dev_config(shop.dsn, SLOT_NAME=name)
            server = await stack.enter_async_context(RealtimeServer(config))
            client = await stack.enter_async_context(open_client(server.port))
            await client.join(TOPIC)
            clients.append(client)
        await eventually(lambda: len([1 for (pid,) in shop.execute(HOLDER) if pid]) == 3)
        await until_streaming(shop)
        shop.execute("insert into item select generate_series(1, 3)")
        for client in clients:
            assert [id_of(await client.receive()) for _ in range(3)] == [1, 2, 3]
