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
from collections.abc import Callable, Generator, Hashable, Iterator
from typing import Final, Generic, TypeVar

from ..changes import Change, Insert, LogicalMessage, Relation, RowChange, Truncate, Update
from ..errors import FilterError
from ..types.base import Key, reason
from ..types.columns import EnumOrders
from ._rows import Row, Source, earlier, row_of
from ._steps import judging
from ._table_filters import Asked, Entry, Filed, TableFilters
from .compiler import Scope
from .filter import Filter, Match, transition
from .three_valued import Test

__all__ = ["FilterIndex"]

logger = logging.getLogger("realtime.filters")

S = TypeVar("S", bound=Hashable)
T = TypeVar("T")

_PART: Final = 100
"""Conditions that are typed before others have their turn: 1 ms of the usual ones."""
_MANY: Final = 10
"""Conditions of a filter that is not typed before the next change, when it may wait: a join may
have a hundred such."""


_NOTHING: Final = Asked(0, frozenset())
_NO_KEYS: Final[dict[Key, Filed]] = {}


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
        self._tables: dict[tuple[str, str], TableFilters[S]] = {}
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
        at = self._tables.get((schema, table)) or TableFilters()
        text = str(filter)
        known = at.entries.get(text)
        entry: Entry[S] = known or Entry(filter)
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
        self, table: TableFilters[S], change: RowChange, *, in_steps: bool
    ) -> Generator[None, None, list[tuple[Entry[S], Match]]]:
        row = row_of(change)
        if in_steps:
            now = dict.fromkeys((yield from self._judging(table, row)))
        else:
            now = dict.fromkeys(self._passing(table, row))
        if not isinstance(change, Update):
            match = Match.ENTERS if isinstance(change, Insert) else Match.LEAVES
            return [(entry, match) for entry in now]
        before = earlier(change)
        found: list[tuple[Entry[S], Match]] = []
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

    def _transition(self, table: TableFilters[S], entry: Entry[S], before: Row) -> Match:
        if entry.filter.compares_versions:
            return Match.PASSES
        plan = entry.plan
        passed = True if plan is None else self._evaluate(table, entry, plan.test, before)
        found = transition(passed, True)
        assert found is not None
        return found

    def _is_judged(self, table: TableFilters[S], entry: Entry[S], row: Row) -> bool:
        if entry.plan is None:
            # It has gone meanwhile.
            return False
        try:
            entry.plan.test(row)
        except Exception as exc:
            self._count(table, entry, exc)
            return False
        return True

    def _table(self, relation: Relation) -> TableFilters[S] | None:
        table = self._bound(relation)
        if table is not None and table.untyped:
            self._type_some(table, sys.maxsize)
        return table

    def _bound(self, relation: Relation) -> TableFilters[S] | None:
        table = self._tables.get((relation.schema, relation.table))
        if table is None:
            return None
        if table.scope is None or table.scope.relation is not relation:
            if table.scope is not None and table.scope.fits(relation, self._enums):
                table.scope.relation = relation
            else:
                table.bind(Scope(relation, self._enums))
        return table

    def _type_some(self, table: TableFilters[S], most: int) -> None:
        misfits = table.type_some(most)
        if self._on_error is None:
            return
        told = [(each, exc) for entry, exc in misfits for each in entry.subscriptions]
        for subscription, exc in told:
            self._on_error(subscription, exc)

    def _passing(self, table: TableFilters[S], row: Row) -> list[Entry[S]]:
        found: list[Entry[S]] = list(table.always)
        several: set[Entry[S]] = set()
        for source, keys in table.filed.items():
            try:
                value = row.value(source)
                filed = keys.get(value)
            except Exception as exc:
                self._count(table, source, exc)
                continue
            if filed is None:
                continue
            for entry in (filed,) if isinstance(filed, Entry) else filed:
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

    def _judging(self, table: TableFilters[S], row: Row) -> Generator[None, None, list[Entry[S]]]:
        """Return what :meth:`_passing` does, and stop before each condition and lookup."""
        found: list[Entry[S]] = list(table.always)
        several: set[Entry[S]] = set()
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
            for entry in (filed,) if isinstance(filed, Entry) else list(filed):
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
        self, table: TableFilters[S], entry: Entry[S], row: Row
    ) -> Generator[None, None, bool | None]:
        if entry.plan is None:
            # It has gone meanwhile, or passes everything.
            return None
        try:
            return (yield from judging(entry.plan, row))
        except Exception as exc:
            self._count(table, entry, exc)
            return None

    def _evaluate(
        self, table: TableFilters[S], entry: Entry[S], test: Test, row: Row
    ) -> bool | None:
        """Evaluate a filter; an error means that the row does not pass, nor is known to."""
        try:
            return test(row)
        except Exception as exc:
            self._count(table, entry, exc)
            return None

    def _count(self, table: TableFilters[S], what: Source | Entry[S], exc: Exception) -> None:
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
