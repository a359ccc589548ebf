"""The metrics of the log that several servers share."""

from __future__ import annotations

from realtime_core import SourceStats
from realtime_server.cluster.stats import ClusterStats, LeaderStats, LogStats
from realtime_server.fanout.hub_stats import HubStats
from realtime_server.metrics import Metrics
from tests.server_helpers import make_backlog, make_metrics


def test_what_is_counted_of_the_log_is_read_when_it_is_asked_for() -> None:
    leader = LeaderStats(terms=2, appends=70, append_seconds=1.5, fenced=1, held_back_seconds=2.5)
    log = LogStats(resyncs=4, gaps=1, lag_messages=5, lag_bytes=600, tail_age=0.5)
    stats = ClusterStats(leading=True, nodes=3, leader=leader, log=log)
    metrics = Metrics(
        stats=SourceStats, hub=HubStats, backlog=make_backlog(), cluster=lambda: stats
    )
    lines = metrics.render().decode().splitlines()
    assert {
        "realtime_cluster_leading 1.0",
        "realtime_cluster_nodes 3.0",
        "realtime_cluster_terms_total 2.0",
        "realtime_log_tail_age_seconds 0.5",
        "realtime_log_lag_messages 5.0",
        "realtime_log_lag_bytes 600.0",
        "realtime_log_appends_total 70.0",
        "realtime_log_append_seconds_total 1.5",
        "realtime_log_fenced_total 1.0",
        "realtime_log_held_back_seconds_total 2.5",
        "realtime_log_resyncs_total 4.0",
        "realtime_log_gaps_total 1.0",
    } <= set(lines)


def test_a_server_that_shares_nothing_has_none_of_them() -> None:
    text = make_metrics().render().decode()
    assert "realtime_log_" not in text
    assert "realtime_cluster_" not in text
