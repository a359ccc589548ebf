"""Round: channels that are brought up to now together, in a hub of their own."""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Sequence
from typing import Final

import attrs

from ..fanout.groups import Subscription
from ..fanout.hub import Hub
from ..fanout.outbox_writes import Outbox
from .places import Place

__all__ = ["Member", "Round"]

_STEP_BYTES: Final = 512 * 1024
"""Bytes of changes that are published at once to one socket, about."""
_SURE_BYTES: Final = 64 * 1024
"""Bytes of these that no number of sockets makes fewer: what the kernel takes for each."""
_ALL_BYTES: Final = 64 * 1024 * 1024
"""Bytes of these to all sockets together, about."""


@attrs.define(eq=False)
class Member:
    """A channel that is being brought up to now."""

    subscription: Subscription
    place: Place
    """Up to where it has everything, if it is in no round's hub; otherwise its round says it."""
    epoch: int
    """The log's epoch that the place is of."""
    round: Round | None = None
    """The round that it is in, or that it enters when this has reached its place."""
    has_entered: bool = False
    """Whether it is in the round's hub."""
    is_alone: bool = False
    """Whether its viewer has to be alone in a round, so that nobody waits for it."""


def _descending(member: Member) -> tuple[int, ...]:
    # Places are of two or three numbers; one that is behind a gap is the higher one.
    return tuple(-number for number in (*member.place, 0)[:3])


class Round:
    """Channels that are brought up to now together.

    Args:
        hub: of its own.
        members: the channels.
        epoch: the log's, now.
        is_alone: whether all of them have the same viewer, and nobody may join them.
    """

    def __init__(
        self, hub: Hub, members: Sequence[Member], epoch: int, *, is_alone: bool = False
    ) -> None:
        self.hub = hub
        self.is_alone = is_alone
        self.epoch = epoch
        # Those that have still to enter the hub, the one with the lowest place at the end.
        self.entering = sorted(members, key=_descending)
        self.members: dict[Subscription, Member] = {}
        """Those that are in the hub."""
        self.place: Place = self.entering[-1].place
        """Up to where its members have everything."""
        self.publishing_to: Place = self.place
        """Up to where they will, when what is being published is with every outbox."""
        self._sockets: Counter[Outbox] = Counter()
        for member in members:
            member.round = self

    def __len__(self) -> int:
        return len(self.members) + len(self.entering)

    def add(self, member: Member) -> None:
        """Take another member, whose place the round has not passed yet."""
        member.round = self
        insort(self.entering, member, key=_descending)

    def enter(self) -> bool:
        """Subscribe one whose place has been reached; return whether there was any."""
        if not self.entering or self.entering[-1].place > self.place:
            return False
        member = self.entering.pop()
        member.has_entered = True
        self.members[member.subscription] = member
        self._sockets[member.subscription.outbox] += 1
        self.hub.subscribe(member.subscription)
        return True

    def remove(self, member: Member) -> None:
        """Let a member go."""
        member.round = None
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
        """Let all members go."""
        for member in self.members.values():
            member.place = self.place
            self.hub.unsubscribe(member.subscription)
        for member in (*self.members.values(), *self.entering):
            member.round, member.has_entered = None, False
        self.members.clear()
        self.entering.clear()
        self._sockets.clear()

    def step_bytes(self) -> int:
        """Return how many bytes of changes may be published at once."""
        size = min(_STEP_BYTES, _ALL_BYTES // max(len(self._sockets), 1))
        # A socket gets a change for each of its channels.
        return max(size, _SURE_BYTES) // max(self._sockets.values(), default=1)
