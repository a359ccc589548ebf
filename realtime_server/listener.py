"""Listener: one port for WebSockets and plain HTTP.

websockets serves no request bodies and h11 no WebSockets, so each new connection begins
with a protocol that only waits for the request's head. An upgrade is handed over to
websockets' connection as if it had been there from the start; everything else goes to h11.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import parse_qsl

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from realtime_core.errors import ServerError

from .auth import Authorizer, ConnectRequest
from .config import IpVersion
from .connection import CLOSE_TIMEOUT, close_within
from .endpoints import HttpProtocol
from .errors import RefusedError
from .phoenix.serializers import SERIALIZERS, Serializer

__all__ = ["Handler", "Listener", "bind"]

PATHS: Final = ("/socket/websocket", "/realtime/v1/websocket")

_HEAD_TIMEOUT: Final = 10.0
"""Seconds a client has to send its request's head."""
_MAX_HEAD: Final = 64 * 1024

Handler = Callable[[ServerConnection, ConnectRequest, Serializer], Awaitable[None]]
"""Serves an open WebSocket until it ends."""


def bind(port: int, *, loopback: bool, ip_version: IpVersion = IpVersion.IPV6) -> socket.socket:
    """Open the listening socket: 127.0.0.1, every IPv4 address, or every IPv6 and IPv4 one.

    Raises:
        ServerError: if the port cannot be had.
    """
    try:
        if loopback:
            return socket.create_server(("127.0.0.1", port), backlog=1024)
        if ip_version is IpVersion.IPV6 and socket.has_dualstack_ipv6():
            # asyncio would set IPV6_V6ONLY on a socket that it makes itself.
            return socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
            )
        return socket.create_server(("", port), backlog=1024)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise ServerError(
                f"port {port} is in use; stop the other program or set PORT to a free port"
            ) from exc
        raise ServerError(f"cannot listen on port {port}: {exc.strerror}; set PORT") from exc


class Listener:
    """Accepts connections and sends each where it belongs.

    Args:
        sock: bound and listening.
        handler: serves the WebSockets.
        authorizer: decides which handshakes succeed.
    """

    def __init__(self, sock: socket.socket, handler: Handler, authorizer: Authorizer) -> None:
        self._socket = sock
        self._handler = handler
        self._authorizer = authorizer
        self._server: Server | None = None
        self._plain = _Plain()

    async def start(self) -> None:
        """Begin to accept."""
        self._server = await serve(
            self._handle,
            sock=self._socket,
            # Any asyncio protocol will do: it is all the event loop sees of it.
            create_connection=cast(type[ServerConnection], self._make_protocol),
            process_request=self._process_request,
            server_header=None,
            # Shared frames cannot be compressed for each client, see docs/topics.
            compression=None,
            close_timeout=CLOSE_TIMEOUT,
        )

    def stop_accepting(self) -> None:
        """Take no more connections, and cut off those that are no WebSockets (yet)."""
        self._plain.close()
        if self._server is not None:
            # Its own way of closing waits for clients that do not read.
            self._server.close(close_connections=False)

    async def close(self, *, within: float = CLOSE_TIMEOUT) -> None:
        """Close every WebSocket with 1012, so that clients come back.

        What was written to a client is sent before its close frame. One that has not taken
        all of it after ``within`` seconds is cut off.
        """
        self.stop_accepting()
        server = self._server
        if server is None:
            return
        deadline = asyncio.get_running_loop().time() + within
        # Whoever is being accepted becomes a connection, or not.
        await asyncio.sleep(0)
        while connections := server.connections:
            await asyncio.gather(*(_close_by(deadline, one) for one in connections))
        await server.wait_closed()

    def _make_protocol(self, *args: Any, **kwargs: Any) -> asyncio.Protocol:
        return _Head(lambda: ServerConnection(*args, **kwargs), self._plain)

    async def _process_request(
        self, connection: ServerConnection, request: Request
    ) -> Response | None:
        asked = _connect_request(request)
        if asked.path not in PATHS:
            return _empty(HTTPStatus.NOT_FOUND)
        if asked.query.get("vsn") not in SERIALIZERS:
            return _empty(HTTPStatus.FORBIDDEN)
        try:
            await self._authorizer.connect(asked)
        except RefusedError:
            return _empty(HTTPStatus.FORBIDDEN)
        return None

    async def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        request = _connect_request(connection.request)
        await self._handler(connection, request, SERIALIZERS[request.query.get("vsn")])


async def _close_by(deadline: float, websocket: ServerConnection) -> None:
    within = max(deadline - asyncio.get_running_loop().time(), 0.0)
    # Its own patience, which begins with the close frame, must not end before ours.
    websocket.close_timeout = within
    await close_within(websocket, 1012, "the server restarts", within=within)


def _connect_request(request: Request) -> ConnectRequest:
    # Not urlsplit(): it raises on what a stranger may send, as in "//[".
    path, _, query = request.path.partition("?")
    headers = {name.lower(): value for name, value in request.headers.raw_items()}
    return ConnectRequest(path, dict(parse_qsl(query, keep_blank_values=True)), headers)


def _empty(status: HTTPStatus) -> Response:
    headers = Headers({"Content-Length": "0", "Connection": "close"})
    return Response(status.value, status.phrase, headers, b"")


class _Plain:
    """Connections that are not WebSockets (yet), to be cut off at the end."""

    def __init__(self) -> None:
        self.transports: set[asyncio.Transport] = set()
        self._closed = False

    def add(self, transport: asyncio.Transport) -> None:
        # The last ones are accepted while the listener closes; from Python 3.12 on it would
        # wait for them.
        if self._closed:
            transport.abort()
        self.transports.add(transport)

    def discard(self, transport: asyncio.Transport) -> None:
        self.transports.discard(transport)

    def close(self) -> None:
        self._closed = True
        for transport in list(self.transports):
            transport.abort()


class _Head(asyncio.Protocol):
    """Waits for a request's head, then becomes what the request asks for."""

    def __init__(self, make_websocket: Callable[[], ServerConnection], plain: _Plain) -> None:
        self._make_websocket = make_websocket
        self._plain = plain
        self._received = bytearray()
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._plain.add(self._transport)
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(_HEAD_TIMEOUT, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, _ = self._received.partition(b"\r\n\r\n")
        if not end and len(self._received) <= _MAX_HEAD:
            return
        self._deadline.cancel()
        protocol: asyncio.Protocol
        if end and _asks_for_websocket(bytes(head)):
            self._plain.discard(self._transport)
            protocol = self._make_websocket()
        else:
            # A head that is too long ends here too: h11 answers it with 431.
            transport = self._transport
            protocol = HttpProtocol(lambda: self._plain.discard(transport))
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        protocol.data_received(bytes(self._received))

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()
        self._plain.discard(self._transport)


def _asks_for_websocket(head: bytes) -> bool:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"upgrade":
            return value.strip().lower() == b"websocket"
    return False
