"""Compiler: a filter and a relation to a test of rows.

Literals are typed here, once, by the types of the relation's columns. What a literal is
compared with is described by a source; the filters of one scope share them, so that a row's
field is converted at most once, however many filters look at it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeAlias
from weakref import WeakValueDictionary

import attrs

from ..changes import Relation
from ..errors import FilterError
from ..types.base import Key, Kind, as_is
from ..types.columns import EnumOrders, enums_of, kind_of
from ..types.json import JSONB, json_path, read_document
from ..types.texts import TEXT
from ._patterns import PATTERNS, Patterns, fold_text
from ._rows import Source
from .nodes import And, Comparison, Node, Not, Operator, Or, Reference, Side, references
from .three_valued import (
    ORDER,
    Test,
    compares,
    conjunction,
    disjunction,
    distinct,
    is_any_of,
    is_member,
    is_null,
    is_truth,
    negation,
    satisfies,
)

__all__ = ["Plan", "Scope"]

Access: TypeAlias = tuple[tuple[Source, Key], ...]
"""A row can pass only if one of these sources has its key."""

_RELATIONS: Final = {
    **{Operator.CS: "@>", Operator.CD: "<@", Operator.OV: "&&", Operator.SL: "<<"},
    **{Operator.SR: ">>", Operator.NXR: "&<", Operator.NXL: "&>", Operator.ADJ: "-|-"},
}
"""PostgreSQL's names of the operators that some types have."""
_MOST_KEYS: Final = 1000
_SHOWN: Final = 40
"""Characters of what was written that a message shows."""
_LONGEST: Final = 500
"""Characters of a message."""


@attrs.frozen(eq=False)
class Plan:
    """How a filter, or a part of one, is decided."""

    test: Test
    access: Access | None = None
    """None if every row must be looked at."""
    residual: Test | None = None
    """What is left to ask of a row that ``access`` finds; None if it passes anyway."""
    operator: type[And | Or | Not] | None = None
    """How it is made of its parts; None if it has none, or is asked as a whole."""
    parts: tuple[Plan, ...] = ()
    """Of a filter with patterns, each of which may take long, what :func:`judging` asks."""


@attrs.frozen
class _Operand:
    """A reference resolved: where its value comes from, and what it is."""

    source: Source
    text: Source
    """The same, as text."""
    kind: Kind


class Scope:
    """A relation's columns, their kinds, and the sources that filters on it share.

    Args:
        relation: whose rows are filtered.
        enums: the declared orders of enum types, as far as they are known.
    """

    def __init__(self, relation: Relation, enums: EnumOrders) -> None:
        self.relation = relation
        self._enums = dict(enums_of(relation, enums))
        self._kinds: dict[str, Kind] = {}
        # Weakly, as long as a filter uses them: clients think of ever new paths into JSON.
        self._sources: WeakValueDictionary[tuple[object, ...], Source] = WeakValueDictionary()

    def fits(self, relation: Relation, enums: EnumOrders) -> bool:
        """Say whether filters would be typed the same for this relation."""
        return relation.columns == self.relation.columns and self._enums == dict(
            enums_of(relation, enums)
        )

    def plan(self, node: Node, text: str) -> Plan:
        """Type a filter's literals and make its test.

        Raises:
            FilterError: with the position in ``text``, if the filter does not fit.
        """
        return _Planner(self, text).plan(node)

    def by_text(self, node: Node) -> tuple[str, ...]:
        """Return the columns of a filter that are compared by their text for want of better."""
        columns = dict.fromkeys(each.column for each in references(node))
        return tuple(column for column in columns if self.kind(column).by_text)

    def kind(self, column: str) -> Kind:
        """Return a column's kind.

        Raises:
            KeyError: if there is no such column.
        """
        kind = self._kinds.get(column)
        if kind is None:
            place = self.relation.shape.index[column]
            kind = kind_of(self.relation.columns[place], self._enums)
            self._kinds[column] = kind
        return kind

    def source(
        self,
        key: tuple[object, ...],
        column: str,
        side: Side,
        convert: Callable[[Any], Any] | None,
        base: Source | None = None,
    ) -> Source:
        """Return the source of this key, making it the first time."""
        source = self._sources.get(key)
        if source is None:
            of_row = None
            if side is not Side.ROW:
                same = tuple(map(_of_row, key))
                of_row = self.source(same, column, Side.ROW, convert, base and base.of_row)
            source = self._sources[key] = Source(column, side, convert, base, of_row)
        return source


