"""TokenLimit: different tokens of one connection."""

from __future__ import annotations

import pytest

from realtime_server.errors import LimitError
from realtime_server.net.token_limit import TokenLimit


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_token_of_many_channels_counts_once() -> None:
    limit = TokenLimit(1, Clock())
    for topic in ("a", "b", "c"):
        limit.hold(topic, "ann")
    with pytest.raises(LimitError) as caught:
        limit.hold("d", "bob")
    assert str(caught.value) == (
        "TooManyTokens: this connection's channels hold, or held within the last minute, 1 "
        "different tokens, the most they may (MAX_TOKENS); leave channels and wait a minute, use "
        "one token for all, or raise MAX_TOKENS"
    )


def test_a_token_of_which_no_channel_is_left_counts_for_a_minute() -> None:
    clock = Clock()
    limit = TokenLimit(1, clock)
    limit.hold("a", "ann")
    limit.hold("b", "ann")
    limit.release("a")
    clock.now = 100
    limit.release("b")
    clock.now = 159
    limit.check("ann")
    with pytest.raises(LimitError):
        limit.check("bob")
    clock.now = 161
    limit.hold("a", "bob")


def test_ever_new_tokens_of_one_channel_are_too_many() -> None:
    clock = Clock()
    limit = TokenLimit(3, clock)
    for name in ("ann", "bob", "eve", "bob"):
        limit.hold("a", name)
    with pytest.raises(LimitError):
        limit.hold("a", "dan")
    # Nothing has changed by that.
    limit.release("a")
    clock.now = 61
    for name in ("dan", "fay", "gus"):
        limit.hold("a", name)


def test_no_token_is_none() -> None:
    limit = TokenLimit(1, Clock())
    limit.hold("a", "ann")
    limit.hold("b", "")
    limit.release("b")
    limit.check("")
