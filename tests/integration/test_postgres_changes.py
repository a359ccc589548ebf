"""Joins with config over real sockets, from each PostgreSQL: what is sent, byte for byte."""

from __future__ import annotations

import asyncio
import json
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from realtime_core import Position
from realtime_server.phoenix.joins import parse_join
from tests.integration.conftest import Stage
from tests.integration.test_stream_payloads import TYPES, quote
from tests.server_helpers import DEADLINE, PhoenixClient, Vsn

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

both_versions = pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])

ROOM = "realtime:room"


class Bound:
    """A client in a room, and its bindings to the test's schema."""

    def __init__(self, stage: Stage, client: PhoenixClient) -> None:
        self.stage = stage
        self.client = client
        self.ids: list[int] = []

    async def join(self, *bindings: dict[str, Any], **config: Any) -> None:
        payload = self.payload(*bindings, **config)
        config = parse_join(payload)
        assert config is not None
        self.ids = [binding.id for binding in config.bindings]
        await self.client.send(ROOM, "phx_join", payload, ref="1", join_ref="1")
        answer = self.client.reply(ROOM, config.response(), ref="1", join_ref="1")
        assert await self.client.receive() == answer
        system: dict[str, Any] = {
            "channel": "room",
            "extension": "postgres_changes",
            "status": "ok",
            "message": "Subscribed to PostgreSQL",
        }
        frame = await self.client.receive()
        position = self.payload_of(frame)["position"]
        assert position is None or Position.parse(position).stream is not None
        system |= {"resumed": False, "position": position}
        assert frame == self.client.frame(ROOM, "system", system)

    async def refused(self, *bindings: dict[str, Any]) -> str:
        await self.client.send(ROOM, "phx_join", self.payload(*bindings), ref="1", join_ref="1")
        answer = self.payload_of(await self.client.receive())
        assert answer["status"] == "error"
        reason = answer["response"]["reason"]
        assert isinstance(reason, str)
        return reason

    def payload(self, *bindings: dict[str, Any], **config: Any) -> Any:
        schema = self.stage.schema
        full = [{"event": "*", "schema": schema, "table": "item", **each} for each in bindings]
        return {"config": {"postgres_changes": full, **config}}

    @staticmethod
    def payload_of(frame: Any) -> Any:
        return frame["payload"] if isinstance(frame, dict) else frame[4]

    async def changes(self, *statements: str) -> list[Any]:
        """Run statements; return of each message the bindings' places and the rest of it.

        Time and position are looked at and left out.
        """
        frames = await self.stage.frames(self.client, *statements)
        messages = [self.payload_of(frame) for frame in frames]
        positions = [Position.parse(each["data"].pop("position")) for each in messages]
        assert positions == sorted(positions)
        for message in messages:
            check_time(message["data"].pop("commit_timestamp"))
            assert message["data"].pop("schema") == self.stage.schema
        return [
            ([place for place, id in enumerate(self.ids) if id in each["ids"]], each["data"])
            for each in messages
        ]


def check_time(text: str) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text, re.ASCII)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(text)) < timedelta(minutes=5)


COLUMNS = [{"name": "id", "type": "int8"}, {"name": "details", "type": "text"}]
ITEM = "create table item (id int8 primary key, details text)"


def data(kind: str, columns: Any = COLUMNS, **rows: Any) -> Any:
    return {"table": "item", "type": kind, "errors": None, "columns": columns, **rows}


@both_versions
async def test_each_event_has_its_own_form(stage: Stage, vsn: Vsn) -> None:
    await stage.prepare(ITEM)
    async with stage.client(vsn) as client:
        bound = Bound(stage, client)
        await bound.join(
            {},
            {"event": "UPDATE"},
            {"filter": "id=eq.14"},
            {"table": "*"},
            {"event": "TRUNCATE"},
            {"event": "TRUNCATE", "table": "*"},
        )
        assert await bound.changes(
            "insert into item values (14, 'x'), (9007199254740993, null)",
            "update item set details = 'y' where id = 14",
            "update item set id = 15 where id = 14",
            "delete from item where id = 15",
            "truncate item",
        ) == [
            ([0, 2, 3], data("INSERT", record={"id": 14, "details": "x"})),
            ([0, 3], data("INSERT", record={"id": 9007199254740993, "details": None})),
            (
                [0, 1, 2, 3],
                data("UPDATE", record={"id": 14, "details": "y"}, old_record={"id": 14}),
            ),
            ([0, 1, 3], data("UPDATE", record={"id": 15, "details": "y"}, old_record={"id": 14})),
            ([0, 3], data("DELETE", old_record={"id": 15})),
            # Clients would take it for a DELETE if they had not asked for it.
            ([4, 5], data("TRUNCATE")),
        ]


