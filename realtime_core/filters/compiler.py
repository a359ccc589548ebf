"""Compiles a filter for a relation into a test of rows.

The values in the filter, its literals, are read here once, by the types of the relation's columns.
A source describes how the value that a literal is compared with is read from a row. All filters of
a scope share their sources, so that a field of a row is converted at most once, however many
filters compare it.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, Final, NoReturn, TypeAlias
from weakref import WeakValueDictionary

import attrs

from ..changes import Relation
from ..errors import FilterError
from ..types.base import DataType, Key, as_is
from ..types.columns import EnumOrders, data_type_of, enums_of
from ..types.json import JSONB, json_path, read_document
from ..types.texts import TEXT
from ._patterns import PATTERNS, Patterns
from ._rows import ValueSource
from .nodes import And, Comparison, Node, Not, Operator, Or, Reference, Side, references
from .operator_logic import (
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

Access: TypeAlias = tuple[tuple[ValueSource, Key], ...]
"""Sources and keys. A row can pass only if the value of one of the sources is equal to its key."""

_RELATIONS: Final = {
    **{Operator.CS: "@>", Operator.CD: "<@", Operator.OV: "&&", Operator.SL: "<<"},
    **{Operator.SR: ">>", Operator.NXR: "&<", Operator.NXL: "&>", Operator.ADJ: "-|-"},
}
"""PostgreSQL's names of the operators that only some types have."""
_MOST_KEYS: Final = 1000
"""The most keys that an OR is filed under in an index."""
_SHOWN: Final = 40
"""The most characters that a message quotes of a value or a name."""
_LONGEST: Final = 500
"""The most characters of a message."""


@attrs.frozen(eq=False)
class Plan:
    """How a filter, or a part of a filter, is decided for a row."""

    test: Test
    access: Access | None = None
    """The values by which an index finds the filter; None if the test must be run for every row."""
    residual: Test | None = None
    """The test that a row must pass if it has one of the values of ``access``; None if there is no
    more to test."""
    operator: type[And | Or | Not] | None = None
    """How the plan consists of ``parts``; None if its test is run as a whole."""
    parts: tuple[Plan, ...] = ()
    """The plans of the parts of a filter with patterns, each of which may take long."""


@attrs.frozen
class _Operand:
    """The meaning of a reference in a relation: how its value is read."""

    source: ValueSource
    """Reads the reference's value as a key."""
    text: ValueSource
    """Reads the reference's value as a text."""
    data_type: DataType
    """The type of the reference's value."""


class Scope:
    """Compiles the filters on one relation.

    It keeps the types of the relation's columns, and the objects that read values from its rows, so
    that filters share them.

    Args:
        relation: the relation whose rows are filtered.
        enums: the labels of enum types in their declared order, as far as they are known.
    """

    def __init__(self, relation: Relation, enums: EnumOrders) -> None:
        self.relation = relation
        self._enums = dict(enums_of(relation, enums))
        self._data_types: dict[str, DataType] = {}
        # A source is kept as long as a filter uses it. Clients may send ever new paths into JSON.
        self._sources: WeakValueDictionary[tuple[object, ...], ValueSource] = WeakValueDictionary()

    def fits(self, relation: Relation, enums: EnumOrders) -> bool:
        """Say whether filters would be compiled in the same way for another relation."""
        return relation.columns == self.relation.columns and self._enums == dict(
            enums_of(relation, enums)
        )

    def plan(self, node: Node, text: str) -> Plan:
        """Compile a filter.

        Args:
            node: the filter's tree.
            text: the filter's text, for errors.

        Raises:
            FilterError: if the filter does not fit the relation. It has the position in ``text``.
        """
        return _Planner(self, text).plan(node)

    def by_text(self, node: Node) -> tuple[str, ...]:
        """Return the columns of a filter whose types are not known, so that only texts are
        compared."""
        columns = dict.fromkeys(each.column for each in references(node))
        return tuple(column for column in columns if self.data_type(column).by_text)

    def data_type(self, column: str) -> DataType:
        """Return the DataType of a column.

        Raises:
            KeyError: if the relation has no such column.
        """
        data_type = self._data_types.get(column)
        if data_type is None:
            place = self.relation.shape.index[column]
            data_type = data_type_of(self.relation.columns[place], self._enums)
            self._data_types[column] = data_type
        return data_type

    def source(
        self,
        key: tuple[object, ...],
        column: str,
        side: Side,
        convert: Callable[[Any], Any] | None,
        base: ValueSource | None = None,
    ) -> ValueSource:
        """Return the source that has a key, and make it from the other arguments if there is
        none."""
        source = self._sources.get(key)
        if source is None:
            of_row = None
            if side is not Side.ROW:
                same = tuple(map(_of_row, key))
                of_row = self.source(same, column, Side.ROW, convert, base and base.of_row)
            source = self._sources[key] = ValueSource(column, side, convert, base, of_row)
        return source


