"""SlotProgress: the LSN up to which the consumer is done, as the server is told.

Theory of operation. Commits and keepalives arrive in WAL order, each with an LSN that the slot may
move to. A transaction is done when the consumer has acknowledged its last change, and waits in a
queue until then. A transaction without changes, and a keepalive, are done when everything that
was queued before them is done. The flushed position is the LSN of the last entry up to which
everything is done. So the slot of an idle database moves with the keepalives, but never past a
transaction that the consumer still works on.

A consumer may never acknowledge anything. To keep the queue bounded all the same, several
transactions share an entry when many are waiting; the entry is done when the last of them is.
"""

from __future__ import annotations

from collections import deque
from typing import Final, TypeAlias

from ..lsn import LSN

__all__ = ["Place", "SlotProgress"]

Place: TypeAlias = tuple[int, int]
"""(commit LSN, index): a position without its stream."""

_MOST_ENTRIES: Final = 10_000
"""The most entries in the queue, which take about 250 bytes each."""


class SlotProgress:
    """How far one slot has been received and acknowledged.

    Args:
        start: the slot's confirmed position.
    """

    def __init__(self, start: LSN = LSN(0)) -> None:  # noqa: B008 (an LSN is immutable)
        self.flushed = start
        """All WAL before this LSN is done with: status updates report it; the slot moves there."""
        self.written = start
        """All WAL before this LSN has arrived."""
        # Each entry is (the place that has to be acknowledged, the LSN that the slot may move to
        # then, how many transactions share the entry).
        self._entries: deque[tuple[Place, LSN, int]] = deque()
        self._acknowledged: Place = (0, -1)
        # How many transactions share one entry.
        self._share = 1
        self.waiting = 0
        """How many transactions have arrived and are not wholly acknowledged."""

    @property
    def waits_for(self) -> Place:
        """The place with whose acknowledgement everything is done that has arrived; one before all
        others if it is already."""
        return self._entries[-1][0] if self._entries else (0, -1)

    @property
    def entries(self) -> int:
        """How many entries the queue has. Its bound does not depend on what is acknowledged."""
        return len(self._entries)

    def transaction_ended(self, last: Place | None, end_lsn: LSN) -> None:
        """Note that a transaction has arrived to its end.

        Args:
            last: place of its last change, None if it had no changes.
            end_lsn: LSN of the end of its commit record.
        """
        self._append(last, end_lsn)

    def keepalive(self, wal_end: LSN) -> None:
        """Note a keepalive that came outside of a transaction."""
        self._append(None, wal_end)

    def arrived(self, lsn: LSN) -> None:
        """Note that all WAL before ``lsn`` has arrived, without moving the slot."""
        if lsn > self.written:
            self.written = lsn

    def acknowledge(self, place: Place) -> bool:
        """Note that the consumer is done with everything up to and including ``place``.

        Returns:
            Whether the flushed position has moved.
        """
        if place <= self._acknowledged:
            return False
        self._acknowledged = place
        return self._advance()

    def _append(self, needed: Place | None, lsn: LSN) -> None:
        self.arrived(lsn)
        entries = self._entries
        if needed is not None:
            self.waiting += 1
            if entries and entries[-1][2] < self._share:
                entries[-1] = needed, lsn, entries[-1][2] + 1
                return
            if not entries:
                self._share = 1
            elif len(entries) == _MOST_ENTRIES:
                self._halve()
            entries.append((needed, lsn, 1))
            if needed <= self._acknowledged:
                self._advance()
        elif entries:
            needed, before, count = entries[-1]
            entries[-1] = needed, max(before, lsn), count
        elif lsn > self.flushed:
            self.flushed = lsn

    def _halve(self) -> None:
        """Join the entries in pairs."""
        self._share *= 2
        entries = list(self._entries)
        self._entries.clear()
        for (_, _, first), (needed, lsn, second) in zip(entries[::2], entries[1::2], strict=True):
            self._entries.append((needed, lsn, first + second))

    def _advance(self) -> bool:
        """Remove entries that are acknowledged; return whether the flushed position has moved."""
        before = self.flushed
        entries = self._entries
        while entries and entries[0][0] <= self._acknowledged:
            _, lsn, count = entries.popleft()
            self.waiting -= count
            if lsn > self.flushed:
                self.flushed = lsn
        return self.flushed > before
