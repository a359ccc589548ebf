"""StreamOrigin: which cluster and timeline the places come from that a server knows.

The journal is in the WAL of a cluster, and so are the changes that its places are about. While both
are of the same cluster and timeline, a place in the journal is about changes that are in the WAL
before it. When a standby is promoted, or the address leads to another cluster, the journal's
connection may get there before the stream does, or before everybody has been told of the gap that
the stream begins with there. What was written then would be about changes that are not there.

A standby that is promoted has the same WAL up to there. If it had received everything that came
through the stream, the stream has no gap, and all places hold. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from realtime_core import Event, Gap, SourceStats, StreamIdentity

from .records import digest

__all__ = ["StreamOrigin"]


class StreamOrigin:
    """Knows from which cluster and timeline the places of this server come.

    Args:
        stats: returns the stream's counts and positions.
        names: of the database and its publications: those of others have other places.
    """

    def __init__(self, stats: Callable[[], SourceStats], *names: str) -> None:
        self._stats = stats
        self._names = names
        # The gaps that have come, and those that everybody has been told of.
        self._come = self._told = 0

    def before(self, batch: Sequence[Event]) -> None:
        """Note a batch that is about to be published. No batch may be left out."""
        self._come += sum(type(event) is Gap for event in batch)

    def after(self) -> None:
        """Note that everything of the stream so far was published."""
        self._told = self._come

    def stream(self) -> StreamIdentity | None:
        """Return the cluster and timeline that the server's places belong to.

        None while a gap has come that was not published yet, as places may be of the stream before.
        """
        stats = self._stats()
        return stats.stream if stats.gaps == self._told else None

    def digest(self) -> bytes:
        """Return 8 bytes that stand for the stream; empty while there is none.

        They are the same on all timelines, because what was written before a standby was promoted
        goes on to count.
        """
        stream = self._stats().stream
        if stream is None:
            return b""
        return digest(*self._names, str(stream.system_identifier))
