"""The listener's parts; tests/integration/test_stream_http.py has it on real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.exceptions import InvalidMessage
from websockets.http11 import Request

from realtime_core import ServerError
from realtime_server.auth.authorizer import AllowAll, Authorizer, ConnectRequest
from realtime_server.config import IpVersion
from realtime_server.errors import RefusedError
from realtime_server.net.http import Site
from realtime_server.net.listener import BACKLOG, DiscreetLogger, Listener, bind
from realtime_server.phoenix.serializers import Serializer
from tests.server_helpers import DEADLINE, FakeTransport, make_backlog, make_metrics, open_config
from tests.waiting import eventually

SITE = Site(why_not_ready=lambda: None, metrics=None, metrics_type="text/plain")

REQUEST = (
    b"GET /socket/websocket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


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
        backlog=make_backlog(),
    )
    request = Request(path, Headers({name.replace("_", "-"): headers[name] for name in headers}))
    connection: Any = SimpleNamespace(transport=FakeTransport())
    response = await listener.process_request(connection, request)
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


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("path", ["/socket/websocket", "/realtime/v1/websocket"])
@pytest.mark.parametrize(
    "query", ["", "?", "?vsn=1.0.0", "?vsn=2.0.0", "?apikey=x&vsn=2%2E0.0", "?vsn=9&vsn=1.0.0"]
)
async def test_both_paths_and_both_versions_are_served(
    sock: socket.socket, path: str, slash: str, query: str
) -> None:
    assert await answer(sock, path + slash + query) is None


@pytest.mark.parametrize("vsn", ["", "1", "1.0", "3.0.0", "2.0.0%20", "latest"])
async def test_another_version_is_forbidden(sock: socket.socket, vsn: str) -> None:
    assert await answer(sock, f"/socket/websocket?vsn={vsn}") == (403, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/socket",
        "/socket/websocket//",
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


# Accepting.


@pytest.mark.parametrize("loopback", [True, False])
@pytest.mark.parametrize(
    "make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_what_is_written_to_a_client_does_not_wait_for_what_it_has_not_acknowledged(
    make_loop: Callable[[], asyncio.AbstractEventLoop], loopback: bool
) -> None:
    with asyncio.Runner(loop_factory=make_loop) as runner:
        assert runner.run(_delays(loopback)) == {"plain": [False], "WebSocket": [False]}


async def _delays(loopback: bool) -> dict[str, list[bool]]:
    """Return which of the accepted connections leave TCP to delay what they write."""
    sock = bind(0, loopback=loopback)
    url = f"ws://127.0.0.1:{sock.getsockname()[1]}/socket/websocket"

    async def handle(connection: ServerConnection, *_: object) -> None:
        await connection.wait_closed()

    listener = Listener(
        sock,
        handle,
        AllowAll(),
        site=SITE,
        config=open_config(),
        metrics=make_metrics(),
        backlog=make_backlog(),
    )
    await listener.start()
    acceptor, found = listener.acceptor, {}
    async with asyncio.timeout(DEADLINE):
        # It is plain until it has sent something.
        _, plain = await asyncio.open_connection("127.0.0.1", sock.getsockname()[1])
        await eventually(lambda: len(acceptor.connections) == 1)
        found["plain"] = [_is_delayed(one) for one in acceptor.connections]
        plain.transport.abort()
        await eventually(lambda: not acceptor.connections)
        async with connect(url):
            found["WebSocket"] = [_is_delayed(one) for one in acceptor.connections]
        await listener.close()
    return found


def _is_delayed(transport: asyncio.Transport) -> bool:
    """Say whether Nagle's algorithm is in force."""
    sock = transport.get_extra_info("socket")
    return not sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def _backlog(sock: socket.socket) -> int:
    """Return how many connections may wait to be accepted, as the kernel has it."""
    # struct tcp_info in Linux' include/uapi/linux/tcp.h: of a listening socket, tcpi_sacked.
    return int(
        struct.unpack_from("I", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32), 28)[0]
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells how long the queue may be")
@pytest.mark.parametrize(
    "make_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
def test_as_many_may_wait_to_be_accepted_as_are_asked_for(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    async def start() -> list[int]:
        with bind(0, loopback=True) as sock:
            found = [_backlog(sock)]
            async with _listening(sock):
                return [*found, _backlog(sock)]

    at_most = int(Path("/proc/sys/net/core/somaxconn").read_text())
    with asyncio.Runner(loop_factory=make_loop) as runner:
        assert runner.run(start()) == [min(BACKLOG, at_most)] * 2


@pytest.mark.slow
async def test_clients_who_all_come_at_once_wait_in_the_queue_and_are_accepted() -> None:
    many = 600
    with bind(0, loopback=True) as sock:
        async with _listening(sock) as listener, contextlib.AsyncExitStack() as stack:
            # Nobody accepts meanwhile: the loop is not given a turn. One for whom there is no
            # room would be tried again by the kernel after a second.
            for _ in range(many):
                stack.enter_context(socket.create_connection(sock.getsockname(), timeout=0.9))
            await eventually(lambda: len(listener.acceptor.connections) == many)


class Costly(AllowAll):
    """Takes a millisecond for each handshake, and notes in which round of the event loop."""

    def __init__(self) -> None:
        self.round = 0
        self.rounds: list[int] = []

    async def connect(self, request: ConnectRequest) -> None:
        self.rounds.append(self.round)
        until = time.perf_counter() + 0.001
        while time.perf_counter() < until:
            pass

    def count(self) -> None:
        self.round += 1
        asyncio.get_running_loop().call_soon(self.count)


@pytest.mark.slow
async def test_many_handshakes_at_once_leave_others_their_rounds_of_the_event_loop() -> None:
    many, costly = 60, Costly()
    with bind(0, loopback=True) as sock:
        async with _listening(sock, costly) as listener, contextlib.AsyncExitStack() as stack:
            clients = [
                stack.enter_context(socket.create_connection(sock.getsockname(), timeout=0.9))
                for _ in range(many)
            ]
            await eventually(lambda: len(listener.acceptor.connections) == many)
            costly.count()
            for client in clients:
                client.sendall(REQUEST)
            await eventually(lambda: len(costly.rounds) == many)
    assert max(Counter(costly.rounds).values()) <= 3


class Waiting(AllowAll):
    """Decides when it is told to."""

    def __init__(self) -> None:
        self.may_decide = asyncio.Event()

    async def connect(self, request: ConnectRequest) -> None:
        await self.may_decide.wait()


@pytest.mark.slow
async def test_a_handshake_may_take_the_server_longer_than_its_client() -> None:
    """Of thousands that come at once the last ones wait long. They would only come again."""
    authorizer = Waiting()
    with bind(0, loopback=True) as sock:
        async with _listening(sock, authorizer, handshake_timeout=20):
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(REQUEST)
            answer = asyncio.create_task(reader.readuntil(b"\r\n\r\n"))
            await asyncio.sleep(0.2)
            authorizer.may_decide.set()
            assert (await answer).startswith(b"HTTP/1.1 101 ")
            writer.close()


@contextlib.asynccontextmanager
async def _listening(
    sock: socket.socket, authorizer: Authorizer | None = None, **settings: int
) -> AsyncIterator[Listener]:
    listener = Listener(
        sock,
        _unused,
        authorizer or AllowAll(),
        site=SITE,
        config=open_config(**settings),
        metrics=make_metrics(),
        backlog=make_backlog(),
    )
    await listener.start()
    try:
        yield listener
    finally:
        await listener.close()


# What websockets logs.


def test_a_broken_request_is_not_logged_and_a_broken_handler_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    logger = logging.LoggerAdapter(DiscreetLogger(logging.getLogger("websockets.server"), {}), {})
    for exc in (InvalidMessage("GET /?apikey=secret"), RuntimeError("broken")):
        try:
            raise exc
        except Exception:
            logger.error("it failed", exc_info=True)
    assert "secret" not in caplog.text
    assert "RuntimeError: broken" in caplog.text
