"""Which topics get a change: the ladder, over real sockets, from a real PostgreSQL.

Section 2 of the specification.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from realtime_server.fanout.subscription_specs import warn_of_missing_re2
from realtime_server.server import RealtimeServer
from tests.fix_postgres import Server
from tests.integration.conftest import (
    FENCE_SCHEMA,
    Stage,
    fresh_database,
    open_stage,
    until_streaming,
)
from tests.rls_helpers import migrated
from tests.server_helpers import RECENTLY, PhoenixClient, Vsn, dev_config, open_client

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

VSNS: tuple[Vsn, ...] = ("1.0.0", "2.0.0")
COLUMNS = [
    {"flags": ["key"], "name": "id", "type": "int4", "type_modifier": 4294967295},
    {"flags": [], "name": "b", "type": "text", "type_modifier": 4294967295},
    {"flags": [], "name": "a", "type": "text", "type_modifier": 4294967295},
]


@pytest.fixture
def item(one_stage: Stage) -> Stage:
    one_stage.execute("create table item (id int primary key, b text, a text)")
    return one_stage


def payload(stage: Stage, event: str, **records: Any) -> dict[str, Any]:
    head = {
        "schema": stage.schema,
        "table": "item",
        "type": event,
        "commit_timestamp": RECENTLY,
    }
    return head if event == "TRUNCATE" else {**head, "errors": None, "columns": COLUMNS, **records}


def topics(client: PhoenixClient, frames: list[Any]) -> list[str]:
    return [frame["topic"] if client.vsn == "1.0.0" else frame[2] for frame in frames]


def amiss(topic: str, message: str) -> dict[str, str]:
    """Return the payload of ``system`` that says why nothing comes."""
    return {
        "channel": topic.removeprefix("realtime:"),
        "extension": "postgres_changes",
        "status": "error",
        "message": message,
    }


async def try_join(client: PhoenixClient, topic: str) -> Any:
    """Join in V1; return the reply's payload."""
    await client.send(topic, "phx_join", {}, ref="1")
    return (await client.receive())["payload"]


@pytest.mark.parametrize("vsn", VSNS)
async def test_one_frame_for_each_matching_topic_in_the_ladders_order(
    item: Stage, vsn: Vsn
) -> None:
    ladder = [
        item.topic(),
        "realtime:*",
        item.topic("item"),
        item.topic("item", "a", "x"),
        item.topic("item", "b", "y"),
        item.topic("item", "id", "7"),
    ]
    async with item.client(vsn) as client:
        await client.join(*reversed(ladder))
        record = {"id": "7", "b": "y", "a": "x"}
        shown = payload(item, "INSERT", record=record)
        assert await item.frames(client, "insert into item values (7, 'y', 'x')") == [
            client.frame(topic, "INSERT", shown) for topic in ladder
        ]
        shown = payload(item, "UPDATE", record=record, old_record={})
        assert await item.frames(client, "update item set a = 'x'") == [
            client.frame(topic, "UPDATE", shown) for topic in ladder
        ]
        shown = payload(item, "DELETE", old_record={"id": "7"})
        assert await item.frames(client, "delete from item") == [
            client.frame(topic, "DELETE", shown)
            for topic in ladder
            if topic not in (item.topic("item", "a", "x"), item.topic("item", "b", "y"))
        ]
        assert await item.frames(client, "truncate item") == [
            client.frame(topic, "TRUNCATE", payload(item, "TRUNCATE")) for topic in ladder[:3]
        ]


async def test_a_literal_v1_frame(item: Stage) -> None:
    async with item.client("1.0.0") as client:
        await client.join(item.topic("item"))
        assert await item.frames(client, "insert into item values (1, null, '')") == [
            {
                "topic": f"realtime:{item.schema}:item",
                "event": "INSERT",
                "ref": None,
                "payload": {
                    "schema": item.schema,
                    "table": "item",
                    "type": "INSERT",
                    "commit_timestamp": RECENTLY,
                    "errors": None,
                    "columns": COLUMNS,
                    "record": {"id": "1", "b": None, "a": ""},
                },
            }
        ]


