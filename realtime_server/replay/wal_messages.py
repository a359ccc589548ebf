"""WalMessages: writes logical messages into the database's WAL.

They are not transactional: they are there although nothing is committed, every consumer that asks
for messages gets them in the order of the WAL, and no table is needed. Every role may write them.
PostgreSQL writes them to its disk within a second or so, or at once if that is asked for.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection

from realtime_core import LSN
from realtime_core.errors import SourceError
from realtime_core.sources.failures import one_line

from ..config.database.connections import Dsn, connect

__all__ = ["WalMessages"]

_CAN_FLUSH: Final = 170000
"""The first version of PostgreSQL that takes the argument ``flush``."""
_EMIT: Final = "SELECT 1 FROM pg_logical_emit_message(false, %s, %s::bytea)"
_EMIT_AND_FLUSH: Final = "SELECT 1 FROM pg_logical_emit_message(false, %s, %s::bytea, true)"
_END: Final = """
    SELECT CASE WHEN pg_is_in_recovery() THEN 0 ELSE pg_current_wal_insert_lsn() - '0/0' END
"""
_ORIGIN: Final = """
    SELECT (SELECT system_identifier FROM pg_control_system()),
           CASE WHEN pg_is_in_recovery() THEN NULL ELSE
               ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::int8
           END
"""
_COMMIT: Final = "SELECT 1 FROM pg_current_xact_id()"
"""Commits a transaction, which PostgreSQL waits for until all WAL before it is on the disk."""


class WalMessages:
    """Writes messages over a connection of its own, which is opened when it is needed.

    Args:
        dsn: returns the connection string, with the server's role.
        prefix: of the messages.
    """

    def __init__(self, dsn: Dsn, prefix: str) -> None:
        self._dsn = dsn
        self._prefix = prefix
        self._connection: AsyncConnection[Any] | None = None
        self.origin: tuple[int, int] | None = None
        """The system identifier and the timeline of the server that the connection is to; None
        without one, and of a standby."""
        self.bytes = 0
        """Bytes of the messages that were written."""

    async def write(self, messages: Iterable[bytes], *, flush: bool = False) -> None:
        """Write messages in their order.

        Args:
            messages: their contents.
            flush: whether to wait until they are on the disk.

        Raises:
            SourceError: if they cannot be written; some may have been.
        """
        try:
            connection = await self.connected()
            last = connection.info.server_version >= _CAN_FLUSH
            for content in messages:
                await connection.execute(
                    _EMIT_AND_FLUSH if flush and last else _EMIT, [self._prefix, content]
                )
                self.bytes += len(content)
            if flush and not last:
                await connection.execute(_COMMIT)
        except psycopg.Error as exc:
            await self.aclose()
            if isinstance(exc, psycopg.errors.InsufficientPrivilege):
                raise SourceError(
                    "the role may not execute pg_logical_emit_message(boolean, text, bytea): "
                    "grant that, or set REPLAY_WAL_MB=0"
                ) from exc
            raise SourceError(f"no messages can be written ({one_line(exc)})") from exc
        except asyncio.CancelledError:
            # The server may be in the midst of a statement.
            await self.aclose()
            raise

    async def wal_end(self) -> LSN:
        """Return where the WAL ends now; 0 on a standby, which writes none.

        Raises:
            SourceError: if the database cannot be asked.
        """
        try:
            connection = await self.connected()
            ((end,),) = await (await connection.execute(_END)).fetchall()
        except psycopg.Error as exc:
            await self.aclose()
            raise SourceError(f"the end of the WAL is not known ({one_line(exc)})") from exc
        return LSN(int(end))

    async def connected(self) -> AsyncConnection[Any]:
        """Return the connection, which is opened if there is none.

        Raises:
            SourceError: if it cannot be opened.
        """
        if self._connection is None or self._connection.closed:
            connection = await connect(await self._dsn(), name="replay journal")
            try:
                # It may wait for long, and must not wait for standbys.
                for setting in ("statement_timeout = 0", "synchronous_commit = local"):
                    await connection.execute(f"SET {setting}".encode())
                ((system, timeline),) = await (await connection.execute(_ORIGIN)).fetchall()
            except BaseException as exc:
                await connection.close()
                if isinstance(exc, psycopg.Error):
                    raise SourceError(f"no messages can be written ({one_line(exc)})") from exc
                raise
            self._connection = connection
            self.origin = None if timeline is None else (int(system), int(timeline))
        return self._connection

    async def aclose(self) -> None:
        """Close the connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(psycopg.Error):
                await connection.close()
