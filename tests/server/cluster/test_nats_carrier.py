"""NatsCarrier, on a connection that keeps what it is asked."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest

from realtime_server.cluster import nats_carrier
from realtime_server.cluster.carrier import MAX_WAITING_BYTES, NotSent
from realtime_server.cluster.client import Message
from realtime_server.cluster.connection import NatsConnection
from realtime_server.cluster.errors import LogError
from realtime_server.cluster.nats_carrier import NatsCarrier
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio


class Connection:
    """What a carrier needs of one."""

    max_payload = 1000

    def __init__(self) -> None:
        self.closed = asyncio.Event()
        self.sent: list[tuple[str, bytes]] = []
        self.takers: dict[str, Callable[[Message], None]] = {}
        self.takes = asyncio.Event()
        self.takes.set()
        self._on_closed: list[Callable[[], None]] = []

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.takers.clear()

    def on_closed(self, call: Callable[[], None]) -> None:
        self._on_closed.append(call)

    async def publish(self, subject: str, data: bytes) -> None:
        self.sent.append((subject, data))
        if not self.takes.is_set():
            await self.takes.wait()

    async def subscribe(self, subject: str, take: Callable[[Message], None]) -> Any:
        self.takers[subject] = take

        async def aclose() -> None:
            del self.takers[subject]

        end = type("Subscription", (), {"aclose": staticmethod(aclose)})
        return end()

    def end(self) -> None:
        self.closed.set()
        for call in self._on_closed:
            call()


class Nats:
    """Connections, one after the other."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.is_there = True

    async def connect(self) -> NatsConnection:
        if not self.is_there:
            raise LogError("nobody is there")
        self.connections.append(Connection())
        return cast(NatsConnection, self.connections[-1])


@contextlib.asynccontextmanager
async def running(nats: Nats) -> AsyncIterator[tuple[NatsCarrier, Connection]]:
    carrier = NatsCarrier("shop", nats.connect)
    task = asyncio.create_task(carrier.run())
    await eventually(lambda: not carrier.is_away)
    try:
        yield carrier, nats.connections[0]
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_messages_go_in_order_and_come_to_who_listens() -> None:
    async with running(Nats()) as (carrier, connection):
        heard: list[tuple[str, bytes]] = []
        carrier.begin(lambda subject, data: heard.append((subject, data)))
        carrier.listen("b.1")
        for number in range(200):
            assert carrier.send("b.2", bytes([number])) is None
        await eventually(lambda: len(connection.sent) == 200)
        assert connection.sent == [("shop.rt.b.2", bytes([number])) for number in range(200)]
        connection.takers["shop.rt.b.1"](Message("shop.rt.b.1", "", b"x"))
        assert heard == [("b.1", b"x")]
        carrier.ignore("b.1")
        await eventually(lambda: not connection.takers)
        # Who comes and goes at once needs no subscription.
        carrier.listen("b.3")
        carrier.ignore("b.3")
        carrier.listen("b.4")
        await eventually(lambda: [*connection.takers] == ["shop.rt.b.4"])
        assert carrier.send("b.2", bytes(1001)) is NotSent.TOO_LARGE


async def test_without_a_connection_nothing_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nats_carrier, "_PAUSE", 0.001)
    nats = Nats()
    async with running(nats) as (carrier, connection):
        changes: list[bool] = []
        carrier.changed = lambda: changes.append(carrier.is_away)
        carrier.listen("b.1")
        await eventually(lambda: connection.takers)
        connection.takes.clear()
        for _ in range(5):
            assert carrier.send("b.2", b"old") is None
        await eventually(lambda: connection.sent)
        nats.is_there = False
        connection.takes.set()
        connection.end()
        await eventually(lambda: carrier.is_away)
        assert carrier.send("b.2", b"old") is NotSent.AWAY
        assert carrier.lost + len(connection.sent) == 5
        carrier.listen("b.3")
        nats.is_there = True
        await eventually(lambda: not carrier.is_away)
        again = nats.connections[-1]
        await eventually(lambda: {*again.takers} == {"shop.rt.b.1", "shop.rt.b.3"})
        assert again.sent == []
        assert changes == [True, False]
    assert sum("at this server alone" in record.message for record in caplog.records) == 1


async def test_what_waits_is_bounded_and_a_nats_that_takes_nothing_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(nats_carrier, "_PAUSE", 0.001)
    monkeypatch.setattr(nats_carrier, "_STUCK", 0.02)
    nats = Nats()
    async with running(nats) as (carrier, connection):
        connection.max_payload = MAX_WAITING_BYTES
        carrier.max_bytes = MAX_WAITING_BYTES
        connection.takes.clear()
        answers = [carrier.send("b.1", bytes(MAX_WAITING_BYTES // 4)) for _ in range(6)]
        assert answers == [None] * 4 + [NotSent.FULL] * 2
        await eventually(lambda: len(nats.connections) == 2 and not carrier.is_away)
        assert carrier.lost == 3
        assert carrier.send("b.1", b"new") is None
        await eventually(lambda: nats.connections[1].sent == [("shop.rt.b.1", b"new")])


async def test_others_have_their_turn_while_thousands_of_rooms_are_subscribed_to() -> None:
    async with running(Nats()) as (carrier, connection):
        for number in range(1000):
            carrier.listen(f"b.{number}")
            carrier.send("b.1", b"")
        turns = 0
        while len(connection.takers) < 1000 or len(connection.sent) < 1000:
            await asyncio.sleep(0)
            turns += 1
        assert turns > 2 * 1000 / 50


async def test_at_its_end_it_says_so_behind_what_waits() -> None:
    nats = Nats()
    async with running(nats) as (carrier, connection):
        carrier.leave("n", b"bye")
        carrier.send("b.1", b"last")
    assert connection.sent == [("shop.rt.b.1", b"last"), ("shop.rt.n", b"bye")]
