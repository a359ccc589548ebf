"""The original's own client, npm's @supabase/realtime-js 1.7.5, unmodified under Node."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from realtime_server.config import ServerConfig
from realtime_server.server import RealtimeServer
from tests.e2e.program import NodeProgram
from tests.e2e.server_process import ServerProcess
from tests.fix_postgres import Database
from tests.waiting import eventually

pytestmark = pytest.mark.e2e

ALL = "realtime:*"
PUBLIC = "realtime:public"
USERS = "realtime:public:users"
USER_99 = "realtime:public:users:id=eq.99"
TOPICS = (ALL, PUBLIC, USERS, USER_99)

COMMITTED = "<a commit's time>"


def column(name: str, kind: str, *, key: bool = False, modifier: int = 0xFFFFFFFF) -> Any:
    return {
        "flags": ["key"] if key else [],
        "name": name,
        "type": kind,
        "type_modifier": modifier,
    }


COLUMNS = {
    ("public", "users"): [
        column("id", "int8", key=True),
        column("name", "text"),
        column("tags", "_text"),
        column("created", "timestamptz"),
    ],
    # REPLICA IDENTITY FULL makes every column a part of the key.
    ("public", "todos"): [
        column("id", "int4", key=True),
        column("task", "text", key=True),
        column("done", "bool", key=True),
    ],
    ("depot", "goods"): [
        column("id", "int4", key=True),
        # (precision << 16 | scale) + 4
        column("price", "numeric", modifier=(8 << 16 | 2) + 4),
    ],
}


def payload(kind: str, schema: str, table: str, **records: Any) -> Any:
    more = {"errors": None, "columns": COLUMNS[schema, table]} if kind != "TRUNCATE" else {}
    return {
        "schema": schema,
        "table": table,
        "type": kind,
        "commit_timestamp": COMMITTED,
        **more,
        **records,
    }


def received(change: Any, *topics: str) -> list[Any]:
    """What the callbacks say: on each topic that of the change's kind, then that of `*`."""
    events = ["*"] if change["type"] == "TRUNCATE" else [change["type"], "*"]
    return [
        {"topic": topic, "event": event, "payload": change} for topic in topics for event in events
    ]


