"""What the log does not have from INFO up: a filter's values, a token's role and claims.

An operator who ships his logs elsewhere ships nothing of what users look for, nor who they are.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_asyncio

from realtime_server.fanout.topic_parser import shown_topic
from realtime_server.logs import JsonFormatter
from tests.fix_postgres import Server
from tests.integration.conftest import Stage
from tests.integration.rls_stage import RlsStage, open_rls_stage

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

SECRET = "s3cr3t"
BINDINGS: list[dict[str, Any]] = [
    {"event": "*", "filter": f"id=eq.{SECRET}"},
    {"event": "*", "filter": f"title=eq.{SECRET}"},
    {"event": "*", "filter": f"nothing=eq.{SECRET}"},
    {"event": "*", "filter": f"title={SECRET}.1"},
    {"event": "*", "filter": f"title=match.({SECRET}"},
    {"event": SECRET},
    {"event": "*", "table": [SECRET]},
]
TOPICS = [
    f"title=eq.{SECRET}",
    f"id=eq.{SECRET}",
    f"nothing=eq.{SECRET}",
    f"or(id.eq.1,title.eq.{SECRET})",
    f"title.eq.{SECRET}",
    f"title=match.({SECRET}",
    SECRET,
]


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> str:
    """Return all that was logged from a level up, as text and as JSON."""
    records = [record for record in caplog.records if record.levelno >= level]
    formatter = JsonFormatter()
    return "\n".join(f"{record.getMessage()}\n{formatter.format(record)}" for record in records)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_rls_stage(one_pg: Server) -> AsyncIterator[RlsStage]:
    async with open_rls_stage(one_pg) as stage:
        yield stage


@pytest.fixture
def rls_stage(module_rls_stage: RlsStage) -> Iterator[RlsStage]:
    with module_rls_stage.scene():
        yield module_rls_stage


async def test_no_value_of_a_filter_is_logged(
    one_stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "realtime")
    one_stage.execute("create table todos (id int primary key, title text)")
    async with one_stage.client() as client:
        for text in TOPICS:
            await client.send(f"{one_stage.topic('todos')}:{text}", "phx_join", {}, ref="1")
        for binding in BINDINGS:
            sent = {"schema": one_stage.schema, "table": "todos", **binding}
            payload = {"config": {"postgres_changes": [sent]}}
            await client.send("realtime:room", "phx_join", payload, ref="1")
        await client.drain()
        # A filter that fits no more.
        await one_stage.prepare("alter table todos rename title to name")
        await one_stage.prepare("insert into todos values (1, 'x')")
        await client.drain()
    assert f"joined: '{one_stage.topic('todos')}…' by " in lines(caplog)
    assert "refused: its filter cannot be used, from character " in lines(caplog)
    assert "does not fit its table" in lines(caplog)
    assert SECRET not in lines(caplog)
    # Who looks for a fault has all of it.
    assert SECRET in lines(caplog, logging.DEBUG)


async def test_no_role_and_no_claim_is_logged(
    rls_stage: RlsStage, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "realtime")
    stage = rls_stage
    stage.make("todos", "id int primary key, title text", None)
    stage.make("broken", "id int primary key", "1 / (id - 1) = 0")
    stage.execute("create table hidden (id int)", "create domain short as int check (value < 9)")
    stage.make("domains", "id int primary key, d short", None)
    async with stage.client(SECRET) as client:
        for topic in (
            stage.topic("todos", f"title=eq.{SECRET}"),
            stage.topic("todos", f"id=eq.{SECRET}"),
            stage.topic("hidden"),
            stage.topic("domains", "d=eq.7654321"),
            stage.topic("broken"),
        ):
            await client.try_join(topic)
        client.token = stage.token(role=SECRET)
        await client.try_join(stage.topic("todos"))
        await stage.payloads(client, "insert into broken values (1)")
        await client.send(stage.topic("broken"), "access_token", {"access_token": client.token})
        await client.drain()
    told = lines(caplog)
    assert "row level security of" in told
    assert "that its role may SELECT from" in told
    assert "its token's role is not in the database" in told
    assert " ended: " in told
    for what in (SECRET, stage.reader, "7654321"):
        assert what not in told
    assert stage.reader in lines(caplog, logging.DEBUG)


@pytest.mark.parametrize(
    ("topic", "shown"),
    [
        ("realtime:*", "realtime:*"),
        ("realtime:room-1", "realtime:room-1"),
        ("realtime:public:todos", "realtime:public:todos"),
        ("realtime:public:todos:id=eq.1", "realtime:public:todos…"),
        ("realtime:public:todos:x:y", "realtime:public:todos…"),
        ("realtime:todos=eq.1", "realtime:todos…"),
        ("realtime:or(id.eq.1)", "realtime:or…"),
        ("", ""),
    ],
)
async def test_a_topic_is_shown_without_what_may_be_a_filter(topic: str, shown: str) -> None:
    assert shown_topic(topic) == shown
