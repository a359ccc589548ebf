"""The Phoenix protocol over real sockets: joins, leaves, heartbeats, closes.

Section 5 of the specification. What the database's version may change is elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus

from realtime_server.server import RealtimeServer
from tests.fix_postgres import Server
from tests.integration.conftest import Stage, fresh_database, until_streaming
from tests.server_helpers import (
    DEADLINE,
    RECENTLY,
    PhoenixClient,
    Vsn,
    dev_config,
    open_client,
)
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio(loop_scope="module")]

both_versions = pytest.mark.parametrize("vsn", ["1.0.0", "2.0.0"])


@pytest.fixture
def item(one_stage: Stage) -> Stage:
    one_stage.execute("create table item (id int8 primary key)")
    return one_stage


def shown(stage: Stage, number: int) -> dict[str, Any]:
    """The payload of an inserted row."""
    return {
        "schema": stage.schema,
        "table": "item",
        "type": "INSERT",
        "commit_timestamp": RECENTLY,
        "errors": None,
        "columns": [{"flags": ["key"], "name": "id", "type": "int8", "type_modifier": 4294967295}],
        "record": {"id": str(number)},
    }


async def rows(stage: Stage, client: PhoenixClient, *numbers: int) -> list[Any]:
    """Insert rows; return every frame that the client got."""
    return await stage.frames(client, *(f"insert into item values ({n})" for n in numbers))


def changes(stage: Stage, client: PhoenixClient, *numbers: int) -> list[Any]:
    """The frames of inserted rows on the table's topic."""
    topic = stage.topic("item")
    return [client.frame(topic, "INSERT", shown(stage, number)) for number in numbers]


# Connecting.


@pytest.mark.parametrize(
    "path",
    [
        "/socket/websocket",
        "/socket/websocket/",
        "/realtime/v1/websocket",
        "/realtime/v1/websocket/",
    ],
)
@pytest.mark.parametrize(
    ("query", "vsn"),
    [
        ("", "1.0.0"),
        ("vsn=1.0.0", "1.0.0"),
        ("vsn=2.0.0", "2.0.0"),
        ("apikey=secret&vsn=2.0.0&eventsPerSecond=10", "2.0.0"),
    ],
)
async def test_both_paths_speak_the_version_that_vsn_asks_for(
    item: Stage, path: str, query: str, vsn: Vsn
) -> None:
    async with open_client(item.port, vsn, path=path, query=query) as client:
        await client.join(item.topic("item"))
        assert await rows(item, client, 1) == changes(item, client, 1)


async def refused(port: int, target: str, **headers: str) -> tuple[int, bytes]:
    """Try to connect; return status and body of the refusal."""
    with pytest.raises(InvalidStatus) as caught:
        async with connect(
            f"ws://127.0.0.1:{port}{target}", proxy=None, additional_headers=headers
        ):
            pass
    response = caught.value.response
    return response.status_code, bytes(response.body or b"")


@pytest.mark.parametrize("path", ["/socket/websocket", "/realtime/v1/websocket"])
@pytest.mark.parametrize("vsn", ["", "1.0", "3.0.0", "2.0.0.0"])
async def test_another_version_is_403_with_an_empty_body(
    one_stage: Stage, path: str, vsn: str
) -> None:
    assert await refused(one_stage.port, f"{path}?vsn={vsn}") == (403, b"")


@pytest.mark.parametrize("path", ["/", "/socket", "/socket/websocket//", "/live/websocket", "//["])
async def test_an_upgrade_on_another_path_is_404(one_stage: Stage, path: str) -> None:
    assert await refused(one_stage.port, f"{path}?vsn=1.0.0") == (404, b"")


async def test_any_token_is_let_in_where_none_is_needed(item: Stage) -> None:
    async with connect(
        f"ws://127.0.0.1:{item.port}/socket/websocket?apikey=nonsense&token=nonsense",
        origin=f"http://127.0.0.1:{item.port}",  # type: ignore[arg-type]
        additional_headers={"x-api-key": "nonsense", "apikey": "nonsense"},
        proxy=None,
    ) as websocket:
        client = PhoenixClient(websocket, "1.0.0")
        await client.join(item.topic("item"))
        assert await rows(item, client, 1) == changes(item, client, 1)


async def test_an_offer_to_compress_is_declined(one_stage: Stage) -> None:
    uri = f"ws://127.0.0.1:{one_stage.port}/socket/websocket"
    async with connect(uri, compression="deflate", proxy=None) as websocket:
        assert websocket.protocol.extensions == []
        assert await PhoenixClient(websocket, "1.0.0").drain() == []


