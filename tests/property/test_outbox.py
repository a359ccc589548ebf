"""SocketOutbox on a real connection: whatever happens around it, its frames come whole, in order.

It writes to the socket's descriptor past the transport and past the library, which both write to
the same socket. So here all of them write, in any order that hypothesis can think of, to a client
that reads when it likes; what the client got is looked at frame by frame.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any, Final, cast
from unittest.mock import Mock

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.frames import Frame, Opcode
from websockets.streams import StreamReader

from realtime_server.fanout.frames import Frames, TextFrame
from realtime_server.net.frame_limits import BoundedConnection
from realtime_server.net.outbox import OutboxCounters, SocketOutbox
from tests.property.examples import examples
from tests.server_helpers import DEADLINE, make_backlog

pytestmark = pytest.mark.slow

BUFFER: Final = 4096
"""Bytes of each end's, that the kernel doubles: most of what is written does not fit."""
MUCH: Final = 1 << 30
HANDSHAKE: Final = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
LOOPS: Final = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


def masked(opcode: Opcode, data: bytes = b"") -> bytes:
    return Frame(opcode, data).serialize(mask=True)


def guarded(*arguments: Any, **options: Any) -> BoundedConnection:
    return BoundedConnection(*arguments, frames_per_second=MUCH, observer=Mock(), **options)


class Stage:
    """Both ends of a connection, in one event loop."""

    def __init__(self) -> None:
        self.client = socket.socket()
        self.frames: list[Frame] = []
        """What the client got, but for a frame at the end that is not whole."""
        self._reader = StreamReader()
        self._parsing = parse(self._reader, self.frames)
        self.connection: ServerConnection
        self.outbox: SocketOutbox
        self.written = 0
        """Messages that were handed to the outbox."""
        self._has_answered = False
        self._tasks: list[asyncio.Task[None]] = []
        self._fragments: asyncio.Queue[str | None] | None = None

    async def open(self) -> Server:
        opened: asyncio.Queue[ServerConnection] = asyncio.Queue()

        async def handle(connection: ServerConnection) -> None:
            opened.put_nowait(connection)
            await connection.wait_closed()

        listening = socket.create_server(("127.0.0.1", 0))
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
        server = await serve(
            handle,
            sock=listening,
            compression=None,
            # Whatever makes one will do.
            create_connection=cast(type[ServerConnection], guarded),
            ping_interval=None,
            close_timeout=DEADLINE,
        )
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self.client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(self.client, listening.getsockname())
        await loop.sock_sendall(self.client, HANDSHAKE)
        self.connection = await opened.get()
        self.outbox = SocketOutbox(
            self.connection,
            backlog=make_backlog(max_bytes=MUCH, max_age=DEADLINE),
            counters=OutboxCounters(),
            peer="",
        )
        head, _, rest = (await loop.sock_recv(self.client, 4096)).partition(b"\r\n\r\n")
        assert b" 101 " in head
        self._take(rest)
        return server

    # Steps.

    async def write(self, *sizes: int) -> None:
        """Write messages that begin with their number."""
        messages = []
        for size in sizes:
            messages.append(TextFrame(b"%d " % self.written + b"x" * size))
            self.written += 1
        self.outbox.write(Frames(messages))

    async def ping(self) -> None:
        """Let the client ask for a pong."""
        # It may have closed its half.
        with contextlib.suppress(OSError):
            self.client.send(masked(Opcode.PING, b"!"))

    async def say(self, size: int) -> None:
        """Send by the library."""
        self._start(self.connection.send("library " + "x" * size))

    async def fragment(self) -> None:
        """Begin a fragmented message, or add to it."""
        if self._fragments is None:
            self._fragments = asyncio.Queue()
            self._start(self.connection.send(self._all_fragments(self._fragments)))
        self._fragments.put_nowait("library " + "x" * 100)

    async def end_fragments(self) -> None:
        if self._fragments is not None:
            self._fragments.put_nowait(None)
            self._fragments = None

    async def read(self, size: int) -> bool:
        """Let the client take bytes; return whether there may be more."""
        try:
            data = self.client.recv(size)
        except BlockingIOError:
            return True
        except OSError:
            return False
        self._take(data)
        return bool(data)

    async def turn(self) -> None:
        """Let the event loop look at its sockets."""
        for _ in range(3):
            await asyncio.sleep(0)

    def _take(self, data: bytes) -> None:
        self._reader.feed_data(data)
        next(self._parsing)

    # Ends.

    async def stay(self) -> None:
        """Nobody closes."""

    async def close_by_server(self) -> None:
        self._start(self.connection.close())

    async def close_by_client(self) -> None:
        self.client.send(masked(Opcode.CLOSE, b"\x03\xe8"))

    async def half_close(self) -> None:
        self.client.shutdown(socket.SHUT_WR)

    async def abort(self) -> None:
        self.connection.transport.abort()

    async def reset(self) -> None:
        self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.client.close()

    async def invalid(self) -> None:
        self.client.send(b"\xff\xff")

    # What the client got.

    async def read_all(self, until: int | None = None) -> None:
        """Read until the end, or until there are so many of the outbox's messages."""
        frames = self.frames
        async with asyncio.timeout(DEADLINE):
            while await self.read(1 << 20):
                if until is not None and len(numbers(frames)) >= until:
                    break
                is_closed = any(frame.opcode is Opcode.CLOSE for frame in frames)
                if is_closed and not self._has_answered:
                    self._has_answered = True
                    with contextlib.suppress(OSError):
                        self.client.send(masked(Opcode.CLOSE, b"\x03\xe8"))
                await asyncio.sleep(0)

    async def aclose(self) -> None:
        await self.end_fragments()
        self.client.close()
        if not self.connection.transport.is_closing():
            self.connection.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.outbox.close()

    def _start(self, sending: Any) -> None:
        self._tasks.append(asyncio.create_task(sending))

    @staticmethod
    async def _all_fragments(fragments: asyncio.Queue[str | None]) -> AsyncIterator[str]:
        while (fragment := await fragments.get()) is not None:
            yield fragment


