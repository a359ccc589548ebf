"""Filter: an expression that was parsed, and what it says of a change once it is compiled."""

from __future__ import annotations

import enum
from functools import cached_property
from typing import Final

import attrs

from ..changes import Insert, Relation, RowChange, Update
from ..errors import FilterError, FilterMatchError
from ..records import Record
from ..types.base import reason
from ..types.columns import EnumOrders
from ._patterns import PATTERNS, SLOW, Patterns, weight
from ._rows import Row, earlier, row_of
from .compiler import Scope
from .nodes import Comparison, Node, Operator, Side, comparisons, references
from .parser import parse_node
from .three_valued import Test

__all__ = ["CompiledFilter", "Filter", "Match", "parse_filter", "transition"]

_VALUES_EACH: Final = 10
"""Values of an ``in`` that cost as much as a condition."""
_OPENING: Final = ("[", "{", "(")
_LETTERS_EACH: Final = 20
"""Characters that do of a value with parts: JSON, an array, a range."""


class Match(enum.Enum):
    """What a change does to the set of rows that pass a filter."""

    ENTERS = "enters"
    """The row is new to it: an INSERT, or an UPDATE of a row that did not pass before."""
    STAYS = "stays"
    """An UPDATE of a row that passed before and passes still."""
    LEAVES = "leaves"
    """A DELETE, or an UPDATE of a row that passed before and does not any more."""
    PASSES = "passes"
    """An UPDATE of a row that passes; whether it did before is not known."""


@attrs.frozen
class Filter:
    """A filter expression.

    Two filters are equal when their trees are; ``str(filter)`` is the canonical text, which
    :func:`parse_filter` reads back as an equal filter.
    """

    root: Node | None
    """None passes every row."""
    text: str = attrs.field(eq=False, repr=False)
    """As it was written; what a :exc:`FilterError`'s position counts in."""

    def __str__(self) -> str:
        return "" if self.root is None else str(self.root)

    @property
    def columns(self) -> frozenset[str]:
        """The columns that it reads."""
        if self.root is None:
            return frozenset()
        return frozenset(reference.column for reference in references(self.root))

    @property
    def uses_regex(self) -> bool:
        """Whether it has ``match`` or ``imatch``, for which google-re2 has to be installed."""
        return self.root is not None and any(
            comparison.operator in (Operator.MATCH, Operator.IMATCH)
            for comparison in comparisons(self.root)
        )

    @property
    def conditions(self) -> int:
        """How many conditions it has, which is what it costs to hold it.

        Ten further values of an ``in`` count as one: they are looked up at once.
        """
        if self.root is None:
            return 0
        return sum(map(_conditions, comparisons(self.root)))

    @cached_property
    def weight(self) -> int:
        """How many simple conditions cost as much as it, to read it and to ask it of a long row.

        A regular expression counts as 50, as does what contains objects or arrays in others, a
        ``like`` with ``_`` between other characters as those
        characters, a ``like`` for what may stand anywhere as one more, and twenty characters of a
        value with parts, as JSON, arrays and ranges are, as one.
        """
        return sum(map(_weight, comparisons(self.root))) if self.root is not None else 0

    def regex_size(self) -> int:
        """Return how many instructions google-re2 has for its regular expressions.

        They are compiled for it.

        Raises:
            FilterError: with the position, if one of them can never be taken, or google-re2 is
                not installed.
        """
        patterns = Patterns()
        for each in comparisons(self.root) if self.root is not None else ():
            if each.operator not in (Operator.MATCH, Operator.IMATCH):
                continue
            try:
                patterns.test(each, ignore_case=False)
            except ValueError as exc:
                raise FilterError(
                    str(exc), text=self.text, position=each.value_positions[0]
                ) from None
        return patterns.instructions

    @property
    def compares_versions(self) -> bool:
        """Whether it reads ``old.`` or ``new.``: then it is about changes, not about rows."""
        return self.root is not None and any(
            reference.side is not Side.ROW for reference in references(self.root)
        )

    def compile(self, relation: Relation, *, enums: EnumOrders | None = None) -> CompiledFilter:
        """Type the literals by a relation's columns.

        Args:
            relation: whose rows will be filtered. A new Relation message makes a new one, and
                needs the filter compiled anew.
            enums: the labels of enum types in their declared order, by schema and name; see
                :func:`realtime_core.sources.catalog.enum_orders`. Without it enums are
                compared for equality only.

        Raises:
            FilterError: with the position, if a column does not exist, an operator does not
                apply to its type, or a literal cannot be read as it.
        """
        scope = Scope(relation, enums or {})
        if self.root is None:
            return CompiledFilter(self, relation, None, ())
        plan = scope.plan(self.root, self.text)
        return CompiledFilter(self, relation, plan.test, scope.by_text(self.root))


