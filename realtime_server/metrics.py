"""Metrics: what the server counts, for Prometheus.

Each server has a registry of its own, so that several servers in one process do not mix their
numbers. What happens for every client and change is counted elsewhere in plain integers, which are
read when the metrics are requested. No label ever holds anything that a client sent.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from realtime_core import SourceStats

from .fanout.hub_stats import HubStats
from .fanout.message_rows import DatabaseBroadcastStats
from .fanout.room_stats import RoomStats
from .net.broadcast_metrics import BroadcastMetrics
from .net.outbox import OutboxCounters
from .net.slow_clients import Backlog
from .replay.stats import ReplayStats
from .rls.counters import Counters
from .webhooks.stats import WebhookStats

if TYPE_CHECKING:
    from .cluster.stats import ClusterStats
    from .workers.stats import WorkerStats

__all__ = ["CONTENT_TYPE", "Durations", "Metrics"]

CONTENT_TYPE: Final = CONTENT_TYPE_PLAIN_0_0_4

_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60)
_CLOSE_CODES: Final = frozenset(range(1000, 1016))


class Metrics:
    """Everything that one server counts.

    Args:
        stats: returns what the source counts.
        hub: returns what the hub counts.
        backlog: the bytes that wait for all clients.
        checks: what RLS mode counts; None in STREAM mode.
        webhooks: returns what the webhooks count.
        replay: returns what replay counts.
        workers: returns what is counted of the workers; None for a server that has none.
        cluster: returns what is counted of the log; None for a server that shares none.
        rooms: returns what the rooms count.
        database: returns what is counted of broadcasts from the database.
    """

    def __init__(
        self,
        *,
        stats: Callable[[], SourceStats],
        hub: Callable[[], HubStats],
        backlog: Backlog,
        checks: Counters | None = None,
        webhooks: Callable[[], WebhookStats] = WebhookStats,
        replay: Callable[[], ReplayStats] = ReplayStats,
        workers: Callable[[], WorkerStats] | None = None,
        cluster: Callable[[], ClusterStats] | None = None,
        rooms: Callable[[], RoomStats] = RoomStats,
        database: Callable[[], DatabaseBroadcastStats] = DatabaseBroadcastStats,
    ) -> None:
        self.outbox = OutboxCounters()
        self._registry = CollectorRegistry()
        registry = self._registry
        self.connections = Gauge(
            "realtime_active_websocket_connection_total",
            "The total number of active websocket connections.",
            registry=registry,
        )
        self.channels = Gauge(
            "realtime_active_websocket_topic_total",
            "The total number of active topic subscriptions.",
            registry=registry,
        )
        self.handshakes = Counter(
            "realtime_handshakes",
            "WebSocket handshakes, by result.",
            ["result"],
            registry=registry,
        )
        self.joins = Counter("realtime_joins", "Joins, by result.", ["result"], registry=registry)
        self.joins_granted = self.joins.labels("ok")
        self.channels_ended = Counter(
            "realtime_channels_ended",
            "Channels that the server ended, by reason.",
            ["reason"],
            registry=registry,
        )
        self.commit_to_socket = Durations(
            "realtime_commit_to_socket_seconds",
            "Seconds from a commit until its changes are written to the sockets; measured for the "
            "oldest commit of each batch.",
        )
        registry.register(self.commit_to_socket)
        self._limits = Counter(
            "realtime_limits",
            "Connections, joins and messages that exceeded a limit, by limit.",
            ["limit"],
            registry=registry,
        )
        self.broadcasts = BroadcastMetrics(registry, rooms, database)
        self._closes = Counter(
            "realtime_connections_closed",
            "WebSocket connections that ended, by close code.",
            ["code"],
            registry=registry,
        )
        registry.register(_Collector(self.outbox, stats, hub, backlog, checks or Counters()))
        registry.register(_WebhookCollector(webhooks))
        registry.register(_ReplayCollector(replay))
        if workers is not None:
            from .workers.collector import WorkerCollector

            registry.register(WorkerCollector(workers))
        if cluster is not None:
            from .cluster.collector import ClusterCollector

            registry.register(ClusterCollector(cluster))

    def limit(self, name: str) -> None:
        """Count something that exceeded a limit."""
        self._limits.labels(name).inc()

    def closed(self, code: int | None) -> None:
        """Count the end of a connection. Codes that a client may choose freely share one label."""
        label = "other" if code is None or code not in _CLOSE_CODES else str(code)
        self._closes.labels(label).inc()

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)


class Durations(Collector):
    """A histogram of seconds to which a value is added cheaply, as that happens for every batch.

    prometheus_client's own histogram checks each bucket in turn and takes a lock for each number:
    1.2 µs for a value, against 0.25 µs here.

    Args:
        name: of the metric.
        meaning: its help text.
    """

    def __init__(self, name: str, meaning: str) -> None:
        self._name = name
        self._meaning = meaning
        self._created = time.time()
        self._counts = [0] * (len(_SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Add a value."""
        self._counts[bisect_left(_SECONDS, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterable[Metric]:
        names = map(floatToGoString, (*_SECONDS, float("inf")))
        buckets = list(zip(names, map(float, accumulate(self._counts)), strict=True))
        family = HistogramMetricFamily(self._name, self._meaning, buckets, self._sum)
        family.add_sample(f"{self._name}_created", {}, self._created)
        yield family


class _Collector(Collector):
    """Reads what other objects count."""

    def __init__(
        self,
        outbox: OutboxCounters,
        stats: Callable[[], SourceStats],
        hub: Callable[[], HubStats],
        backlog: Backlog,
        checks: Counters,
    ) -> None:
        self._outbox = outbox
        self._stats = stats
        self._hub = hub
        self._backlog = backlog
        self._checks = checks

    def collect(self) -> Iterable[Metric]:
        stats, hub, outbox = self._stats(), self._hub(), self._outbox
        checks = self._checks
        gauges = {
            "subscriptions": ("Subscriptions to changes.", hub.subscriptions),
            "waiting_bytes": ("Bytes that wait to be sent to clients.", self._backlog.bytes),
            "rls_waiting_bytes": (
                "Bytes of the changes that wait because a policy is slow.",
                checks.waiting_bytes,
            ),
            "stream_connected": (
                "1 while the server reads changes from the database, else 0.",
                stats.connected,
            ),
            "lag_bytes": (
                "Bytes of WAL that the database has written and the server has not acknowledged.",
                stats.lag_bytes,
            ),
            "lag_seconds": (
                "Age of the last change handed to clients while there are later ones, else 0.",
                stats.lag_seconds,
            ),
        }
        counters = {
            "rows": ("Changes read from the database.", stats.changes),
            "transactions": ("Transactions read from the database.", stats.transactions),
            "received_bytes": ("Bytes received from the database.", stats.bytes_received),
            "reconnects": (
                "How often the server reconnected to the database's changes.",
                stats.reconnects,
            ),
            "gaps": ("Gaps: how often changes may have been lost.", stats.gaps),
            "sent_frames": ("WebSocket frames written to clients.", outbox.frames),
            "sent_bytes": ("Bytes of these frames.", outbox.bytes),
            "filter_misfits": (
                "Subscriptions whose filter turned out after the join not to fit its table.",
                hub.filter_misfits,
            ),
            "filter_errors": (
                "How often a filter could not be evaluated for a row, which so did not pass it.",
                hub.filter_errors,
            ),
            "too_large_changes": (
                "Changes that were sent without their long values.",
                hub.too_large,
            ),
            "rls_checks": ("Rows that were checked for a role and claims.", checks.checks),
            "rls_errors": (
                "Changes that a client did not get because a policy raised an error.",
                checks.errors,
            ),
            "rls_timeouts": (
                "Changes that a client did not get because a policy ran too long.",
                checks.timeouts,
            ),
            "rls_given_up": (
                "Changes instead of which a client was told of a gap: too many waited for a slow "
                "policy, or meanwhile the client's token, or the table, was replaced.",
                checks.given_up,
            ),
            "slow_clients": (
                "Clients that were disconnected because they were too slow.",
                outbox.slow_clients,
            ),
        }
        yield from _families("realtime", gauges, counters)


class _WebhookCollector(Collector):
    """Reads what the webhooks count. Endpoints are labelled by their names, never by URLs."""

    def __init__(self, stats: Callable[[], WebhookStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        yield GaugeMetricFamily(
            "realtime_webhook_stream_connected",
            "1 while changes are read for webhooks.",
            stats.connected,
        )
        yield GaugeMetricFamily(
            "realtime_webhook_lag_bytes",
            "WAL between what the database has written and what the webhooks' slot may let go of.",
            stats.lag_bytes,
        )
        yield CounterMetricFamily(
            "realtime_webhook_gaps", "How often webhooks may have missed changes.", stats.gaps
        )
        families = {
            "waiting_bytes": (GaugeMetricFamily, "What waits for an endpoint."),
            "oldest_seconds": (
                GaugeMetricFamily,
                "Since the commit of what has waited longest for an endpoint.",
            ),
            "disabled": (GaugeMetricFamily, "1 after an endpoint said that it is gone."),
            "delivered": (CounterMetricFamily, "Requests that an endpoint took."),
            "retries": (CounterMetricFamily, "Attempts but for the first of each request."),
            "dead": (CounterMetricFamily, "Requests that were given up."),
            "filter_errors": (
                CounterMetricFamily,
                "Changes that a filter could not judge, and that were not sent.",
            ),
        }
        for name, (kind, meaning) in families.items():
            family = kind(f"realtime_webhook_{name}", meaning, labels=["endpoint"])
            for endpoint in stats.endpoints:
                family.add_metric([endpoint.name], getattr(endpoint, name))
            yield family


class _ReplayCollector(Collector):
    """Reads what replay counts."""

    def __init__(self, stats: Callable[[], ReplayStats]) -> None:
        self._stats = stats

    def collect(self) -> Iterable[Metric]:
        stats = self._stats()
        joins = CounterMetricFamily(
            "realtime_replay_joins",
            "Channels by where they began: where a former one had ended, anew, or behind a gap.",
            labels=["result"],
        )
        results = {"resumed": stats.resumed, "fresh": stats.fresh, "gap": stats.gap}
        for result, count in results.items():
            joins.add_metric([result], count)
        yield joins
        gaps = CounterMetricFamily(
            "realtime_replay_gaps",
            "Channels that were told that they miss changes, by reason.",
            labels=["reason"],
        )
        for reason, count in stats.gaps.items():
            gaps.add_metric([reason], count)
        yield gaps
        gauges = {
            "away": ("Channels whose clients are away and may come back.", stats.away),
            "rounds": ("Groups of channels that are being sent what they missed.", stats.rounds),
            "catching_up": (
                "Channels that came back and have not got everything yet that they missed.",
                stats.waiting,
            ),
            "log_bytes": (
                "Bytes of the changes in memory that clients may have missed, about.",
                stats.log_bytes,
            ),
            "log_seconds": ("The age of the oldest of these changes.", stats.log_seconds),
            "wal_bytes": ("Bytes of WAL that the second slot keeps.", stats.wal_bytes),
        }
        counters = {
            "changes": (
                "Changes that were sent to channels that had missed them, or may have.",
                stats.changes,
            ),
            "duplicates_possible": (
                "Changes among these that had been sent before, and were not proven to have come.",
                stats.duplicates_possible,
            ),
            "proofs": ("Pings by which clients proved what they had received.", stats.proofs),
            "shared_sessions": (
                "Sessions that turned out to be those of several clients.",
                stats.shared_sessions,
            ),
            "failures": (
                "Failures of replay itself, after which channels went on without what they missed.",
                stats.failures,
            ),
            "slots_lost": ("How often the second slot was lost.", stats.slots_lost),
            "journal_bytes": (
                "Bytes of the journal that were written into the WAL.",
                stats.journal_bytes,
            ),
            "journal_refused": (
                "Messages with the journal's prefix that were ignored: another deployment, version "
                "or cluster wrote them, or they are forged.",
                stats.journal_refused,
            ),
        }
        yield from _families("realtime_replay", gauges, counters)


def _families(
    prefix: str,
    gauges: Mapping[str, tuple[str, float]],
    counters: Mapping[str, tuple[str, float]],
) -> Iterator[Metric]:
    """Yield metrics of names, each with its meaning and its value."""
    for name, (meaning, value) in gauges.items():
        yield GaugeMetricFamily(f"{prefix}_{name}", meaning, value)
    for name, (meaning, value) in counters.items():
        yield CounterMetricFamily(f"{prefix}_{name}", meaning, value)
