"""FilterIndex: many filters asked at once, for the price of those that match.

Theory of operation. Subscriptions with the same filter share one entry. An entry whose
filter needs a certain value in a column, by equality, ``in``, or such a part of an AND, is filed
under that value, so that a change finds it by looking up its own; an OR of such parts is
filed under each. Only what is left is evaluated for every change, once an entry. A change's
fields are converted once for all entries.
"""

from __future__ import annotations

import logging
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Generator, Hashable, Iterator
from typing import Any, Final, Generic, NamedTuple, TypeVar

from ..changes import Change, Insert, LogicalMessage, Relation, RowChange, Truncate, Update
from ..errors import FilterError
from ..types.base import Key, reason
from ..types.columns import EnumOrders
from ._rows import Row, Source, earlier, row_of
from ._steps import judging
from .compiler import Plan, Scope
from .filter import Filter, Match, transition
from .three_valued import Test

__all__ = ["Asked", "FilterIndex"]

logger = logging.getLogger("realtime.filters")

S = TypeVar("S", bound=Hashable)
T = TypeVar("T")

_PART: Final = 100
"""Conditions that are typed before others have their turn: 1 ms of the usual ones."""
_MANY: Final = 10
"""Conditions of a filter that is not typed before the next change, when it may wait: a join may
have a hundred such."""


class Asked(NamedTuple):
    """What a table's filters ask of each row."""

    conditions: int
    """How many of them, and lookups, at most."""
    columns: frozenset[str]
    """Of which more is asked than that a value is looked up."""


class _Entry(Generic[S]):
    """A filter and its subscriptions."""

    __slots__ = ("filter", "plan", "sources", "subscriptions")

    def __init__(self, filter: Filter) -> None:
        self.filter = filter
        self.subscriptions: dict[S, None] = {}
        self.plan: Plan | None = None
        """None until a relation is known that it fits."""
        self.sources = 0
        """How many sources it is filed under; one that has several may be found twice."""


_Filed = _Entry[Any] | dict[_Entry[Any], None]
"""Most values have one entry; a dict for one would take three times the memory."""


_NOTHING: Final = Asked(0, frozenset())
_NO_KEYS: Final[dict[Key, _Filed]] = {}


class _Table(Generic[S]):
    """The filters on one table."""

    def __init__(self) -> None:
        self.entries: dict[str, _Entry[S]] = {}
        """By the filter's canonical text."""
        self.scope: Scope | None = None
        """None until the relation is known."""
        self.untyped: OrderedDict[_Entry[S], None] = OrderedDict()
        """Those that are not held against the relation yet, in their order."""
        self._filed: dict[Source, dict[Key, _Filed]] = {}
        self._is_sorted = True
        self.always: dict[_Entry[S], None] = {}
        self.scanned: dict[_Entry[S], None] = {}
        self.failures: set[Source | _Entry[S]] = set()
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

    def type_some(self, most: int) -> list[tuple[_Entry[S], FilterError]]:
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

    def file(self, entry: _Entry[S]) -> None:
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
    def filed(self) -> dict[Source, dict[Key, _Filed]]:
        """Entries by source, in the order of their columns' names; by key."""
        # Not with each new source: there may be thousands of paths into JSON.
        if not self._is_sorted:
            self._filed = dict(sorted(self._filed.items(), key=lambda item: item[0].column))
            self._is_sorted = True
        return self._filed

    def unfile(self, entry: _Entry[S]) -> None:
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


