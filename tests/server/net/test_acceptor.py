"""The acceptor: new connections without a network; integration/test_stream_http.py has sockets."""

from __future__ import annotations

import asyncio
import socket
from itertools import pairwise

import pytest

from realtime_server.net import acceptor
from realtime_server.net.acceptor import Acceptor, RequestHead
from realtime_server.net.http import HttpProtocol, Site
from tests.server_helpers import FakeTransport, make_backlog, make_metrics, open_config
from tests.waiting import eventually

UPGRADE = (
    b"GET /socket/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\n\r\n"
)


SITE = Site(why_not_ready=lambda: None, metrics=None, metrics_type="text/plain")


class FakeWebSocket(asyncio.Protocol):
    """Stands for websockets' connection: remembers what it was handed."""

    def __init__(self) -> None:
        self.transport: object = None
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data


class Arrival:
    """A new connection to the listener."""

    def __init__(self, acceptor: Acceptor | None = None, **settings: int) -> None:
        self.transport = FakeTransport()
        self.acceptor = acceptor or Acceptor(
            SITE, open_config(**settings), make_metrics(), make_backlog()
        )
        self.head = RequestHead(FakeWebSocket, self.acceptor)
        self.head.connection_made(self.transport)

    @property
    def places(self) -> tuple[bool, bool, bool]:
        """Whether it is inside, whether it is plain, whether it was turned away."""
        acceptor = self.acceptor
        return (
            self.transport in acceptor.connections,
            self.transport in acceptor.plain,
            self.transport in acceptor.turned_away,
        )

    def counted(self, limit: str) -> bool:
        """Whether something met a limit, once."""
        line = f'realtime_limits_total{{limit="{limit}"}} 1.0'
        return line in self.acceptor.metrics.render().decode().splitlines()

    @property
    def websocket(self) -> FakeWebSocket:
        assert isinstance(self.transport.protocol, FakeWebSocket)
        return self.transport.protocol


@pytest.fixture
async def arrival() -> Arrival:
    return Arrival()


async def test_an_upgrade_is_handed_over_as_if_it_had_been_websockets_from_the_start(
    arrival: Arrival,
) -> None:
    arrival.head.data_received(UPGRADE + b"\x81\x80first frame")
    assert arrival.websocket.transport is arrival.transport
    assert arrival.websocket.received == UPGRADE + b"\x81\x80first frame"
    assert arrival.places == (True, False, False)
    arrival.acceptor.forget(arrival.transport)
    assert arrival.places == (False, False, False)


async def test_a_head_in_pieces_is_handed_over_whole(arrival: Arrival) -> None:
    for place in range(len(UPGRADE) - 1):
        arrival.head.data_received(UPGRADE[place : place + 1])
        assert arrival.transport.protocol is None
    arrival.head.data_received(UPGRADE[-1:])
    assert arrival.websocket.received == UPGRADE


@pytest.mark.parametrize(
    "upgrade", [b"Upgrade: websocket", b"upgrade:WebSocket", b"UPGRADE:  WEBSOCKET  "]
)
async def test_an_upgrade_is_one_in_any_case(arrival: Arrival, upgrade: bytes) -> None:
    arrival.head.data_received(b"GET / HTTP/1.1\r\nA: b\r\n" + upgrade + b"\r\n\r\n")
    assert arrival.websocket.received


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\n\r\n",
        b"GET /?Upgrade:websocket HTTP/1.1\r\nHost: localhost\r\nX-Upgrade: websocket\r\n\r\n",
        b"Upgrade: websocket\r\nHost: localhost\r\n\r\n",
        b"\0\xff\r\n\r\n",
    ],
)
async def test_everything_else_is_http_and_closed_at_the_end(
    arrival: Arrival, request_bytes: bytes
) -> None:
    assert arrival.places == (True, True, False)
    arrival.head.data_received(request_bytes)
    assert isinstance(arrival.transport.protocol, HttpProtocol)
    assert arrival.transport.sent().startswith(b"HTTP/1.1 ")
    assert arrival.transport.closed or arrival.transport.half_closed
    arrival.transport.protocol.connection_lost(None)
    assert arrival.places == (False, False, False)


