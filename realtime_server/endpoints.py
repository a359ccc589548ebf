"""Plain HTTP: what is served beside the WebSockets, through h11.

``GET /`` is the inspector, a static page. One response a connection: these are pages for
people and probes, not the traffic.
"""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files
from typing import Final

import attrs
import h11

__all__ = ["HttpProtocol", "Response", "respond"]

_ASSETS: Final = files("realtime_server") / "inspector"


@attrs.frozen
class Response:
    """An HTTP response."""

    status: HTTPStatus
    content_type: str = "text/plain; charset=utf-8"
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


def respond(method: str, target: str) -> Response:
    """Answer a request for ``target``, a path with an optional query."""
    path = target.partition("?")[0]
    if path != "/" and path not in _asset_paths():
        return Response(
            HTTPStatus.NOT_FOUND,
            body=b"Not found. WebSocket clients connect to /socket/websocket or "
            b"/realtime/v1/websocket; / shows changes as they come.\n",
        )
    if method not in ("GET", "HEAD"):
        return Response(HTTPStatus.METHOD_NOT_ALLOWED, headers=(("allow", "GET, HEAD"),))
    name = path[1:] or "index.html"
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    body = (_ASSETS / name).read_bytes()
    return Response(HTTPStatus.OK, f"{kind}; charset=utf-8", body, (("cache-control", "no-cache"),))


def _asset_paths() -> set[str]:
    return {f"/{asset.name}" for asset in _ASSETS.iterdir() if asset.is_file()}


class HttpProtocol(asyncio.Protocol):
    """Serves one request, then closes.

    Args:
        on_close: called when the connection is gone.
    """

    def __init__(self, on_close: Callable[[], None]) -> None:
        self._http = h11.Connection(h11.SERVER)
        self._on_close = on_close
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._http.receive_data(data)
        try:
            event = self._http.next_event()
        except h11.RemoteProtocolError as exc:
            self._send(Response(HTTPStatus(exc.error_status_hint), body=f"{exc}\n".encode()), "GET")
            return
        if isinstance(event, h11.Request):
            method = event.method.decode("ascii")
            self._send(respond(method, event.target.decode("latin-1")), method)

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_close()

    def _send(self, response: Response, method: str) -> None:
        headers = [
            ("content-type", response.content_type),
            ("content-length", str(len(response.body))),
            ("connection", "close"),
            *response.headers,
        ]
        head = h11.Response(
            status_code=response.status, reason=response.status.phrase, headers=headers
        )
        out = self._http.send(head) or b""
        if method != "HEAD":
            out += self._http.send(h11.Data(data=response.body)) or b""
        self._transport.write(out)
        self._transport.close()
