"""What each operator means, in SQL's three-valued logic.

A condition is true, false or, if a value is NULL or missing, unknown.

A test takes a row and returns True, False, or None for unknown. A row passes a filter only if the
filter's test returns True.

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

A test raises an exception if a value cannot be read. AND and OR treat such a test like one whose
result is unknown. If the other tests decide the result, in whatever order they stand, the exception
does not matter; otherwise it is raised.

Source: "Logical Operators" and "Comparison Functions and Operators" in the PostgreSQL
documentation.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias

from ..records import UNCHANGED
from ..types.base import Compare, Key
from ._rows import FilterRow, ValueSource
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

Test: TypeAlias = Callable[[FilterRow], bool | None]
"""Evaluates a condition for a row. None means unknown."""

ORDER: Final[dict[Operator, Compare]] = {
    Operator.GT: operator.gt,
    Operator.GTE: operator.ge,
    Operator.LT: operator.lt,
    Operator.LTE: operator.le,
}


# The next two are written out, since one function for both takes a tenth longer for each row.


def conjunction(tests: Sequence[Test]) -> Test:
    """Return the AND of tests, which is false as soon as one of them is."""

    def test(row: FilterRow) -> bool | None:
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
    """Return the OR of tests, which is true as soon as one of them is."""

    def test(row: FilterRow) -> bool | None:
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
    """Return the NOT of a test."""

    def test(row: FilterRow) -> bool | None:
        passes = inner(row)
        return None if passes is None else not passes

    return test


def compares(source: ValueSource, compare: Compare, literal: Key) -> Test:
    """Return the test that compares a value with a literal. The literal is never NULL."""

    def test(row: FilterRow) -> bool | None:
        value = row.value(source)
        if value is None or value is UNCHANGED:
            return None
        return compare(value, literal)

    return test


def satisfies(source: ValueSource, predicate: Callable[[str], bool]) -> Test:
    """Return the test of a value by a pattern."""

    def test(row: FilterRow) -> bool | None:
        value = row.value(source)
        if value is None or value is UNCHANGED:
            return None
        return predicate(value)

    return test


def is_member(source: ValueSource, literals: frozenset[Key]) -> Test:
    """Return the test whether a value is one of several literals, as IN does. None is NULL."""

    def test(row: FilterRow) -> bool | None:
        value = row.value(source)
        if value is None or value is UNCHANGED:
            return None
        return value in literals

    return test


def is_any_of(source: ValueSource, literals: Sequence[Key]) -> Test:
    """Return the test :func:`is_member` for values with parts, such as arrays.

    To hash a long value takes longer than to compare it with a few literals.
    """

    def test(row: FilterRow) -> bool | None:
        value = row.value(source)
        if value is None or value is UNCHANGED:
            return None
        return any(value == literal for literal in literals)

    return test


def is_null(source: ValueSource, *, negated: bool = False) -> Test:
    """Return the test IS NULL, or IS NOT NULL. For a value that was not sent it is unknown."""

    def test(row: FilterRow) -> bool | None:
        value = row.value(source)
        return None if value is UNCHANGED else (value is None) is not negated

    return test


def is_truth(source: ValueSource, truth: bool) -> Test:
    """Return the test IS TRUE, or IS FALSE. For NULL both are false."""

    def test(row: FilterRow) -> bool | None:
        value = row.value(source)
        return None if value is UNCHANGED else value is truth

    return test


def distinct(source: ValueSource, literal: Key) -> Test:
    """Return the test IS DISTINCT FROM a literal. It is true for NULL."""

    def test(row: FilterRow) -> bool | None:
        value = row.value(source)
        return None if value is UNCHANGED else value is None or value != literal

    return test
