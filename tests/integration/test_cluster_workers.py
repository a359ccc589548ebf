"""Servers with several workers that share a log, as processes, in both modes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator

import pytest

from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, unique_name
from tests.integration.replay_client import ReplayClient
from tests.integration.test_cluster_servers import shop as shop
from tests.integration.test_workers import CLIENTS, SESSION, Workers, Writer, returning, until_ready
from tests.nats_server import LATEST, NatsServer
from tests.server_helpers import dev_config
from tests.tokens import SECRET, make_token
from tests.waiting import eventually

pytestmark = [
    pytest.mark.integration,
    pytest.mark.asyncio,
    pytest.mark.parametrize("nats", [LATEST], indirect=True, ids=["latest"]),
]


@contextlib.asynccontextmanager
async def serve(database: Database, **settings: str) -> AsyncIterator[Workers]:
    """Have two workers on a log."""
    # Three processes start where one does elsewhere.
    fixed = {"WORKERS": "2", "PUBLICATIONS": '["shop"]', **settings}
    server = Workers(database.dsn, patience=90, **fixed)
    await asyncio.to_thread(server.__enter__)
    try:
        await until_ready(server.port)
        yield server
    finally:
        await asyncio.to_thread(server.__exit__, None, None, None)
        print("".join(server.log))


async def value(server: Workers, name: str) -> float:
    return (await asyncio.to_thread(server.metrics))[name]


async def test_clients_of_a_killed_machine_and_of_a_killed_worker_miss_nothing(
    shop: tuple[Database, str], nats: NatsServer
) -> None:
    database, _ = shop
    shared = {
        "NATS_URL": nats.url,
        "SLOT_NAME": unique_name("cluster"),
        "REPLAY_SECRET": "the same for all servers".ljust(32, "."),
        "REPLAY_PING_INTERVAL": "50",
    }
    async with serve(database, **shared) as one, serve(database, **shared) as two:
        assert await value(one, "realtime_cluster_leading") == 1
        assert await value(two, "realtime_cluster_leading") == 0
        assert await value(two, "realtime_cluster_nodes") == 2
        clients = [
            ReplayClient(server.port, session=f"{SESSION}{server.port}-{number}")
            for server in (one, two)
            for number in range(CLIENTS)
        ]
        tasks = [asyncio.create_task(returning(client, [])) for client in clients]
        await eventually(lambda: all(client.websocket and client.systems for client in clients))
        async with Writer(database) as writer:
            # The journal is told of new channels within seconds.
            await eventually(lambda: all(len(client.ids) > 500 for client in clients))
            for client in clients:
                client.port = two.port
            one.process.kill()
            await until_all_have_more(clients, writer)
            os.kill(two.pids()[0], signal.SIGKILL)
            await until_all_have_more(clients, writer)
        await eventually(lambda: {client.ids[-1] for client in clients} == {writer.last})
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for client in clients:
            assert client.gaps == []
            assert {*client.ids} == {*range(min(client.ids), writer.last + 1)}
            await client.close()
        assert await value(two, "realtime_cluster_leading") == 1
        assert await value(two, "realtime_log_gaps_total") == 0


async def until_all_have_more(clients: list[ReplayClient], writer: Writer) -> None:
    """Wait until every client is there, and has rows that are written from now on."""
    last = writer.last
    await eventually(
        lambda: all(client.websocket and client.ids[-1] > last + 200 for client in clients),
        within=90,
    )


async def test_in_rls_mode_each_sees_its_own_rows_on_every_worker(
    shop: tuple[Database, str], nats: NatsServer
) -> None:
    database, reader = shop
    settings = {
        "NATS_URL": nats.url,
        "SLOT_NAME": unique_name("cluster"),
        "REPLICATION_MODE": "RLS",
        "SECURE_CHANNELS": "true",
        "JWT_SECRET": SECRET,
    }
    config = dev_config(database.dsn, **settings)
    async with RealtimeServer(config) as alone, serve(database, **settings) as several:
        await eventually(lambda: alone.why_not_ready() is None)
        viewers = [
            ReplayClient(port, token=make_token({"role": reader, "sub": sub}))
            for port in (alone.port, *[several.port] * 6)
            for sub in ("bob", "ann")
        ]
        for viewer in viewers:
            await viewer.come()
        assert all(several.clients_of(pid) for pid in several.pids())
        for number in range(20):
            owner = ("bob", "ann")[number % 2]
            query = "insert into item values (%s, %s)"
            await asyncio.to_thread(database.execute, query, (number, owner))
        expected = [list(range(0, 20, 2)), list(range(1, 20, 2))] * 7
        await eventually(lambda: [viewer.ids for viewer in viewers] == expected)
        for viewer in viewers:
            await viewer.close()
