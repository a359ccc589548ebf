"""BoundedConnection without a network; on real sockets in integration/test_stream_limits.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from websockets.asyncio.server import Server
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame, Opcode
from websockets.protocol import State
from websockets.server import ServerProtocol

from realtime_server.fanout.frames import Frames
from realtime_server.net.frame_limits import BoundedConnection
from realtime_server.net.outbox import OutboxCounters, SocketOutbox
from realtime_server.replay.connection_proof import ConnectionProof, ping_payload
from realtime_server.replay.proofs import Proofs
from tests.server_helpers import FakeTransport, make_backlog
from tests.stopped_clock import stop_the_clock

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
async def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was counted is forgotten; named before the fixtures that count."""
    stop_the_clock(monkeypatch)


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


async def test_who_floods_after_our_close_frame_is_cut_off(guarded: Guarded) -> None:
    closing = asyncio.create_task(guarded.connection.close(1012, "restart"))
    await asyncio.sleep(0)
    assert guarded.connection.protocol.state is State.CLOSING
    frame = Frame(Opcode.TEXT, bytes(64_000)).serialize(mask=True)
    for _ in range(16):
        guarded.connection.data_received(frame)
        assert not guarded.transport.is_closing()
    guarded.connection.data_received(frame)
    assert guarded.transport.is_closing()
    guarded.connection.connection_lost(None)
    await closing


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


# What shows which frames the client has received.


def pong(payload: bytes) -> bytes:
    return Frame(Opcode.PONG, payload).serialize(mask=True)


@pytest.fixture
async def asked(guarded: Guarded) -> Proofs:
    """The server's proofs; with ordinal 1 the client was asked, and got more since. The client has
    sent something before."""
    proofs = Proofs(interval=1.0, clock=lambda: 0.0)
    outbox = SocketOutbox(
        guarded.connection,
        backlog=make_backlog(max_bytes=65536, max_age=1000),
        counters=OutboxCounters(),
        peer="",
        proofs=proofs,
    )
    guarded.connection.data_received(PING)
    guarded.transport.sent()
    for _ in range(2):
        outbox.write(Frames((), *proofs.mark(1)))
    assert guarded.transport.sent() == b"\x89\x08" + ping_payload(1)
    return proofs


def proof_of(guarded: Guarded) -> ConnectionProof:
    assert guarded.connection.proof is not None
    return guarded.connection.proof


def in_pieces(data: bytes) -> list[list[bytes]]:
    """Cut bytes in two at each place; the first time they are whole."""
    return [[data], *([data[:at], data[at:]] for at in range(1, len(data)))]


@pytest.mark.parametrize("pieces", in_pieces(pong(ping_payload(1))), ids=len)
async def test_a_pong_is_taken_however_it_comes(
    guarded: Guarded, asked: Proofs, pieces: list[bytes]
) -> None:
    for piece in pieces:
        guarded.connection.data_received(piece)
    assert (proof_of(guarded).proven, proof_of(guarded).written) == (1, 2)
    # The library goes on reading where it was.
    guarded.connection.data_received(PING + EMPTY)
    assert guarded.transport.sent() == Frame(Opcode.PONG, b"").serialize(mask=False)


