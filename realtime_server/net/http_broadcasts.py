"""HttpBroadcasts: the endpoint by which programs broadcast without a WebSocket.

``POST /api/broadcast`` takes a batch, ``POST /api/broadcast/{topic}/events/{event}`` a single one,
and both are served under ``/realtime/v1``, too. What is in them is read by
:mod:`realtime_server.phoenix.http_broadcasts`. A request needs the same token as a join. It is
answered when what it sends has been written to the members of the rooms. Pages of browsers may
send requests from where ALLOWED_ORIGINS lets them connect (CORS, see the Fetch Standard).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Collection
from http import HTTPStatus
from typing import Final
from urllib.parse import parse_qsl

from ..auth.authorizer import Authorizer, ConnectRequest, JoinRequest
from ..auth.grant import Grant
from ..config import ServerConfig
from ..errors import RefusedError, UnavailableError
from ..fanout.rooms import Rooms
from ..fanout.turns import Turns, in_turns
from ..metrics import Metrics
from ..phoenix.http_broadcasts import HttpRefusal, Messages, read_names, read_single, reading_batch
from ..phoenix.messages import CHANNEL_PREFIX
from ..phoenix.policy_reasons import PolicyReason
from ..phoenix.reasons import BroadcastReason
from .http import HttpRequest, Response
from .origins import is_allowed
from .private_channels import PrivateChannels
from .token_bucket import TokenBucket

__all__ = ["HttpBroadcasts"]

_PATH: Final = "/api/broadcast"
_PREFIXES: Final = ("", "/realtime/v1")
_METHODS: Final = "POST, OPTIONS"
_HEADERS: Final = "authorization, apikey, content-type, x-client-info"
_JSON: Final = "application/json"
_WRITTEN_WITHIN: Final = 30.0
"""Seconds that a request waits until what it sends is written to all members."""
_RATE_LIMITED: Final = {"message": "You have exceeded your rate limit"}
_REFUSALS: Final[dict[PolicyReason, tuple[HTTPStatus, str]]] = {
    PolicyReason.NOT_WRITTEN: (HTTPStatus.FORBIDDEN, "Unauthorized"),
    PolicyReason.FAILED: (HTTPStatus.UNPROCESSABLE_ENTITY, "RLS policy error"),
    PolicyReason.ROLE: (HTTPStatus.UNPROCESSABLE_ENTITY, "RLS policy error"),
    PolicyReason.TIMED_OUT: (HTTPStatus.UNPROCESSABLE_ENTITY, "Query canceled"),
}
"""What is answered where policies refuse a request; where they cannot be asked, it is 503."""
_INCOMPLETE: Final = {
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body is longer than {} bytes (MAX_FRAME_BYTES)",
    HTTPStatus.REQUEST_TIMEOUT: "The body did not come within {} ms (HANDSHAKE_TIMEOUT)",
    HTTPStatus.BAD_REQUEST: "The body is not what HTTP/1.1 (RFC 9112) asks for",
}


class HttpBroadcasts:
    """Serves broadcasts by HTTP.

    Args:
        rooms: of the server; None if it has none.
        authorizer: decides who may send.
        config: says the limits.
        metrics: of the server.
        private: asks policies who may send in private rooms; None: nobody may.
    """

    def __init__(
        self,
        rooms: Rooms | None,
        authorizer: Authorizer,
        config: ServerConfig,
        metrics: Metrics,
        private: PrivateChannels | None = None,
    ) -> None:
        self._rooms = rooms
        self._authorizer = authorizer
        self._config = config
        self._metrics = metrics
        self._private = private
        self._bucket: TokenBucket | None = None

    @staticmethod
    def serves(path: str) -> bool:
        """Return whether requests for a path are for this endpoint."""
        return _behind(path) is not None

    async def __call__(self, request: HttpRequest) -> Response:
        """Answer a request."""
        origin = request.headers.get("origin")
        if not is_allowed(origin, self._config.allowed_origins):
            return _answer(HTTPStatus.FORBIDDEN, {"message": "Not one of ALLOWED_ORIGINS"})
        response = await self._respond(request)
        headers = response.headers + _cors(origin, self._config.allowed_origins)
        self._metrics.broadcasts.requests.labels(str(response.status.value)).inc()
        return Response(response.status, response.content_type, response.body, headers)

    async def _respond(self, request: HttpRequest) -> Response:
        if request.method == "OPTIONS":
            headers = (
                ("access-control-allow-methods", "POST"),
                ("access-control-allow-headers", _HEADERS),
                ("access-control-max-age", "3600"),
            )
            return Response(HTTPStatus.NO_CONTENT, headers=headers)
        if request.method != "POST":
            return _answer(
                HTTPStatus.METHOD_NOT_ALLOWED, {"message": "Use POST"}, ("allow", _METHODS)
            )
        if request.incomplete is not None:
            limits = {
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE: self._config.max_frame_bytes,
                HTTPStatus.REQUEST_TIMEOUT: self._config.handshake_timeout,
            }
            told = _INCOMPLETE[request.incomplete].format(limits.get(request.incomplete))
            return _answer(request.incomplete, {"message": told})
        await Turns.shared().begin()
        query = dict(parse_qsl(request.query, keep_blank_values=True))
        token = _token(request, query)
        try:
            asked = JoinRequest(
                ConnectRequest(request.path, {}, {}),
                "",
                {} if token is None else {"access_token": token},
            )
            grant = await self._authorizer.join(asked)
        except UnavailableError as exc:
            return _answer(HTTPStatus.SERVICE_UNAVAILABLE, {"message": exc.reason})
        except RefusedError:
            return _answer(HTTPStatus.UNAUTHORIZED, {"message": "Unauthorized"})
        if self._rooms is None:
            told = "This server has no broadcast: BROADCAST is false"
            return _answer(HTTPStatus.SERVICE_UNAVAILABLE, {"message": told})
        try:
            messages = await self._read(request, query)
        except HttpRefusal as exc:
            return Response(exc.status, _JSON, exc.body)
        refused = await self._refusal(request, messages, grant)
        if refused is not None:
            return refused
        try:
            # The token may have expired while policies were asked.
            self._authorizer.check(grant)
        except UnavailableError as exc:
            return _answer(HTTPStatus.SERVICE_UNAVAILABLE, {"message": exc.reason})
        except RefusedError:
            return _answer(HTTPStatus.UNAUTHORIZED, {"message": "Unauthorized"})
        return await self._send(self._rooms, messages)

    async def _refusal(
        self, request: HttpRequest, messages: Messages, grant: Grant
    ) -> Response | None:
        """Return the answer to a request for private rooms of which one may not be sent to."""
        names = [room.topic.removeprefix(CHANNEL_PREFIX) for room, _ in messages if room.is_private]
        if not names:
            return None
        reason: PolicyReason | None = PolicyReason.NOT_WRITTEN
        if self._private is not None:
            # Refused is a token that has no role.
            with contextlib.suppress(RefusedError):
                reason = await self._private.why_not_send(names, grant, request.headers)
        if reason is None:
            return None
        self._metrics.broadcasts.refused.labels(reason.code).inc()
        status, told = _REFUSALS.get(reason, (HTTPStatus.SERVICE_UNAVAILABLE, reason.told()))
        return _answer(status, {"message": told})

    async def _read(self, request: HttpRequest, query: dict[str, str]) -> Messages:
        behind = _behind(request.path)
        most = self._config.max_payload_bytes
        if not behind:
            return await in_turns(reading_batch(request.body, max_bytes=most), Turns.shared())
        names = read_names(behind)
        if names is None:
            raise HttpRefusal(HTTPStatus.NOT_FOUND, {"message": "Not Found"})
        kind = request.headers.get("content-type", "")
        return read_single(names, kind, query, request.body, max_bytes=most)

    async def _send(self, rooms: Rooms, messages: Messages) -> Response:
        if not messages:
            return Response(HTTPStatus.ACCEPTED)
        loop = asyncio.get_running_loop()
        most = self._config.max_deliveries_per_second
        if self._bucket is None:
            self._bucket = TokenBucket(most, loop.time())
        # One that nobody gets has been read, too.
        cost = min(sum(max(rooms.size(room), 1) for room, _ in messages), most)
        written: asyncio.Future[BroadcastReason | None] = loop.create_future()

        def done(problem: BroadcastReason | None) -> None:
            if not written.done():
                written.set_result(problem)

        problem: BroadcastReason | None = BroadcastReason.WAITING
        if self._bucket.take(loop.time(), cost):
            problem = rooms.publish(messages, done=done)
        if problem is BroadcastReason.WAITING:
            self._metrics.limit("deliveries")
            return _answer(HTTPStatus.TOO_MANY_REQUESTS, _RATE_LIMITED, ("retry-after", "1"))
        if problem is not None:
            return _answer(HTTPStatus.UNPROCESSABLE_ENTITY, {"message": problem.told()})
        try:
            async with asyncio.timeout(_WRITTEN_WITHIN):
                problem = await written
        except TimeoutError:
            # A defect, or rooms in which more is written than there is time for.
            told = f"Not written to all members within {_WRITTEN_WITHIN:g} s"
            return _answer(HTTPStatus.SERVICE_UNAVAILABLE, {"message": told})
        if problem is not None:
            return _answer(HTTPStatus.SERVICE_UNAVAILABLE, {"message": problem.told()})
        return Response(HTTPStatus.ACCEPTED)


def _behind(path: str) -> str | None:
    """Return what follows the endpoint's path; None for paths of others."""
    for prefix in _PREFIXES:
        whole = prefix + _PATH
        if path in (whole, f"{whole}/"):
            return ""
        if path.startswith(f"{whole}/"):
            return path.removeprefix(whole)
    return None


def _token(request: HttpRequest, query: dict[str, str]) -> str | None:
    """Return the request's token: the first that there is, as stock clients send several."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and token.strip():
        return token.strip()
    for source, name in (
        (request.headers, "apikey"),
        (request.headers, "x-api-key"),
        (query, "apikey"),
    ):
        if source.get(name):
            return source[name]
    return None


def _cors(origin: str | None, allowed: Collection[str]) -> tuple[tuple[str, str], ...]:
    if origin is None:
        return ()
    if not allowed:
        return (("access-control-allow-origin", "*"),)
    return (("access-control-allow-origin", origin), ("vary", "origin"))


def _answer(status: HTTPStatus, body: dict[str, str], *headers: tuple[str, str]) -> Response:
    return Response(status, _JSON, json.dumps(body).encode(), headers)
