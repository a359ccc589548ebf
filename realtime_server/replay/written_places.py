"""WrittenPlaces: up to which place of the stream everything is in the writes up to an ordinal."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from .places import BEFORE, Place

__all__ = ["WrittenPlaces"]

_MANY: Final = 1024
_IN_INTERVAL: Final = 128
"""Places that are remembered of an interval, when there are many already."""
_MOST: Final = 8192
"""Places that are remembered: those of a minute or more. Half of the older ones are forgotten
then."""


class WrittenPlaces:
    """A bounded list of notes. One that is left out, or forgotten, makes the place of an ordinal
    lower, never higher.

    Args:
        interval: seconds between two pings to a connection.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._ordinals: list[int] = []
        self._places: list[Place] = []
        # When a place is remembered by itself again, when there are many.
        self._next = 0.0

    def note(self, ordinal: int, place: Place, now: float) -> None:
        """Note that everything up to a place is in the writes up to an ordinal, the last one.

        Args:
            ordinal: not lower than those before.
            place: not lower than those before.
            now: seconds of any clock that only goes forward.
        """
        ordinals, places = self._ordinals, self._places
        is_dense = len(ordinals) > _MANY and now < self._next
        if ordinals and (is_dense or ordinals[-1] == ordinal):
            ordinals[-1], places[-1] = ordinal, place
            return
        self._next = now + self._interval / _IN_INTERVAL
        ordinals.append(ordinal)
        places.append(place)
        if len(ordinals) > _MOST:
            older = _MOST // 2
            del ordinals[1:older:2], places[1:older:2]

    def begin_anew(self, place: Place) -> None:
        """Forget all places, as the stream is another one, in which they say nothing.

        Args:
            place: where the stream begins. All writes so far have what is before it: nothing.
        """
        self._ordinals, self._places, self._next = [0], [place], 0.0

    def at(self, ordinal: int) -> Place:
        """Return the place up to which everything is in the writes up to an ordinal."""
        index = bisect_right(self._ordinals, ordinal)
        return self._places[index - 1] if index else BEFORE
