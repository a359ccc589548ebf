"""Writes a source's counts as JSON values, for processes that get its changes from another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from realtime_core import LSN, SourceStats, StreamIdentity

__all__ = ["stats_from_json", "stats_to_json"]

_NO_NUMBERS: Final = frozenset(("received_lsn", "confirmed_lsn", "stream"))


def stats_to_json(stats: SourceStats) -> dict[str, Any]:
    """Return a source's counts as values that can be written as JSON."""
    values = {name: getattr(stats, name) for name in attrs.fields_dict(SourceStats)}
    stream = stats.stream
    if stream is not None:
        values["stream"] = [stream.system_identifier, stream.timeline, stream.publications]
    return values


def stats_from_json(values: Mapping[str, Any]) -> SourceStats:
    """Return the counts from which :func:`stats_to_json` made the values.

    A newer server may tell more, which is left out, and an older one less.

    Raises:
        KeyError, TypeError, ValueError: if they are no such values.
    """
    stream = values["stream"]
    known = {name: values[name] for name in attrs.fields_dict(SourceStats) if name in values}
    if not all(isinstance(known[name], int | float) for name in known.keys() - _NO_NUMBERS):
        raise TypeError("counts are numbers")
    return SourceStats(
        **{
            **known,
            "received_lsn": LSN(values["received_lsn"]),
            "confirmed_lsn": LSN(values["confirmed_lsn"]),
            "stream": None if stream is None else StreamIdentity(*stream),
        }
    )
