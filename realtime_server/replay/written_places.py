"""WrittenPlaces: the place up to which everything is in the writes up to an ordinal."""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from .places import BEFORE, Place

__all__ = ["WrittenPlaces"]

_MANY: Final = 1024
_IN_INTERVAL: Final = 128
"""Notes that are kept of an interval, once there are many."""
_MOST: Final = 8192
"""Notes that are kept, which are those of a minute or more. If there are more, half of the older
ones are forgotten."""


class WrittenPlaces:
    """Knows up to which place everything is in the writes up to an ordinal.

    It is a bounded list of notes, each of an ordinal and a place. If a note is left out or
    forgotten, the place of an ordinal is lower than it could be, and never higher.

    Args:
        interval: seconds between two pings to a connection.
    """

    def __init__(self, interval: float) -> None:
        self._interval = interval
        self._ordinals: list[int] = []
        self._places: list[Place] = []
        # The time from which on a new note is kept beside the last one, once there are many.
        self._next = 0.0

    def note(self, ordinal: int, place: Place, now: float) -> None:
        """Note that everything up to a place is in the writes up to an ordinal, the last one.

        Args:
            ordinal: the ordinal, not lower than that of the note before.
            place: the place, not lower than that of the note before.
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
        """Forget all notes, because another stream has begun.

        Args:
            place: the place at which the new stream begins. Nothing of it was written so far.
        """
        self._ordinals, self._places, self._next = [0], [place], 0.0

    def at(self, ordinal: int) -> Place:
        """Return the place up to which everything is in the writes up to an ordinal."""
        index = bisect_right(self._ordinals, ordinal)
        return self._places[index - 1] if index else BEFORE
