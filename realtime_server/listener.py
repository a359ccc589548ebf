"""Listener: one port for WebSockets and plain HTTP.

websockets serves no request bodies and h11 no WebSockets, so each new connection begins
with a protocol that only waits for the request's head. An upgrade is handed over to
websockets' connection as if it had been there from the start; everything else goes to h11.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, Final, cast
from urllib.parse import parse_qsl

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import InvalidHandshake
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.http11 import Request
from websockets.http11 import Response as HandshakeResponse

from realtime_core.errors import ServerError

from .auth import Authorizer, ConnectRequest
from .config import IpVersion, ServerConfig
from .connection import CLOSE_TIMEOUT, close_within, peer_of
from .endpoints import HttpProtocol, Response, Site
from .errors import RefusedError
from .guard import GuardedConnection
from .metrics import Metrics
from .patience import wait_at_most
from .phoenix.serializers import SERIALIZERS, Serializer

__all__ = ["Handler", "Listener", "bind", "deflate_factory"]

PATHS: Final = ("/socket/websocket", "/realtime/v1/websocket")

_END_OF_HEAD: Final = b"\r\n\r\n"
_MOST_TURNED_AWAY: Final = 100
"""Connections above the bound that are told so at the same time; further ones are cut off."""

logger = logging.getLogger("realtime.listener")

Handler = Callable[[ServerConnection, ConnectRequest, Serializer], Awaitable[None]]
"""Serves an open WebSocket until it ends."""


def bind(
    port: int,
    *,
    loopback: bool,
    ip_version: IpVersion = IpVersion.IPV6,
    send_buffer_bytes: int = 0,
) -> socket.socket:
    """Open the listening socket: 127.0.0.1, every IPv4 address, or every IPv6 and IPv4 one.

    Args:
        port: 0 for any.
        loopback: 127.0.0.1 only.
        ip_version: IPv6 takes IPv4 as well, where the system can.
        send_buffer_bytes: what the system holds back of each accepted connection, which has
            SO_SNDBUF from the listening one; 0: as it likes.

    Raises:
        ServerError: if the port cannot be had.
    """
    try:
        if loopback:
            sock = socket.create_server(("127.0.0.1", port), backlog=1024)
        elif ip_version is IpVersion.IPV6 and socket.has_dualstack_ipv6():
            # asyncio would set IPV6_V6ONLY on a socket that it makes itself.
            sock = socket.create_server(
                ("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
            )
        else:
            sock = socket.create_server(("", port), backlog=1024)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise ServerError(
                f"port {port} is in use; stop the other program or set PORT to a free port"
            ) from exc
        raise ServerError(f"cannot listen on port {port}: {exc.strerror}; set PORT") from exc
    if send_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    return sock


class Listener:
    """Accepts connections and sends each where it belongs.

    Args:
        sock: bound and listening.
        handler: serves the WebSockets.
        authorizer: decides which handshakes succeed.
        site: answers plain HTTP.
        config: its limits and origins.
        metrics: of the server.
    """

    def __init__(
        self,
        sock: socket.socket,
        handler: Handler,
        authorizer: Authorizer,
        *,
        site: Site,
        config: ServerConfig,
        metrics: Metrics,
    ) -> None:
        self._socket = sock
        self._handler = handler
        self._authorizer = authorizer
        self._config = config
        self._metrics = metrics
        self._server: Server | None = None
        self._handling: set[asyncio.Task[None]] = set()
        self._door = _Door(site, config, metrics)

    async def start(self) -> None:
        """Begin to accept."""
        self._server = await serve(
            self._handle,
            sock=self._socket,
            # Any asyncio protocol will do: it is all the event loop sees of it.
            create_connection=cast(type[ServerConnection], self._make_protocol),
            process_request=self._process_request,
            server_header=None,
            compression=None,
            extensions=[deflate_factory()] if self._config.websocket_compression else None,
            open_timeout=self._config.handshake_timeout / 1000,
            close_timeout=CLOSE_TIMEOUT,
            max_size=self._config.max_frame_bytes,
            logger=_Discreet(logging.getLogger("websockets.server"), {}),
        )

    def stop_accepting(self) -> None:
        """Take no more connections, and cut off those that are no WebSockets (yet)."""
        self._door.close()
        if self._server is not None:
            # Its own way of closing waits for clients that do not read.
            self._server.close(close_connections=False)

    async def close(self, *, within: float = CLOSE_TIMEOUT) -> None:
        """Close every WebSocket with 1012, so that clients come back.

        What was written to a client is sent before its close frame. One that has not taken
        all of it after ``within`` seconds is cut off, and so is what a client asked for and
        that is not done yet, as when the database does not answer.
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
        await wait_at_most(self._handling, _left_until(deadline))
        await server.wait_closed()

    def cut_off(self) -> None:
        """End every WebSocket and its handler at once."""
        for connection in self._server.connections if self._server is not None else ():
            connection.transport.abort()
        for task in self._handling:
            task.cancel()

    def _make_protocol(self, *args: Any, **kwargs: Any) -> asyncio.Protocol:
        def make_websocket(on_lost: Callable[[], None]) -> ServerConnection:
            return GuardedConnection(
                *args,
                frames_per_second=self._config.max_messages_per_second,
                max_unread_bytes=self._config.outbox_max_bytes,
                on_flood=lambda: self._metrics.limit("messages"),
                on_unread=self._count_slow_client,
                on_lost=on_lost,
                **kwargs,
            )

        return _Head(make_websocket, self._door)

    def _count_slow_client(self) -> None:
        self._metrics.outbox.slow_clients += 1

    async def _process_request(
        self, connection: ServerConnection, request: Request
    ) -> HandshakeResponse | None:
        result, response = await self._decide(_connect_request(request))
        if response is not None:
            logger.info("handshake by %s refused: %s", peer_of(connection), result)
        self._metrics.handshakes.labels(result).inc()
        return response

    async def _decide(self, asked: ConnectRequest) -> tuple[str, HandshakeResponse | None]:
        """Return what becomes of a handshake: its name, and the refusal if it is one."""
        if asked.path not in PATHS:
            return "path", _refusal(HTTPStatus.NOT_FOUND)
        if asked.query.get("vsn") not in SERIALIZERS:
            return "version", _refusal(HTTPStatus.FORBIDDEN)
        origins, origin = self._config.allowed_origins, asked.headers.get("origin")
        if origins and origin is not None and origin.lower() not in origins:
            return "origin", _refusal(HTTPStatus.FORBIDDEN, b"Not one of ALLOWED_ORIGINS.\n")
        try:
            await self._authorizer.connect(asked)
        except RefusedError as exc:
            return exc.result, _refusal(HTTPStatus.FORBIDDEN)
        return "ok", None

    async def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        request = _connect_request(connection.request)
        # Nobody reads headers again, and they take 2 KB of each connection.
        connection.request = Request(connection.request.path, Headers())
        connection.response = None
        task = asyncio.current_task()
        assert task is not None
        self._handling.add(task)
        try:
            await self._handler(connection, request, SERIALIZERS[request.query.get("vsn")])
        finally:
            self._handling.discard(task)


