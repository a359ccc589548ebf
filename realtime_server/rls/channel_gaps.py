"""ChannelGap: changes that some channels do not get, so that they get a gap instead.

It may not be known whether the channels may see the rows. So all channels that listen to the tables
get the gap, whatever their filters say: else the gap would reveal what is in the rows.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence, Set
from typing import Self

import attrs

from realtime_core import Position

from ..fanout.dispatch import Members, Subscriber
from ..fanout.groups import AnyGroup, Subscription
from .pending_changes import PendingChange, listening_to
from .viewers import Viewer

__all__ = ["ChannelGap", "ChannelGapReason"]


class ChannelGapReason(enum.Enum):
    """Why channels do not get changes."""

    TOO_SLOW = "rls_too_slow"
    """Too many changes waited for row level security."""
    TOKEN_REPLACED = "token_replaced"
    """The changes were checked for a token that the channel no longer has."""
    FAILED = "rls_failed"
    """The changes could not be checked, because of a bug in the server."""
    STOPPED = "server_stopped"
    """The server stopped before row level security had been checked."""
    TABLE_REPLACED = "table_replaced"
    """The table was dropped, replaced or renamed, so that no policies say who may see its rows."""


@attrs.define
class ChannelGap:
    """Changes that one viewer's channels do not get. It does not grow with their number."""

    viewer: Viewer
    """The role and claims that the changes should have been checked for."""
    reason: ChannelGapReason
    """Why the channels do not get the changes."""
    until: Position
    """The position of the last change."""
    first: Position
    """The position of the first change."""
    after: Position | None = None
    """The position of the last change before them that was sent; None if there was none."""
    is_of_moved: bool = False
    """Whether only the channels that have another viewer by now get the gap."""
    told: Set[Subscriber] = frozenset()
    """Channels that were told when they got another viewer."""
    count: int = 0
    """How many changes there are."""
    channels: dict[AnyGroup, Members] = attrs.field(factory=dict)
    """The channels that do not get the changes."""

    @classmethod
    def of(
        cls,
        viewer: Viewer,
        reason: ChannelGapReason,
        pending: Sequence[PendingChange],
        *,
        is_of_moved: bool = False,
        told: Set[Subscriber] = frozenset(),
    ) -> Self:
        """Return the gap for changes that a viewer does not get. There must be at least one."""
        first, last = pending[0].change.position, pending[-1].change.position
        gap = cls(viewer, reason, last, first, is_of_moved=is_of_moved, told=told)
        gap.add(pending)
        return gap

    def add(self, pending: Sequence[PendingChange], *, are_earlier: bool = False) -> None:
        """Add further changes.

        Args:
            pending: the changes, in order.
            are_earlier: whether they are earlier than those in the gap, and not later.
        """
        if are_earlier:
            self.first = pending[0].change.position
        else:
            self.until = pending[-1].change.position
        self.count += len(pending)
        for channels in listening_to(pending, self.viewer):
            for group, members in channels.items():
                concerned = {outbox: one for outbox, one in members.items() if self._concerns(one)}
                if concerned:
                    self.channels.setdefault(group, Members()).update(concerned)

    def remove(self, channel: Subscription) -> bool:
        """Take a channel out, so that it is not told of the gap; return whether it was in."""
        for members in self.channels.values():
            if members.get(channel.outbox) is channel:
                del members[channel.outbox]
                return True
        return False

    def _concerns(self, channel: Subscriber) -> bool:
        assert isinstance(channel, Subscription)  # the hub has no others
        if channel.viewer is self.viewer:
            return channel.is_open and not self.is_of_moved
        return channel.is_open and channel not in self.told
