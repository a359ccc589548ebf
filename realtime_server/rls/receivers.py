"""Receivers: which channels get a change, when it is known what their viewers may see of it.

The channels were matched before that was known. A filter must not reveal values that its viewer may
not see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import attrs

from realtime_core import UNCHANGED, Delete, Record, RowChange

from ..fanout.dispatch import Members
from ..fanout.groups import AnyDelivery, AnyGroup, BoundDelivery, Form, Subscription
from ..fanout.hub import Hub
from .matcher import by_viewer
from .payloads import ErrorView, View
from .pending_changes import Matched, PendingChange
from .viewers import Viewer

__all__ = ["Receivers"]

_Passing: TypeAlias = dict[tuple[AnyGroup, Form | None], Sequence[int]]
"""The ids of the bindings whose filters the change passes, by group and form; empty for a topic."""


class Receivers:
    """The receivers of one change.

    Args:
        hub: has the joined channels.
        pending: the change, with the channels that were matched with it.
    """

    def __init__(self, hub: Hub, pending: PendingChange) -> None:
        self._hub = hub
        self._pending = pending
        # Computed when they are needed, and then kept.
        self._everybody: Matched | None = None
        self._passing: _Passing | None = None

    def of(self, viewer: Viewer, view: View | ErrorView) -> list[tuple[AnyDelivery, Members]]:
        """Return one viewer's deliveries, with the channels as they were at the match.

        Args:
            viewer: the role and claims.
            view: what the viewer may see of the change.
        """
        pending = self._pending
        if isinstance(view, ErrorView):
            # Filters do not count: the row was not checked.
            if self._everybody is None:
                self._everybody = by_viewer(self._hub.deliveries(pending.change, filtered=False))
            channels = pending.listening.get(viewer, {})
            return [
                (delivery, channels[delivery.group])
                for delivery, _ in self._everybody.get(viewer, [])
                if delivery.group in channels
            ]
        found = []
        known = view.known_of_old
        for matched, members in pending.matched.get(viewer, ()):
            delivery = _permitted(matched, members, pending.change, view)
            if delivery is not None and known is not None and delivery.has_filters:
                delivery = self._passes_what_is_known(delivery, known)
            if delivery is not None:
                found.append((delivery, members))
        return found

    def _passes_what_is_known(
        self, delivery: AnyDelivery, known: frozenset[str]
    ) -> AnyDelivery | None:
        """Return a delivery without the filters that a DELETE passes only by hidden columns.

        Args:
            delivery: the channels, and which of their bindings passed.
            known: the columns of the old row that filters may look at.

        Returns:
            None if nothing is left of the delivery.
        """
        change = self._pending.change
        assert isinstance(change, Delete)
        if known.issuperset(change.old_record.shape.names):
            return delivery
        if self._passing is None:
            self._passing = {
                (one.group, one.form if isinstance(one, BoundDelivery) else None): (
                    one.ids if isinstance(one, BoundDelivery) else ()
                )
                for one in self._hub.deliveries(_with_nothing_but(change, known))
            }
        if not isinstance(delivery, BoundDelivery):
            return delivery if (delivery.group, None) in self._passing else None
        passing = self._passing.get((delivery.group, delivery.form), ())
        ids = [one for one in delivery.ids if one in passing]
        return delivery._replace(ids=ids) if ids else None


def _with_nothing_but(change: Delete, known: frozenset[str]) -> Delete:
    old = change.old_record
    fields = tuple(
        field if name in known else UNCHANGED
        for name, field in zip(old.shape.names, old.fields, strict=True)
    )
    return attrs.evolve(change, old_record=Record(old.shape, fields))


def _permitted(
    delivery: AnyDelivery, members: Members, change: RowChange, view: View
) -> AnyDelivery | None:
    """Return a delivery without the bindings whose filters look at columns that are hidden now.

    Returns:
        None if nothing is left of the delivery.
    """
    member = next(iter(members.values()), None)
    if member is None:
        return None
    # All members have the same topic and bindings.
    assert isinstance(member, Subscription)
    if isinstance(delivery, BoundDelivery):
        refused = {
            binding.id
            for binding in member.bindings or ()
            if binding.filter is not None and not view.allows_filter_on(binding.columns)
        }
        if not refused:
            return delivery
        ids = [one for one in delivery.ids if one not in refused]
        return delivery._replace(ids=ids) if ids else None
    topic = member.topic
    if view.allows_filter_on(topic.columns):
        return delivery
    # The topic may mean several tables.
    table = (change.relation.schema, change.relation.table)
    filters = [item.filter for item in topic.filters if (item.schema, item.table) == table]
    is_permitted = all(view.allows_filter_on(each.columns) for each in filters)
    return delivery if is_permitted else None
