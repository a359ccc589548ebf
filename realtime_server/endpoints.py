"""Plain HTTP: what is served beside the WebSockets, through h11.

``GET /`` is the inspector, a static page; ``/health``, ``/ready`` and ``/metrics`` are for
machines. One response a connection: none of it is the traffic.
"""

from __future__ import annotations

import asyncio
import contextlib
import mimetypes
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from typing import Final

import attrs
import h11

__all__ = ["HttpProtocol", "Response", "Site"]

_ASSETS: Final = files("realtime_server") / "inspector"
_LINGER: Final = 5.0
"""Seconds in which what a client still sends is read and thrown away."""
_NOT_HTTP: Final = b"The request is not what HTTP/1.1 (RFC 9112) asks for.\n"
_NO_STORE: Final = (("cache-control", "no-store"),)


@attrs.frozen
class Response:
    """An HTTP response."""

    status: HTTPStatus
    content_type: str = "text/plain; charset=utf-8"
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


class Site:
    """Everything that can be asked for.

    Args:
        why_not_ready: says why clients would not get changes now; None if they would.
        metrics: writes them; None where they are not to be seen.
        metrics_type: their content type.
    """

    def __init__(
        self,
        *,
        why_not_ready: Callable[[], str | None],
        metrics: Callable[[], bytes] | None,
        metrics_type: str,
    ) -> None:
        self._why_not_ready = why_not_ready
        self._metrics = metrics
        self._metrics_type = metrics_type
        self._pages: dict[str, Callable[[], Response]] = {
            "/health": lambda: Response(HTTPStatus.OK, body=b"ok\n", headers=_NO_STORE),
            "/ready": self._readiness,
        }
        if metrics is not None:
            self._pages["/metrics"] = self._exposition

    def respond(self, method: str, target: str) -> Response:
        """Answer a request for ``target``, a path with an optional query."""
        path = target.partition("?")[0]
        page = self._pages.get(path)
        if page is None and path != "/" and path not in _asset_paths():
            return Response(
                HTTPStatus.NOT_FOUND,
                body=b"Not found. WebSocket clients connect to /socket/websocket or "
                b"/realtime/v1/websocket; / shows changes as they come.\n",
            )
        if method not in ("GET", "HEAD"):
            return Response(HTTPStatus.METHOD_NOT_ALLOWED, headers=(("allow", "GET, HEAD"),))
        return _asset(path[1:] or "index.html") if page is None else page()

    def _readiness(self) -> Response:
        reason = self._why_not_ready()
        if reason is None:
            return Response(HTTPStatus.OK, body=b"ready\n", headers=_NO_STORE)
        body = f"not ready: {reason}\n".encode()
        return Response(HTTPStatus.SERVICE_UNAVAILABLE, body=body, headers=_NO_STORE)

    def _exposition(self) -> Response:
        assert self._metrics is not None
        return Response(HTTPStatus.OK, self._metrics_type, self._metrics(), _NO_STORE)


def _asset(name: str) -> Response:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    body = (_ASSETS / name).read_bytes()
    return Response(HTTPStatus.OK, f"{kind}; charset=utf-8", body, (("cache-control", "no-cache"),))


def _asset_paths() -> set[str]:
    return {f"/{asset.name}" for asset in _ASSETS.iterdir() if asset.is_file()}


def _format(response: Response, *, with_body: bool) -> bytes:
    """Write a response: h11 takes several times as long, and a thousand may be due at once."""
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
    """Serves one request, then closes.

    Args:
        respond: takes method and target.
        on_malformed: called when what came is no request.
        on_close: called when the connection is gone.
        max_head_bytes: of a request.
    """

    def __init__(
        self,
        respond: Callable[[str, str], Response],
        *,
        on_malformed: Callable[[], None],
        on_close: Callable[[], None],
        max_head_bytes: int,
    ) -> None:
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=max_head_bytes)
        self._respond = respond
        self._on_malformed = on_malformed
        self._on_close = on_close
        self._answered = False
        self._deadline: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        self._http.receive_data(data)
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as exc:
            self._on_malformed()
            # What h11 says of it quotes it, and a token may be in it.
            self.send(Response(HTTPStatus(exc.error_status_hint), body=_NOT_HTTP))
            return
        if isinstance(event, h11.Request):
            # Without a body the request ends here; what is wrong with one does not matter.
            with contextlib.suppress(h11.RemoteProtocolError):
                self._http.next_event()
            method = event.method.decode("ascii")
            self.send(self._respond(method, event.target.decode("latin-1")), method)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
        self._on_close()

    def send(self, response: Response, method: str = "GET") -> None:
        """Send the response, of a refusal even before there is a request, and close."""
        self._answered = True
        self._transport.write(_format(response, with_body=method != "HEAD"))
        if self._http.their_state in (h11.DONE, h11.MUST_CLOSE):
            self._transport.close()
        else:
            self._linger()

    def _linger(self) -> None:
        """Close only our half while the client sends.

        To close a socket with something unread resets the connection, and the client may
        lose the response (RFC 9112, section 9.6).
        """
        self._transport.write_eof()
        loop = asyncio.get_running_loop()
        self._deadline = loop.call_later(_LINGER, self._transport.abort)