async def test_a_literal_v2_frame(item: Stage) -> None:
    async with item.client("2.0.0") as client:
        await client.join(item.topic("item"))
        assert await item.frames(client, "insert into item values (1, null, '')") == [
            [
                None,
                None,
                f"realtime:{item.schema}:item",
                "INSERT",
                {
                    "schema": item.schema,
                    "table": "item",
                    "type": "INSERT",
                    "commit_timestamp": RECENTLY,
                    "errors": None,
                    "columns": COLUMNS,
                    "record": {"id": "1", "b": None, "a": ""},
                },
            ]
        ]


async def test_the_wire_event_is_the_type_and_never_a_star(item: Stage) -> None:
    async with item.client() as client:
        await client.join(item.topic("item"))
        frames = await item.frames(
            client,
            "insert into item values (1)",
            "update item set a = 'x'",
            "delete from item",
            "truncate item",
        )
        events = ["INSERT", "UPDATE", "DELETE", "TRUNCATE"]
        assert [frame["event"] for frame in frames] == events
        assert [frame["payload"]["type"] for frame in frames] == events


async def test_a_null_column_matches_no_filter(item: Stage) -> None:
    async with item.client() as client:
        names = [item.topic("item", "a", value) for value in ("", "null", "NULL")]
        await client.join(*names)
        assert await item.frames(client, "insert into item values (1, null, null)") == []


async def test_an_empty_value_matches_the_empty_string(item: Stage) -> None:
    async with item.client() as client:
        topic = item.topic("item", "a", "")
        await client.join(topic)
        frames = await item.frames(
            client, "insert into item values (1, '', ''), (2, '', ' '), (3, '', null)"
        )
        record = {"id": "1", "b": "", "a": ""}
        assert frames == [client.frame(topic, "INSERT", payload(item, "INSERT", record=record))]


async def test_an_update_is_filtered_by_the_new_row_alone(item: Stage) -> None:
    await item.prepare(
        "alter table item replica identity full", "insert into item values (1, '', 'before')"
    )
    async with item.client() as client:
        await client.join(item.topic("item", "a", "before"), item.topic("item", "a", "after"))
        frames = await item.frames(client, "update item set a = 'after'")
        assert topics(client, frames) == [item.topic("item", "a", "after")]
        assert frames[0]["payload"]["old_record"] == {"id": "1", "b": "", "a": "before"}


async def test_a_delete_is_filtered_by_the_old_row(item: Stage) -> None:
    async with item.client() as client:
        names = [item.topic("item", "a", "x"), item.topic("item", "id", "1")]
        await item.prepare("insert into item values (1, 'y', 'x'), (2, 'y', 'x')")
        await client.join(*names)
        frames = await item.frames(client, "delete from item where id = 1")
        assert topics(client, frames) == names[1:]
        item.execute("alter table item replica identity full")
        frames = await item.frames(client, "delete from item where id = 2")
        assert topics(client, frames) == names[:1]


async def test_a_column_that_an_update_did_not_send_matches_no_filter(item: Stage) -> None:
    await item.prepare(
        "alter table item alter a set storage external",
        "insert into item select 1, 'y', repeat('x', 3000)",
    )
    async with item.client() as client:
        await client.join(item.topic("item", "a", "x" * 3000), item.topic("item", "b", "z"))
        frames = await item.frames(client, "update item set b = 'z'")
        assert topics(client, frames) == [item.topic("item", "b", "z")]


