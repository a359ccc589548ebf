"""Refusals: what the log has of a client that is refused ever again."""

from __future__ import annotations

import logging

import pytest

from realtime_server.errors import JoinError
from realtime_server.fanout.topic_parser import Topic
from realtime_server.net.refusals import LINES_PER_SECOND, Refusals
from tests.server_helpers import make_metrics


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_flood_of_refusals_is_a_few_lines_and_what_is_left_out_is_said(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "realtime.connection")
    clock, metrics = Clock(), make_metrics()
    refusals = Refusals("10.0.0.1:4321", metrics, clock)
    for _ in range(1000):
        assert refusals.of_join("realtime:room", JoinError("wrong"), has_config=False) == "wrong"
    line = "join of 'realtime:room' by 10.0.0.1:4321 refused: wrong"
    assert caplog.messages == [line] * LINES_PER_SECOND
    caplog.clear()
    clock.now = 0.1
    refusals.of_join("realtime:room", JoinError("wrong"), has_config=False)
    left_out = "990 refusals of 10.0.0.1:4321 are not in the log, which has 10 a second at most"
    assert caplog.messages == [left_out, line]
    caplog.clear()
    refusals.of_join("realtime:room", JoinError("wrong"), has_config=False)
    assert caplog.messages == []
    # Nothing is left out without a word.
    refusals.close()
    refusals.close()
    assert caplog.messages == [left_out.replace("990", "1")]
    assert 'realtime_joins_total{result="config"} 1002.0' in metrics.render().decode()


@pytest.mark.parametrize("letter", ["x", "\0", "\U0001f600"])
def test_a_long_filter_is_cut_short_in_the_log_and_in_the_reply(
    caplog: pytest.LogCaptureFixture, letter: str
) -> None:
    caplog.set_level(logging.INFO, "realtime.connection")
    topic = f"realtime:public:todos:{letter * 4000}"
    problem = Topic.parse(topic).problem
    assert problem is not None
    refusals = Refusals("10.0.0.1:4321", make_metrics(), Clock())
    refusals.of_join(topic, problem, has_config=False)
    [record] = caplog.records
    assert len(record.getMessage()) < 1500
    assert len(vars(record)["reason"]) <= 1000
    assert "todos…" in record.getMessage()
    assert len(problem.reason) < 1500
