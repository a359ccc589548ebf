"""CatchUpQueue: the channels that wait for a round."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from itertools import islice

from .catch_up_round import RoundMember

__all__ = ["CatchUpQueue"]


class CatchUpQueue:
    """The channels that wait for a round, each for one of four reasons."""

    def __init__(self) -> None:
        self._waiting: dict[RoundMember, None] = {}
        self._alone: dict[RoundMember, None] = {}
        # The channels whose outboxes have to drain first.
        self._behind: dict[RoundMember, None] = {}
        # The channels that cannot be published to now, each with what returns whether it may go on.
        self._held: dict[RoundMember, Callable[[], bool]] = {}
        self.has_come = asyncio.Event()
        """Set when a channel begins to wait."""

    def __bool__(self) -> bool:
        return bool(self._waiting or self._alone or self._behind or self._held)

    def is_ready(self, member: RoundMember) -> bool:
        """Return whether a channel waits only for a round to begin."""
        return member in self._waiting or member in self._alone

    def put(self, member: RoundMember) -> None:
        """Queue a channel for the next round, or for a round of its viewer alone."""
        (self._alone if member.is_alone else self._waiting)[member] = None
        self.has_come.set()

    def put_behind(self, member: RoundMember) -> None:
        """Queue a channel until its outbox has drained."""
        self._behind[member] = None
        self.has_come.set()

    def put_held(self, member: RoundMember, may_go_on: Callable[[], bool]) -> None:
        """Queue a channel until what it waits for is over, such as the lock of a table."""
        self._held[member] = may_go_on
        self.has_come.set()

    def discard(self, member: RoundMember) -> None:
        """Remove a channel from the queue, if it is there."""
        self._waiting.pop(member, None)
        self._alone.pop(member, None)
        self._behind.pop(member, None)
        self._held.pop(member, None)

    def clear(self) -> None:
        """Empty the queue."""
        for waiting in (self._waiting, self._alone, self._behind, self._held):
            waiting.clear()

    def take_drained(self) -> Iterator[RoundMember]:
        """Remove and yield the channels whose outboxes have drained."""
        for member in list(self._behind):
            if not member.subscription.outbox.is_behind:
                del self._behind[member]
                yield member

    def take_held(self, is_lost: Callable[[RoundMember], bool]) -> Iterator[RoundMember]:
        """Remove and yield the channels whose wait is over.

        Args:
            is_lost: returns whether a channel has nothing more to wait for.
        """
        for member, may_go_on in list(self._held.items()):
            if member in self._held and (may_go_on() or is_lost(member)):
                del self._held[member]
                yield member

    def first(self, most: int) -> list[RoundMember]:
        """Return channels that wait for a round, in the order in which they came."""
        return list(islice(self._waiting, most))

    def first_alone(self, most: int) -> list[RoundMember]:
        """Return channels that wait for a round of their viewer alone, all of one viewer."""
        if not self._alone:
            return []
        viewer = next(iter(self._alone)).subscription.viewer
        return [one for one in self._alone if one.subscription.viewer == viewer][:most]
