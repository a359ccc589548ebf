"""BroadcastMetrics: what is counted of broadcasts and presence, for Prometheus.

No label has the name of a room, an event or a key, which clients choose.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ..fanout.message_rows import DatabaseBroadcastStats
from ..fanout.room_stats import RoomStats

__all__ = ["BroadcastMetrics"]


class BroadcastMetrics(Collector):
    """The counts of broadcasts and presence.

    Args:
        registry: of the server's metrics.
        stats: returns what the rooms count.
        database: returns what is counted of broadcasts from the database.
    """

    def __init__(
        self,
        registry: CollectorRegistry,
        stats: Callable[[], RoomStats],
        database: Callable[[], DatabaseBroadcastStats],
    ) -> None:
        self._stats = stats
        self._database = database
        self.refused = Counter(
            "realtime_broadcasts_refused",
            "Broadcasts of clients that went to nobody, by the code of the reason.",
            ["code"],
            registry=registry,
        )
        self.policies = Counter(
            "realtime_policy_checks",
            "Questions to the policies of realtime.messages, by answer.",
            ["answer"],
            registry=registry,
        )
        self.requests = Counter(
            "realtime_broadcast_requests",
            "HTTP requests to broadcast, by the status of the response.",
            ["status"],
            registry=registry,
        )
        self.refused_presence = Counter(
            "realtime_presence_refused",
            "Presence messages of clients that changed nothing, by the kind of reason.",
            ["code"],
            registry=registry,
        )
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        stats = self._stats()
        yield GaugeMetricFamily(
            "realtime_rooms", "Topics whose channels can broadcast to each other.", stats.rooms
        )
        yield GaugeMetricFamily("realtime_room_members", "Their channels.", stats.members)
        yield CounterMetricFamily(
            "realtime_broadcasts", "Broadcasts that were taken, to be sent.", stats.broadcasts
        )
        presence = stats.presence
        yield GaugeMetricFamily(
            "realtime_presence_tracked", "Channels that track themselves.", presence.tracked
        )
        yield CounterMetricFamily(
            "realtime_presence_flushes",
            "Times that members of a room were told who is present, or what has changed of it.",
            presence.flushes,
        )
        yield CounterMetricFamily(
            "realtime_presence_rendered_bytes",
            "Bytes of what they were told, each state or diff counted once, whoever got it.",
            presence.rendered_bytes,
        )
        bus = stats.bus
        for name, meaning, count in (
            ("sent", "Messages about rooms that were handed over to other processes.", bus.sent),
            ("received", "Messages about rooms that came from other processes.", bus.received),
            (
                "lost",
                "Messages about rooms that did not reach other processes, or came from these while "
                "too much waited.",
                bus.lost,
            ),
            ("strange", "Messages about rooms that came and that no server writes.", bus.strange),
        ):
            yield CounterMetricFamily(f"realtime_bus_{name}", meaning, count)
        database = self._database()
        yield CounterMetricFamily(
            "realtime_database_broadcasts",
            "Messages of the database that were broadcast.",
            database.broadcasts,
        )
        refused = CounterMetricFamily(
            "realtime_database_broadcasts_refused",
            "Messages of the database that could not be broadcast, by reason.",
            labels=["reason"],
        )
        for reason, count in database.refused:
            refused.add_metric([reason], count)
        yield refused
