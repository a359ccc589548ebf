"""SocketOutbox: where a client's frames go, bounded in bytes and in time.

The bound is on the transport's own buffer: there is no queue and no task. Frames are written as
they are published, without websockets' connection, which would serialise each message anew for each
client, and ask the socket to take each message by itself. So this module knows how websockets'
connection is made. Messages go through its ``send()`` where this module does not know it (see
:func:`_delivery_of`), and while a fragmented message is being sent, into which no other message may
be put.

Of thousands of clients nearly all have taken what was written to them before. To ask each
connection whether that is so takes longer than the write, as nothing of it is in the processor's
cache any more. So a :class:`~realtime_server.net.frame_limits.BoundedConnection` says when
something about it changes, and the outbox keeps what follows from it in one attribute,
``is_clear``. Other connections are asked each time.

When too much waits for a client, or for too long, :mod:`~realtime_server.net.slow_clients` has it
cut off: its socket is full, so it cannot even be sent a close frame, and sees code 1006. Nobody
waits for it.

Where it is to be known what clients have received, the outbox notes which write was the last, and
tells the connection's :class:`~realtime_server.replay.connection_proof.ConnectionProof` of pings.
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

from ..fanout.frames import DEFLATE_WINDOW_BITS, Frame, Frames, TextFrame
from ..replay.connection_proof import ping_payload
from ..replay.proofs import Proofs
from .frame_limits import BoundedConnection
from .slow_clients import Backlog, WaitingAge

__all__ = ["FrameDelivery", "OutboxCounters", "SocketOutbox", "cut_off"]

logger = logging.getLogger("realtime.outbox")

_LOOKS: Final = 8
"""How often the age of what waits is checked within the time that a byte may wait."""


class OutboxCounters:
    """The counts of all outboxes of a server together."""

    def __init__(self) -> None:
        self.frames = 0
        """Frames that were written to connections."""
        self.bytes = 0
        """Bytes of these frames, as they were written."""
        self.slow_clients = 0
        """Clients that were disconnected because they were too slow."""


class FrameDelivery(Enum):
    """How frames get to a connection."""

    PLAIN = auto()
    """Written to its transport as they are."""
    DEFLATED = auto()
    """Written to its transport, compressed."""
    BY_LIBRARY = auto()
    """Sent by websockets, one by one."""


class SocketOutbox:
    """The outbox of one connection.

    Args:
        websocket: open.
        backlog: of the server: it says when the client is too slow.
        counters: of the server.
        peer: names the client in the log.
        proofs: of the server; None if nobody asks what clients have received.
    """

    # Thousands of outboxes are written to in a row: the closer in memory the better.
    __slots__ = (
        "_age",
        "_backlog",
        "_counters",
        "_fd",
        "_is_closed",
        "_is_deflated",
        "_is_told",
        "_next_look",
        "_noted",
        "_peer",
        "_queue",
        "_queued_bytes",
        "_sending",
        "_transport",
        "delivery",
        "is_clear",
        "proof",
        "websocket",
        "written",
    )

    def __init__(
        self,
        websocket: ServerConnection,
        *,
        backlog: Backlog,
        counters: OutboxCounters,
        peer: str,
        proofs: Proofs | None = None,
    ) -> None:
        self.websocket = websocket
        """The connection that it writes to."""
        self._transport = websocket.transport
        # The socket's file descriptor, -1 if it must not be written to directly.
        self._fd = _descriptor(websocket.transport)
        self.delivery = _delivery_of(websocket)
        """How frames get to the connection."""
        # The same as a bool, which is read with each write.
        self._is_deflated = self.delivery is FrameDelivery.DEFLATED
        self._backlog = backlog
        self._counters = counters
        self._peer = peer
        self.is_clear = False
        """Whether the next frames may be written to the socket without asking the connection."""
        # Whether the connection is gone, so that nothing is reported of it any more.
        self._is_closed = False
        # Whether the connection says when something about it changes.
        self._is_told = (
            isinstance(websocket, BoundedConnection) and websocket.tells and self._fd >= 0
        )
        # Bytes that the backlog was told to wait here.
        self._noted = 0
        # How long what waits has waited; None while nothing waits.
        self._age: WaitingAge | None = None
        # When the age is checked next.
        self._next_look: asyncio.TimerHandle | None = None
        # What goes through websockets, messages and pings' ordinals, and the task that sends it. An
        # empty deque takes 0.7 KB.
        self._queue: deque[Frame | int] | None = None
        self._queued_bytes = 0
        self._sending: asyncio.Task[None] | None = None
        self.written = 0
        """The ordinal of the last write that was handed to it and has one, even if it came too late
        to be written."""
        self.proof = None if proofs is None else proofs.connect(self)
        """What the client is proven to have received; None if nobody asks."""
        if isinstance(websocket, BoundedConnection):
            websocket.outbox = self
            websocket.proof = self.proof
        self.update()

    @property
    def is_open(self) -> bool:
        """Whether neither side has begun to close the connection."""
        return self.websocket.protocol.state is OPEN

    @property
    def is_watching(self) -> bool:
        """Whether the age of the waiting bytes is going to be checked."""
        return self._next_look is not None and not self._next_look.cancelled()

    @property
    def is_sending(self) -> bool:
        """Whether websockets is sending messages of this outbox."""
        return self._sending is not None

    def write(self, frames: Frames) -> None:
        """Write frames, or cut the client off."""
        if not self.is_clear:
            taken = self._write_if_possible(frames)
            if frames.ordinal:
                self._note_ordinal(frames, taken)
            return
        data = frames.deflated if self._is_deflated else frames.plain
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
            # The transport reports an error only in the next round of the event loop.
            self.update()
        if ordinal := frames.ordinal:
            self.written = ordinal
            if frames.ping and self.proof is not None:
                self.proof.asked(ordinal)

    def _note_ordinal(self, frames: Frames, taken: bool) -> None:
        """Note the ordinal of frames that were taken, or came too late."""
        proof = self.proof
        if proof is not None and (not taken or self._sending is not None):
            proof.doubt()
        self.written = frames.ordinal
        if proof is not None and frames.ping and taken:
            proof.asked(frames.ordinal)

    def update(self) -> None:
        """Read the connection's state again, and report how many bytes wait."""
        websocket, transport = self.websocket, self._transport
        waiting = transport.get_write_buffer_size()
        self.is_clear = (
            self._is_told
            and not waiting
            and self.delivery is not FrameDelivery.BY_LIBRARY
            and self._sending is None
            and websocket.send_in_progress is None
            and websocket.protocol.state is OPEN
            and not transport.is_closing()
        )
        if not waiting:
            self._age = None
        elif self._age is None and not transport.is_closing():
            loop = asyncio.get_running_loop()
            self._age = WaitingAge(waiting, loop.time())
            self._look_later(loop)
        held = waiting + self._queued_bytes
        if held != self._noted:
            self._note(held)

    def _write_if_possible(self, frames: Frames) -> bool:
        """Write frames, unless the connection is closing or its client is too slow; return whether
        they were written, or are going to be."""
        websocket, transport = self.websocket, self._transport
        # A transport that is closing would log each write as an error of its own.
        if transport.is_closing():
            return False
        if (
            self.delivery is FrameDelivery.BY_LIBRARY
            or self._sending is not None
            or websocket.send_in_progress is not None
        ):
            return self._enqueue(frames)
        if websocket.protocol.state is not OPEN:
            return False
        data = frames.deflated if self._is_deflated else frames.plain
        size = len(data)
        waiting = transport.get_write_buffer_size()
        if waiting and not self._may_wait(waiting + size):
            return False
        counters = self._counters
        counters.frames += frames.count
        counters.bytes += size
        if self._age is not None:
            self._age.wrote(size)
        transport.write(data)
        self.update()
        return True

    @property
    def is_behind(self) -> bool:
        """Whether so many bytes wait that the client may soon be cut off as too slow."""
        return self._backlog.is_behind(self._transport.get_write_buffer_size())

    def waiting(self) -> int:
        """Return how many bytes wait now."""
        return self._transport.get_write_buffer_size() + self._queued_bytes

    def cut_off(self, reason: str) -> None:
        """Disconnect the client because it is too slow, and write nothing more."""
        cut_off(self._transport, self._counters, self._peer, reason)
        self.is_clear = False
        self._note(0)

    def _may_wait(self, size: int) -> bool:
        """Return whether so many bytes may wait; cut the client off if not."""
        reason = self._backlog.why_too_much(size)
        if reason is None:
            return True
        self.cut_off(reason)
        return False

    def close(self) -> None:
        """Stop, because the connection has ended."""
        self.is_clear = False
        if self._next_look is not None:
            self._next_look.cancel()
        self._note(0)
        self._is_closed = True
        if self.proof is not None:
            self.proof.close()
            # It refers to the outbox, so that both would stay until a collection of garbage.
            self.proof = None

    def _note(self, size: int) -> None:
        if not self._is_closed:
            self._noted = size
            self._backlog.note(self, size)

    # How long bytes wait

    def _look_later(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._next_look is None:
            self._next_look = loop.call_later(self._backlog.limits.max_age / _LOOKS, self._look)

    def _look(self) -> None:
        """Check how long the oldest byte has waited."""
        self._next_look = None
        if self._transport.is_closing():
            return
        waiting, age = self._transport.get_write_buffer_size(), self._age
        if age is None or not waiting:
            self.update()
            return
        loop = asyncio.get_running_loop()
        reason = self._backlog.why_too_old(waiting, age.seconds(waiting, loop.time()))
        if reason is not None:
            self.cut_off(reason)
            return
        age.note(loop.time())
        self._look_later(loop)

    # Through websockets

    def _enqueue(self, frames: Frames) -> bool:
        if self.websocket.state is not OPEN:
            return False
        items: list[Frame | int] = [*frames.frames]
        size = sum(map(len, frames.payloads))
        waiting = self._transport.get_write_buffer_size() + self._queued_bytes
        if waiting and not self._may_wait(waiting + size):
            return False
        if frames.ping:
            items.append(frames.ordinal)
        self._counters.frames += frames.count
        self._counters.bytes += size
        self._queued_bytes += size
        if self._queue is None:
            self._queue = deque(items)
            self._sending = asyncio.create_task(self._send(self._queue))
        else:
            self._queue += items
        self._note(waiting + size)
        return True

    async def _send(self, queue: deque[Frame | int]) -> None:
        try:
            while queue:
                item = queue.popleft()
                if isinstance(item, int):
                    # Who waits for the pong hears of it from the connection.
                    await self.websocket.ping(ping_payload(item))
                    continue
                self._queued_bytes -= len(item.payload)
                await self.websocket.send(item.payload, text=isinstance(item, TextFrame))
        except ConnectionClosed:
            self._queued_bytes = 0
        finally:
            self._queue = self._sending = None


def cut_off(transport: asyncio.Transport, counters: OutboxCounters, peer: str, reason: str) -> None:
    """Disconnect a client because it is too slow; count it and log the reason."""
    counters.slow_clients += 1
    logger.warning("client %s is too slow: %s; disconnected", peer, reason)
    transport.abort()


def _descriptor(transport: asyncio.Transport) -> int:
    """Return the socket's descriptor if it may be written to without the transport, else -1."""
    sock = transport.get_extra_info("socket")
    is_plain = transport.get_extra_info("sslcontext") is None
    return sock.fileno() if sock is not None and is_plain and os.name == "posix" else -1


def _delivery_of(websocket: ServerConnection) -> FrameDelivery:
    """Return how frames get to a connection.

    Unmasked frames may be written past websockets as long as the connection keeps no state of what
    was sent, and holds nothing back that is to be sent: so its own frames stay whole and in order.
    """
    protocol = getattr(websocket, "protocol", None)
    known = hasattr(websocket, "send_in_progress") and hasattr(protocol, "state")
    if protocol is None or not known or not hasattr(protocol, "extensions"):
        return FrameDelivery.BY_LIBRARY
    match protocol.extensions:
        case []:
            return FrameDelivery.PLAIN
        case [PerMessageDeflate() as deflate]:
            # A frame that is not compressed is good for everybody, at all times.
            shared = (
                deflate.local_no_context_takeover
                and deflate.local_max_window_bits == DEFLATE_WINDOW_BITS
            )
            return FrameDelivery.DEFLATED if shared else FrameDelivery.PLAIN
        case _:
            return FrameDelivery.BY_LIBRARY
