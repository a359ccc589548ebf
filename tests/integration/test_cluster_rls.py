"""RLS mode over servers that share a log: a token that changes while its server lags, and what a
server that was killed leaves in the database."""

from __future__ import annotations

import asyncio

import attrs
import pytest

from realtime_server.server import RealtimeServer
from tests.fix_postgres import Server, unique_name
from tests.integration.rls_stage import RlsStage, open_rls_stage
from tests.nats_server import NatsServer
from tests.proxy import Proxy
from tests.server_process import ServerProcess
from tests.tokens import SECRET
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


async def test_what_a_lagging_server_hands_out_is_for_the_new_token(
    pg17: Server, nats: NatsServer
) -> None:
    settings = {"NATS_URL": nats.url, "SLOT_NAME": unique_name("cluster")}
    async with open_rls_stage(pg17, **settings) as stage, Proxy() as proxy:
        proxy.lead_to(f"host={nats.host} port={nats.port}")
        config = attrs.evolve(stage.server.config, nats_url=f"nats://127.0.0.1:{proxy.port}")
        stage.make("notes", "id int primary key, owner text")
        async with RealtimeServer(config) as lagging:
            await eventually(lambda: lagging.is_attached)
            topic = stage.topic("notes")
            async with stage.client("ann", server=lagging) as client:
                await client.sit(topic)
                stage.execute("insert into notes values (1, 'ann'), (2, 'bob')")
                assert (await client.receive())["payload"]["record"]["id"] == 1
                proxy.stall()
                stage.execute("insert into notes values (3, 'ann'), (4, 'bob')")
                await stage.settle()
                await client.send(topic, "access_token", {"access_token": stage.token("bob")})
                assert await client.drain() == []
                proxy.flow()
                stage.execute("insert into notes values (5, 'ann'), (6, 'bob')")
                shown = [(await client.receive())["payload"]["record"]["id"] for _ in range(2)]
                assert shown == [4, 6]


async def test_subscriptions_of_a_killed_server_are_gone_after_three_intervals(
    pg17: Server, nats: NatsServer
) -> None:
    settings = {
        "NATS_URL": nats.url,
        "SLOT_NAME": unique_name("cluster"),
        "SUBSCRIPTION_SYNC_INTERVAL": "200",
    }
    async with open_rls_stage(pg17, **settings) as stage:
        stage.make("notes", "id int primary key, owner text")
        config = stage.server.config
        process = ServerProcess(
            stage.database.dsn,
            **settings,
            PUBLICATIONS='["shop"]',
            DB_USER=config.db_user or "",
            REPLICATION_MODE="RLS",
            SECURE_CHANNELS="true",
            JWT_SECRET=SECRET,
        )
        with process as other:
            async with stage.client("ann", server=other) as client:
                await client.sit(stage.topic("notes"))
                assert nodes(stage) == 2
                other.process.kill()
                await asyncio.to_thread(other.process.wait)
                assert nodes(stage) == 2
                # By the clock of the database, three intervals of 0.2 s, and one to look.
                await eventually(lambda: nodes(stage) == 1, within=10)
        stage.execute("insert into notes values (1, 'ann')")
        await stage.settle()


def nodes(stage: RlsStage) -> int:
    """Return how many servers have rows in the table of subscriptions."""
    query = "select count(distinct node) from realtime.subscription where node is not null"
    return int(stage.execute(query)[0][0])
