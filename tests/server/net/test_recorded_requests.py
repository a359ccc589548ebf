"""What today's clients were recorded to send by HTTP, and what they and the others get. No network.

The database is a stand-in: the real one is asked in tests/integration/test_private_channels.py.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from pathlib import Path
from typing import Any, cast

import attrs
import pytest

from realtime_server.auth.authorizer import JoinRequest
from realtime_server.auth.grant import Grant
from realtime_server.errors import TokenError
from realtime_server.messages.policies.policy_checks import PolicyChecks
from realtime_server.messages.policies.questions import Answer, Problem, Question
from realtime_server.messages.stored_messages import StoredMessages
from realtime_server.net.http import HttpRequest, Response
from realtime_server.net.http_broadcasts import HttpBroadcasts
from realtime_server.net.private_channels import PrivateChannels
from realtime_server.phoenix.reasons import TokenReason
from tests.server.net.test_connection import open_connection
from tests.server.net.test_connection_private import Tokens
from tests.server.net.test_connection_rooms import expected, make_rooms, push, received
from tests.server_helpers import make_metrics, open_config
from tests.waiting import eventually

DATA = Path(__file__).parents[2] / "data" / "request_frames.jsonl"
AWAY = "UnableToConnectToProject: the database cannot be asked now; try again in a moment"
"""What is told where the original says 500 that it cannot authorize."""


class Guard(Tokens):
    """Takes every token, or none."""

    refuses = False

    async def join(self, request: JoinRequest) -> Grant:
        if self.refuses:
            raise TokenError(TokenReason.SIGNATURE.told())
        return await super().join(request)


class Checks:
    """Policies that let everybody read and write everywhere, unless they answer otherwise."""

    answer: Answer | None = None

    async def ask(self, question: Question) -> Answer:
        return self.answer or Answer(frozenset(question.extensions))


def recorded() -> dict[str, list[dict[str, Any]]]:
    found = defaultdict(list)
    for line in DATA.read_text(encoding="utf-8").splitlines():
        frame = json.loads(line)
        found[frame["client"]].append(frame)
    return found


ORIGINAL = "v2"
"""Whose answers are known from its source, without requests."""


def unwrapped(message: Any) -> Any:
    """Return a broadcast as this server sends it: a list is not put into an object."""
    if isinstance(message, bytes):
        return message
    told = message["payload"] if isinstance(message, dict) else message[4]
    if isinstance(told.get("payload"), dict):
        told["payload"] = told["payload"].get("_json", told["payload"])
    return message


def request(frame: dict[str, Any]) -> HttpRequest:
    path, _, query = frame["url"].partition("?")
    body = bytes.fromhex(frame["body_hex"]) if "body_hex" in frame else frame["body"].encode()
    return HttpRequest(frame["method"], path, query, frame["headers"], body)


def provoking(asked: HttpRequest, status: int) -> HttpRequest:
    """Return a recorded request as it has to be for a refusal, which a stand-in has given it."""
    match status:
        case 403 | 500:
            return attrs.evolve(asked, query=f"{asked.query}&private=true")
        case 404:
            return attrs.evolve(asked, path=asked.path.removesuffix("/e"))
        case 415:
            return attrs.evolve(asked, headers={**asked.headers, "content-type": "text/plain"})
        case 422:
            path = asked.path.partition("/api/broadcast")[0] + "/api/broadcast"
            return attrs.evolve(asked, path=path, body=b'{"messages":[{"topic":"a","payload":{}}]}')
    return asked


class Server:
    """What answers requests, and whom they reach."""

    def __init__(self) -> None:
        self.rooms = make_rooms()
        self.guard = Guard()
        self.checks = Checks()
        checks = cast(PolicyChecks, self.checks)
        self.private = PrivateChannels(checks, cast(StoredMessages, None), (), make_metrics())

    async def ask(self, asked: HttpRequest, status: int) -> Response:
        """Answer a request, in the state that the original gave this answer in."""
        self.guard.refuses = status == 401
        self.checks.answer = {403: Answer(), 500: Answer(problem=Problem.AWAY)}.get(status)
        config = open_config(**({"max_deliveries_per_second": 1} if status == 429 else {}))
        endpoint = HttpBroadcasts(self.rooms, self.guard, config, make_metrics(), self.private)
        if status == 429:
            assert (await endpoint(asked)).status == 202
        return await endpoint(asked)


@pytest.mark.parametrize("name", sorted({*recorded()} - {ORIGINAL}))
async def test_recorded_requests_are_answered_and_heard_as_they_were(name: str) -> None:
    opened, *frames = recorded()[name]
    server = Server()
    answered = 0
    async with open_connection(
        server.guard, rooms=server.rooms, vsn=opened["url"].partition("vsn=")[2]
    ) as client:
        told: list[Any] = []
        got: list[Any] = []
        for number, frame in enumerate(frames):
            match frame["dir"]:
                case "c2s":
                    await push(client, frame["text"])
                case "s2c":
                    told.append(unwrapped(expected(frame)))
                case "http":
                    following = (one for one in frames[number:] if one["dir"] == "http_reply")
                    reply = next(following)
                    status = reply["status"]
                    response = await server.ask(provoking(request(frame), status), status)
                    answered += 1
                    if "persist" in frame["url"]:
                        # Nothing is stored, and so nothing is sent.
                        assert response.status == 422
                        assert "persist" in json.loads(response.body)["errors"]
                        continue
                    body = json.loads(reply["body"]) if reply["body"] else None
                    if status == 500:
                        # Clients try again later.
                        status, body = 503, {"message": AWAY}
                    assert response.status == status
                    said = json.loads(response.body) if response.body else None
                    if status == 422:
                        # It is said in words, too, which clients show.
                        del said["message"]
                    assert said == body
            await asyncio.sleep(0)
            got += received(client)

        def is_complete() -> bool:
            got.extend(received(client))
            return len(got) >= len(told)

        # In V1 the close waits for a moment.
        await eventually(is_complete)
    assert got == told
    assert answered == sum(frame["dir"] == "http" for frame in frames)


SINGLE, BATCH, JSON = "/api/broadcast/a/events/e", "/api/broadcast", "application/json"
REQUESTS = {
    "batch or single: sent": (SINGLE, "", JSON, "{}"),
    "batch: malformed messages": (
        *(BATCH, "", JSON),
        '{"messages":[{"topic":"a"},{"payload":{}},{"topic":"a","event":"e","payload":{}}]}',
    ),
    "single: payload too large": (SINGLE, "", JSON, f'"{"x" * 300_000}"'),
    "single: persist on a public topic": (SINGLE, "persist=true", JSON, "{}"),
    "single: another content type": (SINGLE, "", "text/plain", "x"),
}


@pytest.mark.parametrize(
    "reply", recorded()[ORIGINAL], ids=[one["scenario"] for one in recorded()[ORIGINAL]]
)
async def test_requests_are_answered_as_the_original_does(reply: dict[str, Any]) -> None:
    path, query, kind, body = REQUESTS[reply["scenario"]]
    asked = HttpRequest("POST", path, query, {"content-type": kind}, body.encode())
    response = await Server().ask(asked, reply["status"])
    assert response.status == reply["status"]
    told = json.loads(response.body or "{}")
    # Clients show this one, in words.
    told.pop("message", None)
    assert told == json.loads(reply["body"] or "{}")
