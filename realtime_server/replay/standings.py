"""Standings: the places of all channels, from which follows which changes nobody needs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from ..fanout.groups import Subscription
from .absences import Absence
from .lost_reasons import LostReason
from .membership import Membership
from .places import BEFORE, Place
from .standing import LASTS, LivePlaces, Standing

__all__ = ["STEP", "Standings"]

STEP: Final = 100
"""Channels or connections that are looked at without giving way, which takes 0.1 ms or so."""


class Standings:
    """The standings of a server's channels, and of its parked channels.

    Args:
        live: the places up to which the live hub has handed changes out.
        clock: seconds of the clock by which channels are joined.
    """

    def __init__(self, live: LivePlaces, clock: Callable[[], float]) -> None:
        self._live = live
        self._clock = clock
        self._by_member: dict[Membership, Standing] = {}
        self._by_subscription: dict[Subscription, Standing] = {}
        # The standings whose place does not follow from their connection's proofs alone, and since
        # when it does for those for which that is so, but not for long.
        self._unsettled: dict[Standing, float | None] = {}
        # Those of which that is not so however the connection ends.
        self._unsure: dict[Standing, None] = {}
        self.on_change: Callable[[Standing], None] = lambda standing: None
        """Is called with each standing that may have changed otherwise than by proofs."""
        self.on_absence: Callable[[Standing, Absence], None] = lambda standing, absence: None
        """Is called with each standing that has ended, and the absence that it has left."""
        self.on_place: Callable[[Place], None] = lambda place: None
        """Is called with the place of each standing that was added, or that may be lower now: all
        other places only go up."""

    def add(self, standing: Standing) -> None:
        """Add the standing of a channel that has been joined."""
        self._by_member[standing.member] = standing
        self._by_subscription[standing.subscription] = standing
        self._unsettled[standing] = self._unsure[standing] = None
        self.on_place(standing.sure_place(self._live))
        standing.proof.when_answered(standing.reply, partial(self._note_answer, standing))

    def _note_answer(self, standing: Standing, is_there: bool) -> None:
        standing.note_answer(self._clock())

    def end(self, standing: Standing) -> None:
        """Note that a channel has ended. If it is not parked it has to be removed then."""
        self._by_subscription.pop(standing.subscription, None)
        self.unsettle(standing)

    def unsettle(self, standing: Standing) -> None:
        """Note that a standing does not follow from its connection's proofs, as far as is known."""
        self._unsettled[standing] = self._unsure[standing] = None
        self.on_change(standing)
        if not standing.proof.is_unprovable:
            self.on_place(standing.sure_place(self._live))

    def lose(self, standing: Standing) -> None:
        """Note that a channel is about to be told of a gap. Until that is proven to have arrived,
        no later channel can go on from its place."""
        if standing.since is not None:
            standing.hold(standing.sure_place(self._live))
        standing.lost = LostReason.LOST
        self.unsettle(standing)

    def remove(self, standing: Standing) -> None:
        """Remove the standing of a channel that has ended for good."""
        standing.proof.forget(standing.reply)
        self._by_subscription.pop(standing.subscription, None)
        self._by_member.pop(standing.member, None)
        self._unsettled.pop(standing, None)
        self._unsure.pop(standing, None)
        self.on_change(standing)

    def note(self, member: Membership) -> None:
        """Note that it was decided where a membership goes on, or that it was claimed, or that its
        place was lowered."""
        standing = self._by_member.get(member)
        if standing is not None:
            self.on_change(standing)
            self.on_place(standing.sure_place(self._live))

    def of_member(self, member: Membership) -> Standing | None:
        """Return the standing of a membership; None if the membership has ended."""
        return self._by_member.get(member)

    def of_subscription(self, subscription: Subscription) -> Standing | None:
        """Return the standing of a channel; None if the channel has ended or has no key."""
        return self._by_subscription.get(subscription)

    def note_written(self, subscription: Subscription, place: Place) -> None:
        """Note that everything up to a place was just written to a channel that is in a round."""
        standing = self._by_subscription.get(subscription)
        if standing is not None:
            standing.note(place)

    def place(self, member: Membership) -> Place:
        """Return the place up to which a membership's client has everything."""
        return self._by_member[member].place(self._live)

    def why_lost(self, member: Membership) -> LostReason | None:
        """Return why no later channel can go on from a membership's place; None if one can."""
        standing = self._by_member.get(member)
        return None if standing is None else standing.why_lost

    def sure_places(self) -> Iterator[Place]:
        """Yield the places that count, however connections end, of standings that do not follow
        from proofs alone. Nobody goes on from where it is not known what the client has.

        Others may run in between, see :attr:`on_place`.
        """
        for standing in list(self._unsure):
            if not standing.proof.is_unprovable:
                yield standing.sure_place(self._live)

    def is_settled(self, standing: Standing) -> bool:
        """Return whether a standing has followed from its connection's proofs for long enough."""
        return standing not in self._unsettled

    def settling(self, now: float, *, highest: Place = BEFORE) -> Iterator[None]:
        """Look at each standing that is not settled, in steps: others may run in between.

        A standing is settled once it has followed from the proofs of its connection for ``LASTS``
        seconds.

        Args:
            now: seconds of the clock by which channels are joined.
            highest: the highest place that all settled standings were found to have. A channel
                whose connection was not waited for may be below.
        """
        for count, standing in enumerate(list(self._unsettled), 1):
            if count % STEP == 0:
                yield
            if standing not in self._unsettled:
                continue
            since = self._unsettled[standing]
            member = standing.member
            if member.is_anew and (standing.is_settled or standing.has_long_known_start(now)):
                member.is_anew = False
                self.on_change(standing)
            if standing.is_settled and since is not None:
                if now - since >= LASTS:
                    del self._unsettled[standing]
                    self.on_change(standing)
            elif standing.is_settled and standing.place(self._live) >= highest:
                self._unsettled[standing] = now
            if standing in self._unsettled and standing.note_lasting(self._live, now):
                self.on_change(standing)
        for count, standing in enumerate(list(self._unsure), 1):
            if standing in self._unsure and standing.is_sure:
                # This takes in, for the last time, what was proven before the channel was live.
                standing.sure_place(self._live)
                del self._unsure[standing]
            if count % STEP == 0:
                yield

    def begin_anew(self) -> None:
        """Go on in another stream, with whose places the former ones cannot be compared."""
        for standing in self._by_member.values():
            standing.begin_anew(self._live.handed)
            self.unsettle(standing)
