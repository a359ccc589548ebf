"""Plain HTTP, without a network."""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Awaitable
from http import HTTPStatus

import pytest

from realtime_server.net.http import (
    BodyLimits,
    HttpEndpoint,
    HttpProtocol,
    HttpRequest,
    PathEndpoint,
    Response,
    Site,
)
from tests.server_helpers import FakeTransport
from tests.waiting import eventually

NO_STORE = (("cache-control", "no-store"),)
NOT_FOUND = (
    b"Not found. WebSocket clients connect to /socket/websocket or /realtime/v1/websocket; "
    b"with INSPECTOR=true a page at / shows changes as they come.\n"
)
PAGE = Response(HTTPStatus.OK, body=b"a page\n")


class Health:
    """What a site asks about the server."""

    def __init__(self) -> None:
        self.problem: str | None = None

    def site(
        self,
        *,
        with_metrics: bool = True,
        root: HttpEndpoint = lambda _: PAGE,
        paths: PathEndpoint | None = None,
    ) -> Site:
        return Site(
            why_not_ready=lambda: self.problem,
            metrics=(lambda: b"up 1\n") if with_metrics else None,
            metrics_type="text/plain; version=0.0.4",
            more={"/": root},
            paths=paths,
        )


def respond(method: str, path: str) -> Response | Awaitable[Response]:
    return Health().site(with_metrics=False).respond(HttpRequest(method, path))


def test_more_endpoints_are_served_under_their_paths() -> None:
    assert respond("GET", "/") == PAGE


@pytest.mark.parametrize(
    "path",
    [
        "",
        "*",
        "/nothing",
        "/socket/websocket",
        "/realtime/v1/websocket",
        "/../__init__.py",
        "//",
        "http://example/",
        "/metrics",
        "/health/",
        "/Ready",
    ],
)
def test_everything_else_is_not_found(path: str) -> None:
    assert respond("GET", path) == Response(HTTPStatus.NOT_FOUND, body=NOT_FOUND)


def test_without_more_endpoints_there_is_nothing_at_the_root() -> None:
    site = Site(why_not_ready=lambda: None, metrics=None, metrics_type="")
    assert site.respond(HttpRequest("GET", "/")) == Response(HTTPStatus.NOT_FOUND, body=NOT_FOUND)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "BREW"])
@pytest.mark.parametrize("target", ["/", "/health", "/ready", "/metrics"])
def test_all_of_it_can_only_be_read(method: str, target: str) -> None:
    assert Health().site().respond(HttpRequest(method, target)) == Response(
        HTTPStatus.METHOD_NOT_ALLOWED, headers=(("allow", "GET, HEAD"),)
    )


def test_health_is_that_the_process_answers_whatever_the_database_does() -> None:
    health = Health()
    health.problem = "the database is down"
    assert health.site().respond(HttpRequest("GET", "/health")) == Response(
        HTTPStatus.OK, body=b"ok\n", headers=NO_STORE
    )


def test_readiness_has_a_reason_when_it_is_not_there() -> None:
    health = Health()
    site = health.site()
    assert site.respond(HttpRequest("GET", "/ready", "x=y")) == Response(
        HTTPStatus.OK, body=b"ready\n", headers=NO_STORE
    )
    health.problem = "the database is down"
    assert site.respond(HttpRequest("GET", "/ready")) == Response(
        HTTPStatus.SERVICE_UNAVAILABLE,
        body=b"not ready: the database is down\n",
        headers=NO_STORE,
    )


def test_metrics_are_shown_where_they_are_exposed() -> None:
    assert Health().site().respond(HttpRequest("GET", "/metrics")) == Response(
        HTTPStatus.OK, "text/plain; version=0.0.4", b"up 1\n", NO_STORE
    )


class Exchange:
    """One connection: what the client sends, what it gets."""

    def __init__(
        self,
        root: HttpEndpoint = lambda _: PAGE,
        paths: PathEndpoint | None = None,
        within: float = 60.0,
    ) -> None:
        self.transport = FakeTransport()
        self.limits: list[str] = []
        self.closings = 0
        self.malformed = 0
        self.protocol = HttpProtocol(
            Health().site(with_metrics=False, root=root, paths=paths),
            on_malformed=self._count_malformed,
            on_close=self._close,
            max_head_bytes=65536,
            body=BodyLimits(max_bytes=100, within=within, on_limit=self.limits.append),
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
        b"HTTP/1.1 200 OK\r\ncontent-type: text/plain; charset=utf-8\r\n"
        b"content-length: 7\r\nconnection: close\r\n\r\n" + body
    )


