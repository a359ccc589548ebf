"""MemoryHistory: what a MemorySource has taken from its slot, across reconnects and gaps.

Sources of a real database have a :class:`~realtime_core.sources._history.StreamHistory` for that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from ...changes import Begin, Change, Commit, Gap, GapReason
from ...errors import PositionMismatchError
from ...lsn import LSN
from ...positions import Position, StreamIdentity
from ...replication.progress import Place, SlotProgress
from ...replication.sequence import NOWHERE, Sequence
from .._filtering import RowFilter
from ..base import SourceStats
from ._log import Slot

__all__ = ["MemoryHistory"]

logger = logging.getLogger("realtime.source")


class MemoryHistory:
    """The current sequence of changes, and the counts of those before it.

    Args:
        stream: identity of the database's stream.
        start_at: the consumer's own checkpoint, if it is known before the source is attached.
        own_checkpoint: whether the consumer keeps its own checkpoint.
        temporary: whether the slot is dropped with its connection.
        passes: says which events the source's filter lets through; None if there is no filter.
    """

    def __init__(
        self,
        stream: StreamIdentity,
        start_at: Position | None,
        *,
        own_checkpoint: bool,
        temporary: bool,
        passes: Callable[[Change | Begin | Commit], bool] | None,
    ) -> None:
        self.sequence: Sequence | None = None
        """The changes taken since the source was first attached, or since the last gap; None before
        it was attached."""
        self.attachments = 0
        """How often the source was attached."""
        self.gaps = 0
        """How often changes may have been lost."""
        self._stream = stream
        self.begin_at(start_at)
        self._own_checkpoint = own_checkpoint
        self._temporary = temporary
        self._passes = passes
        # How many changes sequences had that have ended in a gap.
        self._changes = 0
        # How many transactions they had.
        self._transactions = 0

    def begin_at(self, start_at: Position | None) -> None:
        """Note the consumer's own checkpoint, before the source is attached for the first time."""
        self._start_at = start_at
        self._start: Place = NOWHERE if start_at is None else (start_at.lsn, start_at.index)

    @property
    def changes(self) -> int:
        """How many changes were taken."""
        return self._changes + (0 if self.sequence is None else self.sequence.changes)

    @property
    def transactions(self) -> int:
        """How many transactions with changes were taken."""
        return self._transactions + (0 if self.sequence is None else self.sequence.transactions)

    def gap_reason(self, slot: Slot | None) -> GapReason | None:
        """Return the reason why changes may have been lost, if the slot shows one.

        Args:
            slot: the slot as it is now; None if it does not exist.
        """
        former, start = self.sequence, self._start_at
        if slot is None:
            if former is None and start is None:
                return None
            return GapReason.TEMPORARY_SLOT if self._temporary else GapReason.SLOT_MISSING
        if slot.lost is not None:
            return slot.lost
        if former is not None and slot.confirmed > former.progress.flushed:
            return GapReason.SLOT_MOVED
        if former is None and start is not None and slot.confirmed > start.lsn + 1:
            return GapReason.START_BEHIND_SLOT
        return None

    def attached(self, slot: Slot, reason: GapReason | None) -> Gap | None:
        """Note that the source was attached; return the gap before the new stream, if any.

        Args:
            slot: the slot that it streams from.
            reason: why changes may have been lost, None if there is no gap.
        """
        gap = None
        self.attachments += 1
        if self.sequence is None or reason is not None:
            if reason is not None:
                after = self.last_position()
                logger.error("changes may be lost: %s, after %s", reason.value, after)
                self.gaps += 1
                gap = Gap(after, Position(slot.confirmed, 0, self._stream), reason)
            self._begin_sequence(slot, start=self._start if reason is None else NOWHERE)
        assert self.sequence is not None
        self.sequence.resume()
        return gap

    def _begin_sequence(self, slot: Slot, *, start: Place) -> None:
        self._changes, self._transactions = self.changes, self.transactions
        self.sequence = Sequence(
            slot.confirmed,
            # Behind a gap no event is a repetition, whatever its place.
            start=start,
            own_checkpoint=self._own_checkpoint,
            passes=self._passes,
        )

    def last_position(self) -> Position | None:
        """Return the position of the last change taken, or else the consumer's checkpoint."""
        former = self.sequence
        if former is not None and former.last > self._start:
            return Position(LSN(former.last[0]), former.last[1], self._stream)
        return self._start_at

    def place_of(self, position: Position) -> Place:
        """Return the place up to which a position acknowledges.

        Raises:
            PositionMismatchError: if it belongs to another stream.
        """
        if position.stream != self._stream:
            raise PositionMismatchError(
                f"cannot acknowledge {position}: this source streams {self._stream}"
            )
        return position.lsn, position.index

    def handed_over(self, position: Position | None) -> Place:
        """Return the place up to which the stream was handed over.

        Args:
            position: the position of the last event that the source has handed over.
        """
        place = NOWHERE if position is None else (position.lsn, position.index)
        return max(self._start, place)

    def stats(
        self, bytes_received: int, row_filter: RowFilter | None, *, connected: bool
    ) -> SourceStats:
        """Return the statistics of the source.

        Args:
            bytes_received: bytes of everything that was read.
            row_filter: the source's filter, if it has one.
            connected: whether there is a connection.
        """
        progress = SlotProgress() if self.sequence is None else self.sequence.progress
        return SourceStats(
            changes=self.changes,
            transactions=self.transactions,
            bytes_received=bytes_received,
            reconnects=max(self.attachments - 1, 0),
            gaps=self.gaps,
            received_lsn=progress.written,
            confirmed_lsn=progress.flushed,
            unacknowledged=progress.waiting,
            filtered=0 if row_filter is None else row_filter.left_out,
            filter_errors=0 if row_filter is None else row_filter.errors,
            lag_bytes=max(progress.written - progress.flushed, 0),
            connected=connected,
        )
