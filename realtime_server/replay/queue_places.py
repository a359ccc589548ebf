"""QueuePlaces: the places of viewers whose changes wait in a queue of their own.

In RLS mode the changes of a viewer whose policies are slow are sent later than others'. So a client
of such a viewer that has received a write has everything up to a lower place than other clients
that have received it. No I/O.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Hashable
from typing import Final

from realtime_core import Position, StreamIdentity

from ..fanout.groups import Subscription
from .places import BEFORE, Place

__all__ = ["QueuePlaces"]

_MOST: Final = 64
"""Notes that are kept of one viewer. If there are more, every second one is forgotten, which makes
places lower, and never higher."""


class QueuePlaces:
    """The places up to which viewers with slow policies have got their changes.

    Args:
        ordinal: returns the ordinal of the last write.
    """

    def __init__(self, ordinal: Callable[[], int]) -> None:
        self._ordinal = ordinal
        # The notes of each viewer, in order, as two lists: the ordinal of a write, and the place up
        # to which the viewer's changes are in the writes up to this one; None if nothing waited.
        self._ordinals: dict[Hashable, list[int]] = {}
        self._places: dict[Hashable, list[Place | None]] = {}
        # The last of them of viewers whose channels have just got other viewers.
        self._ended: dict[Hashable, tuple[list[int], list[Place | None]]] = {}
        # The identity of the present stream, if it is known, and the place at which it begins.
        self._stream: StreamIdentity | None = None
        self._begin: Place = BEFORE
        self.let_go: Callable[[Hashable, Subscription], bool] = lambda viewer, channel: False
        """Called with a channel that is about to get another viewer, and the viewer that it has.
        Returns whether any changes wait that it would have got, so that it has to be told of a gap
        at once. Whoever has the queues sets this."""

    def begin_anew(self, place: Place, stream: StreamIdentity | None) -> None:
        """Note that another stream has begun, of which nothing was sent so far.

        Args:
            place: the place at which the stream begins.
            stream: the stream's identity. Changes of other streams may still wait.
        """
        self._stream, self._begin = stream, place
        ordinal = self._ordinal()
        waiting = [viewer for viewer, places in self._places.items() if places[-1] is not None]
        self._ordinals = {viewer: [ordinal] for viewer in waiting}
        self._places = {viewer: [place] for viewer in waiting}
        self._ended.clear()

    def note(self, viewer: Hashable, first: Position | None) -> None:
        """Note which changes wait for a viewer at the time of the last write.

        Args:
            viewer: the viewer.
            first: the position of the first change that waits; None if none does.
        """
        places = self._places.get(viewer)
        place = None if first is None else self._before(first)
        if places is None:
            if place is None:
                return
            self._ordinals[viewer], self._places[viewer] = [self._ordinal()], [place]
        elif places[-1] != place:
            self._ordinals[viewer].append(self._ordinal())
            places.append(place)
            if len(places) > _MOST:
                self._thin_out(viewer)

    def _before(self, first: Position) -> Place:
        """Return the place before a change."""
        if self._stream is not None and first.stream != self._stream:
            # The change is of a former stream. All changes of the present stream wait behind it.
            return self._begin
        return (first.lsn, first.index - 1)

    def forget(self, viewer: Hashable) -> None:
        """Forget, at the next :meth:`tidy`, a viewer that has no channels any more. Until then the
        channel that was its last may still be given another viewer, and be told of a gap."""
        ordinals = self._ordinals.pop(viewer, None)
        if ordinals is not None:
            self._ended[viewer] = (ordinals, self._places.pop(viewer))

    def tidy(self) -> None:
        """Forget the viewers that have no channels any more."""
        self._ended.clear()

    def knows(self, viewer: Hashable) -> bool:
        """Return whether changes of a viewer wait or have waited."""
        return viewer in self._ordinals or viewer in self._ended

    def place_at(self, viewer: Hashable, ordinal: int, place: Place) -> Place:
        """Return the place up to which a client of a viewer has everything.

        Args:
            viewer: the viewer.
            ordinal: the ordinal up to which the client has received all writes.
            place: the place up to which a client of another viewer would have everything.
        """
        if viewer in self._ordinals:
            ordinals, places = self._ordinals[viewer], self._places[viewer]
        elif viewer in self._ended:
            ordinals, places = self._ended[viewer]
        else:
            return place
        at = bisect_right(ordinals, ordinal)
        waiting = places[at - 1] if at else None
        return place if waiting is None else min(place, waiting)

    def lowest_at(self, ordinal: int, place: Place) -> Place:
        """Return the lowest place that :meth:`place_at` returns for any viewer."""
        return min(
            (self.place_at(viewer, ordinal, place) for viewer in self._ordinals), default=place
        )

    def _thin_out(self, viewer: Hashable) -> None:
        ordinals, places = self._ordinals[viewer], self._places[viewer]
        # A client that has received the write of a forgotten note has at least what the note before
        # says.
        kept = [
            at
            for at in range(len(places))
            if not at % 2 or at > _MOST // 2 or places[at - 1] is None
        ]
        self._ordinals[viewer] = [ordinals[at] for at in kept]
        self._places[viewer] = [places[at] for at in kept]
