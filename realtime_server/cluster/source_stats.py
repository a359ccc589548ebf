"""What a source counts as values that JSON has, for those who get its changes from others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from realtime_core import LSN, SourceStats, StreamIdentity

__all__ = ["stats_from_json", "stats_to_json"]


def stats_to_json(stats: SourceStats) -> dict[str, Any]:
    """Return what a source counts as values that JSON has."""
    values = {name: getattr(stats, name) for name in attrs.fields_dict(SourceStats)}
    stream = stats.stream
    if stream is not None:
        values["stream"] = [stream.system_identifier, stream.timeline, stream.publications]
    return values


def stats_from_json(values: Mapping[str, Any]) -> SourceStats:
    """Return what :func:`stats_to_json` has made values of."""
    stream = values["stream"]
    return SourceStats(
        **{
            **values,
            "received_lsn": LSN(values["received_lsn"]),
            "confirmed_lsn": LSN(values["confirmed_lsn"]),
            "stream": None if stream is None else StreamIdentity(*stream),
        }
    )
