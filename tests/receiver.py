"""An HTTP server that receives webhooks as a test says, on a socket of its own."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

import attrs
import h11
import orjson

from tests.waiting import eventually

__all__ = ["Received", "Receiver", "Reply"]


@attrs.frozen
class Received:
    """A request."""

    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def records(self, column: str = "id") -> list[str]:
        """One column of the new rows, in order."""
        return [change["record"][column] for change in self.json["changes"]]


@attrs.frozen
class Reply:
    """What the receiver answers.

    Attributes:
        status: of the answer.
        headers: besides its length.
        body: of the answer.
        is_silent: says nothing until the client has gone, or the receiver is closed.
        hangs_up: closes the connection instead of an answer.
    """

    status: int = 200
    headers: Mapping[str, str] = attrs.field(factory=dict)
    body: bytes = b"ok"
    is_silent: bool = False
    hangs_up: bool = False


class Receiver:
    """Answers each request with the next of the replies that it was told, else with 200.

    Args:
        reply: what is answered when no other reply was told.
        context: for TLS.
        port: 0 for any free one.
    """

    def __init__(
        self,
        reply: Reply | Callable[[Received], Reply] = Reply(),
        *,
        context: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> None:
        self.requests: list[Received] = []
        """Those that came, in order, answered or not."""
        self.taken: list[Received] = []
        """Those that were answered with a status of success."""
        self.connections = 0
        self.at_once = 0
        """How many requests were under way at a time, at most."""
        self.next: deque[Reply] = deque()
        self.reply = reply
        self._context = context
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = port

    @property
    def url(self) -> str:
        if self._context is None:
            return f"http://127.0.0.1:{self.port}/hook"
        return f"https://localhost:{self.port}/hook"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._context
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def receives(self, count: int, *, within: float = 30) -> list[Received]:
        """Wait for so many requests in all; return them."""
        await eventually(lambda: len(self.requests) >= count, within=within)
        return self.requests

    async def takes(self, count: int, *, within: float = 30) -> list[Received]:
        """Wait until so many were answered with success; return them."""
        await eventually(lambda: len(self.taken) >= count, within=within)
        return self.taken

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        connection = h11.Connection(h11.SERVER)
        try:
            while await self._answer_one(connection, reader, writer):
                connection.start_next_cycle()
        except (ConnectionError, asyncio.CancelledError, h11.RemoteProtocolError):
            pass
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _answer_one(
        self, connection: h11.Connection, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        request, body = None, b""
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(await reader.read(65536))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                break
            else:
                return False
        assert request is not None
        headers = {name.decode(): value.decode("latin-1") for name, value in request.headers}
        received = Received(request.target.decode(), headers, body)
        self.requests.append(received)
        self._under_way += 1
        self.at_once = max(self.at_once, self._under_way)
        try:
            return await self._reply(connection, received, reader, writer)
        finally:
            self._under_way -= 1

    async def _reply(
        self,
        connection: h11.Connection,
        received: Received,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> bool:
        default = self.reply
        if self.next:
            reply = self.next.popleft()
        else:
            reply = default if isinstance(default, Reply) else default(received)
        if reply.hangs_up:
            return False
        if reply.is_silent:
            await reader.read()
            return False
        head = [("content-length", str(len(reply.body))), *reply.headers.items()]
        parts = (
            h11.Response(status_code=reply.status, headers=head),
            h11.Data(data=reply.body),
            h11.EndOfMessage(),
        )
        if 200 <= reply.status < 300:
            self.taken.append(received)
        writer.write(b"".join(connection.send(part) or b"" for part in parts))
        await writer.drain()
        return connection.our_state is not h11.MUST_CLOSE
