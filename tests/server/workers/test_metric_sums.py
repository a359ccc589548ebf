"""MetricSums: what several workers count is shown as if one server had counted it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from realtime_core import SourceStats
from realtime_server.fanout.hub_stats import HubStats
from realtime_server.metrics import Metrics
from realtime_server.replay.stats import ReplayStats
from realtime_server.workers.metric_sums import MetricSums
from realtime_server.workers.stats import WorkerStats
from tests.server_helpers import make_backlog


def metrics(rows: int = 0, *, log_seconds: float = 0.0, subscriptions: int = 0) -> Metrics:
    return Metrics(
        stats=lambda: SourceStats(changes=rows, connected=True),
        hub=lambda: HubStats(subscriptions=subscriptions),
        backlog=make_backlog(),
        replay=lambda: ReplayStats(log_seconds=log_seconds),
    )


def of_supervisor(rows: int = 0) -> bytes:
    metrics = Metrics(
        stats=lambda: SourceStats(changes=rows, connected=True),
        hub=HubStats,
        backlog=make_backlog(),
        workers=lambda: WorkerStats(2, 1),
    )
    return metrics.render()


def values(text: bytes) -> dict[str, float]:
    return {
        sample.name + "".join(f"{{{value}}}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_what_each_worker_has_is_added_up_and_what_all_share_is_not() -> None:
    sums = MetricSums()
    for number, (subscriptions, seconds) in enumerate([(3, 10.0), (4, 20.0)]):
        worker = metrics(rows=50, subscriptions=subscriptions, log_seconds=seconds)
        worker.joins.labels("ok").inc(number + 1)
        worker.commit_to_socket.observe(0.003)
        sums.take(number, worker.render().decode())
    found = values(sums.render(of_supervisor(rows=60)))
    assert found["realtime_subscriptions"] == 7
    assert found["realtime_joins_total{ok}"] == 3
    assert found["realtime_commit_to_socket_seconds_count"] == 2
    assert found["realtime_commit_to_socket_seconds_bucket{0.005}"] == 2
    assert found["realtime_commit_to_socket_seconds_bucket{0.0025}"] == 0
    assert found["realtime_replay_log_seconds"] == 20
    # The supervisor reads the rows; the workers have them from there.
    assert found["realtime_rows_total"] == 60
    assert found["realtime_stream_connected"] == 1
    assert found["realtime_workers"] == 2


def test_counters_do_not_go_down_when_a_worker_ends() -> None:
    sums = MetricSums()
    worker = metrics(subscriptions=3)
    worker.joins.labels("ok").inc(5)
    worker.connections.set(2)
    worker.commit_to_socket.observe(0.003)
    sums.take(1, worker.render().decode())
    sums.end(1)
    again = metrics()
    again.joins.labels("ok").inc()
    sums.take(1, again.render().decode())
    found = values(sums.render(of_supervisor()))
    assert found["realtime_joins_total{ok}"] == 6
    assert found["realtime_commit_to_socket_seconds_count"] == 1
    # What there is now has ended with the worker.
    assert found["realtime_subscriptions"] == 0
    assert found["realtime_active_websocket_connection_total"] == 0


def test_a_label_that_only_an_ended_worker_had_is_still_there() -> None:
    sums = MetricSums()
    worker = metrics()
    worker.joins.labels("limit").inc(5)
    sums.take(1, worker.render().decode())
    sums.end(1)
    assert values(sums.render(of_supervisor()))["realtime_joins_total{limit}"] == 5


def test_the_sums_of_one_worker_are_its_metrics() -> None:
    worker = metrics()
    worker.joins.labels("ok").inc()
    sums = MetricSums()
    sums.take(1, worker.render().decode())
    found = values(sums.render(of_supervisor()))
    of_workers = {name for name in found if name.startswith("realtime_worker")}
    assert found.keys() - of_workers == values(worker.render()).keys()