async def test_a_lone_pong_does_not_go_through_the_library(
    guarded: Guarded, asked: Proofs, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[bytes] = []
    monkeypatch.setattr(guarded.connection.protocol, "receive_data", parsed.append)
    guarded.connection.data_received(pong(ping_payload(1)))
    assert proof_of(guarded).proven == 1
    assert parsed == []


async def test_the_library_gets_the_pong_that_it_waits_for(guarded: Guarded, asked: Proofs) -> None:
    """Where it writes our pings, they have the same payload."""
    answered = await guarded.connection.ping(ping_payload(1))
    guarded.connection.data_received(pong(ping_payload(1)))
    assert answered.done()
    assert proof_of(guarded).proven == 1


async def test_no_pong_counts_that_comes_when_the_connection_is_being_closed(
    guarded: Guarded, asked: Proofs
) -> None:
    ordinal = proof_of(guarded).ask()
    closing = asyncio.create_task(guarded.connection.close(1000))
    await asyncio.sleep(0)
    with pytest.MonkeyPatch.context() as patch:
        parsed: list[bytes] = []
        patch.setattr(guarded.connection.protocol, "receive_data", parsed.append)
        guarded.connection.data_received(one := pong(ping_payload(ordinal)))
    assert parsed == [one]
    closing.cancel()


async def test_what_looks_like_a_pong_within_a_frame_is_part_of_it(
    guarded: Guarded, asked: Proofs
) -> None:
    """A message of 14 bytes that are a pong, after its head, in every way that it may be cut."""
    connection, looks_like_it = guarded.connection, pong(ping_payload(1))
    # Masked with zeros it is sent as it is.
    message = b"\x82" + bytes([0x80 | 14]) + bytes(4) + looks_like_it
    connection.data_received(message[:6])
    connection.data_received(looks_like_it)
    assert proof_of(guarded).proven == 0
    assert await connection.recv() == looks_like_it
    # And as the payload of a message after the half of its head.
    connection.data_received(message[:1])
    connection.data_received(message[1:15])
    connection.data_received(message[15:])
    assert await connection.recv() == looks_like_it
    assert proof_of(guarded).proven == 0
    connection.data_received(looks_like_it)
    assert proof_of(guarded).proven == 1


async def test_a_pong_between_the_fragments_of_a_message_is_one(
    guarded: Guarded, asked: Proofs
) -> None:
    connection = guarded.connection
    connection.data_received(Frame(Opcode.TEXT, b"frag", fin=False).serialize(mask=True))
    connection.data_received(pong(ping_payload(1)))
    assert proof_of(guarded).proven == 1
    connection.data_received(Frame(Opcode.CONT, b"ment").serialize(mask=True))
    assert await connection.recv() == "fragment"


@pytest.mark.parametrize(
    "wrong",
    [
        # Without a mask.
        b"\x8a\x0c" + bytes(12),
        # With RSV1, which nobody agreed on.
        b"\xca\x88" + bytes(12),
        # Not final.
        b"\x0a\x88" + bytes(12),
    ],
)
async def test_what_is_wrong_about_a_pong_the_library_finds(
    guarded: Guarded, asked: Proofs, wrong: bytes
) -> None:
    guarded.connection.data_received(wrong)
    assert guarded.connection.protocol.state is State.CLOSING
    assert proof_of(guarded).proven == 0


async def test_answers_do_not_count_against_what_a_client_may_send(
    stopped_clock: None, guarded: Guarded, asked: Proofs
) -> None:
    """Of 1000 messages at once; a pong that nobody has asked for counts as ten of them, as does the
    ping that was sent before."""
    proof = proof_of(guarded)
    for _ in range(99):
        guarded.connection.data_received(pong(ping_payload(proof.ask())))
        # Together with another frame an answer goes another way.
        last = proof.ask()
        guarded.connection.data_received(pong(ping_payload(last)) + pong(b""))
        assert proof.proven == last
    assert guarded.happened == []
    guarded.connection.data_received(pong(b""))
    assert guarded.happened == ["flood"]


async def test_pongs_that_nobody_asked_for_are_a_flood(guarded: Guarded, asked: Proofs) -> None:
    for _ in range(110):
        guarded.connection.data_received(pong(ping_payload(1)))
    assert guarded.happened == ["flood"]


async def test_eight_other_bytes_make_the_connection_unprovable(
    guarded: Guarded, asked: Proofs
) -> None:
    for payload in (b"", b"1234"):
        guarded.connection.data_received(pong(payload))
        assert not proof_of(guarded).is_unprovable
    guarded.connection.data_received(pong(b"\0" * 8))
    assert proof_of(guarded).is_unprovable
    assert asked.unprovable == 1


async def test_each_message_of_the_client_counts_as_one(guarded: Guarded, asked: Proofs) -> None:
    received = 0

    def count() -> None:
        nonlocal received
        received += 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConnectionProof, "received", lambda _: count())
        guarded.connection.data_received(PING + EMPTY)
        guarded.connection.data_received(Frame(Opcode.TEXT, b"a", fin=False).serialize(mask=True))
        guarded.connection.data_received(Frame(Opcode.CONT, b"b").serialize(mask=True))
    assert received == 2


