"""Connection: what a client sends, what the hub and the client get. No network."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosedOK
from websockets.protocol import State

from realtime_server.auth.authorizer import AllowAll, Authorizer, ConnectRequest, JoinRequest
from realtime_server.auth.grant import Grant
from realtime_server.errors import RefusedError, TokenError
from realtime_server.fanout import turns
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.presence import Presence
from realtime_server.fanout.registrar import Registrar
from realtime_server.fanout.rooms import Rooms
from realtime_server.fanout.source_attachment import Attachment
from realtime_server.metrics import Metrics
from realtime_server.net import connection as connection_module
from realtime_server.net.connection import Connection
from realtime_server.net.filter_limits import FilterBudget
from realtime_server.net.frame_limits import close_within
from realtime_server.net.private_channels import PrivateChannels
from realtime_server.net.services import Services
from realtime_server.phoenix.message_handler import Action, SocketState
from realtime_server.phoenix.serializers import SERIALIZERS
from realtime_server.server import RealtimeServer
from tests.hostile.wire import message, websocket
from tests.server_helpers import (
    FakeTransport,
    NullRegistrar,
    dev_config,
    insert,
    make_backlog,
    make_metrics,
    make_relation,
    open_config,
    texts,
)
from tests.waiting import eventually

TODOS = make_relation()
TOPIC = "realtime:public:todos"
REQUEST = ConnectRequest("/socket/websocket", {"vsn": "1.0.0"}, {"x-api-key": "k"})


class FakeWebSocket:
    """websockets' connection as far as Connection uses it."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.protocol = SimpleNamespace(state=State.OPEN, close_sent=None, extensions=[])
        self.send_in_progress = None
        self.close_code: int | None = None
        self.closed: tuple[int, str] | None = None
        self.incoming: asyncio.Queue[str | bytes | None] = asyncio.Queue()

    async def recv(self) -> str | bytes:
        data = await self.incoming.get()
        if data is None:
            raise ConnectionClosedOK(None, None)
        return data

    async def close(self, code: int, reason: str) -> None:
        self.closed = (code, reason)
        self.hang_up(code)

    def hang_up(self, code: int = 1001) -> None:
        self.protocol.state = State.CLOSED
        self.close_code = code
        self.incoming.put_nowait(None)


class Client:
    """The other end."""

    def __init__(
        self, websocket: FakeWebSocket, hub: Hub, metrics: Metrics, running: asyncio.Task[None]
    ) -> None:
        self.websocket = websocket
        self.hub = hub
        self.metrics = metrics
        self.running = running

    async def send(
        self, event: str, topic: str = TOPIC, payload: Any = None, ref: str = "1"
    ) -> Any:
        """Send a message; return the frames that answer it."""
        payload = {} if payload is None else payload
        frame = {"topic": topic, "event": event, "payload": payload, "ref": ref}
        self.websocket.incoming.put_nowait(json.dumps(frame))
        await self.settle()
        return self.received()

    async def settle(self) -> None:
        """Wait until the connection waits for the next message."""
        await eventually(self.websocket.incoming.empty)
        for _ in range(10):
            await asyncio.sleep(0)

    def received(self) -> list[Any]:
        return [json.loads(text) for text in texts(self.websocket.transport.sent())]

    def counted(self, line: str) -> bool:
        """Whether the metrics have a line."""
        return line in self.metrics.render().decode().splitlines()


