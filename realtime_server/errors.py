"""The exceptions about one client, below the project's one root.

The texts that the client is told are in :mod:`realtime_server.phoenix.reasons`.

* :exc:`~realtime_core.errors.RealtimeError`

  * :exc:`BroadcastError`: a broadcast goes to nobody
  * :exc:`FrameError`: a WebSocket message is not a Phoenix message
  * :exc:`PresenceError`: what a client tracks cannot be shown to others
  * :exc:`RefusedError`: a connection, a join or a message is not allowed

    * :exc:`AttachmentError`: a join has waited in vain for the database's changes
    * :exc:`JoinError`: a join's ``config`` is invalid
    * :exc:`LimitError`: a limit was exceeded
    * :exc:`NotThereError`: a table does not exist

      * :exc:`NotPublishedError`: a table's changes are not published

    * :exc:`TokenError`: a token is missing or invalid
    * :exc:`TopicError`: a topic's filter is invalid
    * :exc:`UnavailableError`: the server cannot decide now
    * :exc:`UnsupportedError`: the server does not have what a message asks for
"""

from __future__ import annotations

from typing import ClassVar, Final

from realtime_core.errors import FilterError, RealtimeError

from .phoenix.reasons import BroadcastReason, CloseReason, PresenceReason, Told

__all__ = [
    "AttachmentError",
    "BroadcastError",
    "FrameError",
    "JoinError",
    "LimitError",
    "NotPublishedError",
    "NotThereError",
    "PresenceError",
    "RefusedError",
    "TokenError",
    "TopicError",
    "UnavailableError",
    "UnsupportedError",
    "place_of",
    "quoted",
]

_MOST_QUOTED: Final = 200
"""How many characters of what a client sent a reason repeats, at most."""


def quoted(text: str) -> str:
    """Quote what a client sent for a reason; only its beginning if it is long."""
    return repr(text) if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]!r}…"


def place_of(exc: FilterError) -> str:
    """Return where a filter is wrong, without its values, which may be secret."""
    return f"from character {exc.position + 1} on"


class BroadcastError(RealtimeError):
    """A broadcast goes to nobody.

    Attributes:
        reason: why.
    """

    def __init__(self, reason: BroadcastReason) -> None:
        self.reason = reason
        super().__init__(reason.template)


class FrameError(RealtimeError):
    """A WebSocket message is not a Phoenix message, so its connection is closed.

    Attributes:
        code: the WebSocket close code.
        reason: the reason in the close frame.
    """

    def __init__(self, code: int, reason: Told) -> None:
        self.code = code
        self.reason = reason
        super().__init__(reason)

    @classmethod
    def of(cls, reason: CloseReason, **values: object) -> FrameError:
        """Make an error with the code of a reason, and the values of the reason's names."""
        return cls(reason.code, reason.told(**values))


class PresenceError(RealtimeError):
    """What a client tracks cannot be shown to others.

    Attributes:
        reason: why.
    """

    def __init__(self, reason: PresenceReason) -> None:
        self.reason = reason
        super().__init__(reason.template)


class RefusedError(RealtimeError):
    """A connection, a join or a message is not allowed.

    Attributes:
        reason: what the client is told.
        logged: what the log says at INFO: the same, unless the reason contains a value that the
            client sent, or a role.
    """

    result: ClassVar[str] = "refused"
    """The value of the metrics' label ``result``."""

    def __init__(self, reason: Told, *, logged: str | None = None) -> None:
        self.reason = reason
        self.logged = reason if logged is None else logged
        super().__init__(reason)


class AttachmentError(RefusedError):
    """A join has asked to wait until the database's changes are read, and waited in vain."""

    result = "timeout"


class JoinError(RefusedError):
    """A join's ``config`` is invalid."""

    result = "config"


class LimitError(RefusedError):
    """There are too many connections, joins or messages, or one is too large.

    Attributes:
        limit: the value of the metrics' label ``limit``.
    """

    result = "limit"

    def __init__(self, limit: str, reason: Told) -> None:
        self.limit = limit
        super().__init__(reason)


class NotThereError(RefusedError):
    """A table does not exist now, and may be made later."""


class NotPublishedError(NotThereError):
    """None of the server's publications publishes a table's changes now."""


class TokenError(RefusedError):
    """A token is missing or invalid. The message never quotes it."""

    result = "token"


class TopicError(RefusedError):
    """A topic's filter is invalid."""

    result = "topic"


class UnavailableError(RefusedError):
    """The server cannot decide now, but perhaps in a moment."""

    result = "unavailable"


class UnsupportedError(RefusedError):
    """The server does not have what a message asks for."""

    result = "unsupported"
