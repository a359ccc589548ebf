"""Filters: parsed expressions, and whether a change passes one that is compiled."""

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
from ._rows import FilterRow, row_before, row_of
from .compiler import Scope
from .nodes import Comparison, Node, Operator, Side, comparisons, references
from .operator_logic import Test
from .parser import parse_node

__all__ = ["CompiledFilter", "Filter", "Match", "parse_filter", "transition"]

_VALUES_EACH: Final = 10
"""Values of an ``in`` that count as one condition."""
_OPENING: Final = ("[", "{", "(")
_LETTERS_EACH: Final = 20
"""Characters of a JSON value, an array or a range that count as one condition."""


class Match(enum.Enum):
    """The effect of a change on the set of rows that pass a filter."""

    ENTERS = "enters"
    """The row is new to the set: an INSERT, or an UPDATE of a row that did not pass before."""
    STAYS = "stays"
    """An UPDATE of a row that passed before and still passes."""
    LEAVES = "leaves"
    """A DELETE, or an UPDATE of a row that passed before and does not any more."""
    PASSES = "passes"
    """An UPDATE of a row that passes. It is not known whether it passed before."""


@attrs.frozen
class Filter:
    """A filter expression.

    Two filters are equal when their trees are; ``str(filter)`` is the canonical text, which
    :func:`parse_filter` reads back as an equal filter.
    """

    root: Node | None
    """The root of the tree; None for a filter that every row passes."""
    text: str = attrs.field(eq=False, repr=False)
    """The expression as it was written. The position of a :exc:`FilterError` refers to it."""

    def __str__(self) -> str:
        return "" if self.root is None else str(self.root)

    @property
    def columns(self) -> frozenset[str]:
        """The names of the columns that the filter reads."""
        if self.root is None:
            return frozenset()
        return frozenset(reference.column for reference in references(self.root))

    @property
    def uses_regex(self) -> bool:
        """Whether the filter has ``match`` or ``imatch``, which need the package google-re2."""
        return self.root is not None and any(
            comparison.operator in (Operator.MATCH, Operator.IMATCH)
            for comparison in comparisons(self.root)
        )

    @property
    def conditions(self) -> int:
        """How many conditions the filter has, which is what it costs to keep it.

        Ten values of an ``in`` count as one condition, because they are looked up at once.
        """
        if self.root is None:
            return 0
        return sum(map(_conditions, comparisons(self.root)))

    @cached_property
    def weight(self) -> int:
        """How many simple conditions take as long as the filter, to parse and to evaluate it.

        A regular expression counts as 50, and so does ``cs`` or ``cd`` with objects or arrays
        within others. A ``like`` with ``_`` between other characters counts as many as it has such
        characters, and one for a text that may stand anywhere counts one more. Twenty characters of
        JSON, of an array or of a range count as one.
        """
        return sum(map(_weight, comparisons(self.root))) if self.root is not None else 0

    def regex_size(self) -> int:
        """Compile the filter's regular expressions, and return how many instructions RE2 has for
        them.

        Raises:
            FilterError: if a regular expression is invalid or too large, or google-re2 is not
                installed. It has the position.
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
        """Whether the filter reads ``old.`` or ``new.``, and so is about changes rather than
        rows."""
        return self.root is not None and any(
            reference.side is not Side.ROW for reference in references(self.root)
        )

    def compile(self, relation: Relation, *, enums: EnumOrders | None = None) -> CompiledFilter:
        """Compile the filter for the rows of a relation.

        Args:
            relation: the relation. A Relation message makes a new one, for which the filter has to
                be compiled again.
            enums: the labels of enum types in their declared order, by schema and name; see
                :func:`realtime_core.sources.catalog.enum_orders`. Without it enums are compared for
                equality only.

        Raises:
            FilterError: if a column does not exist, an operator does not apply to its type, or a
                value cannot be read as that type. It has the position.
        """
        scope = Scope(relation, enums or {})
        if self.root is None:
            return CompiledFilter(self, relation, None, ())
        plan = scope.plan(self.root, self.text)
        return CompiledFilter(self, relation, plan.test, scope.by_text(self.root))


@attrs.frozen(eq=False)
class CompiledFilter:
    """A filter that is compiled for the rows of one relation."""

    filter: Filter
    relation: Relation
    _test: Test | None
    by_text: tuple[str, ...]
    """The columns whose types are not known here. Their values are equal if their texts are."""

    def __call__(self, record: Record) -> bool:
        """Say whether a row passes the filter. A row for which that is unknown does not pass.

        Raises:
            FilterMatchError: if that depends on a value that cannot be read as its column's type.
        """
        return self._evaluate(FilterRow(record, None, record)) is True

    def passes(self, change: RowChange) -> bool:
        """Say whether a change passes the filter.

        The new row decides, and for a DELETE the old row as far as it is known.

        Raises:
            FilterMatchError: if that depends on a value that cannot be read as its column's type.
        """
        return self._evaluate(row_of(change)) is True

    def match(self, change: RowChange) -> Match | None:
        """Return whether a change's row enters the set of rows that pass, stays, or leaves it.

        An UPDATE takes a row out (``Match.LEAVES``) only if its old row is known to have passed:
        with REPLICA IDENTITY FULL all of the old row is known, otherwise only the columns of the
        replica identity. Of a DELETE the old row decides, so far as it is known.

        Returns:
            The change's effect on the set; None if the row is not in it, and is not known to have
            been in it before.

        Raises:
            FilterMatchError: if that depends on a value that cannot be read as its column's type.
        """
        passes = self.passes(change)
        if not isinstance(change, Update):
            if not passes:
                return None
            return Match.ENTERS if isinstance(change, Insert) else Match.LEAVES
        if self.filter.compares_versions:
            return Match.PASSES if passes else None
        try:
            before = self._evaluate(row_before(change))
        except FilterMatchError:
            if not passes:
                raise
            before = None
        return transition(before, passes)

    def _evaluate(self, row: FilterRow) -> bool | None:
        if self._test is None:
            return True
        try:
            return self._test(row)
        except Exception as exc:
            raise FilterMatchError(
                f"a row of {self.relation} cannot be matched: {reason(exc)}",
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
        # The value is compared with each object and array of a document.
        nested = sum(each.count("[") + each.count("{") for each in values) > 1
        return found + SLOW if nested else found
    return found


def transition(before: bool | None, now: bool) -> Match | None:
    """Return what an UPDATE means, given whether the row passed before and passes now.

    None as ``before`` means that it is not known.
    """
    if not now:
        return Match.LEAVES if before else None
    if before is None:
        return Match.PASSES
    return Match.STAYS if before else Match.ENTERS


def parse_filter(text: str) -> Filter:
    """Parse a filter expression.

    Raises:
        FilterError: if the text is not in the grammar, or exceeds a bound. It has the position.
    """
    return Filter(parse_node(text), text)
