"""The oracle: what each subscriber has to be told, by PostgreSQL's own word.

After a batch it asks PostgreSQL

- what was written: a trigger has kept each row before and after;
- which columns each role may SELECT;
- which rows each viewer sees, with a SELECT as the viewer's role and with its claims;
- which filters are true of a row;
- whether a row still is as it was written, and who could see one that was deleted.

What follows from these is in :mod:`tests.fuzz.rls.rules`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

import attrs
import psycopg
from psycopg import sql

from tests.fuzz.rls.clients import Binding, Channel, Viewer, read_json
from tests.fuzz.rls.filters import name_of, quoted
from tests.fuzz.rls.look import Look
from tests.fuzz.rls.rules import (
    SEEN,
    Change,
    Expected,
    State,
    either,
    may_be_anothers,
)
from tests.fuzz.rls.stage import Setting
from tests.fuzz.rls.versions import likeness, sight_of_deleted
from tests.fuzz.rls.world import Table, World

__all__ = ["Oracle"]

LONG: Final = 2500
"""Characters from which a value is stored apart, and not sent again where it has not changed."""


class Oracle:
    """Knows one world.

    Args:
        connection: a superuser's, with the settings of ``SESSION``.
        world: as it is.
        setting: of the server.
        channels: that were joined, and may be more or fewer later; their bindings are all
            subscribers.
    """

    def __init__(
        self,
        connection: psycopg.Connection,
        world: World,
        setting: Setting,
        channels: Collection[Channel],
    ) -> None:
        self._connection = connection
        self._world = world
        self._setting = setting
        self._channels = channels
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
        self._seen = self.now()

    def now(self) -> int:
        """Return a number that is above those of all changes so far."""
        number: int = self._rows("SELECT nextval('h.n')")[0][0]
        return number

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

    @property
    def seen(self) -> int:
        """A number that is above those of the changes that are left out."""
        return self._seen

    def judge(self) -> Iterator[tuple[Binding, list[Expected]]]:
        """Yield what each subscriber is to be told of what was written since the last time.

        Channels whose clients are or were away are left out.
        """
        subscribers = [
            (binding, channel)
            for channel in self._channels
            if channel.absence is None
            for binding in channel.bindings
        ]
        look = self.look(
            viewer
            for binding, channel in subscribers
            for viewer in (binding.viewer, channel.former and channel.former.viewer)
            if viewer is not None
        )
        self.forget()
        # Who listens whatever the filters say is told of failures, on all channels.
        sure = {
            (binding.viewer, change.number)
            for change in look.changes
            for binding, channel in subscribers
            if binding.filter is None
            and binding.listens_to(change.table.name, change.kind)
            and not may_be_anothers(channel, change)
        }
        for binding, channel in subscribers:
            told = []
            for change in look.changes:
                if not binding.listens_to(change.table.name, change.kind):
                    continue
                is_sure = (binding.viewer, change.number) in sure
                expected = look.expect(binding, binding.viewer, change, is_sure=is_sure)
                if channel.former is not None and may_be_anothers(channel, change):
                    viewer = channel.former.viewer
                    is_sure = (viewer, change.number) in sure
                    former = look.expect(binding, viewer, change, is_sure=is_sure)
                    expected = either(expected, former, may_be_lost=channel.has_gap)
                told.append(expected)
            yield binding, told

    def look(self, viewers: Iterable[Viewer], since: int | None = None) -> Look:
        """Ask PostgreSQL what there is to know of changes, as the database is now.

        Args:
            viewers: those that may be told of them.
            since: leaves out changes up to this number; None: up to :attr:`seen`.
        """
        viewers = list(dict.fromkeys(viewers))
        roles = list(dict.fromkeys(viewer.role for viewer in viewers))
        changes: list[Change] = []
        states: dict[str, State] = {}
        for table in self._world.tables:
            states[table.name] = self._state(table, roles)
            changes += self._changes(
                table, states[table.name], self._seen if since is None else since
            )
        changes.sort(key=lambda change: change.number)
        written = {change.table.name for change in changes}
        sight = {
            viewer: {
                name: self._sight(viewer, states[name], changes)
                for name in sorted(written)
                if states[name].has_rls
            }
            for viewer in viewers
        }
        deleted = self._sight_of_deleted(changes, states, viewers)
        return Look(changes, states, sight, deleted, self._setting.is_strict)

    def _state(self, table: Table, roles: Collection[str]) -> State:
        rows = self._rows(
            f"SELECT attname::text FROM pg_attribute WHERE attrelid = {quoted(table.sql)}::regclass"
            " AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
        )
        [(has_rls,)] = self._rows(
            f"SELECT relrowsecurity FROM pg_class WHERE oid = {quoted(table.sql)}::regclass"
        )
        columns = [name for (name,) in rows]
        published = set(table.published or columns) - {*table.unpublished}
        return State(
            table,
            [name for name in columns if name in published],
            has_rls,
            self.selectable(table, roles),
            is_asked_as_it_was=self._setting.asks_for_deleted
            and has_rls
            and table.identity is None
            and published.issuperset(columns)
            # Its check would run in a viewer's name.
            and not any(column.kind == "positive" for column in table.columns),
            is_hidden=self._setting.plugin == "wal2json" and table.row_filter is not None,
        )

    def _sight_of_deleted(
        self, changes: Sequence[Change], states: dict[str, State], viewers: Sequence[Viewer]
    ) -> dict[tuple[Viewer, int], frozenset[bool | None]]:
        """Return what may come of a SELECT of rows that were deleted, where that decides."""
        found: dict[tuple[Viewer, int], frozenset[bool | None]] = {}
        for state in states.values():
            table = state.table
            numbers = [
                change.number
                for change in changes
                if change.table is table and change.kind == "DELETE"
            ]
            if not numbers or not state.is_asked_as_it_was:
                continue
            asking = [one for one in viewers if state.selectable[one.role] & {*state.columns}]
            sight = sight_of_deleted(self._connection, table, numbers, asking)
            by_plan = self._is_by_plan(table)
            for (viewer, number), outcome in sight.items():
                # To cast what cannot be cast may fail, or not be needed, by another plan.
                may_fail = by_plan and not self._can_cast(viewer)
                found[viewer, number] = frozenset({outcome, None} if may_fail else {outcome})
        return found

    def _can_cast(self, viewer: Viewer) -> bool:
        query = f"SELECT ({quoted(viewer.claims)}::jsonb ->> 'team')::int4"
        try:
            self._connection.execute(query.encode())
        except psycopg.Error:
            return False
        return True

    def _is_by_plan(self, table: Table) -> bool:
        return any(")::integer" in policy[-1] for policy in self.policies(table) if policy[-1])

    def _changes(self, table: Table, state: State, since: int) -> list[Change]:
        found = []
        rows = self._rows(
            f"SELECT n, op, to_jsonb(old)::text, to_jsonb(new)::text, {table.key_sql('(new)')}, "
            f"ARRAY[{', '.join(_condition('(new)', one) for one in table.key)}]"
            f" FROM {table.log} WHERE n > {since} ORDER BY n"
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
        if table.row_filter is not None and not state.is_hidden:
            found = list(self._published(table, found))
        if self._setting.compares and state.has_rls:
            rows_left = [one for one in found if one.kind != "DELETE"]
            like = likeness(self._connection, table, [one.number for one in rows_left])
            found = [attrs.evolve(one, likeness=like.get(one.number, {})) for one in found]
        self._filter(table, found, state)
        return found

    def _published(self, table: Table, changes: Sequence[Change]) -> Iterator[Change]:
        """Yield changes as they are published: an UPDATE may come into the row filter, or leave."""
        assert table.row_filter is not None
        listed = ", ".join(str(change.number) for change in changes) or "0"
        tests = [
            f"(SELECT ({table.row_filter}) IS TRUE FROM (SELECT ({side}).*) t)"
            for side in ("old", "new")
        ]
        answers = self._rows(f"SELECT n, {', '.join(tests)} FROM {table.log} WHERE n IN ({listed})")
        passes = {number: (old, new) for number, old, new in answers}
        for change in changes:
            old, new = passes[change.number]
            match change.kind:
                case "INSERT" if new:
                    yield change
                case "DELETE" if old:
                    yield change
                case "UPDATE" if old and new:
                    yield change
                case "UPDATE" if new:
                    yield attrs.evolve(change, kind="INSERT")
                case "UPDATE" if old:
                    yield attrs.evolve(change, kind="DELETE")

    def _filter(self, table: Table, changes: Sequence[Change], state: State) -> None:
        """Have PostgreSQL say which filters are true of which changes."""
        filters = list(
            dict.fromkeys(
                binding.filter
                for channel in self._channels
                for binding in channel.bindings
                if binding.filter is not None and binding.table == table.name
            )
        )
        if not filters:
            return
        groups: dict[frozenset[str], list[Change]] = {}
        names = frozenset(column.name for column in table.columns)
        for change in changes:
            unknown = change.unknown
            if change.kind == "DELETE":
                known = names if table.identity is None else frozenset(table.identity)
                if state.has_rls and not state.is_asked_as_it_was:
                    known &= frozenset(() if table.is_keyless else table.key)
                unknown = names - known
            groups.setdefault(unknown, []).append(change)
        for unknown, group in groups.items():
            deleted = [str(change.number) for change in group if change.kind == "DELETE"]
            row = f"CASE WHEN n IN ({', '.join(deleted or ['0'])}) THEN old ELSE new END"
            listed = ", ".join(str(change.number) for change in group)
            tests = ", ".join(f"({one.to_sql(unknown)}) IS TRUE" for one in filters)
            results = self._rows(
                f'SELECT ARRAY[{tests}] FROM (SELECT n AS "log\'s n", ({row}).* '
                f'FROM {table.log} WHERE n IN ({listed})) t ORDER BY "log\'s n"'
            )
            for change, (answers,) in zip(group, results, strict=True):
                change.passing.update(f for f, yes in zip(filters, answers, strict=True) if yes)

    def _sight(
        self, viewer: Viewer, state: State, changes: Sequence[Change]
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
        by_plan = self._is_by_plan(table)
        for change in changes:
            if change.table is table and change.kind != "DELETE":
                query = f"{select} WHERE {' AND '.join(change.conditions)}"
                outcomes = {self._outcome(viewer, query)}
                if len(table.key) > 1:
                    # By a plan that joins keys and table without the index, others raise, too.
                    outcomes.add(None)
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
                # Nothing that the other's policies leave behind is there for this one.
                first = "SAVEPOINT first; EXECUTE q; ROLLBACK TO first"
                prepared = f"PREPARE q AS {query}; {first}; {claims}; EXECUTE q"
                return bool(self._as(other, prepared, skipped=5))
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


def _condition(row: str, name: str) -> str:
    """Return SQL that makes a condition which finds a row by its key's column."""
    column = name_of(name)
    return f"format('%I = %L::%s', {quoted(name)}, {row}.{column}, pg_typeof({row}.{column}))"
