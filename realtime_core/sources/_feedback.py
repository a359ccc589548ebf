"""Feedback: status updates on time, and the notice when the server falls silent.

PostgreSQL ends a connection whose client says nothing for ``wal_sender_timeout``; the same is
done here to a server. A server that has nothing to send answers a status update that asks it
to, so silence means that the connection is dead, although no packet says so: a stalled proxy,
a firewall that forgot it.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Final

from ..replication.progress import Progress
from ..replication.protocol import format_status_update
from ._connection import ReplicationConnection

__all__ = ["EPOCH", "Feedback"]

EPOCH: Final = datetime(2000, 1, 1, tzinfo=UTC)
_ACK_DELAY: Final = 0.05
"""Seconds within which acknowledgements share one status update."""


class Feedback:
    """Tells the server how far its stream was dealt with, until it is stopped.

    Args:
        interval: seconds between status updates, at most.
        patience: seconds without a sign of life after which a server that was asked for one
            is given up.
    """

    def __init__(
        self,
        connection: ReplicationConnection,
        progress: Progress,
        *,
        interval: float,
        patience: float,
    ) -> None:
        self._connection = connection
        self._progress = progress
        self._interval = interval
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._ack_timer: asyncio.TimerHandle | None = None
        # Since when a reader has waited without hearing anything; None while nobody waits.
        self._silent_since: float | None = None
        self._tick()

    def heard(self) -> None:
        """Note a sign of life."""
        self._silent_since = None

    def send_soon(self) -> None:
        """Send a status update within 50 ms."""
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
        """Send no more."""
        for timer in (self._timer, self._ack_timer):
            if timer is not None:
                timer.cancel()
        self._timer = self._ack_timer = None

    def _tick(self) -> None:
        self._timer = self._loop.call_later(self._interval, self._tick)
        # While nobody reads, what the server sends stays unread: that is no silence.
        now = self._loop.time()
        if not self._connection.waiting:
            self._silent_since = None
        elif self._silent_since is None:
            self._silent_since = now
        elif now - self._silent_since > self._patience:
            self._connection.interrupt(
                f"the server has said nothing for {self._patience:g} s, although asked"
            )
        self.send(reply_requested=self._silent_since is not None)