@asynccontextmanager
async def open_connection(
    authorizer: Authorizer | None = None,
    *,
    clock: Callable[[], float] = lambda: 0.0,
    attached: asyncio.Event | None = None,
    attachment: Attachment | None = None,
    registrar: Registrar | None = None,
    rooms: Rooms | None = None,
    private: PrivateChannels | None = None,
    presence: Presence | None = None,
    vsn: str = "1.0.0",
    **settings: int,
) -> AsyncIterator[Client]:
    websocket, hub, metrics = FakeWebSocket(), Hub(), make_metrics()
    if attached is None:
        attached = asyncio.Event()
        attached.set()
    config = open_config(**settings)
    connection = Connection(
        cast(ServerConnection, websocket),
        REQUEST,
        SERIALIZERS[vsn],
        Services(
            hub=hub,
            attachment=Attachment(attached.is_set, attached.wait)
            if attachment is None
            else attachment,
            authorizer=authorizer or AllowAll(),
            registrar=registrar or NullRegistrar(),
            backlog=make_backlog(max_bytes=1024),
            budget=FilterBudget(config),
            config=config,
            metrics=metrics,
            clock=clock,
            rooms=rooms,
            private=private,
            presence=presence,
        ),
        peer="10.0.0.1:4321",
    )
    running = asyncio.create_task(connection.run())
    try:
        yield Client(websocket, hub, metrics, running)
    finally:
        websocket.hang_up()
        await asyncio.wait({running})
        if not running.cancelled():
            running.result()


def reply(response: Any, status: str = "ok", ref: str = "1", topic: str = TOPIC) -> dict[str, Any]:
    payload = {"status": status, "response": response}
    return {"topic": topic, "event": "phx_reply", "ref": ref, "payload": payload}


def error(reason: str) -> dict[str, Any]:
    return reply({"reason": reason}, "error")


async def test_a_joined_channel_gets_changes_until_it_leaves() -> None:
    async with open_connection() as client:
        client.hub.publish([insert(TODOS, "1", "before")])
        assert await client.send("phx_join") == [reply({})]
        client.hub.publish([insert(TODOS, "2", "during")])
        (frame,) = client.received()
        assert (frame["topic"], frame["payload"]["record"]["id"]) == (TOPIC, "2")
        assert await client.send("phx_leave", ref="2") == [
            reply({}, ref="2"),
            {"topic": TOPIC, "event": "phx_close", "ref": None, "payload": {}},
        ]
        client.hub.publish([insert(TODOS, "3", "after")])
        assert client.received() == []


async def test_todays_clients_in_v1_that_join_again_at_once_are_told_no_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "NEXT_WITHIN", 30.0)
    async with open_connection() as client:
        await client.send("phx_join", payload={"config": {}})
        # PyPI's client waits for this before it joins again.
        assert await client.send("phx_leave", ref="2") == [reply({}, ref="2")]
        assert await client.send("phx_join", payload={"config": {}}, ref="3") == [
            reply({"postgres_changes": []}, ref="3")
        ]


@pytest.mark.slow
async def test_todays_clients_in_v1_that_say_nothing_more_are_told_a_close_soon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection_module, "NEXT_WITHIN", 0.01)
    async with open_connection() as client:
        await client.send("phx_join", payload={"config": {}})
        frames = await client.send("phx_leave", ref="2")
        await eventually(lambda: frames.extend(client.received()) or len(frames) == 2)
        close = {"topic": TOPIC, "event": "phx_close", "ref": None, "payload": {}}
        assert frames == [reply({}, ref="2"), close]


async def test_a_rejoined_channel_gets_changes_once() -> None:
    async with open_connection() as client:
        await client.send("phx_join")
        assert await client.send("phx_join", ref="2") == [reply({}, ref="2")]
        client.hub.publish([insert(TODOS, "1", "x")])
        assert len(client.received()) == 1


async def test_an_unknown_event_ends_the_subscription() -> None:
    async with open_connection() as client:
        await client.send("phx_join")
        assert await client.send("dance") == [
            {"topic": TOPIC, "event": "phx_error", "ref": None, "payload": {}}
        ]
        client.hub.publish([insert(TODOS, "1", "x")])
        assert client.received() == []


@pytest.mark.parametrize("payload", [[], {}, {"user_token": "x"}])
async def test_a_join_without_config_is_accepted(payload: Any) -> None:
    async with open_connection() as client:
        assert await client.send("phx_join", payload=payload) == [reply({})]


