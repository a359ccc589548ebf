"""LogEnvelopes: what a supervisor reads from the log that several machines share, for its workers.

The envelopes are passed on as they come, but for those in parts: a worker that takes the place of a
dead one may begin behind any envelope, and so has to get each of them whole. Where the log has lost
something, the next envelope says so.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

import attrs

from realtime_core import SourceStats, StreamIdentity

from ..cluster.chain import Chain, HoleError
from ..cluster.envelope import Kind, Place, VersionError, encode
from ..cluster.log_reader import Read
from ..cluster.patient_reader import PatientReader
from ..cluster.stats import LogStats
from ..fanout.cancellation import cancel_within
from .frames import EnumOrders
from .in_flight import Behind, ToSend

__all__ = ["LogEnvelopes"]


class LogEnvelopes:
    """Reads the log for several workers.

    Args:
        reader: reads the log.
        leader: returns what the leader's source counts; None if no leader was heard lately.
    """

    enum_orders: Final[EnumOrders] = {}
    """The labels of enum types: the workers read them from the database."""

    def __init__(self, reader: PatientReader, leader: Callable[[], SourceStats | None]) -> None:
        self.handed_out: int | None = None
        """The sequence of the last envelope that every worker has handed out; None until it is
        known where the log ends."""
        self._reader = reader
        self._leader = leader
        self._chain = Chain()
        # The place that the changes begin behind, and the stream there, once they are known.
        self._begin: Place | None = None
        self._stream: StreamIdentity | None = None
        self._beginning: asyncio.Task[None] | None = None
        # The number of the last envelope before them.
        self._begin_sequence = 0
        # What was read to find that.
        self._first: list[Read] = []
        # What the leader's source counted when it was heard last.
        self._source = SourceStats()
        self._has_ended = self._is_behind_hole = False
        # How many gaps there were, and how many of them because the log has lost something.
        self._gaps = self._holes = 0
        # What was read and not every worker has handed out, counted here, with its number in the
        # log and its size; and all sizes together.
        self._count = 0
        self._waiting: deque[tuple[int, int, int]] = deque()
        self._waiting_bytes = 0

    async def __aenter__(self) -> None:
        self._beginning = asyncio.create_task(self._find_begin())

    async def aclose(self) -> None:
        """Stop reading."""
        self._has_ended = True
        if self._beginning is not None:
            # The client of NATS may swallow a cancellation while it connects.
            await cancel_within({self._beginning}, 0)
        await self._reader.aclose()

    @property
    def is_open(self) -> bool:
        """Whether the end of the log was found, and everything behind it comes."""
        return self._begin is not None and not self._has_ended

    @property
    def newer(self) -> VersionError | None:
        """Why the end of the log cannot be read, if a newer server has written it."""
        return self._reader.newer

    async def attached(self) -> None:
        """Wait until the end of the log was found.

        Raises:
            RealtimeError: if the log cannot be read.
        """
        assert self._beginning is not None
        await asyncio.shield(self._beginning)

    def begin(self) -> Behind:
        """Return where a worker begins, as long as nothing was read."""
        assert self._begin is not None
        return self._behind(self._begin, self._begin_sequence)

    async def batches(self) -> AsyncIterator[list[ToSend[int]]]:
        """Iterate over batches of envelopes, without an end.

        Raises:
            RealtimeError: from the iterator, if the log cannot be read.
        """
        await self.attached()
        try:
            reads, self._first = self._first, []
            while True:
                found = [envelope for read in reads if (envelope := self._take(read)) is not None]
                if found:
                    yield found
                reads = await self._reader.next()
        finally:
            self._has_ended = True

    def ack(self, upto: int) -> None:
        """Note that every worker has handed out everything up to an envelope.

        Args:
            upto: its number among those that were sent. In a log that was made anew, the log's own
                numbers begin at 1 again.
        """
        while self._waiting and self._waiting[0][0] <= upto:
            _, self.handed_out, size = self._waiting.popleft()
            self._waiting_bytes -= size

    def stats(self) -> SourceStats:
        """Return what the leader's source counted when it was heard last.

        Of the gaps only those count that the workers were sent.
        """
        source = self._leader()
        if source is not None:
            self._source = source
        stream = self._chain.stream or self._stream
        return attrs.evolve(self._source, gaps=self._gaps, connected=self.is_open, stream=stream)

    def log_stats(self) -> LogStats:
        """Return what is counted of the log."""
        return attrs.evolve(self._reader.stats(), gaps=self._holes, lag_bytes=self._waiting_bytes)

    def what_is_kept(self) -> str:
        """Return a sentence on what comes again at the next start."""
        return "The next start begins at the end of the log, and passes over it"

    async def _find_begin(self) -> None:
        tail = await self._reader.begin()
        self.handed_out = self._begin_sequence = self._reader.sequence
        if tail is None:
            # A new log, of which the first envelope says where it begins.
            self._first = await self._reader.next()
            first = self._first[0].envelope
            self._begin, self._stream = first.prev, first.stream
            return
        self._begin, self._stream = tail.last, tail.stream
        # If the rest of a piece comes, without its first parts, that is a hole.
        self._chain = Chain(tail.last, tail.stream)

    def _take(self, read: Read) -> ToSend[int] | None:
        """Return the envelope that every worker is sent next, if this one completes it."""
        chain, envelope = self._chain, read.envelope
        if read.is_anew:
            self._enter_hole()
        try:
            whole = chain.feed(envelope, read.sequence)
        except HoleError:
            self._enter_hole()
            whole = chain.feed(envelope, read.sequence)
        if whole is None:
            return None
        chain.last, chain.stream = whole.last, whole.stream
        is_behind_hole, self._is_behind_hole = self._is_behind_hole, False
        self._holes += is_behind_hole
        self._gaps += is_behind_hole + (whole.kind is Kind.GAP)
        data = read.data if envelope.parts == 1 else encode(whole)
        self._count += 1
        self._waiting.append((self._count, read.sequence, len(data)))
        self._waiting_bytes += len(data)
        behind = self._behind(whole.last, read.sequence)
        return ToSend(data, behind, self._count, is_behind_hole)

    def _behind(self, place: Place, sequence: int) -> Behind:
        generation, lsn, index = place
        return Behind(lsn, index, self._gaps, generation, sequence, self._reader.created or "")

    def _enter_hole(self) -> None:
        self._is_behind_hole = True
        self._chain.begin_anew()
