"""Servers that share a log, with their sockets, in both modes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest

from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.integration.replay_client import ReplayClient
from tests.integration.rls_stage import OWN
from tests.nats_server import NatsServer
from tests.rls_helpers import roles
from tests.server_helpers import dev_config
from tests.tokens import SECRET, make_token
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


@pytest.fixture
def shop(one_pg: Server) -> Iterator[tuple[Database, str]]:
    with roles(one_pg, "reader") as (reader,), fresh_database(one_pg) as database:
        database.execute(
            "create table item (id int primary key, owner text);"
            " alter table item enable row level security;"
            f" create policy own on item using ({OWN});"
            f' grant select on item to "{reader}";'
            " create publication shop for table item"
        )
        yield database, reader


@contextlib.asynccontextmanager
async def serve(
    database: Database, nats: NatsServer, **settings: str
) -> AsyncIterator[list[RealtimeServer]]:
    """Have two servers on one slot."""
    shared = {"NATS_URL": nats.url, "SLOT_NAME": unique_name("cluster"), **settings}
    async with (
        RealtimeServer(dev_config(database.dsn, **shared)) as one,
        RealtimeServer(dev_config(database.dsn, **shared)) as two,
    ):
        await eventually(lambda: one.why_not_ready() is two.why_not_ready() is None)
        yield [one, two]


async def test_in_stream_mode_every_client_gets_every_row(
    shop: tuple[Database, str], nats: NatsServer
) -> None:
    database, _ = shop
    async with serve(database, nats) as servers:
        clients = [ReplayClient(server.port) for server in servers for _ in range(2)]
        for client in clients:
            await client.come()
        database.execute("insert into item select g, 'ann' from generate_series(1, 100) g")
        expected = list(range(1, 101))
        await eventually(lambda: all(client.ids == expected for client in clients))
        assert sum("cluster_leading 1.0" in s.metrics.render().decode() for s in servers) == 1
        for client in clients:
            await client.close()


async def test_in_rls_mode_each_sees_its_own_rows_on_every_server(
    shop: tuple[Database, str], nats: NatsServer
) -> None:
    database, reader = shop
    settings = {
        "REPLICATION_MODE": "RLS",
        "SECURE_CHANNELS": "true",
        "JWT_SECRET": SECRET,
    }
    async with serve(database, nats, **settings) as servers:
        viewers = [
            ReplayClient(server.port, token=make_token({"role": reader, "sub": sub}))
            for server in servers
            for sub in ("bob", "ann")
        ]
        for viewer in viewers:
            await viewer.come()
        for number in range(20):
            owner = ("bob", "ann")[number % 2]
            query = "insert into item values (%s, %s)"
            await asyncio.to_thread(database.execute, query, (number, owner))
        await eventually(
            lambda: (
                [viewer.ids for viewer in viewers]
                == 2 * [list(range(0, 20, 2)), list(range(1, 20, 2))]
            )
        )
        for viewer in viewers:
            await viewer.close()
