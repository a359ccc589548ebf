"""Sequence: which events of a stream are new, and what they mean for the slot.

Theory of operation. Places, (commit LSN, index), only grow within a stream. After a break
PostgreSQL repeats everything from where the slot stands, in the same order, so whatever lies
at or before the last place taken is a repetition. A non-transactional message has the last byte
of its own record as place; it is sent when that is decoded, after every commit before it and
before every commit behind it, and so fits in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..changes import Begin, Change, Commit
from ..lsn import LSN
from .progress import Place, Progress

__all__ = ["NOWHERE", "Sequence"]

NOWHERE: Final[Place] = (0, -1)
"""Before every place."""


class Sequence:
    """What has been taken from one stream, its reconnects included.

    Args:
        slot: where the slot stands.
        start: the last place that the consumer has dealt with elsewhere.
        own_checkpoint: whether the slot must not pass what the consumer acknowledges, as its
            own checkpoint is compared with it later on. A place that is done with lets the
            slot move just behind its LSN then, and what has no place does not move it.
        passes: says which new events the consumer gets. A transaction is done with when the
            last change that it got is, or at once when it got none.
    """

    def __init__(
        self,
        slot: LSN,
        *,
        start: Place = NOWHERE,
        own_checkpoint: bool = False,
        passes: Callable[[Change | Begin | Commit], bool] | None = None,
    ) -> None:
        self.progress = Progress(slot)
        self.progress.acknowledge(start)
        self.transactions = 0
        """Transactions with changes that ended."""
        self.changes = 0
        """Changes taken."""
        self._own_checkpoint = own_checkpoint
        self._passes = passes
        self._start = start
        # The last Begin, change and Commit taken: all that is repeated is at or before them.
        self._last_begin = start[0]
        self._last_change: Change | None = None
        # The place of the last one that the consumer got, where that may be an earlier one.
        self._last_passed: Place = NOWHERE
        self._last_commit = 0
        self._resuming = True

    @property
    def last(self) -> Place:
        """The place of the last change taken, or where it started."""
        change = self._last_change
        return self._start if change is None else _place(change)

    def resume(self) -> None:
        """Say that PostgreSQL repeats from where the slot stands."""
        self._resuming = True

    def accept(self, event: Change | Begin | Commit) -> bool:
        """Take the next event; return whether it is new."""
        kind = type(event)
        if kind is Begin:
            return self._begin(event)  # type: ignore[arg-type]
        if kind is Commit:
            return self._commit(event)  # type: ignore[arg-type]
        if self._resuming:
            if _place(event) <= self.last:  # type: ignore[arg-type]
                return False
            self._resuming = False
        self._last_change = event  # type: ignore[assignment]
        self.changes += 1
        if self._passes is not None:
            if not self._passes(event):
                return False
            self._last_passed = _place(event)  # type: ignore[arg-type]
        if event.transaction is None:
            place = _place(event)
            self.progress.transaction_ended(place, LSN(place[0] + 1))
        return True

    def _begin(self, event: Begin) -> bool:
        lsn = event.transaction.commit_lsn
        if lsn <= self._last_begin:
            return False
        self._last_begin = lsn
        return True

    def _commit(self, event: Commit) -> bool:
        lsn = event.transaction.commit_lsn
        if lsn <= self._last_commit:
            return False
        self._last_commit = lsn
        place = (lsn, max(event.changes - 1, 0))
        needed: Place | None = place if event.changes else None
        if self._passes is not None:
            needed = self._last_passed if self._last_passed[0] == lsn else None
        if needed is not None:
            # Behind a place by its end (wal2json's format 1) the next commit may begin at once.
            end = min(LSN(lsn + 1), event.end_lsn) if self._own_checkpoint else event.end_lsn
            self.progress.transaction_ended(needed, end)
        elif not self._own_checkpoint:
            self.progress.transaction_ended(None, event.end_lsn)
        if place <= self._start:
            return False
        self.transactions += bool(event.changes)
        return True


def _place(change: Change) -> Place:
    transaction = change.transaction
    if transaction is None:
        # Only a message has none.
        position = change.position
        return position.lsn, position.index
    return transaction.commit_lsn, change.index