class FilterIndex(Generic[S]):
    """Filters by table, and who subscribes to them.

    A filter may be added before its table is known. It is typed when the table's first
    change comes, and again whenever a change shows other columns.

    Args:
        enums: the declared orders of enum types, by schema and name. They may change; that
            counts from when a table is described again.
        on_error: is told of each subscription whose filter does not fit the table when that
            becomes known or has changed; until it fits again it gets nothing.
    """

    def __init__(
        self,
        *,
        enums: EnumOrders | None = None,
        on_error: Callable[[S, FilterError], None] | None = None,
    ) -> None:
        self._enums: EnumOrders = {} if enums is None else enums
        self._on_error = on_error
        self._tables: dict[tuple[str, str], _Table[S]] = {}
        self.errors = 0
        """How often a row could not be judged by a filter, or by a column that filters are found
        by. It passes those filters alone that it passes whatever the value is."""

    def __len__(self) -> int:
        """Count the subscriptions."""
        return sum(
            len(entry.subscriptions)
            for table in self._tables.values()
            for entry in table.entries.values()
        )

    def add(
        self, subscription: S, schema: str, table: str, filter: Filter, *, wait: bool = False
    ) -> None:
        """Hand out the subscription with changes of the table that pass the filter.

        Args:
            subscription: whatever tells it from others.
            schema: of the table.
            table: its name.
            filter: what the table's changes must pass.
            wait: keep a filter, too, that does not fit the table as it is known: ``on_error``
                is told at once, or with the next change where the filter is a long one, and it is
                typed again when the table shows other columns.
                Otherwise it is refused, and nothing of it stays.

        Raises:
            FilterError: if the table is known and the filter does not fit it, unless it is to
                wait.
        """
        at = self._tables.get((schema, table)) or _Table()
        text = str(filter)
        known = at.entries.get(text)
        entry: _Entry[S] = known or _Entry(filter)
        misfit: FilterError | None = None
        try:
            if known is None:
                if at.scope is not None and wait and filter.conditions > _MANY:
                    at.untyped[entry] = None
                elif at.scope is not None:
                    at.file(entry)
            elif (
                at.scope is not None
                and entry.plan is None
                and not (wait and entry in at.untyped)
                and filter.root is not None
            ):
                # Others wait with it for a table that it fits. When it is typed anyway, all who
                # wait for that are told.
                at.scope.plan(filter.root, filter.text)
        except FilterError as exc:
            if not wait:
                raise
            misfit = exc
        at.entries[text] = entry
        entry.subscriptions[subscription] = None
        self._tables[schema, table] = at
        if misfit is not None and self._on_error is not None:
            self._on_error(subscription, misfit)

    def remove(self, subscription: S, schema: str, table: str, filter: Filter) -> None:
        """Take a subscription out again. One that is not there is ignored."""
        at = self._tables.get((schema, table))
        entry = at.entries.get(str(filter)) if at is not None else None
        if at is None or entry is None or entry.subscriptions.pop(subscription, self) is self:
            return
        if entry.subscriptions:
            return
        at.unfile(entry)
        at.failures.discard(entry)
        del at.entries[str(filter)]
        if not at.entries:
            del self._tables[schema, table]

    def prepare(self, relation: Relation) -> Iterator[None]:
        """Type the filters on a relation's table in parts, if that is to be done.

        Very many take long: 1 s for 100,000. Whoever has something else to do uses this up before
        the next change is matched; else that does the rest at once. Filters may come and go in
        between.
        """
        table = self._bound(relation)
        while table is not None and table.untyped:
            self._type_some(table, _PART)
            yield

    def asked(self, relation: Relation) -> Asked:
        """Return what the filters on a table ask of each row, as far as they are typed."""
        table = self._tables.get((relation.schema, relation.table))
        return _NOTHING if table is None else table.asked

    def matching(self, change: RowChange) -> Generator[None, None, list[S]]:
        """Return what :meth:`match` does, and stop before each condition and each lookup.

        Of long texts or very many filters that takes long, and others may have their turn
        meanwhile. Filters may come and go; those that come get nothing of this change.
        """
        table = self._table(change.relation)
        if table is None:
            return []
        passing = yield from self._judging(table, row_of(change))
        return [each for entry in passing for each in entry.subscriptions]

    def moving(self, change: RowChange) -> Generator[None, None, list[tuple[S, Match]]]:
        """Return what :meth:`transitions` does, in the same way."""
        table = self._table(change.relation)
        if table is None:
            return []
        moves = yield from self._moves(table, change, in_steps=True)
        return [(each, match) for entry, match in moves for each in entry.subscriptions]

    def match(self, change: Change) -> list[S]:
        """Return the subscriptions whose filter a change passes, once for each such filter.

        The new row decides, of a DELETE the old one as far as it is known. Those found by a
        column's value come first, in the order of the columns' names. A TRUNCATE or a logical
        message passes no filter.
        """
        if isinstance(change, (Truncate, LogicalMessage)):
            return []
        table = self._table(change.relation)
        if table is None:
            return []
        found: list[S] = []
        for entry in self._passing(table, row_of(change)):
            found += entry.subscriptions
        return found

    def transitions(self, change: Change) -> list[tuple[S, Match]]:
        """Return the subscriptions that a change concerns, and how.

        As :meth:`match`, followed by those whose filter the row passed and does not any more.
        """
        if isinstance(change, (Truncate, LogicalMessage)):
            return []
        table = self._table(change.relation)
        if table is None:
            return []
        moves = _result(self._moves(table, change, in_steps=False))
        return [(each, match) for entry, match in moves for each in entry.subscriptions]

    def _moves(
        self, table: _Table[S], change: RowChange, *, in_steps: bool
    ) -> Generator[None, None, list[tuple[_Entry[S], Match]]]:
        row = row_of(change)
        if in_steps:
            now = dict.fromkeys((yield from self._judging(table, row)))
        else:
            now = dict.fromkeys(self._passing(table, row))
        if not isinstance(change, Update):
            match = Match.ENTERS if isinstance(change, Insert) else Match.LEAVES
            return [(entry, match) for entry in now]
        before = earlier(change)
        found: list[tuple[_Entry[S], Match]] = []
        for entry in now:
            if in_steps:
                yield
            found.append((entry, self._transition(table, entry, before)))
        if in_steps:
            passed = yield from self._judging(table, before)
        else:
            passed = self._passing(table, before)
        for entry in passed:
            if entry in now or entry.filter.compares_versions:
                continue
            if in_steps:
                yield
            if self._is_judged(table, entry, row):
                found.append((entry, Match.LEAVES))
        return found

    def _transition(self, table: _Table[S], entry: _Entry[S], before: Row) -> Match:
        if entry.filter.compares_versions:
            return Match.PASSES
        plan = entry.plan
        passed = True if plan is None else self._evaluate(table, entry, plan.test, before)
        found = transition(passed, True)
        assert found is not None
        return found

    def _is_judged(self, table: _Table[S], entry: _Entry[S], row: Row) -> bool:
        if entry.plan is None:
            # It has gone meanwhile.
            return False
        try:
            entry.plan.test(row)
        except Exception as exc:
            self._count(table, entry, exc)
            return False
        return True

    def _table(self, relation: Relation) -> _Table[S] | None:
        table = self._bound(relation)
        if table is not None and table.untyped:
            self._type_some(table, sys.maxsize)
        return table

    def _bound(self, relation: Relation) -> _Table[S] | None:
        table = self._tables.get((relation.schema, relation.table))
        if table is None:
            return None
        if table.scope is None or table.scope.relation is not relation:
            if table.scope is not None and table.scope.fits(relation, self._enums):
                table.scope.relation = relation
            else:
                table.bind(Scope(relation, self._enums))
        return table

    def _type_some(self, table: _Table[S], most: int) -> None:
        misfits = table.type_some(most)
        if self._on_error is None:
            return
        told = [(each, exc) for entry, exc in misfits for each in entry.subscriptions]
        for subscription, exc in told:
            self._on_error(subscription, exc)

    def _passing(self, table: _Table[S], row: Row) -> list[_Entry[S]]:
        found: list[_Entry[S]] = list(table.always)
        several: set[_Entry[S]] = set()
        for source, keys in table.filed.items():
            try:
                value = row.value(source)
                filed = keys.get(value)
            except Exception as exc:
                self._count(table, source, exc)
                continue
            if filed is None:
                continue
            for entry in (filed,) if isinstance(filed, _Entry) else filed:
                assert entry.plan is not None
                if entry.sources > 1:
                    if entry in several:
                        continue
                    several.add(entry)
                residual = entry.plan.residual
                if residual is None or self._evaluate(table, entry, residual, row):
                    found.append(entry)
        for entry in table.scanned:
            assert entry.plan is not None
            if self._evaluate(table, entry, entry.plan.test, row):
                found.append(entry)
        return found

    def _judging(self, table: _Table[S], row: Row) -> Generator[None, None, list[_Entry[S]]]:
        """Return what :meth:`_passing` does, and stop before each condition and lookup."""
        found: list[_Entry[S]] = list(table.always)
        several: set[_Entry[S]] = set()
        # Copies, since filters come and go meanwhile.
        for source in list(table.filed):
            yield
            try:
                value = row.value(source)
                filed = table.filed.get(source, _NO_KEYS).get(value)
            except Exception as exc:
                self._count(table, source, exc)
                continue
            if filed is None:
                continue
            for entry in (filed,) if isinstance(filed, _Entry) else list(filed):
                if entry.plan is None or entry in several:
                    continue
                if entry.sources > 1:
                    several.add(entry)
                if entry.plan.residual is None or (yield from self._ask(table, entry, row)):
                    found.append(entry)
        for entry in list(table.scanned):
            if (yield from self._ask(table, entry, row)):
                found.append(entry)
        return found

    def _ask(
        self, table: _Table[S], entry: _Entry[S], row: Row
    ) -> Generator[None, None, bool | None]:
        if entry.plan is None:
            # It has gone meanwhile, or passes everything.
            return None
        try:
            return (yield from judging(entry.plan, row))
        except Exception as exc:
            self._count(table, entry, exc)
            return None

    def _evaluate(self, table: _Table[S], entry: _Entry[S], test: Test, row: Row) -> bool | None:
        """Evaluate a filter; an error means that the row does not pass, nor is known to."""
        try:
            return test(row)
        except Exception as exc:
            self._count(table, entry, exc)
            return None

    def _count(self, table: _Table[S], what: Source | _Entry[S], exc: Exception) -> None:
        self.errors += 1
        if what in table.failures:
            return
        table.failures.add(what)
        assert table.scope is not None
        if isinstance(what, Source):
            name = f"column {what.column!r}"
        else:
            # Not its values: a client of a server's may have sent them.
            name = f"a filter on {', '.join(sorted(what.filter.columns))}"
            logger.debug("the filter is %s", what.filter)
        logger.error(
            "a row of %s cannot be judged by %s: %s",
            table.scope.relation,
            name,
            reason(exc),
        )


def _result(steps: Generator[None, None, T]) -> T:
    """Go through all steps, and return what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