async def test_a_client_that_closes_first_has_received_less(
    guarded: Guarded, asked: Proofs
) -> None:
    guarded.connection.data_received(pong(ping_payload(1)))
    assert proof_of(guarded).proven == 1
    guarded.connection.data_received(Frame(Opcode.CLOSE, b"\x03\xe8").serialize(mask=True))
    assert proof_of(guarded).proven == 0


@pytest.mark.parametrize(
    ("sent", "answer", "proven"),
    [
        ((1012,), b"\x03\xf4", 3),
        # Its own, sent before it had ours.
        ((1012,), b"\x03\xe8", 0),
        ((1012,), b"", 0),
        # Nobody can tell.
        ((1000,), b"\x03\xe8", 0),
        # But if it repeats our reason.
        ((1000, "idle"), b"\x03\xe8idle", 3),
        ((1000, "idle"), b"\x03\xe8over", 0),
    ],
)
async def test_the_answer_to_our_close_frame_proves_all_that_was_written(
    guarded: Guarded, asked: Proofs, sent: tuple[Any, ...], answer: bytes, proven: int
) -> None:
    closing = asyncio.create_task(guarded.connection.close(*sent))
    await asyncio.sleep(0)
    guarded.connection.data_received(Frame(Opcode.CLOSE, answer).serialize(mask=True))
    assert proof_of(guarded).proven == proven
    guarded.connection.connection_lost(None)
    await closing


# The server's last ping, right before its close frame. Of a client that has sent hardly anything,
# and closes by itself, nothing is sure.


def close_frame(code: int | None = None, reason: bytes = b"") -> bytes:
    data = b"" if code is None else code.to_bytes(2, "big") + reason
    return Frame(Opcode.CLOSE, data).serialize(mask=True)


@pytest.fixture
async def closing(guarded: Guarded, asked: Proofs) -> AsyncIterator[int]:
    """The server closes the connection, with code 1012; what its last ping holds."""
    closing = asyncio.create_task(guarded.connection.close(1012, "restart"))
    await asyncio.sleep(0)
    ping = b"\x89\x08" + ping_payload(3)
    sent = guarded.transport.sent()
    assert sent == ping + Frame(Opcode.CLOSE, b"\x03\xf4restart").serialize(mask=False)
    yield 3
    closing.cancel()
    await asyncio.wait([closing])


@pytest.mark.parametrize("code", [1012, 1000])
async def test_a_client_that_answers_the_last_ping_has_everything_whatever_code_it_answers(
    guarded: Guarded, closing: int, code: int
) -> None:
    """npm's websocket answers each close frame with 1000."""
    guarded.connection.data_received(pong(ping_payload(closing)) + close_frame(code))
    assert proof_of(guarded).proven == proof_of(guarded).written == closing


async def test_a_client_that_answers_the_close_frame_alone_has_everything(
    guarded: Guarded, closing: int
) -> None:
    guarded.connection.data_received(close_frame(1012))
    assert proof_of(guarded).proven == closing


async def test_a_client_that_answers_the_last_ping_alone_has_everything(
    guarded: Guarded, closing: int
) -> None:
    proof = proof_of(guarded)
    guarded.connection.data_received(pong(ping_payload(closing)))
    guarded.connection.connection_lost(None)
    assert proof.proven == closing


@pytest.mark.parametrize(
    "closes",
    [
        close_frame(1000),
        # A page whose browser has answered the pings, and which may be far behind.
        pong(ping_payload(3)) + close_frame(1000, b"heartbeat timeout"),
        pong(ping_payload(3)) + close_frame(),
        pong(ping_payload(3)) + close_frame(1001),
    ],
    # The frames' masks differ each time.
    ids=["without an answer", "with a reason", "without a code", "going away"],
)
async def test_a_client_that_closes_by_itself_meanwhile_has_nothing_for_sure(
    guarded: Guarded, closing: int, closes: bytes
) -> None:
    guarded.connection.data_received(pong(ping_payload(1)))
    assert proof_of(guarded).proven == 1
    guarded.connection.data_received(closes)
    assert proof_of(guarded).proven == 0


async def test_a_connection_that_is_closed_is_asked_nothing(
    guarded: Guarded, asked: Proofs
) -> None:
    guarded.connection.data_received(close_frame(1000))
    guarded.connection.connection_lost(None)
    guarded.transport.sent()
    await guarded.connection.close()
    assert guarded.transport.sent() == b""
    assert asked.ordinal == 2
