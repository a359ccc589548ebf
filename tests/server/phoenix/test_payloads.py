"""What clients put into a join's payload."""

from __future__ import annotations

from typing import Any

import pytest

from realtime_server.phoenix.payloads import access_token, has_config, size_of, wanted_bindings


@pytest.mark.parametrize(
    "payload",
    [
        {},
        [],
        None,
        "text",
        0,
        {"user_token": "x"},
        {"config": None},
        {"config": []},
        {"config": {}},
        {"config": {"postgres_changes": []}},
        {"config": {"postgres_changes": None}},
        {"config": {"postgres_changes": {}}},
        {"config": {"broadcast": {"self": True}, "presence": {"key": ""}}},
    ],
)
def test_a_first_generation_payload_wants_no_bindings(payload: Any) -> None:
    assert wanted_bindings(payload) == []


def test_bindings_are_returned_as_they_came() -> None:
    bindings = [{"event": "*", "schema": "public"}]
    assert wanted_bindings({"config": {"postgres_changes": bindings}}) == bindings


@pytest.mark.parametrize(
    ("payload", "expected"),
    [({}, False), ([], False), (None, False), ("config", False), ({"user_token": "x"}, False)]
    + [({"config": config}, True) for config in ({}, None, [], {"broadcast": {}})],
)
def test_a_config_tells_the_generations_apart(payload: Any, expected: bool) -> None:
    assert has_config(payload) is expected


@pytest.mark.parametrize(
    ("payload", "token"),
    [({"access_token": "x"}, "x"), ({"access_token": None}, None), ({}, None), (["x"], None)],
)
def test_a_token_is_returned_as_it_came(payload: Any, token: Any) -> None:
    assert access_token(payload) == token


def test_a_payloads_size_is_that_of_its_json() -> None:
    assert size_of({"a": ["漢", 1.5]}) == len('{"a":["漢",1.5]}'.encode())