def deflate_factory() -> ServerPerMessageDeflateFactory:
    """Offer permessage-deflate such that the same compressed frame is good for every client."""
    return ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        # Nothing that takes memory is kept of a client between two of its messages.
        client_no_context_takeover=True,
    )


async def _close_by(deadline: float, websocket: ServerConnection) -> None:
    within = _left_until(deadline)
    # Its own patience, which begins with the close frame, must not end before ours.
    websocket.close_timeout = within
    await close_within(websocket, 1012, "the server restarts", within=within)


def _left_until(deadline: float) -> float:
    return max(deadline - asyncio.get_running_loop().time(), 0.0)


class _Discreet(logging.LoggerAdapter[logging.Logger]):
    """Keeps websockets from logging requests and frames, which hold tokens, at any level."""

    def isEnabledFor(self, level: int) -> bool:
        return level > logging.DEBUG and super().isEnabledFor(level)

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        # Version 16 logs what is wrong with a request, quoting it.
        if not isinstance(sys.exception(), InvalidHandshake):
            super().log(level, msg, *args, **kwargs)


def _connect_request(request: Request) -> ConnectRequest:
    # Not urlsplit(): it raises on what a stranger may send, as in "//[".
    path, _, query = request.path.partition("?")
    headers = {name.lower(): value for name, value in request.headers.raw_items()}
    return ConnectRequest(path, dict(parse_qsl(query, keep_blank_values=True)), headers)


def _refusal(status: HTTPStatus, body: bytes = b"") -> HandshakeResponse:
    headers = Headers({"Content-Length": str(len(body)), "Connection": "close"})
    return HandshakeResponse(status.value, status.phrase, headers, body)


