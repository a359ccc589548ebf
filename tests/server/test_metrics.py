"""Metrics: names, what is counted where, and that the reference page has them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from realtime_core import SourceStats
from realtime_server.cluster.stats import ClusterStats
from realtime_server.fanout.hub_stats import HubStats
from realtime_server.metrics import CONTENT_TYPE, Metrics
from realtime_server.workers.stats import WorkerStats
from tests.server_helpers import make_backlog, make_metrics

ROOT = Path(__file__).parents[2]


def lines(metrics: Metrics) -> list[str]:
    return metrics.render().decode().splitlines()


def test_the_originals_gauges_have_their_names_and_their_words() -> None:
    metrics = make_metrics()
    metrics.connections.inc()
    metrics.channels.inc(3)
    text = metrics.render().decode()
    assert CONTENT_TYPE.startswith("text/plain; version=0.0.4")
    for gauge in (
        "# HELP realtime_active_websocket_connection_total "
        "The total number of active websocket connections.\n"
        "# TYPE realtime_active_websocket_connection_total gauge\n"
        "realtime_active_websocket_connection_total 1.0\n",
        "# HELP realtime_active_websocket_topic_total "
        "The total number of active topic subscriptions.\n"
        "# TYPE realtime_active_websocket_topic_total gauge\n"
        "realtime_active_websocket_topic_total 3.0\n",
    ):
        assert gauge in text


def test_what_is_counted_elsewhere_is_read_when_it_is_asked_for() -> None:
    stats = SourceStats(
        changes=7,
        transactions=3,
        bytes_received=700,
        reconnects=2,
        gaps=1,
        lag_bytes=4096,
        lag_seconds=1.5,
        connected=True,
    )
    metrics = make_metrics(stats, subscriptions=5)
    metrics.outbox.frames, metrics.outbox.bytes, metrics.outbox.slow_clients = 10, 1000, 4
    assert {
        "realtime_rows_total 7.0",
        "realtime_transactions_total 3.0",
        "realtime_received_bytes_total 700.0",
        "realtime_reconnects_total 2.0",
        "realtime_gaps_total 1.0",
        "realtime_lag_bytes 4096.0",
        "realtime_lag_seconds 1.5",
        "realtime_stream_connected 1.0",
        "realtime_subscriptions 5.0",
        "realtime_sent_frames_total 10.0",
        "realtime_sent_bytes_total 1000.0",
        "realtime_slow_clients_total 4.0",
    } <= set(lines(metrics))


def test_two_servers_in_one_process_count_apart() -> None:
    one, other = make_metrics(), make_metrics()
    one.limit("joins")
    one.closed(1012)
    assert 'realtime_limits_total{limit="joins"} 1.0' in lines(one)
    assert 'realtime_connections_closed_total{code="1012"} 1.0' in lines(one)
    assert [line for line in lines(other) if "joins" in line and "limit=" in line] == []


def test_the_reference_page_has_every_metric_and_no_other() -> None:
    page = (ROOT / "docs/reference/metrics.md").read_text(encoding="utf-8")
    documented = dict(re.findall(r"^\| `(\w+)` \| (\w+) \|", page, re.MULTILINE))
    metrics = Metrics(
        stats=SourceStats,
        hub=HubStats,
        backlog=make_backlog(),
        workers=WorkerStats,
        cluster=ClusterStats,
    )
    text = metrics.render().decode()
    exposed = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    created = {name for name in exposed if name.endswith("_created")}
    assert documented == {name: kind for name, kind in exposed.items() if name not in created}


@pytest.mark.slow
def test_the_reference_page_has_every_limit() -> None:
    """What the sources count under, as they name it."""
    pattern = re.compile(r"(?:\b(?:on_)?limit|LimitError|_refuse)\(\s*\"(\w+)\"")
    counted = {
        name
        for path in (ROOT / "realtime_server").rglob("*.py")
        for name in pattern.findall(path.read_text(encoding="utf-8"))
    }
    page = (ROOT / "docs/reference/limits.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| [^|]+ \| `(\w+)` \|", page, re.MULTILINE))
    assert counted == documented
    assert len(counted) >= 10
