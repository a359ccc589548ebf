"""ClusterStats: what a server counts of the log and of the servers that share it."""

from __future__ import annotations

import attrs

__all__ = ["ClusterStats", "LeaderStats", "LogStats"]


@attrs.define
class LeaderStats:
    """What a server counts that may lead."""

    terms: int = 0
    """How often it began to lead."""
    appends: int = 0
    """Envelopes that the log has taken."""
    append_seconds: float = 0.0
    """Seconds that this took, from sending each to the answer."""
    fenced: int = 0
    """Envelopes that the log has refused, because another server had appended to it meanwhile."""
    held_back_seconds: float = 0.0
    """Seconds in which nothing was read, because a server was too far behind in the log."""


@attrs.frozen
class LogStats:
    """What a server counts that reads the log."""

    resyncs: int = 0
    """How often reading the log was begun again, because something was odd."""
    gaps: int = 0
    """How often the log did not have any more what this server had not read."""
    lag_messages: int = 0
    """Envelopes that the log had behind the last one that this server has read."""
    lag_bytes: int = 0
    """Bytes of envelopes that this server has read and not handed out."""
    tail_age: float = 0.0
    """Seconds since an envelope was read from the log; 0 before the first one."""


@attrs.frozen
class ClusterStats:
    """What a server counts of the cluster."""

    leading: bool = False
    """Whether this server leads now: it has the slot, and appends to the log."""
    nodes: int = 0
    """How many servers were heard within the last ten seconds and have not ended, with this one."""
    leader: LeaderStats = attrs.field(factory=LeaderStats)
    log: LogStats = attrs.field(factory=LogStats)
