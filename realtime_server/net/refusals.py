"""Refusals: counts and logs what one client is refused, and words the reason for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from ..errors import LimitError, RefusedError, TokenError, UnsupportedError
from ..fanout.topic_parser import shown_topic
from ..logs import named
from ..metrics import Metrics
from ..phoenix.messages import Message
from ..phoenix.policy_reasons import PolicyReason, PushReason
from ..phoenix.reasons import PresenceReason, ReplyReason, Told
from .token_bucket import TokenBucket

__all__ = ["Refusals"]

LINES_PER_SECOND: Final = 10
"""How many log lines a second there may be about the refusals of one connection."""

logger = logging.getLogger("realtime.connection")


class Refusals:
    """The refusals of one connection.

    Each refusal is counted. Not each is logged, so that a client cannot flood the log: a limit that
    the client exceeds, and a reason for which what it sends goes to nobody, are logged once, and
    there are at most :data:`LINES_PER_SECOND` lines. A line says how many refusals were left out.

    Args:
        peer: names the client in the log.
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
        """Log how many lines were left out, because the connection has ended."""
        self._log_left_out()

    def of_join(self, topic: str, exc: RefusedError, *, has_config: bool) -> Told:
        """Count and log a refused join; return the reason for the client.

        Args:
            topic: that the client wanted to join.
            exc: why it may not.
            has_config: whether the join had a ``config``, as those of binding clients have.
        """
        self._metrics.joins.labels(exc.result).inc()
        if self._should_log(exc) and self._has_room():
            extra = named(self._peer, "join_refused", topic=topic, reason=exc.logged)
            logger.info(
                "join of %.200r by %s refused: %.1000s",
                shown_topic(topic),
                self._peer,
                exc.logged,
                extra=extra,
            )
            logger.debug("the join of %r was refused: %s", topic, exc)
        if not isinstance(exc, TokenError):
            return exc.reason
        if has_config:
            return ReplyReason.TOKEN.told(reason=exc.reason)
        # Topic clients: the server that they were made for tells them no more.
        return ReplyReason.TOKEN_OF_TOPIC_CLIENT.told(topic=topic)

    def of_payload(self, message: Message, max_bytes: int) -> Told:
        """Count and log a message whose payload is too large; return the reason for the client."""
        exc = LimitError(
            "payload",
            ReplyReason.PAYLOAD.told(most=max_bytes),
        )
        return self._of_message(message, exc, should_log=self._should_log(exc))

    def of_broadcast(self, message: Message, reason: PushReason, most: int = 0) -> None:
        """Count and log a broadcast that goes to nobody.

        Args:
            message: the push.
            reason: why.
            most: the limit that the reason names, if it names one.
        """
        self._metrics.broadcasts.refused.labels(reason.code).inc()
        exc = UnsupportedError(reason.told(most=most))
        self._of_message(message, exc, should_log=self._is_first(str(reason)))

    def of_presence(
        self, message: Message, reason: PresenceReason | PolicyReason, most: int | None = None
    ) -> Told:
        """Count and log a presence push that changes nothing; return the reason for the client.

        Args:
            message: the push.
            reason: why.
            most: the limit that the reason names, if it names one.
        """
        self._metrics.broadcasts.refused_presence.labels(reason.code).inc()
        exc = UnsupportedError(reason.told(most=most))
        return self._of_message(message, exc, should_log=self._is_first(str(reason)))

    def _of_message(self, message: Message, exc: RefusedError, *, should_log: bool) -> Told:
        if should_log and self._has_room():
            extra = named(self._peer, "message_refused", topic=message.topic, reason=exc.logged)
            logger.info("message by %s refused: %.1000s", self._peer, exc.logged, extra=extra)
        return exc.reason

    def _has_room(self) -> bool:
        """Return whether the log may have another line now; count the line as left out if not."""
        if not self._lines.take(self._clock()):
            self._left_out += 1
            return False
        self._log_left_out()
        return True

    def _log_left_out(self) -> None:
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

    def _should_log(self, exc: RefusedError) -> bool:
        """Return whether to log a refusal; if a limit was the reason, count it in the metrics."""
        if not isinstance(exc, LimitError):
            return True
        self._metrics.limit(exc.limit)
        return self._is_first(exc.limit)

    def _is_first(self, kind: str) -> bool:
        if kind in self._logged:
            return False
        self._logged.add(kind)
        return True
