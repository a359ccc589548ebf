"""Broadcasts by HTTP: who may send, what is answered, who gets it. No network."""

from __future__ import annotations

import asyncio
import json
import logging
from http import HTTPStatus
from typing import Any, cast

import attrs
import pytest

from realtime_server.auth.authorizer import AllowAll, Authorizer, JoinRequest
from realtime_server.auth.grant import Grant
from realtime_server.errors import TokenError, UnavailableError
from realtime_server.messages.policies.policy_checks import PolicyChecks
from realtime_server.messages.policies.questions import Answer, Question
from realtime_server.messages.stored_messages import StoredMessages
from realtime_server.net.http import HttpRequest, Response
from realtime_server.net.http_broadcasts import HttpBroadcasts
from realtime_server.net.private_channels import PrivateChannels
from realtime_server.phoenix.broadcasts import RoomName
from realtime_server.phoenix.reasons import RlsReason, TokenReason
from tests.server.fanout.test_rooms import Loop, inbox
from tests.server_helpers import make_metrics, open_config

BATCH = "/api/broadcast"
SINGLE = "/api/broadcast/room/events/m"


class OnlyGood(AllowAll):
    """Takes one token, and remembers what it was asked with."""

    def __init__(self) -> None:
        self.tokens: list[Any] = []

    async def join(self, request: JoinRequest) -> Grant:
        self.tokens.append(request.payload.get("access_token"))
        if self.tokens[-1] == "away":
            raise UnavailableError(RlsReason.UNAVAILABLE.told())
        if self.tokens[-1] != "good":
            raise TokenError(TokenReason.SIGNATURE.told())
        return Grant()


class Server:
    def __init__(
        self, authorizer: Authorizer | None = None, *, has_rooms: bool = True, **settings: Any
    ) -> None:
        self.loop = Loop()
        self.metrics = make_metrics()
        config = attrs.evolve(open_config(), **settings)
        rooms = self.loop.rooms if has_rooms else None
        self.endpoint = HttpBroadcasts(rooms, authorizer or AllowAll(), config, self.metrics)

    async def ask(
        self,
        path: str = SINGLE,
        body: Any = b"1",
        method: str = "POST",
        query: str = "",
        incomplete: HTTPStatus | None = None,
        **headers: str,
    ) -> Response:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        request = HttpRequest(method, path, query, names, data, incomplete)
        answering = asyncio.ensure_future(self.endpoint(request))
        while not answering.done():
            await asyncio.sleep(0)
            self.loop.turns()
        return answering.result()


def told(response: Response) -> Any:
    assert response.content_type == "application/json"
    return json.loads(response.body)


@pytest.mark.parametrize(
    ("path", "served"),
    [
        *(
            (path, True)
            for path in (BATCH, SINGLE, f"{BATCH}/", f"{BATCH}/a/b", f"/realtime/v1{BATCH}")
        ),
        *((path, False) for path in ("/", "/api/broadcasts", "/api", "/v1/api/broadcast", "")),
    ],
)
def test_it_serves_its_paths_and_no_other(path: str, served: bool) -> None:
    assert HttpBroadcasts.serves(path) is served


async def test_a_single_one_reaches_all_members_before_the_answer() -> None:
    server = Server()
    members = [server.loop.join(RoomName("realtime:room:r")) for _ in range(2)]
    path = "/realtime/v1/api/broadcast/room%3Ar/events/ev%2F1%20%C3%A9"
    response = await server.ask(path, {"a": 2})
    assert (response.status, response.body) == (HTTPStatus.ACCEPTED, b"")
    for member in members:
        (frame,) = inbox(member).frames
        assert json.loads(frame.payload)[4] == {
            "type": "broadcast",
            "event": "ev/1 é",
            "payload": {"a": 2},
        }
    line = 'realtime_broadcast_requests_total{status="202"} 1.0'
    assert line in server.metrics.render().decode().splitlines()