@pytest.mark.parametrize(
    ("kind", "literal", "shown"),
    [
        ("int8", "42", "42"),
        ("bool", "true", "t"),
        ("numeric(10,2)", "1.5", "1.50"),
        ("float8", "0.1", "0.1"),
        ("text", "a:b=eq.c", "a:b=eq.c"),
        ("text", "Smith, John", "Smith, John"),
        ("text", "漢 🦄 ' \" \\", "漢 🦄 ' \" \\"),
        ("uuid", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        ("timestamptz", "2026-11-24 07:36:56.5+02", "2026-11-24T05:36:56.5Z"),
        ("timestamp", "infinity", "infinity"),
        ("date", "2026-11-24", "2026-11-24"),
        ("int4[]", "{1,NULL}", "{1,NULL}"),
        ("jsonb", '{"a":1}', '{"a": 1}'),
        ("bytea", "\\xDEADBEEF", "\\xdeadbeef"),
    ],
)
async def test_a_value_may_be_written_as_the_payload_shows_it(
    one_stage: Stage, kind: str, literal: str, shown: str
) -> None:
    one_stage.execute(f"create table typed (id int primary key, value {kind})")
    async with one_stage.client() as client:
        topic = one_stage.topic("typed", "value", shown)
        escaped = shown.replace("\\", "\\\\").replace('"', '\\"')
        await client.join(topic, f'{one_stage.topic("typed")}:value=not.eq."{escaped}"')
        quoted = literal.replace("'", "''")
        frames = await one_stage.frames(client, f"insert into typed values (1, '{quoted}')")
        assert topics(client, frames) == [topic]
        assert frames[0]["payload"]["record"] == {"id": "1", "value": shown}


@pytest.mark.parametrize("vsn", VSNS)
async def test_a_topic_may_have_any_filter_compared_by_type(one_stage: Stage, vsn: Vsn) -> None:
    one_stage.execute(
        "create table typed (id int primary key, done bool, at timestamptz, tags text[], "
        "price numeric, data jsonb)"
    )
    names = [
        *("at=gt.2026-11-24T06:00:00+01:00", "data->a->>b=like.x*", "done=eq.true", "done=is.true"),
        *("price=eq.10", "price=in.(9,10.0)", "tags=cs.{red}", "and(id.gte.9,id.lt.11)"),
        *("or(price.lt.1,not.and(done.is.false,tags.is.null))", "id=gt.9,price=neq.11"),
    ]
    others = ["done=eq.f", "price=gt.9.5,price=lt.10", "not.or(id.gt.9,id.lt.0)", "tags=ov.{blue}"]
    prefix = one_stage.topic("typed")
    async with one_stage.client(vsn) as client:
        await client.join(*(f"{prefix}:{name}" for name in [*names, *others]))
        frames = await one_stage.frames(
            client,
            "insert into typed values "
            """(10, true, '2026-11-24 05:36:00+00', '{red,green}', 10.00, '{"a": {"b": "xy"}}')""",
        )
        assert sorted(topics(client, frames)) == sorted(f"{prefix}:{name}" for name in names)


async def test_an_enum_is_compared_in_its_declared_order(one_pg: Server) -> None:
    with fresh_database(one_pg) as database:
        database.execute(
            "create type mood as enum ('sad', 'ok', 'happy'); create domain feeling as mood;"
            "create table person (id int primary key, mood mood, feeling feeling, days mood[]);"
            "create publication shop for all tables"
        )
        async with RealtimeServer(dev_config(database.dsn)) as server:
            await until_streaming(database)
            async with open_client(server.port) as client:
                names = [
                    f"realtime:public:person:{filter}"
                    for filter in ("mood=gte.ok", "feeling=lt.ok", "days=gt.{sad,ok}")
                ]
                await client.join("realtime:public:person:mood=lt.happy", *names)
                database.execute("insert into person values (1, 'happy', 'sad', '{sad,happy}')")
                assert [(await client.receive())["topic"] for _ in names] == names


async def test_a_rest_that_is_not_in_the_language_is_a_literal(item: Stage) -> None:
    values = ["Smith, John", '5" (2)', "a=eq.b)", "((", "x,"]
    async with item.client() as client:
        names = [item.topic("item", "a", value) for value in values]
        await client.join(*names)
        for number, (name, value) in enumerate(zip(names, values, strict=True)):
            frames = await item.frames(client, f"insert into item values ({number}, '', '{value}')")
            assert topics(client, frames) == [name]


async def test_a_join_with_a_filter_that_cannot_be_read_gets_an_error_that_says_where(
    item: Stage,
) -> None:
    async with item.client() as client:
        topic = f"realtime:{item.schema}:item:id=foo.1"
        reply = await try_join(client, topic)
        assert reply["status"] == "error"
        assert reply["response"]["reason"].startswith(
            "cannot filter by 'id=foo.1': unknown operator 'foo'; expected one of eq, neq, "
        )


async def test_a_filter_that_does_not_fit_the_table_as_it_turns_out_is_told(
    one_stage: Stage,
) -> None:
    async with one_stage.client() as client:
        topic = f"realtime:{one_stage.schema}:later:id=eq.x"
        await client.join(topic)
        await client.receive()  # There is no table.
        frames = await one_stage.frames(
            client, "create table later (id int primary key)", "insert into later values (1)"
        )
        message = "'x' cannot be read as int4: it is not an integer (at character 7 of 'id=eq.x')"
        assert frames == [client.frame(topic, "system", amiss(topic, message))]
    async with one_stage.client() as client:
        reply = await try_join(client, topic)
        assert reply["status"] == "error"
        assert reply["response"]["reason"] == f"cannot filter by 'id=eq.x': {message}"


async def test_a_filter_that_ceases_to_fit_is_told_and_serves_again_when_it_does(
    item: Stage,
) -> None:
    async with item.client() as client:
        topic = f"realtime:{item.schema}:item:a=like.x*"
        await client.join(topic)
        frames = await item.frames(
            client,
            "insert into item values (1, '', 'xy')",
            "alter table item rename a to z",
            "insert into item values (2, '', 'xy')",
            "alter table item rename z to a",
            "insert into item values (3, '', 'xy')",
        )
        assert [frame["event"] for frame in frames] == ["INSERT", "system", "INSERT"]
        assert "has no column 'a'" in frames[1]["payload"]["message"]


async def test_a_value_of_more_than_99_characters_matches(item: Stage) -> None:
    async with item.client() as client:
        topic = item.topic("item", "a", "x" * 500)
        await client.join(topic)
        frames = await item.frames(client, "insert into item values (1, '', repeat('x', 500))")
        assert topics(client, frames) == [topic]


async def test_only_the_changes_own_table_and_schema_get_it(item: Stage) -> None:
    item.execute("create table other (id int primary key)")
    async with item.client() as client:
        await client.join(item.topic("other"), item.topic("other", "id", "1"))
        await client.join("realtime:public", "realtime:")
        for name in (item.topic("missing"), f"realtime:public:{item.schema}"):
            await client.join(name)
            assert (await client.receive())["event"] == "system"
        assert await item.frames(client, "insert into item values (1)") == []
        frames = await item.frames(client, "insert into other values (1)")
        assert topics(client, frames) == [item.topic("other"), item.topic("other", "id", "1")]


async def test_each_socket_gets_its_own_topics_in_its_own_version(item: Stage) -> None:
    async with item.client("1.0.0") as first, item.client("2.0.0") as second:
        await first.join(item.topic("item"))
        await second.join(item.topic("item"), item.topic())
        shown = payload(item, "INSERT", record={"id": "1", "b": None, "a": None})
        assert await item.frames(first, "insert into item (id) values (1)") == [
            first.frame(item.topic("item"), "INSERT", shown)
        ]
        assert await second.drain() == [
            second.frame(item.topic(), "INSERT", shown),
            second.frame(item.topic("item"), "INSERT", shown),
        ]


async def test_a_table_that_is_made_after_the_join_is_served(one_stage: Stage) -> None:
    async with one_stage.client() as client:
        names = [one_stage.topic("later"), one_stage.topic("later", "id", "1")]
        for name in names:
            await client.join(name)
            message = f"there is no table {one_stage.schema}.later"
            assert await client.receive() == client.frame(name, "system", amiss(name, message))
        frames = await one_stage.frames(
            client, "create table later (id int primary key)", "insert into later values (1), (2)"
        )
        assert topics(client, frames) == [names[0], names[1], names[0]]


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ("Mixed Case", "Some Column"),
        ('quo"ted', "it's"),
        ("größe", "漢字"),
        ("semi;colon", "back\\slash"),
        ("new\nline", "tab\t"),
        ("dotted.name", "a=b"),
        ("plain", "with:colon"),
        ("with:colon", "plain"),
    ],
)
async def test_odd_names_are_served(one_stage: Stage, table: str, column: str) -> None:
    quoted_table, quoted_column = (name.replace('"', '""') for name in (table, column))
    one_stage.execute(f'create table "{quoted_table}" ("{quoted_column}" text)')
    async with one_stage.client() as client:
        by_schema, by_filter = one_stage.topic(), one_stage.topic(table, column, "x")
        await client.join(by_schema, by_filter)
        frames = await one_stage.frames(client, f"insert into \"{quoted_table}\" values ('x')")
        shown = {
            "schema": one_stage.schema,
            "table": table,
            "type": "INSERT",
            "commit_timestamp": RECENTLY,
            "errors": None,
            "columns": [{"flags": [], "name": column, "type": "text", "type_modifier": 4294967295}],
            "record": {column: "x"},
        }
        assert frames == [client.frame(topic, "INSERT", shown) for topic in (by_schema, by_filter)]