@attrs.frozen(eq=False)
class CompiledFilter:
    """A filter for the rows of one relation."""

    filter: Filter
    relation: Relation
    _test: Test | None
    by_text: tuple[str, ...]
    """Columns of a type that is not known here: equal is what has the same text."""

    def __call__(self, record: Record) -> bool:
        """Say whether a row passes. What it does not tell is unknown and does not.

        Raises:
            FilterMatchError: if it depends on a value that cannot be read as its column's type.
        """
        return self._evaluate(Row(record, None, record)) is True

    def passes(self, change: RowChange) -> bool:
        """Say whether a change passes: by its new row, of a DELETE by what is known of the old.

        Raises:
            FilterMatchError: if it depends on a value that cannot be read as its column's type.
        """
        return self._evaluate(row_of(change)) is True

    def match(self, change: RowChange) -> Match | None:
        """Say what a change means for whoever watches the rows that pass.

        The new row decides, of a DELETE the old one as far as it is known. LEAVES comes of
        an UPDATE only where the old row is known to have passed: REPLICA IDENTITY FULL sends
        all of it, otherwise only the identity's columns are known.

        Returns:
            None when the row does not pass, and is not known to have passed.

        Raises:
            FilterMatchError: if it depends on a value that cannot be read as its column's type.
        """
        passes = self.passes(change)
        if not isinstance(change, Update):
            if not passes:
                return None
            return Match.ENTERS if isinstance(change, Insert) else Match.LEAVES
        if self.filter.compares_versions:
            return Match.PASSES if passes else None
        try:
            before = self._evaluate(earlier(change))
        except FilterMatchError:
            if not passes:
                raise
            before = None
        return transition(before, passes)

    def _evaluate(self, row: Row) -> bool | None:
        if self._test is None:
            return True
        try:
            return self._test(row)
        except Exception as exc:
            raise FilterMatchError(
                f"a row of {self.relation} cannot be judged: {reason(exc)}",
                text=self.filter.text,
                position=0,
            ) from None


def _conditions(comparison: Comparison) -> int:
    value = comparison.value
    return 1 if isinstance(value, str) else 1 + (len(value) - 1) // _VALUES_EACH


def _weight(comparison: Comparison) -> int:
    if comparison.operator in PATTERNS:
        return weight(comparison)
    value = comparison.value
    values = (value,) if isinstance(value, str) else value
    parts = sum(len(each) for each in values if each.lstrip()[:1] in _OPENING)
    found = _conditions(comparison) + parts // _LETTERS_EACH
    if comparison.operator in (Operator.CS, Operator.CD):
        # What is held against each object and array of a document.
        nested = sum(each.count("[") + each.count("{") for each in values) > 1
        return found + SLOW if nested else found
    return found


def transition(before: bool | None, now: bool) -> Match | None:
    """Return what an UPDATE does, of which it is known whether the row passed before, or not."""
    if not now:
        return Match.LEAVES if before else None
    if before is None:
        return Match.PASSES
    return Match.STAYS if before else Match.ENTERS


def parse_filter(text: str) -> Filter:
    """Read a filter expression.

    Raises:
        FilterError: with the position, if it is not in the grammar or beyond its bounds.
    """
    return Filter(parse_node(text), text)
