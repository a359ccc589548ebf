"""Versions: what PostgreSQL says of rows that are gone, or are not any more as a change says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import psycopg

from tests.fuzz.rls.clients import Viewer
from tests.fuzz.rls.filters import name_of, quoted
from tests.fuzz.rls.world import Table

__all__ = ["EQUAL", "SAME", "Likeness", "likeness", "sight_of_deleted"]

SAME: Final = 2
"""The row has the very text that the change has."""
EQUAL: Final = 1
"""It has another text, which PostgreSQL takes for equal."""

Likeness = Mapping[str, int]
"""By column: how like it is to the change's."""


def likeness(
    connection: psycopg.Connection, table: Table, numbers: Sequence[int]
) -> dict[int, Likeness]:
    """Say of changes, by their numbers, how like the rows with their keys are to their new rows.

    Where there is no such row it is like in nothing.
    """
    if not numbers:
        return {}
    names = [column.name for column in table.columns]
    compared = ", ".join(
        f"CASE WHEN (l.new).{c}::text IS NOT DISTINCT FROM t.{c}::text THEN {SAME} "
        f"WHEN (l.new).{c} IS NOT DISTINCT FROM t.{c} THEN {EQUAL} ELSE 0 END"
        for c in map(name_of, names)
    )
    same_key = " AND ".join(f"(l.new).{c} = t.{c}" for c in map(name_of, table.key))
    rows = connection.execute(
        f"SELECT l.n, ARRAY[{compared}] FROM {table.log} l JOIN {table.sql} t ON {same_key} "
        f"WHERE l.n IN ({', '.join(map(str, numbers))})".encode()
    ).fetchall()
    found: dict[int, Likeness] = {number: dict.fromkeys(names, 0) for number in numbers}
    found.update((number, dict(zip(names, each, strict=True))) for number, each in rows)
    return found


def sight_of_deleted(
    connection: psycopg.Connection, table: Table, numbers: Sequence[int], viewers: Sequence[Viewer]
) -> dict[tuple[Viewer, int], bool | None]:
    """Say who could see the old rows of changes, by viewer and number; None where a SELECT raises.

    Each row is put back, as the only one of its table, and looked at with a SELECT; then all of it
    is rolled back. What the policies look up elsewhere is as it is.
    """
    found: dict[tuple[Viewer, int], bool | None] = {}
    names = ", ".join(column.sql for column in table.columns if column.name not in table.generated)

    def run(*statements: str) -> psycopg.Cursor:
        return connection.execute("; ".join(statements).encode())

    run("BEGIN", "SET LOCAL session_replication_role = replica", f"DELETE FROM {table.sql}")
    try:
        for number in numbers:
            run(
                "SAVEPOINT empty",
                f"INSERT INTO {table.sql} ({names}) SELECT {names} "
                f"FROM (SELECT (old).* FROM {table.log} WHERE n = {number}) l",
                "SET LOCAL session_replication_role = origin",
                "SAVEPOINT filled",
            )
            for viewer in viewers:
                try:
                    cursor = run(
                        f"SELECT set_config('request.jwt.claims', {quoted(viewer.claims)}, true)",
                        f"SET LOCAL ROLE {name_of(viewer.role)}",
                        f"SELECT count(*) FROM {table.sql}",
                    )
                except psycopg.Error:
                    found[viewer, number] = None
                else:
                    cursor.nextset()
                    cursor.nextset()
                    [[count]] = cursor.fetchall()
                    found[viewer, number] = bool(count)
                run("ROLLBACK TO filled")
            run("ROLLBACK TO empty")
    finally:
        run("ROLLBACK")
    return found