async def test_selected_columns_and_rows_that_leave(stage: Stage) -> None:
    await stage.prepare(ITEM, "alter table item replica identity full")
    async with stage.client() as client:
        bound = Bound(stage, client)
        await bound.join(
            {"select": ["details"]},
            {"event": "DELETE", "filter": "details=eq.mine", "leaves": True},
        )
        (details,) = (column for column in COLUMNS if column["name"] == "details")
        row = {"id": 1, "details": "mine"}
        assert await bound.changes(
            "insert into item values (1, 'mine')", "update item set details = 'theirs'"
        ) == [
            ([0], data("INSERT", [details], record={"details": "mine"})),
            (
                [0],
                data(
                    "UPDATE",
                    [details],
                    record={"details": "theirs"},
                    old_record={"details": "mine"},
                ),
            ),
            ([1], data("DELETE", old_record=row)),
        ]


async def test_unchanged_toast_is_absent(stage: Stage) -> None:
    await stage.prepare(
        ITEM,
        "alter table item alter details set storage external",
        f"insert into item values (1, '{'x' * 5000}')",
    )
    async with stage.client() as client:
        bound = Bound(stage, client)
        await bound.join({})
        assert await bound.changes("update item set id = 2") == [
            ([0], data("UPDATE", record={"id": 2}, old_record={"id": 1}))
        ]


async def test_a_table_that_changes_is_shown_as_it_is(stage: Stage) -> None:
    await stage.prepare(ITEM)
    async with stage.client() as client:
        bound = Bound(stage, client)
        await bound.join({}, {"filter": "details=eq.5"})
        assert await bound.changes(
            "insert into item values (1, '5')",
            "alter table item alter details type int4 using details::int4",
            "insert into item values (2, 5)",
        ) == [
            ([0, 1], data("INSERT", record={"id": 1, "details": "5"})),
            (
                [0, 1],
                data(
                    "INSERT",
                    [COLUMNS[0], {"name": "details", "type": "int4"}],
                    record={"id": 2, "details": 5},
                ),
            ),
        ]


async def test_what_does_not_fit_the_table_is_told_at_the_join_or_when_it_appears(
    one_stage: Stage,
) -> None:
    fits = {"filter": "details=gt.x,extra=eq.1"}
    await one_stage.prepare(ITEM, "alter table item add extra int")
    async with one_stage.client() as client:
        bound = Bound(one_stage, client)
        await bound.join(fits)
        (frame,) = await one_stage.frames(
            client, "alter table item drop extra", "insert into item values (1, 'y')"
        )
        told = bound.payload_of(frame)
        table = f"{one_stage.schema}.item"
        problem = f"{table} has no column 'extra'; it has id, details"
        assert (told["channel"], told["status"]) == ("room", "error")
        assert told["message"].startswith(f"the filter on {table} does not fit it: {problem}")
        assert await bound.refused({}, fits) == "invalid column for filter extra"
        assert await bound.refused({"select": ["id", "extra"]}) == "invalid column for select extra"


# Values.


async def raw_record(bound: Bound, *statements: str) -> tuple[str, Any]:
    """Run statements that insert a row; return its message, as text and read exactly."""
    bound.stage.execute(*statements)
    async with asyncio.timeout(DEADLINE):
        text = await bound.client.websocket.recv(decode=True)
    frame = json.loads(text, parse_float=Decimal)
    return text, bound.payload_of(frame)["data"]["record"]


@both_versions
async def test_every_built_in_type_is_what_to_jsonb_says(stage: Stage, vsn: Vsn) -> None:
    names = [f"c{number}" for number in range(len(TYPES))]
    definitions = ", ".join(f"{name} {TYPES[place][0]}" for place, name in enumerate(names))
    literals = ", ".join(quote(literal) for _, literal, _, _, _ in TYPES)
    await stage.prepare(f"create table item (id int8 primary key, {definitions})")
    async with stage.client(vsn) as client:
        bound = Bound(stage, client)
        await bound.join({})
        text, record = await raw_record(bound, f"insert into item values (1, {literals})")
    stage.execute("set timezone to 'UTC'")
    ((oracle,),) = stage.execute("select to_jsonb(item)::text from item")
    expected = json.loads(oracle, parse_float=Decimal)
    assert record == expected
    kinds = {name: kind for name, (_, _, kind, _, _) in zip(names, TYPES, strict=True)}
    # Each digit is there, too: a number is PostgreSQL's own text.
    for name, (_, _, kind, _, shown) in zip(names, TYPES, strict=True):
        if kind in ("int2", "int4", "int8", "numeric") and shown[-1] not in "Ny":
            assert re.search(rf'"{name}":{re.escape(shown)}[,}}]', text), (name, kinds[name])


