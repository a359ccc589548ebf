"""Two people's views of one table: a server in RLS mode, and the address of a page with both.

The inspector takes views, and a token for each, from behind the ``#`` of its address, which
browsers send to nobody.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import logging
import secrets
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import quote

import attrs

from realtime_server.config import ServerConfig
from realtime_server.demo import notes
from realtime_server.server import RealtimeServer

__all__ = ["TwoViews", "open_two_views"]

logger = logging.getLogger("realtime.rls")

_TOPIC: Final = "realtime:public:notes"
_ATTEMPTS: Final = 500
"""To find the server attached, until its address is told all the same."""
_PAUSE: Final = 0.02  # seconds between them
_TOKENS_LAST: Final = 30 * 24 * 3600  # seconds; the secret ends with the demo


@attrs.frozen
class TwoViews:
    """The running parts of the demo.

    Attributes:
        server: in RLS mode.
        url: of the page that shows both views; it has their tokens.
    """

    server: RealtimeServer
    url: str


@asynccontextmanager
async def open_two_views(
    database: notes.NotesDatabase, settings: Mapping[str, str], *, host: str, port: int
) -> AsyncIterator[TwoViews]:
    """Run a server in RLS mode on the notes.

    Args:
        database: the notes'.
        settings: the variables that say where it is.
        host: the address that the server listens on.
        port: to listen on; if it is not free, another one is taken.

    Raises:
        ServerError: the port was taken meanwhile.
    """
    secret = secrets.token_urlsafe(32)
    ours = {
        "PORT": str(port if _is_free(host, port) else 0),
        "PUBLICATIONS": json.dumps([notes.PUBLICATION]),
        "REPLICATION_MODE": "RLS",
        "SECURE_CHANNELS": "true",
        "JWT_SECRET": secret,
    }
    config = ServerConfig.from_env({**settings, **ours}, dev=True)
    logger.addFilter(_is_worth_telling)
    try:
        async with RealtimeServer(config) as server:
            # Until then the page would say that it is not ready, and does so if it never is.
            for _ in range(_ATTEMPTS):
                if server.is_attached:
                    break
                await asyncio.sleep(_PAUSE)
            views = "&".join(f"view={_view(name, database.role, secret)}" for name in notes.OWNERS)
            yield TwoViews(server, f"http://{host}:{server.port}/#{views}")
    finally:
        logger.removeFilter(_is_worth_telling)


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Return whether to log a line.

    The advice to take a role with fewer powers is left out: all tables here are the demo's own.
    """
    return "should have fewer powers" not in str(record.msg)


def _view(name: str, role: str, secret: str) -> str:
    expiry = int(time.time()) + _TOKENS_LAST
    token = _sign({"role": role, "sub": name, "exp": expiry}, secret)
    return quote(f"title={name}&topic={_TOPIC}&token={token}", safe=":")


def _sign(claims: Mapping[str, Any], secret: str) -> str:
    """Return a JSON Web Token (RFC 7519), signed with HS256."""
    signed = f"{_segment({'alg': 'HS256', 'typ': 'JWT'})}.{_segment(claims)}"
    signature = hmac.digest(secret.encode(), signed.encode(), hashlib.sha256)
    return f"{signed}.{_base64url(signature)}"


def _segment(value: Mapping[str, Any]) -> str:
    return _base64url(json.dumps(value, separators=(",", ":")).encode())


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except (OSError, OverflowError):
            return False
    return True
