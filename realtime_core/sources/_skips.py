"""Skips: gets a source past WAL for which PostgreSQL 18 finds no publication.

Theory of operation. PostgreSQL 18 leaves out changes that were written while a publication did not
exist, and warns at the first one; older versions raise an error. A source that gets the warning
ends the stream and attaches again when all publications exist. It reports a gap that ends at an
LSN behind every transaction which may have written without the publication. From its slot
PostgreSQL then skips the same changes again, with the same warning, but also sends changes of
other publications, which the consumer wants. So warnings are ignored up to the end of the gap.
There the source attaches once more, to stream from the end of the gap and not from its slot. From
then on a warning means a new gap.
"""

from __future__ import annotations

from collections.abc import Callable

from ..changes import Begin, Change, Commit, LogicalMessage, RawRows
from ..lsn import LSN
from ..replication.sequence import Sequence

__all__ = ["Skips"]


class Skips:
    """How far a source has come in WAL that PostgreSQL skips for lack of a publication."""

    def __init__(self) -> None:
        self.until: LSN | None = None
        """The end of the gap, up to which warnings are ignored; None outside of a gap."""
        self.passed = False
        """Whether the stream has come to the end of the gap, and has to be started from there."""
        self.floor = LSN(0)
        """The least LSN to stream from."""

    def begin(self, until: LSN) -> None:
        """Note that the stream begins within a gap, which ends at ``until``."""
        self.until = until

    def end(self) -> None:
        """Have the next stream begin at the end of the gap."""
        assert self.until is not None
        self.floor = self.until
        self.until = None
        self.passed = False

    def accepting(self, sequence: Sequence) -> Callable[[Change | RawRows | Begin | Commit], bool]:
        """Return the function that takes the next event, and says whether it is handed over."""
        if self.until is None:
            return sequence.accept
        until = self.until

        def accept(event: Change | RawRows | Begin | Commit) -> bool:
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
