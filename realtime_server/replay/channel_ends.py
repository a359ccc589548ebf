"""ChannelEnds: how channels end, and what they leave behind.

A channel whose connection is lost leaves an absence. A channel that its client is going to join
again on the same connection is parked. Any other channel leaves nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from ..fanout.groups import Subscription
from ..fanout.hub import Hub
from ..phoenix.actions import Departure
from .channel_starts import ChannelStarts
from .membership import Membership
from .memberships import Memberships
from .parking import Parking
from .places import Place
from .standing import LivePlaces, Standing
from .standings import Standings
from .visit import Visit

__all__ = ["ChannelEnds"]


class ChannelEnds:
    """Ends channels.

    Args:
        hub: the live hub.
        live: the places up to which the live hub has handed changes out.
        channel_starts: begins channels. One may end before it is decided where it begins.
        memberships: the open channels and the absences.
        standings: the places of channels.
        parking: the channels that may be joined again on the same connection.
        clock: seconds of any clock that only goes forward.
    """

    def __init__(
        self,
        hub: Hub,
        live: LivePlaces,
        channel_starts: ChannelStarts,
        memberships: Memberships,
        standings: Standings,
        parking: Parking,
        clock: Callable[[], float],
    ) -> None:
        self._hub = hub
        self._live = live
        self._channel_starts = channel_starts
        self._catch_up = channel_starts.catch_up
        self._memberships = memberships
        self._standings = standings
        self._parking = parking
        self._clock = clock
        channel_starts.held.on_gone = self._leave_absence

    def leave(self, visit: Visit, subscription: Subscription, how: Departure) -> None:
        """End a channel, and keep for its client what the client needs to come back.

        Args:
            visit: the channel's connection.
            subscription: the channel.
            how: how the channel ends.
        """
        standing = visit.standings.pop(subscription, None)
        if standing is None:
            self._catch_up.remove(subscription)
            self._hub.unsubscribe(subscription)
            return
        standing.written = written = self._written(standing)
        standing.was_held = self._channel_starts.held.has(standing.member)
        now, has_left = self._clock(), how is Departure.LEFT
        self._note_what_is_known(standing, now)
        gave_up = standing.may_be_given_up(now)
        if has_left and not gave_up and standing.may_have_timed_out(now):
            gave_up = standing.has_left = True
        if gave_up:
            standing.give_up()
        elif standing.since is None:
            # The answer to a close frame proves what was written in a round, too.
            standing.note(written)
        self._standings.end(standing)
        self._catch_up.remove(subscription)
        self._hub.unsubscribe(subscription)
        self._channel_starts.cancel(standing.member)
        if has_left and (gave_up or visit.proof.proven < standing.reply):
            # Some clients leave a channel when the answer to its join takes too long, and join it
            # again. The application has left nothing.
            how = Departure.REJOINING
        if how is Departure.REJOINING:
            standing.park(None if gave_up else written, self._live)
            former = self._parking.park(visit, standing)
            if former is not None:
                self._depart(former, Departure.LOST)
        else:
            self._depart(standing, how)

    def close(self, visit: Visit, how: Departure) -> None:
        """End the parked channels of a connection that has ended.

        Args:
            visit: the connection.
            how: whether the client may come back.
        """
        for standing in self._parking.leave(visit):
            self._depart(standing, how)

    def expire(self) -> None:
        """End the parked channels whose clients have not joined again in time."""
        for standing in self._parking.expire():
            self._depart(standing, Departure.LEFT if standing.has_left else Departure.LOST)

    def abandon(
        self, subscription: Subscription, standing: Standing | None, how: Departure
    ) -> None:
        """Forget a channel, after a failure; its client is told of a gap if it comes back.

        Args:
            subscription: the channel.
            standing: the channel's standing; None if it had none.
            how: whether the client may come back.
        """
        self._catch_up.remove(subscription)
        if standing is not None:
            self._channel_starts.cancel(standing.member)
            self.forget(standing)
            if how is not Departure.LEFT:
                self._memberships.lose(standing.member, self._live.handed)

    def forget(self, standing: Standing) -> None:
        """End a channel whose client cannot come back to it."""
        self._memberships.end(standing.member)
        self._standings.remove(standing)

    def forget_parked(self, visit: Visit, topic: str) -> None:
        """End a parked channel whose client has joined its topic again, and asks for no changes."""
        standing = self._parking.take(visit, topic)
        if standing is not None:
            self.forget(standing)

    def _written(self, standing: Standing) -> Place:
        """Return the place up to which everything was written to a channel."""
        if standing.since is not None:
            return self._live.handed_to(standing.subscription.viewer)
        return self._catch_up.place_of(standing.subscription) or standing.began

    def written_to(self, member: Membership) -> Place | None:
        """Return the place up to which everything was written to a membership's client; None: it is
        not known."""
        standing = self._standings.of_member(member)
        return None if standing is None else self._written(standing)

    def _depart(self, standing: Standing, how: Departure) -> None:
        if how is not Departure.LOST:
            self.forget(standing)
        elif not (standing.was_held and self._channel_starts.held.put_off(standing)):
            self._leave_absence(standing)

    def _note_what_is_known(self, standing: Standing, now: float) -> None:
        if standing.is_settled or standing.knows_start(now):
            standing.member.is_anew = False

    def _leave_absence(self, standing: Standing) -> None:
        place, why = standing.place(self._live), standing.why_lost
        self._note_what_is_known(standing, self._clock())
        absence = self._memberships.depart(
            standing.member, place, began=standing.first, written=standing.written, lost=why
        )
        if absence is not None:
            self._standings.on_absence(standing, absence)
        self.forget(standing)
