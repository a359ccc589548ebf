"""Refusals: what one client is refused, counted, logged, and put into words for it."""

from __future__ import annotations

import logging

from .errors import LimitError, RefusedError, TokenError, UnsupportedError
from .logs import named
from .metrics import Metrics
from .phoenix.messages import Message
from .phoenix.payloads import has_config

__all__ = ["Refusals"]

logger = logging.getLogger("realtime.connection")


class Refusals:
    """Those of one connection.

    A client that floods us gets one line in the log for each limit that it meets, and for each
    event that is not served; all are counted.

    Args:
        peer: what the log calls the client.
        metrics: of the server.
    """

    __slots__ = ("_logged", "_metrics", "_peer")

    def __init__(self, peer: str, metrics: Metrics) -> None:
        self._peer = peer
        self._metrics = metrics
        self._logged: set[str] = set()

    def of_join(self, message: Message, exc: RefusedError) -> str:
        """Take a refused join; return what the client is told."""
        self._metrics.joins.labels(exc.result).inc()
        if self._is_news(exc):
            extra = named(self._peer, "join_refused", topic=message.topic, reason=str(exc))
            logger.info(
                "join of %.200r by %s refused: %s", message.topic, self._peer, exc, extra=extra
            )
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
        return self._of_message(message, exc, is_news=self._is_news(exc))

    def of_event(self, message: Message) -> str:
        """Take a message of an event that is not served; return what the client is told."""
        self._metrics.unsupported.labels(message.event).inc()
        exc = UnsupportedError(
            f"UnsupportedEvent: this server has no {message.event}; it sends postgres_changes"
        )
        return self._of_message(message, exc, is_news=self._is_first(message.event))

    def _of_message(self, message: Message, exc: RefusedError, *, is_news: bool) -> str:
        if is_news:
            extra = named(self._peer, "message_refused", topic=message.topic, reason=str(exc))
            logger.info("message by %s refused: %s", self._peer, exc, extra=extra)
        return exc.reason

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
