"""Authorizers decide who may connect, who may join a topic, and who may stay joined."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol

import attrs

from ..errors import TokenError
from ..phoenix.reasons import TokenReason
from .grant import Grant

if TYPE_CHECKING:
    from ..config import ServerConfig
    from .tokens import TokenVerifier

__all__ = [
    "AllowAll",
    "Authorizer",
    "ConnectRequest",
    "JoinRequest",
    "TokenAuthorizer",
    "make_authorizer",
]


# The headers, the query and the payload may contain tokens, so no repr shows them.
@attrs.frozen
class ConnectRequest:
    """A WebSocket handshake."""

    path: str
    """The request's path, without the query."""
    query: Mapping[str, str] = attrs.field(repr=False)
    """The query's parameters by name."""
    headers: Mapping[str, str] = attrs.field(repr=False)
    """The request's headers by name, in lower case."""


@attrs.frozen
class JoinRequest:
    """A ``phx_join`` on a connection whose handshake was accepted."""

    connect: ConnectRequest
    """The connection's handshake."""
    topic: str
    """The topic to join."""
    payload: Any = attrs.field(repr=False)
    """The join's payload, as the client sent it."""


class Authorizer(Protocol):
    """Decides what clients may do. Each method raises :exc:`RefusedError` to refuse."""

    async def connect(self, request: ConnectRequest) -> None:
        """Decide whether a client may connect."""
        ...

    async def join(self, request: JoinRequest) -> Grant:
        """Decide whether a client may join a topic.

        Returns:
            The grant of the new channel: its token, and the token's claims.
        """
        ...

    async def refresh(self, grant: Grant, token: Any) -> Grant:
        """Decide whether a joined channel may take a new token.

        Args:
            grant: the channel's grant until now.
            token: the ``access_token``, as the client sent it.

        Returns:
            The grant that replaces it.
        """
        ...

    def check(self, grant: Grant) -> Grant:
        """Decide whether a channel may stay joined.

        Args:
            grant: the channel's grant until now.

        Returns:
            The grant that replaces it: another one where the server's keys have changed.
        """
        ...


class AllowAll:
    """SECURE_CHANNELS=false: everybody may connect and join every topic."""

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
        verifier: verifies tokens with the server's keys.
        clock: returns the time as seconds since 1970.
    """

    def __init__(self, verifier: TokenVerifier, *, clock: Callable[[], float] = time.time) -> None:
        self._verifier = verifier
        self._clock = clock

    def use(self, verifier: TokenVerifier) -> None:
        """Replace the verifier that tokens are verified with.

        The tokens of joined channels are verified with it when they are checked the next time.
        """
        self._verifier = verifier

    def reread_keys(self, config: ServerConfig) -> None:
        """Take the keys that the file JWT_JWKS_FILE has now.

        Raises:
            ConfigError: if the file cannot be read, or its keys cannot be used.
        """
        from .setup import reread_verifier

        self.use(reread_verifier(config))

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
        # Stock clients send an access_token with each heartbeat: null if they were given none.
        # The channel keeps the token that it was joined with then.
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
    """Return the token of a handshake; the header takes precedence over the query."""
    for source, name in (
        (request.headers, "x-api-key"),
        (request.query, "apikey"),
        (request.query, "token"),
    ):
        if name in source:
            return source[name]
    return None


def make_authorizer(config: ServerConfig) -> AllowAll | TokenAuthorizer:
    """Make the authorizer that the settings ask for.

    What reads keys and tokens takes a tenth of a server's start, so that only a server that needs
    it imports it.

    Raises:
        ConfigError: if a key cannot be used.
    """
    if not config.secure_channels:
        return AllowAll()
    from .setup import make_verifier

    return TokenAuthorizer(make_verifier(config))
