"""A TCP proxy between a client and PostgreSQL, which tests can cut and redirect."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from psycopg.conninfo import conninfo_to_dict

__all__ = ["Proxy"]

_PIECE = 64 * 1024


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes bytes on, both ways."""

    def __init__(self) -> None:
        self._target = ("127.0.0.1", 0)
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def lead_to(self, dsn: str) -> None:
        """Lead new connections to this server."""
        parameters = conninfo_to_dict(dsn)
        self._target = (str(parameters["host"]), int(str(parameters["port"])))

    def cut(self) -> None:
        """Break every connection."""
        for task in self._connections:
            task.cancel()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            back, forth = await asyncio.open_connection(*self._target)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(_pass_on(reader, forth))
                    group.create_task(_pass_on(back, writer))
            finally:
                forth.transport.abort()
        except (asyncio.CancelledError, OSError, ExceptionGroup):
            pass
        finally:
            writer.transport.abort()
            self._connections.discard(task)


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(_PIECE):
        target.write(data)
        await target.drain()
    raise ConnectionResetError
