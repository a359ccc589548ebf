"""The schemas of published columns' types, in which ``realtime_nobody`` needs USAGE.

Without USAGE on an extension's schema, as often ``extensions``, filters on ``citext`` are refused.
Code of types' owners runs as ``realtime_nobody``, so what it may use is not to grow unasked: the
privilege is granted here only where a role that reads the table has it already, as whom the code
of owners' policies runs anyway. Of other schemas an administrator is told.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import attrs
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

__all__ = ["HiddenSchema", "hidden_schemas", "open_schemas"]

# The schemas of the types of published columns, and of the types that these are made of. A reader
# is a role that may read a part of the table.
_HIDDEN: Final = """
    WITH RECURSIVE types (relation, oid) AS (
        SELECT c.oid, a.atttypid
        FROM pg_catalog.pg_publication_tables p
        JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
        JOIN pg_catalog.pg_class c ON c.relname = p.tablename AND c.relnamespace = n.oid
        JOIN pg_catalog.pg_attribute a
            ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        WHERE p.pubname = ANY (%s) AND p.schemaname <> 'realtime' AND a.atttypid >= 16384
        UNION
        SELECT t.relation, e.typelem FROM types t JOIN pg_catalog.pg_type e ON e.oid = t.oid
        WHERE e.typelem >= 16384
    )
    SELECT pg_catalog.quote_ident(n.nspname),
        pg_catalog.has_schema_privilege(n.oid, 'USAGE WITH GRANT OPTION')
        AND pg_catalog.bool_or(EXISTS (
            SELECT FROM pg_catalog.pg_roles r
            WHERE NOT r.rolsuper AND r.rolname !~ '^pg_' AND r.rolname <> current_user
                AND r.oid NOT IN (n.nspowner, c.relowner)
                AND pg_catalog.has_schema_privilege(r.oid, c.relnamespace, 'USAGE')
                AND pg_catalog.has_any_column_privilege(r.oid, c.oid, 'SELECT')
                AND pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')
        ))
    FROM types t
    JOIN pg_catalog.pg_class c ON c.oid = t.relation
    JOIN pg_catalog.pg_type y ON y.oid = t.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = y.typnamespace
    WHERE EXISTS (
        SELECT FROM pg_catalog.pg_roles b
        WHERE b.rolname = 'realtime_nobody'
            AND NOT pg_catalog.has_schema_privilege(b.oid, n.oid, 'USAGE')
    )
    GROUP BY n.oid, n.nspname ORDER BY 1
"""


@attrs.frozen
class HiddenSchema:
    """A schema in which ``realtime_nobody`` has no USAGE."""

    name: str
    """The schema's name, quoted."""
    can_open: bool
    """Whether the server's role may grant USAGE, and a role that reads the table has it."""

    @property
    def grant(self) -> str:
        """The statement that grants ``realtime_nobody`` USAGE in it."""
        return f"GRANT USAGE ON SCHEMA {self.name} TO realtime_nobody;"


async def hidden_schemas(
    connection: AsyncConnection[Any], publications: Collection[str]
) -> list[HiddenSchema]:
    """Return the schemas in which ``realtime_nobody`` needs USAGE and does not have it.

    Args:
        connection: a connection with the server's role.
        publications: the names of those whose tables' columns count.

    Raises:
        psycopg.Error: if the database cannot be asked.
    """
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_HIDDEN.encode(), [list(publications)])
        return [HiddenSchema(name, can_open) for name, can_open in await cursor.fetchall()]


async def open_schemas(
    connection: AsyncConnection[Any], publications: Collection[str], *, lock: int
) -> list[str]:
    """Grant ``realtime_nobody`` USAGE in the schemas in which that is safe.

    Args:
        connection: a connection in autocommit mode, with the server's role.
        publications: the names of those whose tables' columns count.
        lock: the key of the advisory lock for migrations, as several servers may start together.

    Returns:
        The schemas' names, quoted.

    Raises:
        psycopg.Error: if the database cannot be asked.
    """
    if not any(schema.can_open for schema in await hidden_schemas(connection, publications)):
        return []
    async with connection.transaction():
        await connection.execute("SELECT pg_catalog.pg_advisory_xact_lock(%s)", [lock])
        schemas = await hidden_schemas(connection, publications)
        opened = [schema for schema in schemas if schema.can_open]
        for schema in opened:
            await connection.execute(schema.grant.encode())
    return [schema.name for schema in opened]
