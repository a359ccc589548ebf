"""WorkerCollector: what is counted of the workers, as metrics for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .stats import WorkerStats

__all__ = ["WorkerCollector"]


class WorkerCollector(Collector):
    """Reads what is counted of the workers.

    Args:
        stats: returns it.
    """

    def __init__(self, stats: Callable[[], WorkerStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        yield GaugeMetricFamily(
            "realtime_workers", "Workers that accept connections.", stats.running
        )
        yield CounterMetricFamily(
            "realtime_worker_restarts",
            "How often a worker was started in place of one that had ended.",
            stats.restarts,
        )
