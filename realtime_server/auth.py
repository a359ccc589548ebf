"""Who may connect, and who may join what: one seam for all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import attrs

__all__ = ["AllowAll", "Authorizer", "ConnectRequest", "JoinRequest"]


@attrs.frozen
class ConnectRequest:
    """A WebSocket handshake."""

    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]


@attrs.frozen
class JoinRequest:
    """A ``phx_join`` on a connection that was let in."""

    connect: ConnectRequest
    topic: str
    payload: Any


class Authorizer(Protocol):
    """Decides. Each method returns to allow, and raises :exc:`RefusedError` to refuse."""

    async def connect(self, request: ConnectRequest) -> None: ...

    async def join(self, request: JoinRequest) -> None: ...


class AllowAll:
    """SECURE_CHANNELS=false: everybody may connect and join anything."""

    async def connect(self, request: ConnectRequest) -> None:
        return None

    async def join(self, request: JoinRequest) -> None:
        return None
