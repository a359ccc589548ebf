"""CopyOut: reads what COPY TO STDOUT writes, many rows at a time.

PostgreSQL sends each row as a message of its own. psycopg's cursor returns one message at a time,
and waits for each as if it were the first; here all that have come are taken at once (see
:mod:`~realtime_core.sources._copy_data`). While nobody reads, the bytes stay in the socket, and TCP
holds the server back.

``psycopg.generators`` is not a documented interface of psycopg; the integration tests show whether
it still does what this module needs.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection, generators
from psycopg.pq import ExecStatus

from .._implementation import IMPLEMENTATION
from .._text import one_line
from ..errors import SourceError
from ._copy_data import taker

__all__ = ["CopyOut"]

_NOT_UTF8: Final = ("22021", "22P05")
"""SQLSTATEs for text that is not in the database's encoding, or that UTF-8 cannot have."""
_BYTES: Final = 64 * 1024
"""A read returns when it has so many bytes, if not before."""
_READS: Final = 4 if IMPLEMENTATION == "c" else 0
"""How many times a read asks the socket for more at most, 16 KB or more each time. In Python more
is slower: the garbage collector looks at the objects of more rows, and more often."""


class CopyOut:
    """One COPY TO STDOUT.

    Args:
        connection: a connection on which nothing else happens until the end of the rows.
        table: the name of the table whose rows they are, for errors.
    """

    def __init__(self, connection: AsyncConnection[Any], table: str) -> None:
        self._connection = connection
        self._pgconn = connection.pgconn
        self._take = taker(connection.pgconn)
        self._loop = asyncio.get_running_loop()
        self._table = table
        self._is_over = False

    async def start(self, statement: str) -> None:
        """Start the statement.

        Raises:
            psycopg.Error: if the server refuses it.
        """
        self._pgconn.send_query(statement.encode())
        results = await self._connection.wait(generators.execute(self._pgconn))
        if results[-1].status != ExecStatus.COPY_OUT:
            raise psycopg.errors.error_from_result(results[-1])

    async def read(self) -> bytes:
        """Wait for rows, and return those that have come; nothing at the end.

        Raises:
            psycopg.Error: if the statement has failed, or the connection was lost.
            SourceError: if a row has text that is not UTF-8.
        """
        rows: list[bytes] = []
        reads = 0
        while not self._is_over:
            known = len(rows)
            status = self._take(rows, _BYTES)
            if status < 0:
                self._is_over = True
            elif rows and (status > 0 or reads == _READS):
                break
            elif len(rows) > known:
                # libpq takes no more than its buffer holds, and there may be more.
                self._pgconn.consume_input()
                reads += 1
            elif rows:
                break
            else:
                await self._more()
        if not rows:
            await self._end()
        return b"".join(rows)

    async def _end(self) -> None:
        results = await self._connection.wait(generators.fetch_many(self._pgconn))
        for result in results:
            if result.status == ExecStatus.FATAL_ERROR:
                error = psycopg.errors.error_from_result(result)
                if error.sqlstate in _NOT_UTF8:
                    raise self._not_utf8(error) from error
                raise error

    def _not_utf8(self, cause: psycopg.Error) -> SourceError:
        error = SourceError(
            f"a row of {self._table} has text that cannot be sent as UTF-8 ({one_line(cause)}): "
            "correct it (pg_dump --encoding=UTF8 fails at the first such text), or have a column "
            "list of the publication leave the column out"
        )
        error.sqlstate = cause.sqlstate
        return error

    async def _more(self) -> None:
        """Wait until the socket has something, and let libpq take it."""
        ready = self._loop.create_future()
        descriptor = self._pgconn.socket
        self._loop.add_reader(descriptor, _resume, ready)
        try:
            await ready
        finally:
            self._loop.remove_reader(descriptor)
        self._pgconn.consume_input()


def _resume(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)