async def test_a_table_with_a_colon_in_its_name_is_listened_to_if_there_is_one(
    one_stage: Stage,
) -> None:
    one_stage.execute(
        'create table "a:b" (id int primary key)',
        'create table a (id int primary key, "b:c" int)',
        'create table "a:b:c" (id int primary key)',
    )
    topic = one_stage.topic("a:b")
    async with one_stage.client() as client:
        await client.join(topic, one_stage.topic("a:b", "id", "2"), one_stage.topic("a:b:c"))
        frames = await one_stage.frames(
            client,
            'insert into "a:b" values (1)',
            'insert into "a:b" values (2)',
            "insert into a values (3, 4)",
            'insert into "a:b:c" values (5)',
        )
        assert topics(client, frames) == [
            topic,
            topic,
            one_stage.topic("a:b", "id", "2"),
            one_stage.topic("a:b:c"),
        ]
        # Where there is none, what stands there is no filter.
        reply = await try_join(client, one_stage.topic("a:x"))
        assert reply["response"]["reason"].startswith("cannot filter by 'x': unexpected end;")
        reply = await try_join(client, one_stage.topic("a:b:"))
        assert reply["response"]["reason"].startswith("cannot filter by 'b:': unexpected end;")


async def test_a_table_with_a_colon_in_its_name_that_is_not_published_is_said_to_be_so(
    one_stage: Stage,
) -> None:
    one_stage.execute('create unlogged table "a:b" (id int primary key)')
    topic = one_stage.topic("a:b")
    async with one_stage.client() as client:
        assert await try_join(client, topic) == {"status": "ok", "response": {}}
        told = (await client.receive())["payload"]
        assert told == amiss(
            topic, f"table {one_stage.schema}.a:b is not published; add it to the publication"
        )