# Heartbeats.


@both_versions
@pytest.mark.parametrize("ref", ["1", "", "ÄÖ漢", 1, 0, -5, 1.5, 4503599627370497, None])
async def test_a_heartbeat_is_answered_with_the_ref_as_it_came(
    one_stage: Stage, vsn: Vsn, ref: Any
) -> None:
    async with one_stage.client(vsn) as client:
        await client.send("phoenix", "heartbeat", {}, ref=ref)
        answer = await client.receive()
        assert answer == client.reply("phoenix", {}, ref=ref)
        assert type(answer["ref"] if vsn == "1.0.0" else answer[1]) is type(ref)


async def test_literal_heartbeats(one_stage: Stage) -> None:
    async with one_stage.client("1.0.0") as client:
        await client.send_raw('{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"7"}')
        assert await client.receive() == {
            "topic": "phoenix",
            "event": "phx_reply",
            "ref": "7",
            "payload": {"status": "ok", "response": {}},
        }
        await client.send_raw('{"topic":"phoenix","event":"heartbeat","payload":{}}')
        assert (await client.receive())["ref"] is None
    async with one_stage.client("2.0.0") as client:
        await client.send_raw('[null,"7","phoenix","heartbeat",{}]')
        answer = [None, "7", "phoenix", "phx_reply", {"status": "ok", "response": {}}]
        assert await client.receive() == answer


# Joining.


@both_versions
@pytest.mark.parametrize("payload", [{}, [], None, {"user_token": "x"}])
async def test_a_join_is_answered_whatever_its_payload(item: Stage, vsn: Vsn, payload: Any) -> None:
    async with item.client(vsn) as client:
        topic = item.topic("item")
        await client.send(topic, "phx_join", payload, ref="3", join_ref="3")
        assert await client.receive() == client.reply(topic, {}, ref="3", join_ref="3")
        assert await rows(item, client, 1) == changes(item, client, 1)


@both_versions
@pytest.mark.parametrize(
    "config", [{}, {"broadcast": {"self": False}, "presence": {"enabled": False}}]
)
async def test_a_join_with_config_never_gets_what_its_topic_names(
    item: Stage, vsn: Vsn, config: Any
) -> None:
    async with item.client(vsn) as client:
        topic = item.topic("item")
        await client.send(topic, "phx_join", {"config": config}, ref="1", join_ref="1")
        answer = client.reply(topic, {"postgres_changes": []}, join_ref="1")
        assert await client.receive() == answer
        assert await rows(item, client, 1) == []


@both_versions
@pytest.mark.parametrize("topic", ["realtime:", "realtime:*", "realtime:any:thing"])
async def test_every_realtime_topic_can_be_joined(one_stage: Stage, vsn: Vsn, topic: str) -> None:
    async with one_stage.client(vsn) as client:
        await client.join(topic)


@both_versions
@pytest.mark.parametrize("topic", ["room:lobby", "realtime", "phoenix", "Realtime:*", "", "*"])
async def test_a_join_outside_of_realtime_is_unmatched(
    one_stage: Stage, vsn: Vsn, topic: str
) -> None:
    async with one_stage.client(vsn) as client:
        await client.send(topic, "phx_join", {}, ref="1", join_ref="1")
        assert await client.receive() == client.refusal(topic, "unmatched topic", join_ref="1")


@both_versions
@pytest.mark.parametrize(
    ("rest", "reason"),
    [
        ("id", "cannot filter by 'id': unexpected end; expected '=' after the column, as in "),
        ("=eq.1", "cannot filter by '=eq.1': unexpected '='; expected a column's name, as in "),
        ("and(id.eq.1", "cannot filter by 'and(id.eq.1': the parenthesis of and( is never closed"),
        ("", "there is no filter after the table; write one, as in realtime:"),
    ],
)
async def test_a_filter_that_cannot_be_read_gets_an_error_that_says_why(
    item: Stage, vsn: Vsn, rest: str, reason: str
) -> None:
    async with item.client(vsn) as client:
        topic = f"{item.topic('item')}:{rest}"
        await client.send(topic, "phx_join", {}, ref="1", join_ref="1")
        frame = await client.receive()
        told = (frame["payload"] if vsn == "1.0.0" else frame[-1])["response"]["reason"]
        assert told.startswith(reason)
        assert frame == client.refusal(topic, told, join_ref="1")
        assert await rows(item, client, 1) == []


