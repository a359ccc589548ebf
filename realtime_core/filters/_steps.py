"""Evaluates filters one condition at a time, so that other tasks can run in between.

A condition on a long text may take milliseconds, and a filter may have hundreds of conditions.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

from ._rows import FilterRow
from .compiler import Plan
from .nodes import Not, Or

__all__ = ["evaluate_in_steps", "result_of"]

T = TypeVar("T")


def evaluate_in_steps(plan: Plan, row: FilterRow) -> Generator[None, None, bool | None]:
    """Evaluate a plan as its test does, but yield before each condition.

    Raises:
        Exception: whatever the test would raise.
    """
    if plan.operator is None:
        yield
        return plan.test(row)
    if plan.operator is Not:
        passes = yield from evaluate_in_steps(plan.parts[0], row)
        return None if passes is None else not passes
    decisive = plan.operator is Or
    result: bool | None = not decisive
    error: Exception | None = None
    for part in plan.parts:
        try:
            passes = yield from evaluate_in_steps(part, row)
        except Exception as exc:
            error = error or exc
            continue
        if passes is None:
            result = None
        elif bool(passes) is decisive:
            return decisive
    if error is not None:
        raise error
    return result


def result_of(steps: Generator[None, None, T]) -> T:
    """Exhaust a generator, and return what it returns."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            result: T = end.value
            return result
