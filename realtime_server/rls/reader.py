"""Reader: what one check is about, taken from the stream.

Theory of operation. While a check is under way nothing is read, and what comes meanwhile waits
in the connection: so batches form by themselves, as large as the load wants them, up to a
limit. A large transaction comes in several.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final

import attrs

from realtime_core import (
    Begin,
    ChangeSource,
    Commit,
    Delete,
    Event,
    Gap,
    Idle,
    Insert,
    RowChange,
    Update,
)
from realtime_core.errors import RealtimeError

from ..fanout.payloads.oversize import size_of

__all__ = ["Batch", "Read", "Reader"]

_MOST_BYTES: Final = 8 * 1024 * 1024
"""Of values, with which a batch is full although it has fewer changes than it may have."""
_PATIENCE: Final = 0.002
"""Seconds to wait for the rest of a transaction: PostgreSQL may send ten rows in ten pieces, and
each would be a check of its own."""


@attrs.frozen
class Read:
    """A change, with how many bytes its values have as text."""

    change: RowChange
    size: int


@attrs.frozen
class Batch:
    """What is handed over at once: changes in commit order, or a gap ahead of them."""

    reads: tuple[Read, ...] = ()
    gap: Gap | None = None
    last: Event | None = None
    """The event whose acknowledgement says that all of it is done with."""


class Reader:
    """Divides a stream into batches.

    Args:
        source: with boundaries.
        limit: the most changes of a batch.
        interval: least seconds between two batches, unless the next one is full already.
    """

    def __init__(self, source: ChangeSource, *, limit: int, interval: float) -> None:
        self._source = source
        self._limit = limit
        self._interval = interval
        # What came and is in no batch yet, and how many changes and bytes of them are among it.
        self._waiting: deque[Event | Read] = deque()
        self._changes = 0
        self._bytes = 0
        self._next_at = 0.0

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Iterate over batches. Each is acknowledged before the next is asked for.

        Raises:
            RealtimeError: if the source cannot go on.
        """
        clock = asyncio.get_running_loop().time
        stream = self._source.batches()
        async for events in stream:
            self._take(events)
            while self._waiting:
                await self._gather(stream)
                batch = self._next_batch()
                if batch.reads:
                    self._next_at = clock() + self._interval
                if batch.reads or batch.gap is not None:
                    yield batch
                else:
                    self.acknowledge(batch)

    def acknowledge(self, batch: Batch) -> None:
        """Say that a batch is done with."""
        if batch.last is not None:
            self._source.ack(batch.last)

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Insert | Update | Delete):
                read = Read(event, size_of(event))
                self._waiting.append(read)
                self._changes += 1
                self._bytes += read.size
            else:
                self._waiting.append(event)

    async def _gather(self, stream: AsyncIterator[Sequence[Event]]) -> None:
        """Read on until the next batch is full, or it is time and no transaction is cut in two."""
        clock = asyncio.get_running_loop().time
        patient_until = clock() + _PATIENCE
        while 0 < self._changes < self._limit and self._bytes <= _MOST_BYTES:
            until = self._next_at
            if not isinstance(self._waiting[-1], Commit | Gap | Idle):
                until = max(until, patient_until)
            left = until - clock()
            if left <= 0:
                return
            try:
                async with asyncio.timeout(left):
                    self._take(await anext(stream))
            except (TimeoutError, StopAsyncIteration, RealtimeError):
                # An error comes again, after what came before it.
                return

    def _next_batch(self) -> Batch:
        waiting = self._waiting
        reads: list[Read] = []
        size = 0
        last: Event | None = None
        while waiting and len(reads) < self._limit and size <= _MOST_BYTES:
            if isinstance(waiting[0], Gap):
                if last is None:
                    gap = waiting.popleft()
                    assert isinstance(gap, Gap)
                    return Batch(gap=gap)
                break
            event = waiting.popleft()
            if isinstance(event, Read):
                self._changes -= 1
                self._bytes -= event.size
                reads.append(event)
                size += event.size
                last = event.change
            elif not isinstance(event, Begin | Gap):
                last = event
        return Batch(tuple(reads), last=last)
