"""Loss: changes that some channels do not get, and are told of as of a gap."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Self

import attrs

from realtime_core import Position

from ..dispatch import Members
from ..hub import AnyGroup
from .candidates import Candidate
from .viewers import Viewer

__all__ = ["Loss", "LossReason"]


class LossReason(enum.Enum):
    """Why channels do not get their changes."""

    TOO_SLOW = "rls_too_slow"
    """Too many had to wait for row level security."""
    TOKEN_REPLACED = "token_replaced"
    """They were looked at in the name of a token that is the channel's no more."""
    FAILED = "rls_failed"
    """They could not be looked at, because of a fault of the server's."""


@attrs.define
class Loss:
    """Changes, as far as their channels have to be told. It does not grow with their number."""

    viewer: Viewer
    reason: LossReason
    until: Position
    """The last one's."""
    after: Position | None = None
    """Of the last change before them that was handed over; None when there was none."""
    count: int = 0
    """How many they are."""
    channels: dict[AnyGroup, Members] = attrs.field(factory=dict)
    """Those who do not get them."""

    @classmethod
    def of(cls, viewer: Viewer, reason: LossReason, candidates: Sequence[Candidate]) -> Self:
        """Return the loss of changes that a viewer does not get; there is at least one."""
        loss = cls(viewer, reason, candidates[-1].change.position)
        loss.add(candidates)
        return loss

    def add(self, candidates: Sequence[Candidate], *, are_earlier: bool = False) -> None:
        """Lose more, which are later ones unless said otherwise."""
        if not are_earlier:
            self.until = candidates[-1].change.position
        self.count += sum(self.viewer in one.viewers for one in candidates)
        # Most changes of a table have the same channels.
        for matched in {id(one.matched): one.matched for one in candidates}.values():
            for delivery, members in matched.get(self.viewer, ()):
                is_there = {outbox: one for outbox, one in members.items() if one.is_open}
                if is_there:
                    self.channels.setdefault(delivery.group, Members()).update(is_there)
