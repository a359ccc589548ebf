"""BoundedConnection: websockets' connection, bounded in what it takes and what it answers.

websockets stops reading while messages wait to be received, but control frames do not
wait: it parses as many as come, and writes a pong for each ping whether the client reads
them or not. What arrives in one piece may be tens of thousands of frames, and everybody
else waits while they are parsed; so they are parsed in slices, and counted. And what it
cannot read as a request at all, it would close without an answer.

It also says when something changes that decides whether frames may be written past it.
"""

from __future__ import annotations

import asyncio
from functools import partial
from http import HTTPStatus
from typing import Any, Final, Protocol

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import InvalidMessage
from websockets.frames import CTRL_OPCODES, Frame
from websockets.protocol import Event, State

from ..phoenix.reasons import CloseReason
from .aio import TokenBucket

__all__ = ["CLOSE_TIMEOUT", "BoundedConnection", "close_within"]

CLOSE_TIMEOUT: Final = 2.0
"""Seconds a client has to take, and answer, a close frame."""

_SLICE: Final = 2048
"""Bytes parsed at once: at most some hundred frames."""
_CONTROL_COST: Final = 10
"""Messages that a control frame counts as: each ping is answered with a write of its own."""
_SIZE_OF_A_MESSAGE: Final = 8192
"""Bytes that count as one more message."""
_INFLATED_SIZE: Final = 1024
"""The same where messages may come compressed: a kilobyte becomes a megabyte, which takes 3 ms."""
_MALFORMED: Final = """\
The request is not what HTTP/1.1 (RFC 9112) and RFC 6455 ask for; an upgrade has no body, at \
most 128 headers, and no line of more than 8192 bytes.
"""
_TELLING: Final = ("send_data", "pause_writing", "resume_writing", "connection_lost")


class WriteObserver(Protocol):
    """The connection's outbox, which writes to the same transport."""

    def update(self) -> None:
        """Note that the state, what waits, or a message that is being sent may have changed."""
        ...


class LimitObserver(Protocol):
    """The server, which counts and logs what happens to its connections."""

    def flooded(self) -> None:
        """Count a client that sent too many frames; its connection is being closed."""
        ...

    def check_backlog(self, transport: asyncio.Transport) -> None:
        """Disconnect a client if too much waits for it."""
        ...

    def got_no_request(self, transport: asyncio.BaseTransport) -> None:
        """Count a new connection that sent something else than a request."""
        ...

    def leave(self, transport: asyncio.Transport) -> None:
        """Forget a connection: it is gone."""
        ...


class BoundedConnection(ServerConnection):
    """A connection that ends when its client sends too much.

    Args:
        arguments: of websockets' connection.
        frames_per_second: that the client may send; a control frame counts as ten, and each 8 KiB
            of a frame as one more, each KiB where it may have come compressed.
        observer: told what happens.
        options: of websockets' connection.
    """

    # Python gives an object of more than 30 attributes a dictionary of its own, of 1.3 KB.
    __slots__ = (
        "_cost",
        "_frames_per_second",
        "_is_malformed",
        "_observer",
        "_rate",
        "outbox",
    )

    tells = all(map(partial(hasattr, ServerConnection), _TELLING))
    """Whether the library is one of which all changes are noticed."""

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
        self._is_malformed = False
        self.outbox: WriteObserver | None = None
        """Told when frames may be written past the connection no more, or again."""

    def process_event(self, event: Event) -> None:
        if isinstance(event, Frame):
            self._cost += _CONTROL_COST if event.opcode in CTRL_OPCODES else 1
            size = _INFLATED_SIZE if self.protocol.extensions else _SIZE_OF_A_MESSAGE
            self._cost += len(event.data) // size
        super().process_event(event)

    def data_received(self, data: bytes) -> None:
        for start in range(0, len(data), _SLICE):
            self._cost = 0
            super().data_received(data[start : start + _SLICE])
            if self.protocol.state is State.OPEN:
                self._check()
            if self.transport.is_closing():
                # asyncio would log each pong to a connection that was cut off.
                break

    def eof_received(self) -> None:
        super().eof_received()
        # The server is to be the first to close (RFC 6455, section 7.1.1): whoever closes its
        # half waits for nothing more, but could keep what waits for it here for a long time.
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def send_data(self) -> None:
        wrong = self.protocol.handshake_exc
        if wrong is not None and self.request is None and not self._is_malformed:
            self._is_malformed = True
            self._observer.got_no_request(self.transport)
            # A newer library answers what is too long by itself.
            if isinstance(wrong, InvalidMessage):
                answer = self.protocol.reject(HTTPStatus.BAD_REQUEST, _MALFORMED)
                self.transport.write(answer.serialize())
        super().send_data()
        # Whatever changes the connection's state, or begins a fragmented message, comes here.
        self._tell()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._tell()
        self._observer.leave(self.transport)

    # It writes nothing into a buffer of its own, so it is paused as long as the transport's is
    # not empty (see asyncio's "Flow Control Callbacks"): that is what ``write_limit=0`` is for.

    def pause_writing(self) -> None:
        super().pause_writing()
        self._tell()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._tell()

    def _tell(self) -> None:
        if self.outbox is not None:
            self.outbox.update()

    def _check(self) -> None:
        if not self._rate.take(self.loop.time(), self._cost):
            self._observer.flooded()
            self.protocol.fail(
                CloseReason.MESSAGES.code,
                CloseReason.MESSAGES.told(most=self._frames_per_second),
            )
            # Sends the close frame; what the client sends from now on is thrown away.
            super().data_received(b"")
        else:
            # The client may leave the answers to its pings unread, even before it has an outbox.
            self._observer.check_backlog(self.transport)


async def close_within(
    websocket: ServerConnection, code: int, reason: str, *, within: float = CLOSE_TIMEOUT
) -> None:
    """Close a connection in good order, or abort it.

    websockets' own timeout begins when the close frame is sent; a client that does not read
    lets it not even come to that.
    """
    try:
        async with asyncio.timeout(within):
            await websocket.close(code, reason)
    except TimeoutError:
        websocket.transport.abort()
