"""The oracle: what each subscriber has to be told, by PostgreSQL's own word.

After a batch it asks PostgreSQL

- what was written: a trigger has kept each row before and after;
- which columns each role may SELECT;
- which rows each viewer sees, with a SELECT as the viewer's role and with its claims;
- which filters are true of a row.

What follows from these is docs/topics/rls.md, in ``Oracle._expect``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final

import attrs
import psycopg
from psycopg import sql

from tests.fuzz.rls.clients import Binding, Viewer, WriteObserver, read_json
from tests.fuzz.rls.filters import Filter, name_of, quoted
from tests.fuzz.rls.world import Table, World

__all__ = ["Change", "Expected", "Oracle"]

BAD_REQUEST: Final = "Error 400: Bad Request, no primary key"
UNAUTHORIZED: Final = "Error 401: Unauthorized"
SEEN: Final[frozenset[bool | None]] = frozenset([True])
UNSEEN: Final[frozenset[bool | None]] = frozenset([False])
FAILED: Final = "Error 500: Internal Server Error, row level security raised an error"
LONG: Final = 2500
"""Characters from which a value is stored apart, and not sent again where it has not changed."""


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
    otherwise: WriteObserver | None = None
    """What may be told instead."""


@attrs.define
class _State:
    """A table as it is after a batch."""

    table: Table
    columns: list[str]
    """Those that are published."""
    has_rls: bool
    selectable: dict[str, frozenset[str]]
    """By role, published or not."""


class Oracle:
    """Knows one world.

    Args:
        connection: a superuser's, with the settings of ``SETTINGS``.
        world: as it is.
        bindings: all subscribers.
    """

    def __init__(
        self, connection: psycopg.Connection, world: World, bindings: Sequence[Binding]
    ) -> None:
        self._connection = connection
        self._world = world
        self._bindings = bindings
        self._seen = 0

    def keys(self) -> dict[str, list[str]]:
        """Return conditions that find each row, by table."""
        found = {}
        for table in self._world.tables:
            row = " || ' AND ' || ".join(_condition("t", one) for one in table.key)
            found[table.name] = [
                text for (text,) in self._rows(f"SELECT {row} FROM {table.sql} t ORDER BY 1")
            ]
        return found

    def forget(self) -> None:
        """Leave out what has been written so far."""
        self._seen = self._rows("SELECT nextval('h.n')")[0][0]

    def selectable(self, table: Table, roles: Collection[str]) -> dict[str, frozenset[str]]:
        """Return the columns that each role may SELECT."""
        rows = self._rows(
            "SELECT r.role, array_agg(a.attname::text) FROM pg_attribute a "
            f"CROSS JOIN unnest(ARRAY[{', '.join(map(quoted, roles))}]) AS r (role) "
            f"WHERE a.attrelid = {quoted(table.sql)}::regclass AND a.attnum > 0 "
            "AND NOT a.attisdropped "
            "AND has_column_privilege(r.role, a.attrelid, a.attnum, 'SELECT') GROUP BY r.role"
        )
        return dict.fromkeys(roles, frozenset()) | {role: frozenset(each) for role, each in rows}

    def judge(self) -> Iterator[tuple[Binding, list[Expected]]]:
        """Yield what each subscriber is to be told of what was written since the last time."""
        changes: list[Change] = []
        states: dict[str, _State] = {}
        for table in self._world.tables:
            states[table.name] = self._state(table)
            changes += self._changes(table)
        self.forget()
        changes.sort(key=lambda change: change.number)
        written = {change.table.name for change in changes}
        viewers = dict.fromkeys(binding.viewer for binding in self._bindings)
        sight = {
            viewer: {
                name: self._sight(viewer, states[name], changes)
                for name in sorted(written)
                if states[name].has_rls
            }
            for viewer in viewers
        }
        # Who listens whatever the filters say is told of failures, on all channels.
        sure = {
            (binding.viewer, change.table.name, change.kind)
            for change in changes
            for binding in self._bindings
            if binding.filter is None and binding.listens_to(change.table.name, change.kind)
        }
        for binding in self._bindings:
            viewer = binding.viewer
            told = []
            for change in changes:
                name = change.table.name
                if binding.listens_to(name, change.kind):
                    seen = sight[viewer].get(name, {}).get(change.key, UNSEEN)
                    is_sure = (viewer, name, change.kind) in sure
                    told.append(_expect(binding, change, states[name], seen, is_sure))
            yield binding, told

    def _state(self, table: Table) -> _State:
        columns = self._rows(
            f"SELECT attname::text FROM pg_attribute WHERE attrelid = {quoted(table.sql)}::regclass"
            " AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )
        [(has_rls,)] = self._rows(
            f"SELECT relrowsecurity FROM pg_class WHERE oid = {quoted(table.sql)}::regclass"
        )
        roles = dict.fromkeys(binding.viewer.role for binding in self._bindings)
        published = set(table.published or (name for (name,) in columns)) - {*table.unpublished}
        return _State(
            table,
            [name for (name,) in columns if name in published],
            has_rls,
            self.selectable(table, roles),
        )

    def _changes(self, table: Table) -> list[Change]:
        found = []
        rows = self._rows(
            f"SELECT n, op, to_jsonb(old)::text, to_jsonb(new)::text, {table.key_sql('(new)')}, "
            f"ARRAY[{', '.join(_condition('(new)', one) for one in table.key)}]"
            f" FROM {table.log} WHERE n > {self._seen} ORDER BY n"
        )
        for number, kind, old, new, key, conditions in rows:
            change = Change(
                table, number, kind, read_json(old or "null"), read_json(new or "null"), key,
                tuple(conditions),
            )  # fmt: skip
            if table.identity is not None and kind == "UPDATE":
                big = change.new.get("big")
                if big is not None and len(big) > LONG and big == change.old["big"]:
                    change = attrs.evolve(change, unknown=frozenset(["big"]))
            found.append(change)
        self._filter(table, found)
        return found

    def _filter(self, table: Table, changes: Sequence[Change]) -> None:
        """Have PostgreSQL say which filters are true of which changes."""
        filters = list(
            dict.fromkeys(
                binding.filter
                for binding in self._bindings
                if binding.filter is not None and binding.table == table.name
            )
        )
        if not filters:
            return
        [(has_rls,)] = self._rows(
            f"SELECT relrowsecurity FROM pg_class WHERE oid = {quoted(table.sql)}::regclass"
        )
        groups: dict[frozenset[str], list[Change]] = {}
        names = frozenset(column.name for column in table.columns)
        for change in changes:
            unknown = change.unknown
            if change.kind == "DELETE":
                known = names if table.identity is None else frozenset(table.identity)
                if has_rls:
                    known &= frozenset(() if table.is_keyless else table.key)
                unknown = names - known
            groups.setdefault(unknown, []).append(change)
        for unknown, group in groups.items():
            row = "CASE op WHEN 'DELETE' THEN old ELSE new END"
            listed = ", ".join(str(change.number) for change in group)
            tests = ", ".join(f"({one.to_sql(unknown)}) IS TRUE" for one in filters)
            results = self._rows(
                f'SELECT ARRAY[{tests}] FROM (SELECT n AS "log\'s n", ({row}).* '
                f'FROM {table.log} WHERE n IN ({listed})) t ORDER BY "log\'s n"'
            )
            for change, (answers,) in zip(group, results, strict=True):
                change.passing.update(f for f, yes in zip(filters, answers, strict=True) if yes)

    def _sight(
        self, viewer: Viewer, state: _State, changes: Sequence[Change]
    ) -> dict[str, frozenset[bool | None]]:
        """Return what may come of a SELECT of each row that a viewer looks for.

        True if it returns the row, None if it raises. Where a policy casts claims that cannot be
        cast, that may differ from plan to plan: PostgreSQL casts them when it makes a plan, too,
        and orders conditions by what they cost.
        """
        table = state.table
        if table.is_keyless or not state.selectable[viewer.role].issuperset(table.key):
            return {}
        select = f"SELECT {table.key_sql('t')} FROM {table.sql} t"
        try:
            return {key: SEEN for (key,) in self._as(viewer, select)}
        except psycopg.Error:
            pass
        # Somewhere it raises. Each row by itself, as it is looked up.
        seen: dict[str, frozenset[bool | None]] = {}
        by_plan = any(")::integer" in policy[-1] for policy in self.policies(table) if policy[-1])
        for change in changes:
            if change.table is table and change.kind != "DELETE":
                query = f"{select} WHERE {' AND '.join(change.conditions)}"
                outcomes = {self._outcome(viewer, query)}
                if by_plan:
                    outcomes |= {None, self._outcome(viewer, query, is_planned_for_another=True)}
                seen[change.key] = frozenset(outcomes)
        return seen

    def _outcome(
        self, viewer: Viewer, query: str, *, is_planned_for_another: bool = False
    ) -> bool | None:
        try:
            if not is_planned_for_another:
                return bool(self._as(viewer, query))
            claims = f"SELECT set_config('request.jwt.claims', {quoted(viewer.claims)}, true)"
            other = Viewer(viewer.role, '{"team": "1", "level": 1, "exact": 4}')
            try:
                prepared = f"PREPARE q AS {query}; EXECUTE q; {claims}; EXECUTE q"
                return bool(self._as(other, prepared, skipped=3))
            finally:
                self._connection.execute("DEALLOCATE ALL")
        except psycopg.Error:
            return None

    def _as(self, viewer: Viewer, query: str, *, skipped: int = 0) -> list[tuple[Any, ...]]:
        """Run a query as a viewer; return its rows, behind those of some statements."""
        try:
            cursor = self._connection.execute(
                f"BEGIN; SELECT set_config('request.jwt.claims', {quoted(viewer.claims)}, true); "
                f"SET LOCAL ROLE {name_of(viewer.role)}; {query}; ROLLBACK".encode()
            )
        except psycopg.Error:
            self._connection.execute("ROLLBACK")
            raise
        for _ in range(3 + skipped):
            cursor.nextset()
        return cursor.fetchall()

    def policies(self, table: Table) -> list[tuple[Any, ...]]:
        """Return what decides about a table, to be read."""
        return self._rows(
            "SELECT policyname, permissive, roles::text, cmd, qual FROM pg_policies "
            f"WHERE schemaname = {quoted(table.schema)} AND tablename = {quoted(table.name)}"
        )

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql.SQL(query)).fetchall()


def _expect(
    binding: Binding,
    change: Change,
    state: _State,
    seen: frozenset[bool | None],
    is_sure: bool,
) -> Expected:
    """Say what a subscriber is told of a change.

    Args:
        binding: it listens to such changes.
        change: of the table.
        state: of the table.
        seen: what may come of the viewer's SELECT.
        is_sure: whether the viewer is told of each failure.
    """
    table, kind = change.table, change.kind
    key = () if table.is_keyless else table.key
    selectable = state.selectable[binding.viewer.role]
    allowed = selectable & set(state.columns)
    if not allowed:
        return Expected(change, None, "may SELECT nothing of it")
    if kind != "DELETE":
        if not key or (state.has_rls and not set(key) <= set(state.columns)):
            return Expected(change, _failed(change, BAD_REQUEST), "no published primary key")
        if not selectable.issuperset(key):
            return Expected(change, _failed(change, UNAUTHORIZED), "may not SELECT the key")
        if state.has_rls and seen == {None}:
            return Expected(change, _failed(change, FAILED), "SELECT raises", not is_sure)
        if state.has_rls and None in seen:
            told = None
            if True in seen and binding.columns <= allowed and _passes(binding, change):
                told = _told(binding, change, state, allowed)
            why = "SELECT raises with some plans"
            return Expected(change, told, why, True, _failed(change, FAILED))
    if not binding.columns <= allowed:
        return Expected(change, None, "may not SELECT what the filter looks at")
    if not _passes(binding, change):
        return Expected(change, None, "does not pass the filter")
    if state.has_rls and kind != "DELETE" and seen == UNSEEN:
        return Expected(change, None, "SELECT does not return the row")
    return Expected(change, _told(binding, change, state, allowed), "is delivered")


def _passes(binding: Binding, change: Change) -> bool:
    return binding.filter is None or binding.filter in change.passing


def _told(
    binding: Binding, change: Change, state: _State, allowed: Collection[str]
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
        old = {name: change.old[name] for name in identity if not state.has_rls or name in key}
    return WriteObserver(table.name, kind, tuple(shown), record, old, None)


def _failed(change: Change, error: str) -> WriteObserver:
    record = None if change.kind == "DELETE" else {}
    old = None if change.kind == "INSERT" else {}
    return WriteObserver(change.table.name, change.kind, (), record, old, error)


def _condition(row: str, name: str) -> str:
    """Return SQL that makes a condition which finds a row by its key's column."""
    column = name_of(name)
    return f"format('%I = %L::%s', {quoted(name)}, {row}.{column}, pg_typeof({row}.{column}))"


def _shown(row: Any) -> str:
    if row is None:
        return "nothing"
    return ", ".join(
        f"{name}={value if len(str(value)) < 60 else f'{str(value)[:20]}…'!r}"
        for name, value in row.items()
    )
