"""Deleted rows: whether a role could see a row before the row was deleted.

The row cannot be looked up any more. If all of its values are known, under REPLICA IDENTITY FULL,
the table's policies are applied to the row as a value. The policies are those that PostgreSQL would
apply to the role's SELECT, combined as by ``get_row_security_policies`` in its
src/backend/rewrite/rowsecurity.c.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import attrs
import psycopg
from psycopg import AsyncConnection

from realtime_core import Delete

from ...config.database.tables import Table

__all__ = ["Condition", "is_known", "read_conditions", "text_of"]


@attrs.frozen
class Condition:
    """The condition under which a role sees a row of a table."""

    text: str | None
    """The condition in SQL, in which the table's name stands for the row; None if the role sees all
    rows."""
    search_path: str = ""
    """The search path with which PostgreSQL wrote the text, and with which the text has to be
    run."""


_FALSE: Final = "false"

# The policies are in PostgreSQL's order: after a permissive one that is true, one that would fail
# is not run. The query runs as the role, whose search path decides how names are written.
# row_security_active() takes owners, BYPASSRLS and FORCE ROW LEVEL SECURITY into account.
_POLICIES: Final = """
    SELECT pg_catalog.row_security_active(c.oid),
        pg_catalog.current_setting('search_path'),
        (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                p.polpermissive, pg_catalog.pg_get_expr(p.polqual, p.polrelid)
            ) ORDER BY p.polname DESC)
            FROM pg_catalog.pg_policy p
            WHERE p.polrelid OPERATOR(pg_catalog.=) c.oid AND p.polqual IS NOT NULL
                AND p.polcmd OPERATOR(pg_catalog.=) ANY ('{r,*}'::pg_catalog."char"[])
                AND EXISTS (
                    SELECT FROM pg_catalog.unnest(p.polroles) AS r (oid)
                    WHERE CASE WHEN r.oid OPERATOR(pg_catalog.=) 0::pg_catalog.oid THEN true
                        ELSE pg_catalog.pg_has_role(r.oid, 'USAGE') END
                )
        )
    FROM pg_catalog.pg_class c
    WHERE c.oid OPERATOR(pg_catalog.=) %s::pg_catalog.oid
"""


# Whether a user's code runs when a value is read: domains have checks, and ranges compare bounds.
_RUNS_CODE: Final = """
    WITH RECURSIVE types (oid) AS (
        SELECT * FROM pg_catalog.unnest(%s::pg_catalog.oid[])
        UNION
        SELECT part.oid
        FROM types JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) types.oid
        CROSS JOIN LATERAL (
            SELECT t.typelem
            UNION ALL
            SELECT a.atttypid FROM pg_catalog.pg_attribute a
            WHERE a.attrelid OPERATOR(pg_catalog.=) t.typrelid
                AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
        ) part (oid)
    )
    SELECT EXISTS (
        SELECT
        FROM types JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) types.oid
        WHERE t.oid OPERATOR(pg_catalog.>=) '16384'::pg_catalog.oid
            AND t.typtype OPERATOR(pg_catalog.=) ANY ('{d,r,m}'::pg_catalog."char"[])
    )
"""


async def read_conditions(
    connection: AsyncConnection[Any], table: Table, roles: Collection[str]
) -> Mapping[str, Condition] | None:
    """Return the condition under which each role sees a row of a table.

    Args:
        connection: a connection in autocommit mode, with the server's role.
        table: a table with row level security.
        roles: the roles.

    Returns:
        The conditions by role; a role without a condition sees no rows. None if a user's code may
        run when the row is read as a value: the code would run as the viewer's role, in a session
        in which it could become the server's role.

    Raises:
        psycopg.OperationalError: if the connection is lost.
    """
    cursor = await connection.execute(_RUNS_CODE, [[column.type_oid for column in table.columns]])
    [[runs_code]] = await cursor.fetchall()
    if runs_code:
        return None
    conditions: dict[str, Condition] = {}
    for role in roles:
        try:
            async with connection.transaction():
                await connection.execute("SELECT pg_catalog.set_config('role', %s, true)", [role])
                cursor = await connection.execute(_POLICIES, [table.oid])
                rows = await cursor.fetchall()
        except psycopg.Error:
            if connection.closed:
                raise
            # The role was dropped, or the server may no longer act as it.
            continue
        for is_active, search_path, policies in rows:
            text = _combined(policies or ()) if is_active else None
            conditions[role] = Condition(text, search_path)
    return conditions


def _combined(policies: Collection[tuple[bool, str]]) -> str:
    """Combine policies: one of the permissive and all of the restrictive ones must be true."""
    permissive = [f"({text})" for is_permissive, text in policies if is_permissive]
    restrictive = [f"({text})" for is_permissive, text in policies if not is_permissive]
    if not permissive:
        return _FALSE
    return " AND ".join([f"({' OR '.join(permissive)})", *restrictive])


def is_known(change: Delete, table: Table) -> bool:
    """Return whether a deleted row has a value for every column that its table has now."""
    old = change.old_record
    types = {column.name: column.type_oid for column in table.columns}
    return types == {column.name: column.type_oid for column in old.shape.columns} and all(
        field is None or isinstance(field, str) for field in old.fields
    )


def text_of(change: Delete, table: Table) -> str:
    """Return a deleted row as the text of a value of the table's row type."""
    old = change.old_record
    fields = (old.raw(column.name) for column in table.columns)
    return f"({','.join('' if field is None else _quoted(str(field)) for field in fields)})"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
