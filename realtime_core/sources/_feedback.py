"""Feedback: sends status updates in time, and notices a server that is silent for too long.

PostgreSQL ends a connection whose client sends nothing for ``wal_sender_timeout``. The source does
the same with a server. A server that has nothing to send answers a status update that asks for an
answer, so silence means that the connection is dead, although TCP has not noticed: a proxy has
stalled, or a firewall has dropped the connection.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

from ..replication.progress import SlotProgress
from ..replication.protocol import format_status_update
from ._replication_connection import ReplicationConnection

__all__ = ["EPOCH", "Feedback"]

EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_ACK_DELAY: Final = 0.05
"""Seconds from an acknowledgement to its status update, which it shares with those that follow."""


class Feedback:
    """Tells the server how far the stream was received and acknowledged, until it is stopped.

    Args:
        connection: the connection that streams.
        progress: how far the stream was received and acknowledged.
        interval: the most seconds between two status updates.
        patience: after how many seconds of silence a server is given up, although it was asked
            for an answer.
    """

    def __init__(
        self,
        connection: ReplicationConnection,
        progress: SlotProgress,
        *,
        interval: float,
        patience: float,
    ) -> None:
        self._connection = connection
        self._progress = progress
        self._interval = interval
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        # The timer of the next regular status update.
        self._timer: asyncio.TimerHandle | None = None
        # The timer of a status update for an acknowledgement.
        self._ack_timer: asyncio.TimerHandle | None = None
        # Since when a read has waited without anything coming; None while no read waits.
        self._silent_since: float | None = None
        self._tick()

    def heard(self) -> None:
        """Note that the server has sent something."""
        self._silent_since = None

    def send_soon(self) -> None:
        """Send a status update within 50 ms, for an acknowledgement."""
        if self._ack_timer is None:
            self._ack_timer = self._loop.call_later(_ACK_DELAY, self.send)

    def send(self, *, reply_requested: bool = False) -> None:
        """Send a status update now."""
        if self._ack_timer is not None:
            self._ack_timer.cancel()
            self._ack_timer = None
        flushed = self._progress.flushed
        self._connection.send(
            format_status_update(
                written=max(self._progress.written, flushed),
                flushed=flushed,
                applied=flushed,
                time=int((datetime.now(UTC) - EPOCH).total_seconds() * 1_000_000),
                reply_requested=reply_requested,
            )
        )

    def stop(self) -> None:
        """Send no more status updates."""
        for timer in (self._timer, self._ack_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._ack_timer = None

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._tick)
        # While no read waits, the server may have sent something that is still unread.
        now = self._loop.time()
        if not self._connection.waiting:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since > self._patience:
            self._connection.interrupt(
                f"the server has sent nothing for {self._patience:g} s, though asked to answer"
            )
        self.send(reply_requested=self._silent_since is not None)
