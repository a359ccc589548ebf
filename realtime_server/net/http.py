"""Plain HTTP, which h11 parses: ``/health``, ``/ready``, ``/metrics``, the inspector's page, and
broadcasts.

The :mod:`inspector <realtime_server.net.inspector>` and :mod:`broadcasts by HTTP
<realtime_server.net.http_broadcasts>` add their own endpoints. Only the latter takes bodies. Each
connection gets one response and is closed: none of this is the server's main traffic.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Final, Protocol, TypeAlias

import attrs
import h11

from .cycles import untie_exception

__all__ = [
    "NO_STORE",
    "BodyLimits",
    "HttpEndpoint",
    "HttpProtocol",
    "HttpRequest",
    "PathEndpoint",
    "Response",
    "Site",
]

logger = logging.getLogger("realtime.http")

_LINGER: Final = 5.0
"""Seconds for which what a client still sends after its response is read and discarded."""
_NOT_HTTP: Final = b"The request is not what HTTP/1.1 (RFC 9112) asks for.\n"
_NOT_FOUND: Final = (
    b"Not found. WebSocket clients connect to /socket/websocket or /realtime/v1/websocket; "
    b"with INSPECTOR=true a page at / shows changes as they come.\n"
)
_SMALL: Final = 256
"""Bytes of a piece of a body below which it is small."""
_MAX_SMALL_PIECES: Final = 1000
"""Small pieces of a body: to read one takes as long as to read a large one, 15 µs, and a megabyte
could come in a million chunks."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_FAILED: Final = (
    b"The request failed because of a bug in realtime_server: its log has the details.\n"
)

NO_STORE: Final = (("cache-control", "no-store"),)
"""Headers of a response that must not be cached."""


@attrs.frozen
class HttpRequest:
    """An HTTP request. Its repr shows neither query nor headers: they may hold tokens."""

    method: str
    path: str
    query: str = attrs.field(default="", repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    """The headers' values by name in lower case."""
    body: bytes = attrs.field(default=b"", repr=False)
    """The body, where it is read."""
    incomplete: HTTPStatus | None = None
    """Why the body was not read to its end: it was too long, too late, or malformed."""


@attrs.frozen
class Response:
    """An HTTP response."""

    status: HTTPStatus
    content_type: str = "text/plain; charset=utf-8"
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


HttpEndpoint: TypeAlias = Callable[[HttpRequest], Response | Awaitable[Response]]
"""Answers a GET or HEAD request for one path."""


class PathEndpoint(Protocol):
    """Answers requests of any method for many paths, and takes bodies."""

    def serves(self, path: str) -> bool:
        """Return whether requests for a path are for this endpoint."""
        ...

    def __call__(self, request: HttpRequest) -> Awaitable[Response]:
        """Answer a request."""
        ...


@attrs.frozen
class BodyLimits:
    """The limits on the body of a request."""

    max_bytes: int
    within: float
    """Seconds after the request's head."""
    on_limit: Callable[[str], None]
    """Told the limit's name, as metrics have it, when one is exceeded."""


class Site:
    """All endpoints, by path.

    Args:
        why_not_ready: returns why clients would not get changes now; None if they would.
        metrics: renders the metrics; None if they are not exposed.
        metrics_type: content type of the metrics.
        more: further endpoints, by path.
        paths: serves paths of its own, before these; None: there is none.
    """

    def __init__(
        self,
        *,
        why_not_ready: Callable[[], str | None],
        metrics: Callable[[], bytes] | None,
        metrics_type: str,
        more: Mapping[str, HttpEndpoint] | None = None,
        paths: PathEndpoint | None = None,
    ) -> None:
        self._paths = paths
        self._why_not_ready = why_not_ready
        self._endpoints: dict[str, HttpEndpoint] = {
            "/health": lambda _: Response(HTTPStatus.OK, body=b"ok\n", headers=NO_STORE),
            "/ready": self._readiness,
            **(more or {}),
        }
        if metrics is not None:
            self._endpoints["/metrics"] = lambda _: Response(
                HTTPStatus.OK, metrics_type, metrics(), NO_STORE
            )

    def respond(self, request: HttpRequest) -> Response | Awaitable[Response]:
        """Answer a request."""
        if self._paths is not None and self._paths.serves(request.path):
            return self._paths(request)
        endpoint = self._endpoints.get(request.path)
        if endpoint is None:
            return Response(HTTPStatus.NOT_FOUND, body=_NOT_FOUND)
        if request.method not in ("GET", "HEAD"):
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, headers=(("allow", "GET, HEAD"),))
        return endpoint(request)

    def takes_body(self, request: HttpRequest) -> bool:
        """Return whether the request's body is to be read before it is answered."""
        served = self._paths is not None and self._paths.serves(request.path)
        return served and request.method == "POST"

    def _readiness(self, _: HttpRequest) -> Response:
        reason = self._why_not_ready()
        if reason is None:
            return Response(HTTPStatus.OK, body=b"ready\n", headers=NO_STORE)
        body = f"not ready: {reason}\n".encode()
        return Response(HTTPStatus.SERVICE_UNAVAILABLE, body=body, headers=NO_STORE)


def _request_of(event: h11.Request) -> HttpRequest:
    path, _, query = event.target.decode("latin-1").partition("?")
    headers = {name.decode("ascii"): value.decode("latin-1") for name, value in event.headers}
    return HttpRequest(event.method.decode("ascii"), path, query, headers)