async def test_own_types_are_texts_and_domains_their_base_types(stage: Stage) -> None:
    await stage.prepare(
        "create type mood as enum ('sad', 'it''s \"fine\"', '')",
        "create domain positive as int8 check (value > 0)",
        "create domain list as numeric[]",
        "create type pair as (x int4, y text)",
        "create table item (id positive primary key, m mood, l list, p pair, ms mood[],"
        " ps pair[], ds positive[])",
    )
    async with stage.client() as client:
        bound = Bound(stage, client)
        await bound.join({})
        _, record = await raw_record(
            bound,
            "insert into item values (9007199254740993, 'it''s \"fine\"', '{1.10,NULL}',"
            " '(1,\"a\")', '{sad,\"\"}', array[(1, 'b c')::pair], '{4}')",
        )
    assert record == {
        "id": 9007199254740993,
        "m": 'it\'s "fine"',
        "l": [Decimal("1.10"), None],
        "p": "(1,a)",
        "ms": ["sad", ""],
        "ps": ['(1,"b c")'],
        # The stream does not tell what a user's type is an array of.
        "ds": ["4"],
    }


# Topic clients and binding clients, both versions.


async def test_both_versions_carry_the_same(one_stage: Stage) -> None:
    await one_stage.prepare(ITEM, "alter table item replica identity full")
    statements = [
        "insert into item values (1, 'a'), (2, 'ä \"b\" \\ ')",
        "update item set details = null where id = 1",
        "delete from item where id = 2",
        "truncate item",
    ]
    async with one_stage.client("1.0.0") as v1, one_stage.client("2.0.0") as v2:
        one, two = Bound(one_stage, v1), Bound(one_stage, v2)
        for bound in (one, two):
            await bound.join({}, {"filter": "id=lt.2"}, {"event": "TRUNCATE"})
        one_stage.execute(*statements)
        await one_stage.settle()
        first, second = await v1.drain(), await v2.drain()
    assert [
        [None, None, frame["topic"], frame["event"], frame["payload"]] for frame in first
    ] == second
    assert len(first) == 5
    assert all(frame["ref"] is None for frame in first)


async def test_a_joined_channel_is_left_and_nothing_comes_after_the_reply(
    one_stage: Stage,
) -> None:
    await one_stage.prepare(ITEM)
    async with one_stage.client("2.0.0") as client:
        bound = Bound(one_stage, client)
        await bound.join({})
        await client.send(ROOM, "phx_leave", {}, ref="2", join_ref="1")
        assert await client.receive() == client.reply(ROOM, {}, ref="2", join_ref="1")
        assert await client.receive() == ["1", "1", ROOM, "phx_close", {}]
        assert await bound.changes("insert into item values (1, 'x')") == []


def binary_push(*texts: str, payload: bytes, encoding: int = 1) -> bytes:
    parts = [text.encode() for text in texts]
    return bytes([3, *map(len, parts), 0, encoding]) + b"".join(parts) + payload


async def test_a_broadcast_in_a_binary_frame_leaves_the_changes_as_they_are(
    one_stage: Stage,
) -> None:
    await one_stage.prepare(ITEM)
    async with one_stage.client("2.0.0") as client:
        bound = Bound(one_stage, client)
        await bound.join({}, broadcast={"ack": True})
        taken = client.reply(ROOM, {}, ref="7", join_ref="1")
        for payload, encoding in ((b'{"x":1}', 1), (b"\xff\0", 0)):
            await client.send_raw(
                binary_push("1", "7", ROOM, "cursor", payload=payload, encoding=encoding)
            )
            assert await client.receive() == taken
        # One with the join_ref of an earlier membership has merely raced us.
        await client.send_raw(binary_push("0", "8", ROOM, "cursor", payload=b"1"))
        assert len(await bound.changes("insert into item values (1, 'x')")) == 1


@both_versions
async def test_the_same_topic_serves_both_generations(one_stage: Stage, vsn: Vsn) -> None:
    await one_stage.prepare(ITEM)
    topic = one_stage.topic("item")
    async with one_stage.client(vsn) as old, one_stage.client(vsn) as new:
        await old.join(topic)
        bound = Bound(one_stage, new)
        payload = bound.payload({})
        await new.send(topic, "phx_join", payload, ref="1", join_ref="1")
        await new.receive()
        await new.receive()
        one_stage.execute("insert into item values (1, 'x')")
        await one_stage.settle()
        (first,), (second,) = await old.drain(), await new.drain()
        assert bound.payload_of(first)["record"] == {"id": "1", "details": "x"}
        assert bound.payload_of(second)["data"]["record"] == {"id": 1, "details": "x"}
