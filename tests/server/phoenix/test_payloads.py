"""What clients put into their payloads."""

from __future__ import annotations

import math
from typing import Any

import pytest

from realtime_server.phoenix.payloads import access_token, config_text, has_config, size_of


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


def test_what_is_nested_too_deeply_to_be_written_is_too_large() -> None:
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    assert size_of(deep) == math.inf


def test_a_config_is_written_as_json_unless_it_is_nested_too_deeply() -> None:
    deep: list[Any] = []
    for _ in range(1000):
        deep = [deep]
    assert config_text({"config": {"private": True}, "x": 1}) == b'{"private":true}'
    assert config_text({"config": None}) == b"null"
    assert [config_text(one) for one in ({}, None, {"config": deep})] == [None] * 3
