"""Reader: what one check is about, taken from the stream.

Theory of operation. While a check is under way nothing is read, and what comes meanwhile waits
in the connection: so batches form by themselves, as large as the load wants them, up to a
limit. A large transaction comes in several.

A transaction is in WAL before others can see what it did. A row that is looked up then is not
there yet, and neither is a table that it made. So a batch waits until its transactions are over
for everybody.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from typing import Any, Final

import attrs
import psycopg
from psycopg import AsyncConnection

from realtime_core import (
    Begin,
    ChangeSource,
    Delete,
    Event,
    Gap,
    Insert,
    RowChange,
    Update,
)
from realtime_core.errors import RealtimeError

from ..catalog.connections import Connections

__all__ = ["Batch", "Read", "Reader"]

logger = logging.getLogger("realtime.rls")

_MOST_BYTES: Final = 8 * 1024 * 1024
"""Of values, after which a batch ends although it has fewer changes than it may have."""
_SETTLE_PAUSES: Final = (0.001, 0.1)
"""Least and most seconds between two looks whether transactions are over for everybody."""
_PATIENCE: Final = 5.0
"""Seconds until it is said that they are not."""
_REMINDER: Final = 60.0
"""Seconds until it is said again."""
_RETRY: Final = 0.5
"""Seconds until the database is asked again that did not answer."""


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


class Reader:
    """Divides a stream into batches of changes that others can see.

    Args:
        source: with boundaries.
        connections: for what is asked besides.
        limit: the most changes of a batch.
        interval: least seconds between two batches, unless there are ``limit`` changes already.
    """

    def __init__(
        self, source: ChangeSource, connections: Connections, *, limit: int, interval: float
    ) -> None:
        self._source = source
        self._connections = connections
        self._limit = limit
        self._interval = interval
        # What came and is in no batch yet, and how many changes are among it.
        self._waiting: deque[Event] = deque()
        self._changes = 0
        self._next_at = 0.0
        self._settled: int | None = None

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Iterate over batches, never empty ones. Asking for the next acknowledges the last.

        Raises:
            RealtimeError: if the source cannot go on.
        """
        stream = self._source.batches()
        async for events in stream:
            self._take(events)
            while self._waiting:
                await self._gather(stream)
                batch, last = self._next_batch()
                if batch.reads:
                    await self._settle({read.change.transaction.xid for read in batch.reads})
                    self._next_at = asyncio.get_running_loop().time() + self._interval
                if batch.reads or batch.gap is not None:
                    yield batch
                if last is not None:
                    self._source.ack(last)

    def _take(self, events: Sequence[Event]) -> None:
        self._waiting.extend(events)
        self._changes += sum(isinstance(event, Insert | Update | Delete) for event in events)

    async def _gather(self, stream: AsyncIterator[list[Event]]) -> None:
        """Read on until the last batch is long enough ago, or the next one is full."""
        clock = asyncio.get_running_loop().time
        while 0 < self._changes < self._limit and (left := self._next_at - clock()) > 0:
            try:
                async with asyncio.timeout(left):
                    self._take(await anext(stream))
            except (TimeoutError, StopAsyncIteration, RealtimeError):
                # An error comes again, after what came before it.
                return

    def _next_batch(self) -> tuple[Batch, Event | None]:
        """Return a batch, and the event whose acknowledgement says that it is done with."""
        waiting = self._waiting
        reads: list[Read] = []
        size = 0
        last: Event | None = None
        while waiting and len(reads) < self._limit and size <= _MOST_BYTES:
            if isinstance(waiting[0], Gap):
                if last is None:
                    gap = waiting.popleft()
                    assert isinstance(gap, Gap)
                    return Batch(gap=gap), None
                break
            event = waiting.popleft()
            if isinstance(event, Begin | Gap):
                continue
            last = event
            if isinstance(event, Insert | Update | Delete):
                self._changes -= 1
                read = Read(event, _size(event))
                reads.append(read)
                size += read.size
        return Batch(tuple(reads)), last

    async def _settle(self, xids: set[int]) -> None:
        """Wait until others see what transactions did."""
        # Of a large transaction several batches come.
        last = self._settled
        left = xids - {last}
        while left:
            try:
                async with self._connections.one() as connection:
                    await _settled(connection, left)
                break
            except psycopg.Error as exc:
                logger.warning(
                    "changes wait until the database can be asked whether they are visible: %s",
                    " ".join(str(exc).split()),
                )
                await asyncio.sleep(_RETRY)
        if len(xids) == 1:
            [self._settled] = xids


def _size(change: RowChange) -> int:
    """Return how many bytes the values of a change have as text, of both rows."""
    size = 0
    for row in (
        None if isinstance(change, Delete) else change.record,
        None if isinstance(change, Insert) else change.old_record,
    ):
        for field in () if row is None else row.fields:
            if isinstance(field, str):
                size += len(field) if field.isascii() else len(field.encode())
    return size


async def _settled(connection: AsyncConnection[Any], xids: Collection[int]) -> None:
    """Wait until transactions are over for everybody, and say what is waited for if that takes."""
    loop = asyncio.get_running_loop()
    mention_at = loop.time() + _PATIENCE
    pause, most = _SETTLE_PAUSES
    while True:
        is_over = await _snapshot(connection)
        left = [xid for xid in xids if not is_over(xid)]
        if not left:
            return
        if loop.time() >= mention_at:
            mention_at = loop.time() + _REMINDER
            cursor = await connection.execute("SHOW synchronous_standby_names")
            row = await cursor.fetchone()
            logger.warning(
                "changes wait for transaction %d, which is committed and not visible yet: "
                "PostgreSQL waits for a synchronous standby (synchronous_standby_names is %r); "
                "SELECT application_name, state, sync_state FROM pg_stat_replication shows which "
                "there are",
                left[0],
                "" if row is None else row[0],
            )
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, most)


async def _snapshot(connection: AsyncConnection[Any]) -> Callable[[int], bool]:
    """Return what says whether a transaction, named by its 32 bits, is over for everybody."""
    cursor = await connection.execute("SELECT pg_catalog.pg_current_snapshot()::text")
    row = await cursor.fetchone()
    assert row is not None
    lowest, following, running = row[0].split(":")
    xmin, xmax = int(lowest), int(following)
    under_way = {int(xid) for xid in running.split(",")} if running else set()

    def is_over(xid: int) -> bool:
        # Of the numbers with these 32 bits, the one next to the snapshot.
        whole = xid + ((xmax - xid + 0x80000000) & ~0xFFFFFFFF)
        return whole < xmin or (whole < xmax and whole not in under_way)

    return is_over
