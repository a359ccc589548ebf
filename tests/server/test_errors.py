"""What can go wrong with a client."""

from __future__ import annotations

import pickle

import pytest

from realtime_core.errors import RealtimeError
from realtime_server.errors import FrameError, LimitError, RefusedError, TokenError, TopicError


@pytest.mark.parametrize("kind", [FrameError, LimitError, RefusedError, TokenError, TopicError])
def test_the_projects_root_catches_them(kind: type[RealtimeError]) -> None:
    assert issubclass(kind, RealtimeError)


def test_a_frame_error_has_a_close_code_and_a_reason() -> None:
    error = FrameError(1003, "binary frames are not supported")
    assert (error.code, error.reason, str(error)) == (1003, error.reason, error.reason)


def test_a_topic_that_cannot_be_served_is_a_refusal_with_a_reason() -> None:
    error = TopicError("no such filter")
    assert isinstance(error, RefusedError)
    assert (error.reason, str(error)) == ("no such filter", "no such filter")


def test_a_refusal_says_what_the_metrics_call_it() -> None:
    assert [kind("x").result for kind in (RefusedError, TokenError, TopicError)] == [
        "refused",
        "token",
        "topic",
    ]
    limit = LimitError("joins", "too many")
    assert (limit.result, limit.limit, limit.reason) == ("limit", "joins", "too many")


def test_errors_can_be_pickled() -> None:
    limit = pickle.loads(pickle.dumps(LimitError("joins", "too many")))
    assert (limit.limit, limit.reason) == ("joins", "too many")
    twin = pickle.loads(pickle.dumps(FrameError(1007, "the message is not JSON")))
    assert (twin.code, twin.reason, str(twin)) == (
        1007,
        "the message is not JSON",
        "the message is not JSON",
    )
