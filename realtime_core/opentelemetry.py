"""A source's metrics and spans for OpenTelemetry, with the extra ``opentelemetry``.

It needs the API alone; without an SDK that the program has set up, nothing is recorded. Names and
attributes are those of the semantic conventions for messaging and for databases, where there are
some: a slot is a destination, and each change a message.
"""

from __future__ import annotations

import time
from datetime import datetime

from opentelemetry import metrics, trace

from ._version import __version__
from .changes import Commit, Gap
from .errors import SourceError
from .positions import StreamIdentity
from .sources.base import SourceStats
from .sources.hooks import Hooks

__all__ = ["OpenTelemetryHooks"]


class OpenTelemetryHooks(Hooks):
    """Hooks that record metrics, and a span for each transaction.

    Example::

        async with PgoutputSource(dsn, …, hooks=OpenTelemetryHooks()) as source:
            ...

    Metrics: ``messaging.client.consumed.messages`` counts changes, ``realtime.source.transactions``
    transactions, ``realtime.source.attachments`` how often the source was attached,
    ``realtime.source.failures`` how often the stream broke off, by ``error.type``, and
    ``realtime.source.gaps`` gaps, by ``realtime.gap.reason``. ``realtime.source.lag`` is the WAL
    that is not acknowledged in bytes, ``realtime.source.delay`` how far the consumer is behind in
    seconds, and ``realtime.source.unacknowledged`` counts the transactions that wait for an
    acknowledgement; they are recorded every ``lag_interval`` seconds.

    A span ``receive SLOT`` begins with the commit of a transaction, by the server's clock, and ends
    when the transaction was read.

    Args:
        meter_provider: records the metrics; None stands for the global one.
        tracer_provider: records the spans; None stands for the global one.
        spans: whether there are spans.
    """

    def __init__(
        self,
        meter_provider: metrics.MeterProvider | None = None,
        tracer_provider: trace.TracerProvider | None = None,
        *,
        spans: bool = True,
    ) -> None:
        name = "realtime_core"
        meter = metrics.get_meter(name, __version__, meter_provider)
        self._tracer = trace.get_tracer(name, __version__, tracer_provider) if spans else None
        self._changes = meter.create_counter(
            "messaging.client.consumed.messages",
            "{message}",
            "Number of messages that were delivered to the application.",
        )
        self._transactions = meter.create_counter(
            "realtime.source.transactions", "{transaction}", "Transactions read to their end."
        )
        self._attachments = meter.create_counter(
            "realtime.source.attachments", "{attachment}", "How often the source was attached."
        )
        self._failures = meter.create_counter(
            "realtime.source.failures", "{failure}", "How often the stream broke off."
        )
        self._gaps = meter.create_counter(
            "realtime.source.gaps", "{gap}", "How often changes may have been lost."
        )
        self._lag = meter.create_gauge(
            "realtime.source.lag", "By", "WAL that was written and is not acknowledged."
        )
        self._delay = meter.create_gauge(
            "realtime.source.delay", "s", "How far the consumer is behind the server."
        )
        self._unacknowledged = meter.create_gauge(
            "realtime.source.unacknowledged", "{transaction}", "Transactions not acknowledged yet."
        )
        # What everything has in common; the rest is known when the source is attached.
        self._attributes: dict[str, str] = {
            "messaging.system": "postgresql",
            "messaging.operation.name": "receive",
            "db.system.name": "postgresql",
        }
        self._span_name = "receive"

    def attached(self, stream: StreamIdentity, database: str, slot: str) -> None:
        self._attributes["db.namespace"] = database
        self._attributes["messaging.destination.name"] = slot
        self._span_name = f"receive {slot}"
        self._attachments.add(1, self._attributes)

    def lost(self, error: SourceError) -> None:
        self._failures.add(1, {**self._attributes, "error.type": type(error).__name__})

    def gap(self, gap: Gap) -> None:
        self._gaps.add(1, {**self._attributes, "realtime.gap.reason": gap.reason.value})

    def transaction(self, commit: Commit) -> None:
        self._changes.add(commit.changes, self._attributes)
        self._transactions.add(1, self._attributes)
        if self._tracer is not None:
            now = time.time_ns()
            span = self._tracer.start_span(
                self._span_name,
                kind=trace.SpanKind.CLIENT,
                attributes={
                    **self._attributes,
                    "messaging.operation.type": "receive",
                    "messaging.batch.message_count": commit.changes,
                    "messaging.message.id": str(commit.position),
                },
                # The two clocks may differ.
                start_time=min(_nanoseconds(commit.transaction.commit_time), now),
            )
            span.end(now)

    def lag(self, stats: SourceStats) -> None:
        self._lag.set(stats.lag_bytes, self._attributes)
        self._delay.set(stats.lag_seconds, self._attributes)
        self._unacknowledged.set(stats.unacknowledged, self._attributes)


def _nanoseconds(moment: datetime | None) -> int:
    return time.time_ns() if moment is None else int(moment.timestamp() * 1_000_000) * 1000
