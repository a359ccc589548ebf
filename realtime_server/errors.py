"""What can go wrong with a client, below the project's one root.

* :exc:`~realtime_core.errors.RealtimeError`

  * :exc:`FrameError`: a WebSocket message that is no Phoenix message
  * :exc:`RefusedError`: a connection or a join that is not allowed
  * :exc:`TopicError`: a topic whose filter cannot be served
"""

from __future__ import annotations

from realtime_core.errors import RealtimeError

__all__ = ["FrameError", "RefusedError", "TopicError"]


class FrameError(RealtimeError):
    """A WebSocket message that is no Phoenix message; its connection is closed.

    Attributes:
        code: the WebSocket close code.
        reason: the close reason, for the client.
    """

    def __init__(self, code: int, reason: str) -> None:
        self.code = code
        self.reason = reason
        super().__init__(reason)


class RefusedError(RealtimeError):
    """A connection or a join that is not allowed.

    Attributes:
        reason: what the client is told.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class TopicError(RefusedError):
    """A topic whose filter cannot be served."""
