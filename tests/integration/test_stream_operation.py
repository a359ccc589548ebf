"""What an operator's tools see of a real server: /health, /ready, /metrics."""

from __future__ import annotations

import asyncio
import contextlib
import re

import pytest

from realtime_server.config import ServerConfig
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Server
from tests.integration.conftest import Stage, fresh_database, open_stage
from tests.server_helpers import DEADLINE, dev_config, open_client
from tests.tokens import SECRET

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

NOWHERE = "host=127.0.0.1 port=1 dbname=none user=nobody"


async def get(port: int, path: str) -> tuple[int, str]:
    """Return status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(DEADLINE):
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        answer = (await reader.read()).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), body


async def metrics(port: int) -> dict[str, float]:
    status, body = await get(port, "/metrics")
    assert status == 200
    lines = [line.rpartition(" ") for line in body.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


async def until_ready(port: int) -> None:
    async with asyncio.timeout(DEADLINE):
        while (await get(port, "/ready"))[0] != 200:
            pass


async def test_without_a_database_it_is_healthy_and_not_ready() -> None:
    async with RealtimeServer(dev_config(NOWHERE)) as server:
        assert await get(server.port, "/health") == (200, "ok\n")
        assert await get(server.port, "/ready") == (
            503,
            "not ready: the database's changes are not being read\n",
        )
        assert (await metrics(server.port))["realtime_stream_connected"] == 0


async def test_metrics_are_there_only_where_they_are_exposed() -> None:
    async with RealtimeServer(dev_config(NOWHERE, EXPOSE_METRICS="false")) as server:
        assert (await get(server.port, "/metrics"))[0] == 404
        assert (await get(server.port, "/health"))[0] == 200


@pytest.mark.parametrize(
    ("dev", "settings", "status"),
    [
        (False, {}, 404),
        (False, {"INSPECTOR": "true"}, 200),
        (True, {}, 200),
        (True, {"INSPECTOR": "false"}, 404),
    ],
)
async def test_the_page_is_there_in_development_and_where_it_is_asked_for(
    dev: bool, settings: dict[str, str], status: int
) -> None:
    environ = {"DB_HOST": "127.0.0.1", "DB_PORT": "1", "PORT": "0", "JWT_SECRET": SECRET}
    config = ServerConfig.from_env({**environ, **settings}, dev=dev)
    async with RealtimeServer(config) as server:
        for path in ("/", "/inspector.js"):
            answer, body = await get(server.port, path)
            assert answer == status
            assert ("INSPECTOR=true" in body) == (status == 404)
        assert ((await get(server.port, "/inspector.json"))[0] == 404) == (status == 404)
        assert (await get(server.port, "/health"))[0] == 200


async def test_it_is_ready_while_the_stream_is_there(one_pg: Server) -> None:
    with fresh_database(one_pg) as database:
        database.execute("create publication shop for all tables")
        async with RealtimeServer(dev_config(database.dsn)) as server:
            await until_ready(server.port)
            assert await get(server.port, "/ready") == (200, "ready\n")
            before = await metrics(server.port)
            database.execute(
                "select pg_terminate_backend(active_pid) from pg_replication_slots"
                " where database = current_database()"
            )
            async with asyncio.timeout(DEADLINE):
                while (await metrics(server.port))["realtime_reconnects_total"] == 0:
                    pass
            await until_ready(server.port)
            after = await metrics(server.port)
    assert (before["realtime_stream_connected"], before["realtime_gaps_total"]) == (1, 0)
    # The temporary slot went with its connection.
    assert (after["realtime_stream_connected"], after["realtime_gaps_total"]) == (1, 1)


async def test_a_stream_that_is_too_far_behind_is_not_ready(one_pg: Server) -> None:
    async with open_stage(one_pg, READY_MAX_LAG_MB="1") as stage:
        with stage.scene():
            stage.execute("create table item (id int8 primary key, body text)")
            stage.execute("alter table item alter body set storage external")
            await stage.settle()
            assert (await get(stage.port, "/ready"))[0] == 200
            # Nothing is acknowledged before it was published.
            stage.server.hub.publish = lambda events: None  # type: ignore[method-assign]
            source = stage.server.source
            source.ack = lambda upto: None  # type: ignore[method-assign]
            stage.execute("insert into item select 1, repeat('x', 3000000)")
            async with asyncio.timeout(DEADLINE):
                while (await get(stage.port, "/ready"))[0] == 200:
                    pass
            status, body = await get(stage.port, "/ready")
            assert status == 503
            assert re.fullmatch(
                r"not ready: the stream is \d+ MB behind, at most 1 are good "
                r"\(READY_MAX_LAG_MB\)\n",
                body,
            )
            assert (await metrics(stage.port))["realtime_lag_bytes"] > 3_000_000


async def test_traffic_is_counted(one_pg: Server) -> None:
    async with open_stage(one_pg) as stage:
        with stage.scene():
            await counted_traffic(stage)


async def counted_traffic(stage: Stage) -> None:
    stage.execute("create table item (id int8 primary key)")
    await stage.settle()
    topic, before = stage.topic("item"), await metrics(stage.port)

    async def grown() -> dict[str, float]:
        now = await metrics(stage.port)
        return {name: value - before.get(name, 0) for name, value in now.items()}

    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(open_client(stage.port)) for _ in range(3)]
        for client in clients:
            await client.join(topic)
        await clients[0].join(stage.topic())
        await clients[0].send("other", "phx_join", {})
        await clients[0].send(f"{topic}:x", "phx_join", {})
        await clients[0].drain()
        counts = await grown()
        assert counts["realtime_active_websocket_connection_total"] == 3
        assert counts["realtime_active_websocket_topic_total"] == 4
        assert counts["realtime_subscriptions"] == 4
        assert counts['realtime_handshakes_total{result="ok"}'] == 3
        assert counts['realtime_joins_total{result="ok"}'] == 4
        assert counts['realtime_joins_total{result="topic"}'] == 1
        # Replies to four joins, two refusals and a heartbeat.
        assert counts["realtime_sent_frames_total"] == 7

        stage.execute("insert into item values (1), (2)", "delete from item where id = 1")
        await stage.settle()
        counts = await grown()
        # The fence's row is in a transaction of its own, and goes to one client.
        assert counts["realtime_rows_total"] == 3 + 1
        assert counts["realtime_transactions_total"] == 2 + 1
        assert counts["realtime_sent_frames_total"] == 7 + 3 * 4 + 1
        assert counts["realtime_sent_bytes_total"] > 12 * 200
        assert counts["realtime_received_bytes_total"] > 0
        assert 1 <= counts["realtime_commit_to_socket_seconds_count"] <= 3
        assert 0 <= counts["realtime_commit_to_socket_seconds_sum"] < 3 * DEADLINE
        await clients[0].send(topic, "phx_leave", {})
        await clients[0].drain()
        assert (await grown())["realtime_active_websocket_topic_total"] == 3
    async with asyncio.timeout(DEADLINE):
        while (await grown())["realtime_active_websocket_connection_total"] != 0:
            pass
    counts = await grown()
    assert counts["realtime_active_websocket_topic_total"] == 0
    assert counts['realtime_connections_closed_total{code="1000"}'] == 3
