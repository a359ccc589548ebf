"""Listener: one port for WebSockets and plain HTTP.

Each new connection comes through the :mod:`acceptor <realtime_server.net.acceptor>`. A request for
a WebSocket is handed over to websockets' connection as if that had read it from the start.
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
from websockets.server import ServerProtocol

from realtime_core.errors import ServerError

from ..auth.authorizer import Authorizer, ConnectRequest
from ..config import IpVersion, ServerConfig
from ..errors import RefusedError
from ..fanout.cancellation import cancel_within
from ..fanout.turns import Turns
from ..metrics import Metrics
from ..phoenix.reasons import CloseReason
from ..phoenix.serializers import SERIALIZERS, Serializer
from .acceptor import Acceptor, RequestHead
from .cycles import start_parser, stop_parser
from .frame_limits import CLOSE_TIMEOUT, BoundedConnection, close_within
from .http import Site
from .origins import is_allowed
from .slow_clients import Backlog

__all__ = ["Handler", "Listener", "bind", "deflate_factory", "reserve"]

PATHS: Final = ("/socket/websocket", "/realtime/v1/websocket")
"""Where WebSockets are served, with or without a slash at the end."""

BACKLOG: Final = 1024
"""Connections that may wait to be accepted; the system may have a lower bound (on Linux
net.core.somaxconn). A client that comes when the queue is full tries again after a second or
more."""
_ACCEPTED_AT_ONCE: Final = 10
"""Connections that are accepted in one round of the event loop. The others wait in the system's
queue, where their HANDSHAKE_TIMEOUT has not begun."""

_DECIDING: Final = 60.0
"""Seconds that a handshake may take whose request has come. Of thousands of clients that come at
once the last ones wait for long. If they were given up, they would come again, and others wait."""

logger = logging.getLogger("realtime.listener")

_NO_HEADERS: Final = Headers()

Handler = Callable[[ServerConnection, ConnectRequest, Serializer], Awaitable[None]]
"""Serves an open WebSocket until it ends."""


def bind(
    port: int,
    *,
    loopback: bool,
    ip_version: IpVersion = IpVersion.IPV6,
    send_buffer_bytes: int = 0,
    shared: bool = False,
) -> socket.socket:
    """Open the listening socket: 127.0.0.1, every IPv4 address, or every IPv6 and IPv4 one.

    Args:
        port: 0 for any free one.
        loopback: 127.0.0.1 only.
        ip_version: IPv6 takes IPv4 as well, where the system can.
        send_buffer_bytes: SO_SNDBUF of each accepted connection, which inherits it from the
            listening socket; 0: the system's default.
        shared: whether other processes may listen on the port, too; the system spreads connections
            over all of them.

    Raises:
        ServerError: if the port cannot be bound.
    """
    try:
        if loopback:
            sock = socket.create_server(("127.0.0.1", port), backlog=BACKLOG, reuse_port=shared)
        elif ip_version is IpVersion.IPV6 and socket.has_dualstack_ipv6():
            # asyncio would set IPV6_V6ONLY on a socket that it makes itself.
            sock = socket.create_server(
                ("", port),
                family=socket.AF_INET6,
                dualstack_ipv6=True,
                backlog=BACKLOG,
                reuse_port=shared,
            )
        else:
            sock = socket.create_server(("", port), backlog=BACKLOG, reuse_port=shared)
    except OSError as exc:
        if exc.errno == errno.EADDRINUSE:
            raise ServerError(
                f"port {port} is in use; stop the other program or set PORT to a free port"
            ) from exc
        raise ServerError(f"cannot listen on port {port}: {exc.strerror}; set PORT") from exc
    if send_buffer_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer_bytes)
    return sock


def reserve(port: int, *, loopback: bool, ip_version: IpVersion) -> socket.socket:
    """Take a port for several processes, each of which is to :func:`bind` it with ``shared``.

    Nobody connects to the socket that is returned. While it is open, processes of other users and
    those that do not share the port cannot take it.

    Args:
        port: as for :func:`bind`; ``loopback`` and ``ip_version``, too.
        loopback: 127.0.0.1 only.
        ip_version: IPv6 takes IPv4 as well, where the system can.

    Raises:
        ServerError: if the port cannot be bound. Another server's workers would share it.
    """
    with bind(port, loopback=loopback, ip_version=ip_version) as sock:
        address, family = sock.getsockname(), sock.family
        dualstack = family is socket.AF_INET6
    reserved = socket.socket(family)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if dualstack:
        reserved.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    try:
        reserved.bind(address)
    except OSError as exc:
        reserved.close()
        raise ServerError(f"cannot listen on port {address[1]}: {exc.strerror}; set PORT") from exc
    return reserved


class Listener:
    """Accepts connections, and hands each to what serves it.

    Args:
        sock: bound and listening.
        handler: serves an open WebSocket.
        authorizer: decides which handshakes succeed.
        site: answers plain HTTP requests.
        config: says limits and allowed origins.
        metrics: of the server.
        backlog: of the server: says when a client is too slow.
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
        backlog: Backlog,
    ) -> None:
        self._socket = sock
        self._handler = handler
        self._authorizer = authorizer
        self._config = config
        self._metrics = metrics
        self._server: Server | None = None
        self._handling: set[asyncio.Task[None]] = set()
        self.acceptor = Acceptor(site, config, metrics, backlog)
        """Knows all open connections."""

    async def start(self) -> None:
        """Begin to accept."""
        self._server = await serve(
            self._handle,
            sock=self._socket,
            # The event loop takes any asyncio protocol.
            create_connection=cast(type[ServerConnection], self._make_protocol),
            process_request=self.process_request,
            process_response=self._process_response,
            server_header=None,
            compression=None,
            extensions=[deflate_factory()] if self._config.websocket_compression else None,
            # The request's head has come in time. All that takes long from here on is the server's.
            open_timeout=_DECIDING,
            close_timeout=CLOSE_TIMEOUT,
            max_size=self._config.max_frame_bytes,
            backlog=_ACCEPTED_AT_ONCE,
            logger=DiscreetLogger(logging.getLogger("websockets.server"), {}),
        )
        # asyncio has one number for both: how many may wait, and how many it accepts in a row.
        self._socket.listen(BACKLOG)

    def stop_accepting(self) -> None:
        """Accept no more connections, and close those that are no WebSockets, or not yet."""
        self.acceptor.close()
        if self._server is not None:
            # Otherwise websockets would wait for clients that do not read.
            self._server.close(close_connections=False)

    async def close(self, *, within: float = CLOSE_TIMEOUT) -> None:
        """Close every WebSocket with code 1012, so that clients reconnect.

        A client gets what was written to it, and then its close frame. After ``within`` seconds the
        connections that are left are aborted, and requests that are not done yet are cancelled, as
        when the database does not answer.
        """
        self.stop_accepting()
        server = self._server
        if server is None:
            return
        deadline = asyncio.get_running_loop().time() + within
        # A connection that is being accepted is in server.connections after this round, or never.
        await asyncio.sleep(0)
        while connections := server.connections:
            await asyncio.gather(*(_close_by(deadline, one) for one in connections))
        await cancel_within(self._handling, _left_until(deadline))
        await server.wait_closed()

    def cut_off(self) -> None:
        """Abort every connection, and cancel every handler."""
        # server.connections has none of those that are waiting for the client's close frame.
        self.acceptor.cut_off()
        for task in self._handling:
            task.cancel()

    def _make_protocol(
        self, protocol: ServerProtocol, *args: Any, **kwargs: Any
    ) -> asyncio.Protocol:
        def make_websocket() -> ServerConnection:
            start_parser(protocol)
            return BoundedConnection(
                protocol,
                *args,
                frames_per_second=self._config.max_messages_per_second,
                observer=self.acceptor,
                **kwargs,
            )

        # For most requests that are none for a WebSocket nothing else would stop it.
        stop_parser(protocol)
        return RequestHead(make_websocket, self.acceptor)

    async def process_request(
        self, connection: ServerConnection, request: Request
    ) -> HandshakeResponse | None:
        # Hundreds of connections that have been open may all send their request at once.
        await Turns.shared().begin()
        try:
            result, response = await self._decide(_connect_request(request))
        except RefusedError as exc:
            # The client is not told why: someone who guesses tokens would learn from it.
            self.acceptor.count_refused(exc.result, connection.transport, exc.reason)
            return _refusal(HTTPStatus.FORBIDDEN)
        if response is not None:
            self.acceptor.count_refused(result, connection.transport)
        return response

    def _process_response(
        self, connection: ServerConnection, request: Request, response: HandshakeResponse
    ) -> None:
        if response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            self._metrics.handshakes.labels("ok").inc()
        elif isinstance(connection.protocol.handshake_exc, InvalidHandshake):
            # websockets has refused it, and its answer says why.
            self.acceptor.count_refused("malformed", connection.transport)

    async def _decide(self, asked: ConnectRequest) -> tuple[str, HandshakeResponse | None]:
        """Return the result of a handshake, as metrics name it, and the response if it is refused.

        Raises:
            RefusedError: if the authorizer refuses it.
        """
        if asked.path.removesuffix("/") not in PATHS:
            return "path", _refusal(HTTPStatus.NOT_FOUND)
        if asked.query.get("vsn") not in SERIALIZERS:
            return "version", _refusal(HTTPStatus.FORBIDDEN)
        if not is_allowed(asked.headers.get("origin"), self._config.allowed_origins):
            return "origin", _refusal(HTTPStatus.FORBIDDEN, b"Not one of ALLOWED_ORIGINS.\n")
        await self._authorizer.connect(asked)
        return "ok", None

    async def _handle(self, connection: ServerConnection) -> None:
        assert connection.request is not None
        request = _connect_request(connection.request)
        # The headers are not needed any more, and take 2 KB of each connection. websockets' parser
        # keeps the same request object.
        connection.request.headers = _NO_HEADERS
        connection.response = None
        task = asyncio.current_task()
        assert task is not None
        self._handling.add(task)
        try:
            await self._handler(connection, request, SERIALIZERS[request.query.get("vsn")])
        finally:
            self._handling.discard(task)