@both_versions
async def test_a_second_join_of_a_topic_replaces_the_first(item: Stage, vsn: Vsn) -> None:
    async with item.client(vsn) as client:
        topic = item.topic("item")
        await client.join(topic, ref="1")
        # The reply and nothing else: no phx_close for the former membership.
        await client.send(topic, "phx_join", {}, ref="2", join_ref="2")
        assert await client.drain() == [client.reply(topic, {}, ref="2", join_ref="2")]
        assert await rows(item, client, 1, 2) == changes(item, client, 1, 2)


async def test_only_changes_after_the_join_come_and_the_reply_comes_first(item: Stage) -> None:
    async with item.client() as client:
        topic = item.topic("item")
        await item.prepare("insert into item values (1)")
        await client.send(topic, "phx_join", {})
        frames = [await client.receive(), *await rows(item, client, 2)]
        assert frames == [client.reply(topic, {}), *changes(item, client, 2)]


# Leaving.


@both_versions
async def test_a_leave_is_answered_and_closed_and_ends_the_changes(item: Stage, vsn: Vsn) -> None:
    async with item.client(vsn) as client:
        topic = item.topic("item")
        await client.join(topic, ref="5")
        # A leave ends nothing while the join's reply may not have arrived.
        replay = item.server.replay
        assert replay is not None
        await eventually(lambda: not replay.needs.without_proof())
        await client.send(topic, "phx_leave", {}, ref="6", join_ref="5")
        assert await client.drain() == [
            client.reply(topic, {}, ref="6", join_ref="5"),
            client.frame(topic, "phx_close", {}, ref="5", join_ref="5"),
        ]
        assert await rows(item, client, 1) == []
        await client.join(topic, ref="7")
        assert await rows(item, client, 2) == changes(item, client, 2)


async def test_a_literal_leave(one_stage: Stage) -> None:
    async with one_stage.client("1.0.0") as client:
        # Not all clients of this version send join_refs.
        for join_ref, told in (("", None), (',"join_ref":"5"', "5")):
            for event, ref in (("phx_join", "5"), ("phx_leave", "6")):
                await client.send_raw(
                    f'{{"topic":"realtime:*","event":"{event}","payload":{{}},"ref":"{ref}"'
                    f"{join_ref}}}"
                )
            reply = {"status": "ok", "response": {}}
            assert await client.drain() == [
                {"topic": "realtime:*", "event": "phx_reply", "ref": "5", "payload": reply},
                {"topic": "realtime:*", "event": "phx_reply", "ref": "6", "payload": reply},
                {"topic": "realtime:*", "event": "phx_close", "ref": told, "payload": {}},
            ]
    async with one_stage.client("2.0.0") as client:
        await client.join("realtime:*", ref="5")
        await client.send_raw('["5","6","realtime:*","phx_leave",{}]')
        assert await client.drain() == [
            ["5", "6", "realtime:*", "phx_reply", {"status": "ok", "response": {}}],
            ["5", "5", "realtime:*", "phx_close", {}],
        ]


@both_versions
@pytest.mark.parametrize("topic", ["realtime:*", "room:lobby"])
async def test_a_leave_of_a_topic_that_is_not_joined_is_answered(
    one_stage: Stage, vsn: Vsn, topic: str
) -> None:
    async with one_stage.client(vsn) as client:
        await client.send(topic, "phx_leave", {}, ref="1", join_ref="9")
        assert await client.drain() == [client.reply(topic, {}, join_ref="9")]


@both_versions
async def test_a_close_that_comes_after_the_next_join_is_told_apart(item: Stage, vsn: Vsn) -> None:
    async with item.client(vsn) as client:
        topic = item.topic("item")
        await client.join(topic, ref="1")
        await client.send(topic, "phx_leave", {}, ref="2", join_ref="1")
        await client.send(topic, "phx_join", {}, ref="3", join_ref="3")
        assert await client.drain() == [
            client.reply(topic, {}, ref="2", join_ref="1"),
            client.frame(topic, "phx_close", {}, ref="1", join_ref="1"),
            client.reply(topic, {}, ref="3", join_ref="3"),
        ]
        assert await rows(item, client, 1) == changes(item, client, 1)


