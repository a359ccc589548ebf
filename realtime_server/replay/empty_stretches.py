"""EmptyStretches: between which places of the stream there is nothing.

Much WAL may have nothing that clients get. Whoever has everything up to the beginning of such a
stretch has everything up to its end. To move the places of all channels there would take long, so
a place is moved when it is looked at. No I/O.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from .places import Place

__all__ = ["EmptyStretches"]

_MOST: Final = 1000
"""Stretches that are remembered, which are more than there are in a window."""


class EmptyStretches:
    """The stretches, in the order of the stream."""

    def __init__(self) -> None:
        # Where each begins, and where it ends: at a place that may have something.
        self._begins: list[Place] = []
        self._ends: list[Place] = []

    def note(self, begin: Place, end: Place) -> None:
        """Note that there is nothing behind a place and before another one.

        Args:
            begin: the one place, not lower than that of the note before.
            end: the other place.
        """
        begins, ends = self._begins, self._ends
        if ends and begin <= ends[-1]:
            ends[-1] = max(ends[-1], end)
            return
        begins.append(begin)
        ends.append(end)
        if len(begins) > _MOST:
            del begins[0], ends[0]

    def lifted(self, place: Place) -> Place:
        """Return a place, or the end of the stretch that it is in."""
        at = bisect_right(self._begins, place)
        return max(place, self._ends[at - 1]) if at else place