async def test_a_get_is_answered_with_the_whole_page_and_the_connection_closes(
    exchange: Exchange,
) -> None:
    assert exchange.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n") == page(PAGE.body)
    assert exchange.transport.closed
    exchange.protocol.connection_lost(None)
    assert exchange.closings == 1


async def test_a_head_request_gets_the_head_alone(exchange: Exchange) -> None:
    assert exchange.send(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n") == page(b"")


async def test_a_request_in_pieces_is_put_together(exchange: Exchange) -> None:
    request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    assert exchange.send(*(request[i : i + 1] for i in range(len(request)))) == page(PAGE.body)


async def test_only_the_first_of_several_requests_is_answered(exchange: Exchange) -> None:
    assert exchange.send(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n" * 2) == page(PAGE.body)


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
    monkeypatch.setattr("realtime_server.net.http._LINGER", 0.01)
    exchange.send(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n")
    await eventually(lambda: exchange.transport.aborted)


async def test_a_body_that_came_with_the_head_needs_no_lingering(exchange: Exchange) -> None:
    request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"
    assert exchange.send(request) == REFUSED
    assert exchange.transport.closed


async def test_a_request_knows_its_path_its_query_and_its_headers() -> None:
    requests: list[HttpRequest] = []

    def remember(request: HttpRequest) -> Response:
        requests.append(request)
        return PAGE

    exchange = Exchange(remember)
    exchange.send(b"HEAD /?a=b?c HTTP/1.1\r\nHost: x\r\nX-Api-Key: secret\r\n\r\n")
    headers = {"host": "x", "x-api-key": "secret"}
    assert requests == [HttpRequest("HEAD", "/", "a=b?c", headers)]
    assert "secret" not in repr(requests)


GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"


async def test_an_answer_may_take_its_time() -> None:
    answered = asyncio.Event()

    async def answer(_: HttpRequest) -> Response:
        await answered.wait()
        return PAGE

    exchange = Exchange(answer)
    assert exchange.send(GET, GET) == b""
    # A client that closes its half waits for the answer, too.
    assert exchange.protocol.eof_received()
    answered.set()
    await eventually(lambda: exchange.transport.closed)
    assert exchange.transport.sent() == page(PAGE.body)
    assert not exchange.protocol.eof_received()


async def test_an_answer_that_nobody_waits_for_is_given_up() -> None:
    given_up = asyncio.Event()

    async def answer(_: HttpRequest) -> Response:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up.set()
            raise
        return PAGE

    exchange = Exchange(answer)
    exchange.send(GET)
    await asyncio.sleep(0)
    exchange.protocol.connection_lost(None)
    await asyncio.wait_for(given_up.wait(), 30)
    assert exchange.transport.sent() == b""


async def test_an_answer_that_fails_is_an_error_without_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(_: HttpRequest) -> Response:
        raise RuntimeError("secret")

    exchange = Exchange(fail)
    with caplog.at_level(logging.ERROR):
        exchange.send(GET)
        await eventually(lambda: exchange.transport.closed)
    sent = exchange.transport.sent()
    assert sent.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in sent
    assert "a request for / cannot be answered" in caplog.text


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


async def test_a_client_that_has_reset_the_connection_is_not_waited_for(
    exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_eof() -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    monkeypatch.setattr(exchange.transport, "write_eof", write_eof)
    exchange.protocol.send(Response(HTTPStatus.REQUEST_TIMEOUT))
    assert exchange.transport.aborted


# Requests with bodies.


class Letters:
    """Takes what is posted to paths that begin with /letters."""

    def __init__(self) -> None:
        self.requests: list[HttpRequest] = []

    def serves(self, path: str) -> bool:
        return path.startswith("/letters")

    async def __call__(self, request: HttpRequest) -> Response:
        self.requests.append(request)
        return Response(request.incomplete or HTTPStatus.ACCEPTED)


async def posted(
    *pieces: bytes, head: bytes = b"", within: float = 60.0
) -> tuple[Exchange, Letters]:
    letters = Letters()
    exchange = Exchange(paths=letters, within=within)
    start = b"POST /letters/1?x=y HTTP/1.1\r\nhost: x\r\n" + head + b"\r\n"
    for piece in (start, *pieces):
        exchange.protocol.data_received(piece)
    return exchange, letters


def status_of(exchange: Exchange) -> bytes:
    return exchange.transport.sent().split(b"\r\n")[0]


CHUNKED = b"transfer-encoding: chunked\r\n"


@pytest.mark.parametrize(
    ("head", "pieces"),
    [
        (b"content-length: 5\r\n", [b"a letter"[:5]]),
        (b"content-length: 5\r\n", [b"a", b" ", b"let"]),
        # What comes after it is nothing to anybody.
        (b"content-length: 5\r\n", [b"a letter"]),
        (CHUNKED, [b"2\r\na \r\n3\r\n", b"let\r\n", b"0\r\n\r\n"]),
    ],
)
async def test_a_body_is_read_where_it_is_asked_for(head: bytes, pieces: list[bytes]) -> None:
    exchange, letters = await posted(*pieces, head=head)
    await eventually(lambda: status_of(exchange) == b"HTTP/1.1 202 Accepted")
    (request,) = letters.requests
    assert (request.path, request.query, request.body) == ("/letters/1", "x=y", b"a let")
    assert "a let" not in repr(request)
    assert exchange.limits == []


async def test_a_request_without_a_body_has_an_empty_one() -> None:
    exchange, letters = await posted()
    await eventually(lambda: status_of(exchange) == b"HTTP/1.1 202 Accepted")
    assert letters.requests[0].body == b""


async def test_whoever_asks_first_is_told_to_send_the_body() -> None:
    head = b"content-length: 1\r\nexpect: 100-continue\r\n"
    exchange, _ = await posted(head=head)
    assert exchange.transport.sent() == b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.mark.parametrize(
    ("head", "pieces"),
    [
        (b"content-length: 101\r\n", []),
        (b"content-length: 99999999999999999999\r\n", []),
        (CHUNKED, [b"60\r\n" + b"x" * 96 + b"\r\n60\r\n", b"x" * 96]),
    ],
)
async def test_a_body_that_is_too_long_is_not_kept(head: bytes, pieces: list[bytes]) -> None:
    exchange, letters = await posted(*pieces, head=head)
    await eventually(lambda: bool(letters.requests))
    assert letters.requests[0].incomplete is HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert letters.requests[0].body == b""
    assert exchange.limits == ["body"]
    exchange.protocol.data_received(b"x" * 100)
    assert len(letters.requests) == 1


async def test_a_body_does_not_come_in_a_thousand_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("realtime_server.net.http._MAX_SMALL_PIECES", 50)
    exchange, letters = await posted(b"1\r\nx\r\n" * 51, head=CHUNKED)
    await eventually(lambda: bool(letters.requests))
    assert letters.requests[0].incomplete is HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    assert exchange.limits == ["body"]


async def test_a_body_that_comes_too_slowly_is_given_up() -> None:
    exchange, letters = await posted(b"x", head=b"content-length: 2\r\n", within=0.01)
    await eventually(lambda: bool(letters.requests))
    assert letters.requests[0].incomplete is HTTPStatus.REQUEST_TIMEOUT
    assert exchange.limits == ["handshake"]


@pytest.mark.parametrize("piece", [b"zz\r\n", b"2\r\nabc\r\n0\r\n\r\n"])
async def test_chunks_that_are_none_are_a_bad_request(piece: bytes) -> None:
    exchange, letters = await posted(piece, head=CHUNKED)
    await eventually(lambda: bool(letters.requests))
    assert letters.requests[0].incomplete is HTTPStatus.BAD_REQUEST
    assert exchange.malformed == 1


async def test_a_body_that_is_shorter_than_its_length_says_is_a_bad_request() -> None:
    exchange, letters = await posted(b"x", head=b"content-length: 2\r\n")
    assert exchange.protocol.eof_received()
    await eventually(lambda: bool(letters.requests))
    assert letters.requests[0].incomplete is HTTPStatus.BAD_REQUEST


async def test_a_client_that_goes_before_its_body_has_come_is_forgotten() -> None:
    exchange, letters = await posted(b"x", head=b"content-length: 2\r\n", within=0.01)
    exchange.protocol.connection_lost(None)
    assert exchange.closings == 1
    await asyncio.sleep(0.02)
    assert letters.requests == []
