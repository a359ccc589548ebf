"""Backfills: read tables in chunks of their keys, and hand the rows over within the stream.

A chunk is read by a connection of its own while the stream goes on. Then a logical message is
written, whose place in the log is behind every transaction that the chunk's snapshot sees. Once
the stream has come there, the chunk is brought up to that place and handed over, between two
transactions: see :mod:`realtime_core.snapshot.chunk`.

Before the first chunk, those transactions have to end that were writing to the table when the
stream's changes began to be looked at. One of them may have been handed over already, and still be
invisible to snapshots. ``CREATE INDEX CONCURRENTLY`` waits for them, too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

import attrs
import psycopg
from psycopg import AsyncConnection

from ..errors import ConfigError, SourceError
from ..lsn import LSN
from ..records import Record
from ..snapshot import BackfillStep, Snapshot, SnapshotEvent, SnapshotProgress
from ..snapshot.chunk import ChunkMerger
from ..snapshot.tables import CopiedTable
from ._backoff import Backoff
from ._chunk_reader import ChunkReader, check_backfill, streamed_tables
from ._copied_tables import writers
from ._filtering import RowFilter
from ._history import StreamHistory
from ._plugin import PluginFacts
from ._postgres_errors import translate
from ._sessions import copying_connection
from .stream_options import StreamSettings

__all__ = ["Backfills", "Request"]

logger = logging.getLogger("realtime.source")

_PAUSE: Final = 0.05
"""Seconds between two checks whether writers have ended."""
_MENTION: Final = 100
"""After how many such checks a log line says that there are some."""
_LONGEST_PAUSE: Final = 1.0
"""The most seconds between two questions to the server how far it has come."""
_MESSAGE: Final = b"""
    SELECT (pg_catalog.pg_logical_emit_message(true, 'realtime-core:backfill', '')
            OPERATOR(pg_catalog.-) '0/0')::pg_catalog.int8
