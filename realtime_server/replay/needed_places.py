"""NeededPlaces: the lowest of many places, of which each is there for as long as anybody needs it.

The lowest place is asked for every second, among perhaps 100,000 that come and go together. So no
call takes long, however many places have become unneeded: :meth:`NeededPlaces.lowest` returns one
that is too low rather than to look at all of them, which only means that more is kept for a while.

No I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush
from typing import Final

from .places import Place

__all__ = ["NeededPlaces"]

_AT_ONCE: Final = 200
"""Unneeded places that are removed from the heap at once, which takes a millisecond or two."""
_SPARE: Final = 1000
"""Unneeded places that may stay, besides as many as are needed."""


class NeededPlaces:
    """Places, and how many need each of them."""

    __slots__ = ("_added_meanwhile", "_counts", "_heap", "_unused")

    def __init__(self) -> None:
        # Many clients that lose their connections together have the same place.
        self._counts: dict[Place, int] = {}
        # A heap of these places. Some are not needed any more, and count 0.
        self._heap: list[Place] = []
        self._unused = 0
        # What was added while the heap is made anew without what is unused; None: it is not.
        self._added_meanwhile: list[Place] | None = None

    def add(self, place: Place) -> None:
        """Note that one more needs a place."""
        count = self._counts.get(place)
        self._counts[place] = (count or 0) + 1
        if count == 0:
            self._unused -= 1
        elif count is None:
            heappush(self._heap, place)
            if self._added_meanwhile is not None:
                self._added_meanwhile.append(place)

    def remove(self, place: Place) -> None:
        """Note that one fewer needs a place. It must have been added."""
        self._counts[place] -= 1
        self._unused += not self._counts[place]

    def lowest(self) -> Place | None:
        """Return the lowest place, or one below it if many have just become unneeded; None if no
        place is needed."""
        if len(self._counts) == self._unused:
            return None
        heap = self._heap
        for _ in range(_AT_ONCE):
            if self._counts.get(heap[0]):
                break
            unused = heappop(heap)
            if self._counts.pop(unused, None) is not None:
                self._unused -= 1
        return heap[0]

    def tidying(self) -> Iterator[None]:
        """Make the heap anew, in steps, if most of it is unneeded: others may run in between."""
        if 2 * self._unused <= len(self._counts) + _SPARE:
            return
        kept: list[Place] = []
        added = self._added_meanwhile = []
        try:
            for place in list(self._counts):
                count = self._counts.get(place)
                if count:
                    kept.append(place)
                elif count == 0:
                    del self._counts[place]
                    self._unused -= 1
                yield
        finally:
            self._added_meanwhile = None
        kept += added
        heapify(kept)
        self._heap = kept
