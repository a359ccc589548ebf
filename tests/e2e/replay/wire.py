"""The network between one client and the server, which can break in each way that networks do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Final, Literal, Self

from tests.e2e.replay.frames import FrameSplitter
from tests.e2e.replay.passed import Passed

__all__ = ["End", "Side", "Wire"]

Side = Literal["client", "server"]

End = Literal["reset", "finish", "nothing"]
"""What one side of a connection is told of its end: RST, FIN, or nothing at all."""

_PIECE: Final = 64 * 1024
_FIN_PONG: Final = 0x8A
_RESET: Final = struct.pack("ii", 1, 0)
"""SO_LINGER for a close that sends RST and drops what waits."""


class Wire:
    """Listens on a free port of 127.0.0.1, and passes on what comes to a server, both ways.

    Args:
        server: gives the port to which the next connection goes.
    """

    def __init__(self, server: Callable[[], int]) -> None:
        self._server_port = server
        self._links: list[Link] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.passed: list[Passed] = []
        """What passed on each connection."""
        self.opened = 0
        """How many connections there were."""
        self.is_down = False
        """Whether new connections are reset at once."""
        self.holds_next = False
        """Whether the next connection begins with :meth:`Link.hold_after_handshake`."""

    async def __aenter__(self) -> Self:
        self._listener = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._listener.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._listener.close()
        for link in self._links:
            link.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def link(self) -> Link | None:
        """The newest connection, unless it is broken."""
        return self._links[-1] if self._links and not self._links[-1].is_broken else None

    @contextlib.contextmanager
    def down(self) -> Iterator[None]:
        """Have no connection inside the block."""
        self.is_down = True
        for link in self._links:
            link.abort()
        self._links = []
        yield
        self.is_down = False

    def forget(self) -> None:
        """End what is left of broken connections: whoever was not told of the end is told now."""
        for link in self._links:
            if link.is_broken:
                link.abort()
        self._links = [link for link in self._links if not link.is_broken]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        if self.is_down:
            _close(writer, "reset")
            return
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self._server_port())
            self.opened += 1
            link = Link(writer, forth)
            if self.holds_next:
                self.holds_next = False
                link.hold_after_handshake()
            self._links.append(link)
            self.passed.append(link.passed)
            await asyncio.gather(link.carry(reader, "server"), link.carry(back, "client"))
        except OSError:
            _close(writer, "reset")
        except asyncio.CancelledError:
            # Of the wire's end.
            _abort(writer)


class Link:
    """One connection: two, with what passes between them."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._writers: dict[Side, asyncio.StreamWriter] = {"client": client, "server": server}
        self._open: set[Side] = {"client", "server"}
        self._flowing: dict[Side, asyncio.Event] = {}
        for side in self._writers:
            self._flowing[side] = asyncio.Event()
            self._flowing[side].set()
        self._frames = FrameSplitter()
        self.passed = Passed()
        self._injected: list[bytes] = []
        self._until_break: int | None = None
        self._dropped: bytes | None = None
        self._holds_after_head = False
        self.holds: set[Side] = set()
        """The sides for which something was held back."""
        self.pongs = 0
        """How often the client has sent pongs and nothing else."""
        self.is_broken = False
        """Whether nothing passes any more, and no side is told of the other's end."""

    def waits_for(self, side: Side) -> int:
        """Return how many bytes wait in the wire until one side reads."""
        return self._writers[side].transport.get_write_buffer_size()

    def abort(self) -> None:
        """End both sides, whatever still waits for one that reads nothing."""
        self.is_broken = True
        self.passed.end()
        for writer in self._writers.values():
            _abort(writer)

    def break_(self) -> None:
        """Let nothing pass any more. Neither side is told."""
        self.is_broken = True
        self.passed.end()
        for event in self._flowing.values():
            event.set()

    def break_after(self, count: int) -> None:
        """Do so when so many more bytes have gone to the client, wherever in a frame that is."""
        self._until_break = count

    def end(self, side: Side, how: End) -> None:
        """Tell one side of the end; the other is not told by this."""
        if how == "nothing" or side not in self._open:
            return
        self.is_broken = True
        self.passed.end()
        self._open.discard(side)
        for event in self._flowing.values():
            event.set()
        _close(self._writers[side], how)

    def hold(self, side: Side) -> None:
        """Hold back what goes to one side until :meth:`flow`; what is read already waits."""
        self._flowing[side].clear()

    def hold_after_handshake(self) -> None:
        """Hold back what goes to the client behind the response to its handshake."""
        self._holds_after_head = True

    def flow(self) -> None:
        """Pass on what was held back."""
        for event in self._flowing.values():
            event.set()

    def inject(self, frame: bytes) -> None:
        """Send the client a frame behind the next one that the server sends."""
        self._injected.append(frame)

    def drop(self, text: bytes) -> None:
        """Swallow the next message to the client that contains this; it is not compressed."""
        self._dropped = text

    @property
    def will_drop(self) -> bool:
        """Whether nothing was swallowed yet."""
        return self._dropped is not None

    async def carry(self, source: asyncio.StreamReader, side: Side) -> None:
        """Pass on what comes from the other side to this one, until one of them ends."""
        how: End = "finish"
        try:
            while data := await source.read(_PIECE):
                if not self._flowing[side].is_set():
                    self.holds.add(side)
                    await self._flowing[side].wait()
                if self.is_broken:
                    # Nobody reads any more: the sender's buffers fill up, and that is all.
                    return
                if side == "server":
                    self.pongs += data[0] == _FIN_PONG
                    self.passed.to_server(data)
                else:
                    data = self._changed(data)
                    self.passed.to_client(data)
                self._writers[side].write(data)
                await self._writers[side].drain()
                if side == "client" and self._holds_after_head:
                    self._holds_after_head = False
                    self.hold(side)
        except OSError:
            how = "reset"
        if not self.is_broken:
            self.end("client", how)
            self.end("server", how)

    def _changed(self, data: bytes) -> bytes:
        """Return what the client is to get: whole frames, unless the link breaks in one."""
        pieces = []
        for frame in self._frames.feed(data):
            if self._dropped is not None and frame.is_message and self._dropped in frame.data:
                self._dropped = None
                continue
            pieces.append(frame.data)
            if frame.is_message:
                pieces += self._injected
                self._injected = []
        data = b"".join(pieces)
        if self._until_break is not None:
            left = self._until_break
            self._until_break -= len(data)
            if len(data) >= left:
                self.break_()
                return data[:left]
        return data


def _close(writer: asyncio.StreamWriter, how: End) -> None:
    if how == "finish":
        writer.close()
        return
    sock: socket.socket = writer.get_extra_info("socket")
    # It may be closed already: the other end was faster.
    if sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        writer.transport.abort()


def _abort(writer: asyncio.StreamWriter) -> None:
    sock: socket.socket = writer.get_extra_info("socket")
    # A transport that has closed after it has sent what had waited cannot be aborted any more.
    if sock.fileno() >= 0:
        writer.transport.abort()