def _of_row(part: object) -> object:
    """Return a part of the key of a source of ``old.`` or ``new.`` as it is for the row itself."""
    if isinstance(part, ValueSource):
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
        source, data_type = operand.source, operand.data_type
        match node.operator:
            case Operator.IS:
                return Plan(self._is(node, operand))
            case Operator.EQ:
                literal = self._literals(node, data_type, comparable=True)[0]
                return self._indexed(node, compares(source, operator.eq, literal), source, literal)
            case Operator.IN:
                literals = tuple(dict.fromkeys(self._literals(node, data_type, comparable=True)))
                if data_type.relations:
                    test = is_any_of(source, literals)
                else:
                    test = is_member(source, frozenset(literals))
                return self._indexed(node, test, source, *literals)
            case Operator.NEQ:
                literal = self._literals(node, data_type, comparable=True)[0]
                return Plan(compares(source, operator.ne, literal))
            case Operator.ISDISTINCT:
                literal = self._literals(node, data_type, comparable=True)[0]
                return Plan(distinct(source, literal))
            case Operator.GT | Operator.GTE | Operator.LT | Operator.LTE:
                if not data_type.ordered:
                    self._refuse(node, operand, "which has no order that is known here")
                return Plan(self._order(node, operand))
            case pattern if pattern in PATTERNS:
                return Plan(self._pattern(node, operand))
            case _:
                compare = data_type.relations.get(_RELATIONS[node.operator])
                if compare is None:
                    self._refuse(node, operand, f"which {node.operator.value} does not apply to")
                literal = self._literals(node, data_type)[0]
                return Plan(compares(source, compare, literal))

    def _indexed(self, node: Comparison, test: Test, source: ValueSource, *literals: Key) -> Plan:
        # An index looks up values of one version of a row only.
        if node.reference.side is not Side.ROW:
            return Plan(test)
        return Plan(test, tuple((source, literal) for literal in literals))

    def _order(self, node: Comparison, operand: _Operand) -> Test:
        data_type, source = operand.data_type, operand.source
        literal = self._literals(node, data_type)[0]
        if data_type.rank is not None:
            column, side = node.reference.column, node.reference.side
            source = self._scope.source((column, side, "rank"), column, side, data_type.rank)
            assert isinstance(node.value, str)
            literal = data_type.rank(node.value)
        return compares(source, ORDER[node.operator], literal)

    def _is(self, node: Comparison, operand: _Operand) -> Test:
        value = node.value
        if value in ("null", "not_null"):
            return is_null(operand.text, negated=value == "not_null")
        if not operand.data_type.boolean:
            self._refuse(node, operand, f"not boolean, which is.{value} is for")
        if value == "unknown":
            return is_null(operand.text)
        return is_truth(operand.source, value == "true")

    def _pattern(self, node: Comparison, operand: _Operand) -> Test:
        if not operand.data_type.textual:
            self._refuse(node, operand, f"not text, which {node.operator.value} is for")
        assert isinstance(node.value, str)
        try:
            predicate, convert = self._patterns.test(
                node, ignore_case=operand.data_type.ignores_case
            )
        except ValueError as exc:
            self._fail(f"{_shown(node.value)}: {exc}", node.value_positions[0])
        text = operand.text
        if convert is not None:
            # Once for all patterns: to fold a text takes longer than a search.
            text = self._scope.source((text, convert), text.column, text.side, convert, text)
        return satisfies(text, predicate)

    def _literals(
        self, node: Comparison, data_type: DataType, *, comparable: bool = False
    ) -> list[Key]:
        if comparable and not data_type.comparable:
            remedy = f"; {data_type.remedy}" if data_type.remedy else ""
            self._fail(f"{data_type.name} has no equality in PostgreSQL{remedy}", node.position)
        values = (node.value,) if isinstance(node.value, str) else node.value
        keys = []
        for value, position in zip(values, node.value_positions, strict=True):
            try:
                keys.append(data_type.parse(value))
            except ValueError as exc:
                self._fail(f"{_shown(value)} cannot be read as {data_type.name}: {exc}", position)
        return keys

    def _operand(self, reference: Reference) -> _Operand:
        scope, column, side = self._scope, reference.column, reference.side
        try:
            data_type = scope.data_type(column)
        except KeyError:
            names = ", ".join(scope.relation.shape.names[:20])
            self._fail(
                f"{scope.relation} has no column {_shown(column)}; it has {names}",
                reference.position,
            )
        text = scope.source((column, side), column, side, None)
        if not reference.path:
            if data_type.read is as_is:
                return _Operand(text, text, data_type)
            typed = scope.source((column, side, "typed"), column, side, data_type.read)
            return _Operand(typed, text, data_type)
        if data_type.name not in ("json", "jsonb"):
            self._fail(
                f"column {_shown(column)} is {data_type.name}, and only json and jsonb have parts",
                reference.position,
            )
        document = scope.source((column, side, "document"), column, side, read_document)
        # The steps [0] and ["0"] of a path are different.
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
        data_type = operand.data_type
        remedy = f"; {data_type.remedy}" if data_type.remedy else ""
        what = _cut(str(node.reference), _SHOWN)
        self._fail(f"{what} is {data_type.name}, {reason}{remedy}", node.position)

    def _fail(self, problem: str, position: int) -> NoReturn:
        # The reason may quote the filter.
        raise FilterError(_cut(problem, _LONGEST), text=self._text, position=position)


def _all(plans: list[Plan]) -> Plan:
    """Plan an AND. An index finds it by the part with the fewest keys, and then tests the
    others."""
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
    """Plan an OR. An index finds it by each of its parts, if all of them have keys."""
    test = disjunction([plan.test for plan in plans])
    keys: dict[tuple[ValueSource, Key], None] = {}
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
