"""IdleTimer: ends a connection whose client has sent no message for too long.

A timer for each message would be set and cancelled thousands of times a second. This one goes off
at its time whatever has come meanwhile, and then waits for what is left.
"""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection

from ..metrics import Metrics
from ..phoenix.reasons import CloseReason
from .frame_limits import close_within

__all__ = ["IdleTimer"]


class IdleTimer:
    """Measures how long one connection has waited for a message, and closes it after a time.

    Use it as a context manager while the connection waits.

    Args:
        websocket: the connection.
        within: seconds that it may wait.
        metrics: of the server.
    """

    __slots__ = ("_closing", "_loop", "_metrics", "_since", "_timer", "_websocket", "_within")

    def __init__(self, websocket: ServerConnection, within: float, metrics: Metrics) -> None:
        self._websocket = websocket
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._within = within
        self._closing: asyncio.Task[None] | None = None
        # Since when the connection waits; None while it carries out a message.
        self._since: float | None = None
        self._timer = self._loop.call_later(within, self._look)

    def __enter__(self) -> None:
        """Note that the connection waits for a message from now on."""
        self._since = self._loop.time()

    def __exit__(self, *_: object) -> None:
        """Note that it does not wait any more."""
        self._since = None

    def close(self) -> None:
        """Measure no more, because the connection has ended."""
        self._timer.cancel()

    def _look(self) -> None:
        left = self._within
        if self._since is not None:
            left += self._since - self._loop.time()
        if left > 0:
            self._timer = self._loop.call_later(left, self._look)
        else:
            self._metrics.limit("idle")
            code, reason = CloseReason.IDLE.code, CloseReason.IDLE.told()
            self._closing = asyncio.create_task(close_within(self._websocket, code, reason))