def parse(reader: StreamReader, frames: list[Frame]) -> Iterator[None]:
    """Add each frame as soon as it is whole."""
    while True:
        frames.append((yield from Frame.parse(reader.read_exact, mask=False)))


def numbers(frames: list[Frame]) -> list[int]:
    """Return which of the outbox's messages there are, and see that they are whole."""
    found = []
    is_fragmented = False
    for frame in frames:
        if frame.opcode is Opcode.TEXT:
            assert not is_fragmented, "a message is torn apart"
            is_fragmented = not frame.fin
            if not bytes(frame.data).startswith(b"library"):
                found.append(int(bytes(frame.data).split()[0]))
        elif frame.opcode is Opcode.CONT:
            assert is_fragmented
            is_fragmented = not frame.fin
    return found


sizes = st.sampled_from([0, 200, 3000, 20_000])
steps = st.one_of(
    st.tuples(st.just(Stage.write), sizes),
    st.tuples(st.just(Stage.write), sizes, sizes),
    st.tuples(st.just(Stage.ping)),
    st.tuples(st.just(Stage.say), sizes),
    st.tuples(st.just(Stage.fragment)),
    st.tuples(st.just(Stage.end_fragments)),
    st.tuples(st.just(Stage.read), st.sampled_from([1, 100, 5000, 1 << 20])),
    st.tuples(st.just(Stage.turn)),
)
ends = st.sampled_from(
    [
        Stage.stay,
        Stage.close_by_server,
        Stage.close_by_client,
        Stage.half_close,
        Stage.abort,
        Stage.reset,
        Stage.invalid,
    ]
)


async def play(before: list[Any], end: Any, after: list[Any]) -> None:
    stage = Stage()
    async with await stage.open():
        try:
            for step, *arguments in before:
                await step(stage, *arguments)
            await end(stage)
            for step, *arguments in after:
                await step(stage, *arguments)
            if end is Stage.stay:
                await stage.end_fragments()
                await stage.read_all(stage.written)
                assert numbers(stage.frames) == list(range(stage.written))
                return
            await stage.read_all()
        finally:
            await stage.aclose()
    frames = stage.frames
    found = numbers(frames)
    assert found == list(range(len(found)))
    # The library answers pings still.
    opcodes = [frame.opcode for frame in frames if frame.opcode is not Opcode.PONG]
    if end in (Stage.close_by_server, Stage.close_by_client, Stage.invalid):
        assert opcodes.index(Opcode.CLOSE) == len(opcodes) - 1
    else:
        assert Opcode.CLOSE not in opcodes


@pytest.mark.parametrize("make_loop", LOOPS.values(), ids=LOOPS)
@examples(500)
@given(before=st.lists(steps, max_size=30), end=ends, after=st.lists(steps, max_size=8))
def test_frames_come_whole_and_in_order_whoever_writes_besides(
    make_loop: Any, before: list[Any], end: Any, after: list[Any]
) -> None:
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(play(before, end, after))
