"""What is recorded, with the SDK's exporters in memory."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from realtime_core import (
    LSN,
    Commit,
    ConnectionLostError,
    Gap,
    GapReason,
    Position,
    SourceStats,
    StreamIdentity,
    Transaction,
)
from realtime_core.opentelemetry import OpenTelemetryHooks

STREAM = StreamIdentity(7, 1, ("shop",))
COMMIT_TIME = datetime(2026, 11, 1, 12, tzinfo=UTC)
COMMIT = Commit(Transaction(742, LSN(100), COMMIT_TIME, stream=STREAM), LSN(110), 3)
COMMON = {
    "messaging.system": "postgresql",
    "messaging.operation.name": "receive",
    "db.system.name": "postgresql",
    "db.namespace": "db",
    "messaging.destination.name": "etl",
}


class Recorded:
    def __init__(self, **options: Any) -> None:
        self.reader = InMemoryMetricReader()
        self.spans = InMemorySpanExporter()
        tracers = TracerProvider()
        tracers.add_span_processor(SimpleSpanProcessor(self.spans))
        meters = MeterProvider([self.reader])
        self.hooks = OpenTelemetryHooks(meters, tracers, **options)
        self.hooks.attached(STREAM, "db", "etl")

    def metrics(self) -> dict[str, tuple[float, str, dict[str, Any]]]:
        """Return value, unit and own attributes by name."""
        data = self.reader.get_metrics_data()
        assert data is not None
        found = {}
        for metric in data.resource_metrics[0].scope_metrics[0].metrics:
            [point] = metric.data.data_points
            attributes = dict(point.attributes or {})
            assert COMMON.items() <= attributes.items()
            own = {name: attributes[name] for name in attributes.keys() - COMMON.keys()}
            found[metric.name] = (point.value, metric.unit or "", own)  # type: ignore[union-attr]
        return found


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


def test_what_happens_is_counted(recorded: Recorded) -> None:
    hooks = recorded.hooks
    hooks.attached(STREAM, "db", "etl")
    hooks.lost(ConnectionLostError("gone"))
    hooks.gap(Gap(None, Position(LSN(1)), GapReason.SLOT_MISSING))
    hooks.transaction(COMMIT)
    hooks.transaction(COMMIT)
    hooks.lag(SourceStats(lag_bytes=4096, lag_seconds=0.5, unacknowledged=2))
    assert recorded.metrics() == {
        "messaging.client.consumed.messages": (6, "{message}", {}),
        "realtime.source.transactions": (2, "{transaction}", {}),
        "realtime.source.attachments": (2, "{attachment}", {}),
        "realtime.source.failures": (1, "{failure}", {"error.type": "ConnectionLostError"}),
        "realtime.source.gaps": (1, "{gap}", {"realtime.gap.reason": "slot_missing"}),
        "realtime.source.lag": (4096, "By", {}),
        "realtime.source.delay": (0.5, "s", {}),
        "realtime.source.unacknowledged": (2, "{transaction}", {}),
    }


def test_a_span_lasts_from_the_commit_until_it_was_read(recorded: Recorded) -> None:
    recorded.hooks.transaction(COMMIT)
    [span] = recorded.spans.get_finished_spans()
    assert (span.name, span.kind) == ("receive etl", SpanKind.CLIENT)
    assert span.start_time == int(COMMIT_TIME.timestamp()) * 1_000_000_000
    assert span.end_time is not None
    assert span.end_time > span.start_time
    assert dict(span.attributes or {}) == {
        **COMMON,
        "messaging.operation.type": "receive",
        "messaging.batch.message_count": 3,
        "messaging.message.id": "0/64:2@7.1/shop",
    }


def test_a_clock_that_is_ahead_makes_no_span_end_before_it_begins(recorded: Recorded) -> None:
    for time in (datetime(9999, 1, 1, tzinfo=UTC), None):
        recorded.hooks.transaction(Commit(Transaction(1, LSN(1), time), LSN(2), 1))
    for span in recorded.spans.get_finished_spans():
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time <= span.end_time


def test_spans_may_be_left_out() -> None:
    recorded = Recorded(spans=False)
    recorded.hooks.transaction(COMMIT)
    assert recorded.spans.get_finished_spans() == ()
    assert "realtime.source.transactions" in recorded.metrics()
