"""The inspector's endpoints: the files of its page, and what the page has to know.

``/inspector.json`` says whether the page may connect, and what it can listen to: a handshake
that is refused tells a script in a browser nothing. It asks for the token that the handshake
would ask for, so that strangers learn nothing of the database.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from functools import partial
from http import HTTPStatus
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePath
from typing import Any, Final
from urllib.parse import parse_qs

import attrs

from ...auth.authorizer import Authorizer, ConnectRequest, JoinRequest
from ...errors import RefusedError, TokenError
from ..http import NO_STORE, Endpoint, Request, Response
from .tables import TableList

__all__ = ["inspector_endpoints"]

_CONTENT_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
"""Not by the system's table: where that is wrong, browsers run no module."""

# What rows contain is shown as text; should that ever fail, nothing of it may run.
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "frame-src 'self'; frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
)
_HEADERS: Final = (
    ("cache-control", "no-cache"),
    ("content-security-policy", _POLICY),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
)


def inspector_endpoints(
    authorizer: Authorizer, tables: TableList, *, allowed_origins: Collection[str]
) -> dict[str, Endpoint]:
    """Return the inspector's endpoints, by path.

    Args:
        authorizer: decides who may connect.
        tables: can be listened to.
        allowed_origins: of pages that may connect; empty: all of them.
    """
    page = files(__package__) / "page"
    endpoints: dict[str, Endpoint] = {
        f"/{file.name}": partial(_serve, file) for file in page.iterdir()
    }
    endpoints["/"] = endpoints["/index.html"]
    endpoints["/inspector.json"] = _Start(authorizer, tables, allowed_origins)
    return endpoints


def _serve(file: Traversable, _: Request) -> Response:
    kind = _CONTENT_TYPES[PurePath(file.name).suffix]
    return Response(HTTPStatus.OK, f"{kind}; charset=utf-8", file.read_bytes(), _HEADERS)


class _Start:
    """What the page asks for before it connects, and when it cannot.

    The token comes as for a handshake; the header ``x-api-key`` keeps it out of the address.
    Browsers name a page's origin in a handshake, but not when it asks its own server for
    something; so the page does, in the query's ``origin``.
    """

    def __init__(
        self, authorizer: Authorizer, tables: TableList, allowed_origins: Collection[str]
    ) -> None:
        self._authorizer = authorizer
        self._tables = tables
        self._allowed_origins = allowed_origins

    async def __call__(self, request: Request) -> Response:
        query = {name: values[-1] for name, values in parse_qs(request.query).items()}
        origin = query.get("origin", "")
        if self._allowed_origins and origin.lower() not in self._allowed_origins:
            return _refusal(HTTPStatus.FORBIDDEN, "this page's origin is not in ALLOWED_ORIGINS")
        connect = ConnectRequest(request.path, query, request.headers)
        try:
            await self._authorizer.connect(connect)
            grant = await self._authorizer.join(JoinRequest(connect, "", None))
        except TokenError as exc:
            return _refusal(HTTPStatus.UNAUTHORIZED, exc.reason)
        except RefusedError as exc:
            return _refusal(HTTPStatus.FORBIDDEN, exc.reason)
        answer: dict[str, Any] = {"has_token": bool(grant.token), "tables": [], "problem": None}
        try:
            answer["tables"] = list(map(attrs.asdict, await self._tables.visible_to(grant)))
        except RefusedError as exc:
            answer["problem"] = exc.reason
        return _json(HTTPStatus.OK, answer)


def _refusal(status: HTTPStatus, reason: str) -> Response:
    return _json(status, {"reason": reason})


def _json(status: HTTPStatus, value: Any) -> Response:
    body = json.dumps(value, ensure_ascii=False).encode()
    return Response(status, "application/json", body, NO_STORE)