async def test_a_filter_that_cannot_be_served_is_refused() -> None:
    async with open_connection() as client:
        reason = (
            "cannot filter by 'id=gt': unexpected end; expected '.' and a value after the operator "
            "(at character 6 of 'id=gt')"
        )
        assert await client.send("phx_join", topic=f"{TOPIC}:id=gt") == [
            reply({"reason": reason}, "error", topic=f"{TOPIC}:id=gt")
        ]
        assert client.hub.is_empty


class Guard(AllowAll):
    """Lets in who says the word, after a while."""

    def __init__(self) -> None:
        self.asked: list[JoinRequest] = []
        self.decide = asyncio.Event()

    async def connect(self, request: ConnectRequest) -> None:
        raise AssertionError

    async def join(self, request: JoinRequest) -> Grant:
        self.asked.append(request)
        await self.decide.wait()
        if request.payload != {"word": "sesame"}:
            raise RefusedError("say the word")
        return Grant()


async def test_the_authorizer_decides_on_a_join() -> None:
    guard = Guard()
    guard.decide.set()
    async with open_connection(guard) as client:
        assert await client.send("phx_join", payload={"word": "please"}) == [error("say the word")]
        assert await client.send("phx_join", payload={"word": "sesame"}) == [reply({})]
        assert guard.asked == [
            JoinRequest(REQUEST, TOPIC, {"word": "please"}),
            JoinRequest(REQUEST, TOPIC, {"word": "sesame"}),
        ]


async def test_what_comes_while_a_join_is_decided_is_answered_in_order() -> None:
    guard = Guard()
    async with open_connection(guard) as client:
        assert await client.send("phx_join", payload={"word": "sesame"}) == []
        heartbeat = {"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": "2"}
        client.websocket.incoming.put_nowait(json.dumps(heartbeat))
        await asyncio.sleep(0)
        client.hub.publish([insert(TODOS, "1", "x")])
        assert client.received() == []
        guard.decide.set()
        await client.settle()
        assert client.received() == [reply({}), reply({}, ref="2", topic="phoenix")]


async def test_a_client_that_goes_during_the_decision_leaves_nothing_behind() -> None:
    guard = Guard()
    async with open_connection(guard) as client:
        await client.send("phx_join", payload={"word": "sesame"})
        client.websocket.hang_up()
        guard.decide.set()
        await client.running
        assert client.hub.is_empty


async def test_the_end_of_the_connection_ends_its_subscriptions() -> None:
    async with open_connection() as client:
        await client.send("phx_join")
        await client.send("phx_join", topic="realtime:public:todos:id=eq.1")
        client.websocket.hang_up()
        await client.running
        assert client.hub.is_empty


@pytest.mark.parametrize(
    ("data", "closed"),
    [
        ("{", (1007, "the message is not JSON")),
        (b"\3", (1003, "a binary frame; with vsn=1.0.0 all are text")),
        ("{}", (1008, "a message is an object with topic, event, payload and ref")),
    ],
)
async def test_what_is_no_message_closes_the_connection(
    data: str | bytes, closed: tuple[int, str]
) -> None:
    async with open_connection() as client:
        await client.send("phx_join")
        client.websocket.incoming.put_nowait(data)
        await client.running
        assert client.websocket.closed == closed
        assert client.hub.is_empty


async def test_a_silent_client_is_closed_normally() -> None:
    async with open_connection(idle_timeout=10) as client:
        await client.running
        assert client.websocket.closed == (1000, "no message within the idle time")
        assert client.counted('realtime_limits_total{limit="idle"} 1.0')
        assert client.counted('realtime_connections_closed_total{code="1000"} 1.0')


async def test_a_client_that_does_not_take_the_close_frame_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def stuck(code: int, reason: str) -> None:
        await asyncio.Event().wait()

    async with open_connection() as client:
        monkeypatch.setattr(client.websocket, "close", stuck)
        closing = close_within(cast(ServerConnection, client.websocket), 1012, "x", within=0.01)
        await closing
        assert client.websocket.transport.aborted


