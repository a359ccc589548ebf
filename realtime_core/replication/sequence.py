"""Sequence: which events of a stream are new, and how far they let the slot move.

Theory of operation. Within a stream, places (commit LSN, index) only grow. After a reconnect
PostgreSQL repeats everything from the slot's confirmed position on, in the same order, so each
event at or before the last place taken is a repetition. The place of a non-transactional message
is the LSN of its own record's last byte: it is sent when that record is decoded, after every
earlier commit and before every later one, so its place is in order, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..changes import Begin, Change, Commit, RawRows
from ..lsn import LSN
from .progress import Place, SlotProgress

__all__ = ["NOWHERE", "Sequence"]

NOWHERE: Final[Place] = (0, -1)
"""The place before all others."""


class Sequence:
    """The events taken from one stream, across its reconnects.

    Args:
        slot: the slot's confirmed position.
        start: the place of the consumer's own checkpoint: nothing up to there is new. It lets the
            slot move no further than any other place: when it, or a later one, is acknowledged.
        own_checkpoint: whether the consumer keeps its own checkpoint, with which the slot will be
            compared later. The slot must not pass it then: an acknowledged place moves the slot
            just behind the place's LSN, and an event that has no place does not move it.
        passes: says which new events the consumer gets. A transaction is done when the last
            change that the consumer got of it is acknowledged, or at once if it got none.
    """

    __slots__ = (
        "_last_begin",
        "_last_change",
        "_last_commit",
        "_last_passed",
        "_own_checkpoint",
        "_passes",
        "_resuming",
        "_start",
        "changes",
        "progress",
        "transactions",
    )

    def __init__(
        self,
        slot: LSN,
        *,
        start: Place = NOWHERE,
        own_checkpoint: bool = False,
        passes: Callable[[Change | Begin | Commit], bool] | None = None,
    ) -> None:
        self.progress = SlotProgress(slot)
        """How far the slot has been received and acknowledged."""
        self.transactions = 0
        """How many transactions with changes have ended."""
        self.changes = 0
        """How many changes were taken."""
        # Whether the slot must not pass the consumer's own checkpoint.
        self._own_checkpoint = own_checkpoint
        # The filter; None if there is none.
        self._passes = passes
        # The place of the consumer's checkpoint.
        self._start = start
        # The commit LSN of the last Begin taken. Repeated ones are at or before it.
        self._last_begin = start[0]
        # The last change taken. Repeated ones are at or before it.
        self._last_change: Change | RawRows | None = None
        # The place of the last change that the filter has let through.
        self._last_passed: Place = NOWHERE
        # The commit LSN of the last Commit taken. Repeated ones are at or before it.
        self._last_commit = 0
        # Whether the next change may be a repetition.
        self._resuming = True

    @property
    def last(self) -> Place:
        """The place of the last change taken; of the consumer's checkpoint if there was none."""
        change = self._last_change
        return self._start if change is None else _place(change)

    @property
    def all_done(self) -> bool:
        """Whether the consumer has acknowledged everything behind its checkpoint."""
        return self.progress.waits_for <= self._start

    @property
    def is_open(self) -> bool:
        """Whether the last change taken is of a transaction whose Commit was not taken."""
        change = self._last_change
        transaction = None if change is None else change.transaction
        return transaction is not None and transaction.commit_lsn > self._last_commit

    def resume(self) -> None:
        """Expect repetitions: PostgreSQL sends everything after the slot's position again."""
        self._resuming = True

    def accept(self, event: Change | RawRows | Begin | Commit) -> bool:
        """Take the next event; return whether it is new and passes the filter.

        Of raw rows some may be new and others not: those that are not are removed from the event.
        """
        kind = type(event)
        if kind is Begin:
            return self._begin(event)  # type: ignore[arg-type]
        if kind is Commit:
            return self._commit(event)  # type: ignore[arg-type]
        if kind is RawRows:
            return self._raw_rows(event)  # type: ignore[arg-type]
        if self._resuming:
            if _place(event) <= self.last:  # type: ignore[arg-type]
                return False
            self._resuming = False
        self._last_change = event  # type: ignore[assignment]
        self.changes += 1
        if self._passes is not None:
            if not self._passes(event):  # type: ignore[arg-type]
                return False
            self._last_passed = _place(event)  # type: ignore[arg-type]
        if event.transaction is None:
            place = _place(event)
            self.progress.transaction_ended(place, LSN(place[0] + 1))
        return True

    def _raw_rows(self, event: RawRows) -> bool:
        if self._resuming:
            lsn, index = last = self.last
            if _place(event) <= last:
                return False
            self._resuming = False
            if event.transaction.commit_lsn == lsn and event.index <= index:
                taken = index + 1 - event.index
                event.messages = event.messages[taken:]
                event.index += taken
        self._last_change = event
        self.changes += len(event.messages)
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
            # In wal2json's format 1 the place is that of the record's end, where the next commit
            # may begin.
            end = min(LSN(lsn + 1), event.end_lsn) if self._own_checkpoint else event.end_lsn
            self.progress.transaction_ended(needed, end)
        elif not self._own_checkpoint:
            self.progress.transaction_ended(None, event.end_lsn)
        if place <= self._start:
            return False
        self.transactions += bool(event.changes)
        return True


def _place(change: Change | RawRows) -> Place:
    transaction = change.transaction
    if transaction is None:
        # Only a message can be outside of a transaction.
        position = change.position
        return position.lsn, position.index
    if type(change) is RawRows:
        return transaction.commit_lsn, change.index + len(change.messages) - 1
    return transaction.commit_lsn, change.index
