"""The tables that are published, with their columns: what there is to listen to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import psycopg

from realtime_core.errors import SourceError

from .connections import connect

__all__ = ["PublishedColumn", "PublishedTable", "published_tables"]


@attrs.frozen
class PublishedColumn:
    """A column of a published table."""

    name: str
    type_name: str
    """``pg_type.typname``: ``int8``, ``_text`` for an array of text; of a domain, the domain's."""


@attrs.frozen
class PublishedTable:
    """A table whose changes are published."""

    schema: str
    name: str
    columns: tuple[PublishedColumn, ...]
    """Those that are published, in the table's order."""


# Before PostgreSQL 15 the view has no attnames, and there are no column lists.
_TABLES: Final = """
    WITH published AS (
        SELECT c.oid AS relid, pg_catalog.to_jsonb(p) -> 'attnames' AS names
        FROM pg_catalog.pg_publication_tables p
        JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
        JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.tablename
        WHERE p.pubname = ANY (%(publications)s)
    )
    SELECT n.nspname, c.relname, pg_catalog.json_agg(
        pg_catalog.json_build_array(a.attname, t.typname) ORDER BY a.attnum
    )
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE EXISTS (
        SELECT FROM published p
        WHERE p.relid = c.oid AND coalesce(p.names ? a.attname::pg_catalog.text, true)
      )
      AND (%(role)s::pg_catalog.text IS NULL OR pg_catalog.has_column_privilege(
        (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = %(role)s), c.oid, a.attnum,
        'SELECT'
      ))
    GROUP BY 1, 2 ORDER BY 1, 2 LIMIT %(most)s
"""


async def published_tables(
    dsn: str, publications: Sequence[str], *, role: str | None = None, most: int = 1000
) -> tuple[PublishedTable, ...]:
    """Return the tables that publications publish, by schema and name.

    Args:
        dsn: of the database, as the server's role.
        publications: their names; one that does not exist publishes nothing.
        role: leave out columns that this role may not ``SELECT``, and tables of which none is
            left; None: leave out nothing. A role that does not exist may select nothing.
        most: tables to return.

    Raises:
        SourceError: if the database cannot be asked, saying why.
    """
    parameters = {"publications": list(publications), "role": role, "most": most}
    try:
        async with (
            await connect(dsn, name="inspector") as connection,
            await connection.execute(_TABLES, parameters) as cursor,
        ):
            rows = await cursor.fetchall()
    except psycopg.Error as exc:
        raise SourceError(" ".join(str(exc).split())) from exc
    return tuple(
        PublishedTable(schema, name, tuple(PublishedColumn(*column) for column in columns))
        for schema, name, columns in rows
    )
