"""SocketOutbox: bounds on what waits for a client, and the ways to its socket."""

from __future__ import annotations

import asyncio
import logging
from types import SimpleNamespace
from typing import Any, cast

import pytest
from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosedOK
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import State

from realtime_server.fanout.frames import Frames, TextFrame
from realtime_server.net.outbox import OutboxCounters, SocketOutbox
from realtime_server.net.slow_clients import Backlog
from realtime_server.replay.connection_proof import ConnectionProof, ping_payload
from realtime_server.replay.proofs import Proofs
from tests.server_helpers import FakeTransport, make_backlog, texts
from tests.stopped_clock import stop_the_clock
from tests.waiting import eventually

# A frame's head is two bytes.
SIXTY, FORTY, HUNDRED = Frames.of(b"x" * 58), Frames.of(b"x" * 38), Frames.of(b"y" * 98)
LONG = Frames.of(b"z" * 1000)


class FakeWebSocket:
    """websockets' connection as far as an outbox knows it."""

    def __init__(self, extensions: list[Any]) -> None:
        self.transport = FakeTransport()
        self.protocol = SimpleNamespace(state=State.OPEN, extensions=extensions)
        self.send_in_progress: object | None = None
        self.sent: list[bytes] = []
        self.may_send = asyncio.Event()

    @property
    def state(self) -> State:
        return cast(State, self.protocol.state)

    async def ping(self, data: bytes) -> None:
        self.sent.append(b"ping " + data)

    async def send(self, message: bytes, text: bool) -> None:
        assert text
        await self.may_send.wait()
        if self.state is not State.OPEN:
            raise ConnectionClosedOK(None, None)
        self.sent.append(message)


class Wire:
    """An outbox of at most 100 bytes and what it stands on."""

    def __init__(
        self,
        *extensions: Any,
        max_age: float = 1000,
        backlog: Backlog | None = None,
        proofs: Proofs | None = None,
    ) -> None:
        self.websocket = FakeWebSocket(list(extensions))
        self.transport = self.websocket.transport
        self.counters = OutboxCounters()
        self.outbox = SocketOutbox(
            cast(ServerConnection, self.websocket),
            backlog=make_backlog(max_bytes=100, max_age=max_age) if backlog is None else backlog,
            counters=self.counters,
            peer="10.0.0.1:4321",
            proofs=proofs,
        )

    def write(self, *frames: Frames) -> None:
        for each in frames:
            self.outbox.write(each)


@pytest.fixture
async def wire() -> Wire:
    return Wire()


async def test_frames_are_written_at_once_and_in_order(wire: Wire) -> None:
    wire.write(Frames.of(b"one"), Frames([TextFrame(b"two"), TextFrame(b"three")]))
    assert texts(wire.transport.sent()) == ["one", "two", "three"]
    assert (wire.counters.frames, wire.counters.bytes) == (3, 3 * 2 + 11)
    assert wire.counters.slow_clients == 0


# Bytes.


async def test_as_much_as_the_bound_may_wait(wire: Wire) -> None:
    wire.write(SIXTY, FORTY)
    assert not wire.transport.aborted


async def test_a_client_that_falls_further_behind_is_cut_off_counted_and_logged(
    wire: Wire, caplog: pytest.LogCaptureFixture
) -> None:
    wire.write(SIXTY, Frames.of(b"x" * 39))
    assert wire.transport.aborted
    assert wire.counters.slow_clients == 1
    assert caplog.record_tuples == [
        (
            "realtime.outbox",
            logging.WARNING,
            "client 10.0.0.1:4321 is too slow: 101 bytes wait for it, and "
            "OUTBOX_MAX_BYTES is 100; disconnected",
        )
    ]


async def test_one_that_was_cut_off_is_not_counted_twice(wire: Wire) -> None:
    for _ in range(5):
        wire.write(SIXTY)
    assert wire.counters.slow_clients == 1


async def test_one_large_write_is_taken_when_nothing_waits(wire: Wire) -> None:
    wire.write(LONG)
    assert wire.transport.sent() == LONG.plain
    wire.write(LONG)
    assert not wire.transport.aborted


async def test_a_client_that_caught_up_is_no_longer_behind(wire: Wire) -> None:
    for _ in range(10):
        wire.write(HUNDRED)
        wire.transport.sent()
    assert not wire.transport.aborted


async def test_a_client_is_behind_when_a_quarter_of_what_may_waits_for_it(wire: Wire) -> None:
    wire.write(Frames.of(b"x" * 23))
    assert not wire.outbox.is_behind
    wire.write(Frames.of(b"x"))
    assert wire.outbox.is_behind
    wire.transport.sent()
    assert not wire.outbox.is_behind


async def test_nothing_is_written_to_a_connection_that_closes(wire: Wire) -> None:
    wire.websocket.protocol.state = State.CLOSING
    wire.write(LONG)
    assert wire.transport.waiting == b""
    assert (wire.counters.frames, wire.counters.slow_clients) == (0, 0)


# Time.


