"""Operators in three values: true, false and, where something is NULL or not known, unknown.

A test takes a row and returns True, False or None. A row passes a filter only if it is true.

==========  ==========  ==========  ==========  ==========
a           b           a and b     a or b      not a
==========  ==========  ==========  ==========  ==========
true        true        true        true        false
true        false       false       true        false
true        unknown     unknown     true        false
false       false       false       false       true
false       unknown     false       unknown     true
unknown     unknown     unknown     unknown     unknown
==========  ==========  ==========  ==========  ==========

A value that cannot be read is an exception. AND and OR take it for unknown: where the others
decide, in whatever order they stand, it does not matter; else it is raised.

Source: "Logical Operators" and "Comparison Functions and Operators" in the PostgreSQL
documentation.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from ..records import UNCHANGED
from ..types.base import Compare, Key
from ._rows import Row, Source
from .nodes import Operator

__all__ = [
    "ORDER",
    "Test",
    "compares",
    "conjunction",
    "disjunction",
    "distinct",
    "is_any_of",
    "is_member",
    "is_null",
    "is_truth",
    "negation",
    "satisfies",
]

Test: TypeAlias = Callable[[Row], bool | None]

ORDER: Final[dict[Operator, Compare]] = {
    Operator.GT: operator.gt,
    Operator.GTE: operator.ge,
    Operator.LT: operator.lt,
    Operator.LTE: operator.le,
}


def conjunction(tests: Sequence[Test]) -> Test:
    """AND: false as soon as one is."""

    def test(row: Row) -> bool | None:
        result: bool | None = True
        error: Exception | None = None
        for each in tests:
            try:
                passes = each(row)
            except Exception as exc:
                error = error or exc
                continue
            if passes is None:
                result = None
            elif not passes:
                return False
        if error is not None:
            raise error
        return result

    return test


def disjunction(tests: Sequence[Test]) -> Test:
    """OR: true as soon as one is."""

    def test(row: Row) -> bool | None:
        result: bool | None = False
        error: Exception | None = None
        for each in tests:
            try:
                passes = each(row)
            except Exception as exc:
                error = error or exc
                continue
            if passes:
                return True
            if passes is None:
                result = None
        if error is not None:
            raise error
        return result

    return test


def negation(inner: Test) -> Test:
    """NOT."""

    def test(row: Row) -> bool | None:
        passes = inner(row)
        return None if passes is None else not passes

    return test


def compares(source: Source, compare: Compare, literal: Key) -> Test:
    """A comparison with a literal, which is never NULL."""

    def test(row: Row) -> bool | None:
        value = row.value(source)
        if value is None or value is UNCHANGED:
            return None
        return compare(value, literal)

    return test


def satisfies(source: Source, predicate: Callable[[str], bool]) -> Test:
    """A pattern."""

    def test(row: Row) -> bool | None:
        value = row.value(source)
        if value is None or value is UNCHANGED:
            return None
        return predicate(value)

    return test


def is_member(source: Source, literals: frozenset[Key]) -> Test:
    """IN, of a list without NULL."""

    def test(row: Row) -> bool | None:
        value = row.value(source)
        if value is None or value is UNCHANGED:
            return None
        return value in literals

    return test


def is_any_of(source: Source, literals: Sequence[Key]) -> Test:
    """IN, of values with parts: a long one is sooner compared with a few than hashed."""

    def test(row: Row) -> bool | None:
        value = row.value(source)
        if value is None or value is UNCHANGED:
            return None
        return any(value == literal for literal in literals)

    return test


def is_null(source: Source, *, negated: bool = False) -> Test:
    """IS NULL sees a NULL, but not what was not sent."""

    def test(row: Row) -> bool | None:
        value = row.value(source)
        return None if value is UNCHANGED else (value is None) is not negated

    return test


def is_truth(source: Source, truth: bool) -> Test:
    """IS TRUE and IS FALSE: NULL is neither."""

    def test(row: Row) -> bool | None:
        value = row.value(source)
        return None if value is UNCHANGED else value is truth

    return test


def distinct(source: Source, literal: Key) -> Test:
    """IS DISTINCT FROM: NULL is distinct from every literal."""

    def test(row: Row) -> bool | None:
        value = row.value(source)
        return None if value is UNCHANGED else value is None or value != literal

    return test
