"""Connections: single ones, and a pool of those on which everything but the slot is asked."""

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
"""SQL for a connection on which only we ask. The database's own search path may begin with a
schema in which somebody has made an operator or a type of a name that our statements have."""

Dsn: TypeAlias = Callable[[], Awaitable[str]]
"""Returns a connection string; asked for each connection, since addresses change."""


def brief(exc: psycopg.Error) -> str:
    """Say what went wrong, for the log.

    PostgreSQL's own texts may quote what is in a row, and code of users may write them. They are
    not repeated; the driver's are.
    """
    if exc.sqlstate is not None:
        return f"{type(exc).__name__}, SQLSTATE {exc.sqlstate}"
    return f"{one_line(exc):.1000}"


async def connect(dsn: str, *, name: str, **parameters: Any) -> AsyncConnection[TupleRow]:
    """Open a connection in autocommit mode, with errors that say what to do.

    Its search path is PostgreSQL's own schema alone.

    Args:
        dsn: of the database, as the server's role.
        name: shown in ``pg_stat_activity`` behind ``realtime_server``.
        parameters: more of libpq's.

    Raises:
        SourceError: if it cannot be opened, saying why.
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
    """A pool of connections in autocommit mode. Use it as a context manager.

    Args:
        dsn: of the database, as the server's role.
        name: shown in ``pg_stat_activity`` behind ``realtime_server``.
        size: how many there may be.
        settings: SQL for each new one.
        prepares: whether what is asked often is prepared.
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
        """Have a connection.

        Raises:
            psycopg.OperationalError: if there is none within so many seconds, or if it is of no
                use any more.
        """
        async with self._pool.connection(timeout=within) as connection:
            # The pool answers a cancellation that comes together with the connection with the
            # connection, and whoever runs for ever would not notice.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError
            try:
                yield connection
            except psycopg.errors.InvalidSqlStatementName as exc:
                # A user's code, as a type's check, may run DEALLOCATE ALL, and no rollback undoes
                # that.
                await connection.close()
                raise psycopg.OperationalError(
                    "the session has lost its prepared statements; a function of a policy's, or "
                    "of a type's, must not run DEALLOCATE"
                ) from exc

    async def renew(self) -> None:
        """Have new connections from now on: the database has moved to another server."""
        await self._pool.drain()

    async def terminate(self, pid: int) -> None:
        """End a session whose connection is closed: what it runs may catch any cancellation.

        Raises:
            psycopg.OperationalError: if the database cannot be asked.
        """
        async with self.one() as connection:
            await connection.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [pid])
