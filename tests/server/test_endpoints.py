"""Plain HTTP, without a network."""

from __future__ import annotations

from http import HTTPStatus
from importlib.resources import files

import pytest

from realtime_server.endpoints import HttpProtocol, Response, respond
from tests.server_helpers import FakeTransport

PAGE = (files("realtime_server") / "inspector" / "index.html").read_bytes()
HTML = "text/html; charset=utf-8"
NO_CACHE = (("cache-control", "no-cache"),)
NOT_FOUND = (
    b"Not found. WebSocket clients connect to /socket/websocket or /realtime/v1/websocket; "
    b"/ shows changes as they come.\n"
)


@pytest.mark.parametrize("target", ["/", "/?vsn=1.0.0", "/index.html"])
def test_the_root_is_the_page(target: str) -> None:
    assert respond("GET", target) == Response(HTTPStatus.OK, HTML, PAGE, NO_CACHE)


@pytest.mark.parametrize(
    "target",
    [
        "",
        "*",
        "/nothing",
        "/socket/websocket",
        "/realtime/v1/websocket",
        "/../__init__.py",
        "/..",
        "//",
        "/index.html/",
        "/%69ndex.html",
        "/__pycache__",
        "http://example/",
    ],
)
def test_everything_else_is_not_found(target: str) -> None:
    assert respond("GET", target) == Response(HTTPStatus.NOT_FOUND, body=NOT_FOUND)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
def test_the_page_can_only_be_read(method: str) -> None:
    assert respond(method, "/") == Response(
        HTTPStatus.METHOD_NOT_ALLOWED, headers=(("allow", "GET, HEAD"),)
    )


class Exchange:
    """One connection: what the client sends, what it gets."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.closings = 0
        self.protocol = HttpProtocol(self._close)
        self.protocol.connection_made(self.transport)

    def _close(self) -> None:
        self.closings += 1

    def send(self, *pieces: bytes) -> bytes:
        for piece in pieces:
            # As asyncio does: a closed transport reads no more.
            if not self.transport.closed:
                self.protocol.data_received(piece)
        return self.transport.sent()


@pytest.fixture
def exchange() -> Exchange:
    return Exchange()


def page(body: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\n"
        + f"content-length: {len(PAGE)}\r\n".encode()
        + b"connection: close\r\ncache-control: no-cache\r\n\r\n"
        + body
    )


def test_a_get_is_answered_with_the_whole_page_and_the_connection_closes(
    exchange: Exchange,
) -> None:
    assert exchange.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n") == page(PAGE)
    assert exchange.transport.closed
    exchange.protocol.connection_lost(None)
    assert exchange.closings == 1


def test_a_head_request_gets_the_head_alone(exchange: Exchange) -> None:
    assert exchange.send(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n") == page(b"")


def test_a_request_in_pieces_is_put_together(exchange: Exchange) -> None:
    request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    assert exchange.send(*(request[i : i + 1] for i in range(len(request)))) == page(PAGE)


def test_only_the_first_of_several_requests_is_answered(exchange: Exchange) -> None:
    assert exchange.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 2) == page(PAGE)


def test_a_body_is_not_waited_for(exchange: Exchange) -> None:
    head = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n"
    assert exchange.send(head) == (
        b"HTTP/1.1 405 Method Not Allowed\r\ncontent-type: text/plain; charset=utf-8\r\n"
        b"content-length: 0\r\nconnection: close\r\nallow: GET, HEAD\r\n\r\n"
    )
    assert exchange.transport.closed


def test_a_target_that_is_not_ascii_is_not_found_or_bad_but_answered(exchange: Exchange) -> None:
    answer = exchange.send(b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer[:12] in (b"HTTP/1.1 404", b"HTTP/1.1 400")
    assert exchange.transport.closed


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\0\1\2\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # HTTP/1.1 needs a host
        (b"GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: strange\r\n\r\n", b"501"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * 70_000, b"431"),
    ],
)
def test_what_is_no_good_request_is_refused(
    exchange: Exchange, request_bytes: bytes, status: bytes
) -> None:
    answer = exchange.send(request_bytes)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"\r\nconnection: close\r\n" in answer
    assert exchange.transport.closed