async def test_a_connection_may_join_so_many_topics_and_no_more() -> None:
    async with open_connection(max_channels=2) as client:
        for name in ("realtime:1", "realtime:2"):
            assert await client.send("phx_join", topic=name) == [reply({}, topic=name)]
        refused = (
            "ChannelRateLimitReached: this connection has joined 2 topics, the most it may "
            "(MAX_CHANNELS); leave some"
        )
        assert await client.send("phx_join") == [error(refused)]
        # A second join of one of them is no further topic.
        again = reply({}, topic="realtime:2")
        assert await client.send("phx_join", topic="realtime:2") == [again]
        await client.send("phx_leave", topic="realtime:1")
        assert await client.send("phx_join") == [reply({})]
        assert client.counted('realtime_limits_total{limit="channels"} 1.0')
        assert client.counted('realtime_joins_total{result="limit"} 1.0')
        assert client.counted('realtime_joins_total{result="ok"} 4.0')


@pytest.mark.slow
async def test_a_connection_may_join_so_often_and_no_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "realtime.connection")
    refused = "ClientJoinRateLimitReached: more than 1 joins a second (MAX_JOINS_PER_SECOND); wait"
    async with open_connection(max_joins_per_second=1) as client:
        assert await client.send("phx_join") == [reply({})]
        for _ in range(3):
            assert await client.send("phx_join") == [error(refused)]
        # Whoever waits may join again.
        await eventually_joined(client)
        # One line is enough for all of them.
        assert caplog.text.count("ClientJoinRateLimitReached") == 1


async def test_a_long_join_counts_as_several() -> None:
    refused = "ClientJoinRateLimitReached: more than 9 joins a second (MAX_JOINS_PER_SECOND); wait"
    usual, long = ({"config": {"broadcast": {"x": "x" * size}}} for size in (400, 2000))
    accepted = [reply({"postgres_changes": []})]
    async with open_connection(max_joins_per_second=9) as client:
        assert await client.send("phx_join", payload=usual) == accepted
        assert await client.send("phx_join", payload=long) == accepted
        assert await client.send("phx_join", payload=usual) == [error(refused)]


async def test_what_filters_cost_is_bounded_until_their_topics_are_left() -> None:
    filters = ("id=gt.1,id=lt.9", "id=neq.4")
    bindings = [{"schema": "public", "table": "todos", "filter": each} for each in filters]
    three = {"config": {"postgres_changes": bindings}}
    async with open_connection(max_conditions=5) as client:

        async def join(topic: str) -> Any:
            # Behind it may be what else is told, and before it the phx_close of another.
            frames = await client.send("phx_join", topic, three)
            return next(frame["payload"] for frame in frames if frame["event"] == "phx_reply")

        assert (await join("realtime:a"))["status"] == "ok"
        assert (await join("realtime:b"))["response"]["reason"].startswith("TooManyConditions: ")
        assert client.counted('realtime_limits_total{limit="conditions"} 1.0')
        # To join anew gives back what the former join took.
        assert (await join("realtime:a"))["status"] == "ok"
        await client.send("phx_leave", "realtime:a")
        assert (await join("realtime:b"))["status"] == "ok"


async def eventually_joined(client: Client) -> None:
    """Try to join until it is allowed."""
    async with asyncio.timeout(30):
        while await client.send("phx_join") != [reply({})]:
            pass


async def test_a_payload_that_is_too_large_is_refused_and_the_connection_goes_on() -> None:
    refused = "PayloadTooLarge: the payload is larger than 1024 bytes (MAX_PAYLOAD_BYTES)"
    async with open_connection(max_payload_bytes=1024) as client:
        for event in ("phx_join", "access_token", "dance"):
            assert await client.send(event, payload=["x" * 1024]) == [error(refused)]
        assert await client.send("phx_join", payload=["x" * 1000]) == [reply({})]
        assert client.counted('realtime_limits_total{limit="payload"} 3.0')


