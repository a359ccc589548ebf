"""The filters on one table: where each is kept, so that a row finds those that it may pass.

A filter without a condition is passed by every row. One that needs a certain value of a column
is filed under that value. Every other one is scanned: it is evaluated for each row.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import Any, Generic, NamedTuple, TypeVar

from ..errors import FilterError
from ..types.base import Key
from ._rows import Source
from .compiler import Plan, Scope
from .filter import Filter

__all__ = ["Asked", "Entry", "Filed", "TableFilters"]

S = TypeVar("S", bound=Hashable)


class Asked(NamedTuple):
    """What a table's filters ask of each row."""

    conditions: int
    """How many of them, and lookups, at most."""
    columns: frozenset[str]
    """Of which more is asked than that a value is looked up."""


class Entry(Generic[S]):
    """A filter and its subscriptions."""

    __slots__ = ("filter", "plan", "sources", "subscriptions")

    def __init__(self, filter: Filter) -> None:
        self.filter = filter
        self.subscriptions: dict[S, None] = {}
        self.plan: Plan | None = None
        """None until a relation is known that it fits."""
        self.sources = 0
        """How many sources it is filed under; one that has several may be found twice."""


Filed = Entry[Any] | dict[Entry[Any], None]
"""Most values have one entry; a dict for one would take three times the memory."""


class TableFilters(Generic[S]):
    """The filters on one table."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry[S]] = {}
        """By the filter's canonical text."""
        self.scope: Scope | None = None
        """None until the relation is known."""
        self.untyped: OrderedDict[Entry[S], None] = OrderedDict()
        """Those that are not held against the relation yet, in their order."""
        self._filed: dict[Source, dict[Key, Filed]] = {}
        self._is_sorted = True
        self.always: dict[Entry[S], None] = {}
        self.scanned: dict[Entry[S], None] = {}
        self.failures: set[Source | Entry[S]] = set()
        """Whose errors were logged: once is enough."""
        # Of the entries that are scanned, and most of those that one value finds.
        self._scanned = self._most_found = 0
        # By column, how many entries ask more of it than a lookup does.
        self._columns: Counter[str] = Counter()

    @property
    def asked(self) -> Asked:
        """What each row is asked."""
        conditions = self._scanned + self._most_found + len(self._filed)
        return Asked(conditions, frozenset(self._columns))

    def bind(self, scope: Scope) -> None:
        """Forget what was known of another relation: all filters have to be typed anew."""
        self.scope = scope
        self._filed = {}
        for entries in (self.always, self.scanned, self.failures, self._columns):
            entries.clear()
        self._scanned = self._most_found = 0
        self.untyped = OrderedDict.fromkeys(self.entries.values())
        for entry in self.untyped:
            entry.plan = None

    def type_some(self, most: int) -> list[tuple[Entry[S], FilterError]]:
        """Type the next filters, until they have so many conditions.

        Returns:
            those that do not fit, and why.
        """
        misfits = []
        conditions = 0
        while self.untyped and conditions < most:
            entry, _ = self.untyped.popitem(last=False)
            conditions += max(entry.filter.conditions, 1)
            try:
                self.file(entry)
            except FilterError as exc:
                misfits.append((entry, exc))
        return misfits

    def file(self, entry: Entry[S]) -> None:
        """Put an entry where it will be found. Raises FilterError if it does not fit."""
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
                # Those of one value have about as many, and it need not be known when they go.
                found = len(present) * entry.filter.conditions
                self._most_found = max(self._most_found, found)
            else:
                keys[key] = {present: None, entry: None}

    @property
    def filed(self) -> dict[Source, dict[Key, Filed]]:
        """Entries by source, in the order of their columns' names; by key."""
        # Not with each new source: there may be thousands of paths into JSON.
        if not self._is_sorted:
            self._filed = dict(sorted(self._filed.items(), key=lambda item: item[0].column))
            self._is_sorted = True
        return self._filed

    def unfile(self, entry: Entry[S]) -> None:
        """Take an entry out."""
        plan, entry.plan = entry.plan, None
        self.untyped.pop(entry, None)
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
