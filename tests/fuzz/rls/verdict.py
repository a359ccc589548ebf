"""The verdict on one subscriber: was it told what it had to be told, once and in order?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from tests.fuzz.rls.clients import WriteObserver
from tests.fuzz.rls.rules import Expected
from tests.fuzz.rls.world import Table

__all__ = ["difference"]


def difference(
    tables: Mapping[str, Table], expected: Sequence[Expected], told: Sequence[WriteObserver]
) -> str | None:
    """Return what is wrong with what a subscriber was told; None if it is right."""
    # Of each row, or each error: what it is to be told, and what it need not be told.
    wanted: dict[str, list[tuple[WriteObserver, bool]]] = {}
    got: dict[str, list[WriteObserver]] = {}
    for one in expected:
        others = ((each, True) for each in one.others)
        for each, is_optional in ((one.told, one.is_optional), *others):
            if each is not None:
                wanted.setdefault(_shown_row(tables, each), []).append((each, is_optional))
    for each in told:
        got.setdefault(_shown_row(tables, each), []).append(each)
    for row in dict.fromkeys((*wanted, *got)):
        theirs, ours = wanted.get(row, []), got.get(row, [])
        if _agree(theirs, ours):
            continue
        about = [f"  {one.change}: {one.why}" for one in expected if _is_about(tables, one, row)]
        return "\n".join(
            (
                *about,
                "expected:",
                *(f"  {'perhaps ' if optional else ''}{_cut(each)}" for each, optional in theirs),
                "got:",
                *(f"  {_cut(each)}" for each in ours),
            )
        )
    return None


def _agree(wanted: Sequence[tuple[WriteObserver, bool]], got: Sequence[WriteObserver]) -> bool:
    """Say whether it is what was wanted, in order."""
    if wanted and wanted[0][0].error is not None:
        # All of the same kind are the same.
        least = sum(not is_optional for _, is_optional in wanted)
        return least <= len(got) <= len(wanted) and all(one == wanted[0][0] for one in got)
    left = iter(got)
    one = next(left, None)
    for each, is_optional in wanted:
        if one == each:
            one = next(left, None)
        elif not is_optional:
            return False
    return one is None


def _row_of(table: Table, row: Any) -> str:
    """Return what tells a row from others, as far as that is shown."""
    return f"{table.name} {[str(row.get(name)) for name in table.key]}"


def _shown_row(tables: Mapping[str, Table], told: WriteObserver) -> str:
    if told.error is not None:
        return f"{told.table} {told.kind} {told.error}"
    return _row_of(tables[told.table], told.old_record if told.record is None else told.record)


def _is_about(tables: Mapping[str, Table], expected: Expected, row: str) -> bool:
    change = expected.change
    whole = change.old if change.kind == "DELETE" else change.new
    every = [each for each in (expected.told, *expected.others) if each is not None]
    return row in (_row_of(change.table, whole), *(_shown_row(tables, each) for each in every))


def _cut(told: object) -> str:
    """Return a text without what is long in it."""
    return re.sub(r"'([^']{40})[^']{40,}'", r"'\1…'", str(told))