async def test_a_topic_may_be_so_long_and_no_longer() -> None:
    longest = "realtime:" + "x" * (4096 - len("realtime:"))
    async with open_connection() as client:
        # Longer than this client's outbox may hold, so it is read in between.
        assert await client.send("phx_join", topic=longest) == [reply({}, topic=longest)]
        assert await client.send("phx_join", topic=longest + "x") == [
            reply(
                {"reason": "the topic is longer than 4096 characters"},
                "error",
                topic=longest + "x",
            )
        ]


async def test_a_client_that_floods_does_not_keep_the_others_waiting() -> None:
    async with open_connection() as client:
        heartbeat = {"topic": "phoenix", "event": "heartbeat", "payload": {}, "ref": "1"}
        for _ in range(100):
            client.websocket.incoming.put_nowait(json.dumps(heartbeat))
        rounds = 0
        while not client.websocket.incoming.empty():
            await asyncio.sleep(0)
            rounds += 1
            client.websocket.transport.sent()
        assert rounds >= 100


async def rounds_of_joins(client: Client, count: int) -> int:
    """Have a client join so many topics; return in how many rounds its messages were taken."""
    for number in range(count):
        frame = {"topic": f"{TOPIC}{number}", "event": "phx_join", "payload": {}, "ref": "1"}
        client.websocket.incoming.put_nowait(json.dumps(frame))
    rounds = 0
    while not client.websocket.incoming.empty():
        await asyncio.sleep(0)
        rounds += 1
        client.websocket.transport.sent()
    return rounds


async def test_joins_that_came_together_are_taken_in_one_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A busy machine may stand still for longer than a slice.
    monkeypatch.setattr(turns, "_SHARED_SLICE", 60.0)
    async with open_connection() as client:
        assert await rounds_of_joins(client, 16) <= 3


async def test_a_client_that_joins_without_end_does_not_keep_the_others_waiting() -> None:
    async with open_connection(max_channels=300) as client:
        assert await rounds_of_joins(client, 200) >= 200 / 20


async def test_a_client_that_falls_behind_is_cut_off() -> None:
    async with open_connection() as client:
        await client.send("phx_join")
        client.hub.publish([insert(TODOS, "1", "x" * 600)])
        client.hub.publish([insert(TODOS, "2", "x" * 600)])
        assert client.websocket.transport.aborted
        assert client.counted("realtime_slow_clients_total 1.0")


async def test_nothing_is_written_behind_a_close_frame() -> None:
    async with open_connection() as client:
        await client.send("phx_join")
        client.websocket.protocol.state = State.CLOSING
        client.hub.publish([insert(TODOS, "1", "x")])
        assert client.received() == []


async def test_one_line_is_logged_for_each_connect_join_refusal_and_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "realtime.connection")
    async with open_connection() as client:
        await client.send("phx_join")
        await client.send("heartbeat", topic="phoenix")
        await client.send("phx_join", topic=f"{TOPIC}:x")
        client.hub.publish([insert(TODOS, "1", "x")])
        client.websocket.hang_up(1001)
        await client.running
    assert [record.getMessage() for record in caplog.records] == [
        "connected: 10.0.0.1:4321",
        "joined: 'realtime:public:todos' by 10.0.0.1:4321",
        "join of 'realtime:public:todos…' by 10.0.0.1:4321 refused: its filter cannot be used, "
        "from character 2 on",
        "closed: 10.0.0.1:4321 (1001)",
    ]
    named = [vars(record) for record in caplog.records]
    assert {fields["peer"] for fields in named} == {"10.0.0.1:4321"}
    assert [fields["event"] for fields in named] == ["connect", "join", "join_refused", "close"]
    assert [fields.get("topic") for fields in named] == [None, TOPIC, f"{TOPIC}…", None]
    assert named[2]["reason"] == "its filter cannot be used, from character 2 on"
    assert named[3]["code"] == 1001


async def test_a_log_line_names_no_more_of_a_topic_than_it_shows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "realtime.connection")
    async with open_connection() as client:
        await client.send("phx_join", topic=f"realtime:{'x' * 4000}")
    (joined,) = (record for record in caplog.records if "joined" in record.message)
    assert vars(joined)["topic"] == f"realtime:{'x' * 191}"
    assert len(joined.message) < 250


