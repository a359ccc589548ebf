"""The rules: what a subscriber is told, by what PostgreSQL has said of change, table and row.

They are docs/topics/rls.md, in :func:`expect`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import attrs

from tests.fuzz.rls.clients import Binding, Channel, Viewer, WriteObserver
from tests.fuzz.rls.filters import Filter
from tests.fuzz.rls.versions import EQUAL, SAME, Likeness
from tests.fuzz.rls.world import Table

__all__ = [
    "SEEN",
    "UNSEEN",
    "Change",
    "Expected",
    "State",
    "either",
    "expect",
    "may_be_anothers",
]

BAD_REQUEST: Final = "Error 400: Bad Request, no primary key"
UNAUTHORIZED: Final = "Error 401: Unauthorized"
SEEN: Final[frozenset[bool | None]] = frozenset([True])
UNSEEN: Final[frozenset[bool | None]] = frozenset([False])
FAILED: Final = "Error 500: Internal Server Error, row level security raised an error"


@attrs.frozen(eq=False)
class Change:
    """A change of a batch, as a trigger saw it."""

    table: Table
    number: int
    kind: str
    old: Any
    new: Any
    key: str
    """What tells the row that is looked for: of the new one."""
    conditions: tuple[str, ...]
    """In SQL, one for each column of the key."""
    unknown: frozenset[str] = frozenset()
    """Columns of the new row that the stream does not tell."""
    passing: set[Filter] = attrs.field(factory=set)
    """The filters that are true of it."""
    likeness: Likeness = attrs.field(factory=dict)
    """How like the row is to the new one; empty where that does not matter."""

    def __str__(self) -> str:
        return f"{self.kind} {self.table.sql} {_shown(self.old)} -> {_shown(self.new)}"


@attrs.frozen
class Expected:
    """What a subscriber is to be told of a change."""

    change: Change
    told: WriteObserver | None
    why: str
    is_optional: bool = False
    """Whether silence is right as well."""
    others: tuple[WriteObserver, ...] = ()
    """What may be told instead."""


@attrs.define
class State:
    """A table as it is after a batch."""

    table: Table
    columns: list[str]
    """Those that are published."""
    has_rls: bool
    selectable: dict[str, frozenset[str]]
    """By role, published or not."""
    is_asked_as_it_was: bool
    """Whether a deleted row goes, as a whole, to those who could see it."""
    is_hidden: bool
    """Whether nobody is told anything of it."""


def may_be_anothers(channel: Channel, change: Change) -> bool:
    """Say whether a change may have been told in the name of a channel's former token."""
    return channel.former is not None and change.number <= channel.former.until


def either(now: Expected, former: Expected, *, may_be_lost: bool) -> Expected:
    """Return what is told by one of two tokens, nobody knows which; after a gap perhaps nothing."""
    tellings = [one.told for one in (now, former) if one.told is not None]
    is_optional = may_be_lost or now.is_optional or former.is_optional or now.told != former.told
    told = tellings[0] if tellings else None
    others: list[WriteObserver] = []
    for one in (*tellings[1:], *now.others, *former.others):
        if one != told and one not in others:
            others.append(one)
    return Expected(now.change, told, "is told by either token", is_optional, tuple(others))


def expect(
    binding: Binding,
    viewer: Viewer,
    change: Change,
    state: State,
    seen: frozenset[bool | None],
    is_sure: bool,
) -> Expected:
    """Say what a subscriber is told of a change.

    Args:
        binding: it listens to such changes.
        viewer: in whose name.
        change: of the table.
        state: of the table.
        seen: what may come of the viewer's SELECT.
        is_sure: whether the viewer is told of each failure.
    """
    table, kind = change.table, change.kind
    key = () if table.is_keyless else table.key
    selectable = state.selectable[viewer.role]
    allowed = selectable & set(state.columns)
    if state.is_hidden:
        return Expected(change, None, "has a row filter that wal2json does not know")
    if not allowed:
        return Expected(change, None, "may SELECT nothing of it")
    like = min(
        (change.likeness[name] for name in allowed - change.unknown if name in change.likeness),
        default=SAME,
    )
    if kind != "DELETE":
        if not key or (state.has_rls and not set(key) <= set(state.columns)):
            return Expected(change, _failed(change, BAD_REQUEST), "no published primary key")
        if not selectable.issuperset(key):
            return Expected(change, _failed(change, UNAUTHORIZED), "may not SELECT the key")
        if state.has_rls and seen == {None}:
            is_optional = not is_sure or like < SAME
            return Expected(change, _failed(change, FAILED), "SELECT raises", is_optional)
        if state.has_rls and None in seen:
            told = None
            if True in seen and binding.columns <= allowed and _passes(binding, change):
                told = _told(binding, change, state, allowed)
            why = "SELECT raises with some plans"
            return Expected(change, told, why, True, (_failed(change, FAILED),))
    if not binding.columns <= allowed:
        return Expected(change, None, "may not SELECT what the filter looks at")
    if not _passes(binding, change):
        return Expected(change, None, "does not pass the filter")
    told = _told(binding, change, state, allowed)
    if kind == "DELETE" and state.is_asked_as_it_was:
        if None in seen:
            is_told = True in seen or seen == {None}
            return Expected(change, told if is_told else None, "SELECT of the old row raises", True)
        if seen == UNSEEN:
            return Expected(change, None, "SELECT does not return the old row")
        return Expected(change, told, "is delivered to who could see the old row")
    if state.has_rls and kind != "DELETE":
        if seen == UNSEEN:
            return Expected(change, None, "SELECT does not return the row")
        if like < EQUAL:
            return Expected(change, None, "the row is another by now")
        if like < SAME:
            return Expected(change, told, "the row is equal, and written otherwise", True)
    return Expected(change, told, "is delivered")


def _passes(binding: Binding, change: Change) -> bool:
    return binding.filter is None or binding.filter in change.passing


def _told(
    binding: Binding, change: Change, state: State, allowed: Collection[str]
) -> WriteObserver:
    table, kind = change.table, change.kind
    key = () if table.is_keyless else table.key
    shown = [
        name
        for name in state.columns
        if name in allowed and (binding.select is None or name in binding.select or name in key)
    ]
    record: Any = None
    old: Any = None
    if kind != "DELETE":
        record = {name: change.new[name] for name in shown if name not in change.unknown}
    if kind != "INSERT":
        identity = shown if table.identity is None else [n for n in shown if n in table.identity]
        hides_old = state.has_rls and not (kind == "DELETE" and state.is_asked_as_it_was)
        old = {name: change.old[name] for name in identity if not hides_old or name in key}
    return WriteObserver(table.name, kind, tuple(shown), record, old, None)


def _failed(change: Change, error: str) -> WriteObserver:
    record = None if change.kind == "DELETE" else {}
    old = None if change.kind == "INSERT" else {}
    return WriteObserver(change.table.name, change.kind, (), record, old, error)


def _shown(row: Any) -> str:
    if row is None:
        return "nothing"
    return ", ".join(
        f"{name}={value if len(str(value)) < 60 else f'{str(value)[:20]}…'!r}"
        for name, value in row.items()
    )
