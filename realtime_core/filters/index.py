"""FilterIndex finds the filters that a change passes, without evaluating all the others.

Theory of operation. Subscriptions with the same filter share one entry. If a filter needs a certain
value in a column, because of an equality, an ``in`` or such a part of an AND, its entry is filed
under that value, and a change finds it by its own value. The entry of an OR of such parts is filed
under the values of all parts. Every other entry is evaluated for each change, once for all its
subscriptions. The fields of a change are converted once for all entries.
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
from ._rows import FilterRow, ValueSource, row_before, row_of
from ._steps import evaluate_in_steps, result_of
from ._table_filters import Filed, FilterEntry, TableFilters, Workload
from .compiler import Scope
from .filter import Filter, Match, transition
from .operator_logic import Test

__all__ = ["FilterIndex"]

logger = logging.getLogger("realtime.filters")

S = TypeVar("S", bound=Hashable)

_PART: Final = 100
"""Conditions that are compiled before other tasks may run. Usual ones take 1 ms."""
_MANY: Final = 10
"""Conditions from which on a filter that may wait is compiled with the next change. A join may have
a hundred such filters."""


_NOTHING: Final = Workload(0, frozenset())
_NO_KEYS: Final[dict[Key, Filed]] = {}


class FilterIndex(Generic[S]):
    """The filters on any number of tables, and the subscriptions that have them.

    A filter may be added before its table is known. It is compiled when the first change of the
    table comes, and again whenever a change shows other columns.

    Args:
        enums: the labels of enum types in their declared order, by schema and name. If they change,
            filters use the new order from the next Relation message of a table on.
        on_error: is called for each subscription whose filter turns out not to fit its table. The
            subscription gets nothing until the filter fits the table again.

    Attributes:
        errors: how many times a filter could not be evaluated for a row, or filters could not be
            looked up by a column's value. In these cases the row passes only filters whose result
            does not depend on that value.
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

    def __len__(self) -> int:
        """Return the number of subscriptions."""
        return sum(
            len(entry.subscriptions)
            for table in self._tables.values()
            for entry in table.entries.values()
        )

    def add(
        self, subscription: S, schema: str, table: str, filter: Filter, *, wait: bool = False
    ) -> None:
        """Add a subscription to the changes of a table that pass a filter.

        Args:
            subscription: any object that identifies the subscription.
            schema: the table's schema.
            table: the table's name.
            filter: the filter that changes must pass.
            wait: what happens to a filter that does not fit the table's present columns. False: it
                is refused. True: it is kept, ``on_error`` is called, and the filter is compiled
                again when the table's columns have changed. With True a filter of more than ten
                conditions is not compiled now, but with the table's next change, and ``on_error``
                is called then.

        Raises:
            FilterError: if the table is known, the filter does not fit it, and ``wait`` is False.
        """
        at = self._tables.get((schema, table)) or TableFilters()
        text = str(filter)
        known = at.entries.get(text)
        entry: FilterEntry[S] = known or FilterEntry(filter)
        misfit: FilterError | None = None
        try:
            if known is None:
                if at.scope is not None and wait and filter.conditions > _MANY:
                    at.uncompiled[entry] = None
                elif at.scope is not None:
                    at.file(entry)
            elif (
                at.scope is not None
                and entry.plan is None
                and not (wait and entry in at.uncompiled)
                and filter.root is not None
            ):
                # This filter is known not to fit, and other subscriptions wait with it. Find out
                # why, for this subscription.
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
        """Remove a subscription. One that was not added is ignored."""
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
        """Compile the filters on a table in parts, and yield after each part.

        To compile 100,000 filters takes 1 s. Exhaust this iterator before the next change is
        matched if other tasks have to run in the meantime; otherwise the next match compiles the
        rest at once. Filters may be added and removed in between.

        Args:
            relation: the table as the next change has it.
        """
        table = self._bound(relation)
        while table is not None and table.uncompiled:
            self._compile_some(table, _PART)
            yield

    def workload(self, relation: Relation) -> Workload:
        """Return how much work the compiled filters of a table are for each of its rows."""
        table = self._tables.get((relation.schema, relation.table))
        return _NOTHING if table is None else table.workload

    def matching(self, change: RowChange) -> Generator[None, None, list[S]]:
        """Do what :meth:`match` does, and yield before each condition and each lookup.

        With long texts or very many filters this takes long, and a caller can let other tasks run
        in between. Filters may be added and removed meanwhile; added ones are not evaluated for
        this change.

        Returns:
            The subscriptions whose filters the change passes, as the generator's return value.
        """
        table = self._table(change.relation)
        if table is None:
            return []
        passing = yield from self._passing_in_steps(table, row_of(change))
        return [each for entry in passing for each in entry.subscriptions]

    def moving(self, change: RowChange) -> Generator[None, None, list[tuple[S, Match]]]:
        """Do what :meth:`transitions` does, and yield as :meth:`matching` does."""
        table = self._table(change.relation)
        if table is None:
            return []
        moves = yield from self._moves(table, change, in_steps=True)
        return [(each, match) for entry, match in moves for each in entry.subscriptions]

    def match(self, change: Change) -> list[S]:
        """Return the subscriptions whose filters a change passes.

        A subscription is returned once for each of its filters that the change passes. The new row
        decides, and for a DELETE the old row as far as it is known. Subscriptions that are found by
        the value of a column come first, in the order of the columns' names. A TRUNCATE or a
        logical message passes no filter.
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
        """Return the subscriptions that a change concerns, and what it means for each of them.

        These are the subscriptions that :meth:`match` returns, and then those whose filters the row
        passed before the change and does not pass any more.
        """
        if isinstance(change, (Truncate, LogicalMessage)):
            return []
        table = self._table(change.relation)
        if table is None:
            return []
        moves = result_of(self._moves(table, change, in_steps=False))
        return [(each, match) for entry, match in moves for each in entry.subscriptions]

    def _moves(
        self, table: TableFilters[S], change: RowChange, *, in_steps: bool
    ) -> Generator[None, None, list[tuple[FilterEntry[S], Match]]]:
        row = row_of(change)
        if in_steps:
            now = dict.fromkeys((yield from self._passing_in_steps(table, row)))
        else:
            now = dict.fromkeys(self._passing(table, row))
        if not isinstance(change, Update):
            match = Match.ENTERS if isinstance(change, Insert) else Match.LEAVES
            return [(entry, match) for entry in now]
        before = row_before(change)
        found: list[tuple[FilterEntry[S], Match]] = []
        for entry in now:
            if in_steps:
                yield
            found.append((entry, self._transition(table, entry, before)))
        if in_steps:
            passed = yield from self._passing_in_steps(table, before)
        else:
            passed = self._passing(table, before)
        for entry in passed:
            if entry in now or entry.filter.compares_versions:
                continue
            if in_steps:
                yield
            if self._is_evaluated(table, entry, row):
                found.append((entry, Match.LEAVES))
        return found

    def _transition(
        self, table: TableFilters[S], entry: FilterEntry[S], before: FilterRow
    ) -> Match:
        if entry.filter.compares_versions:
            return Match.PASSES
        plan = entry.plan
        passed = True if plan is None else self._evaluate(table, entry, plan.test, before)
        found = transition(passed, True)
        assert found is not None
        return found

    def _is_evaluated(self, table: TableFilters[S], entry: FilterEntry[S], row: FilterRow) -> bool:
        if entry.plan is None:
            # The filter was removed meanwhile.
            return False
        try:
            entry.plan.test(row)
        except Exception as exc:
            self._count(table, entry, exc)
            return False
        return True

    def _table(self, relation: Relation) -> TableFilters[S] | None:
        table = self._bound(relation)
        if table is not None and table.uncompiled:
            self._compile_some(table, sys.maxsize)
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

    def _compile_some(self, table: TableFilters[S], most: int) -> None:
        misfits = table.compile_some(most)
        if self._on_error is None:
            return
        told = [(each, exc) for entry, exc in misfits for each in entry.subscriptions]
        for subscription, exc in told:
            self._on_error(subscription, exc)

    def _passing(self, table: TableFilters[S], row: FilterRow) -> list[FilterEntry[S]]:
        found: list[FilterEntry[S]] = list(table.always)
        several: set[FilterEntry[S]] = set()
        for source, keys in table.filed.items():
            try:
                value = row.value(source)
                filed = keys.get(value)
            except Exception as exc:
                self._count(table, source, exc)
                continue
            if filed is None:
                continue
            for entry in (filed,) if isinstance(filed, FilterEntry) else filed:
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

    def _passing_in_steps(
        self, table: TableFilters[S], row: FilterRow
    ) -> Generator[None, None, list[FilterEntry[S]]]:
        """Do what :meth:`_passing` does, but yield before each condition and each lookup."""
        found: list[FilterEntry[S]] = list(table.always)
        several: set[FilterEntry[S]] = set()
        # The loops are over copies, because filters may be added and removed meanwhile.
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
            for entry in (filed,) if isinstance(filed, FilterEntry) else list(filed):
                if entry.plan is None or entry in several:
                    continue
                if entry.sources > 1:
                    several.add(entry)
                if entry.plan.residual is None or (
                    yield from self._evaluate_in_steps(table, entry, row)
                ):
                    found.append(entry)
        for entry in list(table.scanned):
            if (yield from self._evaluate_in_steps(table, entry, row)):
                found.append(entry)
        return found

    def _evaluate_in_steps(
        self, table: TableFilters[S], entry: FilterEntry[S], row: FilterRow
    ) -> Generator[None, None, bool | None]:
        if entry.plan is None:
            # The filter was removed meanwhile, or has no conditions.
            return None
        try:
            return (yield from evaluate_in_steps(entry.plan, row))
        except Exception as exc:
            self._count(table, entry, exc)
            return None

    def _evaluate(
        self, table: TableFilters[S], entry: FilterEntry[S], test: Test, row: FilterRow
    ) -> bool | None:
        """Evaluate a test. If it raises an error, count that and return None, for unknown."""
        try:
            return test(row)
        except Exception as exc:
            self._count(table, entry, exc)
            return None

    def _count(
        self, table: TableFilters[S], what: ValueSource | FilterEntry[S], exc: Exception
    ) -> None:
        self.errors += 1
        if what in table.failures:
            return
        table.failures.add(what)
        assert table.scope is not None
        if isinstance(what, ValueSource):
            how = f"by column {what.column!r}"
        else:
            # Without its values, which a client of a server may have sent.
            how = f"with a filter on {', '.join(sorted(what.filter.columns))}"
            logger.debug("the filter is %s", what.filter)
        logger.error(
            "a row of %s cannot be matched %s: %s",
            table.scope.relation,
            how,
            reason(exc),
        )
