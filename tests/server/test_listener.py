"""The listener's parts; tests/integration/test_stream_http.py has it on real sockets."""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import InvalidMessage
from websockets.http11 import Request

from realtime_core import ServerError
from realtime_server.auth import AllowAll, ConnectRequest
from realtime_server.config import IpVersion
from realtime_server.endpoints import HttpProtocol, Site
from realtime_server.errors import RefusedError
from realtime_server.listener import Listener, _Discreet, _Door, _Head, bind
from realtime_server.phoenix.serializers import Serializer
from tests.server_helpers import FakeTransport, make_metrics, open_config
from tests.waiting import eventually

UPGRADE = (
    b"GET /socket/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\n\r\n"
)


SITE = Site(why_not_ready=lambda: None, metrics=None, metrics_type="text/plain")


class FakeWebSocket(asyncio.Protocol):
    """Stands for websockets' connection: remembers what it was handed."""

    def __init__(self, on_lost: Callable[[], None]) -> None:
        self.on_lost = on_lost
        self.transport: object = None
        self.received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.received += data


class Arrival:
    """A new connection to the listener."""

    def __init__(self, door: _Door | None = None, **settings: int) -> None:
        self.transport = FakeTransport()
        self.door = door or _Door(SITE, open_config(**settings), make_metrics())
        self.head = _Head(FakeWebSocket, self.door)  # type: ignore[arg-type]
        self.head.connection_made(self.transport)

    @property
    def places(self) -> tuple[bool, bool, bool]:
        """Whether it is inside, whether it is plain, whether it was turned away."""
        door = self.door
        return (
            self.transport in door._inside,
            self.transport in door._plain,
            self.transport in door._turned_away,
        )

    def counted(self, limit: str) -> bool:
        """Whether something met a limit, once."""
        line = f'realtime_limits_total{{limit="{limit}"}} 1.0'
        return line in self.door.metrics.render().decode().splitlines()

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
    arrival.websocket.on_lost()
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
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n",
        b"GET /?Upgrade:websocket HTTP/1.1\r\nHost: x\r\nX-Upgrade: websocket\r\n\r\n",
        b"Upgrade: websocket\r\nHost: x\r\n\r\n",
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
    arrival.head.data_received(UPGRADE.replace(b"Host: x", b"Host: " + b"x" * 1024))
    assert arrival.transport.sent().startswith(b"HTTP/1.1 431 ")
    assert arrival.counted("header")


@pytest.mark.parametrize("upgrade", [b"Upgrade: websocket\r\n", b""])
async def test_a_query_may_be_so_long_and_no_longer(upgrade: bytes) -> None:
    head = b"GET /socket/websocket?%s HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n"
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


async def test_who_leaves_before_the_head_is_forgotten(arrival: Arrival) -> None:
    arrival.head.connection_lost(None)
    assert arrival.places == (False, False, False)
    assert arrival.head._deadline is not None
    assert arrival.head._deadline.cancelled()


async def test_the_end_cuts_off_who_is_here_and_who_was_accepted_meanwhile(
    arrival: Arrival,
) -> None:
    arrival.door.close()
    assert arrival.transport.aborted
    late = Arrival(arrival.door)
    assert late.transport.aborted
    late.head.connection_lost(None)


async def test_connections_beyond_the_bound_are_turned_away_with_the_reason() -> None:
    first = Arrival(max_connections=2)
    second = Arrival(first.door)
    second.head.data_received(UPGRADE)
    third = Arrival(first.door)
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
    second.websocket.on_lost()
    assert Arrival(first.door).places == (True, True, False)
    assert isinstance(third.transport.protocol, HttpProtocol)
    third.transport.protocol.connection_lost(None)
    assert third.places == (False, False, False)


async def test_of_many_beyond_the_bound_some_are_told_and_all_are_let_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("realtime_server.listener._MOST_TURNED_AWAY", 2)
    first = Arrival(max_connections=1)
    others = [Arrival(first.door) for _ in range(3)]
    assert [other.transport.aborted for other in others] == [False, False, True]
    first.door.close()
    assert all(other.transport.aborted for other in others)


# Handshakes.


class Selective(AllowAll):
    """Lets in who shows the right key."""

    def __init__(self) -> None:
        self.seen: list[ConnectRequest] = []

    async def connect(self, request: ConnectRequest) -> None:
        self.seen.append(request)
        if request.headers.get("x-api-key") != "sesame":
            raise RefusedError("no key")


async def _unused(
    connection: ServerConnection, request: ConnectRequest, serializer: Serializer
) -> None:
    raise AssertionError


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with closing(socket.socket()) as sock:
        yield sock


METRICS = make_metrics()


async def answer(
    sock: socket.socket,
    path: str,
    authorizer: Any = None,
    *,
    origins: tuple[str, ...] = (),
    **headers: str,
) -> tuple[int, bytes] | None:
    """Return status and body of a refused handshake, None for one that may go on."""
    listener = Listener(
        sock,
        _unused,
        authorizer or AllowAll(),
        site=SITE,
        config=open_config(allowed_origins=origins),
        metrics=METRICS,
    )
    request = Request(path, Headers({name.replace("_", "-"): headers[name] for name in headers}))
    connection: Any = SimpleNamespace(remote_address=("10.0.0.1", 4321))
    response = await listener._process_request(connection, request)
    return None if response is None else (response.status_code, bytes(response.body))


