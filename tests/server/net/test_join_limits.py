"""JoinLimits: how many joins, and how large ones."""

from __future__ import annotations

import pytest

from realtime_server.errors import LimitError
from realtime_server.net.join_limits import MAX_TOPIC_LENGTH, JoinLimits
from tests.server_helpers import open_config


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def limit_met(limits: JoinLimits, topic: str = "realtime:a", channels: int = 0) -> str | None:
    try:
        limits.check(topic, None, channels=channels)
    except LimitError as exc:
        return exc.limit
    return None


def test_so_many_joins_a_second_are_taken() -> None:
    clock = Clock()
    limits = JoinLimits(open_config(max_joins_per_second=2), clock)
    assert [limit_met(limits) for _ in range(3)] == [None, None, "joins"]
    clock.now = 0.5
    assert [limit_met(limits) for _ in range(2)] == [None, "joins"]


def test_a_long_join_counts_as_several() -> None:
    clock = Clock()
    limits = JoinLimits(open_config(max_joins_per_second=10), clock)
    limits.check("realtime:a", b"x" * 1200, channels=0)
    assert limit_met(limits) == "joins"
    clock.now = 1.5
    assert limit_met(limits) is None


def test_a_join_because_of_which_many_are_asked_counts_as_several() -> None:
    clock = Clock()
    limits = JoinLimits(open_config(max_joins_per_second=100), clock)
    assert limit_met(limits) is None
    limits.charge(4)
    limits.charge(490)
    assert [limit_met(limits) for _ in range(2)] == [None, "joins"]
    clock.now = 0.5
    assert limit_met(limits) is None


@pytest.mark.parametrize(
    ("topic", "channels", "limit"),
    [
        ("x" * MAX_TOPIC_LENGTH, 2, None),
        ("x" * (MAX_TOPIC_LENGTH + 1), 0, "topic"),
        ("realtime:a", 3, "channels"),
    ],
)
def test_a_topic_may_be_so_long_and_a_connection_have_so_many_channels(
    topic: str, channels: int, limit: str | None
) -> None:
    limits = JoinLimits(open_config(max_joins_per_second=1000, max_channels=3), Clock())
    assert limit_met(limits, topic, channels) == limit
