"""The inspector's endpoints: the files of its page."""

from __future__ import annotations

from functools import partial
from http import HTTPStatus
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePath
from typing import Final

from ..endpoints import Endpoint, Request, Response

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


def inspector_endpoints() -> dict[str, Endpoint]:
    """Return the page's endpoints, by path."""
    page = files(__package__) / "page"
    endpoints: dict[str, Endpoint] = {
        f"/{file.name}": partial(_serve, file) for file in page.iterdir()
    }
    return {"/": endpoints["/index.html"], **endpoints}


def _serve(file: Traversable, _: Request) -> Response:
    kind = _CONTENT_TYPES[PurePath(file.name).suffix]
    return Response(HTTPStatus.OK, f"{kind}; charset=utf-8", file.read_bytes(), _HEADERS)
