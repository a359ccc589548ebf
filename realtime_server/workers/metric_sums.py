"""MetricSums: the metrics of all workers together, as if they were one server's.

Counters never go down, although workers end: what one that has ended had counted stays in the sum,
as far as it was asked for. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

__all__ = ["MetricSums"]

_OF_STREAM: Final = frozenset(
    f"realtime_{name}"
    for name in (
        *("stream_connected", "lag_bytes", "lag_seconds", "rows", "transactions"),
        *("received_bytes", "reconnects", "gaps"),
    )
)
"""Metrics of the stream, which all workers get from the supervisor: its own values count."""
_GREATEST: Final = frozenset(("realtime_replay_log_seconds", "realtime_replay_journal_refused"))
"""Metrics that are about the same thing in every worker."""
_CUMULATIVE: Final = frozenset(("counter", "histogram"))

_Key: TypeAlias = tuple[str, tuple[tuple[str, str], ...]]
_Values: TypeAlias = dict[_Key, float]


class MetricSums:
    """Adds metrics up."""

    def __init__(self) -> None:
        # The latest metrics of each worker that runs.
        self._latest: dict[int, list[Metric]] = {}
        # What workers have counted that have ended.
        self._ended: _Values = {}

    def take(self, worker: int, text: str) -> None:
        """Note the latest metrics of a worker, in Prometheus' text format."""
        self._latest[worker] = list(text_string_to_metric_families(text))

    def end(self, worker: int) -> None:
        """Note that a worker has ended."""
        for family in self._latest.pop(worker, ()):
            if family.type in _CUMULATIVE:
                _add(self._ended, family, _way_of(family))

    def render(self, supervisor: bytes) -> bytes:
        """Return the metrics of all, in Prometheus' text format.

        Args:
            supervisor: the supervisor's own metrics, in that format.
        """
        own = {
            family.name: family for family in text_string_to_metric_families(supervisor.decode())
        }
        values: dict[str, _Values] = {}
        families = dict(own)
        for family in own.values():
            _add(values.setdefault(family.name, {}), family, _sum)
        for metrics in self._latest.values():
            for family in metrics:
                if family.name not in _OF_STREAM:
                    families.setdefault(family.name, family)
                    _add(values.setdefault(family.name, {}), family, _way_of(family))
        for family in families.values():
            if family.type in _CUMULATIVE and family.name not in _OF_STREAM:
                found = values[family.name]
                for key in [key for key in self._ended if _belongs(key[0], family)]:
                    found[key] = _way_of(family)((found.get(key, 0.0), self._ended[key]))
        return _format(families.values(), values)


def _sum(values: tuple[float, float]) -> float:
    return values[0] + values[1]


def _way_of(family: Metric) -> Callable[[tuple[float, float]], float]:
    """Return how two workers' values become one."""
    if family.name in _GREATEST:
        return max
    # The time at which a metric has begun.
    return min if family.name.endswith("_created") else _sum


def _belongs(sample: str, family: Metric) -> bool:
    """Return whether a sample of this name is one of a counter or a histogram."""
    return sample.removeprefix(family.name) in ("_total", "_bucket", "_count", "_sum")


def _add(values: _Values, family: Metric, way: Callable[[tuple[float, float]], float]) -> None:
    for sample in family.samples:
        key = (sample.name, tuple(sample.labels.items()))
        known = values.get(key)
        values[key] = sample.value if known is None else way((known, sample.value))


def _format(families: Iterable[Metric], values: dict[str, _Values]) -> bytes:
    registry = CollectorRegistry()
    registry.register(_Summed(families, values))
    return generate_latest(registry)


class _Summed(Collector):
    def __init__(self, families: Iterable[Metric], values: dict[str, _Values]) -> None:
        self._families = families
        self._values = values

    def collect(self) -> Iterable[Metric]:
        for family in self._families:
            summed = Metric(family.name, family.documentation, family.type)
            summed.samples = [
                Sample(name, dict(labels), value)
                for (name, labels), value in self._values[family.name].items()
            ]
            yield summed
