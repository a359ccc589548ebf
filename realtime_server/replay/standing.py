"""Standing: up to where one joined channel is proven to have everything.

A channel gets its changes from a round first, if it goes on where a former one ended, and then from
the live hub. While it is live, the place of its connection's last proof is its own: all channels of
a connection share that. Before, it has checkpoints: as soon as a write is proven, so is a place. No
I/O.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Final, Protocol

import attrs

from ..fanout.groups import Subscription
from .absences import LostReason
from .cursors import ConnectionCursor
from .memberships import Membership
from .places import Place

__all__ = ["LivePlaces", "Standing"]

_MOST_CHECKPOINTS: Final = 64


class LivePlaces(Protocol):
    """Up to where the live hub has handed changes out."""

    @property
    def handed(self) -> Place:
        """The place up to which everything has been handed to whomever it concerns."""
        ...

    def handed_to(self, viewer: Hashable) -> Place:
        """Return the place up to which everything has been handed to a viewer's channels."""
        ...

    def place_at(self, ordinal: int, viewer: Hashable) -> Place:
        """Return the place up to which everything for a viewer is in the writes up to an
        ordinal."""
        ...


@attrs.define(eq=False)
class Standing:
    """Where a channel stands, from its join to its end, and beyond while its client may join again
    on the same connection."""

    subscription: Subscription
    member: Membership
    cursor: ConnectionCursor
    """Of its connection."""
    first: Place
    """The place at which it began."""
    reply: int
    """The ordinal of the write that answered its join."""
    began: Place = attrs.field(init=False)
    """Up to where its client has everything, as long as nothing else is proven."""
    since: int | None = attrs.field(default=None, init=False)
    """The ordinal of the last write before it became live; None while it is not."""
    lost: LostReason | None = attrs.field(default=None, init=False)
    """Why it could not go on where it stands, until a write behind ``since`` is proven."""
    # Ordinals, and the places that are proven with them, in order.
    _checkpoints: list[tuple[int, Place]] = attrs.field(factory=list, init=False)

    def __attrs_post_init__(self) -> None:
        self.began = self.first

    @property
    def is_settled(self) -> bool:
        """Whether its place is its connection's: all from before it became live is proven."""
        return self.since is not None and self.cursor.proven >= self.since

    @property
    def why_lost(self) -> LostReason | None:
        """Why it could not go on where it stands now; None if it can."""
        if self.cursor.is_unprovable:
            return LostReason.UNPROVEN
        return None if self.is_settled else self.lost

    def go_on(self, place: Place) -> None:
        """Note where the channel begins."""
        self.first = self.began = place

    def go_live(self) -> None:
        """Note that all up to now has been written to it, and what comes is the live hub's."""
        self.since = self.cursor.written

    def note(self, place: Place) -> None:
        """Note that everything up to a place has been written to its connection, or is on its
        way."""
        checkpoints = self._checkpoints
        checkpoints.append((self.cursor.written, place))
        if len(checkpoints) > _MOST_CHECKPOINTS:
            del checkpoints[1 : _MOST_CHECKPOINTS // 2 : 2]

    def park(self, written: Place, live: LivePlaces) -> None:
        """Note that the channel has ended, and its client may join again on this connection.

        Args:
            written: up to where everything has been written to it.
            live: where the live hub stands.
        """
        self.began = self.place(live)
        self.since = None
        self._checkpoints.clear()
        self.note(written)

    def succeed(self, former: Standing) -> Place:
        """Go on where a channel of the same connection was parked; return the place."""
        self.first = self.began = former.began
        self._checkpoints = former._checkpoints
        self.lost = former.lost
        return self._checkpoints[-1][1] if self._checkpoints else self.began

    def begin_anew(self, place: Place) -> None:
        """Go on in another stream, in which the former places say nothing.

        Args:
            place: where the live hub stands in it.
        """
        self.first = self.began = place
        self._checkpoints.clear()
        self.lost = LostReason.LOST
        if self.since is not None:
            self.since = self.cursor.written

    def place(self, live: LivePlaces) -> Place:
        """Return up to where the channel's client has everything."""
        cursor = self.cursor
        proven = cursor.proven
        checkpoints = self._checkpoints
        while checkpoints and proven >= checkpoints[0][0]:
            self.began = max(self.began, checkpoints.pop(0)[1])
        if self.since is None or proven < self.since:
            return self.began
        if proven >= cursor.written:
            return max(live.handed_to(self.subscription.viewer), self.began)
        return max(live.place_at(proven, self.subscription.viewer), self.began)
