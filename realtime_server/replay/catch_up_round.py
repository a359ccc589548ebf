"""CatchUpRound: channels that catch up together, in a hub of their own."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from typing import Final

import attrs

from realtime_core import Event

from ..fanout.dispatch import Outbox
from ..fanout.groups import Subscription
from ..fanout.hub import Hub
from .places import Place, place_of

__all__ = ["MOST_MEMBERS", "CatchUpRound", "RoundMember", "CatchUpStats"]

_STEP_BYTES: Final = 512 * 1024
"""Bytes of changes that are published in one step to one socket, about."""
_SURE_BYTES: Final = 64 * 1024
"""Bytes that are published in one step to one socket however many sockets there are: the kernel
takes as many at once."""
_ALL_BYTES: Final = 64 * 1024 * 1024
"""Bytes of changes that are published in one step to all sockets together, about."""

MOST_MEMBERS: Final = 5000
"""Channels of one round at most. Further ones wait for the next round."""


@attrs.frozen
class CatchUpStats:
    """The counts of all rounds."""

    running: int = 0
    """Rounds that run now."""
    waiting: int = 0
    """Channels that are being brought up to now."""
    changes: int = 0
    """Changes that rounds published, each counted once for each of the round's channels."""
    duplicates_possible: int = 0
    """How many of these had been written to the client before, which did not prove that."""


@attrs.define(eq=False)
class RoundMember:
    """A channel that is catching up."""

    subscription: Subscription
    place: Place
    """The place up to which the channel has everything, while it is in no round's hub. While it is
    in one, the round's place counts."""
    epoch: int
    """The log's epoch to which the place belongs."""
    written: Place | None = None
    """The place up to which everything was written to the former channel, so that it may come
    twice; None: it is not known."""
    round: CatchUpRound | None = None
    """The channel's round; None if it waits for one."""
    has_entered: bool = False
    """Whether the channel is in the round's hub: the round has reached its place."""
    is_alone: bool = False
    """Whether the channel's viewer has rounds of its own, so that nobody else waits for it."""
    has_moved: bool = False
    """Whether the channel got another viewer during the present step, which it gets anew."""


def _descending(member: RoundMember) -> tuple[int, ...]:
    # Places are of two or three numbers; one that is behind a gap is the higher one.
    return tuple(-number for number in (*member.place, 0)[:3])


class CatchUpRound:
    """Channels that catch up together.

    Args:
        hub: the round's own hub.
        members: the channels.
        epoch: the log's present epoch.
        is_alone: whether all channels have the same viewer, and no others may join the round.
    """

    def __init__(
        self, hub: Hub, members: Sequence[RoundMember], epoch: int, *, is_alone: bool = False
    ) -> None:
        self.hub = hub
        self.is_alone = is_alone
        self.epoch = epoch
        # The members that have still to enter the hub, the one with the lowest place at the end.
        self.entering = sorted(members, key=_descending)
        self.members: dict[Subscription, RoundMember] = {}
        """The members that are in the hub."""
        self.place: Place = self.entering[-1].place
        """The place up to which the members in the hub have everything."""
        self.publishing_to: Place = self.place
        """The place up to which they will have everything when the present step is published."""
        self.is_publishing = False
        """Whether a step is being published: :attr:`place` stays where it is meanwhile."""
        self._sockets: Counter[Outbox] = Counter()
        for member in members:
            member.round = self

    def __len__(self) -> int:
        return len(self.members) + len(self.entering)

    def may_take(self, member: RoundMember, epoch: int) -> bool:
        """Return whether another member may join the round.

        Args:
            member: the member.
            epoch: the log's present epoch.
        """
        is_comparable = self.epoch == member.epoch == epoch
        is_open = is_comparable and not self.is_alone and 0 < len(self) < MOST_MEMBERS
        return is_open and self.publishing_to <= member.place

    def add(self, member: RoundMember) -> None:
        """Add a member, whose place the round has not passed yet."""
        member.round = self
        insort(self.entering, member, key=_descending)

    def enter(self) -> bool:
        """Subscribe a member whose place has been reached; return whether there was one."""
        if not self.entering or self.entering[-1].place > self.place:
            return False
        member = self.entering.pop()
        member.has_entered = True
        self.members[member.subscription] = member
        self._sockets[member.subscription.outbox] += 1
        self.hub.subscribe(member.subscription)
        return True

    def move(self, member: RoundMember, viewer: Hashable) -> None:
        """Give a member in the hub another viewer.

        What is being published is checked for the former viewer. So the member gets no more of it,
        and :meth:`moved` returns the member afterwards.
        """
        subscription = member.subscription
        if not self.is_publishing:
            self.hub.move(subscription, viewer)
        elif viewer != subscription.viewer:
            self.hub.unsubscribe(subscription)
            subscription.viewer = viewer
            member.has_moved = True
            # It may have got a part of the step already.
            member.written = max(member.written or self.place, self.publishing_to)

    def moved(self) -> list[RoundMember]:
        """Return the members that got another viewer while the step was being published."""
        return [one for one in self.members.values() if one.has_moved]

    def remove(self, member: RoundMember) -> None:
        """Remove a member, which then has everything up to the round's place."""
        member.round = None
        member.has_moved = False
        if not member.has_entered:
            self.entering.remove(member)
            return
        member.has_entered = False
        member.place, member.epoch = self.place, self.epoch
        del self.members[member.subscription]
        outbox = member.subscription.outbox
        self._sockets[outbox] -= 1
        if not self._sockets[outbox]:
            del self._sockets[outbox]
        self.hub.unsubscribe(member.subscription)

    def clear(self) -> None:
        """Remove all members."""
        for member in self.members.values():
            member.place = self.place
            self.hub.unsubscribe(member.subscription)
        for member in (*self.members.values(), *self.entering):
            member.round, member.has_entered, member.has_moved = None, False, False
        self.members.clear()
        self.entering.clear()
        self._sockets.clear()

    def of_viewers(self, viewers: Collection[Hashable]) -> list[RoundMember]:
        """Return the members in the hub whose viewer is one of some viewers."""
        if not viewers:
            return []
        return [one for one in self.members.values() if one.subscription.viewer in viewers]

    def written_before(self, events: Sequence[Event]) -> int:
        """Return how often changes are written again to members that got them before.

        Args:
            events: the changes that are about to be published.
        """
        places = sorted(filter(None, map(place_of, events)))
        return sum(
            bisect_right(places, member.written)
            for member in self.members.values()
            if member.written is not None and member.written > self.place
        )

    def behind(self) -> list[RoundMember]:
        """Return the members in the hub whose outboxes are behind."""
        return [one for one in self.members.values() if one.subscription.outbox.is_behind]

    def step_bytes(self) -> int:
        """Return how many bytes of changes may be published at once."""
        size = min(_STEP_BYTES, _ALL_BYTES // max(len(self._sockets), 1))
        # A socket gets a change for each of its channels.
        return max(size, _SURE_BYTES) // max(self._sockets.values(), default=1)
