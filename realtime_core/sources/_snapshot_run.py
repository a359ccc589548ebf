"""SnapshotRun: copies tables as they were at the consistent point of a new temporary slot.

Theory of operation. The command that creates a slot exports a snapshot. Its session keeps the
temporary slot, and with it the WAL from the snapshot on. Other sessions use the snapshot: each
copies one table after the other. The first one locks all tables in ACCESS SHARE mode, because a
table that is rewritten by ALTER TABLE, or truncated, is empty for older snapshots. What happened to
them between the snapshot and the lock is found out by their files and names, and what happened to
publications by the catalog as it is then.
"""

from __future__ import annotations

import asyncio
from collections import deque
from random import Random
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.sql import SQL, Literal

from ..errors import SourceError
from ..lsn import LSN
from ..positions import Position
from ..snapshot import Snapshot, SnapshotBegin, SnapshotComplete, SnapshotProgress
from ..snapshot.row_events import row_events
from ..snapshot.tables import CopiedTable
from . import catalog
from ._attach import SnapshotNeeded, SnapshotOrigin
from ._copied_tables import altered_tables, describe, publications_state
from ._copy_out import CopyOut
from ._plugin import PluginFacts
from ._postgres_errors import translate
from ._sessions import copying_connection, plain_connection
from ._slot_checks import log_when_slow
from ._snapshot_age import SnapshotAge
from ._snapshot_slot import SnapshotSlot
from .stream_options import StreamSettings

__all__ = ["SnapshotRun", "SnapshotSpoiledError"]

# A table was dropped or altered before it was locked, or somebody locks tables in another order.
_PASSING: Final = (
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
    psycopg.errors.DeadlockDetected,
)
_AHEAD: Final = 2
"""How many pieces of rows each connection may have read ahead."""


class SnapshotSpoiledError(SourceError):
    """Somebody altered the tables before they were locked, so another snapshot has to be taken."""

    transient = True


