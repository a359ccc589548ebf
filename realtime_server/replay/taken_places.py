"""TakenPlaces: what was taken away, perhaps by somebody else than whoever had left it behind.

Where several clients have one key, a client that is there for the first time may be taken for one
that has been away: its first message may well have a higher number than the other's last one had.
Then nothing is left that the other could go on from. So it is remembered for a while that something
was taken, and whoever looks for it is told of a gap. A client that had left it itself, and starts
anew in the meantime, may be told so in vain, which costs it a look at its tables. Pure.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

import attrs

from .places import Place

__all__ = ["TakenPlaces"]

_MOST: Final = 100_000
"""Keys that are remembered."""
_TAKERS: Final = 8
"""Clients of a key that are remembered to have what they need: the last ones."""


@attrs.define
class _Taken:
    """All that was taken of one key."""

    ref: int
    """The lowest of the refs that whoever had left it had sent."""
    place: Place
    """The lowest place."""
    until: float
    """When it is forgotten."""
    takers: tuple[weakref.ref[object], ...] = ()
    """Connections whose clients have taken something, or were told of the gap."""

    def add_taker(self, client: object) -> None:
        alive = [one for one in self.takers if one() is not None and one() is not client]
        self.takers = (*alive[1 - _TAKERS :], weakref.ref(client))


class TakenPlaces:
    """What was taken of all keys that several clients may have.

    Args:
        window: seconds for which it is remembered.
        clock: seconds of any clock that only goes forward.
    """

    def __init__(self, *, window: float, clock: Callable[[], float]) -> None:
        self._window = window
        self._clock = clock
        # Those of which something was taken last are at the end.
        self._by_key: OrderedDict[bytes, _Taken] = OrderedDict()

    def note(self, digest: bytes, ref: int, place: Place, taker: object) -> None:
        """Note that something was taken.

        Args:
            digest: of the key.
            ref: the highest that whoever had left it had sent.
            place: up to where that client has everything.
            taker: the connection whose client has taken it.
        """
        now = self._clock()
        taken = self._by_key.pop(digest, None)
        if taken is None or taken.until <= now:
            taken = _Taken(ref, place, now)
        taken.ref, taken.place = min(taken.ref, ref), min(taken.place, place)
        taken.until = now + self._window
        taken.add_taker(taker)
        self._by_key[digest] = taken
        oldest = next(iter(self._by_key.values()))
        if oldest.until <= now or len(self._by_key) > _MOST:
            self._by_key.popitem(last=False)

    def find(self, digest: bytes, ref: int | None, client: object) -> Place | None:
        """Return the place of what a client may look for in vain; None if nothing was taken.

        Args:
            digest: of its key.
            ref: of its join; None if it has none.
            client: its connection. One that has taken something itself is not told of it.
        """
        taken = self._by_key.get(digest)
        if taken is None or taken.until <= self._clock() or (ref and taken.ref >= ref):
            return None
        if any(one() is client for one in taken.takers):
            return None
        taken.add_taker(client)
        return taken.place
