"""A connection tells a registrar of its channels, from before the reply until their end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from typing import Any

import attrs
import pytest
from websockets.protocol import State

from realtime_server.auth.grant import Grant
from realtime_server.errors import RefusedError, UnavailableError
from realtime_server.fanout.groups import TopicDelivery
from realtime_server.fanout.registrar import Registered
from realtime_server.fanout.topic_parser import Topic
from realtime_server.phoenix.joins import Binding
from tests.server.net.test_connection import TODOS, TOPIC, error, open_connection, reply
from tests.server_helpers import insert
from tests.waiting import eventually


@attrs.define(eq=False)
class Seat:
    topic: str
    viewer: Hashable
    notes: tuple[str, ...] = ()
    tell: Callable[[RefusedError], None] | None = None


class Book:
    """A registrar that remembers."""

    def __init__(
        self, refuse: str = "", error: type[RefusedError] = RefusedError, *, warn: str = ""
    ) -> None:
        self.refuse = refuse
        self.warn = warn
        self.error = error
        self.seats: list[Seat] = []
        self.asked: list[tuple[str, int | None]] = []

    async def register(
        self, topic: Topic, bindings: tuple[Binding, ...] | None, grant: Grant
    ) -> Registered:
        self.asked.append((topic.name, None if bindings is None else len(bindings)))
        if self.refuse:
            raise self.error(self.refuse)
        seat = Seat(topic.name, grant.claims.get("sub"))
        self.seats.append(seat)
        return seat

    def watch(self, registered: Registered, tell: Callable[[RefusedError], None]) -> None:
        assert isinstance(registered, Seat)
        registered.tell = tell
        if self.warn:
            tell(RefusedError(self.warn))

    async def renew(self, registered: Registered, grant: Grant) -> Hashable:
        assert isinstance(registered, Seat)
        if self.refuse:
            raise self.error(self.refuse)
        registered.viewer = grant.claims.get("sub")
        return registered.viewer

    def remove(self, registered: Registered) -> None:
        assert isinstance(registered, Seat)
        self.seats.remove(registered)

    @property
    def topics(self) -> list[str]:
        return [seat.topic for seat in self.seats]


class Names:
    """An authorizer whose tokens are names."""

    async def connect(self, request: Any) -> None:
        return None

    async def join(self, request: Any) -> Grant:
        return Grant({"sub": request.payload.get("user_token")})

    async def refresh(self, grant: Grant, token: Any) -> Grant:
        return Grant({"sub": token})

    def check(self, grant: Grant) -> Grant:
        return grant


async def test_a_channel_is_registered_while_it_is_joined() -> None:
    book = Book()
    async with open_connection(registrar=book) as client:
        await client.send("phx_join")
        assert book.topics == [TOPIC]
        await client.send("phx_leave")
        assert book.topics == []
        await client.send("phx_join")
        await client.send("phx_join", ref="2")
        assert book.topics == [TOPIC]
        await client.send("dance")
        assert book.topics == []
        await client.send("phx_join")
        await client.send("phx_join", topic="realtime:*")
    assert book.topics == []
    assert book.asked[0] == (TOPIC, None)


async def test_a_join_is_not_carried_out_when_the_connection_has_ended_meanwhile() -> None:
    goes_on = asyncio.Event()

    class Slow(Book):
        async def register(self, *arguments: Any) -> Registered:
            registered = await super().register(*arguments)
            await goes_on.wait()
            return registered

    book = Slow()
    async with open_connection(registrar=book) as client:
        await client.send("phx_join")
        await eventually(lambda: book.seats)
        client.websocket.protocol.state = State.CLOSING
        goes_on.set()
        await client.settle()
        assert client.received() == []
        assert client.hub.stats().subscriptions == 0
    assert book.seats == []


async def test_a_refusal_is_an_error_reply_and_nothing_stays() -> None:
    async with open_connection(registrar=Book("no such table")) as client:
        assert await client.send("phx_join") == [error("no such table")]
        assert client.hub.stats().subscriptions == 0


@pytest.mark.parametrize("payload", [{}, {"config": {}}])
async def test_what_a_joined_channel_gets_nothing_of_is_told_behind_the_reply(
    payload: dict[str, Any],
) -> None:
    def system(reason: str) -> dict[str, Any]:
        told = {
            "channel": "public:todos",
            "extension": "postgres_changes",
            "status": "error",
            "message": reason,
        }
        return {"topic": TOPIC, "event": "system", "ref": None, "payload": told}

    book = Book(warn="there is no table")
    async with open_connection(registrar=book) as client:
        answer, told = await client.send("phx_join", payload=payload)
        assert answer["payload"]["status"] == "ok"
        assert told == system("there is no table")
        [seat] = book.seats
        assert seat.tell is not None
        seat.tell(RefusedError("nor will there be"))
        assert client.received() == [system("nor will there be")]
        assert client.hub.stats().subscriptions == 1


async def test_bindings_are_told() -> None:
    book = Book()
    binding = {"event": "*", "schema": "public", "table": "todos"}
    config = {"config": {"postgres_changes": [binding, {**binding, "event": "INSERT"}]}}
    async with open_connection(registrar=book) as client:
        await client.send("phx_join", topic="realtime:room", payload=config)
        assert book.asked == [("realtime:room", 2)]


async def test_a_join_that_waited_in_vain_is_removed() -> None:
    book = Book()
    binding = {"event": "*", "schema": "public", "table": "todos"}
    options = {"wait": True, "timeout": 15000}
    config = {"config": {"postgres_changes": [binding], "postgres_changes_options": options}}
    async with open_connection(registrar=book, attached=asyncio.Event()) as client:
        await client.send("phx_join", topic="realtime:room", payload=config)
        await client.send("phx_leave", topic="realtime:room", ref="2")
        assert book.topics == []
        await client.send("phx_join", topic="realtime:room", payload=config)
        assert book.topics == ["realtime:room"]
    assert book.topics == []


async def test_a_new_token_moves_the_subscription_to_another_viewer() -> None:
    book = Book()
    async with open_connection(Names(), registrar=book) as client:
        await client.send("phx_join", payload={"user_token": "ann"})
        [before] = client.hub.deliveries(insert(TODOS, "1", "x"))
        assert before.group.viewer == "ann"
        assert await client.send("access_token", payload={"access_token": "bob"}) == []
        [after] = client.hub.deliveries(insert(TODOS, "1", "x"))
        assert isinstance(after, TopicDelivery)
        assert after.group.viewer == "bob"
        assert [seat.viewer for seat in book.seats] == ["bob"]
        assert client.hub.stats().subscriptions == 1


async def test_a_new_token_that_does_not_do_ends_the_channel() -> None:
    book = Book()
    async with open_connection(Names(), registrar=book) as client:
        assert await client.send("phx_join", payload={"user_token": "ann"}) == [reply({})]
        book.refuse = "there is no such role"
        assert await client.send("access_token", payload={"access_token": "bob"}) == [
            {"topic": TOPIC, "event": "phx_error", "ref": None, "payload": {}}
        ]
        assert book.topics == []
        assert client.hub.stats().subscriptions == 0


@pytest.mark.parametrize(
    ("refusal", "end"), [(RefusedError, "phx_close"), (UnavailableError, "phx_error")]
)
async def test_who_is_only_to_try_again_is_told_so_in_a_way_that_clients_do(
    refusal: type[RefusedError], end: str
) -> None:
    binding = {"event": "*", "schema": "public", "table": "todos"}
    config = {"config": {"postgres_changes": [binding]}}
    book = Book(error=refusal)
    async with open_connection(Names(), registrar=book) as client:
        await client.send("phx_join", payload=config)
        book.refuse = "not now"
        *_, system, last = await client.send("access_token", payload={"access_token": "bob"})
        assert (system["event"], system["payload"]["message"]) == ("system", "not now")
        assert last["event"] == end
        assert client.counted(f'realtime_channels_ended_total{{reason="{refusal.result}"}} 1.0')
