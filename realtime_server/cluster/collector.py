"""ClusterCollector: what a server counts of the log that several share, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .stats import ClusterStats

__all__ = ["ClusterCollector"]


class ClusterCollector(Collector):
    """Reads what is counted of the log, and of the servers that share it.

    Args:
        stats: returns it.
    """

    def __init__(self, stats: Callable[[], ClusterStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        leader, log = stats.leader, stats.log
        gauges = {
            "cluster_leading": (
                "1 while this server reads the database for all servers, else 0.",
                stats.leading,
            ),
            "cluster_nodes": (
                "Servers heard within the last ten seconds that have not ended, with this one.",
                stats.nodes,
            ),
            "log_tail_age_seconds": (
                "Time since something was read from the log.",
                log.tail_age,
            ),
            "log_lag_messages": (
                "Messages that the log had behind the last one that this server has read.",
                log.lag_messages,
            ),
            "log_lag_bytes": (
                "Bytes of what was read from the log and is not handed to clients.",
                log.lag_bytes,
            ),
        }
        counters = {
            "cluster_terms": (
                "How often this server began to read the database for all.",
                leader.terms,
            ),
            "log_appends": ("Messages that the log has taken from this server.", leader.appends),
            "log_append_seconds": (
                "Seconds from sending these messages to the log's answers.",
                leader.append_seconds,
            ),
            "log_fenced": (
                "Messages that the log has refused, as another server had appended meanwhile.",
                leader.fenced,
            ),
            "log_held_back_seconds": (
                "Seconds in which the database was not read because a server was too far behind.",
                leader.held_back_seconds,
            ),
            "log_resyncs": (
                "How often reading the log was begun anew, because of a break or a hole.",
                log.resyncs,
            ),
            "log_gaps": (
                "How often the log had lost what this server had not read yet.",
                log.gaps,
            ),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(f"realtime_{name}", meaning, value)
        for name, (meaning, count) in counters.items():
            yield CounterMetricFamily(f"realtime_{name}", meaning, count)