@both_versions
async def test_todays_clients_get_no_close_that_they_cannot_tell_apart(
    item: Stage, vsn: Vsn
) -> None:
    async with item.client(vsn) as client:
        topic = item.topic("item")
        config: dict[str, Any] = {"config": {}}
        joined: dict[str, Any] = {"postgres_changes": []}
        close = client.frame(topic, "phx_close", {}, ref="1", join_ref="1")
        await client.send(topic, "phx_join", config, ref="1", join_ref="1")
        await client.send(topic, "phx_leave", {}, ref="2", join_ref="1")
        await client.send(topic, "phx_join", config, ref="3", join_ref="3")
        assert await client.drain() == [
            client.reply(topic, joined, ref="1", join_ref="1"),
            client.reply(topic, {}, ref="2", join_ref="1"),
            *([close] if vsn == "2.0.0" else []),
            client.reply(topic, joined, ref="3", join_ref="3"),
        ]
        # There is one where nothing follows.
        await client.send(topic, "phx_leave", {}, ref="4", join_ref="3")
        assert await client.receive() == client.reply(topic, {}, ref="4", join_ref="3")
        assert await client.receive() == client.frame(topic, "phx_close", {}, ref="3", join_ref="3")


async def test_leaving_one_topic_keeps_the_others(item: Stage) -> None:
    async with item.client() as client:
        await client.join(item.topic("item"), item.topic())
        await client.send(item.topic(), "phx_leave", {})
        await client.drain()
        assert await rows(item, client, 1) == changes(item, client, 1)


@both_versions
async def test_a_message_of_an_earlier_membership_is_ignored(item: Stage, vsn: Vsn) -> None:
    async with item.client(vsn) as client:
        topic = item.topic("item")
        await client.join(topic, ref="1")
        await client.join(topic, ref="2")
        for event in ("phx_leave", "access_token", "dance"):
            await client.send(topic, event, {}, ref="3", join_ref="1")
        assert await client.drain() == []
        assert await rows(item, client, 1) == changes(item, client, 1)


# Other events.


@both_versions
async def test_an_event_on_a_topic_that_is_not_joined_is_unmatched(
    one_stage: Stage, vsn: Vsn
) -> None:
    async with one_stage.client(vsn) as client:
        for topic, event in [
            ("realtime:*", "INSERT"),
            ("realtime:*", "access_token"),
            ("phoenix", "dance"),
            ("room:lobby", "heartbeat"),
        ]:
            await client.send(topic, event, {})
            assert await client.receive() == client.refusal(topic, "unmatched topic")


@both_versions
@pytest.mark.parametrize("event", ["dance", "heartbeat", "INSERT"])
async def test_an_unknown_event_ends_the_channel_which_can_be_joined_again(
    item: Stage, vsn: Vsn, event: str
) -> None:
    async with item.client(vsn) as client:
        topic = item.topic("item")
        await client.join(topic, ref="1")
        await client.send(topic, event, {}, ref="2", join_ref="1")
        assert await client.drain() == [client.frame(topic, "phx_error", {}, ref="1", join_ref="1")]
        assert await rows(item, client, 1) == []
        await client.join(topic, ref="3")
        # It goes on where it ended.
        item.execute("insert into item values (2)")
        found = [await client.receive(), await client.receive()]
        assert found == changes(item, client, 1, 2)


@both_versions
@pytest.mark.parametrize("payload", [{"access_token": "x.y.z"}, {"access_token": None}, {}, None])
async def test_an_access_token_has_no_reply_and_changes_go_on(
    item: Stage, vsn: Vsn, payload: Any
) -> None:
    async with item.client(vsn) as client:
        topic = item.topic("item")
        await client.join(topic, ref="1")
        await client.send(topic, "access_token", payload, ref="2", join_ref="1")
        assert await client.drain() == []
        assert await rows(item, client, 1) == changes(item, client, 1)


async def test_answers_come_in_the_order_of_the_questions(one_stage: Stage) -> None:
    async with one_stage.client() as client:
        for number in range(100):
            await client.send(f"realtime:{number}", "phx_join", {}, ref=number)
        assert await client.drain() == [
            client.reply(f"realtime:{number}", {}, ref=number) for number in range(100)
        ]


# What ends a connection.


