"""Progress: up to which LSN the server may be told that we are done.

Theory of operation. Commits and keepalives arrive in WAL order, each with the LSN that the
slot may move to once it is done with. A commit is done when the consumer has acknowledged the
transaction's last change, and queues up until then; a transaction without changes, and a
keepalive, are done together with what is queued before them. The flushed position is that of
the last entry before which everything is done. So an idle slot moves with the keepalives, but
never past a transaction that somebody still works on.

A consumer need never acknowledge anything. So that the queue has a bound all the same, the more
transactions wait, the more of them share an entry, which is done when the last of them is.
"""

from __future__ import annotations

from collections import deque
from typing import Final, TypeAlias

from ..lsn import LSN

__all__ = ["Place", "Progress"]

Place: TypeAlias = tuple[int, int]
"""(commit LSN, index): a position without its stream."""

_MOST_ENTRIES: Final = 10_000
"""Of 250 bytes or so."""


class Progress:
    """The books of one slot.

    Args:
        start: where the slot stands.
    """

    def __init__(self, start: LSN = LSN(0)) -> None:  # noqa: B008 (an LSN is immutable)
        self.flushed = start
        """Everything before it is done with; what status updates report."""
        self.written = start
        """Everything before it has arrived."""
        # (place to be acknowledged, LSN the slot may move to then, how many transactions)
        self._entries: deque[tuple[Place, LSN, int]] = deque()
        self._acknowledged: Place = (0, -1)
        self._share = 1
        self.waiting = 0
        """How many transactions have arrived and are not wholly acknowledged."""

    @property
    def all_done(self) -> bool:
        """Whether everything that has arrived is done with."""
        return not self._entries

    def transaction_ended(self, last: Place | None, end_lsn: LSN) -> None:
        """Note a Commit.

        Args:
            last: place of the transaction's last change, None if it had none.
            end_lsn: where the WAL goes on behind the commit record.
        """
        self._append(last, end_lsn)

    def keepalive(self, wal_end: LSN) -> None:
        """Note a keepalive that came outside of a transaction."""
        self._append(None, wal_end)

    def arrived(self, lsn: LSN) -> None:
        """Note WAL that has arrived and is not to move the slot."""
        if lsn > self.written:
            self.written = lsn

    def acknowledge(self, place: Place) -> bool:
        """Note that everything up to ``place`` is done with.

        Returns:
            Whether the flushed position moved.
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
        self._share *= 2
        entries = list(self._entries)
        self._entries.clear()
        for (_, _, first), (needed, lsn, second) in zip(entries[::2], entries[1::2], strict=True):
            self._entries.append((needed, lsn, first + second))

    def _advance(self) -> bool:
        before = self.flushed
        entries = self._entries
        while entries and entries[0][0] <= self._acknowledged:
            _, lsn, count = entries.popleft()
            self.waiting -= count
            if lsn > self.flushed:
                self.flushed = lsn
        return self.flushed > before
