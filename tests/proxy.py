"""A TCP proxy between a client and PostgreSQL, which tests can cut, stall, slow and redirect."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

__all__ = ["Proxy"]

_PIECE = 64 * 1024


class Proxy:
    """Listens on a free port of 127.0.0.1 and passes bytes on, both ways.

    What it is told concerns the connections of now and later ones, until it is told otherwise.
    """

    def __init__(self) -> None:
        self._target = ("127.0.0.1", 0)
        self._connections: set[asyncio.Task[None]] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._until_cut: int | None = None
        self.until_stall: int | None = None
        """How many bytes are still passed on to clients; None: without end, or nothing any more."""
        self.port = 0
        self.refusing = False
        """Whether new connections are closed at once."""
        self.piece = _PIECE
        """How many bytes pass at a time, with a turn of the event loop in between."""

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

    def lead_to(self, dsn: str) -> str:
        """Lead new connections to this server; return a DSN that goes through the proxy."""
        parameters = conninfo_to_dict(dsn)
        self._target = (str(parameters["host"]), int(str(parameters["port"])))
        return make_conninfo(dsn, host="127.0.0.1", port=self.port)

    @property
    def connections(self) -> int:
        """How many connections there are now."""
        return len(self._connections)

    def cut(self) -> None:
        """Break every connection."""
        for task in self._connections:
            task.cancel()

    def cut_after(self, count: int) -> None:
        """Break every connection when the server has sent so many more bytes, to all together."""
        self._until_cut = count

    @property
    def will_cut(self) -> bool:
        """Whether :meth:`cut_after` has not happened yet."""
        return self._until_cut is not None

    def stall(self) -> None:
        """Pass nothing on, without a word, until :meth:`flow`."""
        self._flowing.clear()

    def stall_later(self, count: int) -> None:
        """Do so when the server has sent so many more bytes, to all together."""
        self.until_stall = count

    @property
    def is_stalled(self) -> bool:
        """Whether nothing passes."""
        return not self._flowing.is_set()

    def flow(self) -> None:
        """Pass on what was stalled."""
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            if self.refusing:
                return
            back, forth = await asyncio.open_connection(*self._target)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._pass_on(reader, forth, to_client=False))
                    group.create_task(self._pass_on(back, writer, to_client=True))
            finally:
                forth.transport.abort()
        except (asyncio.CancelledError, OSError, ExceptionGroup):
            pass
        finally:
            writer.transport.abort()
            self._connections.discard(task)

    async def _pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, *, to_client: bool
    ) -> None:
        while data := await source.read(self.piece):
            if to_client and self.until_stall is not None:
                self.until_stall -= len(data)
                if self.until_stall <= 0:
                    self.until_stall = None
                    self.stall()
            await self._flowing.wait()
            if to_client and self._until_cut is not None:
                if len(data) >= self._until_cut:
                    target.write(data[: self._until_cut])
                    # What was written is to arrive; then nothing more.
                    await target.drain()
                    self._until_cut = None
                    await asyncio.sleep(0)
                    self.cut()
                    return
                self._until_cut -= len(data)
            target.write(data)
            await target.drain()
        raise ConnectionResetError