def deflate_factory() -> ServerPerMessageDeflateFactory:
    """Offer permessage-deflate without context, so that one compressed frame fits every client."""
    return ServerPerMessageDeflateFactory(
        server_no_context_takeover=True,
        # Nothing is kept in memory between two messages of a client.
        client_no_context_takeover=True,
    )


async def _close_by(deadline: float, websocket: ServerConnection) -> None:
    within = _left_until(deadline)
    # websockets' own timeout, which begins with the close frame, must not end before ours.
    websocket.close_timeout = within
    await close_within(
        websocket, CloseReason.RESTART.code, CloseReason.RESTART.told(), within=within
    )


def _left_until(deadline: float) -> float:
    return max(deadline - asyncio.get_running_loop().time(), 0.0)


class DiscreetLogger(logging.LoggerAdapter[logging.Logger]):
    """websockets' logger, without what may hold tokens: requests and frames, at any level."""

    def isEnabledFor(self, level: int) -> bool:
        return level > logging.DEBUG and super().isEnabledFor(level)

    def log(self, level: int, msg: object, *args: object, **kwargs: Any) -> None:
        # websockets 16 logs what is wrong with a request, and quotes it.
        if not isinstance(sys.exception(), InvalidHandshake):
            super().log(level, msg, *args, **kwargs)


def _connect_request(request: Request) -> ConnectRequest:
    # Not urlsplit(), which raises on some of what a client may send, as "//[".
    path, _, query = request.path.partition("?")
    headers = {name.lower(): value for name, value in request.headers.raw_items()}
    return ConnectRequest(path, dict(parse_qsl(query, keep_blank_values=True)), headers)


def _refusal(status: HTTPStatus, body: bytes = b"") -> HandshakeResponse:
    headers = Headers({"Content-Length": str(len(body)), "Connection": "close"})
    return HandshakeResponse(status.value, status.phrase, headers, body)
