"""BoundedConnection: websockets' connection, with a bound on the frames that a client may send.

websockets stops reading while messages wait to be received, but control frames do not wait: it
parses as many as come, and writes a pong for each ping whether the client reads the pongs or not.
What arrives at once may be tens of thousands of frames, and all other clients wait while they are
parsed. So they are parsed in slices, and counted. Besides, websockets closes a connection without
an answer if it cannot read a request at all; this answers with 400.

The connection also tells its outbox when something changes that decides whether frames may be
written to the transport directly. And where it is to be known what clients have received, it hands
on the pongs that prove it. A lone pong, which is nearly all that busy clients send, does not go
through websockets' parser.
"""

from __future__ import annotations

import asyncio
from functools import partial
from http import HTTPStatus
from struct import Struct
from typing import Any, Final, Protocol

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidMessage
from websockets.frames import CTRL_OPCODES, Close, CloseCode, Frame, Opcode
from websockets.protocol import Event, State
from websockets.streams import StreamReader

from ..phoenix.reasons import CloseReason
from ..replay.connection_proof import ConnectionProof
from .cycles import untie_websocket
from .token_bucket import TokenBucket

__all__ = ["CLOSE_TIMEOUT", "BoundedConnection", "close_within"]

CLOSE_TIMEOUT: Final = 2.0
"""Seconds a client has to take, and answer, a close frame."""

_MOST_AFTER_CLOSE: Final = 1024 * 1024
"""Bytes that a client may send after our close frame, before it answers it: what was under way."""
_SLICE: Final = 2048
"""Bytes that are parsed at once: some hundred frames at most."""
_CONTROL_COST: Final = 10
"""How many messages a control frame counts as: each ping is answered with a write of its own."""
_BYTES_PER_MESSAGE: Final = 8192
"""Bytes of a frame that count as one more message."""
_BYTES_IF_COMPRESSED: Final = 1024
"""The same where frames may be compressed: a kilobyte may become a megabyte, which takes 3 ms to
inflate."""
_MALFORMED: Final = """\
The request is not what HTTP/1.1 (RFC 9112) and RFC 6455 ask for; an upgrade has no body, at \
most 128 headers, and no line of more than 8192 bytes.
"""
_CODES_OF_CLIENTS: Final = (
    CloseCode.NORMAL_CLOSURE,
    CloseCode.GOING_AWAY,
    CloseCode.NO_STATUS_RCVD,
)
_LONE_PONG: Final = Struct("!BBIQ")
"""A pong of eight bytes from a client: its head, the mask, the masked payload."""
_FIN_PONG: Final = 0x8A
_MASKED_8: Final = 0x88
_TO_BOTH_HALVES: Final = 0x1_0000_0001
"""Times this, a mask is as long as the payload."""
_BETWEEN_FRAMES: Final = StreamReader.at_eof.__code__
"""Where websockets' parser waits for the first byte of a frame."""
_OVERRIDDEN: Final = ("send_data", "pause_writing", "resume_writing", "connection_lost")


class WriteObserver(Protocol):
    """Whom a connection tells when it may be written to otherwise than before: its outbox, which
    writes to the same transport."""

    def update(self) -> None:
        """Read again from the connection and its transport whether the connection is open, how many
        bytes wait to be sent, and whether a message is being sent: any of it may have changed."""
        ...


class LimitObserver(Protocol):
    """The server, which counts and logs what happens to its connections."""

    def count_flood(self) -> None:
        """Count a client that sent too many frames; its connection is being closed."""
        ...

    def check_backlog(self, transport: asyncio.Transport) -> None:
        """Disconnect a client if too much waits for it."""
        ...

    def count_malformed(self, transport: asyncio.BaseTransport) -> None:
        """Count a new connection that sent something else than a request."""
        ...

    def forget(self, transport: asyncio.Transport) -> None:
        """Remove a connection that has ended."""
        ...


