"""Skips: the WAL for which PostgreSQL 18 finds no publication, and how a source gets past it.

Theory of operation. What was written while a publication was not there is left out by PostgreSQL
18, with a warning for the first row; before, that was an error. A source that is warned breaks
off, attaches again when all publications are there, and says a gap that ends where everybody
who may have written without them has committed. From its slot PostgreSQL then skips the same
once more, and warns once more, among other publications' changes, which are wanted. So up to
the gap's end warnings are old news. There the source attaches for another time, to stream
from that place and not from its slot: a warning is news again.
"""

from __future__ import annotations

from collections.abc import Callable

from ..changes import Begin, Change, Commit, LogicalMessage
from ..lsn import LSN
from ..replication.sequence import Sequence

__all__ = ["Skips"]


class Skips:
    """Where a source stands in what is skipped."""

    def __init__(self) -> None:
        self.until: LSN | None = None
        """Up to where warnings are old news; None when they are not."""
        self.passed = False
        """Whether the stream has come to that place, and has to be started from there."""
        self.floor = LSN(0)
        """From where to stream, at the least."""

    def begin(self, until: LSN) -> None:
        """Say that a gap ends there, and that the stream begins before it."""
        self.until = until

    def end(self) -> None:
        """Let the stream begin at that place."""
        assert self.until is not None
        self.floor = self.until
        self.until = None
        self.passed = False

    def accepting(self, sequence: Sequence) -> Callable[[Change | Begin | Commit], bool]:
        """Return what takes the next event and says whether it is handed over."""
        if self.until is None:
            return sequence.accept
        until = self.until

        def accept(event: Change | Begin | Commit) -> bool:
            if isinstance(event, LogicalMessage):
                lsn = event.position.lsn
            else:
                lsn = event.transaction.commit_lsn
            if lsn < until:
                return sequence.accept(event)
            self.passed = True
            return False

        return accept

    def keepalive(self, wal_end: LSN) -> bool:
        """Note a keepalive outside of transactions; return whether it may move the slot."""
        if self.until is None or wal_end < self.until:
            return True
        self.passed = True
        return False
