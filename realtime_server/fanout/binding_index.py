"""BindingIndex: from a change to the channels of binding clients, by their bindings.

A binding without a filter is looked up by schema, table and event, wildcards included. A binding
with one is found by its table's :class:`~realtime_core.filters.FilterIndex`. So a change costs
what matches, however many bindings there are. Its counterpart for topic clients is
:class:`~realtime_server.fanout.topic_index.TopicIndex`.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from typing import TypeAlias

from realtime_core import Relation, RowChange
from realtime_core.errors import FilterError
from realtime_core.filters import EnumOrders, FilterIndex, Match, Workload

from ..phoenix.joins import ANY, TRUNCATE, Binding
from ..phoenix.serializers import Serializer
from .allowed_topics import ROW_EVENTS, EventRules, TopicRules
from .groups import BoundDelivery, BoundGroup, Form, Subscription
from .payloads.row_payload import RowPayload

__all__ = ["BindingIndex"]

_Owned: TypeAlias = tuple[BoundGroup, Binding]
"""A binding, and the group that has it."""

_Found: TypeAlias = dict[BoundGroup, dict[Form, list[int]]]
"""Which groups get a change: in which forms, and for each form the ids of the bindings."""


class BindingIndex:
    """Subscriptions with bindings, in groups that get the same bytes.

    Args:
        rules: which relations' changes may be sent at all.
        on_misfit: told when a binding's filter turns out not to fit its table: the group that has
            it, the binding and the reason. The binding gets nothing until the filter fits.
        enums: the declared orders of enum types, by schema and name, for filters.
    """

    def __init__(
        self,
        rules: TopicRules,
        on_misfit: Callable[[BoundGroup, Binding, FilterError], None],
        *,
        enums: EnumOrders | None = None,
    ) -> None:
        self._rules = rules
        # By all that makes the bytes that a subscription gets.
        self._groups: dict[tuple[str, Serializer, tuple[Binding, ...], Hashable], BoundGroup] = {}
        # Bindings without a filter, by schema, table and event.
        self._plain: dict[tuple[str, str, str], dict[_Owned, None]] = {}
        # Bindings with a filter, by schema and table, for when filters are not looked at.
        self._with_filter: dict[tuple[str, str], dict[_Owned, None]] = {}

        def misfit(owned: _Owned, exc: FilterError) -> None:
            on_misfit(*owned, exc)

        self._filtered: FilterIndex[_Owned] = FilterIndex(enums=enums, on_error=misfit)
        # Bindings that get a DELETE when a row leaves their filter. They are kept apart, as every
        # change is evaluated twice for them.
        self._leaving: FilterIndex[_Owned] = FilterIndex(enums=enums, on_error=misfit)

    @property
    def is_empty(self) -> bool:
        """Whether no subscription is left, nor anything that belonged to one."""
        filters = len(self._filtered) + len(self._leaving)
        return not (self._groups or self._plain or self._with_filter or filters)

    def groups(self) -> Iterable[BoundGroup]:
        """Iterate over all groups; none may come or go meanwhile."""
        return self._groups.values()

    def add(self, subscription: Subscription) -> None:
        """Add a subscription, in place of another one of the same socket and group."""
        key = _key(subscription)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = BoundGroup(*key)
            for binding in group.bindings:
                self._add(group, binding)
        group.add(subscription)

    def remove(self, subscription: Subscription) -> None:
        """Remove a subscription. One that is not there is ignored."""
        key = _key(subscription)
        group = self._groups.get(key)
        if group is None:
            return
        group.remove(subscription)
        if not len(group):
            del self._groups[key]
            for binding in group.bindings:
                self._remove(group, binding)

    def _add(self, owner: BoundGroup, binding: Binding) -> None:
        if binding.filter is None:
            event = (binding.schema, binding.table, binding.event)
            self._plain.setdefault(event, {})[owner, binding] = None
        else:
            index = self._leaving if binding.leaves else self._filtered
            key = (binding.schema, binding.table)
            self._with_filter.setdefault(key, {})[owner, binding] = None
            index.add((owner, binding), binding.schema, binding.table, binding.filter, wait=True)

    def _remove(self, owner: BoundGroup, binding: Binding) -> None:
        if binding.filter is None:
            event = (binding.schema, binding.table, binding.event)
            owned = self._plain.get(event, {})
            owned.pop((owner, binding), None)
            if not owned:
                self._plain.pop(event, None)
        else:
            index = self._leaving if binding.leaves else self._filtered
            key = (binding.schema, binding.table)
            owned = self._with_filter.get(key, {})
            owned.pop((owner, binding), None)
            if not owned:
                self._with_filter.pop(key, None)
            index.remove((owner, binding), binding.schema, binding.table, binding.filter)

    @property
    def errors(self) -> int:
        """How often a filter could not be evaluated for a row; the row did not pass it then."""
        return self._filtered.errors + self._leaving.errors

    def has_filters(self, schema: str, table: str) -> bool:
        """Return whether any binding has a filter on a table."""
        return (schema, table) in self._with_filter

    def wants(self, relation: Relation) -> bool:
        """Return whether any binding may get rows of a table."""
        schema, table = relation.schema, relation.table
        return self.has_filters(schema, table) or any(
            (*name, wanted) in self._plain
            for event in ROW_EVENTS
            for name in self._rules.for_event(schema, table, event).tables
            for wanted in (ANY, event)
        )

    def prepare(self, relation: Relation) -> Iterator[None]:
        """Compile the filters on a table step by step, as :meth:`FilterIndex.prepare` does."""
        yield from self._filtered.prepare(relation)
        yield from self._leaving.prepare(relation)

    def workload(self, relation: Relation) -> Iterator[Workload]:
        """Yield how much work the filters on a table are for each row."""
        yield self._filtered.workload(relation)
        yield self._leaving.workload(relation)

    def deliveries(self, payload: RowPayload, *, filtered: bool = True) -> list[BoundDelivery]:
        """Return which groups a change goes to.

        Args:
            payload: the change.
            filtered: whether filters are evaluated; if not, each passes.
        """
        if not self._plain and not self._with_filter:
            return []
        event = payload.event
        relation = payload.plan.relation
        rules = self._rules.for_event(relation.schema, relation.table, event)
        found = self._without_filter(event, rules)
        if filtered:
            # A TRUNCATE passes no filter.
            change = payload.change
            passing, moves = self._filtered.match(change), self._leaving.transitions(change)
            for (owner, binding), sent_as in _events_for(event, passing, moves):
                if binding.wants(sent_as) and rules.allows_filter_on(binding.columns):
                    _add_form(found, owner, binding, sent_as)
        else:
            for owner, binding in self._with_filter.get((relation.schema, relation.table), ()):
                if binding.wants(event) and rules.allows_filter_on(binding.columns):
                    _add_form(found, owner, binding, event)
        return [
            BoundDelivery(group, payload, form, ids)
            for group, forms in found.items()
            for form, ids in forms.items()
        ]

    def delivering(self, payload: RowPayload) -> Generator[None, None, list[BoundDelivery]]:
        """Do what :meth:`deliveries` does, and yield before each small part of the work.

        The change must be a row's.
        """
        change = payload.change
        assert isinstance(change, RowChange)
        passing = yield from self._filtered.matching(change)
        moves = yield from self._leaving.moving(change)
        event = payload.event
        rules = self._rules.for_event(change.relation.schema, change.relation.table, event)
        found = self._without_filter(event, rules)
        for (owner, binding), sent_as in _events_for(event, passing, moves):
            yield
            if binding.wants(sent_as) and rules.allows_filter_on(binding.columns):
                _add_form(found, owner, binding, sent_as)
        deliveries: list[BoundDelivery] = []
        for group, forms in found.items():
            yield
            deliveries += [BoundDelivery(group, payload, form, ids) for form, ids in forms.items()]
        return deliveries

    def _without_filter(self, event: str, rules: EventRules) -> _Found:
        found: _Found = {}
        events = (event,) if event == TRUNCATE else (ANY, event)
        for schema, table in rules.tables:
            for wanted in events:
                for owner, binding in self._plain.get((schema, table, wanted), ()):
                    _add_form(found, owner, binding, event)
        return found


def _key(subscription: Subscription) -> tuple[str, Serializer, tuple[Binding, ...], Hashable]:
    assert subscription.bindings is not None
    return (
        subscription.topic.name,
        subscription.serializer,
        subscription.bindings,
        subscription.viewer,
    )


def _add_form(found: _Found, owner: BoundGroup, binding: Binding, event: str) -> None:
    forms = found.setdefault(owner, {})
    forms.setdefault((event, binding.select), []).append(binding.id)


def _events_for(
    event: str, passing: Iterable[_Owned], moves: Iterable[tuple[_Owned, Match]]
) -> Iterator[tuple[_Owned, str]]:
    """Yield the bindings that a change concerns, and the event that it is sent as to each."""
    for owned in passing:
        yield owned, event
    for owned, match in moves:
        yield owned, "DELETE" if match is Match.LEAVES else event