class _Door:
    """Lets connections in, and knows those that are not WebSockets (yet), to cut them off."""

    def __init__(self, site: Site, config: ServerConfig, metrics: Metrics) -> None:
        self.config = config
        self.metrics = metrics
        self._site = site
        self._inside: set[asyncio.Transport] = set()
        self._turned_away: set[asyncio.Transport] = set()
        self._plain: set[asyncio.Transport] = set()
        self._closed = False

    def enter(self, transport: asyncio.Transport) -> bool:
        """Take a new connection in; return False if it was turned away."""
        if self._closed:
            # The last ones are accepted while the listener closes; from Python 3.12 on it
            # would wait for them.
            transport.abort()
            return False
        if len(self._inside) >= self.config.max_connections:
            self._turn_away(transport)
            return False
        self._inside.add(transport)
        self._plain.add(transport)
        return True

    def upgrade(self, transport: asyncio.Transport) -> None:
        """The connection is a WebSocket from now on."""
        self._plain.discard(transport)

    def leave(self, transport: asyncio.Transport) -> None:
        """The connection is gone."""
        for place in (self._inside, self._plain, self._turned_away):
            place.discard(transport)

    def serve(self, transport: asyncio.Transport, refusal: Response | None = None) -> HttpProtocol:
        """Let the connection speak HTTP, of which a refusal is the end."""
        protocol = HttpProtocol(
            self._site.respond,
            lambda: self.leave(transport),
            max_head_bytes=self.config.max_header_bytes,
        )
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if refusal is not None:
            protocol.send(refusal)
        return protocol

    def close(self) -> None:
        self._closed = True
        for transport in [*self._plain, *self._turned_away]:
            transport.abort()

    def _turn_away(self, transport: asyncio.Transport) -> None:
        self.metrics.limit("connections")
        if len(self._turned_away) >= _MOST_TURNED_AWAY:
            transport.abort()
            return
        self._turned_away.add(transport)
        body = (
            f"ConnectionRateLimitReached: {self.config.max_connections} connections are open, the "
            "most there may be (MAX_CONNECTIONS). Try again later.\n"
        )
        headers = (("retry-after", "5"),)
        self.serve(
            transport,
            Response(HTTPStatus.SERVICE_UNAVAILABLE, body=body.encode(), headers=headers),
        )


class _Head(asyncio.Protocol):
    """Waits for a request's head, then becomes what the request asks for."""

    def __init__(
        self, make_websocket: Callable[[Callable[[], None]], ServerConnection], door: _Door
    ) -> None:
        self._make_websocket = make_websocket
        self._door = door
        self._received = bytearray()
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if self._door.enter(self._transport):
            loop = asyncio.get_running_loop()
            timeout = self._door.config.handshake_timeout / 1000
            self._deadline = loop.call_later(timeout, self._give_up)

    def data_received(self, data: bytes) -> None:
        # Drop by drop, a head must not be searched from its beginning each time.
        start = max(len(self._received) - len(_END_OF_HEAD), 0)
        self._received += data
        end = self._received.find(_END_OF_HEAD, start)
        config = self._door.config
        if end < 0 and len(self._received) <= config.max_header_bytes:
            return
        self._stop_waiting()
        if not 0 <= end <= config.max_header_bytes:
            self._refuse(
                "header",
                HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
                f"The request's head is longer than {config.max_header_bytes} bytes "
                "(MAX_HEADER_BYTES).\n",
            )
            return
        head = bytes(self._received[:end])
        if _query_bytes(head) > config.max_query_bytes:
            self._refuse(
                "query",
                HTTPStatus.REQUEST_URI_TOO_LONG,
                f"The query is longer than {config.max_query_bytes} bytes (MAX_QUERY_BYTES).\n",
            )
            return
        self._become(_asks_for_websocket(head))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._door.leave(self._transport)

    def _become(self, websocket: bool) -> None:
        transport = self._transport
        if websocket:
            self._door.upgrade(transport)
            protocol: asyncio.Protocol = self._make_websocket(lambda: self._door.leave(transport))
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
        else:
            protocol = self._door.serve(transport)
        protocol.data_received(bytes(self._received))

    def _give_up(self) -> None:
        timeout = self._door.config.handshake_timeout
        self._refuse(
            "handshake",
            HTTPStatus.REQUEST_TIMEOUT,
            f"The request's head did not come within {timeout} ms (HANDSHAKE_TIMEOUT).\n",
        )
        # What came is read: nothing is lost by closing at once.
        self._transport.close()

    def _refuse(self, limit: str, status: HTTPStatus, body: str) -> None:
        self._door.metrics.limit(limit)
        self._door.serve(self._transport, Response(status, body=body.encode()))

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()


def _query_bytes(head: bytes) -> int:
    target = head.partition(b"\r\n")[0].split(b" ")[1:2]
    return len(target[0].partition(b"?")[2]) if target else 0


def _asks_for_websocket(head: bytes) -> bool:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"upgrade":
            return value.strip().lower() == b"websocket"
    return False