def _format(response: Response, *, with_body: bool) -> bytes:
    """Format a response. h11 would take several times as long, and a thousand may be due at
    once."""
    lines = [
        f"HTTP/1.1 {response.status.value} {response.status.phrase}",
        f"content-type: {response.content_type}",
        f"content-length: {len(response.body)}",
        "connection: close",
        *(f"{name}: {value}" for name, value in response.headers),
    ]
    head = "\r\n".join(lines) + "\r\n\r\n"
    return head.encode("latin-1") + (response.body if with_body else b"")


class HttpProtocol(asyncio.Protocol):
    """Serves one request, then closes the connection.

    Args:
        site: answers the request, at once or later.
        on_malformed: called when the client sent something else than a request.
        on_close: called when the connection is closed.
        max_head_bytes: of the request.
        body: the limits on its body.
    """

    def __init__(
        self,
        site: Site,
        *,
        on_malformed: Callable[[], None],
        on_close: Callable[[], None],
        max_head_bytes: int,
        body: BodyLimits,
    ) -> None:
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=max_head_bytes)
        self._site = site
        self._limits = body
        # The request whose body is being read, and what came of it.
        self._request: HttpRequest | None = None
        self._body = bytearray()
        self._small_pieces = 0
        self._on_malformed = on_malformed
        self._on_close = on_close
        self._answered = False
        self._answering: asyncio.Task[None] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        try:
            self._http.receive_data(data)
            self._read()
        except h11.RemoteProtocolError as exc:
            untie_exception(exc)
            self._on_malformed()
            if self._request is not None:
                self._answer_incomplete(HTTPStatus.BAD_REQUEST)
                return
            # h11's message quotes the request, which may hold a token.
            self.send(Response(HTTPStatus(exc.error_status_hint), body=_NOT_HTTP))

    def _read(self) -> None:
        """Read what has come, and answer the request when all of it is there."""
        while not self._answered:
            event = self._http.next_event()
            if isinstance(event, h11.Request):
                request = _request_of(event)
                if self._site.takes_body(request):
                    self._await_body(request)
                    continue
                # A request without a body ends here. If it has one, it does not matter what is in
                # it.
                try:
                    self._http.next_event()
                except h11.RemoteProtocolError as exc:
                    untie_exception(exc)
                self._answer(request)
            elif isinstance(event, h11.Data):
                self._body += event.data
                self._small_pieces += len(event.data) < _SMALL
                is_long = len(self._body) > self._limits.max_bytes
                if is_long or self._small_pieces > _MAX_SMALL_PIECES:
                    self._refuse_length()
            elif isinstance(event, h11.EndOfMessage) and self._request is not None:
                self._stop_waiting()
                self._answer(attrs.evolve(self._request, body=bytes(self._body)))
            else:
                return

    def _await_body(self, request: HttpRequest) -> None:
        self._request = request
        if int(request.headers.get("content-length", 0)) > self._limits.max_bytes:
            self._refuse_length()
            return
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(self._limits.within, self._give_up)
        if self._http.they_are_waiting_for_100_continue:
            self._transport.write(_CONTINUE)

    def _refuse_length(self) -> None:
        self._limits.on_limit("body")
        self._answer_incomplete(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)

    def _give_up(self) -> None:
        self._limits.on_limit("handshake")
        self._answer_incomplete(HTTPStatus.REQUEST_TIMEOUT)

    def _answer_incomplete(self, why: HTTPStatus) -> None:
        assert self._request is not None  # its body was being read
        self._stop_waiting()
        self._body.clear()
        self._answer(attrs.evolve(self._request, incomplete=why))

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _answer(self, request: HttpRequest) -> None:
        self._answered = True
        answer = self._site.respond(request)
        if isinstance(answer, Response):
            self.send(answer, request.method)
        else:
            self._answering = asyncio.ensure_future(self._answer_later(answer, request))

    async def _answer_later(self, answer: Awaitable[Response], request: HttpRequest) -> None:
        try:
            response = await answer
        except Exception:
            logger.exception("a request for %s cannot be answered", request.path)
            response = Response(HTTPStatus.INTERNAL_SERVER_ERROR, body=_FAILED)
        if not self._transport.is_closing():
            self.send(response, request.method)

    def eof_received(self) -> bool | None:
        """Keep the connection open if the response is still being made."""
        if self._request is not None and not self._answered:
            self._answer_incomplete(HTTPStatus.BAD_REQUEST)
        return True if self._answering is not None and not self._answering.done() else None

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        if self._answering is not None:
            self._answering.cancel()
        self._on_close()

    def send(self, response: Response, method: str = "GET") -> None:
        """Send the response, and close the connection. A refusal may be sent before a request
        came."""
        self._answered = True
        self._transport.write(_format(response, with_body=method != "HEAD"))
        if self._http.their_state in (h11.DONE, h11.MUST_CLOSE):
            self._transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        """Close only the server's half of the connection while the client still sends.

        To close a socket with unread data resets the connection, and the client may lose the
        response (RFC 9112, section 9.6).
        """
        try:
            self._transport.write_eof()
        except OSError:
            # The client has reset the connection, and the event loop does not know it yet.
            self._transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(_LINGER, self._transport.abort)