def without_times(said: list[Any]) -> list[Any]:
    """Check the commit times' form and put one text in the place of all."""
    for line in said:
        stamp = line["payload"]["commit_timestamp"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", stamp)
    return [{**it, "payload": {**it["payload"], "commit_timestamp": COMMITTED}} for it in said]


@pytest.mark.integration
def test_the_original_readmes_examples(
    clients: Path, shop: Database, server: ServerProcess
) -> None:
    ada = {"id": "99", "name": "Ada", "tags": '{a,"b c"}', "created": "2026-01-31T22:30:00.5Z"}
    grace = {"id": "1", "name": "Grace", "tags": None, "created": None}
    bake = {"id": "1", "task": "bake", "done": "f"}
    steps = [
        (
            """insert into users values
               (99, 'Ada', array['a', 'b c'], '2026-02-01 00:30:00.5+02')""",
            received(payload("INSERT", "public", "users", record=ada), PUBLIC, ALL, USERS, USER_99),
        ),
        (
            "insert into users values (1, 'Grace')",
            received(payload("INSERT", "public", "users", record=grace), PUBLIC, ALL, USERS),
        ),
        (
            "update users set name = 'Ada L.' where id = 99",
            received(
                payload(
                    "UPDATE", "public", "users", record={**ada, "name": "Ada L."}, old_record={}
                ),
                *(PUBLIC, ALL, USERS, USER_99),
            ),
        ),
        (
            "delete from users where id = 99",
            received(
                payload("DELETE", "public", "users", old_record={"id": "99"}),
                *(PUBLIC, ALL, USERS, USER_99),
            ),
        ),
        (
            "insert into todos values (1, 'bake', false)",
            received(payload("INSERT", "public", "todos", record=bake), PUBLIC, ALL),
        ),
        (
            "update todos set done = true",
            received(
                payload("UPDATE", "public", "todos", record={**bake, "done": "t"}, old_record=bake),
                *(PUBLIC, ALL),
            ),
        ),
        (
            "delete from todos",
            received(
                payload("DELETE", "public", "todos", old_record={**bake, "done": "t"}), PUBLIC, ALL
            ),
        ),
        (
            "truncate users",
            received(payload("TRUNCATE", "public", "users"), PUBLIC, ALL, USERS),
        ),
        (
            "insert into depot.goods values (7, 1.5)",
            received(payload("INSERT", "depot", "goods", record={"id": "7", "price": "1.50"}), ALL),
        ),
    ]
    expected = [line for _, lines in steps for line in lines]

    with NodeProgram(clients / "readme_examples.mjs", server.websocket_url) as program:
        for topic in TOPICS:
            program.wait_for(joined=topic)
        for statement, _ in steps:
            shop.execute(statement)
        # The last change of all goes to one topic, so nothing comes behind it.
        program.wait_until(lambda: is_of_schema("depot", program.said[-1]))
        said = [line for line in program.said if "payload" in line]

    assert without_times(said) == expected


def is_of_schema(schema: str, line: Any) -> bool:
    return line.get("event") == "*" and line["payload"]["schema"] == schema


@pytest.mark.integration
def test_after_leaving_nothing_comes_and_after_joining_again_it_does(
    clients: Path, shop: Database, server: ServerProcess
) -> None:
    with NodeProgram(clients / "lifecycle.mjs", server.websocket_url) as program:
        program.tell(join=ALL)
        program.tell(join=USERS)
        program.wait_for(joined=ALL)
        program.wait_for(joined=USERS)
        shop.execute("insert into users values (1, 'joined')")
        program.wait_for(topic=USERS, id="1")

        program.tell(leave=USERS)
        program.wait_for(left=USERS)
        program.wait_for(frame="phx_close", topic=USERS)
        shop.execute("insert into users values (2, 'left')")
        program.wait_for(topic=ALL, id="2")

        program.tell(join=USERS)
        program.wait_for(joined=USERS, times=2)
        shop.execute("insert into users values (3, 'joined again')")
        program.wait_for(topic=USERS, id="3")

        # Frames too: the client itself drops what comes for a channel that it left. It tells
        # of a frame after it told of the change in it.
        program.wait_for(frame="INSERT", topic=USERS, times=2)
        assert program.count(frame="INSERT", topic=USERS) == 2
        ids = [line["id"] for line in program.said if line.get("topic") == USERS and "id" in line]
        assert ids == ["1", "3"]
        assert program.count(frame="phx_close") == 1
        assert program.count(socket="open") == 1


@pytest.mark.integration
@pytest.mark.parametrize("again", ["join", "leaveAndJoin"])
def test_another_channel_of_a_topic_takes_the_first_ones_place(
    clients: Path, shop: Database, server: ServerProcess, again: str
) -> None:
    with NodeProgram(clients / "lifecycle.mjs", server.websocket_url) as program:
        program.tell(join=ALL)
        program.tell(join=USERS)
        program.wait_for(joined=USERS)
        # The client leaves the first one, if it has not been told to, and joins at once.
        program.tell(**{again: USERS})
        program.wait_for(joined=USERS, times=2)
        # The close of the first one is not the second one's, which has another join_ref.
        program.wait_for(frame="phx_close", topic=USERS)
        shop.execute("insert into users values (1, 'to the second')")
        program.wait_for(topic=ALL, id="1")
        program.wait_for(topic=USERS, id="1")
        program.tell(leave=USERS)
        program.wait_for(left=USERS, times=2 if again == "leaveAndJoin" else 1)


@pytest.mark.integration
def test_a_server_that_restarts_gets_its_client_back(clients: Path, shop: Database) -> None:
    with ServerProcess(shop, publications='["changes"]') as server:
        program = NodeProgram(clients / "lifecycle.mjs", server.websocket_url)
        with program:
            program.tell(join=USERS)
            program.wait_for(joined=USERS)
            server.stop()
            program.wait_for(socket="closed", code=1012)
            with ServerProcess(shop, publications='["changes"]', port=server.port):
                program.wait_for(joined=USERS, times=2)
                shop.execute("insert into users values (1, 'after the restart')")
                program.wait_for(topic=USERS, id="1")
                # Only one membership is left, however often the client tried to join.
                shop.execute("insert into users values (2, 'and another')")
                program.wait_for(topic=USERS, id="2")
                assert program.count(topic=USERS, id="1") == 1


async def test_heartbeats_keep_a_connection_that_would_end_without(clients: Path) -> None:
    assert ServerConfig().idle_timeout == 60_000
    # No database is needed for it, and none is there.
    environ = {"PORT": "0", "DB_PORT": "1", "IDLE_TIMEOUT": "1500"}
    config = ServerConfig.from_env(environ, dev=True)
    async with RealtimeServer(config) as server:
        url = f"ws://127.0.0.1:{server.port}/socket"
        with (
            NodeProgram(clients / "lifecycle.mjs", url, '{"heartbeatIntervalMs": 200}') as lively,
            NodeProgram(clients / "lifecycle.mjs", url, '{"heartbeatIntervalMs": 60000}') as quiet,
        ):
            lively.tell(join=USERS)
            await eventually(lambda: lively.count(joined=USERS))
            # The quiet one is closed, comes back by itself, and is closed again.
            await eventually(lambda: quiet.count(socket="closed", code=1000) == 2, within=60)
            beats = lively.count(heartbeat="ok")
            await eventually(lambda: lively.count(heartbeat="ok") > beats)
    assert lively.count(socket="open") == 1
    assert lively.count(socket="closed") == 0
