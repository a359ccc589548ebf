"""Acceptor: decides whether a new connection may come in, and what serves it.

websockets serves no request bodies, and h11 no WebSockets. So each new connection begins with
:class:`RequestHead`, a protocol that only waits for the head of the first request. A request to
upgrade to a WebSocket is handed to websockets, every other one to h11.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import deque
from collections.abc import Callable
from http import HTTPStatus
from typing import Final, cast

from ..config import ServerConfig
from ..logs import peer_name
from ..metrics import Metrics
from .cycles import untie_transport
from .forwarded import ClientAddresses
from .http import BodyLimits, HttpProtocol, Response, Site
from .origins import is_loopback, why_refused
from .outbox import cut_off
from .slow_clients import Backlog

__all__ = ["Acceptor", "RequestHead"]

_END_OF_HEAD: Final = b"\r\n\r\n"
_MAX_TURNED_AWAY: Final = 100
"""Connections beyond MAX_CONNECTIONS that are answered at the same time, with 503; further ones are
closed without an answer."""


_MOST_READ: Final = 8192
"""Bytes that are read from a connection at once: what comes of them is parsed before anybody else
has a turn, which takes a millisecond if it is 25 short messages. asyncio reads 256 KiB otherwise,
as much as a client may have sent while the server was busy."""
_SLICE: Final = 0.002
"""Seconds of a round of the event loop that go to those whose time is up: a thousand may have come
at the same time."""


logger = logging.getLogger("realtime.listener")

MakeWebSocket = Callable[[], asyncio.Protocol]
"""Makes the protocol that an upgrade is handed to."""


class Acceptor:
    """Admits connections up to a limit, and keeps the open ones, to close them when the server
    stops.

    Args:
        site: answers plain HTTP requests.
        config: says the limits.
        metrics: of the server.
        backlog: of the server: says when a client is too slow.
    """

    def __init__(
        self, site: Site, config: ServerConfig, metrics: Metrics, backlog: Backlog
    ) -> None:
        self.config = config
        self.metrics = metrics
        self._site = site
        self._backlog = backlog
        self._addresses = ClientAddresses(config.forwarded_header, config.trusted_proxies)
        # By connection, the client's address that a trusted proxy named.
        self._forwarded: dict[asyncio.BaseTransport, str] = {}
        self.connections: set[asyncio.Transport] = set()
        """All that were let in and are open: as many as MAX_CONNECTIONS at most."""
        self.plain: set[asyncio.Transport] = set()
        """The open connections that are no WebSockets, or not yet."""
        self.turned_away: set[asyncio.Transport] = set()
        """Connections beyond the bound, until their answer is sent."""
        # Whether no more connections are admitted.
        self._closed = False
        # Whether the log has said why a page of a browser is refused.
        self._has_explained = False
        self._late: deque[Callable[[], None]] = deque()

    def admit(self, transport: asyncio.Transport) -> bool:
        """Admit a new connection; return False if it was turned away."""
        if self._closed:
            # A few connections are still accepted while the listener closes. From Python 3.12 on
            # it would wait for them.
            transport.abort()
            return False
        if len(self.connections) >= self.config.max_connections:
            self._turn_away(transport)
            return False
        self.connections.add(transport)
        self.plain.add(transport)
        return True

    def why_refused(self, head: bytes, transport: asyncio.BaseTransport) -> str | None:
        """Return why a request is refused, and what to do about it; None if it is not."""
        if self.config.secure_channels:
            return None
        address = transport.get_extra_info("sockname")
        if not isinstance(address, tuple) or not is_loopback(address[0]):
            return None
        problem = why_refused(head, self.config.allowed_origins)
        if problem is not None and not self._has_explained:
            # Only the log can say it: a browser does not show why a WebSocket failed.
            self._has_explained = True
            logger.warning("a request is refused: %s", problem)
        return problem

    def read_address(self, head: bytes, transport: asyncio.BaseTransport) -> None:
        """Read the client's address from a request that a trusted proxy passes on."""
        peer = transport.get_extra_info("peername")
        address = self._addresses.find(head, peer[0]) if peer else None
        if address is not None:
            self._forwarded[transport] = address

    def peer(self, transport: asyncio.BaseTransport) -> str:
        """Return the client's name for the log, with the proxy's connection if there is one."""
        peer = peer_name(transport.get_extra_info("peername"))
        address = self._forwarded.get(transport)
        return peer if address is None else f"{address} via {peer}"

    def client_address(self, transport: asyncio.BaseTransport) -> str:
        """Return the client's address: what a trusted proxy named, or else the connection's other
        end; empty if that has none."""
        peer = transport.get_extra_info("peername")
        # A Unix socket's name is a text, and often empty.
        own = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        return self._forwarded.get(transport, own)

    def upgrade(self, transport: asyncio.Transport) -> None:
        """Note that the connection becomes a WebSocket."""
        self.plain.discard(transport)

    def forget(self, transport: asyncio.Transport) -> None:
        """Remove a connection that is closed."""
        for place in (self.connections, self.plain, self.turned_away):
            place.discard(transport)
        self._forwarded.pop(transport, None)
        untie_transport(transport)

    def check_backlog(self, transport: asyncio.Transport) -> None:
        """Disconnect a client if too much waits for it."""
        reason = self._backlog.why_too_much(transport.get_write_buffer_size())
        if reason is not None:
            cut_off(transport, self.metrics.outbox, self.peer(transport), reason)

    def count_flood(self) -> None:
        """Count a client that sent too many messages."""
        self.metrics.limit("messages")

    def count_malformed(self, transport: asyncio.BaseTransport) -> None:
        """Count a new connection that sent something else than a request."""
        self.count_refused("malformed", transport)

    def count_refused(
        self, result: str, transport: asyncio.BaseTransport, reason: str = ""
    ) -> None:
        """Count and log a request that was refused.

        Args:
            result: names the cause in the metrics.
            transport: of the connection.
            reason: more about it, for the log.
        """
        self.metrics.handshakes.labels(result).inc()
        self._log_refused(f"{result} ({reason})" if reason else result, transport)

    def count_limit(self, limit: str, transport: asyncio.BaseTransport) -> None:
        """Count and log a request that exceeded a limit."""
        self.metrics.limit(limit)
        self._log_refused(limit, transport)

    def _log_refused(self, why: str, transport: asyncio.BaseTransport) -> None:
        logger.info("request by %s refused: %s", self.peer(transport), why)

    def serve(self, transport: asyncio.Transport, refusal: Response | None = None) -> HttpProtocol:
        """Serve the connection by HTTP; with a refusal, send that instead of reading a request."""
        protocol = HttpProtocol(
            self._site,
            on_malformed=lambda: self.count_refused("malformed", transport),
            on_close=lambda: self.forget(transport),
            max_head_bytes=self.config.max_header_bytes,
            body=BodyLimits(
                max_bytes=self.config.max_frame_bytes,
                within=self.config.handshake_timeout / 1000,
                on_limit=lambda limit: self.count_limit(limit, transport),
            ),
        )
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if refusal is not None:
            protocol.send(refusal)
        return protocol

    def give_up(self, end: Callable[[], None]) -> None:
        """Close a connection, in its turn, whose request did not come in time."""
        self._late.append(end)
        if len(self._late) == 1:
            asyncio.get_running_loop().call_soon(self._end_some)

    def _end_some(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + _SLICE
        while True:
            self._late.popleft()()
            if not self._late:
                return
            if loop.time() >= until:
                loop.call_soon(self._end_some)
                return

    def close(self) -> None:
        """Admit no more connections, and close those that are no WebSockets."""
        self._closed = True
        for transport in [*self.plain, *self.turned_away]:
            transport.abort()

    def cut_off(self) -> None:
        """Close every connection at once, without sending what waits."""
        for transport in [*self.connections, *self.turned_away]:
            transport.abort()

    def _turn_away(self, transport: asyncio.Transport) -> None:
        self.metrics.limit("connections")
        if len(self.turned_away) >= _MAX_TURNED_AWAY:
            transport.abort()
            return
        self.turned_away.add(transport)
        body = (
            f"ConnectionRateLimitReached: {self.config.max_connections} connections are open, the "
            "most there may be (MAX_CONNECTIONS). Try again later.\n"
        )
        headers = (("retry-after", "5"),)
        self.serve(
            transport,
            Response(HTTPStatus.SERVICE_UNAVAILABLE, body=body.encode(), headers=headers),
        )


class RequestHead(asyncio.Protocol):
    """Waits for the head of a connection's first request, then hands the connection over.

    Args:
        make_websocket: makes the protocol that an upgrade is handed to; None where there are no
            WebSockets.
        acceptor: admits the connection.
    """

    def __init__(self, make_websocket: MakeWebSocket | None, acceptor: Acceptor) -> None:
        self._make_websocket = make_websocket
        self._acceptor = acceptor
        self._received = bytearray()
        self._transport: asyncio.Transport
        self._deadline: asyncio.TimerHandle | None = None
        self._has_request = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        _write_at_once(transport)
        if hasattr(transport, "max_size"):
            # The event loops of asyncio have it, that of uvloop has not.
            transport.max_size = _MOST_READ
        if self._acceptor.admit(self._transport):
            loop = asyncio.get_running_loop()
            timeout = self._acceptor.config.handshake_timeout / 1000
            self._deadline = loop.call_later(timeout, self._acceptor.give_up, self._give_up)

    def data_received(self, data: bytes) -> None:
        # A head that comes byte by byte must not be searched from its beginning each time.
        start = max(len(self._received) - len(_END_OF_HEAD), 0)
        self._received += data
        end = self._received.find(_END_OF_HEAD, start)
        config = self._acceptor.config
        if end < 0 and len(self._received) <= config.max_header_bytes:
            return
        self._has_request = True
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
        self._acceptor.read_address(head, self._transport)
        if _query_bytes(head) > config.max_query_bytes:
            self._refuse(
                "query",
                HTTPStatus.REQUEST_URI_TOO_LONG,
                f"The query is longer than {config.max_query_bytes} bytes (MAX_QUERY_BYTES).\n",
            )
            return
        problem = self._acceptor.why_refused(head, self._transport)
        if problem is not None:
            self._acceptor.count_refused("origin", self._transport)
            self._acceptor.serve(
                self._transport, Response(HTTPStatus.FORBIDDEN, body=f"{problem}\n".encode())
            )
            return
        self._become(self._make_websocket if _asks_for_websocket(head) else None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        self._acceptor.forget(self._transport)

    def _become(self, make_websocket: MakeWebSocket | None) -> None:
        transport = self._transport
        if make_websocket is not None:
            self._acceptor.upgrade(transport)
            protocol = make_websocket()
            transport.set_protocol(protocol)
            protocol.connection_made(transport)
        else:
            protocol = self._acceptor.serve(transport)
        protocol.data_received(bytes(self._received))

    def _give_up(self) -> None:
        # What is called at the deadline refers to this, and this must not refer to it for ever.
        self._stop_waiting()
        if self._has_request or self._transport.is_closing():
            # It came while others were given up.
            return
        timeout = self._acceptor.config.handshake_timeout
        self._refuse(
            "handshake",
            HTTPStatus.REQUEST_TIMEOUT,
            f"The request's head did not come within {timeout} ms (HANDSHAKE_TIMEOUT).\n",
        )
        # All that came was read, so closing at once does not lose the answer.
        self._transport.close()

    def _refuse(self, limit: str, status: HTTPStatus, body: str) -> None:
        self._acceptor.count_limit(limit, self._transport)
        self._acceptor.serve(self._transport, Response(status, body=body.encode()))

    @property
    def is_waiting(self) -> bool:
        """Whether the request's head has to come yet, and in time."""
        return self._deadline is not None

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def _write_at_once(transport: asyncio.BaseTransport) -> None:
    """Turn Nagle's algorithm off, so that TCP sends each write at once.

    It would hold a write back until the client has acknowledged the previous one, which a client
    that has just sent something may do as late as 40 ms after. asyncio turns it off only for
    listening sockets that it made itself.
    """
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
        # Some systems refuse it if the client is gone already.
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _query_bytes(head: bytes) -> int:
    target = head.partition(b"\r\n")[0].split(b" ")[1:2]
    return len(target[0].partition(b"?")[2]) if target else 0


def _asks_for_websocket(head: bytes) -> bool:
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"upgrade":
            return value.strip().lower() == b"websocket"
    return False
