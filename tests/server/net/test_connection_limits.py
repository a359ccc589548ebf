"""BoundedConnection without a network; on real sockets in integration/test_stream_limits.py."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest
from websockets.asyncio.server import Server
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from realtime_server.net.connection_limits import BoundedConnection
from tests.server_helpers import FakeTransport

REQUEST = (
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)
EMPTY = Frame(Opcode.TEXT, b"").serialize(mask=True)
PING = Frame(Opcode.PING, b"").serialize(mask=True)


class Transport(FakeTransport):
    late = b""
    """What was written after the end."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self.is_closing():
            self.late += bytes(data)
        super().write(data)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """websockets asks for it."""

    def can_write_eof(self) -> bool:
        return True

    def pause_reading(self) -> None:
        """Nobody receives what comes here."""


class Guarded:
    """A connection after its handshake, and a server that lets 64 KiB wait for it."""

    def __init__(self, request: bytes = REQUEST, *, frames_per_second: int = 1000) -> None:
        self.transport = Transport()
        self.happened: list[str] = []
        server = SimpleNamespace(
            handler=self._handle,
            handler_tasks=set(),
            is_serving=lambda: True,
            # Of websockets 16.
            start_connection_handler=lambda connection: None,
        )
        self.connection = BoundedConnection(
            ServerProtocol(),
            cast(Server, server),
            frames_per_second=frames_per_second,
            observer=self,
        )
        self.connection.connection_made(self.transport)
        self.connection.data_received(request)

    def count_flood(self) -> None:
        self.happened.append("flood")

    def check_backlog(self, transport: asyncio.Transport) -> None:
        assert transport is self.transport
        if self.transport.get_write_buffer_size() > 65536:
            self.happened.append("unread")
            self.transport.abort()

    def count_malformed(self, transport: asyncio.BaseTransport) -> None:
        assert transport is self.transport
        self.happened.append("malformed")

    def forget(self, transport: asyncio.BaseTransport) -> None:
        assert transport is self.transport
        self.happened.append("lost")

    async def _handle(self, connection: Any) -> None:
        """Stands for the server's handler."""

    async def open(self) -> None:
        await self.connection.handshake()
        self.transport.sent()


@pytest.fixture
async def guarded() -> Guarded:
    guarded = Guarded()
    await guarded.open()
    return guarded


async def test_what_is_within_the_bounds_is_answered(guarded: Guarded) -> None:
    guarded.connection.data_received(PING * 90 + EMPTY * 90)
    assert guarded.transport.sent() == Frame(Opcode.PONG, b"").serialize(mask=False) * 90
    assert guarded.happened == []


async def test_of_a_flood_only_a_slice_too_much_is_looked_at(guarded: Guarded) -> None:
    guarded.connection.data_received(PING * 40_000)
    sent = guarded.transport.sent()
    pong = Frame(Opcode.PONG, b"").serialize(mask=False)
    pongs, _, close = sent.rpartition(pong)
    # The first slice, of 2048 bytes, is too much already.
    assert len(pongs) // len(pong) + 1 <= 2048 // len(PING) + 1
    assert close[4:] == b"more than 1000 messages a second (MAX_MESSAGES_PER_SECOND)"
    assert guarded.connection.protocol.state is State.CLOSING
    assert guarded.happened == ["flood"]


async def test_what_is_inflated_counts_by_what_it_becomes(guarded: Guarded) -> None:
    inflated = 0

    class Counting(PerMessageDeflate):
        def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
            nonlocal inflated
            decoded = super().decode(frame, max_size=max_size)
            inflated += len(decoded.data)
            return decoded

    guarded.connection.protocol.extensions = [Counting(True, True, 15, 15)]
    client = PerMessageDeflate(True, True, 15, 15)
    bomb = Frame(Opcode.TEXT, b"x" * 1_000_000).serialize(mask=True, extensions=[client])
    assert len(bomb) < 1100
    guarded.connection.data_received(bomb * 200)
    assert guarded.happened == ["flood"]
    # 1000 times a KiB, and what was in the last slice besides.
    assert inflated <= 1000 * 1024 + 2_000_000


async def test_what_waits_unread_beyond_the_bound_ends_the_connection() -> None:
    guarded = Guarded(frames_per_second=1_000_000)
    await guarded.open()
    ping = Frame(Opcode.PING, b"x" * 125).serialize(mask=True)
    for _ in range(65536 // 127):
        guarded.connection.data_received(ping)
    assert guarded.happened == []
    guarded.connection.data_received(ping)
    assert guarded.happened == ["unread"]
    assert guarded.transport.aborted


async def test_nothing_is_written_to_a_connection_that_was_cut_off() -> None:
    guarded = Guarded(frames_per_second=1_000_000)
    await guarded.open()
    ping = Frame(Opcode.PING, b"x" * 125).serialize(mask=True)
    # In one piece, there is more behind what is too much.
    guarded.connection.data_received(ping * 1000)
    assert guarded.happened == ["unread"]
    assert guarded.transport.late == b""


async def test_its_attributes_share_their_names_with_those_of_all_others(guarded: Guarded) -> None:
    # Beyond 30 CPython gives each object a dictionary of its own, of more than 1 KB.
    assert len(vars(guarded.connection)) <= 30


async def test_the_end_is_said_once(guarded: Guarded) -> None:
    guarded.connection.connection_lost(None)
    assert guarded.happened == ["lost"]


async def test_what_is_no_request_is_answered_once() -> None:
    # Its answer is made when the first slice of it has been read.
    guarded = Guarded(REQUEST.replace(b"Host: x", b"Ho st: x") + b"x" * 10_000)
    answer = guarded.transport.sent()
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert answer.count(b"HTTP/1.1 400") == 1
    assert guarded.transport.half_closed
    assert guarded.happened == ["malformed"]
