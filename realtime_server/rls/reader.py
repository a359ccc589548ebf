"""BatchReader: divides the stream into batches, each of which is checked at once.

Theory of operation. Nothing is read while a check is under way. The changes that arrive meanwhile
wait in the connection, so batches grow with the load, up to a limit. A large transaction comes in
several batches.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import Final

import attrs

from realtime_core import (
    Begin,
    Commit,
    Delete,
    Event,
    Gap,
    Idle,
    Insert,
    LogicalMessage,
    Relation,
    RowChange,
    Update,
)
from realtime_core.errors import RealtimeError

from ..fanout.message_rows import has_messages
from ..fanout.payloads.oversize import size_of
from ..fanout.stream.broadcaster import BatchSource

__all__ = ["Batch", "Read", "BatchReader"]

_MOST_BYTES: Final = 8 * 1024 * 1024
"""How many bytes of values a batch may have; with more it is full, however few changes it has."""
_PATIENCE: Final = 0.002
"""Seconds to wait for the rest of a transaction. PostgreSQL may send ten rows in ten
pieces, each of which would be a batch of its own."""


@attrs.frozen
class Read:
    """A change that was read."""

    change: RowChange
    size: int
    """How many bytes the change's values have as text."""


@attrs.frozen
class Batch:
    """Changes in commit order that are checked and sent together, or one gap."""

    reads: tuple[Read, ...] = ()
    """The changes."""
    messages: tuple[RowChange, ...] = ()
    """The rows of ``realtime.messages``, which are broadcast without a check."""
    gap: Gap | None = None
    """The gap; None if the batch has changes."""
    last: Event | None = None
    """The event whose acknowledgement acknowledges the whole batch; None if there is none."""

    events: tuple[Event, ...] = attrs.field(default=(), eq=False, repr=False)
    """What replay is told: the changes, or the gap, and in between the ends of transactions and the
    messages, in order. A batch may have nothing but messages."""


class BatchReader:
    """Divides a stream into batches.

    Args:
        source: where the changes come from, with boundaries of transactions.
        limit: the most changes that a batch may have.
        interval: the least seconds from one batch to the next, unless that one is full already.
    """

    def __init__(self, source: BatchSource, *, limit: int, interval: float) -> None:
        self._source = source
        self._limit = limit
        self._interval = interval
        # The events that are in no batch yet, and how many changes and bytes are among them.
        self._waiting: deque[Event | Read] = deque()
        self._changes = 0
        self._bytes = 0
        self._next_at = 0.0
        # The relation of the last row, and whether its rows are broadcast.
        self._relation: Relation | None = None
        self._is_messages = False

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Iterate over batches. The caller acknowledges each before it asks for the next.

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
                if batch.reads or batch.messages or batch.gap is not None or _has_message(batch):
                    yield batch
                else:
                    self.acknowledge(batch)

    def acknowledge(self, batch: Batch) -> None:
        """Acknowledge a batch to the source, after it was sent."""
        if batch.last is not None:
            self._source.ack(batch.last)

    def _take(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, Insert | Update | Delete):
                if self._has_messages(event.relation):
                    self._waiting.append(event)
                    continue
                read = Read(event, size_of(event))
                self._waiting.append(read)
                self._changes += 1
                self._bytes += read.size
            else:
                self._waiting.append(event)

    def _has_messages(self, relation: Relation) -> bool:
        if relation is not self._relation:
            self._relation = relation
            self._is_messages = has_messages(relation.schema, relation.table)
        return self._is_messages

    async def _gather(self, stream: AsyncIterator[Sequence[Event]]) -> None:
        """Read until the next batch is full, or it is due and no transaction is cut in two."""
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
                # The source raises an error again, after the events that were read before it.
                return

    def _next_batch(self) -> Batch:
        waiting = self._waiting
        reads: list[Read] = []
        messages: list[RowChange] = []
        events: list[Event] = []
        size = 0
        last: Event | None = None
        while waiting and len(reads) < self._limit and size <= _MOST_BYTES:
            if isinstance(waiting[0], Gap):
                if last is None:
                    gap = waiting.popleft()
                    assert isinstance(gap, Gap)
                    return Batch(gap=gap, events=(gap,))
                break
            event = waiting.popleft()
            if isinstance(event, Read):
                self._changes -= 1
                self._bytes -= event.size
                reads.append(event)
                size += event.size
                last = event.change
                events.append(last)
            elif isinstance(event, Insert | Update | Delete):
                last = event
                messages.append(event)
            elif not isinstance(event, Begin | Gap):
                last = event
                events.append(last)
        return Batch(tuple(reads), tuple(messages), last=last, events=tuple(events))


def _has_message(batch: Batch) -> bool:
    return any(isinstance(event, LogicalMessage) for event in batch.events)