"""


@attrs.define
class Request:
    """A backfill that was asked for."""

    reader: ChunkReader
    where: str | None
    chunk_rows: int
    after: tuple[str, ...]
    """The key behind which to go on; it moves with each chunk."""
    rows: int = 0
    bytes: int = 0

    @property
    def table(self) -> CopiedTable:
        """The table as it was when the last chunk was read."""
        return self.reader.table


class Backfills:
    """The backfills of a source, one after the other.

    Args:
        settings: the source's settings.
        plugin: the output plugin.
        history: what was taken from the slot so far.
        random: yields the random numbers for delays.
        row_filter: the source's filter; None if it has none.
        nudge: asks the server how far it has come, which wakes a waiting read.
    """

    def __init__(
        self,
        settings: StreamSettings,
        plugin: PluginFacts,
        history: StreamHistory,
        random: Random,
        row_filter: RowFilter | None,
        nudge: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._plugin = plugin
        self._history = history
        self._backoff = Backoff(*settings.backoff, random)
        self._filter = row_filter
        self._nudge = nudge
        self._requests: deque[Request] = deque()
        self._task: asyncio.Task[None] | None = None
        self._connection: AsyncConnection[Any] | None = None
        # Brings the chunk under way up to date; None outside of a backfill.
        self._merger: ChunkMerger | None = None
        # Where the stream has to be for the chunk to be handed over; None while it is read.
        self._due: LSN | None = None
        self._sequence = history.sequence
        # The texts of the last key of the chunk, and whether it was the last chunk.
        self._end: tuple[str, ...] = ()
        self._was_last = False
        # Whether all chunks were handed over.
        self._is_end = False
        # The keys of rows that are read by themselves, when there are no more chunks.
        self._keys: list[tuple[str, ...]] = []
        # Whether all rows were handed over.
        self._is_done = False
        self._handed_over = asyncio.Event()
        # Why a backfill has failed, until a read raises it.
        self._error: Exception | None = None

    async def add(
        self, name: str, *, where: str | None, after: tuple[str, ...], chunk_rows: int
    ) -> None:
        """Check a backfill, and have it run behind those that were added before.

        Raises:
            ConfigError: if the table cannot be backfilled, or is not streamed.
            SourceError: if the server cannot be asked.
        """
        connection = await self._connect()
        try:
            tables = await streamed_tables(connection, self._plugin)
        except psycopg.Error as exc:
            raise translate(exc, self._settings.slot or "") from exc
        finally:
            connection.pgconn.finish()
        table = next((each for each in tables if str(each.relation) == name), None)
        if table is None:
            raise ConfigError(
                f"a backfill of {name!r} is not possible: the stream does not have the table; "
                "name it as schema.table, and add it to the publication"
            )
        check_backfill(table, after)
        reader = ChunkReader(self._plugin, table)
        self._requests.append(Request(reader, where, chunk_rows, after))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    async def _connect(self) -> AsyncConnection[Any]:
        settings = self._settings
        return await copying_connection(
            settings.dsn, settings=self._plugin.session_settings, names=settings.setting_names
        )

    async def _run(self) -> None:
        try:
            while self._requests:
                request = self._requests[0]
                if self._merger is None:
                    self._is_end = self._is_done = False
                    self._merger = ChunkMerger(request.table)
                    self._history.watch = self._merger.see
                try:
                    await self._backfill(request, self._merger)
                except SourceError as exc:
                    if not (exc.transient or self._settings.persistent):
                        raise
                    delay = self._backoff.next()
                    logger.warning(
                        "the backfill of %s was interrupted: %s; going on in %.1f s",
                        *(request.table.relation, exc, delay),
                    )
                    await asyncio.sleep(delay)
                else:
                    self._requests.popleft()
                    self._merger = self._history.watch = None
        except Exception as exc:
            self._requests.clear()
            self._merger = self._history.watch = None
            self._error = exc
            self._nudge()

    async def _backfill(self, request: Request, merger: ChunkMerger) -> None:
        try:
            self._connection = connection = await self._connect()
            await self._wait_for_writers(connection, request.table)
            merger.forget()
            while not self._is_done:
                await self._read(connection, request, merger)
                self._due = LSN((await _row(connection, _MESSAGE))[0])
                await self._wait_until_handed_over()
                self._backoff.reset()
        except psycopg.Error as exc:
            raise translate(exc, self._settings.slot or "") from exc
        finally:
            self._due = None
            if self._connection is not None:
                self._connection.pgconn.finish()
                self._connection = None

    async def _wait_for_writers(self, connection: AsyncConnection[Any], table: CopiedTable) -> None:
        left = await writers(connection, table.oid)
        checks = 0
        while left:
            checks += 1
            if checks % _MENTION == 0:
                logger.warning(
                    "the backfill of %s waits for write transactions to end: %s",
                    *(table.relation, ", ".join(f"PID {pid}" for pid in sorted(left.values()))),
                )
            await asyncio.sleep(_PAUSE)
            now = await writers(connection, table.oid)
            left = {writer: pid for writer, pid in left.items() if writer in now}

    async def _read(
        self, connection: AsyncConnection[Any], request: Request, merger: ChunkMerger
    ) -> None:
        """Read the next chunk, in a snapshot of its own."""
        self._handed_over.clear()
        self._sequence = self._history.sequence
        merger.begin()
        # Many rows may have to be read by themselves, so they come in pieces, too.
        keys = [tuple(map(str, key)) for key in merger.missed] if self._is_end else []
        self._keys = keys[: request.chunk_rows]
        chunk = await request.reader.read(
            connection,
            where=request.where,
            after=() if self._keys else request.after,
            limit=request.chunk_rows,
            keys=self._keys,
        )
        rows = chunk.rows
        self._end, self._was_last = request.after, self._is_end or len(rows) < request.chunk_rows
        if rows and not self._keys:
            self._end = request.reader.key_of(rows[-1])
        request.rows += len(rows)
        request.bytes += chunk.bytes
        merger.table = request.table
        merger.read(rows, chunk.seen)

    async def _wait_until_handed_over(self) -> None:
        pause = _PAUSE
        while not self._handed_over.is_set():
            self._nudge()
            try:
                async with asyncio.timeout(pause):
                    await self._handed_over.wait()
            except TimeoutError:
                pause = min(pause * 2, _LONGEST_PAUSE)

    def hand_over(self, queue: deque[Any]) -> None:
        """Put the chunk's rows into the queue if the stream has come to their place.

        The stream has to be between two transactions.

        Raises:
            SourceError: if a backfill has failed.
        """
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        merger, due = self._merger, self._due
        if merger is None or due is None or self._history.sequence.progress.written < due:
            return
        self._due = None
        request = self._requests[0]
        if merger.is_stale or self._sequence is not self._history.sequence:
            logger.info("a chunk of %s has to be read again", request.table.relation)
            request.reader.forget()
        else:
            merger.found(self._keys)
            self._is_end = self._was_last
            self._is_done = self._is_end and not merger.missed
            queue.extend(self._events(request, merger))
            request.after = self._end
        self._handed_over.set()

    def _events(self, request: Request, merger: ChunkMerger) -> list[SnapshotEvent]:
        relation, estimate = request.table.relation, request.table.estimate
        progress = SnapshotProgress(
            *(relation, request.rows, estimate, request.rows, request.bytes, estimate),
            *(int(self._is_done), 1),
        )
        records = [Record(relation.shape, fields) for fields in merger.take()]
        if self._filter is not None:
            records = [each for each in records if self._filter.passes_row(relation, each)]
        events: list[SnapshotEvent] = [Snapshot(relation, each, progress) for each in records]
        events.append(BackfillStep(relation, self._end, self._is_done, progress))
        if self._settings.snapshot_progress is not None:
            self._settings.snapshot_progress(progress)
        return events

    async def aclose(self) -> None:
        """End the backfill that is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)


async def _row(
    connection: AsyncConnection[Any], query: bytes, parameters: Sequence[object] | None = None
) -> Any:
    return await (await connection.execute(query, parameters)).fetchone()
