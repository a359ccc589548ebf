"""Files the filters on one table so that a row finds those that it may pass.

A filter without conditions is passed by every row. A filter that needs a certain value in a column
is filed under that value. Every other filter is scanned, which means that it is evaluated for each
row.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Any, Generic, NamedTuple, TypeVar

from ..errors import FilterError
from ..types.base import Key
from ._rows import ValueSource
from .compiler import Plan, Scope
from .filter import Filter

__all__ = ["Workload", "FilterEntry", "Filed", "TableFilters"]

S = TypeVar("S", bound=Hashable)


class Workload(NamedTuple):
    """How much work the filters on a table are for each of its rows."""

    conditions: int
    """How many conditions are evaluated, and values looked up, at most."""
    columns: frozenset[str]
    """The columns whose values are used in conditions, and not only looked up."""


class FilterEntry(Generic[S]):
    """A filter, and the subscriptions that have it.

    Attributes:
        filter: the filter.
        subscriptions: the subscriptions, as the keys of a dict, in their order.
        plan: how the filter is decided; None until a relation is known that it fits.
        sources: how many sources the filter is filed under. A row may find it under each of them.
    """

    __slots__ = ("filter", "plan", "sources", "subscriptions")

    def __init__(self, filter: Filter) -> None:
        self.filter = filter
        self.subscriptions: dict[S, None] = {}
        self.plan: Plan | None = None
        self.sources = 0


Filed = FilterEntry[Any] | dict[FilterEntry[Any], None]
"""The entries filed under one value, as the keys of a dict if there are several. Most values have
one entry, for which a dict would take three times the memory."""


class TableFilters(Generic[S]):
    """The filters on one table.

    Attributes:
        entries: all entries by the canonical text of their filters.
        scope: the relation and what its filters share; None until the relation is known.
        uncompiled: the entries that are still to be compiled for the relation, in their order.
        always: the entries that every row passes.
        scanned: the entries whose filter is evaluated for each row.
        failures: the sources and entries one of whose errors was logged. One each is enough.
    """

    def __init__(self) -> None:
        self.entries: dict[str, FilterEntry[S]] = {}
        self.scope: Scope | None = None
        self.uncompiled: OrderedDict[FilterEntry[S], None] = OrderedDict()
        self._filed: dict[ValueSource, dict[Key, Filed]] = {}
        # Whether the sources of _filed are in the order of their columns' names.
        self._is_sorted = True
        self.always: dict[FilterEntry[S], None] = {}
        self.scanned: dict[FilterEntry[S], None] = {}
        self.failures: set[ValueSource | FilterEntry[S]] = set()
        # How many conditions the scanned entries have, and those that one value finds at most.
        self._scanned = self._most_found = 0
        # For each column, how many entries evaluate conditions on it.
        self._columns: Counter[str] = Counter()

    @property
    def workload(self) -> Workload:
        """The work for each row."""
        conditions = self._scanned + self._most_found + len(self._filed)
        return Workload(conditions, frozenset(self._columns))

    def bind(self, scope: Scope) -> None:
        """Set another relation, for which all filters have to be compiled again."""
        self.scope = scope
        self._filed = {}
        for entries in (self.always, self.scanned, self.failures, self._columns):
            entries.clear()
        self._scanned = self._most_found = 0
        self.uncompiled = OrderedDict.fromkeys(self.entries.values())
        for entry in self.uncompiled:
            entry.plan = None

    def compile_some(self, most: int) -> list[tuple[FilterEntry[S], FilterError]]:
        """Compile the next filters until they have a certain number of conditions.

        Args:
            most: the number of conditions.

        Returns:
            The entries whose filters do not fit the relation, and why.
        """
        misfits = []
        conditions = 0
        while self.uncompiled and conditions < most:
            entry, _ = self.uncompiled.popitem(last=False)
            conditions += max(entry.filter.conditions, 1)
            try:
                self.file(entry)
            except FilterError as exc:
                misfits.append((entry, exc))
        return misfits

    def file(self, entry: FilterEntry[S]) -> None:
        """Compile an entry's filter and put the entry where rows will find it.

        Raises:
            FilterError: if the filter does not fit the relation.
        """
        assert self.scope is not None
        root = entry.filter.root
        if root is None:
            self.always[entry] = None
            return
        plan = entry.plan = self.scope.plan(root, entry.filter.text)
        if plan.access is None:
            self.scanned[entry] = None
            self._scanned += entry.filter.conditions
        if plan.access is None or plan.residual is not None:
            self._columns.update(entry.filter.columns)
        if plan.access is None:
            return
        entry.sources = len({source for source, _ in plan.access})
        for source, key in plan.access:
            keys = self._filed.get(source)
            if keys is None:
                keys = self._filed[source] = {}
                self._is_sorted = False
            present = keys.get(key)
            if present is None:
                keys[key] = entry
            elif isinstance(present, dict):
                present[entry] = None
                # The entries of one value have about as many conditions each. The number is not
                # reduced when entries are removed.
                found = len(present) * entry.filter.conditions
                self._most_found = max(self._most_found, found)
            else:
                keys[key] = {present: None, entry: None}

    @property
    def filed(self) -> dict[ValueSource, dict[Key, Filed]]:
        """The entries by source, in the order of the columns' names, and by key."""
        # They are not sorted with each new source: there may be thousands of paths into JSON.
        if not self._is_sorted:
            self._filed = dict(sorted(self._filed.items(), key=lambda item: item[0].column))
            self._is_sorted = True
        return self._filed

    def unfile(self, entry: FilterEntry[S]) -> None:
        """Remove an entry from where rows find it."""
        plan, entry.plan = entry.plan, None
        self.uncompiled.pop(entry, None)
        self.always.pop(entry, None)
        if self.scanned.pop(entry, self) is None:
            self._scanned -= entry.filter.conditions
        if plan is None:
            return
        if plan.access is None or plan.residual is not None:
            self._columns -= Counter(entry.filter.columns)
        if plan.access is None:
            return
        for source, key in plan.access:
            keys = self._filed[source]
            present = keys[key]
            if isinstance(present, dict) and len(present) > 1:
                del present[entry]
                continue
            del keys[key]
            if not keys:
                del self._filed[source]
                self.failures.discard(source)