@pytest.mark.parametrize(
    ("vsn", "data", "closed"),
    [
        ("1.0.0", "{", (1007, "the message is not JSON")),
        ("1.0.0", "", (1007, "the message is not JSON")),
        ("2.0.0", "{", (1007, "the message is not JSON")),
        ("1.0.0", b"\0\1", (1003, "a binary frame; with vsn=1.0.0 all are text")),
        (
            "2.0.0",
            b"\1\1",
            (1003, "a binary frame with kind 1; clients push in kinds 3 and 0"),
        ),
        (
            "1.0.0",
            '{"event":"e","payload":{}}',
            (1008, "a message is an object with topic, event, payload and ref"),
        ),
        (
            "1.0.0",
            '{"topic":"t","payload":{}}',
            (1008, "a message is an object with topic, event, payload and ref"),
        ),
        (
            "1.0.0",
            '{"topic":"t","event":"e"}',
            (1008, "a message is an object with topic, event, payload and ref"),
        ),
        (
            "1.0.0",
            '[null,"1","phoenix","heartbeat",{}]',
            (1008, "a message is an object with topic, event, payload and ref"),
        ),
        (
            "1.0.0",
            '{"topic":1,"event":"e","payload":{}}',
            (1008, "topic and event must be strings"),
        ),
        (
            "2.0.0",
            '{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"1"}',
            (1008, "a message is an array [join_ref, ref, topic, event, payload]"),
        ),
        (
            "2.0.0",
            '["1","phoenix","heartbeat",{}]',
            (1008, "a message is an array [join_ref, ref, topic, event, payload]"),
        ),
        (
            "2.0.0",
            '[{},"1","phoenix","heartbeat",{}]',
            (1008, "ref must be a string, a number or null"),
        ),
    ],
)
async def test_what_is_no_message_closes_with_a_code_and_a_reason_that_fit(
    one_stage: Stage, vsn: Vsn, data: str | bytes, closed: tuple[int, str]
) -> None:
    async with one_stage.client(vsn) as client:
        await client.join("realtime:*")
        await client.send_raw(data)
        assert await client.closed() == closed


async def test_a_message_that_is_too_long_is_closed_with_1009(one_stage: Stage) -> None:
    async with one_stage.client() as client:
        await client.send_raw("x" * (2 * 1024 * 1024))
        code, _ = await client.closed()
        assert code == 1009


async def test_one_broken_client_does_not_harm_the_others(item: Stage) -> None:
    async with item.client() as good, item.client() as bad, item.client() as rude:
        await good.join(item.topic("item"))
        await bad.join(item.topic("item"))
        await rude.join(item.topic("item"))
        await bad.send_raw("{")
        rude.websocket.transport.abort()
        assert await rows(item, good, 1, 2) == changes(item, good, 1, 2)
        assert (await bad.closed())[0] == 1007


async def test_a_client_that_says_nothing_is_closed_with_1000(one_pg: Server) -> None:
    with fresh_database(one_pg) as database:
        database.execute("create table item (id int8 primary key)")
        database.execute("create publication shop for all tables")
        async with RealtimeServer(dev_config(database.dsn, IDLE_TIMEOUT="1000")) as server:
            await until_streaming(database)
            async with open_client(server.port) as silent, open_client(server.port) as lively:
                await silent.join("realtime:*")
                await lively.join("realtime:*")

                async def beat() -> None:
                    while True:
                        await lively.send("phoenix", "heartbeat", {})
                        await asyncio.sleep(0.05)

                beating = asyncio.create_task(beat())
                # Neither changes nor pongs count as a sign of life.
                database.execute("insert into item values (1)")
                assert await silent.closed() == (1000, "no message within the idle time")
                beating.cancel()
                await asyncio.wait({beating})
                topics = {frame["topic"] for frame in await lively.drain()}
                assert topics == {"realtime:*", "phoenix"}


async def test_a_ping_is_answered(one_stage: Stage) -> None:
    async with one_stage.client() as client, asyncio.timeout(DEADLINE):
        await (await client.websocket.ping())


async def test_fragments_are_put_together(one_stage: Stage) -> None:
    async with one_stage.client() as client:
        text = json.dumps(client.frame("phoenix", "heartbeat", {}, ref="1"))
        await client.websocket.send([text[:10], text[10:20], text[20:]])
        assert await client.receive() == client.reply("phoenix", {})


async def test_when_the_server_ends_sockets_are_closed_with_1012(one_pg: Server) -> None:
    with fresh_database(one_pg) as database:
        async with contextlib.AsyncExitStack() as stack:
            async with RealtimeServer(dev_config(database.dsn)) as server:
                clients = [
                    await stack.enter_async_context(open_client(server.port)) for _ in range(3)
                ]
                await clients[0].join("realtime:*")
            for client in clients:
                assert await client.closed() == (1012, "the server restarts")
