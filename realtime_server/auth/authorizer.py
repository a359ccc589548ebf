"""Authorizer: decides on handshakes, joins and refreshes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

import attrs

from ..errors import TokenError
from ..phoenix.reasons import TokenReason
from .grant import Grant
from .tokens import TokenVerifier

__all__ = ["AllowAll", "Authorizer", "ConnectRequest", "JoinRequest", "TokenAuthorizer"]


# Headers, query and payload may hold tokens: no repr shows them.
@attrs.frozen
class ConnectRequest:
    """A WebSocket handshake."""

    path: str
    query: Mapping[str, str] = attrs.field(repr=False)
    headers: Mapping[str, str] = attrs.field(repr=False)
    """By name in lower case."""


@attrs.frozen
class JoinRequest:
    """A ``phx_join`` on a connection that was let in."""

    connect: ConnectRequest
    topic: str
    payload: Any = attrs.field(repr=False)


class Authorizer(Protocol):
    """Decides. Each method raises :exc:`RefusedError` to refuse."""

    async def connect(self, request: ConnectRequest) -> None:
        """Decide on a handshake."""
        ...

    async def join(self, request: JoinRequest) -> Grant:
        """Decide on a join; return in whose name the channel is joined."""
        ...

    async def refresh(self, grant: Grant, token: Any) -> Grant:
        """Decide on a new token, an ``access_token`` as the client sent it.

        Returns:
            What takes the place of the channel's grant.
        """
        ...

    def check(self, grant: Grant) -> Grant:
        """Decide whether a channel may stay; return what takes its grant's place."""
        ...


class AllowAll:
    """SECURE_CHANNELS=false: everybody may connect and join anything."""

    async def connect(self, request: ConnectRequest) -> None:
        return None

    async def join(self, request: JoinRequest) -> Grant:
        return _ANYBODY

    async def refresh(self, grant: Grant, token: Any) -> Grant:
        return grant

    def check(self, grant: Grant) -> Grant:
        return grant


_ANYBODY: Final = Grant()


class TokenAuthorizer:
    """SECURE_CHANNELS=true: a connection and each of its channels need a valid token.

    Args:
        verifier: knows the keys.
        clock: seconds since 1970.
    """

    def __init__(self, verifier: TokenVerifier, *, clock: Callable[[], float] = time.time) -> None:
        self._verifier = verifier
        self._clock = clock

    def use(self, verifier: TokenVerifier) -> None:
        """Take other keys. Channels are verified anew with them when they are next checked."""
        self._verifier = verifier

    async def connect(self, request: ConnectRequest) -> None:
        token = _socket_token(request)
        if token is None:
            raise TokenError(TokenReason.NOT_GIVEN.told())
        self._verifier.verify(token, self._clock())

    async def join(self, request: JoinRequest) -> Grant:
        payload = request.payload if isinstance(request.payload, dict) else {}
        for name in ("user_token", "access_token"):
            if payload.get(name) is not None:
                return self._grant(payload[name])
        return self._grant(_socket_token(request.connect))

    async def refresh(self, grant: Grant, token: Any) -> Grant:
        # Stock clients send it with each heartbeat, null where they were given none. That
        # takes nothing away: the channel has a token of its own.
        if token is None or token == grant.token:
            return self.check(grant)
        return self._grant(token)

    def check(self, grant: Grant) -> Grant:
        if grant.keys is not self._verifier:
            return self._grant(grant.token)
        if grant.expires_at is not None and grant.expires_at <= self._clock():
            raise TokenError(TokenReason.EXPIRED.told())
        return grant

    def _grant(self, token: Any) -> Grant:
        if not isinstance(token, str):
            raise TokenError(TokenReason.NO_STRING.told())
        claims = self._verifier.verify(token, self._clock())
        expires_at = claims.get("exp")
        if not isinstance(expires_at, int):
            raise TokenError(TokenReason.NO_EXPIRY.told())
        return Grant(claims, expires_at, token, self._verifier)


def _socket_token(request: ConnectRequest) -> str | None:
    """Return the token that a handshake brought: the header's goes first."""
    for source, name in (
        (request.headers, "x-api-key"),
        (request.query, "apikey"),
        (request.query, "token"),
    ):
        if name in source:
            return source[name]
    return None
