"""LinkFeed: the changes that a worker gets from its supervisor, as a source of batches.

What comes over the link is put into a queue with a bound, in the callback of the event loop that
has read it, and whoever waits for it goes on right there. When the queue is full, the socket fills,
and the supervisor sees that the worker is behind.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Final, Self

import attrs

from realtime_core import LSN, Event, Position, SourceStats
from realtime_core.errors import ServerError
from realtime_core.sources.prompt_future import promptly

from ..cluster.envelope import Place, decode
from ..cluster.envelope_queue import EnvelopeQueue, Steps
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

_TOGETHER: Final = 0.05
"""Seconds in which what was handed out is told at once. Being told wakes the supervisor, which
costs more than to send a small envelope; and 8 MiB take longer to be handed out."""


class LinkFeed:
    """Yields what the supervisor reads from the database, and tells it what was handed out.

    Make it with :meth:`over`.

    Args:
        tells_holes: whether what cannot be read becomes a gap, as with a log that several machines
            share. Otherwise it is an error, and comes again from the slot.
    """

    def __init__(self, *, tells_holes: bool = False) -> None:
        self.enum_orders: dict[tuple[str, str], tuple[str, ...]] = {}
        """The labels of enum types in their declared order, by schema and name."""
        self._link: asyncio.Transport
        self._buffer = FrameBuffer()
        self._queue = EnvelopeQueue(Unpacker(), tells_holes=tells_holes)
        self.behind: Behind | None = None
        """Where the changes begin; None until the supervisor's source is attached."""
        self.read_bytes = 0
        """How many bytes of envelopes were read."""
        # What the supervisor said last of its source.
        self._source = SourceStats()
        # Reads on when the queue is not full any more.
        self._reading_on: asyncio.Task[None] | None = None
        # What was handed out and the supervisor was not told of, and when it will be.
        self._handed_out: int | None = None
        self._telling: asyncio.TimerHandle | None = None

    @classmethod
    async def over(cls, sock: socket.socket, *, tells_holes: bool = False) -> Self:
        """Return a feed from a connected socket.

        Args:
            sock: the link.
            tells_holes: as for the class.
        """
        feed = cls(tells_holes=tells_holes)
        loop = asyncio.get_running_loop()
        feed._link, _ = await loop.create_connection(lambda: _Receiver(feed), sock=sock)
        return feed

    async def __aenter__(self) -> Self:
        self._link.write(encode_frame(ReadyFrame()))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the link."""
        self._queue.end(ServerError("the link to the supervisor was closed"))
        if self._reading_on is not None:
            self._reading_on.cancel()
            await asyncio.gather(self._reading_on, return_exceptions=True)
        if self._telling is not None:
            self._telling.cancel()
        self._tell()
        self._link.close()

    async def attached(self) -> None:
        """Wait until the supervisor's source is attached.

        Raises:
            ServerError: if the supervisor has ended.
        """
        while not self._knows_all:
            await self._queue.something()

    @property
    def _knows_all(self) -> bool:
        """Whether the supervisor has said where the changes begin, and of which stream they are."""
        return self.behind is not None and self._source.stream is not None

    def batches(self) -> AsyncIterator[list[Event]]:
        """Iterate over batches of events, which are never empty; cancelling a step loses nothing.

        Raises:
            ServerError: from the iterator, if the supervisor has ended.
            RealtimeError: from the iterator, if an envelope cannot be read.
        """
        return Steps(self.next_batch)

    async def next_batch(self) -> list[Event]:
        """Return the next batch."""
        if not self._knows_all:
            await self.attached()
        return await self._queue.next_batch()

    @property
    def begin(self) -> Place | None:
        """The place that the changes begin behind; None until it is known."""
        behind = self.behind
        return None if behind is None else (behind.generation, behind.lsn, behind.index)

    @property
    def begin_sequence(self) -> int:
        """The number of the last envelope before them in the log of several machines, ..."""
        return 0 if self.behind is None else self.behind.sequence

    @property
    def log_created(self) -> str | None:
        """... and when that log was made; None until it is known."""
        return None if self.behind is None else self.behind.log

    def passed(self) -> LSN:
        """Return an LSN before which everything that committed was handed out to the clients."""
        done = self._queue.done or self.begin
        return LSN(0 if done is None else done[1])

    def ack(self, upto: Event | Position) -> None:
        """Tell the supervisor soon that everything up to ``upto`` was handed to every outbox.

        A Begin or a Gap acknowledges nothing.
        """
        done = self._queue.acknowledged(upto)
        if done is None:
            return
        self._handed_out = done
        if self._telling is None:
            loop = asyncio.get_running_loop()
            self._telling = loop.call_later(_TOGETHER, self._tell)

    def _tell(self) -> None:
        done, self._handed_out = self._handed_out, None
        self._telling = None
        if done is not None:
            self._link.write(encode_frame(HandedOutFrame(done)))

    def note(self, source: SourceStats) -> None:
        """Keep the counts of its source that the supervisor has sent."""
        self._source = source
        self._queue.wake()

    def stats(self) -> SourceStats:
        """Return the counts of its source that the supervisor has sent last.

        Of the gaps only those count that come through this feed.
        """
        begin = self.behind
        if begin is None:
            return SourceStats()
        source = self._source
        return attrs.evolve(
            source,
            gaps=max(source.gaps - begin.gaps, 0),
            connected=source.connected and not self._queue.has_ended,
        )

    # The link

    def received(self, data: bytes) -> None:
        """Take what has come over the link."""
        queue = self._queue
        if queue.has_ended:
            return
        try:
            for frame in self._buffer.feed(data):
                if isinstance(frame, EnvelopeFrame):
                    envelope = decode(frame.data, frame.sequence)
                    queue.put(frame.sequence, envelope, is_anew=frame.is_behind_hole)
                    self.read_bytes += len(frame.data)
                elif isinstance(frame, EnumsFrame):
                    self.enum_orders.clear()
                    self.enum_orders.update(frame.orders)
                    queue.describe_anew()
                elif isinstance(frame, AttachedFrame):
                    self.behind = frame.begin
        except Exception as exc:
            # Also what nobody has thought of: whoever waits for changes would wait for ever.
            queue.end(exc)
            return
        queue.wake()
        if queue.is_full and self._reading_on is None:
            self._link.pause_reading()
            self._reading_on = asyncio.create_task(self._read_on())

    def lost(self, error: Exception | None) -> None:
        """Note that the link has ended."""
        told = "" if error is None else f" ({error})"
        self._queue.end(ServerError(f"the supervisor has ended{told}"))

    async def _read_on(self) -> None:
        await self._queue.room()
        self._reading_on = None
        self._link.resume_reading()


class _Receiver(asyncio.Protocol):
    """What the event loop tells of a link, to a feed."""

    def __init__(self, feed: LinkFeed) -> None:
        self._feed = feed

    def data_received(self, data: bytes) -> None:
        promptly(self._feed.received, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._feed.lost(exc)
