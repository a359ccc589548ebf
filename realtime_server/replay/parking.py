"""Parking: channels that have ended, and that their clients may join again on the same connection.

A client that is sent ``phx_error``, or that gives up a join whose answer takes too long, joins the
channel again within some seconds. Then the channel goes on exactly where it ended, or where its
client certainly has everything, if it may have ignored what was sent last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from .standing import Standing
from .visit import Visit

__all__ = ["Parking"]

WITHIN: Final = 30.0
"""Seconds within which stock clients join again: the longest of their pauses is 10 s."""
_MOST: Final = 1000
"""Channels of one connection that may be parked."""


class Parking:
    """All channels that are parked.

    Args:
        clock: seconds of any clock that only goes forward.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_visit: dict[Visit, dict[str, Standing]] = {}
        # The connection of each parked channel, and when it was parked, in this order.
        self._since: dict[Standing, tuple[Visit, float]] = {}

    def park(self, visit: Visit, standing: Standing) -> Standing | None:
        """Park a channel; return the channel that must end because too many are parked, if there
        is one."""
        parked = self._by_visit.setdefault(visit, {})
        topic = standing.subscription.topic.name
        former = parked.pop(topic, None)
        if former is None and len(parked) >= _MOST:
            former = parked.pop(next(iter(parked)))
        if former is not None:
            del self._since[former]
        parked[topic] = standing
        self._since[standing] = visit, self._clock()
        return former

    def take(self, visit: Visit, topic: str) -> Standing | None:
        """Take the parked channel of a topic, because its client joins the topic again."""
        parked = self._by_visit.get(visit)
        standing = None if parked is None else parked.pop(topic, None)
        if standing is not None:
            del self._since[standing]
            self._tidy(visit)
        return standing

    def of(self, visit: Visit) -> Iterable[Standing]:
        """Return the channels of a connection that are parked."""
        return self._by_visit.get(visit, {}).values()

    def leave(self, visit: Visit) -> Iterator[Standing]:
        """Take all parked channels of a connection that has ended."""
        for standing in self._by_visit.pop(visit, {}).values():
            del self._since[standing]
            yield standing

    def expire(self) -> Iterator[Standing]:
        """Take the parked channels whose clients have not joined again in time."""
        until = self._clock() - WITHIN
        while self._since:
            standing, (visit, since) = next(iter(self._since.items()))
            if since > until:
                return
            del self._since[standing]
            del self._by_visit[visit][standing.subscription.topic.name]
            self._tidy(visit)
            yield standing

    def _tidy(self, visit: Visit) -> None:
        if not self._by_visit[visit]:
            del self._by_visit[visit]
