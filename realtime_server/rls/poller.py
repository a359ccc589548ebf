"""Poller: reads a slot with wal2json, again and again, and loses nothing.

Theory of operation. A poll asks how far WAL is flushed, peeks at what is committed before
that, hands it over, and then advances the slot: to the flushed position when all of it has
been read, to the last commit when the limit cut it off. A crash in between repeats what was
read; it never skips. Polls follow each other while they are cut off, else after a pause.

A transaction is in WAL before others can see what it did. A row that is looked up then is
not there yet, and a table that it made is not in the publication. So a batch waits until its
transactions are over for everybody, and the publication is read after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Sequence
from random import Random
from typing import Any, Final, TypeAlias

import attrs
import psycopg
from psycopg import AsyncConnection

from realtime_core import (
    LSN,
    Begin,
    Change,
    Commit,
    Delete,
    Gap,
    GapReason,
    Insert,
    Position,
    RowChange,
    SourceStats,
    StreamIdentity,
    Update,
)
from realtime_core.errors import DecodeError, SlotInUseError, SourceError
from realtime_core.wal2json import Wal2JsonDecoder

from ..catalog.connections import Connections, Dsn
from ..gate import OWN_SCHEMA
from .publication import Publication, read_publication
from .slot import SlotSession

__all__ = ["Batch", "Poller", "Read"]

_Decoded: TypeAlias = Change | Begin | Commit

logger = logging.getLogger("realtime.rls")

_OPTIONS: Final = {
    "format-version": "2",
    "include-transaction": "true",
    "include-timestamp": "true",
    "include-type-oids": "true",
    # Filters compare by the base type.
    "include-domain-data-type": "true",
    "include-pk": "true",
    "include-lsn": "true",
    "include-xids": "true",
    # Else NaN and the infinities are null.
    "numeric-data-types-as-string": "true",
}

_CHUNK_BYTES: Final = 8 * 1024 * 1024
"""Of texts, after which a batch ends within a transaction too."""
_CHUNK_LIMITS: Final = 10
"""So many times the limit of changes, likewise."""
_MOST_READ: Final = 64
"""So many times the limit is read at once, at most, when there is more and more to read."""
_SETTLE_PAUSES: Final = (0.002, 0.1)
"""Least and most seconds between two looks whether transactions are over for everybody."""
_PATIENCE: Final = 5.0
"""Seconds until it is said that they are not."""
_REMINDER: Final = 60.0
"""Seconds until it is said again."""
_STANDBY_PAUSE: Final = 1.0
"""Seconds between two looks at a slot that another process has."""


@attrs.frozen
class Read:
    """A change, with how many bytes its text has."""

    change: RowChange
    size: int


@attrs.frozen
class Batch:
    """What is handed over at once: changes in commit order, or a gap ahead of them."""

    reads: tuple[Read, ...] = ()
    gap: Gap | None = None


class Poller:
    """Yields a publication's changes. Reconnects by itself, and says when something was lost.

    Args:
        dsn: of the database, as the server's role.
        connections: for what is asked besides.
        publication: its name.
        slot: its name; None for a temporary one with a name of its own.
        temporary: make the named slot a temporary one.
        limit: changes to read at once, roughly.
        interval: seconds between two polls when there is nothing more to read.
        backoff: least and most seconds between two attempts to attach.
    """

    def __init__(
        self,
        dsn: Dsn,
        connections: Connections,
        *,
        publication: str,
        slot: str | None,
        temporary: bool = False,
        limit: int,
        interval: float,
        backoff: tuple[float, float],
    ) -> None:
        self._dsn = dsn
        self._connections = connections
        self._name = publication
        self._slot = slot or f"realtime_rls_{secrets.token_hex(8)}"
        self._temporary = temporary or slot is None
        self._limit = limit
        self._interval = interval
        self._backoff = backoff
        self._publication: Publication | None = None
        # None until the slot was attached to once.
        self._advanced: LSN | None = None
        self._last: Position | None = None
        self._read_at_once = limit
        self._is_behind = False
        self._stream: StreamIdentity | None = None
        self._decoder = Wal2JsonDecoder()
        self._stats = SourceStats()
        self.attached = asyncio.Event()
        """Set while there is a slot that is polled."""
        self._kept: SlotSession | None = None

    @property
    def slot(self) -> str:
        """Name of the slot."""
        return self._slot

    def stats(self) -> SourceStats:
        """Return what has been read, and how far behind the server is."""
        return self._stats

    async def batches(self) -> AsyncGenerator[Batch, None]:
        """Iterate over batches, for ever.

        Asking for the next one acknowledges the last. A batch is never empty. When it is
        cancelled or closed, nobody else gets the slot until :meth:`aclose`.

        Raises:
            DecodeError: if the slot holds what cannot be decoded.
        """
        ceiling, maximum = self._backoff
        random = Random()
        in_use: int | None = -1
        while True:
            try:
                async with self._open() as session:
                    gap = await self._attach(session)
                    ceiling, in_use = self._backoff[0], -1
                    if gap is not None:
                        yield Batch(gap=gap)
                    while True:
                        async with contextlib.aclosing(self._poll(session)) as polled:
                            async for batch in polled:
                                yield batch
                        if not self._is_behind:
                            await asyncio.sleep(self._interval)
            except DecodeError:
                raise
            except SlotInUseError as exc:
                if exc.pid != in_use:
                    logger.warning("%s; waiting until it is free", exc)
                in_use = exc.pid
                delay = _STANDBY_PAUSE
            except (SourceError, psycopg.Error) as exc:
                delay = ceiling * (0.5 + random.random() / 2)
                ceiling = min(ceiling * 2, maximum)
                logger.warning("%s; trying again in %.1f s", " ".join(str(exc).split()), delay)
            self._stats = attrs.evolve(self._stats, connected=False)
            self.attached.clear()
            await asyncio.sleep(delay)

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[SlotSession]:
        session = await SlotSession.connect(await self._dsn(), self._slot)
        try:
            yield session
        except (asyncio.CancelledError, GeneratorExit):
            # While it waited, or while a batch was under way. The slot stays ours until aclose().
            self._kept = session
            raise
        except BaseException:
            await session.close()
            raise
        await session.close()

    async def aclose(self) -> None:
        """Let go of the slot, after :meth:`batches` was cancelled or closed."""
        if self._kept is not None:
            await self._kept.close()
            self._kept = None

    async def _attach(self, session: SlotSession) -> Gap | None:
        """Have the slot; return what was missed since the last time, if anything was."""
        self._publication = await self._read_publication()
        start, is_new = await session.attach(temporary=self._temporary)
        stream = await session.identity(self._name)
        self._stream = stream
        self._decoder = Wal2JsonDecoder(stream)
        logger.info("polling slot %r, publication %r, from %s", self._slot, self._name, start)
        reason = self._gap_reason(stream, start, is_new)
        is_first = self._advanced is None
        self._stats = attrs.evolve(
            self._stats,
            connected=True,
            reconnects=self._stats.reconnects + (not is_first),
            gaps=self._stats.gaps + (reason is not None),
            confirmed_lsn=start,
        )
        self.attached.set()
        self._advanced = start
        if reason is None:
            return None
        logger.error("changes may be lost: %s, after %s", reason.value, self._last)
        gap = Gap(self._last, Position(start, 0, stream), reason)
        if reason is GapReason.OTHER_CLUSTER:
            self._last = None
        return gap

    def _gap_reason(self, stream: StreamIdentity, start: LSN, is_new: bool) -> GapReason | None:
        if self._advanced is None:
            return None
        if self._last is not None and self._last.stream != stream:
            return GapReason.OTHER_CLUSTER
        if is_new:
            return GapReason.TEMPORARY_SLOT if self._temporary else GapReason.SLOT_MISSING
        return GapReason.SLOT_MOVED if start > self._advanced else None

    async def _poll(self, session: SlotSession) -> AsyncGenerator[Batch, None]:
        """Read once, and advance the slot when what was read has been handed over."""
        self._is_behind = False
        flush = await session.flush_lsn()
        self._note(received_lsn=flush)
        if flush == self._advanced:
            return
        publication = self._publication
        if publication is None or publication.is_empty:
            # Nothing will be read that could show that it has tables by now.
            publication = self._publication = await self._read_publication()
        done = self._advanced or LSN()
        is_cut = False
        if not publication.is_empty:
            limit = self._read_at_once
            options = {**_OPTIONS, **publication.options()}
            count = 0
            async with (
                contextlib.aclosing(
                    session.peek(flush, limit, options, chunk=self._limit)
                ) as texts,
                contextlib.aclosing(_chunks(texts, self._limit, self._decoder)) as chunks,
            ):
                async for events, size in chunks:
                    count += size
                    if not await self._settle(events):
                        # Tables have joined the publication: they may be in what is left.
                        is_cut = True
                        # The transaction begins again, and may not have come to its end.
                        self._decoder = Wal2JsonDecoder(self._stream, successor_of=self._decoder)
                        break
                    batch = self._batch(events)
                    if batch.reads:
                        yield batch
                    for event, _ in events:
                        if isinstance(event, Commit):
                            done = max(done, event.end_lsn)
                            self._note(transactions=self._stats.transactions + 1)
            is_cut = is_cut or count >= limit
            self._read_at_once = min(limit * 2, self._limit * _MOST_READ) if is_cut else self._limit
        if not is_cut:
            done = max(flush, done)
        await session.advance(done)
        self._advanced = done
        self._is_behind = is_cut
        self._note(confirmed_lsn=done)

    def _batch(self, events: Sequence[tuple[_Decoded, int]]) -> Batch:
        """Take the changes that are new: after a lost connection some come again."""
        reads = []
        received = 0
        for event, size in events:
            received += size
            if not isinstance(event, Insert | Update | Delete):
                continue
            position = event.position
            if event.relation.schema == OWN_SCHEMA or (
                self._last is not None and position <= self._last
            ):
                continue
            self._last = position
            reads.append(Read(event, size))
        self._note(
            changes=self._stats.changes + len(reads),
            bytes_received=self._stats.bytes_received + received,
        )
        return Batch(tuple(reads))

    async def _settle(self, events: Sequence[tuple[_Decoded, int]]) -> bool:
        """Wait until others see what the transactions did.

        Returns:
            Whether wal2json has written all that is published of them.
        """
        xids = {event.transaction.xid for event, _ in events if isinstance(event, Begin)}
        async with self._connections.one() as connection:
            await _settled(connection, xids)
            former, now = self._publication, await read_publication(connection, self._name)
            self._publication = now
        if former is None or now == former or now.tables is None:
            return True
        # Within a transaction it is too late to begin again.
        starts = bool(events) and isinstance(events[0][0], Begin)
        return not starts or (former.tables is not None and now.tables <= former.tables)

    async def _read_publication(self) -> Publication:
        async with self._connections.one() as connection:
            return await read_publication(connection, self._name)

    def _note(self, **changes: Any) -> None:
        stats = attrs.evolve(self._stats, **changes)
        lag = max(stats.received_lsn - stats.confirmed_lsn, 0)
        self._stats = attrs.evolve(stats, lag_bytes=lag)


async def _chunks(
    texts: AsyncIterator[list[str]], limit: int, decoder: Wal2JsonDecoder
) -> AsyncGenerator[tuple[list[tuple[_Decoded, int]], int], None]:
    """Decode, and divide at the ends of transactions, unless a large one takes too much.

    Yields:
        Events, each with its text's size, and the number of texts.
    """
    events: list[tuple[_Decoded, int]] = []
    size = 0
    async for some in texts:
        for text in some:
            for event in decoder.feed(text):
                events.append((event, len(text)))
            size += len(text)
            is_end = isinstance(events[-1][0], Commit) and len(events) >= limit
            if is_end or len(events) >= limit * _CHUNK_LIMITS or size > _CHUNK_BYTES:
                yield events, len(events)
                events, size = [], 0
    if events:
        yield events, len(events)


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