async def test_a_binding_names_a_table_with_a_colon_as_it_is(one_stage: Stage) -> None:
    one_stage.execute('create table "a:b" (id int primary key, "c:d" text)')
    binding = {"event": "*", "schema": one_stage.schema, "table": "a:b", "filter": "c:d=eq.x:y"}
    payload = {"config": {"postgres_changes": [binding]}}
    async with one_stage.client() as client:
        await client.send("realtime:room", "phx_join", payload, ref="1")
        assert (await client.receive())["payload"]["status"] == "ok"
        await client.drain()
        frames = await one_stage.frames(client, "insert into \"a:b\" values (1, 'x:y'), (2, 'x')")
        assert [frame["payload"]["data"]["record"] for frame in frames] == [{"id": 1, "c:d": "x:y"}]


@pytest.mark.parametrize(
    "join",
    [
        ("realtime:{schema}:item:b=match.x", {}),
        # Whether there is such a table or not.
        ("realtime:{schema}:nothing:or=(b.imatch.x,b.eq.y)", {}),
        ("realtime:room", {"schema": "{schema}", "table": "item", "filter": "b=not.match.x"}),
    ],
)
async def test_without_google_re2_the_operator_is_told_how_to_get_it_not_the_client(
    item: Stage,
    join: tuple[str, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setitem(sys.modules, "re2", None)
    warn_of_missing_re2.cache_clear()
    topic, binding = join[0].format(schema=item.schema), dict(join[1])
    config = {name: text.format(schema=item.schema) for name, text in binding.items()}
    payload = {"config": {"postgres_changes": [config]}} if config else {}
    async with item.client() as client:
        for _ in range(2):
            await client.send(topic, "phx_join", payload, ref="1")
            assert (await client.receive())["payload"] == {
                "status": "error",
                "response": {"reason": "match and imatch are not available on this server"},
            }
    warnings = [line.message for line in caplog.records if line.levelno == logging.WARNING]
    assert warnings == [
        "joins whose filter has match or imatch are refused: google-re2 is not installed; "
        "pip install google-re2"
    ]


OWN_SCHEMA_IS_REFUSED = "the schema realtime is the server's own: its changes are sent to nobody"


async def test_the_servers_own_schema_is_sent_to_nobody(one_pg: Server) -> None:
    # As RLS mode writes it, into a database that a server in STREAM mode reads, too.
    wanted = [{"schema": "*"}] + [
        {"schema": "*", "table": table}
        for table in ("subscription", "messages", "messages_default")
    ]
    payload = {"config": {"postgres_changes": [{"event": "*", **each} for each in wanted]}}
    async with open_stage(one_pg) as stage, stage.client() as client, stage.client() as bound:
        await migrated(stage.database.dsn)
        await client.join("realtime:*")
        await bound.send("realtime:room", "phx_join", payload, ref="1")
        assert [(await bound.receive())["event"] for _ in range(2)] == ["phx_reply", "system"]
        statements = [
            "insert into realtime.subscription (subscription_id, entity, claims) values"
            """ (gen_random_uuid(), 'fence.fence', '{"role": "postgres", "email": "a@b"}')""",
            "update realtime.subscription set subscription_id = gen_random_uuid()",
            "delete from realtime.subscription",
            "truncate realtime.subscription, fence.fence",
            "select realtime.send('{\"secret\": 1}', 'e', 'room', private) from"
            " unnest(array[true, false]) as private",
            "select realtime.send_binary('secret', 'e', 'room')",
            "update realtime.messages set topic = 'other'",
            "delete from realtime.messages",
            "truncate realtime.messages, fence.fence",
        ]
        frames = await stage.frames(client, *statements)
        assert frames == []
        changes = [frame["payload"]["data"] for frame in await bound.drain()]
        assert [change["schema"] for change in changes] == [FENCE_SCHEMA]


@pytest.mark.parametrize(
    "join",
    [
        ("realtime:realtime", {}),
        ("realtime:realtime:subscription", {}),
        ("realtime:realtime:subscription:claims_role=eq.anon", {}),
        ("realtime:room", {"config": {"postgres_changes": [{"schema": "realtime"}]}}),
        (
            "realtime:room",
            {"config": {"postgres_changes": [{"schema": "realtime", "table": "subscription"}]}},
        ),
    ],
)
async def test_a_join_that_names_the_servers_own_schema_is_refused(
    one_stage: Stage, join: tuple[str, Any]
) -> None:
    async with one_stage.client() as client:
        await client.send(join[0], "phx_join", join[1], ref="1")
        answer = (await client.receive())["payload"]
        assert answer == {"status": "error", "response": {"reason": OWN_SCHEMA_IS_REFUSED}}


async def test_a_room_may_have_the_name_of_the_servers_own_schema(one_stage: Stage) -> None:
    async with one_stage.client() as client:
        await client.send("realtime:realtime", "phx_join", {"config": {}}, ref="1")
        assert (await client.receive())["payload"]["status"] == "ok"


async def test_the_configuration_file_opens_topics_for_events(
    one_pg: Server, tmp_path: Path
) -> None:
    rules = [
        {"relation": FENCE_SCHEMA, "events": ["INSERT"]},
        {"relation": "public", "events": ["INSERT", "DELETE"]},
        {"relation": "public:item", "events": ["UPDATE", "TRUNCATE"]},
        {"relation": "*:item:id", "events": ["INSERT", "UPDATE"]},
    ]
    path = tmp_path / "rules.json"
    path.write_text(json.dumps({"realtime": rules}))
    async with open_stage(one_pg, CONFIGURATION_FILE=str(path)) as stage, stage.client() as client:
        stage.execute("create table item (id int primary key, b text)")
        await client.join(
            *("realtime:*", "realtime:public", "realtime:public:item"),
            *("realtime:public:item:id=eq.1", "realtime:public:item:b=eq.x"),
        )
        frames = await stage.frames(
            client,
            "insert into item values (1, 'x')",
            "update item set b = 'x'",
            "delete from item",
            "truncate item",
        )
        assert [(frame["event"], frame["topic"]) for frame in frames] == [
            ("INSERT", "realtime:public"),
            ("INSERT", "realtime:public:item:id=eq.1"),
            ("UPDATE", "realtime:public:item"),
            ("UPDATE", "realtime:public:item:id=eq.1"),
            ("DELETE", "realtime:public"),
            ("TRUNCATE", "realtime:public:item"),
        ]
