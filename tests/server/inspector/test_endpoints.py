"""The page's files, as they are served."""

from __future__ import annotations

from collections.abc import Awaitable
from http import HTTPStatus
from importlib.resources import files

import pytest

from realtime_server.auth.authorizer import AllowAll
from realtime_server.net.http import HttpRequest, Response
from realtime_server.net.inspector import TableList, inspector_endpoints
from tests.server_helpers import open_config

PAGE = files("realtime_server.net.inspector") / "page"
ENDPOINTS = inspector_endpoints(AllowAll(), TableList.of(open_config()), allowed_origins=())


def get(path: str) -> Response | Awaitable[Response]:
    return ENDPOINTS[path](HttpRequest("GET", path))


def test_every_file_of_the_page_is_served_and_nothing_else() -> None:
    paths = {f"/{file.name}" for file in PAGE.iterdir()}
    assert ENDPOINTS.keys() == {"/", "/inspector.json", *paths}


@pytest.mark.parametrize(
    ("path", "name", "content_type"),
    [
        ("/", "index.html", "text/html; charset=utf-8"),
        ("/index.html", "index.html", "text/html; charset=utf-8"),
        ("/inspector.js", "inspector.js", "text/javascript; charset=utf-8"),
        ("/inspector.css", "inspector.css", "text/css; charset=utf-8"),
        ("/icon.svg", "icon.svg", "image/svg+xml; charset=utf-8"),
    ],
)
def test_a_file_is_served_as_it_is_and_asked_for_anew(
    path: str, name: str, content_type: str
) -> None:
    response = get(path)
    assert isinstance(response, Response)
    assert response.status is HTTPStatus.OK
    assert response.content_type == content_type
    assert response.body == (PAGE / name).read_bytes()
    assert ("cache-control", "no-cache") in response.headers


def test_only_the_servers_own_scripts_may_run_and_only_its_own_pages_may_frame_it() -> None:
    response = get("/")
    assert isinstance(response, Response)
    headers = dict(response.headers)
    policy = dict(item.split(" ", 1) for item in headers["content-security-policy"].split("; "))
    assert set(policy.values()) == {"'none'", "'self'"}
    assert policy["default-src"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["frame-ancestors"] == "'self'"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    # Nothing stands in the page itself that the policy would not let run.
    assert "style=" not in response.body.decode()
    assert "<script>" not in response.body.decode()
