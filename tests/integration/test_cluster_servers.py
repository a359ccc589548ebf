"""Servers that share a log, with their sockets, in both modes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator

import pytest
from websockets.exceptions import InvalidStatus

from realtime_core import Event, Insert
from realtime_server.cluster.database_reader import DatabaseReader
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.turns import Steps
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.integration.replay_client import ReplayClient
from tests.integration.rls_stage import OWN
from tests.integration.test_stream_operation import get
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


async def test_rows_are_read_only_where_somebody_has_asked_for_their_table(
    shop: tuple[Database, str], nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    database, _ = shop
    database.execute(
        "create table other (id int primary key); alter publication shop add table other"
    )
    # Otherwise clients of another server may come, and need what nobody here has asked for.
    async with serve(database, nats, REPLAY_WAL_MB="0") as servers:
        # The server, and the table, of each row that is handed out there.
        read: list[tuple[int, str]] = []
        for number, server in enumerate(servers):
            monkeypatch.setattr(server.hub, "publishing", _noting(server.hub, number, read))
        items, others = (
            ReplayClient(servers[0].port, session=table, binding=dict(_EVERY, table=table))
            for table in ("item", "other")
        )
        await items.come()
        # The first row of a table is read everywhere.
        database.execute("insert into other values (0); insert into item values (0)")
        await eventually(lambda: items.ids == [0])
        await eventually(lambda: {number for number, _ in read} == {0, 1})
        read.clear()
        database.execute(
            "insert into other select generate_series(1, 9); insert into item values (1)"
        )
        await eventually(lambda: items.ids == [0, 1])
        assert {table for _, table in read} == {"item"}
        await others.come()
        database.execute("insert into other values (10)")
        await eventually(lambda: others.ids == [10])
        # Who is away gets what was missed, although nobody is there who wants it.
        await others.cut()
        database.execute("insert into other values (11); insert into item values (2)")
        await eventually(lambda: items.ids == [0, 1, 2])
        await others.come()
        # What it was not proven to have comes once more.
        await others.until(11)
        assert others.gaps == []
        assert not [table for number, table in read if number]
        for client in (items, others):
            await client.close()


_EVERY = {"event": "*", "schema": "public"}


def _noting(hub: Hub, number: int, read: list[tuple[int, str]]) -> Callable[..., Steps]:
    publishing = hub.publishing

    def note(events: Iterable[Event]) -> Steps:
        events = list(events)
        read.extend((number, one.relation.table) for one in events if isinstance(one, Insert))
        return publishing(events)

    return note


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


async def test_readers_read_the_database_for_servers_that_never_do(
    shop: tuple[Database, str], nats: NatsServer
) -> None:
    database, _ = shop
    shared = {"NATS_URL": nats.url, "SLOT_NAME": unique_name("cluster")}
    reader = dev_config(database.dsn, **shared, CLUSTER_ROLE="reader")
    server = dev_config(database.dsn, **shared, CLUSTER_ROLE="server")
    async with RealtimeServer(server) as one, DatabaseReader(reader) as second:
        async with DatabaseReader(reader) as first:
            servers = (one, first, second)
            await eventually(lambda: {each.why_not_ready() for each in servers} == {None})
            leading = [await get(each.port, "/metrics") for each in servers]
            assert ["cluster_leading 1.0" in text for _, text in leading].count(True) == 1
            assert "cluster_leading 0.0" in leading[0][1]
            assert "realtime_stream_connected 1.0" in leading[1][1]
            assert await get(first.port, "/ready") == (200, "ready\n")
            no_clients = (404, "This server has no clients: its CLUSTER_ROLE is reader.\n")
            assert await get(first.port, "/socket/websocket?vsn=1.0.0") == no_clients
            with pytest.raises(InvalidStatus, match="404"):
                await ReplayClient(first.port).connect()
            client = ReplayClient(one.port)
            await client.come()
            database.execute("insert into item values (1, 'ann')")
            await client.until(1)
        # The other one goes on, whichever has led.
        await asyncio.to_thread(database.execute, "insert into item values (2, 'ann')")
        await client.until(2)
        assert client.ids == [1, 2]
        assert "cluster_leading 1.0" in (await get(second.port, "/metrics"))[1]
        await client.close()
