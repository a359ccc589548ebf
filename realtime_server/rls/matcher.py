"""Matcher: who gets a change if they may see it.

It knows topics, bindings and filters, and nothing of rows that anybody may see.
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
    """Who gets the changes of a batch, as far as it is the same for all of a table."""

    listeners: dict[_Kind, tuple[Listening, frozenset[Viewer], frozenset[Viewer]]] = attrs.field(
        factory=dict
    )
    known: dict[_Kind, tuple[Matched, frozenset[Viewer], frozenset[Viewer]]] = attrs.field(
        factory=dict
    )
    """Where nobody filters."""


class Matcher:
    """Matches changes with subscriptions.

    Args:
        hub: who listens.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    async def match(self, reads: Sequence[Read]) -> list[PendingChange]:
        """Return a candidate for each change, in order. Others have their turn meanwhile."""
        for relation in dict.fromkeys(read.change.relation for read in reads):
            await run_steps(self._hub.typing(relation))
        candidates: list[PendingChange] = []
        audience = _Audience()
        turn = Turn()
        for read in reads:
            deliveries: list[AnyDelivery] | None = None
            if self._hub.pace(read.change.relation).takes_long(read.change):
                deliveries = await in_turns(self._hub.delivering(read.change), turn)
            candidates.append(self._candidate(read, audience, deliveries))
            if turn.is_over:
                # Filters take their time, and many rows many times that. Who comes meanwhile gets
                # what is read after this; who goes is found out when it is handed out.
                await turn.give_way()
        return candidates

    def _candidate(
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
        # The registrar gave each subscription a viewer. The hub keeps the set, so it is the same
        # object while the channels are the same.
        return cast("frozenset[Viewer]", self._hub.filtering(change))


def by_viewer(deliveries: Iterable[AnyDelivery]) -> Matched:
    """Return the deliveries by whom they are for, with their channels as they are now."""
    matched: Matched = {}
    for delivery in deliveries:
        viewer = delivery.group.viewer
        assert isinstance(viewer, Viewer)  # the registrar gave each subscription one
        matched.setdefault(viewer, []).append((delivery, delivery.group.members))
    return matched
