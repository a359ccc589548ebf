"""TakenPlaces: places that a client has taken over, perhaps from another client with the same key.

Where several clients have one key, a client that is there for the first time may be taken for one
that has been away: its first message may well have a higher number than the other's last one had.
Then nothing is left that the other could go on from. So the server remembers for a while that a
place was taken over, and tells a client that finds nothing of a gap. A client that had left the
place itself, and starts anew in the meantime, may be told of a gap that does not exist, which costs
it a look at its tables. Other processes are told of places that were taken over, because the other
client may come to any. No I/O, and time is passed in.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from .membership import ConnectedClient
from .places import Place
from .records import PlaceTaken

__all__ = ["Taken", "TakenPlaces"]

_MOST: Final = 100_000
"""Keys that are remembered."""
_TAKERS: Final = 8
"""Clients of a key that are remembered to have found a place: the last ones."""


@attrs.define
class Taken:
    """The places of one key that were taken over."""

    ref: int
    """The lowest of the refs of the clients that had left the places."""
    seen: int
    """The lowest of the ordinals behind which the clients were certainly there."""
    place: Place
    """The lowest place."""
    until: float
    """The time at which this is forgotten."""
    lacks_ref: bool = False
    """Whether a client has taken a place over whose join had no ref."""
    is_told: bool = False
    """Whether other processes are told of it."""
    entry: PlaceTaken | None = attrs.field(default=None, init=False)
    """What other processes are told, if that has been made."""
    takers_ref: int = 0
    """The highest ref that was sent on connections of takers that have ended."""
    takers: tuple[weakref.ref[object], ...] = ()
    """Connections whose clients have taken over a place, or were told of the gap."""

    def add_taker(self, client: object) -> None:
        alive = [one for one in self.takers if one() is not None and one() is not client]
        self.takers = (*alive[1 - _TAKERS :], weakref.ref(client))


class TakenPlaces:
    """The places that were taken over, of all keys that several clients may have.

    Args:
        window: seconds for which a place is remembered.
        clock: seconds of any clock that only goes forward.
    """

    def __init__(self, *, window: float, clock: Callable[[], float]) -> None:
        self._window = window
        self._clock = clock
        # In the order in which the last place of each key was taken over.
        self._by_key: OrderedDict[bytes, Taken] = OrderedDict()
        self.on_change: Callable[[bytes, bool], None] = lambda digest, is_missed: None
        """Called with the digest of each key of which others have to be told, and whether a client
        has found nothing to go on from."""
        self.on_missed: Callable[[bytes], None] = lambda digest: None
        """Called with the digest of a key of which a client of another process has found nothing to
        go on from."""

    def note(
        self,
        digest: bytes,
        ref: int,
        place: Place,
        taker: object,
        *,
        seen: int = 0,
        has_ref: bool = True,
        is_told: bool = True,
    ) -> None:
        """Note that a place was taken over.

        Args:
            digest: the key's digest.
            ref: the highest ref that the client had sent that left the place.
            place: the place.
            taker: the connection whose client has taken the place over.
            seen: the ordinal behind which the client was certainly there that left the place.
            has_ref: whether that client's join had a ref.
            is_told: whether other processes are told: not if only one client has the key.
        """
        until = self._clock() + self._window
        taken = self._add(digest, Taken(ref, seen, place, until, not has_ref, is_told))
        taken.add_taker(taker)
        if is_told:
            self.on_change(digest, False)

    def learn(self, digest: bytes, taken: Taken, *, is_missed: bool) -> None:
        """Note what another process has told.

        Args:
            digest: the key's digest.
            taken: the places that were taken over there.
            is_missed: whether a client has found nothing there to go on from.
        """
        if taken.until > self._clock():
            self._add(digest, taken)
        if is_missed:
            self.on_missed(digest)

    def _add(self, digest: bytes, more: Taken) -> Taken:
        now = self._clock()
        taken = self._by_key.pop(digest, None)
        if taken is None or taken.until <= now:
            taken = more
        taken.ref, taken.place = min(taken.ref, more.ref), min(taken.place, more.place)
        taken.seen = min(taken.seen, more.seen)
        taken.lacks_ref = taken.lacks_ref or more.lacks_ref
        taken.is_told = taken.is_told or more.is_told
        taken.until = max(taken.until, more.until)
        taken.entry = None
        self._by_key[digest] = taken
        oldest = next(iter(self._by_key.values()))
        if oldest.until <= now or len(self._by_key) > _MOST:
            self._by_key.popitem(last=False)
        return taken

    def of(self, digest: bytes) -> Taken | None:
        """Return the places of a key that were taken over lately; None if none were."""
        taken = self._by_key.get(digest)
        return None if taken is None or taken.until <= self._clock() else taken

    def told(self) -> Iterator[tuple[bytes, Taken]]:
        """Yield the digests and places of which other processes are told."""
        now = self._clock()
        return ((key, one) for key, one in self._by_key.items() if one.is_told and one.until > now)

    def find(self, digest: bytes, ref: int | None, client: ConnectedClient) -> Taken | None:
        """Return what was taken over that a client may have left; None if nothing was.

        Args:
            digest: the digest of the client's key.
            ref: the ref of the client's join; None if there is none.
            client: the client's connection; None is returned if that has taken a place over itself,
                or had begun when those that left the places were certainly on theirs.
        """
        taken = self.of(digest)
        if taken is None or (ref and taken.ref >= ref):
            return None
        if taken.seen > client.began or any(one() is client for one in taken.takers):
            return None
        return taken

    def note_end(self, digest: bytes, client: object, last_ref: int) -> None:
        """Note that a channel of a connection has ended.

        Args:
            digest: the digest of the channel's key.
            client: the connection.
            last_ref: the highest ref that its client has sent.
        """
        taken = self._by_key.get(digest)
        if taken is not None and any(one() is client for one in taken.takers):
            taken.takers_ref = max(taken.takers_ref, last_ref)

    def is_by_another(self, digest: bytes, ref: int, client: object) -> bool:
        """Return whether another client has taken over a place that a client may have left.

        Args:
            digest: the digest of the client's key.
            ref: the ref of the client's join.
            client: the client's connection.
        """
        taken = self.of(digest)
        if taken is None:
            return False
        if any(one() is client for one in taken.takers):
            return False
        # A client's refs go up over all its connections.
        return taken.ref < ref <= taken.takers_ref
