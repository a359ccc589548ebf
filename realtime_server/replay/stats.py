"""ReplayStats: the counts of replay, for the metrics."""

from __future__ import annotations

from collections.abc import Mapping

import attrs

__all__ = ["ReplayStats"]


@attrs.frozen
class ReplayStats:
    """The counts of replay."""

    away: int = 0
    """Channels whose clients are away and may come back."""
    resumed: int = 0
    """Channels that went on where a former one had ended."""
    fresh: int = 0
    """Channels that began anew."""
    gaps: Mapping[str, int] = attrs.field(factory=dict)
    """Channels that were told of a gap, by reason."""
    changes: int = 0
    """Changes that were replayed, each counted once for each channel."""
    duplicates_possible: int = 0
    """How many of these had been written to the client before, which did not prove that."""
    rounds: int = 0
    """Rounds that run now: groups of channels that catch up together."""
    waiting: int = 0
    """Channels that came back and have not got everything yet that they missed."""
    log_bytes: int = 0
    """Bytes of the changes in memory, about."""
    log_seconds: float = 0.0
    """Seconds since the oldest of the changes in memory was put there."""
    proofs: int = 0
    """Pings that clients answered."""
    shared_sessions: int = 0
    """Sessions that several clients have."""
    failures: int = 0
    """Failures of replay itself, each of them a bug."""
    wal_bytes: int = 0
    """Bytes of WAL that the second slot keeps, when it was looked at last."""
    slots_lost: int = 0
    """How often the second slot was lost."""
    journal_bytes: int = 0
    """Bytes of the journal's records that were written into the WAL."""
    journal_refused: int = 0
    """Messages with the journal's prefix that were ignored: another deployment, version or cluster
    wrote them, or they are forged."""

    @property
    def gap(self) -> int:
        """Channels that were told of a gap."""
        return sum(self.gaps.values())
