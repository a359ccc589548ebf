"""GoingLive: moves channels from their rounds to the live hub."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import islice
from typing import Final, TypeAlias

from ..fanout.groups import Subscription
from ..fanout.hub import Hub
from .catch_up_round import CatchUpRound, RoundMember
from .places import Place

__all__ = ["GoingLive", "TellGap"]

_AT_ONCE: Final = 1000
"""Channels that are looked at without giving way, at most."""
_PROMOTING: Final = 0.001
"""Seconds for which channels are let go live before a batch, and again behind it. The channels for
which there is no time get the batch from their round."""

TellGap: TypeAlias = Callable[[Subscription, Place, Place], None]
"""Tells a channel of a gap between two places."""


class GoingLive:
    """Moves channels to the live hub when they have caught up, or were given up.

    Args:
        hub: the live hub.
        members: the channels that are being brought up to now. One that goes live is removed.
        on_live: called when a channel is in the live hub.
    """

    def __init__(
        self,
        hub: Hub,
        members: dict[Subscription, RoundMember],
        on_live: Callable[[Subscription], None],
    ) -> None:
        self._hub = hub
        self._members = members
        self._on_live = on_live
        # The channels that go live without what they missed, each with what tells it of the gap.
        self._given_up: dict[RoundMember, TellGap] = {}

    def __bool__(self) -> bool:
        """Whether channels wait that go live without what they missed."""
        return bool(self._given_up)

    def give_up(self, member: RoundMember, tell: TellGap) -> None:
        """Queue a channel that goes live without what it missed, for :meth:`let_go`."""
        self._given_up[member] = tell

    def discard(self, member: RoundMember) -> None:
        """Remove a channel that has left from the queue."""
        self._given_up.pop(member, None)

    def clear(self) -> None:
        """Empty the queue."""
        self._given_up.clear()

    def go_live(self, subscription: Subscription) -> None:
        """Subscribe a channel in the live hub."""
        self._members.pop(subscription, None)
        self._hub.subscribe(subscription)
        self._on_live(subscription)

    def promote(self, one: CatchUpRound) -> None:
        """Move members that have caught up to the live hub, as many as there is time for."""
        clock = asyncio.get_running_loop().time
        until = clock() + _PROMOTING
        for member in list(islice(one.members.values(), _AT_ONCE)):
            one.remove(member)
            self.go_live(member.subscription)
            if clock() >= until:
                break

    def let_go(self, end: Place) -> None:
        """Move channels that :meth:`give_up` has queued to the live hub, and tell each that it has
        missed what is between its place and ``end``: as many as there is time for.

        No batch of the stream may be under way meanwhile.

        Args:
            end: the place up to which the live hub has handed everything out.
        """
        clock = asyncio.get_running_loop().time
        until = clock() + _PROMOTING
        for member, tell in list(islice(self._given_up.items(), _AT_ONCE)):
            del self._given_up[member]
            tell(member.subscription, member.place, end)
            self.go_live(member.subscription)
            if clock() >= until:
                break
