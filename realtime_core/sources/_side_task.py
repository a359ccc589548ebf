"""SideTask: what a source does again and again by SQL, beside its stream."""

from __future__ import annotations

import abc
import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final

from psycopg import AsyncConnection

from ._sessions import break_off, plain_connection
from .stream_options import Dsn

__all__ = ["SideTask"]

_SILENT: Final = 10.0
"""Seconds after which a server that does not answer is given up."""


class SideTask(abc.ABC):
    """Takes a turn, waits, and takes the next one, until it is closed.

    Args:
        dsn: the connection string, or a function that returns it.
        interval: seconds between two turns.
    """

    def __init__(self, dsn: Dsn, interval: float) -> None:
        self._dsn = dsn
        self._interval = interval
        # Takes the turns; None before :meth:`start`.
        self._task: asyncio.Task[None] | None = None
        # The connection of the turn, if it has one now.
        self._connection: AsyncConnection[Any] | None = None
        self._is_closed = False

    def start(self) -> None:
        """Begin to take turns."""
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Take no more turns. A server that does not answer is not waited for."""
        self._is_closed = True
        if self._task is None:
            return
        if self._connection is None:
            self._task.cancel()
        else:
            # psycopg would wait for the server to answer a cancellation, too.
            break_off(self._connection.pgconn)
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while not self._is_closed:
            await self._turn()
            if not self._is_closed:
                await asyncio.sleep(self._interval)

    @abc.abstractmethod
    async def _turn(self) -> None:
        """Do it once. Nobody awaits the task, so what this raises would silently end the turns."""

    @contextlib.asynccontextmanager
    async def _connected(self, slot: str) -> AsyncIterator[AsyncConnection[Any]]:
        """Open a connection for this turn.

        Args:
            slot: name of the slot that the SQL is about, for errors.

        Raises:
            SourceError: if the connection cannot be opened; or if psycopg raises an error inside of
                the ``async with`` block, as it does if the server does not answer.
        """
        async with plain_connection(self._dsn, slot) as connection:
            self._connection = connection
            loop = asyncio.get_running_loop()
            timer = loop.call_later(_SILENT, break_off, connection.pgconn)
            try:
                yield connection
            finally:
                timer.cancel()
                self._connection = None