async def test_cancelling_ends_the_subscriptions() -> None:
    async with open_connection() as client:
        await client.send("phx_join")
        client.running.cancel()
        await asyncio.wait({client.running})
        assert client.hub.is_empty


async def test_what_was_queued_when_the_connection_closed_is_not_acted_upon() -> None:
    async with open_connection() as client:
        client.websocket.protocol.state = State.CLOSING
        assert await client.send("phx_join") == []
        assert client.hub.stats().subscriptions == 0


# Tokens.


class Tickets(AllowAll):
    """A token is what it says: a name, and when it expires."""

    def __init__(self) -> None:
        self.now = 0.0
        self.revoked: set[str] = set()
        self._started: float | None = None

    def start(self) -> None:
        """Let the time go by."""
        self._started = asyncio.get_running_loop().time()

    def clock(self) -> float:
        if self._started is None:
            return self.now
        return asyncio.get_running_loop().time() - self._started

    def ticket(self, token: Any) -> Grant:
        name, _, expiry = str(token).partition("@")
        grant = Grant({"role": name}, int(expiry or 10**400), str(token))
        return self.check(grant)

    async def join(self, request: JoinRequest) -> Grant:
        return self.ticket(request.payload["user_token"])

    async def refresh(self, grant: Grant, token: Any) -> Grant:
        return self.ticket(token)

    def check(self, grant: Grant) -> Grant:
        if grant.role in self.revoked or (grant.expires_at or 0) <= self.clock():
            raise TokenError("the ticket is good no more")
        return grant


@asynccontextmanager
async def open_hall() -> AsyncIterator[tuple[Client, Tickets]]:
    tickets = Tickets()
    async with open_connection(tickets, clock=tickets.clock) as client:
        yield client, tickets


def phx(event: str, payload: Any, topic: str = TOPIC) -> dict[str, Any]:
    return {"topic": topic, "event": event, "ref": None, "payload": payload}


SYSTEM = {
    "channel": "public:todos",
    "extension": "system",
    "status": "error",
    "message": "the ticket is good no more",
}


async def test_a_refused_token_is_no_reason_to_the_first_generation_and_one_to_the_next() -> None:
    async with open_hall() as (client, _):
        for payload, reason in [
            ({"user_token": "ada@0"}, f"error occurred when joining {TOPIC}"),
            (
                {"user_token": "ada@0", "config": {}},
                "InvalidJWTToken: the ticket is good no more",
            ),
        ]:
            assert await client.send("phx_join", payload=payload) == [error(reason)]
        assert client.counted('realtime_joins_total{result="token"} 2.0')
        assert client.hub.stats().subscriptions == 0


@pytest.mark.parametrize(
    ("config", "end"),
    [
        ({}, [phx("phx_error", {})]),
        ({"config": {}}, [phx("system", SYSTEM), phx("phx_close", {})]),
    ],
)
async def test_at_its_expiry_a_channel_ends_and_the_others_stay(
    config: dict[str, Any], end: list[Any]
) -> None:
    async with open_hall() as (client, tickets):
        other = "realtime:public"
        await client.send("phx_join", payload={"user_token": "ada@100", **config})
        await client.send("phx_join", topic=other, payload={"user_token": "ben@150"})
        tickets.now = 100.0
        heartbeat = await client.send("heartbeat", topic="phoenix")
        assert heartbeat == [*end, reply({}, topic="phoenix")]
        client.hub.publish([insert(TODOS, "1", "x")])
        assert [frame["topic"] for frame in client.received()] == [other]
        assert client.counted('realtime_channels_ended_total{reason="token"} 1.0')
        assert client.counted("realtime_active_websocket_topic_total 1.0")


