"""ChannelGap: changes that some channels do not get, and are told of as of a gap.

Row level security may not have answered whether they may see the rows. So a loss goes by who
listens to the tables, and never by filters, which would tell what is in those rows.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Self

import attrs

from realtime_core import Position

from ..fanout.dispatch import Members, Subscriber
from ..fanout.groups import AnyGroup, Subscription
from .pending_changes import PendingChange
from .viewers import Viewer

__all__ = ["ChannelGap", "ChannelGapReason"]


class ChannelGapReason(enum.Enum):
    """Why channels do not get their changes."""

    TOO_SLOW = "rls_too_slow"
    """Too many had to wait for row level security."""
    TOKEN_REPLACED = "token_replaced"
    """They were looked at in the name of a token that is the channel's no more."""
    FAILED = "rls_failed"
    """They could not be looked at, because of a fault of the server's."""
    TABLE_REPLACED = "table_replaced"
    """Their table is gone, or has another name, so that nobody says who may see its rows."""


@attrs.define
class ChannelGap:
    """Changes, as far as their channels have to be told. It does not grow with their number."""

    viewer: Viewer
    reason: ChannelGapReason
    until: Position
    """The last one's."""
    after: Position | None = None
    """Of the last change before them that was handed over; None when there was none."""
    is_of_moved: bool = False
    """Whether only channels are concerned that have become another viewer's."""
    count: int = 0
    """How many they are."""
    channels: dict[AnyGroup, Members] = attrs.field(factory=dict)
    """Those who do not get them."""

    @classmethod
    def of(
        cls,
        viewer: Viewer,
        reason: ChannelGapReason,
        candidates: Sequence[PendingChange],
        *,
        is_of_moved: bool = False,
    ) -> Self:
        """Return the loss of changes that a viewer does not get; there is at least one."""
        loss = cls(viewer, reason, candidates[-1].change.position, is_of_moved=is_of_moved)
        loss.add(candidates)
        return loss

    def add(self, candidates: Sequence[PendingChange], *, are_earlier: bool = False) -> None:
        """Lose more, which are later ones unless said otherwise."""
        if not are_earlier:
            self.until = candidates[-1].change.position
        self.count += len(candidates)
        all_channels = (one.listening.get(self.viewer, {}) for one in candidates)
        # Most changes of a table have the same ones.
        for channels in {id(one): one for one in all_channels}.values():
            for group, members in channels.items():
                concerned = {outbox: one for outbox, one in members.items() if self._concerns(one)}
                if concerned:
                    self.channels.setdefault(group, Members()).update(concerned)

    def _concerns(self, channel: Subscriber) -> bool:
        assert isinstance(channel, Subscription)  # the hub has no others
        return channel.is_open and not (self.is_of_moved and channel.viewer is self.viewer)
