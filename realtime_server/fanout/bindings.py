"""BindingIndex: from a change to the bindings that ask for it.

A binding without a filter is looked up by schema, table and event, wildcards included; one
with a filter is found by its table's :class:`~realtime_core.filters.FilterIndex`. So a change
costs what matches, however many bindings there are.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Hashable, Iterator
from typing import Generic, TypeAlias, TypeVar

from realtime_core import Relation, RowChange
from realtime_core.errors import FilterError
from realtime_core.filters import Asked, EnumOrders, FilterIndex, Match

from ..phoenix.joins import ANY, TRUNCATE, Binding
from .payloads.v1 import RowPayload
from .topic_rules import Opening, TopicRules

__all__ = ["BindingIndex", "Form", "Found"]

Form: TypeAlias = tuple[str, frozenset[str] | None]
"""As what event a change is told, and which columns are shown: what a payload depends on."""

G = TypeVar("G", bound=Hashable)

Found: TypeAlias = dict[G, dict[Form, list[int]]]
"""Who gets a change: in which forms, and the ids of the bindings for each."""


class BindingIndex(Generic[G]):
    """Bindings, and who has them.

    Args:
        gate: which relations' changes are open at all.
        on_error: is told when a filter turns out not to fit its table; its binding gets
            nothing until it does.
        enums: the declared orders of enum types, by schema and name, for filters.
    """

    def __init__(
        self,
        gate: TopicRules,
        on_error: Callable[[G, Binding, FilterError], None],
        *,
        enums: EnumOrders | None = None,
    ) -> None:
        self._gate = gate
        self._plain: dict[tuple[str, str, str], dict[tuple[G, Binding], None]] = {}

        # All of those with a filter, by schema and table.
        self._with_filter: dict[tuple[str, str], dict[tuple[G, Binding], None]] = {}

        def misfit(owned: tuple[G, Binding], exc: FilterError) -> None:
            on_error(*owned, exc)

        self._filtered: FilterIndex[tuple[G, Binding]] = FilterIndex(enums=enums, on_error=misfit)
        # Those that are told when a row leaves: every change is judged twice for them.
        self._leaving: FilterIndex[tuple[G, Binding]] = FilterIndex(enums=enums, on_error=misfit)

    def add(self, owner: G, binding: Binding) -> None:
        """Let a binding take part. Adding it again changes nothing."""
        if binding.filter is None:
            event = (binding.schema, binding.table, binding.event)
            self._plain.setdefault(event, {})[owner, binding] = None
        else:
            index = self._leaving if binding.leaves else self._filtered
            key = (binding.schema, binding.table)
            self._with_filter.setdefault(key, {})[owner, binding] = None
            index.add((owner, binding), binding.schema, binding.table, binding.filter, wait=True)

    def remove(self, owner: G, binding: Binding) -> None:
        """Take a binding out. One that is not there is ignored."""
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
        """How often a row could not be judged by a filter."""
        return self._filtered.errors + self._leaving.errors

    def with_filter(self, schema: str, table: str) -> Collection[tuple[G, Binding]]:
        """Return the bindings that have a filter on a table, and who has them."""
        return self._with_filter.get((schema, table), ())

    def prepare(self, relation: Relation) -> Iterator[None]:
        """As :meth:`FilterIndex.prepare`."""
        yield from self._filtered.prepare(relation)
        yield from self._leaving.prepare(relation)

    def asked(self, relation: Relation) -> Iterator[Asked]:
        """Yield what the filters on a table ask of each row."""
        yield self._filtered.asked(relation)
        yield self._leaving.asked(relation)

    def match(self, payload: RowPayload, *, filtered: bool = True) -> Found[G]:
        """Return who gets a change: in which forms, and the ids of the bindings for each.

        Args:
            payload: the change.
            filtered: whether filters are looked at; else each passes.
        """
        if not self._plain and not self._with_filter:
            return {}
        event = payload.event
        relation = payload.plan.relation
        opening = self._gate.opening(relation.schema, relation.table, event)
        found = self._without_filter(event, opening)
        if not filtered:
            for owner, binding in self.with_filter(relation.schema, relation.table):
                if binding.wants(event) and opening.allows_filter_on(binding.columns):
                    _tell(found, owner, binding, event)
            return found
        # A TRUNCATE passes no filter.
        for owner, binding in self._filtered.match(payload.change):
            if binding.wants(event) and opening.allows_filter_on(binding.columns):
                _tell(found, owner, binding, event)
        for (owner, binding), match in self._leaving.transitions(payload.change):
            told = "DELETE" if match is Match.LEAVES else event
            if binding.wants(told) and opening.allows_filter_on(binding.columns):
                _tell(found, owner, binding, told)
        return found

    def matching(self, payload: RowPayload) -> Generator[None, None, Found[G]]:
        """Return what :meth:`match` does, and stop before each small part of it.

        The change must be a row's.
        """
        change = payload.change
        assert isinstance(change, RowChange)
        passing = yield from self._filtered.matching(change)
        moves = yield from self._leaving.moving(change)
        event = payload.event
        opening = self._gate.opening(change.relation.schema, change.relation.table, event)
        found = self._without_filter(event, opening)
        for owner, binding in passing:
            yield
            if binding.wants(event) and opening.allows_filter_on(binding.columns):
                _tell(found, owner, binding, event)
        for (owner, binding), match in moves:
            yield
            told = "DELETE" if match is Match.LEAVES else event
            if binding.wants(told) and opening.allows_filter_on(binding.columns):
                _tell(found, owner, binding, told)
        return found

    def _without_filter(self, event: str, opening: Opening) -> Found[G]:
        found: Found[G] = {}
        events = (event,) if event == TRUNCATE else (ANY, event)
        for schema, table in opening.tables:
            for wanted in events:
                for owner, binding in self._plain.get((schema, table, wanted), ()):
                    _tell(found, owner, binding, event)
        return found


def _tell(found: Found[G], owner: G, binding: Binding, event: str) -> None:
    forms = found.setdefault(owner, {})
    forms.setdefault((event, binding.select), []).append(binding.id)
