"""RLS mode on real sockets: payloads, errors, privileges, policies, tokens, rows kept.

Section 4 of the specification. The server's role is no superuser.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import pytest
import pytest_asyncio

from realtime_core import Position
from tests.fix_rls import Stream
from tests.integration.rls_stage import OWN, RlsClient, RlsStage, open_rls_stage
from tests.tokens import make_token
from tests.waiting import eventually

pytestmark = [
    pytest.mark.integration,
    pytest.mark.every_plugin,
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def module_stage(stream: Stream) -> AsyncIterator[RlsStage]:
    async with open_rls_stage(
        stream.server, **stream.settings, SUBSCRIPTION_SYNC_INTERVAL="200"
    ) as stage:
        yield stage


@pytest.fixture
def stage(module_stage: RlsStage) -> Iterator[RlsStage]:
    with module_stage.scene():
        yield module_stage


def ids(payloads: list[Any]) -> list[Any]:
    return [payload["record"]["id"] for payload in payloads]


# Payloads.


@pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])
async def test_the_frame_of_an_insert(stage: RlsStage, vsn: Any) -> None:
    stage.make("notes", "id int primary key, owner text, n numeric")
    topic = stage.topic("notes")
    async with stage.client(vsn=vsn) as client:
        await client.sit(topic)
        [frame] = await stage.frames(client, "insert into notes values (1, 'ann', 1.50)")
    payload = frame["payload"] if vsn == "1.0.0" else frame[-1]
    time, position = payload.pop("commit_timestamp"), payload.pop("position")
    assert len(time) == len("2026-11-24T05:36:00.166Z")
    assert time.endswith("Z")
    assert Position.parse(position).stream is not None
    expected = {
        "schema": stage.schema,
        "table": "notes",
        "type": "INSERT",
        "errors": None,
        "columns": [
            {"name": "id", "type": "int4"},
            {"name": "owner", "type": "text"},
            {"name": "n", "type": "numeric"},
        ],
        "record": {"id": 1, "owner": "ann", "n": 1.5},
    }
    assert frame == client.frame(topic, "INSERT", expected)


async def test_values_of_every_type_are_what_to_jsonb_says(stage: RlsStage) -> None:
    values = {
        "int8": "9007199254740993",
        "numeric": "12345678901234567890.123456789",
        "float8": "1.5",
        "bool": "true",
        "text": "'é\"\\'",
        "bytea": "'\\x00ff'",
        "uuid": "'11111111-2222-3333-4444-555555555555'",
        "json": "'{\"a\":  [1]}'",
        "jsonb": "'{\"b\": 1.50}'",
        "date": "'infinity'",
        "timestamp": "'2026-11-24 05:36:00.5'",
        "timestamptz": "'2026-11-24 05:36:00.5+02'",
        "interval": "'1 day 02:03'",
        "int4range": "'[1,5)'",
        '"int4[]"': "'{{1,2},{3,NULL}}'",
        '"text[]"': "'{a,\"b,c\"}'",
        '"float4"': "'NaN'",
        "inet": "'10.0.0.1'",
        "char(4)": "'ab'",
    }
    if stage.database.server.version == 17:
        # The embedded PostgreSQL is made without it.
        values["xml"] = "'<a/>'"
    types = [kind.strip('"') for kind in values]
    columns = ", ".join(f"c{i} {kind}" for i, kind in enumerate(types))
    stage.make("kinds", f"id int primary key, {columns}", None)
    async with stage.client() as client:
        await client.sit(stage.topic("kinds"))
        # PhoenixClient reads JSON with floats: the exact text is wanted here.
        stage.execute("set timezone to 'UTC'")
        stage.execute(f"insert into kinds values (1, {', '.join(values.values())})")
        text = await asyncio.wait_for(client.websocket.recv(decode=True), 30)
    record = json.loads(text, parse_float=Decimal)["payload"]["record"]
    [(wanted,)] = stage.execute("select to_jsonb(k)::text from kinds k")
    assert record == json.loads(wanted, parse_float=Decimal)


async def test_composites_domains_enums_and_types_with_casts(stage: RlsStage) -> None:
    stage.execute(
        "create extension if not exists hstore schema public",
        "create type pair as (n int, t text)",
        "create type mood as enum ('sad', 'glad')",
        "create domain small as int",
    )
    stage.make("odd", "id int primary key, p pair, ps pair[], m mood, s small, h hstore", None)
    async with stage.client() as client:
        await client.sit(stage.topic("odd"))
        [payload] = await stage.payloads(
            client,
            "insert into odd values (1, '(1,x)', array['(2,y)']::pair[], 'glad', 7, 'a=>1')",
        )
    assert payload["record"] == {
        "id": 1,
        "p": {"n": 1, "t": "x"},
        "ps": [{"n": 2, "t": "y"}],
        "m": "glad",
        "s": 7,
        "h": {"a": "1"},
    }


async def test_each_topic_of_the_ladder_gets_it_in_order(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text")
    topics = [
        stage.topic("notes", "id=eq.1"),
        "realtime:*",
        stage.topic("notes"),
        stage.topic(),
        stage.topic("notes", "id=eq.2"),
    ]
    async with stage.client() as client:
        await client.sit(*topics)
        frames = await stage.frames(client, "insert into notes values (1, 'ann')")
    assert [frame["topic"] for frame in frames] == [topics[3], topics[1], topics[2], topics[0]]


async def test_a_truncate_is_no_event(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text", None)
    async with stage.client() as client:
        await client.sit(stage.topic("notes"))
        assert await stage.frames(client, "truncate notes") == []


# Old records.


@pytest.mark.parametrize(
    ("identity", "policy", "updated", "deleted"),
    [
        ("default", None, {"id": 1}, {"id": 1}),
        ("full", None, {"id": 1, "owner": "ann"}, {"id": 1, "owner": "bob"}),
        ("default", "true", {"id": 1}, {"id": 1}),
        ("full", "true", {"id": 1}, {"id": 1}),
    ],
)
async def test_old_records(
    stage: RlsStage, identity: str, policy: str | None, updated: Any, deleted: Any
) -> None:
    stage.make("notes", "id int primary key, owner text", policy)
    stage.execute(f"alter table notes replica identity {identity}")
    stage.execute("insert into notes values (1, 'ann')")
    await stage.settle()
    async with stage.client() as client:
        await client.sit(stage.topic("notes"))
        # One after the other: a row that is gone when it is looked up is shown to nobody.
        [update] = await stage.payloads(client, "update notes set owner = 'bob'")
        [delete] = await stage.payloads(client, "delete from notes")
    assert (update["record"], update["old_record"]) == ({"id": 1, "owner": "bob"}, updated)
    assert delete["old_record"] == deleted
    assert "record" not in delete


async def test_unchanged_toast(stage: RlsStage) -> None:
    stage.make("toast", "id int primary key, n int, long text", None)
    stage.execute(
        "alter table toast alter long set storage external",
        "insert into toast values (1, 1, repeat('x', 5000))",
    )
    await stage.settle()
    async with stage.client() as client:
        await client.sit(stage.topic("toast"))
        absent, restored = await stage.payloads(
            client,
            "update toast set n = 2",
            "alter table toast replica identity full",
            "update toast set n = 3",
        )
    assert absent["record"] == {"id": 1, "n": 2}
    assert restored["record"] == {"id": 1, "n": 3, "long": "x" * 5000}


# Errors.


async def test_no_primary_key_is_error_400_for_all_who_listen(stage: RlsStage) -> None:
    stage.make("bare", "id int, owner text")
    stage.execute("alter table bare replica identity full")
    filtered = stage.topic("bare", "id=eq.9")
    async with stage.client("ann") as ann, stage.client("bob") as bob:
        await ann.sit(stage.topic("bare"))
        await bob.sit(filtered)
        insert, update, delete = await stage.payloads(
            ann,
            "insert into bare values (1, 'ann')",
            "update bare set id = 2",
            "delete from bare",
        )
        frames = [frame["event"] for frame in await bob.drain()]
    expected = {
        "schema": stage.schema,
        "table": "bare",
        "type": "INSERT",
        "commit_timestamp": None,
        "position": insert["position"],
        "errors": ["Error 400: Bad Request, no primary key"],
        "columns": [],
        "record": {},
    }
    assert insert == expected
    assert (update["record"], update["old_record"]) == ({}, {})
    assert delete["errors"] is None
    assert frames == ["INSERT", "UPDATE"]


async def test_a_key_that_may_not_be_selected_is_error_401(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text", narrow="owner")
    async with stage.client(role=stage.narrow) as narrow, stage.client() as reader:
        await narrow.sit(stage.topic("notes"))
        await reader.sit(stage.topic("notes"))
        [payload] = await stage.payloads(narrow, "insert into notes values (1, 'ann')")
        assert payload["errors"] == ["Error 401: Unauthorized"]
        assert (payload["columns"], payload["record"]) == ([], {})
        assert payload["commit_timestamp"] is None
        [frame] = await reader.drain()
        assert frame["payload"]["errors"] is None


async def test_who_may_read_nothing_of_a_table_is_not_told_of_it(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text", None)
    async with stage.client(role=stage.narrow) as client:
        await client.sit("realtime:*")
        frames = await stage.frames(
            client, "insert into notes values (1, 'a')", "delete from notes"
        )
    assert frames == []


async def test_a_schema_that_may_not_be_used(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text", None)
    stage.execute(f"revoke usage on schema {stage.schema} from public")
    async with stage.client() as client:
        reply = await client.try_join(stage.topic("notes"))
        assert reply["status"] == "error"
        await client.sit("realtime:*")
        assert rows(stage) == []
        assert await stage.frames(client, "insert into notes values (1, 'a')") == []


async def test_a_filter_by_a_column_that_may_not_be_selected_any_more_passes_nothing(
    stage: RlsStage,
) -> None:
    stage.make("notes", "id int primary key, secret int", "true", narrow="id, secret")
    plain, by_secret = stage.topic("notes"), stage.topic("notes", "secret=eq.5")
    binding = {"event": "*", "schema": stage.schema, "table": "notes"}
    bindings = config(
        {**binding, "filter": "secret=gt.4"}, {**binding, "filter": "id=gt.0"}, binding
    )

    def seen(frames: list[Any]) -> list[Any]:
        return [
            (len(frame["payload"]["ids"]), sorted(frame["payload"]["data"]["record"]))
            if "ids" in frame["payload"]
            else (frame["topic"], sorted(frame["payload"]["record"]))
            for frame in frames
        ]

    async with stage.client(role=stage.narrow) as client:
        await client.sit(plain, by_secret)
        await client.try_join("realtime:room", {**bindings, "access_token": client.token})
        await client.receive()
        frames = await stage.frames(client, "insert into notes values (1, 5)")
        both = ["id", "secret"]
        assert seen(frames) == [(plain, both), (by_secret, both), (3, both)]
        stage.execute(f'revoke select (secret) on notes from "{stage.narrow}"')
        frames = await stage.frames(client, "insert into notes values (2, 5)")
        assert seen(frames) == [(plain, ["id"]), (2, ["id"])]
        stage.execute(f'grant select (secret) on notes to "{stage.narrow}"')
        frames = await stage.frames(client, "insert into notes values (3, 5)")
        assert seen(frames) == [(plain, both), (by_secret, both), (3, both)]


async def test_a_large_change_is_error_413_with_its_short_values(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text, body text")
    async with stage.client() as client:
        await client.sit(stage.topic("notes"))
        [payload] = await stage.payloads(
            client, "insert into notes values (1, 'ann', repeat('x', 1048576))"
        )
    assert payload["errors"] == ["Error 413: Payload Too Large"]
    assert payload["record"] == {"id": 1, "owner": "ann"}
    assert [column["name"] for column in payload["columns"]] == ["id", "owner", "body"]


async def test_a_changes_bytes_count_and_those_of_its_message(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text, body text")
    before = stage.metric("realtime_too_large_changes_total")
    async with stage.client() as client:
        await client.sit(stage.topic("notes"))
        payloads = await stage.payloads(
            client,
            # Characters of two bytes; then what takes two in JSON.
            "insert into notes values (1, 'ann', repeat('ä', 500000))",
            "insert into notes values (2, 'ann', repeat('ä', 530000))",
            "insert into notes values (3, 'ann', repeat('\"', 600000))",
            "insert into notes values (4, 'ann', '')",
        )
    assert [payload["errors"] for payload in payloads] == [
        None,
        ["Error 413: Payload Too Large"],
        ["Error 413: Payload Too Large"],
        None,
    ]
    assert len(payloads[0]["record"]["body"]) == 500000
    assert [payload["record"] for payload in payloads[1:]] == [
        {"id": 2, "owner": "ann"},
        {"id": 3, "owner": "ann"},
        {"id": 4, "owner": "ann", "body": ""},
    ]
    assert stage.metric("realtime_too_large_changes_total") == before + 2


async def test_a_column_that_is_not_shown_does_not_tell_how_large_it_is(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, note text, secret text", "true", narrow="id, note")
    wanted = {"event": "*", "schema": stage.schema, "table": "notes", "select": ["note"]}
    small = [None, {"id": 1, "note": "short"}]
    before = stage.metric("realtime_too_large_changes_total")
    async with stage.client(role=stage.narrow) as narrow, stage.client() as reader:
        await narrow.sit(stage.topic("notes"))
        await reader.try_join("realtime:room", {**config(wanted), "access_token": reader.token})
        await reader.receive()
        statement = "insert into notes values (1, 'short', repeat('x', 1048577))"
        [told] = await stage.payloads(narrow, statement)
        assert [told["errors"], told["record"]] == small
        [payload] = [frame["payload"] for frame in await reader.drain()]
        assert [payload["data"]["errors"], payload["data"]["record"]] == small
        assert stage.metric("realtime_too_large_changes_total") == before
        # What is shown counts.
        statement = "update notes set note = repeat('x', 1048577)"
        [told] = await stage.payloads(narrow, statement)
        assert [told["errors"], told["record"]] == [["Error 413: Payload Too Large"], {"id": 1}]


async def test_a_policy_that_raises_costs_its_own_viewer_that_change(stage: RlsStage) -> None:
    bad = "case when current_setting('request.jwt.claims')::jsonb ->> 'sub' = 'bad'"
    stage.make(
        "notes", "id int primary key, owner text", f"{bad} then 1 / (id - 2) < 9 else true end"
    )
    async with stage.client("bad") as bad_one, stage.client("good") as good:
        await bad_one.sit(stage.topic("notes"))
        await good.sit(stage.topic("notes"))
        payloads = await stage.payloads(good, "insert into notes values (1, ''), (2, ''), (3, '')")
        assert ids(payloads) == [1, 2, 3]
        frames = await bad_one.drain()
    assert [frame["payload"]["record"].get("id") for frame in frames] == [1, None, 3]
    assert frames[1]["payload"]["errors"] == [
        "Error 500: Internal Server Error, row level security raised an error"
    ]


# Who sees what.


async def test_everybody_gets_their_own_rows(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text")
    async with stage.client("ann") as ann, stage.client("bob") as bob:
        await ann.sit(stage.topic("notes"))
        await bob.sit(stage.topic("notes"))
        mine = await stage.payloads(
            ann, "insert into notes values (1, 'ann'), (2, 'bob'), (3, 'ann')"
        )
        theirs = [frame["payload"] for frame in await bob.drain()]
    assert (ids(mine), ids(theirs)) == ([1, 3], [2])


async def test_a_row_that_changes_its_owner(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text")
    async with stage.client("ann") as ann, stage.client("bob") as bob:
        await ann.sit(stage.topic("notes"))
        await bob.sit(stage.topic("notes"))
        first = await stage.payloads(ann, "insert into notes values (1, 'ann')")
        second = await stage.payloads(ann, "update notes set owner = 'bob'")
        got = [frame["payload"] for frame in await bob.drain()]
    assert (ids(first), second) == ([1], [])
    [update] = got
    assert (update["record"], update["old_record"]) == ({"id": 1, "owner": "bob"}, {"id": 1})


async def test_a_service_role_sees_all_and_a_policy_by_role_its_own(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text")
    async with stage.client("x", stage.admin) as admin, stage.client("x") as nobody:
        await admin.sit(stage.topic("notes"))
        await nobody.sit(stage.topic("notes"))
        assert ids(await stage.payloads(admin, "insert into notes values (1, 'ann')")) == [1]
        assert await nobody.drain() == []


async def test_a_delete_goes_to_everybody_with_its_key_alone(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text")
    stage.execute("insert into notes values (1, 'ann')")
    await stage.settle()
    async with stage.client("bob") as bob:
        await bob.sit(stage.topic("notes"))
        [payload] = await stage.payloads(bob, "delete from notes")
    assert payload["old_record"] == {"id": 1}


async def test_columns_that_may_not_be_selected_are_left_out(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text, secret text", narrow="id, owner")
    async with stage.client(role=stage.narrow) as narrow:
        await narrow.sit(stage.topic("notes"))
        [payload] = await stage.payloads(narrow, "insert into notes values (1, 'ann', 'x')")
    assert payload["record"] == {"id": 1, "owner": "ann"}
    assert [column["name"] for column in payload["columns"]] == ["id", "owner"]


async def test_privileges_and_policies_that_change_count_at_once(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text", "true", narrow="id")
    async with stage.client(role=stage.narrow) as narrow, stage.client("bob") as bob:
        await narrow.sit(stage.topic("notes"))
        await bob.sit(stage.topic("notes"))
        [payload] = await stage.payloads(narrow, "insert into notes values (1, 'ann')")
        assert payload["record"] == {"id": 1}
        [payload] = await stage.payloads(
            narrow,
            f'grant select on notes to "{stage.narrow}"',
            "insert into notes values (2, 'ann')",
        )
        assert payload["record"] == {"id": 2, "owner": "ann"}
        await bob.drain()
        stage.execute(f"alter policy p on notes using ({OWN})")
        assert await stage.payloads(bob, "insert into notes values (3, 'ann')") == []
        stage.execute("alter table notes disable row level security")
        assert ids(await stage.payloads(bob, "insert into notes values (4, 'ann')")) == [4]


# Filters.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("id=eq.2", [2]),
        ("id=gt.1", [2, 3]),
        ("id=in.(1,3)", [1, 3]),
        ("body=like.b*", [2]),
        ("and(id.gte.2,or(body.eq.b,id.eq.3))", [2, 3]),
        ("doc->>a=eq.x", [3]),
    ],
)
async def test_the_filter_narrows_and_the_policy_decides(
    stage: RlsStage, text: str, expected: list[int]
) -> None:
    stage.make("notes", "id int primary key, owner text, body text, doc jsonb")
    async with stage.client() as client:
        await client.sit(stage.topic("notes", text))
        payloads = await stage.payloads(
            client,
            "insert into notes values (1, 'ann', 'a', null), (2, 'ann', 'b', null),"
            " (3, 'ann', 'c', '{\"a\": \"x\"}'),"
            " (4, 'bob', 'b', '{\"a\": \"x\"}'), (5, 'bob', 'b', null)",
        )
    assert ids(payloads) == expected


# Joins.


@pytest.mark.parametrize(
    ("topic", "reason"),
    [
        ("nothing", "there is no table {schema}.nothing that role {role!r} may SELECT from"),
        ("notes:nothing=eq.1", "invalid column for filter nothing"),
        ("notes:secret=eq.1", "invalid column for filter secret"),
        ("notes:secret=like.a*", "invalid column for filter secret"),
    ],
)
async def test_a_join_that_cannot_be_says_why(stage: RlsStage, topic: str, reason: str) -> None:
    stage.make("notes", "id int primary key, secret text", None, narrow="id")
    async with stage.client(role=stage.narrow) as client:
        reply = await client.try_join(stage.topic(topic))
    assert reply == {
        "status": "error",
        "response": {"reason": reason.format(schema=stage.schema, role=stage.narrow)},
    }


async def test_a_value_that_does_not_cast_is_an_error_reply(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key", None)
    async with stage.client() as client:
        reply = await client.try_join(stage.topic("notes", "id=eq.x"))
    assert reply["status"] == "error"
    assert "cannot be read as int4" in reply["response"]["reason"]


async def test_a_table_that_may_not_be_selected_is_an_error_reply(stage: RlsStage) -> None:
    stage.execute("create table hidden (id int primary key)")
    async with stage.client() as client:
        reply = await client.try_join(stage.topic("hidden"))
    assert reply["status"] == "error"
    assert reply["response"]["reason"].startswith("there is no table")


async def test_roles_that_are_missing_or_unknown_or_not_granted(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key", None)
    reasons = []
    for role in ("", "nobody", "postgres"):
        async with stage.client() as client:
            token = make_token({"sub": "ann", **({"role": role} if role else {})})
            reply = await client.try_join(stage.topic("notes"), {"user_token": token})
            assert reply["status"] == "error"
            reasons.append(reply["response"]["reason"])
    assert "has no role" in reasons[0]
    assert reasons[1] == "there is no role 'nobody' in the database"
    assert reasons[2] == "this server may not act as role 'postgres'"


@pytest.mark.parametrize(
    ("config", "status"),
    [
        ({}, "ok"),
        ({"postgres_changes": [{"table": "fence"}]}, "error"),
        ({"private": True}, "error"),
    ],
)
async def test_an_unknown_role_joins_public_channels_that_ask_for_no_changes(
    stage: RlsStage, config: dict[str, Any], status: str
) -> None:
    token = make_token({"sub": "ann", "role": "nobody"})
    async with stage.client() as client:
        sent = {"access_token": token, "config": config}
        reply = await client.try_join("realtime:room", sent)
    assert reply["status"] == status
    if status == "error":
        assert "role" in reply["response"]["reason"]


# Rows and claims.


def rows(stage: RlsStage, topic_table: str = "notes") -> list[Any]:
    return stage.execute(
        "select claims ->> 'sub', filters::text from realtime.subscription"
        f" where entity = '{stage.schema}.{topic_table}'::regclass order by id"
    )


async def test_the_row_is_there_when_the_join_is_answered_and_goes_with_the_leave(
    stage: RlsStage,
) -> None:
    stage.make("notes", "id int primary key, owner text")
    topic = stage.topic("notes", "id=gt.1,owner=like.a*")
    async with stage.client() as client:
        await client.sit(topic)
        assert rows(stage) == [("ann", '{"(id,gt,1)"}')]
        await client.send(topic, "phx_leave", {}, ref="2")
        await client.drain()
        await eventually(lambda: rows(stage) == [])
        await client.sit(topic)
        assert len(rows(stage)) == 1
    await eventually(lambda: rows(stage) == [])


async def test_rows_come_back_with_the_next_comparison(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text")
    async with stage.client() as client:
        await client.sit(stage.topic("notes"), "realtime:*")
        stage.execute("delete from realtime.subscription where node is not null")
        await eventually(lambda: len(rows(stage)) == 2)
        stage.make("late", "id int primary key", None)
        await eventually(lambda: len(rows(stage, "late")) == 1)


async def test_a_new_token_changes_who_looks(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text")
    topic = stage.topic("notes")
    async with stage.client("ann") as client:
        await client.sit(topic)
        await client.send(topic, "access_token", {"access_token": stage.token("bob")})
        await client.drain()
        assert rows(stage) == [("bob", "{}")]
        payloads = await stage.payloads(client, "insert into notes values (1, 'ann'), (2, 'bob')")
        assert ids(payloads) == [2]


async def test_a_new_token_for_a_role_that_is_not_there_ends_the_channel(
    stage: RlsStage,
) -> None:
    stage.make("notes", "id int primary key, owner text")
    topic = stage.topic("notes")
    async with stage.client() as client:
        await client.sit(topic)
        token = stage.token(role="nobody")
        await client.send(topic, "access_token", {"access_token": token})
        assert await client.drain() == [client.frame(topic, "phx_error", {}, ref="1")]
    await eventually(lambda: rows(stage) == [])


TOO_MANY_TOKENS = (
    "TooManyTokens: this connection's channels hold, or held within the last minute, 50 different "
    "tokens, the most they may (MAX_TOKENS); leave channels and wait a minute, use one token for "
    "all, or raise MAX_TOKENS"
)


async def test_a_table_with_a_colon_in_its_name_is_listened_to_by_topic_and_binding(
    stage: RlsStage,
) -> None:
    stage.make('"a:b"', 'id int primary key, owner text, "c:d" text')
    stage.execute('create table "a:hidden" (id int primary key)')
    topic = stage.topic("a:b")
    binding = {"event": "*", "schema": stage.schema, "table": "a:b", "filter": "c:d=eq.x:y"}
    payload = {"config": {"postgres_changes": [binding]}}
    async with stage.client() as client:
        await client.sit(topic, stage.topic("a:b", "c:d=eq.x:y"))
        sent = {**payload, "access_token": client.token}
        assert (await client.try_join("realtime:room", sent))["status"] == "ok"
        await client.drain()
        frames = await stage.frames(
            client,
            "insert into \"a:b\" values (1, 'ann', 'x:y')",
            "insert into \"a:b\" values (2, 'ann', 'x'), (3, 'bob', 'x:y')",
        )
        assert [frame["topic"] for frame in frames] == [
            topic,
            stage.topic("a:b", "c:d=eq.x:y"),
            "realtime:room",
            topic,
        ]
        # One that is hidden is answered as one that is not there.
        reasons = [
            (await client.try_join(stage.topic(name)))["response"]["reason"]
            for name in ("a:hidden", "a:absent")
        ]
        assert reasons[0].replace("hidden", "absent") == reasons[1]
        assert reasons[1].startswith("cannot filter by 'absent': ")


@pytest.mark.parametrize("list", ["({1,2},{3},{NULL})", '("{1,2}","{3}",{NULL})'])
async def test_in_compares_whole_arrays(stage: RlsStage, list: str) -> None:
    stage.execute("create domain few as int[] check (pg_catalog.cardinality(value) < 9)")
    stage.make("notes", "id int primary key, n int[], d few, t text[]", None)
    binding = {"event": "*", "schema": stage.schema, "table": "notes", "filter": f"t=in.{list}"}
    async with stage.client() as client:
        await client.sit(*(stage.topic("notes", f"{name}=in.{list}") for name in ("n", "d")))
        payload = {"config": {"postgres_changes": [binding]}, "access_token": client.token}
        assert (await client.try_join("realtime:room", payload))["status"] == "ok"
        await client.drain()
        expected = []
        for number, value in enumerate(["{1,2}", "{2,1}", "{3}", "{NULL}", "{}", None]):
            quoted = "null" if value is None else f"'{value}'"
            [(passes,)] = stage.execute(
                f"select {quoted}::int[] in ('{{1,2}}', '{{3}}', '{{NULL}}')"
            )
            expected += [number] * 3 if passes else []
            stage.execute(f"insert into notes values ({number}, {quoted}, {quoted}, {quoted})")
        await stage.settle()
        found = [frame["payload"] for frame in await client.drain()]
        shown = [(one.get("data") or one).get("record") for one in found]
    assert sorted(record["id"] for record in shown if record and "n" in record) == expected


def refused_tokens(stage: RlsStage) -> float:
    line = re.search(r'limits_total{limit="tokens"} (.*)', stage.server.metrics.render().decode())
    return float(line[1]) if line else 0.0


async def test_a_client_with_a_token_for_each_channel_is_refused_from_some_number_on(
    stage: RlsStage,
) -> None:
    stage.make("notes", "id int primary key, owner text")
    before = refused_tokens(stage)
    async with stage.client() as client, stage.client("other") as other:
        for number in range(50):
            token = stage.token(f"user{number}")
            reply = await client.try_join(
                stage.topic("notes", f"id=eq.{number}"), {"user_token": token}
            )
            assert reply == {"status": "ok", "response": {}}
        reply = await client.try_join(
            stage.topic("notes"), {"access_token": stage.token("late"), "config": {}}
        )
        assert reply == {
            "status": "error",
            "response": {"reason": TOO_MANY_TOKENS},
        }
        # With one of those, as many channels as it likes.
        assert (await client.try_join(stage.topic("notes"), {"user_token": token}))[
            "status"
        ] == "ok"
        await other.sit(stage.topic("notes"))
    assert refused_tokens(stage) == before + 1


async def test_a_client_with_ever_new_tokens_loses_its_channel(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text")
    topic, other = stage.topic("notes"), stage.topic("notes", "id=eq.1")
    before = refused_tokens(stage)
    async with stage.client() as client:
        await client.try_join(topic, {"user_token": client.token, "config": {}})
        await client.sit(other)
        for number in range(50):
            token = stage.token(session=number)
            await client.send(topic, "access_token", {"access_token": token})
        frames = await client.drain()
        assert [frame["event"] for frame in frames] == ["system", "phx_close"]
        assert frames[0]["payload"]["message"] == TOO_MANY_TOKENS
        # The other one has a token of its own, and stays.
        assert await stage.payloads(client, "insert into notes values (1, 'ann')")
    assert refused_tokens(stage) == before + 1


async def test_changes_under_way_come_or_are_a_gap_when_a_token_is_renewed(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text")
    topic = stage.topic("notes")
    async with stage.client("ann") as client:
        await client.sit(topic)
        given_up = stage.metric("realtime_rls_given_up_total")
        for round_ in range(20):
            stage.execute(f"insert into notes values ({round_}, 'ann')")
            token = stage.token("ann", session=round_)
            await client.send(topic, "access_token", {"access_token": token})
            await asyncio.sleep(0.005)
        await stage.settle()
        # Once more: a gap is told behind what is handed out with it.
        await stage.settle()
        payloads = [frame["payload"] for frame in await client.drain()]
    got = [payload["record"]["id"] for payload in payloads if "record" in payload]
    gaps = [payload for payload in payloads if payload.get("message") == "Gap: token_replaced"]
    assert got == sorted(set(got))
    lost = stage.metric("realtime_rls_given_up_total") - given_up
    assert len(got) + lost == 20
    assert len(got) + len(gaps) == len(payloads)
    assert bool(gaps) == bool(lost)


# Binding clients.


def config(*bindings: dict[str, Any]) -> dict[str, Any]:
    return {"config": {"postgres_changes": list(bindings)}}


async def test_bindings_are_served_as_each_may_see(stage: RlsStage) -> None:
    stage.make("notes", "id int primary key, owner text, body text")
    binding = {"event": "*", "schema": stage.schema, "table": "notes", "filter": "id=lt.10"}
    narrow = {"event": "INSERT", "schema": stage.schema, "table": "notes", "select": ["owner"]}

    async def join(client: RlsClient) -> list[int]:
        payload = {**config(binding, narrow), "access_token": client.token}
        reply = await client.try_join("realtime:room", payload)
        assert reply["status"] == "ok"
        system = await client.receive()
        assert system["event"] == "system"
        return [item["id"] for item in reply["response"]["postgres_changes"]]

    async with stage.client("ann") as ann, stage.client("bob") as bob:
        first, second = await join(ann)
        await join(bob)
        payloads = await stage.payloads(
            ann, "insert into notes values (1, 'ann', 'x'), (2, 'bob', 'x')"
        )
        payloads += await stage.payloads(ann, "delete from notes")
        assert [frame["payload"]["data"]["type"] for frame in await bob.drain()] == [
            "INSERT",
            "INSERT",
            "DELETE",
            "DELETE",
        ]
    # Bindings without a filter go first.
    selected, wide, *deletes = payloads
    assert (wide["ids"], wide["data"]["record"]) == (
        [first],
        {"id": 1, "owner": "ann", "body": "x"},
    )
    assert (selected["ids"], selected["data"]["record"]) == ([second], {"id": 1, "owner": "ann"})
    assert [delete["data"]["old_record"]["id"] for delete in deletes] == [1, 2]


async def test_errors_to_bindings_have_the_commits_time(stage: RlsStage) -> None:
    stage.make("bare", "id int", None)
    binding = {"event": "*", "schema": stage.schema, "table": "bare"}
    async with stage.client() as client:
        await client.try_join("realtime:room", {**config(binding), "access_token": client.token})
        await client.receive()
        [payload] = await stage.payloads(client, "insert into bare values (1)")
    assert payload["data"]["errors"] == ["Error 400: Bad Request, no primary key"]
    assert payload["data"]["commit_timestamp"].endswith("Z")


async def test_a_column_that_no_change_has_shown_yet_is_joined_and_served(
    stage: RlsStage,
) -> None:
    stage.make("notes", "id int primary key", None)
    async with stage.client() as client:
        await client.join(stage.topic("notes:id=eq.0"))
        assert await stage.payloads(client, "insert into notes values (1)") == []
        stage.execute("alter table notes add extra text")
        await client.join(stage.topic("notes:extra=eq.x"))
        [payload] = await stage.payloads(client, "insert into notes values (2, 'x')")
        assert payload["record"] == {"id": 2, "extra": "x"}


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"table": "nothing"}, "there is no table"),
        (
            {"schema": "realtime", "table": "subscription"},
            "realtime is the server's own",
        ),
        ({"schema": "realtime", "table": "*"}, "realtime is the server's own"),
        ({"filter": "nothing=eq.1"}, "invalid column for filter nothing"),
        ({"select": ["nothing"]}, "invalid column for select nothing"),
        ({"filter": "id=eq.1", "leaves": True}, "leaves cannot be used in RLS mode"),
        ({"event": "TRUNCATE"}, "TRUNCATE cannot be told in RLS mode"),
    ],
)
async def test_a_binding_that_cannot_be_is_an_error_reply(
    stage: RlsStage, more: dict[str, Any], reason: str
) -> None:
    stage.make("notes", "id int primary key", None)
    binding = {"event": "*", "schema": stage.schema, "table": "notes", **more}
    async with stage.client() as client:
        reply = await client.try_join("realtime:room", config(binding))
    assert reply["status"] == "error"
    assert reason in reply["response"]["reason"]


async def test_a_channel_without_bindings_is_joined(stage: RlsStage) -> None:
    async with stage.client() as client:
        assert (await client.try_join("realtime:room", config()))["status"] == "ok"
