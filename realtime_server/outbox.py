"""SocketOutbox: where a socket's frames go, bounded in bytes.

The bound is on the transport's own buffer; there is no queue and no task. Frames are
written as they are published. A client that lets more than the bound pile up is cut off:
its socket is full, so it cannot even be sent a close frame and sees 1006. Nobody waits
for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

__all__ = ["OutboxCounters", "SocketOutbox"]

logger = logging.getLogger("realtime.outbox")


class OutboxCounters:
    """What all outboxes of a server have seen."""

    def __init__(self) -> None:
        self.frames = 0
        """Written to connections."""
        self.bytes = 0
        """Of these frames."""
        self.slow_clients = 0
        """Connections that were cut off because they fell behind."""


class SocketOutbox:
    """The outbox of one connection.

    Args:
        transport: the connection's.
        is_open: whether a frame may be written now.
        max_bytes: what may wait in the transport. One write larger than that is taken when
            nothing waits.
        counters: of the server.
        peer: names the client in the log.
    """

    def __init__(
        self,
        transport: asyncio.Transport,
        is_open: Callable[[], bool],
        *,
        max_bytes: int,
        counters: OutboxCounters,
        peer: str,
    ) -> None:
        self._transport = transport
        self._is_open = is_open
        self._max_bytes = max_bytes
        self._counters = counters
        self._peer = peer

    def write(self, frames: bytes, count: int = 1) -> None:
        """Write ``count`` whole frames, or cut the client off."""
        # A transport that is closing would log each write as an error of its own.
        if self._transport.is_closing() or not self._is_open():
            return
        waiting = self._transport.get_write_buffer_size()
        if waiting and waiting + len(frames) > self._max_bytes:
            self._counters.slow_clients += 1
            logger.warning(
                "client %s is too slow: %d bytes wait for it, at most %d may "
                "(OUTBOX_MAX_BYTES); disconnected",
                self._peer,
                waiting + len(frames),
                self._max_bytes,
            )
            self._transport.abort()
            return
        counters = self._counters
        counters.frames += count
        counters.bytes += len(frames)
        self._transport.write(frames)
