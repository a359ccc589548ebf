"""Meter: counts what a streaming source has received, and how far its consumer is behind."""

from __future__ import annotations

from datetime import timedelta

from ..changes import Idle
from ..lsn import LSN
from ..positions import StreamIdentity
from ..replication.protocol import TAG_XLOG_DATA, Payload, sent
from ..replication.sequence import Sequence
from ..snapshot import SnapshotComplete
from ._feedback import EPOCH
from ._filtering import RowFilter
from ._reads import Handed
from .base import SourceStats

__all__ = ["Meter"]


class Meter:
    """Counts over the whole life of a source.

    A :class:`Sequence` counts its own changes and transactions. They are added to those of earlier
    sequences.
    """

    def __init__(self) -> None:
        self.attachments = 0
        """How often the source was attached."""
        self.gaps = 0
        """How often changes may have been lost."""
        self.has_created = False
        """Whether a slot was created."""
        self._bytes = 0
        # Changes and transactions of sequences that have ended in a gap.
        self._changes = 0
        self._transactions = 0
        # How far the server had come when it sent the latest message, and when that was.
        self._server_lsn = 0
        self._server_time = 0
        self._caught_up = True

    def read(self, payloads: list[Payload]) -> None:
        """Note the payloads of one read."""
        if payloads:
            self._bytes += sum(map(len, payloads))
            lsn, self._server_time = sent(payloads[-1])
            self._server_lsn = max(self._server_lsn, lsn)
            # A server that has more to send does not send a keepalive.
            self._caught_up = payloads[-1][0] != TAG_XLOG_DATA

    def sequence_ended(self, sequence: Sequence) -> None:
        """Add the counts of a sequence that has ended in a gap."""
        self._changes += sequence.changes
        self._transactions += sequence.transactions

    def stats(
        self,
        sequence: Sequence,
        handed: Handed | None,
        row_filter: RowFilter | None,
        *,
        all_handed: bool,
        connected: bool,
        stream: StreamIdentity | None,
    ) -> SourceStats:
        """Return the statistics of the source.

        Args:
            sequence: the sequence under way.
            handed: the last event that was handed over.
            row_filter: the source's filter, if it has one.
            all_handed: whether no event is queued behind ``handed``.
            connected: whether the stream runs.
            stream: that was attached last.
        """
        progress = sequence.progress
        received = max(self._server_lsn, progress.written)
        lag = 0.0 if self._caught_up and all_handed else self._seconds_behind(handed)
        return SourceStats(
            changes=self._changes + sequence.changes,
            transactions=self._transactions + sequence.transactions,
            bytes_received=self._bytes,
            reconnects=max(self.attachments - 1, 0),
            gaps=self.gaps,
            received_lsn=LSN(received),
            confirmed_lsn=progress.flushed,
            unacknowledged=progress.waiting,
            lag_bytes=max(received - progress.flushed, 0),
            lag_seconds=lag,
            filtered=0 if row_filter is None else row_filter.left_out,
            filter_errors=0 if row_filter is None else row_filter.errors,
            connected=connected,
            stream=stream,
            slot_created=self.has_created,
        )

    def _seconds_behind(self, handed: Handed | None) -> float:
        if handed is None or isinstance(handed, Idle | SnapshotComplete):
            return 0.0
        if handed.transaction is None or handed.transaction.commit_time is None:
            return 0.0
        sent_at = EPOCH + timedelta(microseconds=self._server_time)
        return max((sent_at - handed.transaction.commit_time).total_seconds(), 0.0)