async def test_a_head_that_is_too_long_is_refused_though_it_has_no_end(arrival: Arrival) -> None:
    arrival.head.data_received(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nlong: ")
    while arrival.transport.protocol is None:
        arrival.head.data_received(b"x" * 10_000)
    answer = arrival.transport.sent()
    assert answer.startswith(b"HTTP/1.1 431 ")
    assert answer.endswith(b"The request's head is longer than 65536 bytes (MAX_HEADER_BYTES).\n")
    assert arrival.transport.half_closed
    assert arrival.counted("header")


async def test_a_head_that_is_too_long_is_refused_though_it_came_whole() -> None:
    arrival = Arrival(max_header_bytes=1024)
    arrival.head.data_received(UPGRADE.replace(b"Host: localhost", b"Host: " + b"x" * 1024))
    assert arrival.transport.sent().startswith(b"HTTP/1.1 431 ")
    assert arrival.counted("header")


@pytest.mark.parametrize("upgrade", [b"Upgrade: websocket\r\n", b""])
async def test_a_query_may_be_so_long_and_no_longer(upgrade: bytes) -> None:
    head = b"GET /socket/websocket?%s HTTP/1.1\r\nHost: localhost\r\n" + upgrade + b"\r\n"
    fitting = Arrival(max_query_bytes=1024)
    fitting.head.data_received(head % (b"x" * 1024))
    assert fitting.transport.sent()[:12] in (b"", b"HTTP/1.1 404")
    arrival = Arrival(max_query_bytes=1024)
    arrival.head.data_received(head % (b"x" * 1025))
    answer = arrival.transport.sent()
    assert answer.startswith(b"HTTP/1.1 414 ")
    assert answer.endswith(b"The query is longer than 1024 bytes (MAX_QUERY_BYTES).\n")
    assert arrival.counted("query")


async def test_a_head_that_does_not_come_in_time_is_given_up() -> None:
    arrival = Arrival(handshake_timeout=10)
    arrival.head.data_received(b"GET / HT")
    await eventually(lambda: arrival.transport.closed)
    answer = arrival.transport.sent()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert answer.endswith(b"The request's head did not come within 10 ms (HANDSHAKE_TIMEOUT).\n")
    assert arrival.counted("handshake")


async def test_those_whose_time_is_up_at_once_are_given_up_a_few_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A thousand take as long as others' heartbeats should not have to wait."""
    monkeypatch.setattr(acceptor, "_SLICE", 0.0)
    arrivals = [Arrival(handshake_timeout=10)]
    arrivals += [Arrival(arrivals[0].acceptor) for _ in range(50)]
    late = arrivals.pop()
    given_up: list[int] = []

    def count() -> None:
        given_up.append(sum(one.transport.is_closing() for one in arrivals))
        if given_up[-1] == 10:
            # One of those that wait for it sends its request after all.
            late.head.data_received(UPGRADE)
        if given_up[-1] < 50:
            asyncio.get_running_loop().call_soon(count)

    count()
    await eventually(lambda: given_up[-1] == 50)
    assert max(after - before for before, after in pairwise(given_up)) == 1
    assert isinstance(late.transport.protocol, FakeWebSocket)
    assert not late.transport.is_closing()


async def test_who_leaves_before_the_head_is_forgotten(arrival: Arrival) -> None:
    assert arrival.head.is_waiting
    arrival.head.connection_lost(None)
    assert arrival.places == (False, False, False)
    assert not arrival.head.is_waiting


async def test_the_end_cuts_off_who_is_here_and_who_was_accepted_meanwhile(
    arrival: Arrival,
) -> None:
    arrival.acceptor.close()
    assert arrival.transport.aborted
    late = Arrival(arrival.acceptor)
    assert late.transport.aborted
    late.head.connection_lost(None)


async def test_connections_beyond_the_bound_are_turned_away_with_the_reason() -> None:
    first = Arrival(max_connections=2)
    second = Arrival(first.acceptor)
    second.head.data_received(UPGRADE)
    third = Arrival(first.acceptor)
    assert third.places == (False, False, True)
    answer = third.transport.sent()
    assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"\r\nretry-after: 5\r\n" in answer
    assert answer.endswith(
        b"\r\n\r\nConnectionRateLimitReached: 2 connections are open, the most there may be "
        b"(MAX_CONNECTIONS). Try again later.\n"
    )
    assert third.counted("connections")
    # Where one goes, another may come.
    second.acceptor.forget(second.transport)
    assert Arrival(first.acceptor).places == (True, True, False)
    assert isinstance(third.transport.protocol, HttpProtocol)
    third.transport.protocol.connection_lost(None)
    assert third.places == (False, False, False)


async def test_of_many_beyond_the_bound_some_are_told_and_all_are_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("realtime_server.net.acceptor._MAX_TURNED_AWAY", 2)
    first = Arrival(max_connections=1)
    others = [Arrival(first.acceptor) for _ in range(3)]
    assert [other.transport.aborted for other in others] == [False, False, True]
    first.acceptor.close()
    assert all(other.transport.aborted for other in others)


async def test_little_is_read_at_once_from_a_client_that_has_sent_much() -> None:
    sizes: list[int] = []

    class Reader(FakeWebSocket):
        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            sizes.append(len(data))

    websocket = Reader()
    accepting = Acceptor(SITE, open_config(), make_metrics(), make_backlog())
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.sendall(UPGRADE + bytes(100_000))
        loop = asyncio.get_running_loop()
        transport, _ = await loop.connect_accepted_socket(
            lambda: RequestHead(lambda: websocket, accepting), ours
        )
        await eventually(lambda: sum(sizes) == len(UPGRADE) + 100_000)
        # Others have a turn between two of these.
        assert max(sizes) <= 8192
        transport.abort()