async def test_bytes_reach_those_who_can_read_them() -> None:
    server = Server()
    new, old = server.loop.join(), server.loop.join(vsn="1.0.0")
    assert (
        await server.ask(body=b"\0\1\xff", content_type="application/octet-stream")
    ).status == 202
    assert [frame.payload[-3:] for frame in inbox(new).frames] == [b"\0\1\xff"]
    assert inbox(old).frames == []


async def test_a_batch_is_sent_in_its_order() -> None:
    server = Server()
    member = server.loop.join()
    messages = [
        {"topic": topic, "event": "m", "payload": {"n": number}}
        for number, topic in enumerate(["room", "nobody", "room"])
    ]
    assert (await server.ask(BATCH, {"messages": messages})).status == 202
    assert inbox(member).payloads() == [{"n": 0}, {"n": 2}]
    assert len(inbox(member).writes) == 1


async def test_a_batch_of_which_one_is_wrong_reaches_nobody() -> None:
    server = Server()
    member = server.loop.join()
    good = {"topic": "room", "event": "m", "payload": {}}
    for wrong, status in (({**good, "event": ""}, 422), ({**good, "private": True}, 403)):
        response = await server.ask(BATCH, {"messages": [good, wrong]})
        assert response.status == status
    assert inbox(member).frames == []


async def test_an_empty_batch_is_sent_at_once() -> None:
    assert (await Server().ask(BATCH, {"messages": []})).status == 202


# Tokens.


@pytest.mark.parametrize(
    ("headers", "query", "token"),
    [
        ({"authorization": "Bearer good", "apikey": "bad"}, "apikey=bad", "good"),
        ({"authorization": "bearer bad", "apikey": "good"}, "apikey=good", "bad"),
        ({"authorization": "Basic good", "apikey": "good"}, "", "good"),
        ({"authorization": "Bearer ", "apikey": "good"}, "", "good"),
        ({"apikey": "good", "x_api_key": "bad"}, "", "good"),
        ({"x_api_key": "good"}, "apikey=bad", "good"),
        ({}, "apikey=good&vsn=2.0.0", "good"),
        ({}, "vsn=2.0.0", None),
    ],
)
async def test_the_first_token_decides(
    headers: dict[str, str], query: str, token: str | None
) -> None:
    authorizer = OnlyGood()
    response = await Server(authorizer).ask(query=query, **headers)
    assert authorizer.tokens == [token]
    assert response.status == (202 if token == "good" else 401)
    if token != "good":
        assert told(response) == {"message": "Unauthorized"}


async def test_who_has_no_token_learns_nothing_and_reaches_nobody() -> None:
    server = Server(OnlyGood())
    member = server.loop.join()
    for path, body in ((BATCH, b"{"), (SINGLE, b"{"), (SINGLE, b"1"), (f"{BATCH}/a/b", b"1")):
        assert (await server.ask(path, body)).status == 401
    assert inbox(member).frames == []


async def test_a_server_that_cannot_decide_now_says_so() -> None:
    response = await Server(OnlyGood()).ask(authorization="Bearer away")
    assert response.status == 503
    assert "database" in told(response)["message"]


async def test_no_token_gets_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server = Server(OnlyGood())
    await server.ask(query="apikey=s3cret")
    await server.ask(authorization="Bearer s3cret")
    assert "s3cret" not in caplog.text


# Pages of browsers.


async def test_a_page_may_ask_whether_it_may() -> None:
    response = await Server().ask(method="OPTIONS", body=b"", origin="https://app.example")
    assert response.status == 204
    assert dict(response.headers) == {
        "access-control-allow-methods": "POST",
        "access-control-allow-headers": "authorization, apikey, content-type, x-client-info",
        "access-control-max-age": "3600",
        "access-control-allow-origin": "*",
    }


