"""What clients put into a join's payload."""

from __future__ import annotations

from typing import Any

import pytest

from realtime_server.phoenix.payloads import wanted_bindings


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
