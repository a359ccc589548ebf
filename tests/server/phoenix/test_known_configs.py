"""KnownConfigs: a config is read once for all joins that have it, as long as it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from realtime_server.errors import JoinError
from realtime_server.phoenix.joins import JoinConfig, parse_join
from realtime_server.phoenix.known_configs import MOST, MOST_BYTES, KnownConfigs
from realtime_server.phoenix.payloads import config_text


def finish(steps: Iterator[None]) -> Any:
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value


def read(configs: KnownConfigs, payload: Any) -> JoinConfig | None:
    found: JoinConfig | None = finish(configs.reading(payload, config_text(payload)))
    return found


def of(table: str, **more: Any) -> dict[str, Any]:
    return {"config": {"postgres_changes": [{"table": table, "filter": "id=eq.1"}], **more}}


def test_equal_configs_are_read_once_whatever_else_their_joins_have() -> None:
    configs = KnownConfigs()
    first = read(configs, of("todos"))
    assert first == parse_join(of("todos"))
    assert read(configs, {**of("todos"), "access_token": "x"}) is first
    # True and 1 are equal in Python, and not in JSON.
    assert read(configs, of("todos", private=True)) != first
    with pytest.raises(JoinError):
        read(configs, of("todos", private=1))
    assert len(configs) == 2


def test_a_join_without_config_and_a_refused_one_are_read_each_time() -> None:
    configs = KnownConfigs()
    assert read(configs, {}) is None
    for _ in range(2):
        with pytest.raises(JoinError):
            read(configs, {"config": 5})
    assert len(configs) == 0


def test_so_many_short_configs_are_kept_and_those_longest_that_are_used() -> None:
    configs = KnownConfigs()
    used = read(configs, of("used"))
    for number in range(MOST + 10):
        read(configs, of(f"table {number}"))
        assert read(configs, of("used")) is used
    assert len(configs) == MOST
    read(configs, of("x" * MOST_BYTES))
    assert len(configs) == MOST
