"""PendingChange: a change, and those who may get it."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Self, TypeAlias

import attrs

from realtime_core import RowChange

from ..fanout.dispatch import Members
from ..fanout.groups import AnyDelivery, Listening
from .payloads import ErrorView, View
from .viewers import Viewer

__all__ = ["PendingChange", "Decided", "Lost", "Matched", "Shown"]

Matched: TypeAlias = dict[Viewer, list[tuple[AnyDelivery, Members]]]
"""By viewer, who got a change at the time it was matched: subscriptions come, move and go
meanwhile."""


class Lost(enum.Enum):
    """That a change cannot be looked at any more, and is told of as of a gap."""

    TABLE_REPLACED = enum.auto()


Shown: TypeAlias = dict[Viewer, View | ErrorView | Lost]
"""What each viewer sees of a change; who is not there sees nothing."""


@attrs.frozen(eq=False)
class PendingChange:
    """A change, and those who get it if they may see it."""

    change: RowChange
    size: int
    """Of its values as text, in bytes."""
    viewers: frozenset[Viewer]
    others: frozenset[Viewer] = frozenset()
    """Those who listen to the table, too, but whose filters it does not pass."""
    filtering: frozenset[Viewer] = frozenset()
    """Those of both all of whose channels have filters on the table."""
    matched: Matched = attrs.field(factory=dict)
    """The viewers' channels."""
    listening: Listening = attrs.field(factory=dict)
    """The channels of both."""

    def without(self, viewers: frozenset[Viewer]) -> Self:
        """Return it without some viewers; their channels stay."""
        return attrs.evolve(
            self,
            viewers=self.viewers - viewers,
            others=self.others - viewers,
            filtering=self.filtering - viewers,
        )

    def only_for(self, viewer: Viewer) -> Self:
        """Return it without any other viewers and their channels."""
        return attrs.evolve(
            self,
            viewers=self.viewers & {viewer},
            others=self.others & {viewer},
            filtering=self.filtering & {viewer},
            matched={viewer: self.matched[viewer]} if viewer in self.matched else {},
            listening={viewer: self.listening[viewer]} if viewer in self.listening else {},
        )


Decided: TypeAlias = Sequence[tuple[PendingChange, Shown]]
"""Changes in their order, each with what is shown of it."""