@pytest.mark.parametrize("origin", ["https://app.example", "HTTPS://App.Example", None])
async def test_allowed_origins_and_clients_without_one_are_let_in(
    sock: socket.socket, origin: str | None
) -> None:
    headers = {} if origin is None else {"Origin": origin}
    origins = ("https://app.example", "https://other.example")
    assert await answer(sock, "/socket/websocket", origins=origins, **headers) is None


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example", "https://app.example.evil", "null", ""]
)
async def test_other_origins_are_forbidden_where_some_are_named(
    sock: socket.socket, origin: str
) -> None:
    origins = ("https://app.example",)
    assert await answer(sock, "/socket/websocket", origins=origins, Origin=origin) == (
        403,
        b"Not one of ALLOWED_ORIGINS.\n",
    )
    assert await answer(sock, "/socket/websocket", Origin=origin) is None


@pytest.mark.parametrize("path", ["/socket/websocket", "/realtime/v1/websocket"])
@pytest.mark.parametrize(
    "query", ["", "?", "?vsn=1.0.0", "?vsn=2.0.0", "?apikey=x&vsn=2%2E0.0", "?vsn=9&vsn=1.0.0"]
)
async def test_both_paths_and_both_versions_are_served(
    sock: socket.socket, path: str, query: str
) -> None:
    assert await answer(sock, path + query) is None


@pytest.mark.parametrize("vsn", ["", "1", "1.0", "3.0.0", "2.0.0%20", "latest"])
async def test_another_version_is_forbidden(sock: socket.socket, vsn: str) -> None:
    assert await answer(sock, f"/socket/websocket?vsn={vsn}") == (403, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/socket",
        "/socket/websocket/",
        "/Socket/Websocket",
        "/socket/longpoll?vsn=2.0.0",
        "//[",
        "//[::1/socket/websocket",
        "*",
        "",
    ],
)
async def test_an_unknown_path_is_not_found(sock: socket.socket, path: str) -> None:
    assert await answer(sock, path) == (404, b"")


async def test_the_authorizer_decides_on_a_handshake(sock: socket.socket) -> None:
    authorizer = Selective()
    path = "/socket/websocket?vsn=2.0.0&token=a%20b&empty="
    assert await answer(sock, path, authorizer) == (403, b"")
    assert await answer(sock, path, authorizer, X_Api_Key="sesame") is None
    query = {"vsn": "2.0.0", "token": "a b", "empty": ""}
    assert authorizer.seen == [
        ConnectRequest("/socket/websocket", query, {}),
        ConnectRequest("/socket/websocket", query, {"x-api-key": "sesame"}),
    ]


# Binding.


def test_loopback_listens_on_this_machine_alone() -> None:
    with bind(0, loopback=True) as sock:
        assert sock.getsockname()[0] == "127.0.0.1"


def test_otherwise_it_listens_on_every_address_of_both_families() -> None:
    with bind(0, loopback=False) as sock:
        port = sock.getsockname()[1]
        hosts = ["127.0.0.1", "::1"] if sock.family == socket.AF_INET6 else ["127.0.0.1"]
        for host in hosts:
            try:
                socket.create_connection((host, port), timeout=10).close()
            except OSError as exc:
                # A machine may have IPv6 in its kernel and not on its loopback.
                if exc.errno != errno.EADDRNOTAVAIL:
                    raise


def test_with_ipv4_it_listens_on_addresses_of_that_family_alone() -> None:
    with bind(0, loopback=False, ip_version=IpVersion.IPV4) as sock:
        assert sock.family == socket.AF_INET
        assert sock.getsockname()[0] == "0.0.0.0"


def test_where_the_system_has_no_ipv6_it_listens_on_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "has_dualstack_ipv6", lambda: False)
    with bind(0, loopback=False) as sock:
        assert sock.family == socket.AF_INET


@pytest.mark.parametrize("loopback", [True, False])
def test_a_port_in_use_is_named_with_the_remedy(loopback: bool) -> None:
    with bind(0, loopback=loopback) as sock:
        port = sock.getsockname()[1]
        with pytest.raises(ServerError) as caught:
            bind(port, loopback=loopback)
    assert str(caught.value) == (
        f"port {port} is in use; stop the other program or set PORT to a free port"
    )


def test_a_port_that_may_not_be_had_is_named_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*args: object, **kwargs: object) -> socket.socket:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(socket, "create_server", refuse)
    with pytest.raises(ServerError, match="cannot listen on port 80: Permission denied; set PORT"):
        bind(80, loopback=True)


# What websockets logs.


def test_a_broken_request_is_not_logged_and_a_broken_handler_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.LoggerAdapter(_Discreet(logging.getLogger("websockets.server"), {}), {})
    for exc in (InvalidMessage("GET /?apikey=secret"), RuntimeError("broken")):
        try:
            raise exc
        except Exception:
            logger.error("it failed", exc_info=True)
    assert "secret" not in caplog.text
    assert "RuntimeError: broken" in caplog.text
