"""Connections to the database, single ones and pools; the slot has a connection of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType
from typing import Any, Final, Self, TypeAlias

import psycopg
from psycopg import AsyncConnection
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow, tuple_row
from psycopg_pool import AsyncConnectionPool

from realtime_core.sources.failures import connection_failed, one_line

from .. import SETTING_NAMES

__all__ = ["OWN_PATH", "Connections", "Dsn", "brief", "connect"]

OWN_PATH: Final = "SET search_path TO pg_catalog, pg_temp"
"""SQL that sets a connection's search path, where only the server's own statements run. The
database's search path may begin with a schema in which a user has made an operator or a type with
a name that these statements use."""

Dsn: TypeAlias = Callable[[], Awaitable[str]]
"""Returns a connection string. It is called for each connection, since addresses change."""


def brief(exc: psycopg.Error) -> str:
    """Describe an error for the log, without values of rows.

    PostgreSQL's messages may quote values, and users' code may write them, so the SQLSTATE stands
    for them. The driver's messages are kept.
    """
    if exc.sqlstate is not None:
        return f"{type(exc).__name__}, SQLSTATE {exc.sqlstate}"
    return f"{one_line(exc):.1000}"


async def connect(dsn: str, *, name: str, **parameters: Any) -> AsyncConnection[TupleRow]:
    """Open a connection in autocommit mode, whose search path is ``pg_catalog`` alone.

    Args:
        dsn: the connection string, with the server's role.
        name: what ``pg_stat_activity`` shows after ``realtime_server``.
        parameters: further parameters of libpq.

    Raises:
        SourceError: if the connection cannot be opened; it says why, and what to do.
    """
    try:
        connection = await AsyncConnection.connect(
            dsn,
            autocommit=True,
            row_factory=tuple_row,
            client_encoding="UTF8",
            application_name=f"realtime_server {name}",
            connect_timeout=10,
            **parameters,
        )
        try:
            await connection.execute(OWN_PATH)
        except BaseException:
            await connection.close()
            raise
    except psycopg.Error as exc:
        raise connection_failed(exc, SETTING_NAMES) from exc
    return connection


class Connections:
    """A pool of connections in autocommit mode, to be used as a context manager.

    Args:
        dsn: returns the connection string, with the server's role.
        name: what ``pg_stat_activity`` shows after ``realtime_server``.
        size: how many connections the pool may have.
        settings: SQL that is run on each new connection.
        prepares: whether statements that are run often are prepared.
    """

    def __init__(
        self, dsn: Dsn, *, name: str, size: int, settings: str = "", prepares: bool = True
    ) -> None:
        async def conninfo() -> str:
            return make_conninfo(
                await dsn(), application_name=f"realtime_server {name}", client_encoding="UTF8"
            )

        async def configure(connection: AsyncConnection[Any]) -> None:
            if not prepares:
                connection.prepare_threshold = None
            if settings:
                await connection.execute(settings.encode())

        self._pool = AsyncConnectionPool(
            conninfo,
            connection_class=AsyncConnection[TupleRow],
            open=False,
            min_size=0,
            max_size=size,
            kwargs={"autocommit": True, "row_factory": tuple_row},
            configure=configure,
            name=f"rls {name}",
        )

    async def __aenter__(self) -> Self:
        await self._pool.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._pool.close(timeout=1.0)

    @asynccontextmanager
    async def one(self, *, within: float = 30.0) -> AsyncIterator[AsyncConnection[TupleRow]]:
        """Take a connection from the pool, and give it back at the end of the block.

        Args:
            within: how many seconds to wait for a free one.

        Raises:
            psycopg.OperationalError: if none is free in time, or if the connection was lost.
        """
        async with self._pool.connection(timeout=within) as connection:
            # If a cancellation arrives together with the connection, the pool swallows it and
            # returns the connection, so a task that runs for ever would not end.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
            try:
                yield connection
            except psycopg.errors.InvalidSqlStatementName as exc:
                # A user's code, such as a type's check, may run DEALLOCATE ALL, which no rollback
                # undoes.
                await connection.close()
                raise psycopg.OperationalError(
                    "the session has lost its prepared statements; functions that policies and "
                    "types call must not run DEALLOCATE"
                ) from exc

    async def renew(self) -> None:
        """Close all connections and make new ones, since another server has the database now."""
        await self._pool.drain()

    async def terminate(self, pid: int) -> None:
        """End a session whose connection is closed, as what runs in it may catch cancellations.

        Args:
            pid: the session's process on the database's server.

        Raises:
            psycopg.OperationalError: if the database cannot be asked.
        """
        async with self.one() as connection:
            await connection.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [pid])