class SnapshotRun:
    """One snapshot.

    Args:
        settings: the source's settings.
        plugin: the output plugin.
        needed: why it is taken, and what is known of the server.
        random: yields the random numbers for the temporary slot's name.
    """

    def __init__(
        self,
        settings: StreamSettings,
        plugin: PluginFacts,
        needed: SnapshotNeeded,
        random: Random,
    ) -> None:
        self._settings = settings
        self._plugin = plugin
        self._needed = needed
        # The name of the temporary slot.
        self._slot = f"realtime_{random.getrandbits(64):016x}"
        # The consistent point of the slot.
        self._lsn = LSN(0)
        # Keeps the temporary slot.
        self._held: SnapshotSlot | None = None
        # Ends the snapshot when it gets too old.
        self._age = SnapshotAge(settings.snapshot_timeout, self._how_far, self._fail)
        # Why the snapshot has ended early.
        self._failure: SourceError | None = None
        # Copy the tables.
        self._connections: list[AsyncConnection[Any]] = []
        self._tasks: list[asyncio.Task[None]] = []
        # Pieces of rows; an error; or None when a connection has no more to copy.
        self._pieces: asyncio.Queue[list[Snapshot] | Exception | None] = asyncio.Queue()
        # The tables that no connection has begun to copy.
        self._left: deque[CopiedTable] = deque()
        # What was copied so far.
        self._rows = self._bytes = self._tables_done = self._tables = 0
        self._estimate: int | None = 0
        self.enums: dict[tuple[str, str], tuple[str, ...]] = {}
        """The labels of enum types in their declared order, by schema and name."""

    @property
    def origin(self) -> SnapshotOrigin:
        """The slot behind whose snapshot the stream begins."""
        return SnapshotOrigin(self._slot, self._lsn)

    async def begin(self) -> SnapshotBegin:
        """Take the snapshot, and begin to copy.

        Raises:
            SourceError: if that fails.
        """
        try:
            return await self._begin()
        except psycopg.Error as exc:
            raise _error(exc, self._slot) from exc

    async def _begin(self) -> SnapshotBegin:
        settings = self._settings
        self._held = held = await SnapshotSlot.make(settings, self._plugin, self._slot)
        self._lsn, snapshot = held.lsn, held.snapshot
        self._age.start()
        async with self._age.within():
            first = await self._connect(snapshot)
            tables = await log_when_slow(
                self._lock_tables(first),
                dsn=settings.dsn,
                name=self._slot,
                pid=first.info.backend_pid,
                is_lock=True,
            )
            self.enums = await catalog.enum_orders(first)
            for _ in range(min(settings.snapshot_connections, len(tables)) - 1):
                await self._connect(snapshot)
            await held.release(self._fail)
        self._left.extend(tables)
        self._tables = len(tables)
        estimates = [each.estimate for each in tables if each.estimate is not None]
        self._estimate = sum(estimates) if len(estimates) == len(tables) else None
        self._pieces = asyncio.Queue(_AHEAD * len(self._connections))
        self._tasks = [asyncio.create_task(self._work(each)) for each in self._connections]
        return SnapshotBegin(tuple(each.relation for each in tables), self._needed.reason)

    async def _connect(self, snapshot: str) -> AsyncConnection[Any]:
        settings = self._settings
        connection = await copying_connection(
            settings.dsn, settings=self._plugin.session_settings, names=settings.setting_names
        )
        self._connections.append(connection)
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        await connection.execute(SQL("SET TRANSACTION SNAPSHOT {}").format(Literal(snapshot)))
        return connection

    async def _lock_tables(self, connection: AsyncConnection[Any]) -> list[CopiedTable]:
        version = self._needed.facts.version
        # Newer versions wait already here for whoever alters a table.
        choices = await self._plugin.choices(connection, version)
        if self._plugin.name == "pgoutput":
            await self._check_publications(connection, version)
        tables = await describe(connection, version, choices)
        if tables:
            names = ", ".join([table.name for table in tables])
            await connection.execute(f"LOCK TABLE {names} IN ACCESS SHARE MODE".encode())
        altered = await altered_tables(connection, [table.oid for table in tables])
        if altered:
            raise _spoiled(f"{', '.join(altered)} was altered or truncated as the snapshot began")
        return tables

    async def _check_publications(self, connection: AsyncConnection[Any], version: int) -> None:
        """Check that the tables which were listed are those whose changes the stream has.

        Changes between the snapshot and the moment when a table has joined are not in the stream.
        """
        settings = self._settings
        former = await publications_state(connection, version)
        async with plain_connection(
            settings.dsn, self._slot, names=settings.setting_names
        ) as current:
            if await publications_state(current, version) != former:
                raise _spoiled("a publication was altered as the snapshot began")

    async def rows(self) -> list[Snapshot] | None:
        """Wait for rows, and return them; None when all tables are copied.

        Cancelling this loses nothing.

        Raises:
            SourceError: if the tables cannot be copied.
            DecodeError: if the server sent what cannot be decoded.
        """
        while self._tables_done < self._tables or not self._pieces.empty():
            if self._failure is not None:
                raise self._failure
            piece = await self._pieces.get()
            if isinstance(piece, Exception):
                raise piece
            if piece:
                return piece
        return None

    def _fail(self, error: SourceError) -> None:
        """End the snapshot, even if nobody reads it."""
        self._failure = error
        if self._tasks:
            self._disconnect()
        if self._pieces.empty():
            # Somebody may wait for rows.
            self._pieces.put_nowait(error)

    def _how_far(self) -> str:
        estimate = "" if self._estimate is None else f" of about {self._estimate}"
        return f"{self._rows}{estimate} rows of {self._tables} tables read"

    def complete(self) -> SnapshotComplete:
        """Return the end of the snapshot, and release the locks on its tables."""
        self._disconnect()
        # The position stands before the snapshot's LSN, where the next commit may begin.
        return SnapshotComplete(Position(LSN(self._lsn - 1), 0, self._needed.stream), self._rows)

    async def _work(self, connection: AsyncConnection[Any]) -> None:
        """Copy tables until none is left."""
        try:
            while self._left:
                await self._copy(connection, self._left.popleft())
        except psycopg.Error as exc:
            await self._pieces.put(_error(exc, self._slot))
        except Exception as exc:
            await self._pieces.put(exc)

    async def _copy(self, connection: AsyncConnection[Any], table: CopiedTable) -> None:
        copy = CopyOut(connection, str(table.relation))
        await copy.start(table.copy_statement())
        relation, count = table.relation, 0
        while data := await copy.read():
            # A newline within a field has an escape instead.
            rows = data.count(b"\n")
            count += rows
            self._rows += rows
            self._bytes += len(data)
            progress = self._progress(table, count)
            await self._pieces.put(row_events(relation, data, progress))
            self._tell(progress)
        self._tables_done += 1
        # Whoever waits for rows looks whether this was the last table.
        await self._pieces.put(None)
        self._tell(self._progress(table, count))

    def _progress(self, table: CopiedTable, count: int) -> SnapshotProgress:
        return SnapshotProgress(
            table.relation,
            count,
            table.estimate,
            self._rows,
            self._bytes,
            self._estimate,
            self._tables_done,
            self._tables,
        )

    def _tell(self, progress: SnapshotProgress) -> None:
        if self._settings.snapshot_progress is not None:
            self._settings.snapshot_progress(progress)

    def _disconnect(self) -> None:
        self._age.stop()
        for task in self._tasks:
            task.cancel()
        for connection in self._connections:
            connection.pgconn.finish()

    def close(self) -> None:
        """Close all connections; PostgreSQL then drops the temporary slot."""
        self._disconnect()
        if self._held is not None:
            self._held.close()


def _spoiled(problem: str) -> SnapshotSpoiledError:
    return SnapshotSpoiledError(f"the snapshot has to be taken again: {problem}")


def _error(exc: psycopg.Error, slot: str) -> SourceError:
    if isinstance(exc, _PASSING):
        return _spoiled(str(exc).partition("\n")[0])
    return translate(exc, slot)
