"""Joins without config at a server that does not read changes yet: what is committed behind the
reply comes, or the channel is told of a gap."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from realtime_core import Position
from realtime_server.config import ServerConfig
from realtime_server.fanout import late_start
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.conftest import fresh_database
from tests.nats_server import LATEST, NatsServer
from tests.proxy import Proxy
from tests.rls_helpers import roles
from tests.server_helpers import PhoenixClient, dev_config, open_client
from tests.tokens import SECRET, make_token
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

TOPIC = "realtime:public:item"


@pytest.fixture
def reader(one_pg: Server) -> Iterator[str]:
    with roles(one_pg, "reader") as (name,):
        yield name


@pytest.fixture
def item(one_pg: Server, reader: str) -> Iterator[Database]:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int primary key)")
        database.execute(f'grant select on item to "{reader}"')
        database.execute("create publication shop for table item")
        yield database


def insert(item: Database, number: int) -> None:
    item.execute(f"insert into item values ({number})")


async def row(client: PhoenixClient) -> str:
    message = await client.receive()
    assert message["event"] == "INSERT", message
    return str(message["payload"]["record"]["id"])


def check_gap(message: Any) -> None:
    gap = message["payload"]["gap"]
    assert (message["event"], gap["reason"], gap["after"]) == ("system", "late_start", None)
    Position.parse(gap["until"])


@pytest.mark.parametrize("nats", [LATEST], ids=["latest"], indirect=True)
async def test_of_servers_that_share_a_log(
    item: Database, nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = unique_name("cluster")
    config = dev_config(item.dsn, NATS_URL=nats.url, SLOT_NAME=slot)
    async with Proxy() as proxy, RealtimeServer(config) as leader:
        await eventually(lambda: leader.why_not_ready() is None)
        proxy.lead_to(f"host={nats.host} port={nats.port}")
        proxy.stall()
        stalled = {"NATS_URL": f"nats://127.0.0.1:{proxy.port}", "CLUSTER_ROLE": "server"}
        config = dev_config(item.dsn, SLOT_NAME=slot, **stalled)
        monkeypatch.setattr(late_start, "_PATIENCE_WITH_NATS", 60)
        async with RealtimeServer(config) as server:
            monkeypatch.setattr(late_start, "_PATIENCE_WITH_NATS", 0.1)
            async with (
                RealtimeServer(config) as impatient,
                open_client(leader.port) as first,
                open_client(server.port) as patient,
                open_client(impatient.port) as late,
            ):
                await first.join(TOPIC)
                joining = asyncio.create_task(patient.join(TOPIC))
                await late.join(TOPIC)
                # Both begin behind this row, which the log has.
                insert(item, 1)
                assert await row(first) == "1"
                assert not joining.done()
                proxy.flow()
                await joining
                check_gap(await late.receive())
                insert(item, 2)
                assert await row(patient) == await row(late) == "2"


@pytest.mark.parametrize(
    ("mode", "is_temporary"),
    [("STREAM", True), ("RLS", True), ("STREAM", False)],
    ids=["stream", "rls", "a slot that stays"],
)
async def test_of_a_server_whose_slot_is_not_made_yet(
    item: Database,
    reader: str,
    mode: str,
    is_temporary: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = {"REPLICATION_MODE": mode, "SECURE_CHANNELS": "true", "JWT_SECRET": SECRET}

    def config() -> ServerConfig:
        slot = {} if is_temporary else {"SLOT_NAME": unique_name("slot")}
        return dev_config(item.dsn, **settings, **slot)

    with item.connect() as writing:
        query = f"vsn=1.0.0&apikey={make_token({'role': reader})}"
        # A slot is made when those that were writing have ended.
        writing.execute("begin; insert into item values (0)")
        monkeypatch.setattr(late_start, "_PATIENCE", 60)
        async with (
            RealtimeServer(config()) as server,
            open_client(server.port, query=query) as patient,
        ):
            monkeypatch.setattr(late_start, "_PATIENCE", 0.1)
            async with (
                RealtimeServer(config()) as impatient,
                open_client(impatient.port, query=query) as late,
            ):
                joining = asyncio.create_task(patient.join(TOPIC))
                await late.join(TOPIC)
                insert(item, 1)
                assert not joining.done()
                writing.execute("commit")
                await joining
                check_gap(await late.receive())
                insert(item, 2)
                assert await row(patient) == await row(late) == "2"


async def test_a_slot_that_is_there_has_kept_what_was_committed_meanwhile(
    item: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(late_start, "_PATIENCE", 0.1)
    async with Proxy() as proxy:
        dsn = proxy.lead_to(item.dsn)
        config = dev_config(dsn, SLOT_NAME=unique_name("kept"), REPLAY_WINDOW="0")
        async with RealtimeServer(config) as server:
            await eventually(lambda: server.is_attached)
        proxy.stall()
        async with RealtimeServer(config) as server, open_client(server.port) as client:
            await client.join(TOPIC)
            insert(item, 1)
            proxy.flow()
            assert await row(client) == "1"
