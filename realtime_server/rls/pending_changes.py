"""PendingChange: a change that is not sent yet, and the viewers whose channels ask for it."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from typing import Self, TypeAlias

import attrs

from realtime_core import RowChange

from ..fanout.dispatch import Members
from ..fanout.groups import AnyDelivery, AnyGroup, Listening
from .payloads import ErrorView, View
from .viewers import Viewer

__all__ = [
    "Channels",
    "PendingChange",
    "Decided",
    "Lost",
    "Matched",
    "Shown",
    "listening_to",
    "merged",
]

Channels: TypeAlias = Mapping[AnyGroup, Members]
"""Channels as they were at the match: groups, each with its members."""
Matched: TypeAlias = dict[Viewer, list[tuple[AnyDelivery, Members]]]
"""The channels that ask for a change, by viewer, as they were at the match. Channels join, leave
and get other viewers meanwhile."""


class Lost(enum.Enum):
    """Why a change cannot be checked any more. Its channels are told of a gap."""

    TABLE_REPLACED = enum.auto()
    """The table was dropped, replaced or renamed."""


Shown: TypeAlias = dict[Viewer, View | ErrorView | Lost]
"""A view of a change for each viewer that may see it. Any other viewer may see nothing of it."""


@attrs.frozen(eq=False)
class PendingChange:
    """A change that is not sent yet, and the viewers who get it if they may see it."""

    change: RowChange
    size: int
    """How many bytes the change's values have as text."""
    viewers: frozenset[Viewer]
    """The viewers with a channel that asks for the change, and whose filters the change passes."""
    others: frozenset[Viewer] = frozenset()
    """The other viewers who listen to the table: the change does not pass their filters."""
    filtering: frozenset[Viewer] = frozenset()
    """The viewers, of both kinds, whose channels all have filters on the table."""
    matched: Matched = attrs.field(factory=dict)
    """The channels of ``viewers`` that get the change."""
    listening: Listening = attrs.field(factory=dict)
    """All channels of both kinds of viewers that listen to the table."""

    def without(self, viewers: frozenset[Viewer]) -> Self:
        """Return this change without some viewers. Their channels stay in ``matched``."""
        return attrs.evolve(
            self,
            viewers=self.viewers - viewers,
            others=self.others - viewers,
            filtering=self.filtering - viewers,
        )

    def only_for(self, viewer: Viewer) -> Self:
        """Return this change for one viewer and its channels only."""
        return attrs.evolve(
            self,
            viewers=self.viewers & {viewer},
            others=self.others & {viewer},
            filtering=self.filtering & {viewer},
            matched={viewer: self.matched[viewer]} if viewer in self.matched else {},
            listening={viewer: self.listening[viewer]} if viewer in self.listening else {},
        )


Decided: TypeAlias = Sequence[tuple[PendingChange, Shown]]
"""Changes in order, each with what every viewer may see of it."""


def listening_to(pending: Iterable[PendingChange], viewer: Viewer) -> list[Channels]:
    """Return a viewer's channels that listen to changes, some of them more than once."""
    found = (one.listening.get(viewer) for one in pending)
    # Most changes of a table have the same channels, in one mapping.
    return list({id(one): one for one in found if one is not None}.values())


def merged(parts: Sequence[PendingChange]) -> PendingChange:
    """Join parts of one change, each for other viewers, into one.

    :meth:`PendingChange.only_for` made the parts. The result has the viewers of all parts, and no
    channels: it is for checking the viewers together, and not for sending.

    Args:
        parts: at least one part, all of the same change. A single part is returned as it is.
    """
    if len(parts) == 1:
        return parts[0]
    return PendingChange(
        parts[0].change,
        parts[0].size,
        frozenset().union(*(one.viewers for one in parts)),
        frozenset().union(*(one.others for one in parts)),
        frozenset().union(*(one.filtering for one in parts)),
    )
