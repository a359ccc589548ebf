"""Transactions whose messages members have got lately: which are remembered, and for how long."""

from __future__ import annotations

import pytest

from realtime_server.fanout import recent_commits
from realtime_server.fanout.recent_commits import RecentCommits


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_what_queries_see_is_forgotten_and_what_came_meanwhile_is_not() -> None:
    commits = RecentCommits(Clock())
    commits.add(7)
    commits.add(7)
    commits.add(8)
    seen = commits.xids()
    commits.add(9)
    assert [*seen] == [7, 8]
    commits.settle(seen)
    assert [*commits.xids()] == [9]


def test_transactions_of_more_than_a_minute_ago_are_forgotten() -> None:
    clock = Clock()
    commits = RecentCommits(clock)
    commits.add(7)
    clock.now += 59
    commits.add(8)
    assert [*commits.xids()] == [7, 8]
    clock.now += 2
    assert [*commits.xids()] == [8]


def test_of_too_many_transactions_the_latest_are_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recent_commits, "_MOST", 3)
    commits = RecentCommits(Clock())
    for xid in range(5):
        commits.add(xid)
    assert [*commits.xids()] == [2, 3, 4]
