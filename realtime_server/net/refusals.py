"""Refusals: what one client is refused, counted, logged, and put into words for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from ..errors import LimitError, RefusedError, TokenError, UnsupportedError
from ..fanout.topics import shown_topic
from ..logs import named
from ..metrics import Metrics
from ..phoenix.messages import Message
from ..phoenix.payloads import has_config
from .aio import TokenBucket

__all__ = ["Refusals"]

LINES_PER_SECOND: Final = 10
"""That the log has about what one connection is refused."""

logger = logging.getLogger("realtime.connection")


class Refusals:
    """Those of one connection.

    A client that floods us gets one line in the log for each limit that it meets, and for each
    event that is not served, and so many lines a second for all else; what is left out is said.
    All are counted.

    Args:
        peer: what the log calls the client.
        metrics: of the server.
        clock: seconds of any clock that only goes forward.
    """

    __slots__ = ("_clock", "_left_out", "_lines", "_logged", "_metrics", "_peer")

    def __init__(self, peer: str, metrics: Metrics, clock: Callable[[], float]) -> None:
        self._peer = peer
        self._metrics = metrics
        self._clock = clock
        self._lines = TokenBucket(LINES_PER_SECOND, clock())
        self._left_out = 0
        self._logged: set[str] = set()

    def close(self) -> None:
        """Take the end of the connection."""
        self._tell_left_out()

    def of_join(self, message: Message, exc: RefusedError) -> str:
        """Take a refused join; return what the client is told."""
        self._metrics.joins.labels(exc.result).inc()
        if self._is_news(exc) and self._has_room():
            extra = named(self._peer, "join_refused", topic=message.topic, reason=exc.logged)
            topic = shown_topic(message.topic)
            logger.info(
                "join of %.200r by %s refused: %.1000s", topic, self._peer, exc.logged, extra=extra
            )
            logger.debug("the join of %r was refused: %s", message.topic, exc)
        if not isinstance(exc, TokenError):
            return exc.reason
        if has_config(message.payload):
            return f"InvalidJWTToken: {exc.reason}"
        # The first generation knows no reasons about tokens.
        return f"error occurred when joining {message.topic}"

    def of_payload(self, message: Message, max_bytes: int) -> str:
        """Take a message whose payload is larger than that; return what the client is told."""
        exc = LimitError(
            "payload",
            f"PayloadTooLarge: the payload is larger than {max_bytes} bytes (MAX_PAYLOAD_BYTES)",
        )
        return self._of_message(message, exc, should_log=self._is_news(exc))

    def of_event(self, message: Message) -> str:
        """Take a message of an event that is not served; return what the client is told."""
        self._metrics.unsupported.labels(message.event).inc()
        exc = UnsupportedError(
            f"UnsupportedEvent: this server has no {message.event}; it sends postgres_changes"
        )
        return self._of_message(message, exc, should_log=self._is_first(message.event))

    def _of_message(self, message: Message, exc: RefusedError, *, should_log: bool) -> str:
        if should_log and self._has_room():
            extra = named(self._peer, "message_refused", topic=message.topic, reason=exc.logged)
            logger.info("message by %s refused: %.1000s", self._peer, exc.logged, extra=extra)
        return exc.reason

    def _has_room(self) -> bool:
        """Say whether there may be another line in the log."""
        if not self._lines.take(self._clock()):
            self._left_out += 1
            return False
        self._tell_left_out()
        return True

    def _tell_left_out(self) -> None:
        if self._left_out:
            extra = named(self._peer, "refusals_left_out", count=self._left_out)
            logger.info(
                "%d refusals of %s are not in the log, which has %d a second at most",
                self._left_out,
                self._peer,
                LINES_PER_SECOND,
                extra=extra,
            )
            self._left_out = 0

    def _is_news(self, exc: RefusedError) -> bool:
        if not isinstance(exc, LimitError):
            return True
        self._metrics.limit(exc.limit)
        return self._is_first(exc.limit)

    def _is_first(self, kind: str) -> bool:
        if kind in self._logged:
            return False
        self._logged.add(kind)
        return True
