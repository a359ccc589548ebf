"""Notices: tells a channel at which place its changes begin, and which changes it misses."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import attrs

from realtime_core import LSN, Event, Gap, Idle, Position, StreamIdentity

from ..fanout.frames import Frames
from ..fanout.groups import Subscription
from ..fanout.payloads.row_payload import gap_payload
from ..fanout.topic_parser import shown_topic
from ..logs import LineLimit
from ..phoenix.messages import CHANNEL_PREFIX, SYSTEM, Message
from .lost_reasons import LostReason
from .places import BEFORE, Place

__all__ = ["Notices", "ReplayGap", "Start"]

logger = logging.getLogger("realtime.replay")


@attrs.frozen
class Start:
    """Where a channel starts, and whether it goes on from a former one."""

    resumed: bool
    """Whether the channel goes on where a former one ended, so that its client misses nothing."""
    position: str | None
    """The position behind which the channel's changes begin; None before the first change."""

    def members(self) -> dict[str, Any]:
        """Return what the channel's ``system`` message says of its start."""
        return {"resumed": self.resumed, "position": self.position}


@attrs.frozen
class ReplayGap:
    """Changes that a channel does not get when its client comes back."""

    after: Position | None
    """The position up to which the client has everything; None if the client has nothing."""
    until: Position
    """The position behind which the channel gets changes again."""
    reason: LostReason
    """Why the channel does not get the changes in between."""


class Notices:
    """Tells clients where their channels begin and what they miss."""

    def __init__(self) -> None:
        self.stream: StreamIdentity | None = None
        """The identity of the stream to which places belong; None if it is not known."""
        # By reason: how many channels were told of a gap since the last line about it, and the
        # topic of the last of them.
        self._told: Counter[LostReason] = Counter()
        self._topics: dict[LostReason, str] = {}
        self._lines = {why: LineLimit() for why in LostReason}

    def read(self, batch: Sequence[Event]) -> None:
        """Note which stream a batch is from."""
        stream = next((found for found in map(_stream_of, reversed(batch)) if found), None)
        self.stream = stream or self.stream

    def start(self, place: Place, *, resumed: bool) -> Start:
        """Return the start of a channel whose client has everything up to a place."""
        return Start(resumed, None if place == BEFORE else str(self._position(place)))

    def tell_gap(
        self, subscription: Subscription, after: Place, until: Place, why: LostReason
    ) -> None:
        """Tell a channel that it misses the changes between two places."""
        topic = subscription.topic.name
        self._told[why] += 1
        self._topics[why] = topic
        logger.debug("channel %.200r misses changes: %s", shown_topic(topic), why.value)
        gap = ReplayGap(
            None if after == BEFORE else self._position(after), self._position(until), why
        )
        payload = gap_payload(gap, topic.removeprefix(CHANNEL_PREFIX))
        message = subscription.serializer.encode(Message(topic, SYSTEM, payload))
        subscription.outbox.write(Frames.of(message))

    def log_gaps(self) -> None:
        """Log how many channels were told of gaps: a line for each reason, once in ten seconds.

        Call it about once a second. A round's channels come together, and a thousand of them fit
        into one line.
        """
        for why, count in list(self._told.items()):
            if self._lines[why].take() is not None:
                del self._told[why]
                logger.info(
                    "%d channels miss changes: %s; one of them is %.200r",
                    count,
                    why.value,
                    shown_topic(self._topics.pop(why)),
                )

    def _position(self, place: Place) -> Position:
        return Position(LSN(place[0]), max(place[1], 0), self.stream)


def _stream_of(event: Event) -> StreamIdentity | None:
    if isinstance(event, Gap):
        return event.until.stream
    if isinstance(event, Idle):
        return event.position.stream
    return None if event.transaction is None else event.transaction.stream