@pytest.mark.parametrize("method", ["OPTIONS", "POST"])
async def test_only_allowed_pages_may(method: str) -> None:
    server = Server(allowed_origins=("https://app.example",))
    member = server.loop.join()
    refused = await server.ask(method=method, origin="https://evil.example")
    assert refused.status == 403
    assert not any("access-control" in name for name, _ in refused.headers)
    assert inbox(member).frames == []
    allowed = await server.ask(method=method, origin="https://app.example")
    assert ("access-control-allow-origin", "https://app.example") in allowed.headers
    assert ("vary", "origin") in allowed.headers


async def test_a_page_can_read_why_it_was_refused() -> None:
    response = await Server(OnlyGood()).ask(origin="https://app.example")
    assert response.status == 401
    assert ("access-control-allow-origin", "*") in response.headers


# The rest.


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE"])
async def test_it_can_only_be_posted_to(method: str) -> None:
    response = await Server().ask(method=method)
    assert response.status == 405
    assert ("allow", "POST, OPTIONS") in response.headers


async def test_other_paths_below_are_not_found() -> None:
    for path in (f"{BATCH}/a", f"{BATCH}/a/events", f"{BATCH}/a/events/e/f"):
        assert (await Server().ask(path)).status == 404


@pytest.mark.parametrize(
    ("why", "part"),
    [
        (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "longer than 1048576 bytes (MAX_FRAME_BYTES)"),
        (HTTPStatus.REQUEST_TIMEOUT, "within 10000 ms (HANDSHAKE_TIMEOUT)"),
        (HTTPStatus.BAD_REQUEST, "RFC 9112"),
    ],
)
async def test_a_body_that_did_not_come_whole_is_refused_in_words(
    why: HTTPStatus, part: str
) -> None:
    response = await Server().ask(incomplete=why)
    assert response.status == why
    assert part in told(response)["message"]


async def test_deliveries_are_limited() -> None:
    server = Server(max_deliveries_per_second=5)
    members = [server.loop.join() for _ in range(3)]
    assert (await server.ask()).status == 202
    refused = await server.ask()
    assert refused.status == 429
    assert ("retry-after", "1") in refused.headers
    assert told(refused) == {"message": "You have exceeded your rate limit"}
    assert [len(inbox(member).frames) for member in members] == [1, 1, 1]


async def test_a_server_without_rooms_says_so() -> None:
    response = await Server(has_rooms=False).ask()
    assert response.status == 503
    assert "no broadcast" in told(response)["message"]


async def test_a_token_that_expires_while_policies_are_asked_sends_nothing() -> None:
    class Expiring(AllowAll):
        expired = False

        async def join(self, request: JoinRequest) -> Grant:
            return Grant({"role": "anon"})

        def check(self, grant: Grant) -> Grant:
            if self.expired:
                raise TokenError(TokenReason.EXPIRED.told())
            return grant

    class Checks:
        async def ask(self, question: Question) -> Answer:
            authorizer.expired = question.topic == "slow"
            return Answer(frozenset(question.extensions))

    authorizer = Expiring()
    server = Server(authorizer)
    server.endpoint = HttpBroadcasts(
        server.loop.rooms,
        authorizer,
        open_config(),
        server.metrics,
        PrivateChannels(
            cast(PolicyChecks, Checks()), cast(StoredMessages, None), (), server.metrics
        ),
    )
    for topic, status in (("quick", 202), ("slow", 401)):
        assert (
            await server.ask(f"{BATCH}/{topic}/events/m", query="private=true")
        ).status == status
    assert server.loop.rooms.stats().broadcasts == 1


async def test_a_request_does_not_wait_for_ever_for_what_is_never_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("realtime_server.net.http_broadcasts._WRITTEN_WITHIN", 0.01)
    server = Server()
    monkeypatch.setattr(server.loop.rooms, "publish", lambda *_, **__: None)
    response = await server.ask()
    assert response.status == 503
    assert "within 0.01 s" in told(response)["message"]
