"""CONFIGURATION_FILE: what it says, and what is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from realtime_core.filters import parse_filter
from realtime_server.config import ConfigurationFile, RelationRule, Webhook

ALL = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
EVERYTHING = (RelationRule("*", ALL), RelationRule("*:*", ALL), RelationRule("*:*:*", ALL))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.json"


def read(path: Path, content: Any) -> ConfigurationFile:
    path.write_text(json.dumps(content))
    return ConfigurationFile.read(str(path))


def test_without_a_file_all_is_broadcast() -> None:
    assert ConfigurationFile() == ConfigurationFile(EVERYTHING, (), None)


def test_the_file_of_the_original_is_read(path: Path) -> None:
    content = {
        "webhooks": [
            {"event": "*", "relation": "*", "config": {"endpoint": "https://webhook.site/abc"}},
            {"config": {"endpoint": "http://localhost:8080"}},
            {"event": "INSERT", "relation": "public:u", "config": {"endpoint": "http://[::1]/"}},
        ],
        "realtime": [
            {"relation": "public:users", "events": ["INSERT", "UPDATE"]},
            {"relation": "*", "events": []},
        ],
    }
    assert read(path, content) == ConfigurationFile(
        realtime=(RelationRule("public:users", ("INSERT", "UPDATE")), RelationRule("*", ())),
        webhooks=(
            Webhook("https://webhook.site/abc", name="webhook-1"),
            Webhook("http://localhost:8080", name="webhook-2"),
            Webhook("http://[::1]/", name="webhook-3", events=("INSERT",), relation="public:u"),
        ),
        path=str(path),
    )


def test_a_webhook_can_have_a_name_events_a_filter_and_columns(path: Path) -> None:
    content = {
        "name": "adults",
        "relation": "public:users",
        "events": ["DELETE", "INSERT"],
        "filter": "age=gte.18",
        "select": ["id", "age", "id"],
        "config": {"endpoint": "https://example.org/hook"},
    }
    (webhook,) = read(path, {"webhooks": [content]}).webhooks
    assert webhook == Webhook(
        "https://example.org/hook",
        name="adults",
        events=("INSERT", "DELETE"),
        relation="public:users",
        filter=parse_filter("age=gte.18"),
        select=("id", "age"),
    )
    assert "example.org" not in repr(webhook)


def test_an_empty_filter_is_none(path: Path) -> None:
    (webhook,) = read(path, {"webhooks": [{"filter": "", "config": URL}]}).webhooks
    assert webhook.filter is None


def test_without_the_key_realtime_all_is_broadcast(path: Path) -> None:
    assert read(path, {}) == ConfigurationFile(EVERYTHING, (), str(path))


def test_an_empty_list_broadcasts_nothing(path: Path) -> None:
    assert read(path, {"realtime": []}).realtime == ()


URL = {"endpoint": "https://example.org/hook"}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "the file is not a JSON object; use "),
        ({"realtime": {}}, "realtime in the file is not a list; use a list of objects"),
        ({"webhooks": None}, "webhooks in the file is not a list; use a list of objects"),
        ({"realtime": ["public"]}, "realtime[0] in the file has no relation; use "),
        ({"realtime": [{"events": ["INSERT"]}]}, "realtime[0] in the file has no relation; use "),
        ({"realtime": [{"relation": "a"}]}, "realtime[0] in the file needs events, a list of "),
        (
            {"realtime": [{"relation": "a", "events": ["*"]}]},
            "realtime[0] in the file needs events, a list of INSERT, UPDATE, DELETE, TRUNCATE; ",
        ),
        (
            {"realtime": [{"relation": "a", "events": [["INSERT"]]}]},
            "realtime[0] in the file needs events, a list of ",
        ),
        (
            {"realtime": [{"relation": "a::b", "events": []}]},
            "realtime[0] in the file has the relation 'a::b'; use *, schema, schema:table, "
            "schema:table:column",
        ),
        (
            {"webhooks": [{"config": URL}, {"config": {}}]},
            "webhooks[1] in the file has no config.endpoint with an http or https URL; use ",
        ),
        ({"webhooks": ["x"]}, "webhooks[0] in the file has no config.endpoint "),
        ({"webhooks": [{"config": {"endpoint": "ftp://x"}}]}, "webhooks[0] in the file has no "),
        ({"webhooks": [{"config": {"endpoint": "http://["}}]}, "webhooks[0] in the file has no "),
        ({"webhooks": [{"config": {"endpoint": "http://a:b"}}]}, "webhooks[0] in the file has no "),
        (
            {"webhooks": [{"event": "insert", "config": URL}]},
            "webhooks[0] in the file has the event 'insert'; use *, INSERT, ",
        ),
        (
            {"webhooks": [{"relation": "a:", "config": URL}]},
            "webhooks[0] in the file has the relation 'a:'; use *, schema, schema:table",
        ),
        (
            {"webhooks": [{"relation": 1, "config": URL}]},
            "webhooks[0] in the file has the relation 1",
        ),
        (
            {"webhooks": [{"filters": "id=eq.1", "config": URL}]},
            "webhooks[0] in the file has the key 'filters'; use name, event, events, relation, ",
        ),
        (
            {"webhooks": [{"config": {**URL, "secret": "x"}}]},
            "webhooks[0] in the file has the key 'secret'; use endpoint",
        ),
        (
            {"webhooks": [{"name": "a b", "config": URL}]},
            "webhooks[0] in the file has the name 'a b'; use up to 64 letters, digits and _ . -",
        ),
        (
            {"webhooks": [{"config": URL}, {"name": "webhook-1", "config": URL}]},
            "webhooks[1] in the file has the name 'webhook-1', which another has; give each ",
        ),
        (
            {"webhooks": [{"event": "*", "events": ["INSERT"], "config": URL}]},
            "webhooks[0] in the file has both event and events; leave one of them out",
        ),
        (
            {"webhooks": [{"events": [], "config": URL}]},
            "webhooks[0] in the file has the events []; use a list of INSERT, UPDATE, ",
        ),
        (
            {"webhooks": [{"events": ["*"], "config": URL}]},
            "webhooks[0] in the file has the events ['*']; use a list of ",
        ),
        (
            {"webhooks": [{"filter": 1, "config": URL}]},
            "webhooks[0] in the file has a filter that is no text; use ",
        ),
        (
            {"webhooks": [{"filter": "id=is.5", "config": URL}]},
            "webhooks[0] in the file has the filter 'id=is.5': ",
        ),
        (
            {"webhooks": [{"filter": "id=match.(", "config": URL}]},
            "webhooks[0] in the file has the filter 'id=match.(': ",
        ),
        (
            {"webhooks": [{"select": "id", "config": URL}]},
            "webhooks[0] in the file has the select 'id'; use a list of columns",
        ),
        (
            {"webhooks": [{"select": [], "config": URL}]},
            "webhooks[0] in the file has the select []; use a list of columns",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_place(path: Path, content: Any, problem: str) -> None:
    with pytest.raises(ValueError, match="the file") as caught:
        read(path, content)
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b"[" * 100_000, b""])
def test_what_is_not_json_is_said(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^the file is not JSON \(.*\); correct it$"):
        ConfigurationFile.read(str(path))


def test_a_folder_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^the file cannot be read \(Is a directory\); name a"):
        ConfigurationFile.read(str(tmp_path))
