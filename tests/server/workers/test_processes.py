"""What the supervisor decides of its processes, and what it tells them, without processes."""

from __future__ import annotations

from realtime_core import LSN, SourceStats, StreamIdentity
from realtime_server.workers.control import stats_from_json, stats_to_json
from realtime_server.workers.processes import Pace


def test_a_worker_is_started_again_at_once_but_not_without_end() -> None:
    now = 0.0
    pace = Pace(lambda: now)
    assert [pace.pause() for _ in range(3)] == [0, 0, 0]
    assert pace.pause() == 10
    now = 10.0
    assert pace.pause() == 0
    now = 100.0
    assert [pace.pause() for _ in range(3)] == [0, 0, 0]


def test_what_a_source_counts_comes_through_json() -> None:
    stats = SourceStats(
        changes=3,
        confirmed_lsn=LSN(2**63),
        lag_seconds=0.5,
        connected=True,
        stream=StreamIdentity(2**63, 3, ("a b", "c")),
    )
    assert stats_from_json(stats_to_json(stats)) == stats
    assert stats_from_json(stats_to_json(SourceStats())) == SourceStats()