@pytest.mark.slow
async def test_the_timer_ends_a_channel_without_a_message() -> None:
    async with open_hall() as (client, tickets):
        tickets.start()
        await client.send("phx_join", topic="realtime:1", payload={"user_token": "ben@3600"})
        await client.send("phx_join", payload={"user_token": "ada@1"})
        await eventually(lambda: client.hub.stats().subscriptions == 1)
        assert client.received() == [phx("phx_error", {})]


async def test_a_refresh_takes_the_place_of_the_grant() -> None:
    async with open_hall() as (client, tickets):
        await client.send("phx_join", payload={"user_token": "ada@100"})
        assert await client.send("access_token", payload={"access_token": "eve@200"}) == []
        tickets.now = 150.0
        heartbeat = [reply({}, topic="phoenix")]
        assert await client.send("heartbeat", topic="phoenix") == heartbeat
        tickets.revoked = {"ada"}
        assert await client.send("heartbeat", topic="phoenix") == heartbeat
        tickets.revoked = {"eve"}
        assert await client.send("heartbeat", topic="phoenix") == [
            phx("phx_error", {}),
            *heartbeat,
        ]


async def test_a_refresh_that_is_refused_ends_the_channel() -> None:
    async with open_hall() as (client, _):
        await client.send("phx_join", payload={"user_token": "ada@100"})
        assert await client.send("access_token", payload={"access_token": "ada@0"}) == [
            phx("phx_error", {})
        ]
        assert client.hub.stats().subscriptions == 0
        # It can be joined again, as stock clients do.
        assert await client.send("phx_join", payload={"user_token": "ada@9"}) == [reply({})]


async def test_a_token_for_ever_needs_no_timer_of_that_length() -> None:
    async with open_hall() as (client, tickets):
        assert await client.send("phx_join", payload={"user_token": "ada"}) == [reply({})]
        tickets.now = 1e300
        heartbeat = await client.send("heartbeat", topic="phoenix")
        assert heartbeat == [reply({}, topic="phoenix")]


async def test_a_channel_that_left_is_not_ended_at_its_expiry() -> None:
    async with open_hall() as (client, tickets):
        await client.send("phx_join", payload={"user_token": "ada@100"})
        await client.send("phx_leave")
        tickets.now = 100.0
        assert await client.send("heartbeat", topic="phoenix") == [reply({}, topic="phoenix")]


async def test_the_end_of_a_channel_is_one_line_in_the_log_without_a_token(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "realtime.connection")
    async with open_hall() as (client, tickets):
        await client.send("phx_join", payload={"user_token": "ada@100"})
        tickets.now = 100.0
        await client.send("heartbeat", topic="phoenix")
    assert caplog.messages[2] == (
        "channel 'realtime:public:todos' of 10.0.0.1:4321 ended: the ticket is good no more"
    )
    assert "ada@" not in caplog.text


@pytest.mark.parametrize(
    ("code", "label"), [(1001, "1001"), (1012, "1012"), (4321, "other"), (None, "other")]
)
async def test_a_close_code_that_a_client_chose_is_no_label(code: Any, label: str) -> None:
    async with open_connection() as client:
        await client.settle()
        assert client.counted("realtime_active_websocket_connection_total 1.0")
        client.websocket.hang_up(code)
        await client.running
        assert client.counted(f'realtime_connections_closed_total{{code="{label}"}} 1.0')
        assert client.counted("realtime_active_websocket_connection_total 0.0")


@pytest.mark.slow
async def test_messages_that_wait_were_heard_when_they_came(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Joins are answered although the database is not there.
    async with RealtimeServer(dev_config("host=127.0.0.1 port=1")) as server:
        assert server.replay is not None
        visits, receive, heard = server.replay.needs.visits, SocketState.receive, []

        def receive_and_note(state: SocketState, *arguments: Any) -> list[Action]:
            heard.append(next(iter(visits)).heard)
            return receive(state, *arguments)

        monkeypatch.setattr(SocketState, "receive", receive_and_note)
        async with websocket(server.port) as (_, writer):
            writer.write(message("phoenix", "heartbeat", {}) * 3)
            await eventually(lambda: len(heard) == 3)
    assert len(set(heard)) == 1
