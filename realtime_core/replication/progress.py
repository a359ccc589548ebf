"""Progress: up to which LSN the server may be told that we are done.

Theory of operation. Commits and keepalives arrive in WAL order and queue up, each with
the LSN that the slot may move to once it is done with. A commit is done when the consumer
has acknowledged the transaction's last change; a transaction without changes, and a
keepalive, are done at once. The flushed position is that of the last entry before which
everything is done. So an idle slot moves with the keepalives, but never past a
transaction that somebody still works on.
"""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

from ..lsn import LSN

__all__ = ["Place", "Progress"]

Place: TypeAlias = tuple[int, int]
"""(commit LSN, index): a position without its stream."""


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
        # (place to be acknowledged or None, LSN the slot may move to then)
        self._entries: deque[tuple[Place | None, LSN]] = deque()
        self._acknowledged: Place = (0, -1)

    @property
    def waiting(self) -> int:
        """How many transactions have arrived and are not wholly acknowledged."""
        return sum(1 for needed, _ in self._entries if needed is not None)

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
        self.written = max(self.written, lsn)

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
        if needed is None and self._entries and self._entries[-1][0] is None:
            # Only the latest counts; an idle hour behind a slow consumer is one entry.
            self._entries.pop()
        self._entries.append((needed, lsn))
        self._advance()

    def _advance(self) -> bool:
        before = self.flushed
        entries = self._entries
        while entries:
            needed, lsn = entries[0]
            if needed is not None and needed > self._acknowledged:
                break
            entries.popleft()
            self.flushed = max(self.flushed, lsn)
        return self.flushed > before
