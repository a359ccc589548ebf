"""The listener's parts; tests/integration/test_stream_http.py has it on real sockets."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request

from realtime_core import ServerError
from realtime_server.auth import AllowAll, ConnectRequest, JoinRequest
from realtime_server.config import IpVersion
from realtime_server.endpoints import HttpProtocol
from realtime_server.errors import RefusedError
from realtime_server.listener import Listener, _Head, _Plain, bind
from realtime_server.phoenix.serializers import Serializer
from tests.server_helpers import FakeTransport
from tests.waiting import eventually

UPGRADE = (
    b"GET /socket/websocket HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\n\r\n"
)


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

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.plain = _Plain()
        self.head = _Head(FakeWebSocket, self.plain)  # type: ignore[arg-type]
        self.head.connection_made(self.transport)

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
    assert arrival.plain.transports == set()


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
    assert arrival.plain.transports == {arrival.transport}
    arrival.head.data_received(request_bytes)
    assert isinstance(arrival.transport.protocol, HttpProtocol)
    assert arrival.transport.sent().startswith(b"HTTP/1.1 ")
    assert arrival.transport.closed
    arrival.transport.protocol.connection_lost(None)
    assert arrival.plain.transports == set()


async def test_a_head_that_is_too_long_is_refused_though_it_has_no_end(arrival: Arrival) -> None:
    arrival.head.data_received(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nlong: ")
    while arrival.transport.protocol is None:
        arrival.head.data_received(b"x" * 10_000)
    assert arrival.transport.sent().startswith(b"HTTP/1.1 431 ")
    assert arrival.transport.closed


async def test_a_head_that_does_not_come_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realtime_server.listener._HEAD_TIMEOUT", 0.01)
    arrival = Arrival()
    arrival.head.data_received(b"GET / HT")
    await eventually(lambda: arrival.transport.aborted)


async def test_who_leaves_before_the_head_is_forgotten(arrival: Arrival) -> None:
    arrival.head.connection_lost(None)
    assert arrival.plain.transports == set()
    assert arrival.head._deadline.cancelled()


async def test_the_end_cuts_off_who_is_here_and_who_was_accepted_meanwhile(
    arrival: Arrival,
) -> None:
    arrival.plain.close()
    assert arrival.transport.aborted
    late = FakeTransport()
    _Head(FakeWebSocket, arrival.plain).connection_made(late)  # type: ignore[arg-type]
    assert late.aborted


# Handshakes.


class Selective:
    """Lets in who shows the right key."""

    def __init__(self) -> None:
        self.seen: list[ConnectRequest] = []

    async def connect(self, request: ConnectRequest) -> None:
        self.seen.append(request)
        if request.headers.get("x-api-key") != "sesame":
            raise RefusedError("no key")

    async def join(self, request: JoinRequest) -> None:
        raise AssertionError


async def _unused(
    connection: ServerConnection, request: ConnectRequest, serializer: Serializer
) -> None:
    raise AssertionError


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with closing(socket.socket()) as sock:
        yield sock


async def answer(
    sock: socket.socket, path: str, authorizer: Any = None, **headers: str
) -> tuple[int, bytes] | None:
    """Return status and body of a refused handshake, None for one that may go on."""
    listener = Listener(sock, _unused, authorizer or AllowAll())
    request = Request(path, Headers({name.replace("_", "-"): headers[name] for name in headers}))
    response = await listener._process_request(None, request)  # type: ignore[arg-type]
    return None if response is None else (response.status_code, bytes(response.body))


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
