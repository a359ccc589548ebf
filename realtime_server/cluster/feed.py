"""LogFeed: the changes that a server reads from the log, as a source of batches.

A task reads the log into a queue with a bound, and events are made of what is in it when they are
asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Self

import attrs

from realtime_core import LSN, Event, Position, SourceStats, StreamIdentity
from realtime_core.errors import ServerError

from ..fanout.cancellation import cancel_within
from .envelope import Envelope, Place, VersionError
from .envelope_queue import EnvelopeQueue, Steps
from .patient_reader import PatientReader
from .stats import LogStats
from .unpacker import Unpacker, Wants

__all__ = ["LogFeed"]


class LogFeed:
    """Yields what the log has.

    Args:
        reader: reads the log.
        leader: returns what the leader's source counts; None if no leader was heard lately.
    """

    def __init__(self, reader: PatientReader, leader: Callable[[], SourceStats | None]) -> None:
        self.enum_orders: dict[tuple[str, str], tuple[str, ...]] = {}
        """The labels of enum types in their declared order, by schema and name. The modes read them
        from the database."""
        self.begin: Place | None = None
        """The place that the changes begin behind; None until it is known."""
        self.begin_sequence = 0
        """The sequence of the last envelope before these changes, ..."""
        self.log_created: str | None = None
        """... and when the log was made that it is in; None until it is known."""
        self.read_bytes = 0
        """How many bytes of envelopes were read."""
        self.handed_out: int | None = None
        """The sequence of the last envelope that was handed out to the clients; None until it is
        known where the log ends."""
        self._reader = reader
        self._leader = leader
        self._queue = EnvelopeQueue(Unpacker(), tells_holes=True)
        # The stream that reading has begun with.
        self._stream: StreamIdentity | None = None
        # What the leader's source counted when it was heard last.
        self._source = SourceStats()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop reading."""
        self._queue.end(ServerError("the log is not read any more"))
        if self._reading is not None:
            # The client of NATS may swallow a cancellation while it connects.
            await cancel_within({self._reading}, 0)
        await self._reader.aclose()

    def pass_over_unless(self, wants: Wants) -> None:
        """Leave out the rows of tables that nobody wants.

        Args:
            wants: whether anybody wants the rows of a table now, or may want those that come now
                later.
        """
        self._queue.wants = wants

    @property
    def is_open(self) -> bool:
        """Whether the end of the log was found, and everything behind it comes."""
        return self.begin is not None and not self._queue.has_ended

    async def attached(self) -> None:
        """Wait until the end of the log was found.

        Raises:
            RealtimeError: if the log cannot be read.
        """
        while self.begin is None:
            await self._queue.something()

    def batches(self) -> AsyncIterator[list[Event]]:
        """Iterate over batches of events, which are never empty; cancelling a step loses nothing.

        Raises:
            RealtimeError: from the iterator, if the log cannot be read.
        """
        return Steps(self._queue.next_batch)

    def ack(self, upto: Event | Position) -> None:
        """Note that everything up to ``upto`` was handed to every outbox."""
        done = self._queue.acknowledged(upto)
        if done is not None:
            self.handed_out = done

    def stats(self) -> SourceStats:
        """Return what the leader's source counted when it was heard last.

        Of the gaps only those count that came through this feed.
        """
        source = self._leader()
        if source is not None:
            self._source = source
        return attrs.evolve(
            self._source,
            gaps=self._queue.gaps,
            connected=self.is_open,
            stream=self._queue.unpacker.stream or self._stream,
        )

    def passed(self) -> LSN:
        """Return an LSN before which everything that committed was handed out to the clients."""
        done = self._queue.done or self.begin
        return LSN(0 if done is None else done[1])

    @property
    def newer(self) -> VersionError | None:
        """Why the end of the log cannot be read, if a newer server has written it."""
        return self._reader.newer

    def log_stats(self) -> LogStats:
        """Return what is counted of the log."""
        queue = self._queue
        return attrs.evolve(self._reader.stats(), gaps=queue.holes, lag_bytes=queue.size)

    # Reading the log

    async def _read(self) -> None:
        try:
            self._begin(await self._reader.begin())
            while True:
                for read in await self._reader.next():
                    if self.begin is None:
                        self._begin_with(read.envelope)
                    self._queue.put(read.sequence, read.envelope, is_anew=read.is_anew)
                    self.read_bytes += len(read.data)
                self._queue.wake()
                await self._queue.room()
        except Exception as exc:
            # Also what nobody has thought of: whoever waits for changes would wait for ever.
            self._queue.end(exc)

    def _begin(self, tail: Envelope | None) -> None:
        """Note where the log ends, which may have nothing so far."""
        self.handed_out = self.begin_sequence = self._reader.sequence
        self.log_created = self._reader.created
        if tail is None:
            return
        self._stream, self.begin = tail.stream, tail.last
        # If the rest of a piece comes, without its first parts, that is a hole.
        self._queue.unpacker = Unpacker(tail.last, tail.stream)
        self._queue.wake()

    def _begin_with(self, first: Envelope) -> None:
        """Note the first envelope of a log that had nothing."""
        self._stream, self.begin = first.stream, first.prev
