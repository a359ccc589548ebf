"""Webhooks beside several server processes: `WORKERS`. The supervisor sends them, once for all."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from realtime_server.webhooks.dead_letters import DeadLetters
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.integration.replay_client import ReplayClient
from tests.integration.test_webhook_processes import configured
from tests.integration.test_workers import CLIENTS, SESSION, Writer, serve, until_both_serve
from tests.receiver import Receiver, Reply
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.asyncio]

KILLS = 2


@pytest.fixture
def item(one_pg: Server) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int primary key, data text)")
        database.execute("create publication shop for table item")
        yield database


def rows_of(receiver: Receiver) -> list[int]:
    return [int(row) for request in receiver.taken for row in request.records()]


def last_row(receiver: Receiver) -> int:
    """Return the latest row; all of them are many to read while others wait for the processor."""
    return int(receiver.taken[-1].records()[-1]) if receiver.taken else 0


async def test_each_endpoint_gets_everything_once_though_a_worker_is_killed(
    item: Database, tmp_path: Path
) -> None:
    slot = unique_name("slot")
    async with Receiver() as one, Receiver() as two:
        settings = configured(tmp_path, one=one.url, two=two.url)
        async with serve(item, slot, **settings) as server:
            async with Writer(item) as writer:
                await one.takes(50)
                pids = server.pids()
                os.kill(pids[0], signal.SIGKILL)
                await eventually(lambda: len({*server.pids()} - {*pids}) == 1)
                await until_both_serve(server)
            for receiver in (one, two):
                await eventually(lambda: last_row(receiver) == writer.last, within=90)  # noqa: B023
                assert rows_of(receiver) == [*range(1, writer.last + 1)]
                assert receiver.at_once == 1
            # Whichever worker answers, it tells what the supervisor has sent, and nothing twice.
            for _ in range(4):
                metrics = await asyncio.to_thread(server.metrics)
                assert metrics['realtime_webhook_delivered_total{endpoint="one"}'] == len(one.taken)
                assert metrics["realtime_webhook_stream_connected"] == 1


async def test_nothing_is_missed_though_the_supervisor_is_killed(
    item: Database, tmp_path: Path
) -> None:
    slot = unique_name("slot")
    item.execute(f"select pg_create_logical_replication_slot('{slot}_webhooks', 'pgoutput')")
    async with Receiver() as receiver:
        settings = configured(tmp_path, one=receiver.url)
        async with Writer(item) as writer:
            for _ in range(KILLS):
                async with serve(item, slot, **settings) as server:
                    await receiver.takes(len(receiver.taken) + 50)
                    server.process.kill()
        async with serve(item, slot, **settings):
            await eventually(lambda: last_row(receiver) == writer.last, within=90)
        ids: dict[int, set[str]] = {}
        for request in receiver.taken:
            for row in request.records():
                ids.setdefault(int(row), set()).add(request.id)
        # In order but for repetitions, and those have the same id.
        assert [*ids] == [*range(1, writer.last + 1)]
        assert all(len(each) == 1 for each in ids.values())


@pytest.mark.parametrize("when_full", ["hold", "drop"])
async def test_a_dead_endpoint_delays_no_client_of_any_worker(
    item: Database, tmp_path: Path, when_full: str
) -> None:
    slot = unique_name("slot")
    async with Receiver(Reply(is_silent=True)) as receiver:
        settings = {
            **configured(tmp_path, dead=receiver.url),
            "WEBHOOK_WHEN_FULL": when_full,
            "WEBHOOK_WAITING_BYTES": "20000",
            "WEBHOOK_TIMEOUT": "600000",
            "DRAIN_TIMEOUT": "100",
        }
        async with serve(item, slot, **settings) as server:
            clients = [ReplayClient(server.port, session=f"{SESSION}{n}") for n in range(CLIENTS)]
            for client in clients:
                await client.come()
            async with Writer(item) as writer:
                await eventually(lambda: all(len(client.ids) > 500 for client in clients))
            for client in clients:
                await client.until(writer.last)
                assert client.ids == [*range(1, writer.last + 1)]
                await client.close()
            assert len(receiver.requests) == 1
            metrics = await asyncio.to_thread(server.metrics)
            assert metrics['realtime_webhook_waiting_bytes{endpoint="dead"}'] <= 20_000
            assert await asyncio.to_thread(server.stop, within=90) == 0
    letters = DeadLetters(settings["WEBHOOK_DEAD_LETTERS"])
    dropped = len([*letters.read()]) if Path(letters.path).exists() else 0  # noqa: ASYNC240
    # All that is not there is still in the database.
    async with (
        Receiver() as receiver,
        serve(item, slot, **{**settings, **configured(tmp_path, dead=receiver.url)}),
    ):
        item.execute("insert into item values (1000000, 'x')")
        await eventually(lambda: last_row(receiver) == 1000000, within=90)
    rows = rows_of(receiver)
    assert rows[0] == 1
    if when_full == "hold":
        assert dropped == 0
        assert rows == [*range(1, writer.last + 1), 1000000]
    else:
        assert dropped > 0


async def test_what_waits_at_a_stop_is_in_the_dead_letters_once_where_the_slot_is_temporary(
    item: Database, tmp_path: Path
) -> None:
    async with Receiver(Reply(503)) as receiver:
        settings = configured(tmp_path, one=receiver.url)
        settings |= {"WEBHOOK_MAX_ATTEMPTS": "0", "TEMPORARY_SLOT": "true", "REPLAY_SECRET": ""}
        async with serve(item, unique_name("slot"), **settings) as server:
            for number in range(5):
                await asyncio.to_thread(item.execute, f"insert into item values ({number}, 'x')")
            await receiver.receives(1)
            await eventually(
                lambda: server.metrics()['realtime_webhook_waiting_bytes{endpoint="one"}'] > 5000
            )
            assert await asyncio.to_thread(server.stop, within=90) == 0
            assert "".join(server.log).count("webhooks have a temporary slot") == 1
    letters = [letter for _, letter in DeadLetters(settings["WEBHOOK_DEAD_LETTERS"]).read()]
    assert [letter and letter.reason for letter in letters] == ["the server was stopped"] * 5
    assert len({letter.request.id for letter in letters if letter}) == 5
