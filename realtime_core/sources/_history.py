"""StreamHistory: remembers what a source has read, across reconnects, gaps and clusters.

It does no I/O. A source reports each new connection to it, and gets the gap that the consumer has
to be told of, if there is one. It also says which positions the consumer may acknowledge, and
where the next connection has to go on.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator

import attrs

from ..changes import Begin, Change, Commit, Gap, GapReason, RawRows
from ..errors import PositionMismatchError
from ..lsn import LSN
from ..positions import Position, StreamIdentity
from ..replication.progress import Place
from ..replication.sequence import NOWHERE, Sequence
from ._attach import AttachedStream, ResumePoint
from ._meter import Meter
from ._skips import Skips

__all__ = ["StreamHistory"]

logger = logging.getLogger("realtime.source")


class StreamHistory:
    """The current sequence of changes, and what is remembered of the streams before it.

    Args:
        start_at: the consumer's own checkpoint, if it is known before the source is attached.
        own_checkpoint: whether the consumer keeps its own checkpoint.
        passes: says which events the source's filter lets through; None if there is no filter.
        meter: counts gaps, and the changes of sequences that have ended.
    """

    def __init__(
        self,
        start_at: Position | None,
        *,
        own_checkpoint: bool,
        passes: Callable[[Change | Begin | Commit], bool] | None,
        meter: Meter,
    ) -> None:
        self.stream: StreamIdentity | None = None
        """The identity of the stream that was attached last; None before the first time."""
        self.sequence = Sequence(LSN(0))
        """The changes taken since the source was first attached, or since the last gap."""
        self.skips = Skips()
        """How far the stream has come in the WAL that PostgreSQL 18 skips."""
        self.watch: Callable[[Change | RawRows | Begin | Commit], None] | None = None
        """Called with each new change, also one that the filter leaves out; None if nobody
        watches."""
        self.idle_at = -math.inf
        """When the last Idle position was yielded, in seconds of the event loop's clock."""
        self._begin_at(start_at)
        self._own_checkpoint = own_checkpoint
        self._passes = passes
        self._meter = meter
        # Former streams: their positions may still be acknowledged, which has no effect.
        self._former_streams: set[StreamIdentity] = set()
        # Former timelines of this stream that have ended in a gap: their positions have no effect
        # either.
        self._former_timelines: set[int] = set()

    def _begin_at(self, start_at: Position | None) -> None:
        # The consumer's own checkpoint.
        self._start_at = start_at
        # The place of the checkpoint; NOWHERE if there is none.
        self._start: Place = NOWHERE if start_at is None else (start_at.lsn, start_at.index)

    def resume_point(self) -> ResumePoint | None:
        """Return where the next connection goes on; None before the first one."""
        if self.stream is None:
            return None
        sequence = self.sequence
        return ResumePoint(self.stream, sequence.last, sequence.progress.flushed, self.skips)

    def attached(self, attachment: AttachedStream) -> Iterator[Gap] | None:
        """Note that the source was attached.

        Returns:
            An iterator that yields the gap before the new stream; None if there is no gap. Take
            it when all events that were read before have been taken, because only then it is
            known where the gap begins.
        """
        former, stream = self.stream, attachment.stream
        gap = None
        if attachment.is_behind_snapshot:
            self._begin_at(None)
        elif former is None and attachment.start_at is not None:
            self._begin_at(attachment.start_at)
        if attachment.skips_until is not None:
            assert attachment.reason is not None
            self.skips.begin(attachment.skips_until)
            gap = self._gap(attachment.reason, attachment.skips_until, self.sequence, former)
        elif former is None or attachment.reason is not None or attachment.is_behind_snapshot:
            if former is not None and stream != former:
                self._former_streams.add(former)
            elif former is not None and stream.timeline != former.timeline:
                self._former_timelines.add(former.timeline)
            gap = self._begin_sequence(attachment)
        self.stream = stream
        self.sequence.resume()
        return gap

    def _begin_sequence(self, attachment: AttachedStream) -> Iterator[Gap] | None:
        """Begin the first sequence, or the one behind a gap."""
        former = self.sequence
        gap = None
        if self.stream is None:
            former = Sequence(LSN(0), start=self._start)
        if attachment.reason is not None:
            gap = self._gap(attachment.reason, attachment.start, former, self.stream)
        self._meter.sequence_ended(former)
        self.skips = Skips()
        self.sequence = Sequence(
            attachment.start,
            # Behind a gap no event is a repetition, whatever its place.
            start=self._start if attachment.reason is None else NOWHERE,
            own_checkpoint=self._own_checkpoint,
            passes=self._passes,
        )
        return gap

    def _gap(
        self,
        reason: GapReason,
        until: LSN,
        former: Sequence,
        former_stream: StreamIdentity | None,
    ) -> Iterator[Gap]:
        """Count a gap now; where it begins is known when what was read before it is decoded."""
        self._meter.gaps += 1
        return self._tell(reason, until, former, former_stream)

    def _tell(
        self,
        reason: GapReason,
        until: LSN,
        former: Sequence,
        former_stream: StreamIdentity | None,
    ) -> Iterator[Gap]:
        after = self._position_at(former.last, former_stream or self.stream)
        logger.error("changes may be lost: %s, after %s", reason.value, after)
        yield Gap(after, Position(until, 0, self.stream), reason)

    def _position_at(self, place: Place, stream: StreamIdentity | None) -> Position | None:
        if place == NOWHERE:
            return None
        if place == self._start:
            start = self._start_at
            # The checkpoint may come from another list of publications.
            return start and attrs.evolve(start, stream=stream)
        return Position(LSN(place[0]), place[1], stream)

    def accepting(self, sequence: Sequence) -> Callable[[Change | RawRows | Begin | Commit], bool]:
        """Return the function that takes the next event, and says whether it is handed over."""
        accept, watch = self.skips.accepting(sequence), self.watch
        if watch is None:
            return accept

        def accept_and_show(event: Change | RawRows | Begin | Commit) -> bool:
            before = sequence.changes
            is_handed_over = accept(event)
            if sequence.changes > before:
                watch(event)
            return is_handed_over

        return accept_and_show

    def place_of(self, position: Position) -> Place | None:
        """Return the place up to which a position acknowledges; None if it has no effect any more.

        Raises:
            PositionMismatchError: if it belongs to another stream.
        """
        stream = position.stream
        if stream is not self.stream:
            if stream in self._former_streams:
                return None
            # The checkpoint may come from another list of publications.
            if position != self._start_at and (stream is None or stream != self.stream):
                raise PositionMismatchError(
                    f"cannot acknowledge {position}: this source streams {self.stream}"
                )
            if stream is not None and stream.timeline in self._former_timelines:
                return None
        return position.lsn, position.index

    def handed_over(self, position: Position | None) -> Place:
        """Return the place up to which this stream was handed over.

        Args:
            position: the position of the last event that the source has handed over.
        """
        if position is None or position.stream != self.stream:
            return self._start
        return max(self._start, (position.lsn, position.index))
