"""SocketOutbox: where a socket's frames go, bounded in bytes and in time.

The bound is on the transport's own buffer; there is no queue and no task. Frames are
written as they are published, past websockets' connection: it would serialise each message
for each client, and ask the socket to take each by itself. So this module knows what that
connection is made of. Where it cannot (see :func:`_form`), and while a fragmented message is
under way, into which no other may be put, messages go through ``send()``.

Of thousands of clients nearly all have taken what was written before. To ask each connection
whether that is so takes longer than the write, as nothing of it is in the processor's cache
any more. So a :class:`~realtime_server.net.websocket.BoundedConnection` says when something
about it changes, and what follows from it is kept in one attribute; of others it is asked each
time.

A client that lets more than the bound pile up, or any of it for too long, is cut off, and so is
one with more than others when too much waits for all (see :mod:`~realtime_server.net.backlog`): its
socket is full, so it cannot even be sent a close frame and sees 1006. Nobody waits for it.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from enum import Enum, auto
from typing import Final

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.protocol import OPEN

from .backlog import Backlog
from .frames import DEFLATE_WINDOW_BITS, Frames
from .websocket import BoundedConnection

__all__ = ["OutboxCounters", "SocketOutbox"]

logger = logging.getLogger("realtime.outbox")

_LOOKS: Final = 8
"""How often it is looked at in the time that a byte may wait."""


class OutboxCounters:
    """What all outboxes of a server have seen."""

    def __init__(self) -> None:
        self.frames = 0
        """Written to connections."""
        self.bytes = 0
        """Of these frames, as they were written."""
        self.slow_clients = 0
        """Connections that were cut off because they fell behind."""


class _Form(Enum):
    """How frames get to a connection."""

    PLAIN = auto()
    DEFLATED = auto()
    BY_THE_LIBRARY = auto()


class SocketOutbox:
    """The outbox of one connection.

    Args:
        websocket: open.
        max_bytes: what may wait in the transport. One write larger than that is taken when
            nothing waits.
        max_age: seconds that a byte may wait. It is found out when a quarter more has passed,
            at most.
        backlog: of the server: what waits for all clients together.
        counters: of the server.
        peer: names the client in the log.
    """

    # Thousands of them are looked at in a row: the closer in memory the better.
    __slots__ = (
        "_backlog",
        "_by_the_library",
        "_counters",
        "_deflated",
        "_fd",
        "_is_clear",
        "_is_closed",
        "_is_told",
        "_marks",
        "_max_age",
        "_max_bytes",
        "_next_look",
        "_noted",
        "_peer",
        "_queue",
        "_queued_bytes",
        "_sending",
        "_transport",
        "_websocket",
        "_written",
    )

    def __init__(
        self,
        websocket: ServerConnection,
        *,
        max_bytes: int,
        max_age: float,
        backlog: Backlog,
        counters: OutboxCounters,
        peer: str,
    ) -> None:
        self._websocket = websocket
        self._transport = websocket.transport
        self._fd = _descriptor(websocket.transport)
        form = _form(websocket)
        self._by_the_library = form is _Form.BY_THE_LIBRARY
        self._deflated = form is _Form.DEFLATED
        self._max_bytes = max_bytes
        self._max_age = max_age
        self._backlog = backlog
        self._counters = counters
        self._peer = peer
        # Whether the next frames may be written without a further look.
        self._is_clear = False
        self._is_closed = False
        self._is_told = (
            isinstance(websocket, BoundedConnection) and websocket.tells and self._fd >= 0
        )
        # What the backlog was told of this outbox.
        self._noted = 0
        # While bytes wait: up to where was written at each look, and when that was.
        self._written = 0
        self._marks: list[tuple[int, float]] = []
        self._next_look: asyncio.TimerHandle | None = None
        # What goes through the library, and who sends it. An empty deque takes 0.7 KB.
        self._queue: deque[bytes] | None = None
        self._queued_bytes = 0
        self._sending: asyncio.Task[None] | None = None
        if isinstance(websocket, BoundedConnection):
            websocket.outbox = self
        self.update()

    def write(self, frames: Frames) -> None:
        """Write frames, or cut the client off."""
        if not self._is_clear:
            self._write_if_possible(frames)
            return
        data = frames.deflated if self._deflated else frames.plain
        size = len(data)
        counters = self._counters
        counters.frames += frames.count
        counters.bytes += size
        try:
            # What the transport would do first, as nothing waits in it.
            sent = os.write(self._fd, data)
        except OSError:
            # It will see the same, and do about it what is to be done.
            sent = 0
        if sent < size:
            self._transport.write(data[sent:])
            # An error is not told of before the event loop's next turn.
            self.update()

    def update(self) -> None:
        """Take note that something about the connection may have changed."""
        websocket, transport = self._websocket, self._transport
        waiting = transport.get_write_buffer_size()
        self._is_clear = (
            self._is_told
            and not waiting
            and not self._by_the_library
            and self._sending is None
            and websocket.send_in_progress is None
            and websocket.protocol.state is OPEN
            and not transport.is_closing()
        )
        if not waiting:
            self._marks.clear()
        elif not self._marks and not transport.is_closing():
            self._written = waiting
            self._mark()
        held = waiting + self._queued_bytes
        if held != self._noted:
            self._note(held)

    def _write_if_possible(self, frames: Frames) -> None:
        websocket, transport = self._websocket, self._transport
        # A transport that is closing would log each write as an error of its own.
        if transport.is_closing():
            return
        if (
            self._by_the_library
            or self._sending is not None
            or websocket.send_in_progress is not None
        ):
            self._enqueue(frames)
            return
        if websocket.protocol.state is not OPEN:
            return
        data = frames.deflated if self._deflated else frames.plain
        size = len(data)
        waiting = transport.get_write_buffer_size()
        if waiting and waiting + size > self._max_bytes:
            self._overflow(waiting + size)
            return
        counters = self._counters
        counters.frames += frames.count
        counters.bytes += size
        self._written += size
        transport.write(data)
        self.update()

    @property
    def is_behind(self) -> bool:
        """Whether more than a quarter waits of what may, or anything where much does for all."""
        waiting = self._transport.get_write_buffer_size()
        return 4 * waiting > self._max_bytes or (waiting > 0 and self._backlog.is_high)

    def waiting(self) -> int:
        """Return how many bytes wait now."""
        return self._transport.get_write_buffer_size() + self._queued_bytes

    def give_up(self, total: int, most: int) -> None:
        """Cut the client off, as too much waits for all, and the most of it for this one."""
        self._cut_off(
            f"{self.waiting()} bytes wait for it, and {total} for all clients, at most {most} may "
            "(OUTBOX_TOTAL_BYTES)"
        )

    def close(self) -> None:
        """Watch no more: the connection is gone."""
        self._is_clear = False
        if self._next_look is not None:
            self._next_look.cancel()
        self._note(0)
        self._is_closed = True

    def _overflow(self, size: int) -> None:
        self._cut_off(f"{size} bytes wait for it, at most {self._max_bytes} may (OUTBOX_MAX_BYTES)")

    def _cut_off(self, why: str) -> None:
        self._counters.slow_clients += 1
        logger.warning("client %s is too slow: %s; disconnected", self._peer, why)
        self._transport.abort()
        self._is_clear = False
        self._note(0)

    def _note(self, size: int) -> None:
        if not self._is_closed:
            self._noted = size
            self._backlog.note(self, size)

    # How long bytes wait

    def _mark(self) -> None:
        """Remember that what was written so far still waits now; look again later."""
        loop = asyncio.get_running_loop()
        self._marks.append((self._written, loop.time()))
        if self._next_look is None:
            self._next_look = loop.call_later(self._max_age / _LOOKS, self._look)

    def _look(self) -> None:
        """Look how old the bytes are that wait."""
        self._next_look = None
        if self._transport.is_closing():
            return
        waiting = self._transport.get_write_buffer_size()
        # The library's own few bytes in the buffer make ours look older, never younger.
        gone = self._written - waiting
        marks = self._marks
        while marks and marks[0][0] <= gone:
            del marks[0]
        if not waiting:
            marks.clear()
            return
        age = asyncio.get_running_loop().time() - marks[0][1] if marks else 0.0
        if age > self._max_age:
            self._cut_off(
                f"{waiting} bytes wait for it, the oldest for {age:.1f} s, at most "
                f"{self._max_age:g} may be (OUTBOX_MAX_AGE)"
            )
            return
        self._mark()

    # Through the library

    def _enqueue(self, frames: Frames) -> None:
        if self._websocket.state is not OPEN:
            return
        size = sum(map(len, frames.payloads))
        waiting = self._transport.get_write_buffer_size() + self._queued_bytes
        if waiting and waiting + size > self._max_bytes:
            self._overflow(waiting + size)
            return
        self._counters.frames += frames.count
        self._counters.bytes += size
        self._queued_bytes += size
        if self._queue is None:
            self._queue = deque(frames.payloads)
            self._sending = asyncio.create_task(self._send(self._queue))
        else:
            self._queue += frames.payloads
        self._note(waiting + size)

    async def _send(self, queue: deque[bytes]) -> None:
        try:
            while queue:
                payload = queue.popleft()
                self._queued_bytes -= len(payload)
                await self._websocket.send(payload, text=True)
        except ConnectionClosed:
            self._queued_bytes = 0
        finally:
            self._queue = self._sending = None


def _descriptor(transport: asyncio.Transport) -> int:
    """Return what may be written to without the transport's help, -1 if nothing."""
    sock = transport.get_extra_info("socket")
    is_plain = transport.get_extra_info("sslcontext") is None
    return sock.fileno() if sock is not None and is_plain and os.name == "posix" else -1


def _form(websocket: ServerConnection) -> _Form:
    """Find out how to write to a connection without the library's help.

    Unmasked frames may be written past it as long as it keeps no state of what was sent, and
    nothing that is to be sent: so the frames are its own, whole and in order.
    """
    protocol = getattr(websocket, "protocol", None)
    known = hasattr(websocket, "send_in_progress") and hasattr(protocol, "state")
    if protocol is None or not known or not hasattr(protocol, "extensions"):
        return _Form.BY_THE_LIBRARY
    match protocol.extensions:
        case []:
            return _Form.PLAIN
        case [PerMessageDeflate() as deflate]:
            # A frame that is not compressed is good for everybody, at all times.
            shared = (
                deflate.local_no_context_takeover
                and deflate.local_max_window_bits == DEFLATE_WINDOW_BITS
            )
            return _Form.DEFLATED if shared else _Form.PLAIN
        case _:
            return _Form.BY_THE_LIBRARY
