"""JoinLimits: how many joins, and how large ones, one connection may send."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..config import ServerConfig
from ..errors import LimitError
from ..phoenix.reasons import ReplyReason
from .token_bucket import TokenBucket

__all__ = ["JoinLimits"]

MAX_TOPIC_LENGTH: Final = 4096
"""Characters of a topic."""
_USUAL_SIZE: Final = 512
"""Bytes of a join's topic and config that count as one join."""
_BYTES_PER_JOIN: Final = 64
"""Bytes beyond these that count as one more join: to parse, check and type so long a filter takes
0.1 ms."""
_ASKED_PER_JOIN: Final = 5
"""Other clients that are asked because of a join, and count as one more join: to write a ping and
to read its answer takes 0.02 ms."""


class JoinLimits:
    """The limits of one connection: without them it could take all of the server's time and memory.

    Args:
        config: says how many channels a connection may have, and how many joins it may send each
            second.
        clock: seconds of any clock that only goes forward.
    """

    __slots__ = ("_bucket", "_clock", "_max_channels", "_max_per_second")

    def __init__(self, config: ServerConfig, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._max_channels = config.max_channels
        self._max_per_second = config.max_joins_per_second
        self._bucket = TokenBucket(config.max_joins_per_second, clock())

    def check(self, topic: str, config: bytes | None, *, channels: int) -> None:
        """Count a join against the limits of the connection. A long one counts as several.

        Args:
            topic: the topic that the client asks to join.
            config: the ``config`` of its ``phx_join`` as JSON; None if there is none, or if it is
                nested too deeply, and so is refused unread.
            channels: how many channels the connection has already.

        Raises:
            LimitError: if the join exceeds a limit.
        """
        if not self._bucket.take(self._clock()):
            raise LimitError(
                "joins",
                ReplyReason.JOINS.told(most=self._max_per_second),
            )
        self._bucket.borrow(_further_joins(topic, config))
        if len(topic) > MAX_TOPIC_LENGTH:
            raise LimitError("topic", ReplyReason.TOPIC_TOO_LONG.told(most=MAX_TOPIC_LENGTH))
        if channels >= self._max_channels:
            raise LimitError(
                "channels",
                ReplyReason.CHANNELS.told(most=self._max_channels),
            )

    def charge(self, asked: int) -> None:
        """Count a join as several, as other clients are asked whether they are still there.

        Args:
            asked: how many clients are asked.
        """
        self._bucket.borrow(asked // _ASKED_PER_JOIN)


def _further_joins(topic: str, config: bytes | None) -> int:
    """Return how many further joins one counts as: to read a long one takes as much time."""
    size = len(topic) + len(config or b"")
    return max(size - _USUAL_SIZE, 0) // _BYTES_PER_JOIN
