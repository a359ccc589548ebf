"""What can go wrong with a client, below the project's one root.

What the client is told of it is in :mod:`realtime_server.phoenix.reasons`.

* :exc:`~realtime_core.errors.RealtimeError`

  * :exc:`FrameError`: a WebSocket message that is no Phoenix message
  * :exc:`RefusedError`: a connection or a join that is not allowed

    * :exc:`AttachmentError`: a join that waited in vain for the stream
    * :exc:`JoinError`: a join whose ``config`` is not understood
    * :exc:`LimitError`: one too many
    * :exc:`NotThereError`: a table that is not there

      * :exc:`NotPublishedError`: one whose changes are not sent

    * :exc:`TokenError`: a token that is missing or not to be trusted
    * :exc:`TopicError`: a topic whose filter cannot be served
    * :exc:`UnavailableError`: what cannot be decided now
    * :exc:`UnsupportedError`: what this server does not have
"""

from __future__ import annotations

from typing import ClassVar, Final

from realtime_core.errors import FilterError, RealtimeError

from .phoenix.reasons import CloseReason, Told

__all__ = [
    "AttachmentError",
    "FrameError",
    "JoinError",
    "LimitError",
    "NotPublishedError",
    "NotThereError",
    "RefusedError",
    "TokenError",
    "TopicError",
    "UnavailableError",
    "UnsupportedError",
    "place_of",
    "quoted",
]

_MOST_QUOTED: Final = 200
"""Characters of what a client sent that a reason repeats."""


def quoted(text: str) -> str:
    """Return what a client sent as a reason quotes it: its beginning, where it is long."""
    return repr(text) if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]!r}…"


def place_of(exc: FilterError) -> str:
    """Say where a filter is wrong, without its values: they may be anybody's secrets."""
    return f"from character {exc.position + 1} on"


class FrameError(RealtimeError):
    """A WebSocket message that is no Phoenix message; its connection is closed.

    Attributes:
        code: the WebSocket close code.
        reason: the close reason, for the client.
    """

    def __init__(self, code: int, reason: Told) -> None:
        self.code = code
        self.reason = reason
        super().__init__(reason)

    @classmethod
    def of(cls, reason: CloseReason, **values: object) -> FrameError:
        """Make one with a reason's code, and the values of the reason's names."""
        return cls(reason.code, reason.told(**values))


class RefusedError(RealtimeError):
    """A connection or a join that is not allowed.

    Attributes:
        reason: what the client is told.
        logged: what the log says at INFO: the same, unless that has what a client sent as a
            value, or a role.
    """

    result: ClassVar[str] = "refused"
    """What the metrics call it."""

    def __init__(self, reason: Told, *, logged: str | None = None) -> None:
        self.reason = reason
        self.logged = reason if logged is None else logged
        super().__init__(reason)


class AttachmentError(RefusedError):
    """A join that asked to wait for the database's changes, and waited in vain."""

    result = "timeout"


class JoinError(RefusedError):
    """A join whose ``config`` is not understood."""

    result = "config"


class LimitError(RefusedError):
    """One connection, join or message too many, or one that is too large.

    Attributes:
        limit: what the metrics call the limit.
    """

    result = "limit"

    def __init__(self, limit: str, reason: Told) -> None:
        self.limit = limit
        super().__init__(reason)


class NotThereError(RefusedError):
    """A table that is not there, and may be there later."""


class NotPublishedError(NotThereError):
    """A table whose changes are not sent, by the publications as they are."""


class TokenError(RefusedError):
    """A token that is missing or not to be trusted. The message never quotes it."""

    result = "token"


class TopicError(RefusedError):
    """A topic whose filter cannot be served."""

    result = "topic"


class UnavailableError(RefusedError):
    """What cannot be decided now, and perhaps in a moment."""

    result = "unavailable"


class UnsupportedError(RefusedError):
    """A message for what this server does not have."""

    result = "unsupported"
