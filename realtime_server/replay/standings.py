"""Standings: where all channels stand, and up to where that leaves changes unneeded."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..fanout.groups import Subscription
from .memberships import Membership
from .places import Place
from .standing import LivePlaces, Standing

__all__ = ["Standings"]


class Standings:
    """The standings of a server's channels, those that have ended and may be joined again as well.

    Args:
        live: where the live hub stands.
    """

    def __init__(self, live: LivePlaces) -> None:
        self._live = live
        self._by_member: dict[Membership, Standing] = {}
        self._by_subscription: dict[Subscription, Standing] = {}
        # Those whose place is not their connection's, or not yet.
        self._unsettled: dict[Standing, None] = {}
        self.on_change: Callable[[Standing], None] = lambda standing: None
        """Is called with each standing that may have changed otherwise than by proofs."""

    def add(self, standing: Standing) -> None:
        """Add the standing of a channel that has been joined."""
        self._by_member[standing.member] = standing
        self._by_subscription[standing.subscription] = standing
        self._unsettled[standing] = None

    def end(self, standing: Standing) -> None:
        """Note that a channel has ended; it may be parked, or else has to be removed."""
        self._by_subscription.pop(standing.subscription, None)
        self._unsettled[standing] = None
        self.on_change(standing)

    def remove(self, standing: Standing) -> None:
        """Remove the standing of a channel that has ended for good."""
        self._by_subscription.pop(standing.subscription, None)
        self._by_member.pop(standing.member, None)
        self._unsettled.pop(standing, None)
        self.on_change(standing)

    def note(self, member: Membership) -> None:
        """Note that it was decided where a membership goes on, or what becomes of it."""
        standing = self._by_member.get(member)
        if standing is not None:
            self.on_change(standing)

    def of_member(self, member: Membership) -> Standing | None:
        """Return where a membership stands; None if it has ended."""
        return self._by_member.get(member)

    def of_subscription(self, subscription: Subscription) -> Standing | None:
        """Return where a channel stands; None if it has ended, or cannot be gone on from."""
        return self._by_subscription.get(subscription)

    def place(self, member: Membership) -> Place:
        """Return up to where a membership's client has everything."""
        return self._by_member[member].place(self._live)

    def unsettled_places(self) -> Iterator[Place]:
        """Yield the places of those that do not stand where their connection does."""
        return (standing.place(self._live) for standing in self._unsettled)

    def settle(self, written: Callable[[Subscription], Place | None]) -> None:
        """Note what has been written to those that are being brought up to now, and who is.

        Args:
            written: returns up to where everything was written to a channel that is being brought
                up to now; None for others.
        """
        for standing in list(self._unsettled):
            if standing.is_settled:
                # For the last time: what was proven before it was live.
                standing.place(self._live)
                del self._unsettled[standing]
                self.on_change(standing)
            elif (place := written(standing.subscription)) is not None:
                standing.note(place)

    def begin_anew(self) -> None:
        """Note that the stream is another one, in which former places say nothing."""
        for standing in self._by_member.values():
            standing.begin_anew(self._live.handed)
            self._unsettled[standing] = None
            self.on_change(standing)
