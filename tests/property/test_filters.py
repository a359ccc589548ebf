"""What holds for any filter: its text, and that an index finds what each filter would."""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import FilterError, FilterMatchError, Record, ReplicaIdentity
from realtime_core.changes import RowChange
from realtime_core.filters import (
    And,
    Comparison,
    Filter,
    FilterIndex,
    Match,
    Node,
    Not,
    Operator,
    Or,
    Reference,
    Side,
    parse_filter,
)
from realtime_core.records import UNCHANGED, Field
from tests.core.filters.helpers import delete, insert, relation, update
from tests.property.examples import examples

pytestmark = pytest.mark.slow

T = TypeVar("T")
OPERATORS = [operator.value for operator in Operator]

letters = st.characters(exclude_characters="\0", codec="utf-8")
texts = st.text(letters, max_size=8) | st.text('ab,.()[]{}"\\=- \n>', max_size=8)
names = st.text(letters, min_size=1, max_size=6) | st.sampled_from(
    ["and", "or", "not", "old", "new", "a.b", "a->b", " a ", "->", *OPERATORS]
)
steps = st.integers(-9, 9) | names


@st.composite
def references(draw: st.DrawFn) -> Reference:
    path = tuple(draw(st.lists(steps, max_size=3)))
    as_text = bool(path) and draw(st.booleans())
    return Reference(draw(names), path, as_text, draw(st.sampled_from(Side)))


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    operator = draw(st.sampled_from(Operator))
    match operator:
        case Operator.IN:
            values = tuple(draw(st.lists(texts, min_size=1, max_size=3)))
            return Comparison(draw(references()), operator, values)
        case Operator.IS:
            truths = st.sampled_from(["null", "not_null", "true", "false", "unknown"])
            return Comparison(draw(references()), operator, draw(truths))
        case _:
            return Comparison(draw(references()), operator, draw(texts))


def trees(leaves: st.SearchStrategy[Node]) -> st.SearchStrategy[Node]:
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            inner.map(Not),
            *(st.lists(inner, min_size=1, max_size=3).map(tuple).map(kind) for kind in (And, Or)),
        ),
        max_leaves=6,
    )


@examples(200)
@given(trees(comparisons()))
def test_a_tree_is_read_back_from_its_text(tree: Node) -> None:
    """As the simplest tree of the same meaning, whose text is canonical."""
    parsed = parse_filter(str(tree))
    canonical = str(parsed)
    again = parse_filter(canonical)
    assert again == parsed
    assert str(again) == canonical
    assert list(leaves_of(parsed.root)) == list(leaves_of(tree))


def leaves_of(node: Node | None, negated: bool = False) -> list[tuple[Comparison, bool]]:
    """Return a tree's comparisons in order, and whether an odd number of nots stand before."""
    match node:
        case None:
            return []
        case Comparison():
            return [(node, negated)]
        case Not(item):
            return leaves_of(item, not negated)
        case And(items) | Or(items):
            return [leaf for item in items for leaf in leaves_of(item, negated)]


fragments = st.sampled_from(
    [
        *(
            "a",
            "id",
            "=",
            ".",
            "eq",
            "not.",
            "in.(",
            "(",
            ")",
            ",",
            '"',
            "\\",
            "and(",
            "or=(",
            "->",
        ),
        *(
            "->>",
            "is.null",
            "old.",
            "1",
            "x",
            " ",
            "{",
            "[",
            "like.",
            "a=eq.1",
            "a.eq.1",
            "b=in.(1)",
        ),
    ]
)


@examples(200)
@given(st.text(max_size=30) | st.lists(fragments, max_size=15).map("".join))
def test_any_text_is_a_filter_or_a_filter_error(text: str) -> None:
    error = None
    try:
        parsed = parse_filter(text)
    except FilterError as exc:
        error = exc
    else:
        assert parse_filter(str(parsed)) == parsed
    if error is not None:
        assert error.text == text
        assert 0 <= error.position <= len(text)


# A small world, so that something matches: two numbers and a text, few values of each.

COLUMNS = {"id": "int4", "v": "int4", "name": "text"}
NUMBERS = st.sampled_from(["0", "1", "2"])
WORDS = st.sampled_from(["", "x", "xy"])


