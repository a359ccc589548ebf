"""LinkFeed: the changes that a worker gets from its supervisor, as a source of batches.

A task reads the link into a queue with a bound. When that is full, the socket fills, and the
supervisor sees that the worker is behind. Envelopes are unpacked when they are asked for, so a step
that is cancelled loses nothing: what it has not returned is in the queue still.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final, Self, TypeAlias

import attrs

from realtime_core import Begin, Commit, Event, Gap, Position, SourceStats, StreamIdentity
from realtime_core.errors import RealtimeError, ServerError
from realtime_core.positions import LAST_INDEX

from ..cluster.envelope import Place
from ..cluster.unpacker import Unpacker
from .frames import (
    AttachedFrame,
    EnumsFrame,
    EnvelopeFrame,
    FrameBuffer,
    HandedOutFrame,
    ReadyFrame,
    encode_frame,
)
from .in_flight import Behind

__all__ = ["LinkFeed"]

_QUEUE_BYTES: Final = 1024 * 1024
"""How many bytes of envelopes the queue has before the link is not read any more."""
_READ_BYTES: Final = 256 * 1024
Waiter: TypeAlias = "asyncio.Future[None]"


class LinkFeed:
    """Yields what the supervisor reads from the database, and tells it what was handed out.

    Args:
        reader: the link.
        writer: the link's other direction.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.enum_orders: dict[tuple[str, str], tuple[str, ...]] = {}
        """The labels of enum types in their declared order, by schema and name."""
        self._reader = reader
        self._writer = writer
        self._unpacker = Unpacker()
        # The envelopes that were not unpacked yet, and their bytes.
        self._queue: deque[EnvelopeFrame | EnumsFrame] = deque()
        self._queued = 0
        # The envelopes whose events were handed over: the place of the last one, the stream that
        # their positions have, and the sequence.
        self._handed: deque[tuple[Place, StreamIdentity | None, int]] = deque()
        self.begin: Behind | None = None
        """Where the changes begin; None until the supervisor's source is attached."""
        # What the supervisor said last of its source.
        self._source = SourceStats()
        # Why nothing more comes; and why what has come cannot be read.
        self._error: RealtimeError | None = None
        self._unreadable: RealtimeError | None = None
        # Those that wait for something to come, and the task that waits for room.
        self._waiting: set[Waiter] = set()
        self._room: Waiter | None = None
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._writer.write(encode_frame(ReadyFrame()))
        self._reading = asyncio.create_task(self._read())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the link."""
        if self._error is None:
            self._error = ServerError("the link to the supervisor was closed")
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        self._writer.close()
        self._wake()

    async def attached(self) -> None:
        """Wait until the supervisor's source is attached.

        Raises:
            ServerError: if the supervisor has ended.
        """
        while not self._knows_all:
            await self._something()

    @property
    def _knows_all(self) -> bool:
        """Whether the supervisor has said where the changes begin, and of which stream they are."""
        return self.begin is not None and self._source.stream is not None

    def batches(self) -> AsyncIterator[list[Event]]:
        """Iterate over batches of events, which are never empty; cancelling a step loses nothing.

        Raises:
            ServerError: from the iterator, if the supervisor has ended.
            RealtimeError: from the iterator, if an envelope cannot be read.
        """
        return _Steps(self)

    async def next_batch(self) -> list[Event]:
        """Return the next batch."""
        if self._unreadable is not None:
            # Whoever reads ahead leaves an error to the next step.
            raise self._unreadable
        while True:
            while not (self._queue and self._knows_all):
                await self._something()
            frame = self._queue.popleft()
            if isinstance(frame, EnumsFrame):
                # What filters have made of the tables' descriptions has the former orders.
                self._unpacker.describe_anew()
                continue
            self._queued -= len(frame.data)
            if self._room is not None and self._queued <= _QUEUE_BYTES and not self._room.done():
                self._room.set_result(None)
            try:
                events = self._unpacker.feed(frame.data, frame.sequence)
            except RealtimeError as exc:
                self._unreadable = exc
                raise
            if self._unpacker.last is not None:
                self._handed.append((self._unpacker.last, self._unpacker.stream, frame.sequence))
            if events:
                return events

    def ack(self, upto: Event | Position) -> None:
        """Tell the supervisor that everything up to ``upto`` was handed to every outbox.

        A Begin or a Gap acknowledges nothing.
        """
        if isinstance(upto, Begin | Gap):
            return
        position = upto if isinstance(upto, Position) else upto.position
        # What was read ahead may be behind a gap, where LSNs may be lower. The unpacker gives the
        # positions from one gap to the next the same object as their stream.
        generations = (
            place[0] for place, stream, _ in reversed(self._handed) if stream is position.stream
        )
        generation = next(generations, None)
        if generation is None:
            return
        # The position of a Commit is that of the last change, and an envelope ends behind it.
        index = LAST_INDEX if isinstance(upto, Commit) else position.index
        place = (generation, position.lsn, index)
        done: int | None = None
        while self._handed and self._handed[0][0] <= place:
            done = self._handed.popleft()[2]
        if done is not None:
            self._writer.write(encode_frame(HandedOutFrame(done)))

    def note(self, source: SourceStats) -> None:
        """Take what the supervisor says of its source."""
        self._source = source
        self._wake()

    def stats(self) -> SourceStats:
        """Return what the supervisor said last of its source.

        Of the gaps only those count that come through this feed.
        """
        begin = self.begin
        if begin is None:
            return SourceStats()
        source = self._source
        return attrs.evolve(
            source,
            gaps=max(source.gaps - begin.gaps, 0),
            connected=source.connected and self._error is None,
        )

    # Reading the link

    async def _read(self) -> None:
        buffer = FrameBuffer()
        try:
            while data := await self._reader.read(_READ_BYTES):
                for frame in buffer.feed(data):
                    if isinstance(frame, EnvelopeFrame):
                        self._queue.append(frame)
                        self._queued += len(frame.data)
                    elif isinstance(frame, EnumsFrame):
                        self.enum_orders.clear()
                        self.enum_orders.update(frame.orders)
                        self._queue.append(frame)
                    elif isinstance(frame, AttachedFrame):
                        self.begin = frame.begin
                self._wake()
                if self._queued > _QUEUE_BYTES:
                    self._room = asyncio.get_running_loop().create_future()
                    await self._room
                    self._room = None
            self._error = ServerError("the supervisor has ended")
        except RealtimeError as exc:
            self._error = exc
        except OSError as exc:
            self._error = ServerError(f"the supervisor has ended ({exc})")
        self._wake()

    async def _something(self) -> None:
        """Wait until something has come.

        Raises:
            RealtimeError: if nothing will come any more.
        """
        if self._error is not None:
            raise self._error
        waiter: Waiter = asyncio.get_running_loop().create_future()
        self._waiting.add(waiter)
        try:
            await waiter
        finally:
            self._waiting.discard(waiter)

    def _wake(self) -> None:
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)


class _Steps(AsyncIterator[list[Event]]):
    """A class and not an async generator, because a cancelled step must not end it."""

    def __init__(self, feed: LinkFeed) -> None:
        self._feed = feed

    async def __anext__(self) -> list[Event]:
        return await self._feed.next_batch()
