"""Matcher: finds the channels that ask for a change.

It goes by topics, bindings and filters alone. Whether a viewer may see the row is decided later.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias, cast

import attrs

from realtime_core import RowChange

from ..fanout.groups import AnyDelivery, Listening
from ..fanout.hub import Hub
from ..fanout.turns import Turn, in_turns, run_steps
from .pending_changes import Matched, PendingChange
from .reader import Read
from .viewers import Viewer

__all__ = ["Matcher", "by_viewer"]

_Kind: TypeAlias = tuple[str, str, type[RowChange]]
"""A change's schema, table and class."""


@attrs.define
class _Audience:
    """The channels and viewers that all changes of a kind in one batch share."""

    listeners: dict[_Kind, tuple[Listening, frozenset[Viewer], frozenset[Viewer]]] = attrs.field(
        factory=dict
    )
    """The channels that listen to the table, their viewers, and those viewers whose channels all
    have filters."""
    known: dict[_Kind, tuple[Matched, frozenset[Viewer], frozenset[Viewer]]] = attrs.field(
        factory=dict
    )
    """The channels by viewer, the viewers, and the other viewers who listen to the table, for
    tables that no channel has a filter for."""


class Matcher:
    """Matches changes with subscriptions.

    Args:
        hub: has the joined channels.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def match(self, reads: Sequence[Read]) -> list[PendingChange]:
        """Return each change with the viewers whose channels ask for it; pause now and then."""
        for relation in dict.fromkeys(read.change.relation for read in reads):
            await run_steps(self._hub.typing(relation))
        pending: list[PendingChange] = []
        audience = _Audience()
        turn = Turn()
        for read in reads:
            deliveries: list[AnyDelivery] | None = None
            if self._hub.pace(read.change.relation).takes_long(read.change):
                deliveries = await in_turns(self._hub.delivering(read.change), turn)
            pending.append(self._pending(read, audience, deliveries))
            if turn.is_over:
                # Filters take time for each row. A channel that joins during the pause gets the
                # changes that are read later; one that leaves is left out at the delivery.
                await turn.give_way()
        return pending

    def _pending(
        self, read: Read, audience: _Audience, deliveries: list[AnyDelivery] | None
    ) -> PendingChange:
        change = read.change
        schema, table = change.relation.schema, change.relation.table
        kind = (schema, table, type(change))
        if kind not in audience.listeners:
            listening = self._hub.listening(change)
            everybody = frozenset(one for one in listening if isinstance(one, Viewer))
            audience.listeners[kind] = listening, everybody, self._filtering(change)
        listening, everybody, filtering = audience.listeners[kind]
        found = audience.known.get(kind)
        if found is None:
            matched = by_viewer(self._hub.deliveries(change) if deliveries is None else deliveries)
            self._hub.write(self._hub.misfit_messages())
            viewers = frozenset(matched)
            found = matched, viewers, everybody - viewers
            if not self._hub.has_filters(schema, table):
                audience.known[kind] = found
        matched, viewers, others = found
        return PendingChange(change, read.size, viewers, others, filtering, matched, listening)

    def _filtering(self, change: RowChange) -> frozenset[Viewer]:
        """Return the viewers all of whose channels have filters on a change's table."""
        relation = change.relation
        if not self._hub.has_filters(relation.schema, relation.table):
            return frozenset()
        # In RLS mode each channel has a viewer. The hub keeps the set, so it is the same object
        # while the channels are the same.
        return cast("frozenset[Viewer]", self._hub.filtering(change))


def by_viewer(deliveries: Iterable[AnyDelivery]) -> Matched:
    """Return deliveries by viewer, each with its channels as they are now."""
    matched: Matched = {}
    for delivery in deliveries:
        viewer = delivery.group.viewer
        assert isinstance(viewer, Viewer)  # in RLS mode each channel has one
        matched.setdefault(viewer, []).append((delivery, delivery.group.members))
    return matched