class BoundedConnection(ServerConnection):
    """A connection that is closed when its client sends too much.

    Args:
        arguments: of websockets' connection.
        frames_per_second: that the client may send. A control frame counts as ten, and each 8 KiB
            of a frame as one more, or each KiB if frames may be compressed.
        observer: the server, which counts what happens.
        options: of websockets' connection.
    """

    # Python gives an object of more than 30 attributes a dictionary of its own, of 1.3 KB.
    __slots__ = (
        "_after_close",
        "_cost",
        "_frames_per_second",
        "_is_malformed",
        "_observer",
        "_rate",
        "_takes_pongs",
        "outbox",
        "proof",
    )

    tells = all(map(partial(hasattr, ServerConnection), _OVERRIDDEN))
    """Whether the installed websockets has all the methods by which changes are noticed."""

    def __init__(
        self,
        *arguments: Any,
        frames_per_second: int,
        observer: LimitObserver,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options | {"write_limit": 0})
        self._rate = TokenBucket(frames_per_second, self.loop.time())
        self._frames_per_second = frames_per_second
        self._observer = observer
        self._cost = 0
        # Bytes that came after our close frame; None: it was not sent, or because of what came, so
        # that nothing is parsed any more.
        self._after_close: int | None = None
        self._is_malformed = False
        # Whether what comes next is the first byte of a frame, and the library waits for no pong:
        # then a lone pong need not go through it. Of thousands of connections nothing is in the
        # processor's cache any more, so to find it out with each pong takes longer than all else.
        self._takes_pongs = False
        self.outbox: WriteObserver | None = None
        """Told when something changes that decides whether frames may be written directly."""
        self.proof: ConnectionProof | None = None
        """Told of what shows which frames the client has received; None if nobody asks."""

    def process_event(self, event: Event) -> None:
        if isinstance(event, Frame):
            is_asked_for = self.proof is not None and self._note_frame(self.proof, event)
            if not is_asked_for:
                self._cost += _CONTROL_COST if event.opcode in CTRL_OPCODES else 1
            size = _BYTES_IF_COMPRESSED if self.protocol.extensions else _BYTES_PER_MESSAGE
            self._cost += len(event.data) // size
        super().process_event(event)

    def _note_frame(self, proof: ConnectionProof, frame: Frame) -> bool:
        """Note a frame in the proof; return whether it is the answer to one of our pings."""
        opcode = frame.opcode
        if opcode is Opcode.PONG:
            return proof.pong(bytes(frame.data))
        if opcode is Opcode.TEXT or opcode is Opcode.BINARY:
            proof.received()
        elif opcode is Opcode.CLOSE:
            protocol = self.protocol
            received, sent = protocol.close_rcvd, protocol.close_sent
            if protocol.close_rcvd_then_sent:
                proof.closed_by_client()
            elif _is_answer(received, sent):
                proof.close_answered()
            elif not (proof.has_read_all and _may_be_answer(received)):
                # Its close frame and ours have crossed.
                proof.closed_by_client()
        return False

    async def close(self, code: int = CloseCode.NORMAL_CLOSURE, reason: str = "") -> None:
        if self.protocol.state is State.OPEN:
            self._after_close = 0
            # Whoever answers this ping has everything, whatever it closes with.
            if self.proof is not None:
                self.proof.ask_finally()
        await super().close(code, reason)

    def data_received(self, data: bytes) -> None:
        proof = self.proof
        if (
            self._takes_pongs
            and len(data) == _LONE_PONG.size
            and proof is not None
            and self._take_lone_pong(proof, data)
        ):
            return
        if self._after_close is not None and self.protocol.state is State.CLOSING:
            # All of it is parsed only to be dropped, while the server may be about to end.
            self._after_close += len(data)
            if self._after_close > _MOST_AFTER_CLOSE:
                self.transport.abort()
                return
        for start in range(0, len(data), _SLICE):
            self._cost = 0
            super().data_received(data[start : start + _SLICE])
            if self.protocol.state is State.OPEN:
                self._check()
            if self.transport.is_closing():
                # asyncio would log each pong that is written to an aborted connection.
                break
        self._takes_pongs = self._is_between_frames()

    def _is_between_frames(self) -> bool:
        """Return whether an open connection waits for the beginning of a frame, and for no pong."""
        protocol = self.protocol
        if protocol.state is not State.OPEN or protocol.reader.buffer or self.pending_pings:
            return False
        # A generator: where it has stopped says what it waits for.
        step: Any = protocol.parser
        while (inner := step.gi_yieldfrom) is not None:
            step = inner
        return step.gi_code is _BETWEEN_FRAMES

    def _take_lone_pong(self, proof: ConnectionProof, data: bytes) -> bool:
        """Take one whole pong that answers one of our pings; return whether this is one."""
        fin_and_opcode, length, mask, masked = _LONE_PONG.unpack(data)
        if fin_and_opcode != _FIN_PONG or length != _MASKED_8:
            return False
        # The library takes what is no answer: it counts against what a client may send.
        return proof.answered(masked ^ mask * _TO_BOTH_HALVES)

    def eof_received(self) -> None:
        super().eof_received()
        # The server is to be the first to close (RFC 6455, section 7.1.1). A client that closes
        # its half waits for nothing more, but could keep the server's buffer full for a long time.
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def send_data(self) -> None:
        wrong = self.protocol.handshake_exc
        if wrong is not None and self.request is None and not self._is_malformed:
            self._is_malformed = True
            self._observer.count_malformed(self.transport)
            # Newer versions of websockets answer a request that is too long by themselves.
            if isinstance(wrong, InvalidMessage):
                answer = self.protocol.reject(HTTPStatus.BAD_REQUEST, _MALFORMED)
                self.transport.write(answer.serialize())
        super().send_data()
        # Each change of the connection's state, each fragmented message, and each ping of the
        # library comes through here.
        self._takes_pongs = False
        self._tell_outbox()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._tell_outbox()
        self._observer.forget(self.transport)
        self.outbox = self.proof = None
        untie_websocket(self)

    # With ``write_limit=0`` asyncio calls pause_writing() as soon as the transport's buffer is not
    # empty, and resume_writing() when it is empty again (see its "Flow Control Callbacks").

    def pause_writing(self) -> None:
        super().pause_writing()
        self._tell_outbox()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._tell_outbox()

    def _tell_outbox(self) -> None:
        if self.outbox is not None:
            self.outbox.update()

    def _check(self) -> None:
        if not self._rate.take(self.loop.time(), self._cost):
            self._observer.count_flood()
            self.protocol.fail(
                CloseReason.MESSAGES.code,
                CloseReason.MESSAGES.told(most=self._frames_per_second),
            )
            # Send the close frame. websockets discards what the client sends from now on.
            super().data_received(b"")
        else:
            # The client may leave the answers to its pings unread, even before it has an outbox.
            self._observer.check_backlog(self.transport)


def _is_answer(received: Close | None, sent: Close | None) -> bool:
    """Return whether a client's close frame answers ours, and is none that it sent meanwhile: an
    answer repeats the code, and the codes that clients close with by themselves are others. With
    such a code our reason tells, if it is repeated."""
    if received is None or sent is None or received.code != sent.code:
        return False
    repeats_reason = received.reason == sent.reason != ""
    return repeats_reason or received.code not in _CODES_OF_CLIENTS


def _may_be_answer(received: Close | None) -> bool:
    """Return whether a client's close frame may be the answer of a library that answers each close
    frame with the code 1000. A client that closes by itself gives a reason, or no code either."""
    return (
        received is not None and received.code == CloseCode.NORMAL_CLOSURE and not received.reason
    )


async def close_within(
    websocket: ServerConnection, code: int, reason: str, *, within: float = CLOSE_TIMEOUT
) -> None:
    """Close a connection with a close frame, or abort it if that takes longer than ``within``.

    websockets' own timeout begins when the close frame is sent, which never happens if the client
    does not read what was written before it.
    """
    try:
        async with asyncio.timeout(within):
            await websocket.close(code, reason)
    except TimeoutError:
        websocket.transport.abort()
