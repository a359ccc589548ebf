"""Joins with config, from the client's first message to its last change. No network."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from realtime_server.auth.authorizer import AllowAll, JoinRequest
from realtime_server.auth.grant import Grant
from realtime_server.errors import TokenError
from realtime_server.phoenix.joins import parse_join
from tests.server.net.test_connection import error, open_connection, reply
from tests.server_helpers import insert, make_relation
from tests.waiting import eventually

TODOS = make_relation()
TOPIC = "realtime:public:todos"
TODO = {"event": "*", "schema": "public", "table": "todos"}


def payload(*bindings: Any, **config: Any) -> Any:
    return {"config": {"postgres_changes": list(bindings), **config}}


def accepted(sent: Any, ref: str = "1") -> Any:
    config = parse_join(sent)
    assert config is not None
    return reply(config.response(), ref=ref)


def system(status: str = "ok", message: str = "Subscribed to PostgreSQL") -> Any:
    told = {
        "channel": "public:todos",
        "extension": "postgres_changes",
        "status": status,
        "message": message,
    }
    return {"topic": TOPIC, "event": "system", "ref": None, "payload": told}


async def test_a_join_with_bindings_is_answered_then_told_to_be_in_place_then_served() -> None:
    async with open_connection() as client:
        join = payload(TODO)
        assert await client.send("phx_join", payload=join) == [accepted(join), system()]
        client.hub.publish([insert(TODOS, "1", "x")])
        (change,) = client.received()
        assert change["event"] == "postgres_changes"
        assert change["payload"]["data"]["record"] == {"id": 1, "details": "x"}


async def test_a_join_without_bindings_is_answered_and_gets_nothing() -> None:
    async with open_connection() as client:
        assert await client.send("phx_join", payload=payload()) == [accepted(payload())]
        client.hub.publish([insert(TODOS, "1", "x")])
        assert client.received() == []


async def test_any_channels_name_will_do() -> None:
    async with open_connection() as client:
        for name in ("realtime:room", "realtime:", "realtime:a:b:no=filter", "realtime:x:y:z"):
            (answer, told) = await client.send("phx_join", name, payload(TODO))
            assert answer["payload"]["status"] == "ok"
            assert told["payload"]["channel"] == name.removeprefix("realtime:")


async def test_a_config_that_is_not_understood_is_an_error_reply() -> None:
    async with open_connection() as client:
        assert await client.send("phx_join", payload=payload({"event": "x"})) == [
            error(
                "config.postgres_changes[0].event must be one of *, INSERT, UPDATE, DELETE, "
                'TRUNCATE, not "x"'
            )
        ]
        assert client.counted('realtime_joins_total{result="config"} 1.0')
        assert client.hub.is_empty


async def test_both_generations_share_a_socket() -> None:
    async with open_connection() as client:
        await client.send("phx_join", payload=payload(TODO))
        await client.send("phx_join", "realtime:public")
        client.hub.publish([insert(TODOS, "1", "x")])
        shown = [(frame["topic"], frame["event"]) for frame in client.received()]
        assert sorted(shown) == [("realtime:public", "INSERT"), (TOPIC, "postgres_changes")]


async def test_a_rejoin_takes_the_former_bindings_place() -> None:
    async with open_connection() as client:
        await client.send("phx_join", payload=payload(TODO))
        again = payload({**TODO, "filter": "id=eq.2"})
        assert await client.send("phx_join", payload=again, ref="2") == [
            accepted(again, "2"),
            system(),
        ]
        client.hub.publish([insert(TODOS, "1", "x"), insert(TODOS, "2", "x")])
        assert [frame["payload"]["data"]["record"]["id"] for frame in client.received()] == [2]
        await client.send("phx_leave", ref="3")
        assert client.hub.is_empty


async def test_without_rooms_who_asked_for_answers_is_told_and_the_channel_stays() -> None:
    broadcast = {
        "error": "broadcast_disabled",
        "reason": "BroadcastDisabled: this server has no broadcast",
    }
    presence = {"reason": "PresenceDisabled: this server has no presence"}
    for ack in (True, False):
        async with open_connection() as client:
            asked = payload(TODO)
            asked["config"]["broadcast"] = {"ack": ack}
            await client.send("phx_join", payload=asked)
            told = [answer["payload"] for answer in await client.send("broadcast")]
            assert told == [{"status": "error", "response": broadcast}] * ack
            (answer,) = await client.send("presence")
            assert answer["payload"] == {"status": "error", "response": presence}
            client.hub.publish([insert(TODOS, "1", "x")])
            assert len(client.received()) == 1


async def test_without_rooms_pushes_are_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    async with open_connection() as client:
        await client.send("phx_join", payload=payload(TODO))
        for event in ("broadcast", "presence", "broadcast", "presence", "broadcast"):
            await client.send(event)
        assert client.counted('realtime_broadcasts_refused_total{code="broadcast_disabled"} 3.0')
        assert client.counted('realtime_presence_refused_total{code="disabled"} 2.0')
    refused = [line for line in caplog.messages if "refused" in line]
    assert [line.split(": ", 1)[1] for line in refused] == [
        "BroadcastDisabled: this server has no broadcast",
        "PresenceDisabled: this server has no presence",
    ]


async def test_a_private_channel_is_refused_never_a_public_one() -> None:
    async with open_connection() as client:
        config = {**payload(TODO)["config"], "private": True}
        (answer,) = await client.send("phx_join", payload={"config": config})
        assert (answer["event"], answer["payload"]["status"]) == ("phx_reply", "error")
        reason = answer["payload"]["response"]["reason"]
        assert reason.startswith("PrivateChannelsDisabled: ")
        assert client.counted('realtime_joins_total{result="config"} 1.0')
        client.hub.publish([insert(TODOS, "1", "x")])
        assert client.received() == []


# The stream is not attached yet.


async def test_a_join_is_told_to_be_in_place_when_the_stream_is() -> None:
    stream = asyncio.Event()
    async with open_connection(attached=stream) as client:
        join = payload(TODO)
        assert await client.send("phx_join", payload=join) == [accepted(join)]
        stream.set()
        received: list[Any] = []
        await eventually(lambda: received.extend(client.received()) or received)
        assert received == [system()]


async def test_who_has_left_is_told_nothing_when_the_stream_attaches() -> None:
    stream = asyncio.Event()
    async with open_connection(attached=stream) as client:
        await client.send("phx_join", payload=payload(TODO))
        await client.send("phx_leave")
        await client.send("phx_join", "realtime:other", payload(TODO))
        stream.set()
        received: list[Any] = []
        await eventually(lambda: received.extend(client.received()) or received)
        assert [frame["topic"] for frame in received] == ["realtime:other"]


WAITING = payload(TODO, postgres_changes_options={"wait": True, "timeout": 60_000})
IMPATIENT = payload(TODO, postgres_changes_options={"wait": True, "timeout": 10})


async def test_a_join_that_waits_is_answered_when_the_stream_is_attached() -> None:
    stream = asyncio.Event()
    async with open_connection(attached=stream) as client:
        assert await client.send("phx_join", payload=WAITING) == []
        # Others pass it.
        assert await client.send("heartbeat", "phoenix") == [reply({}, topic="phoenix")]
        client.hub.publish([insert(TODOS, "1", "x")])
        stream.set()
        received: list[Any] = []
        await eventually(lambda: received.extend(client.received()) or received)
        assert received == [accepted(WAITING), system()]
        client.hub.publish([insert(TODOS, "2", "x")])
        assert len(client.received()) == 1


async def test_a_join_that_waits_needs_no_wait_when_all_is_well() -> None:
    async with open_connection() as client:
        assert await client.send("phx_join", payload=WAITING) == [accepted(WAITING), system()]


async def test_nothing_is_waited_for_without_bindings() -> None:
    async with open_connection(attached=asyncio.Event()) as client:
        join = payload(postgres_changes_options={"wait": True})
        assert await client.send("phx_join", payload=join) == [accepted(join)]


async def test_a_join_that_waited_in_vain_is_told_so() -> None:
    async with open_connection(attached=asyncio.Event()) as client:
        received: list[Any] = await client.send("phx_join", payload=IMPATIENT)
        await eventually(lambda: received.extend(client.received()) or received)
        assert received == [
            error(
                "PostgresChangesSubscribeTimeout: the database's changes are not being read yet, "
                "after 0.01 s; join again"
            )
        ]
        assert client.counted('realtime_joins_total{result="timeout"} 1.0')
        assert client.hub.is_empty


async def test_a_leave_or_another_join_withdraws_one_that_waits() -> None:
    stream = asyncio.Event()
    async with open_connection(attached=stream) as client:
        await client.send("phx_join", payload=WAITING, ref="1")
        assert await client.send("phx_leave", ref="2") == [reply({}, ref="2")]
        await client.send("phx_join", payload=WAITING, ref="3")
        await client.send("phx_join", payload=WAITING, ref="4")
        stream.set()
        received: list[Any] = []
        await eventually(lambda: received.extend(client.received()) or received)
        assert received == [accepted(WAITING, "4"), system()]


async def test_joins_that_wait_count_as_channels() -> None:
    async with open_connection(attached=asyncio.Event(), max_channels=2) as client:
        for name in ("realtime:a", "realtime:b"):
            assert await client.send("phx_join", name, WAITING) == []
        (answer,) = await client.send("phx_join", "realtime:c", WAITING)
        assert answer["payload"]["response"]["reason"].startswith("ChannelRateLimitReached: ")


async def test_the_end_of_the_connection_ends_all_waiting() -> None:
    stream = asyncio.Event()
    async with open_connection(attached=stream) as client:
        await client.send("phx_join", payload=WAITING)
        await client.send("phx_join", "realtime:other", payload(TODO))
        client.websocket.hang_up()
        await client.running
        assert client.hub.is_empty


class Expiring(AllowAll):
    """Its grants are good until they are looked at again."""

    async def join(self, request: JoinRequest) -> Grant:
        return Grant()

    def check(self, grant: Grant) -> Grant:
        raise TokenError("the token has expired")


async def test_a_token_that_expired_while_its_join_waited_is_refused() -> None:
    stream = asyncio.Event()
    async with open_connection(Expiring(), attached=stream) as client:
        await client.send("phx_join", payload=WAITING)
        stream.set()
        received: list[Any] = []
        await eventually(lambda: received.extend(client.received()) or received)
        assert received == [error("InvalidJWTToken: the token has expired")]


@pytest.mark.parametrize("ref", ["1", 7, 1.5, None])
async def test_a_ref_is_echoed_as_it_came(ref: Any) -> None:
    async with open_connection() as client:
        answer, _ = await client.send("phx_join", payload=payload(TODO), ref=ref)
        assert answer["ref"] == ref