def _of_row(part: object) -> object:
    """Return what stands in the key of the same source of the row that is judged."""
    if isinstance(part, Source):
        return part.of_row
    return Side.ROW if isinstance(part, Side) else part


class _Planner:
    def __init__(self, scope: Scope, text: str) -> None:
        self._scope = scope
        self._text = text
        self._patterns = Patterns()

    def plan(self, node: Node) -> Plan:
        match node:
            case Comparison():
                return self._comparison(node)
            case Not(item):
                parts = [self.plan(item)]
                plan = Plan(negation(parts[0].test))
            case And(items):
                parts = [self.plan(item) for item in items]
                plan = _all(parts)
            case Or(items):
                parts = [self.plan(item) for item in items]
                plan = _any(parts)
        if self._patterns.count > 1:
            plan = attrs.evolve(plan, operator=type(node), parts=tuple(parts))
        return plan

    def _comparison(self, node: Comparison) -> Plan:
        operand = self._operand(node.reference)
        source, kind = operand.source, operand.kind
        match node.operator:
            case Operator.IS:
                return Plan(self._is(node, operand))
            case Operator.EQ:
                literal = self._literals(node, kind, comparable=True)[0]
                return self._indexed(node, compares(source, operator.eq, literal), source, literal)
            case Operator.IN:
                literals = tuple(dict.fromkeys(self._literals(node, kind, comparable=True)))
                if kind.relations:
                    test = is_any_of(source, literals)
                else:
                    test = is_member(source, frozenset(literals))
                return self._indexed(node, test, source, *literals)
            case Operator.NEQ:
                literal = self._literals(node, kind, comparable=True)[0]
                return Plan(compares(source, operator.ne, literal))
            case Operator.ISDISTINCT:
                literal = self._literals(node, kind, comparable=True)[0]
                return Plan(distinct(source, literal))
            case Operator.GT | Operator.GTE | Operator.LT | Operator.LTE:
                if not kind.ordered:
                    self._refuse(node, operand, "which has no order that is known here")
                return Plan(self._order(node, operand))
            case pattern if pattern in PATTERNS:
                return Plan(self._pattern(node, operand))
            case _:
                compare = kind.relations.get(_RELATIONS[node.operator])
                if compare is None:
                    self._refuse(node, operand, f"which {node.operator.value} does not apply to")
                literal = self._literals(node, kind)[0]
                return Plan(compares(source, compare, literal))

    def _indexed(self, node: Comparison, test: Test, source: Source, *literals: Key) -> Plan:
        # An index has one version of a row to look up.
        if node.reference.side is not Side.ROW:
            return Plan(test)
        return Plan(test, tuple((source, literal) for literal in literals))

    def _order(self, node: Comparison, operand: _Operand) -> Test:
        kind, source = operand.kind, operand.source
        literal = self._literals(node, kind)[0]
        if kind.rank is not None:
            column, side = node.reference.column, node.reference.side
            source = self._scope.source((column, side, "rank"), column, side, kind.rank)
            assert isinstance(node.value, str)
            literal = kind.rank(node.value)
        return compares(source, ORDER[node.operator], literal)

    def _is(self, node: Comparison, operand: _Operand) -> Test:
        value = node.value
        if value in ("null", "not_null"):
            return is_null(operand.text, negated=value == "not_null")
        if not operand.kind.boolean:
            self._refuse(node, operand, f"not boolean, which is.{value} is for")
        if value == "unknown":
            return is_null(operand.text)
        return is_truth(operand.source, value == "true")

    def _pattern(self, node: Comparison, operand: _Operand) -> Test:
        if not operand.kind.textual:
            self._refuse(node, operand, f"not text, which {node.operator.value} is for")
        assert isinstance(node.value, str)
        try:
            predicate, folds = self._patterns.test(node, ignore_case=operand.kind.ignores_case)
        except ValueError as exc:
            self._fail(f"{_shown(node.value)}: {exc}", node.value_positions[0])
        text = operand.text
        if folds:
            # Once for all patterns: it takes longer than the search.
            text = self._scope.source((text, "folded"), text.column, text.side, fold_text, text)
        return satisfies(text, predicate)

    def _literals(self, node: Comparison, kind: Kind, *, comparable: bool = False) -> list[Key]:
        if comparable and not kind.comparable:
            remedy = f"; {kind.remedy}" if kind.remedy else ""
            self._fail(f"{kind.name} has no equality in PostgreSQL{remedy}", node.position)
        values = (node.value,) if isinstance(node.value, str) else node.value
        keys = []
        for value, position in zip(values, node.value_positions, strict=True):
            try:
                keys.append(kind.parse(value))
            except ValueError as exc:
                self._fail(f"{_shown(value)} cannot be read as {kind.name}: {exc}", position)
        return keys

    def _operand(self, reference: Reference) -> _Operand:
        scope, column, side = self._scope, reference.column, reference.side
        try:
            kind = scope.kind(column)
        except KeyError:
            names = ", ".join(scope.relation.shape.names[:20])
            self._fail(
                f"{scope.relation} has no column {_shown(column)}; it has {names}",
                reference.position,
            )
        text = scope.source((column, side), column, side, None)
        if not reference.path:
            if kind.read is as_is:
                return _Operand(text, text, kind)
            typed = scope.source((column, side, "typed"), column, side, kind.read)
            return _Operand(typed, text, kind)
        if kind.name not in ("json", "jsonb"):
            self._fail(
                f"column {_shown(column)} is {kind.name}, and only json and jsonb have parts",
                reference.position,
            )
        document = scope.source((column, side, "document"), column, side, read_document)
        # jsonb[0] and jsonb["0"] are not the same step.
        steps = tuple((type(step), step) for step in reference.path)
        found = scope.source(
            (column, side, steps, reference.as_text),
            column,
            side,
            json_path(reference.path, as_text=reference.as_text),
            document,
        )
        part = TEXT if reference.as_text else JSONB
        return _Operand(found, found, part)

    def _refuse(self, node: Comparison, operand: _Operand, reason: str) -> NoReturn:
        kind = operand.kind
        remedy = f"; {kind.remedy}" if kind.remedy else ""
        what = _cut(str(node.reference), _SHOWN)
        self._fail(f"{what} is {kind.name}, {reason}{remedy}", node.position)

    def _fail(self, problem: str, position: int) -> NoReturn:
        # A reason may quote what was written.
        raise FilterError(_cut(problem, _LONGEST), text=self._text, position=position)


def _all(plans: list[Plan]) -> Plan:
    """Plan an AND: it is found by the part that has the fewest keys, and the others are asked."""
    test = conjunction([plan.test for plan in plans])
    found = [plan for plan in plans if plan.access is not None]
    if not found:
        return Plan(test)
    best = min(found, key=lambda plan: len(plan.access or ()))
    rest = [plan.test for plan in plans if plan is not best]
    if best.residual is not None:
        rest.insert(0, best.residual)
    return Plan(test, best.access, rest[0] if len(rest) == 1 else conjunction(rest))


def _any(plans: list[Plan]) -> Plan:
    """Plan an OR: it is found by each of its parts, if every one has keys."""
    test = disjunction([plan.test for plan in plans])
    keys: dict[tuple[Source, Key], None] = {}
    for plan in plans:
        if plan.access is None:
            return Plan(test)
        keys.update(dict.fromkeys(plan.access))
    if len(keys) > _MOST_KEYS:
        return Plan(test)
    passes_anyway = all(plan.residual is None for plan in plans)
    return Plan(test, tuple(keys), None if passes_anyway else test)


def _shown(value: str) -> str:
    return repr(_cut(value, _SHOWN))


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}…"