async def test_a_client_whose_oldest_byte_waits_too_long_is_cut_off(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wire = Wire(max_age=0.05)
    wire.write(SIXTY)
    await eventually(lambda: wire.transport.aborted)
    assert wire.counters.slow_clients == 1
    assert caplog.messages[0].startswith(
        "client 10.0.0.1:4321 is too slow: 60 bytes wait for it, the oldest for 0."
    )
    assert caplog.messages[0].endswith(" s, and OUTBOX_MAX_AGE is 50 ms; disconnected")


async def test_a_client_that_is_always_behind_but_never_for_long_is_not_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = stop_the_clock(monkeypatch)
    wire = Wire(max_age=0.2)
    wire.write(FORTY)
    for _ in range(60):
        # It reads what is older than the last write: something waits all the time.
        wire.write(FORTY)
        wire.transport.waiting = FORTY.plain
        await clock.pass_by(0.01)
        assert not wire.transport.aborted
    # Now it reads no more.
    for _ in range(30):
        await clock.pass_by(0.01)
    assert wire.transport.aborted


async def test_nobody_is_watched_for_whom_nothing_waits() -> None:
    wire = Wire(max_age=0.01)
    wire.write(SIXTY)
    wire.transport.sent()
    await eventually(lambda: not wire.outbox.is_watching)
    wire.write(SIXTY)
    assert wire.outbox.is_watching
    wire.outbox.close()
    assert not wire.outbox.is_watching


# Compression.


def deflate(*, no_context: bool = True, bits: int = 15) -> PerMessageDeflate:
    return PerMessageDeflate(True, no_context, 15, bits)


@pytest.mark.parametrize(
    ("extension", "is_deflated"),
    [
        (deflate(), True),
        (deflate(bits=14), False),
        (deflate(bits=9), False),
        (deflate(no_context=False), False),
    ],
)
async def test_only_who_can_read_shared_frames_gets_them_deflated(
    extension: PerMessageDeflate, is_deflated: bool
) -> None:
    wire = Wire(extension)
    wire.write(LONG)
    assert wire.transport.sent() == (LONG.deflated if is_deflated else LONG.plain)
    assert wire.counters.bytes == len(LONG.deflated if is_deflated else LONG.plain)


# Through the library.


async def test_what_comes_while_a_fragmented_message_is_sent_comes_after_it(wire: Wire) -> None:
    wire.websocket.send_in_progress = object()
    wire.write(Frames([TextFrame(b"1"), TextFrame(b"2")]))
    wire.websocket.send_in_progress = None
    wire.write(Frames.of(b"3"))
    assert wire.transport.waiting == b""
    wire.websocket.may_send.set()
    await eventually(lambda: wire.websocket.sent == [b"1", b"2", b"3"])
    await eventually(lambda: not wire.outbox.is_sending)
    wire.write(Frames.of(b"4"))
    assert texts(wire.transport.sent()) == ["4"]


async def test_an_extension_that_is_not_known_goes_through_the_library() -> None:
    wire = Wire(object())
    wire.websocket.may_send.set()
    wire.write(SIXTY)
    await eventually(lambda: wire.websocket.sent == SIXTY.payloads)
    assert (wire.counters.frames, wire.counters.bytes) == (1, 58)


@pytest.mark.parametrize("attribute", ["protocol.extensions", "protocol.state", "send_in_progress"])
async def test_a_library_of_another_make_is_used_by_its_public_interface(attribute: str) -> None:
    class Another(FakeWebSocket):
        state = State.OPEN  # type: ignore[assignment]

    websocket = Another([])
    owner, _, name = attribute.rpartition(".")
    delattr(websocket.protocol if owner else websocket, name)
    outbox = SocketOutbox(
        cast(ServerConnection, websocket),
        backlog=make_backlog(max_bytes=100),
        counters=OutboxCounters(),
        peer="",
    )
    websocket.may_send.set()
    outbox.write(SIXTY)
    outbox.write(FORTY)
    await eventually(lambda: websocket.sent == SIXTY.payloads + FORTY.payloads)


async def test_what_waits_for_the_library_is_bounded_too() -> None:
    wire = Wire(object())
    wire.write(SIXTY, Frames.of(b"x" * 42))
    assert not wire.transport.aborted
    wire.write(Frames.of(b"x"))
    assert wire.transport.aborted
    assert wire.counters.slow_clients == 1


async def test_what_waits_for_the_library_goes_when_the_connection_does() -> None:
    wire = Wire(object())
    wire.write(SIXTY, FORTY)
    wire.websocket.protocol.state = State.CLOSED
    wire.websocket.may_send.set()
    await eventually(lambda: not wire.outbox.is_sending)
    wire.write(SIXTY)
    assert not wire.outbox.is_sending
    assert wire.websocket.sent == []


# All outboxes together.


async def test_the_one_with_the_most_is_cut_off_when_too_much_waits_for_all(
    caplog: pytest.LogCaptureFixture,
) -> None:
    backlog = make_backlog(max_bytes=100, total_bytes=150)
    small, large, last = (Wire(backlog=backlog) for _ in range(3))
    small.write(FORTY)
    large.write(SIXTY)
    last.write(FORTY)
    assert backlog.bytes == 140
    small.write(Frames.of(b"x" * 9))
    assert [wire.transport.aborted for wire in (small, large, last)] == [False, True, False]
    assert backlog.bytes == 91
    assert large.counters.slow_clients == 1
    assert caplog.messages == [
        "client 10.0.0.1:4321 is too slow: 60 bytes wait for it, 151 for all clients "
        "together, and OUTBOX_TOTAL_BYTES is 150; disconnected"
    ]


async def test_what_a_client_took_or_left_behind_waits_no_more() -> None:
    backlog = make_backlog(max_bytes=100, total_bytes=1000)
    reader, gone, cut_off = (Wire(backlog=backlog) for _ in range(3))
    for wire in (reader, gone, cut_off):
        wire.write(SIXTY)
    reader.transport.sent()
    reader.outbox.update()
    assert backlog.bytes == 120
    gone.outbox.close()
    gone.outbox.update()
    assert backlog.bytes == 60
    cut_off.write(HUNDRED)
    assert backlog.bytes == 0


async def test_what_waits_for_the_library_counts_too() -> None:
    backlog = make_backlog(max_bytes=100, total_bytes=1000)
    wire = Wire(object(), backlog=backlog)
    wire.write(SIXTY, FORTY)
    assert backlog.bytes == 58 + 38
    wire.websocket.may_send.set()
    await eventually(lambda: len(wire.websocket.sent) == 2)
    wire.outbox.update()
    assert backlog.bytes == 0


async def test_who_is_a_little_behind_is_waited_for_while_much_waits_for_all() -> None:
    backlog = make_backlog(max_bytes=100, total_bytes=120)
    small, large = Wire(backlog=backlog), Wire(backlog=backlog)
    small.write(Frames.of(b"x"))
    assert not small.outbox.is_behind
    large.write(SIXTY)
    assert small.outbox.is_behind


# Ordinals.


class FollowedWire(Wire):
    """A wire of which the server asks what has arrived."""

    def __init__(self, *extensions: Any) -> None:
        self.proofs = Proofs(interval=1.0, clock=lambda: 0.0)
        super().__init__(*extensions, proofs=self.proofs)
        assert self.outbox.proof is not None
        self.proof: ConnectionProof = self.outbox.proof

    def mark(self, *messages: bytes) -> Frames:
        """Return the frames of a dispatch."""
        return Frames([TextFrame(message) for message in messages], *self.proofs.mark(1))


async def test_the_last_ordinal_is_remembered_and_a_ping_noted() -> None:
    wire = FollowedWire()
    wire.write(wire.mark(b"one"), wire.mark(b"two"), Frames.of(b"reply"))
    assert wire.outbox.written == wire.proof.written == 2
    ping = b"\x89\x08" + ping_payload(1)
    assert wire.transport.sent() == b"\x81\x03one" + ping + b"\x81\x03two\x81\x05reply"
    # A ping is no message.
    assert wire.counters.frames == 3
    assert wire.proof.pong(ping_payload(1))


async def test_what_comes_too_late_is_not_taken_for_received() -> None:
    wire = FollowedWire()
    wire.write(wire.mark(b"one"))
    wire.websocket.protocol.state = State.CLOSING
    wire.write(wire.mark(b"two"), wire.mark(b"three"))
    wire.proof.close_answered()
    assert (wire.proof.proven, wire.proof.written) == (1, 3)


@pytest.mark.parametrize("way", ["closing", "too slow"])
async def test_nor_is_what_is_never_written(way: str) -> None:
    wire = FollowedWire()
    wire.write(wire.mark(b"one"))
    if way == "closing":
        wire.transport.close()
        wire.write(wire.mark(b"two"))
    else:
        wire.write(wire.mark(b"x" * 150))
        assert wire.transport.aborted
    assert (wire.proof.proven, wire.proof.written) == (0, 2)
    wire.proof.close_answered()
    assert wire.proof.proven == 1


async def test_through_the_library_pings_follow_their_messages() -> None:
    wire = FollowedWire(object())
    wire.write(wire.mark(b"one", b"two"), wire.mark(b"three"))
    assert wire.proof.written == 2
    wire.websocket.may_send.set()
    await eventually(lambda: not wire.outbox.is_sending)
    assert wire.websocket.sent == [b"one", b"two", b"ping " + ping_payload(1), b"three"]
    assert wire.proof.pong(ping_payload(1))
    # Only pings prove what goes this way: part of it may be lost when the connection closes.
    wire.proof.close_answered()
    assert wire.proof.proven == 1


async def test_an_outbox_that_nobody_follows_takes_frames_with_ordinals(wire: Wire) -> None:
    wire.write(Frames((), 1, b"\x89\x08" + ping_payload(1)))
    assert wire.transport.sent() == b"\x89\x08" + ping_payload(1)
    wire.transport.close()
    wire.write(Frames((), 2))
