"""Plain HTTP, without a network."""

from __future__ import annotations

from http import HTTPStatus
from importlib.resources import files

import pytest

from realtime_server.endpoints import HttpProtocol, Response, Site
from tests.server_helpers import FakeTransport
from tests.waiting import eventually

PAGE = (files("realtime_server") / "inspector" / "index.html").read_bytes()
HTML = "text/html; charset=utf-8"
NO_CACHE = (("cache-control", "no-cache"),)
NO_STORE = (("cache-control", "no-store"),)
NOT_FOUND = (
    b"Not found. WebSocket clients connect to /socket/websocket or /realtime/v1/websocket; "
    b"/ shows changes as they come.\n"
)


class Health:
    """What a site asks about the server."""

    def __init__(self) -> None:
        self.problem: str | None = None

    def site(self, *, with_metrics: bool = True) -> Site:
        return Site(
            why_not_ready=lambda: self.problem,
            metrics=(lambda: b"up 1\n") if with_metrics else None,
            metrics_type="text/plain; version=0.0.4",
        )


def respond(method: str, target: str) -> Response:
    return Health().site(with_metrics=False).respond(method, target)


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
        "/metrics",
        "/health/",
        "/Ready",
    ],
)
def test_everything_else_is_not_found(target: str) -> None:
    assert respond("GET", target) == Response(HTTPStatus.NOT_FOUND, body=NOT_FOUND)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
@pytest.mark.parametrize("target", ["/", "/health", "/ready", "/metrics"])
def test_all_of_it_can_only_be_read(method: str, target: str) -> None:
    assert Health().site().respond(method, target) == Response(
        HTTPStatus.METHOD_NOT_ALLOWED, headers=(("allow", "GET, HEAD"),)
    )


def test_health_is_that_the_process_answers_whatever_the_database_does() -> None:
    health = Health()
    health.problem = "the database is down"
    assert health.site().respond("GET", "/health") == Response(
        HTTPStatus.OK, body=b"ok\n", headers=NO_STORE
    )


def test_readiness_has_a_reason_when_it_is_not_there() -> None:
    health = Health()
    site = health.site()
    assert site.respond("GET", "/ready?x=y") == Response(
        HTTPStatus.OK, body=b"ready\n", headers=NO_STORE
    )
    health.problem = "the database is down"
    assert site.respond("GET", "/ready") == Response(
        HTTPStatus.SERVICE_UNAVAILABLE,
        body=b"not ready: the database is down\n",
        headers=NO_STORE,
    )


def test_metrics_are_shown_where_they_are_exposed() -> None:
    assert Health().site().respond("GET", "/metrics") == Response(
        HTTPStatus.OK, "text/plain; version=0.0.4", b"up 1\n", NO_STORE
    )


class Exchange:
    """One connection: what the client sends, what it gets."""

    def __init__(self) -> None:
        self.transport = FakeTransport()
        self.closings = 0
        self.malformed = 0
        self.protocol = HttpProtocol(
            respond,
            on_malformed=self._count_malformed,
            on_close=self._close,
            max_head_bytes=65536,
        )
        self.protocol.connection_made(self.transport)

    def _count_malformed(self) -> None:
        self.malformed += 1

    def _close(self) -> None:
        self.closings += 1

    def send(self, *pieces: bytes) -> bytes:
        for piece in pieces:
            # As asyncio does: a closed transport reads no more.
            if not self.transport.closed:
                self.protocol.data_received(piece)
        return self.transport.sent()


@pytest.fixture
async def exchange() -> Exchange:
    return Exchange()


def page(body: bytes) -> bytes:
    return (
        b"HTTP/1.1 200 OK\r\ncontent-type: text/html; charset=utf-8\r\n"
        + f"content-length: {len(PAGE)}\r\n".encode()
        + b"connection: close\r\ncache-control: no-cache\r\n\r\n"
        + body
    )


async def test_a_get_is_answered_with_the_whole_page_and_the_connection_closes(
    exchange: Exchange,
) -> None:
    assert exchange.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n") == page(PAGE)
    assert exchange.transport.closed
    exchange.protocol.connection_lost(None)
    assert exchange.closings == 1


async def test_a_head_request_gets_the_head_alone(exchange: Exchange) -> None:
    assert exchange.send(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n") == page(b"")


async def test_a_request_in_pieces_is_put_together(exchange: Exchange) -> None:
    request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    assert exchange.send(*(request[i : i + 1] for i in range(len(request)))) == page(PAGE)


async def test_only_the_first_of_several_requests_is_answered(exchange: Exchange) -> None:
    assert exchange.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 2) == page(PAGE)


REFUSED = (
    b"HTTP/1.1 405 Method Not Allowed\r\ncontent-type: text/plain; charset=utf-8\r\n"
    b"content-length: 0\r\nconnection: close\r\nallow: GET, HEAD\r\n\r\n"
)


@pytest.mark.parametrize(
    "head", [b"content-length: 1000000\r\n\r\n", b"transfer-encoding: chunked\r\n\r\n"]
)
async def test_a_body_is_not_waited_for_but_taken_so_that_the_response_arrives(
    exchange: Exchange, head: bytes
) -> None:
    assert exchange.send(b"POST / HTTP/1.1\r\nhost: x\r\n" + head) == REFUSED
    assert exchange.transport.half_closed
    assert exchange.send(*[b"x" * 65536] * 10) == b""
    assert not exchange.transport.is_closing()
    # What eof_received() returns has asyncio close the connection.
    assert exchange.protocol.eof_received() is None


async def test_a_body_that_does_not_end_is_given_up(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("realtime_server.endpoints._LINGER", 0.01)
    exchange.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
    await eventually(lambda: exchange.transport.aborted)


async def test_a_body_that_came_with_the_head_needs_no_lingering(exchange: Exchange) -> None:
    request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    assert exchange.send(request) == REFUSED
    assert exchange.transport.closed


async def test_a_refusal_can_be_sent_before_there_is_a_request(exchange: Exchange) -> None:
    exchange.protocol.send(Response(HTTPStatus.SERVICE_UNAVAILABLE, body=b"full\n"))
    assert exchange.transport.sent() == (
        b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\n"
        b"content-length: 5\r\nconnection: close\r\n\r\nfull\n"
    )
    assert exchange.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n") == b""
    assert exchange.transport.half_closed
    exchange.protocol.connection_lost(None)
    assert exchange.closings == 1


async def test_a_target_that_is_not_ascii_is_not_found_or_bad_but_answered(
    exchange: Exchange,
) -> None:
    answer = exchange.send(b"GET /\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n")
    assert answer[:12] in (b"HTTP/1.1 404", b"HTTP/1.1 400")
    assert exchange.transport.closed or exchange.transport.half_closed


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\0\1\2\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),  # HTTP/1.1 needs a host
        (b"GET /?apikey=secret HTTP/9\r\nhost: x\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx-api-key : secret\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nbad header\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: strange\r\n\r\n", b"501"),
        (b"GET / HTTP/1.1\r\nhost: x\r\nlong: " + b"x" * 70_000, b"431"),
    ],
)
async def test_what_is_no_good_request_is_refused(
    exchange: Exchange, request_bytes: bytes, status: bytes
) -> None:
    answer = exchange.send(request_bytes)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert b"\r\nconnection: close\r\n" in answer
    assert b"secret" not in answer
    assert exchange.transport.half_closed