@st.composite
def conditions(draw: st.DrawFn) -> Comparison:
    column = draw(st.sampled_from(list(COLUMNS)))
    values = WORDS if column == "name" else NUMBERS
    side = draw(st.sampled_from([Side.ROW] * 6 + [Side.OLD, Side.NEW]))
    # Equality more often than all else: it is what the index is for.
    operators = [Operator.EQ] * 6 + [Operator.IN] * 3 + [Operator.NEQ, Operator.GT, Operator.IS]
    operator = draw(st.sampled_from(operators))
    reference = Reference(column, side=side)
    if operator is Operator.IN:
        several = tuple(draw(st.lists(values, min_size=1, max_size=3)))
        return Comparison(reference, operator, several, value_positions=(0,) * len(several))
    return Comparison(reference, operator, "null" if operator is Operator.IS else draw(values))


filters = (trees(conditions()) | conditions()).map(lambda tree: parse_filter(str(tree)))
rows = st.tuples(st.none() | NUMBERS | st.just(UNCHANGED), st.none() | NUMBERS, st.none() | WORDS)
BROKEN = st.just("?")
broken_rows = st.tuples(NUMBERS | BROKEN, st.none() | NUMBERS | BROKEN, st.none() | WORDS)


@st.composite
def changes(draw: st.DrawFn, rows: st.SearchStrategy[tuple[Field, ...]] = rows) -> RowChange:
    identity = draw(st.sampled_from(list(ReplicaIdentity)))
    of = relation(identity, **COLUMNS)
    shape = of.shape if identity is ReplicaIdentity.FULL else of.key_shape
    old = Record(shape, draw(rows)[: len(shape.columns)])
    new = Record(of.shape, draw(rows))
    match draw(st.sampled_from(["insert", "update", "delete"])):
        case "insert":
            return insert(of, *new.fields)
        case "update":
            return update(of, new, draw(st.sampled_from([old, None])))
        case _:
            return delete(of, old)


steps_of_an_index = st.lists(
    st.tuples(st.sampled_from(["add", "add", "remove"]), st.integers(0, 9), filters) | changes(),
    min_size=1,
    max_size=30,
)


@examples(150)
@given(steps_of_an_index)
def test_an_index_finds_what_each_filter_by_itself_would(
    steps: list[tuple[str, int, Filter] | RowChange],
) -> None:
    index: FilterIndex[int] = FilterIndex()
    present: dict[tuple[int, Filter], None] = {}
    for step in steps:
        if isinstance(step, tuple):
            action, subscription, filter = step
            if action == "add":
                index.add(subscription, "public", "t", filter)
                present[subscription, filter] = None
            else:
                index.remove(subscription, "public", "t", filter)
                present.pop((subscription, filter), None)
                # Removing what is there, too.
                for key in list(present)[:1]:
                    index.remove(key[0], "public", "t", key[1])
                    del present[key]
            continue
        expected = [
            (subscription, filter.compile(step.relation).match(step))
            for subscription, filter in present
        ]
        matches = [(each, match) for each, match in expected if match is not None]
        assert sorted(index.transitions(step), key=str) == sorted(matches, key=str)
        passing = [each for each, match in matches if is_passing(step, match)]
        assert sorted(index.match(step)) == sorted(passing)
        assert sorted(result(index.moving(step)), key=str) == sorted(matches, key=str)
        assert sorted(result(index.matching(step))) == sorted(passing)
    assert len(index) == len(present)
    assert index.errors == 0


@examples(300)
@given(st.lists(filters, min_size=1, max_size=5), st.lists(changes(broken_rows), max_size=5))
def test_an_index_passes_what_cannot_be_read_where_each_filter_by_itself_would(
    several: list[Filter], steps: list[RowChange]
) -> None:
    together: FilterIndex[int] = FilterIndex()
    for number, filter in enumerate(several):
        together.add(number, "public", "t", filter)
    for change in steps:
        matches = []
        for number, filter in enumerate(several):
            alone: FilterIndex[int] = FilterIndex()
            alone.add(number, "public", "t", filter)
            found = alone.transitions(change)
            matches += found
            try:
                expected = filter.compile(change.relation).match(change)
            except FilterMatchError:
                assert found == []
            else:
                assert found == ([] if expected is None else [(number, expected)])
        assert sorted(together.transitions(change), key=str) == sorted(matches, key=str)
        passing = [number for number, match in matches if is_passing(change, match)]
        assert sorted(together.match(change)) == sorted(passing)
        assert sorted(result(together.moving(change)), key=str) == sorted(matches, key=str)
        assert sorted(result(together.matching(change))) == sorted(passing)


def result(steps: Generator[None, None, T]) -> T:
    """Go through all steps; return what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            found: T = end.value
            return found


def is_passing(change: RowChange, match: Match | None) -> bool:
    """Of a DELETE the row that leaves is the one that passes."""
    return match is not Match.LEAVES or not hasattr(change, "record")
