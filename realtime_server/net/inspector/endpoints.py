"""The inspector's endpoints: the files of its page, and ``/inspector.json`` for the page.

``/inspector.json`` says whether the page may connect, and which tables it can listen to. It is
needed because a browser does not tell a script why a handshake was refused. It requires the same
token as the handshake, so that nobody else learns anything about the database.
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
from ..http import NO_STORE, HttpEndpoint, HttpRequest, Response
from ..origins import is_allowed
from .tables import TableList

__all__ = ["inspector_endpoints"]

_CONTENT_TYPES: Final = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
"""The content types by suffix. The system's table is not used: where it is wrong, browsers do not
run modules."""

# The page shows values of rows as text. Should that ever fail, no script in them may run.
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
) -> dict[str, HttpEndpoint]:
    """Return the inspector's endpoints, by path.

    Args:
        authorizer: decides who may connect.
        tables: that can be listened to.
        allowed_origins: whose pages may connect; empty: all.
    """
    page = files(__package__) / "page"
    endpoints: dict[str, HttpEndpoint] = {
        f"/{file.name}": partial(_serve, file) for file in page.iterdir()
    }
    endpoints["/"] = endpoints["/index.html"]
    endpoints["/inspector.json"] = _Start(authorizer, tables, allowed_origins)
    return endpoints


def _serve(file: Traversable, _: HttpRequest) -> Response:
    kind = _CONTENT_TYPES[PurePath(file.name).suffix]
    return Response(HTTPStatus.OK, f"{kind}; charset=utf-8", file.read_bytes(), _HEADERS)


class _Start:
    """Serves ``/inspector.json``, which the page requests before it connects, and when it cannot.

    The token is sent as in a handshake; in the header ``x-api-key`` it does not show in the
    address. Browsers send a page's origin in a handshake, but not in a request to the page's own
    server; so the page puts it into the query, as ``origin``.
    """

    def __init__(
        self, authorizer: Authorizer, tables: TableList, allowed_origins: Collection[str]
    ) -> None:
        self._authorizer = authorizer
        self._tables = tables
        self._allowed_origins = allowed_origins

    async def __call__(self, request: HttpRequest) -> Response:
        query = {name: values[-1] for name, values in parse_qs(request.query).items()}
        if not is_allowed(query.get("origin", ""), self._allowed_origins):
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
