"""Servers with several workers that share a log, as processes, in both modes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, unique_name
from tests.integration.replay_client import ReplayClient
from tests.integration.test_cluster_servers import shop as shop
from tests.integration.test_workers import CLIENTS, SESSION, Workers, Writer, until_ready
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


async def test_another_machine_goes_on_when_the_one_that_leads_is_killed(
    shop: tuple[Database, str], nats: NatsServer
) -> None:
    database, _ = shop
    shared = {"NATS_URL": nats.url, "SLOT_NAME": unique_name("cluster")}
    async with serve(database, **shared) as one, serve(database, **shared) as two:
        assert await value(one, "realtime_cluster_leading") == 1
        assert await value(two, "realtime_cluster_leading") == 0
        assert await value(two, "realtime_cluster_nodes") == 2
        clients = [
            ReplayClient(server.port, session=f"{SESSION}{number}")
            for server in (one, two)
            for number in range(CLIENTS)
        ]
        for client in clients:
            await client.come()
        assert all(two.clients_of(pid) for pid in two.pids())
        async with Writer(database) as writer:
            await eventually(lambda: all(len(client.ids) >= 50 for client in clients))
            begin = writer.last
            one.process.kill()
            others = clients[CLIENTS:]
            await eventually(lambda: all(client.ids[-1] > begin + 50 for client in others))
        await eventually(lambda: {client.ids[-1] for client in others} == {writer.last})
        for client in others:
            assert client.ids == [*range(1, writer.last + 1)]
            assert client.gaps == []
            await client.close()
        assert await value(two, "realtime_cluster_leading") == 1
        assert await value(two, "realtime_log_gaps_total") == 0
        for client in clients[:CLIENTS]:
            await client.ended()


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
