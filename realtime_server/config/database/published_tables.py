"""The published tables with their columns, for the inspector, which offers them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import psycopg

from realtime_core.errors import SourceError
from realtime_core.sources.failures import one_line

from .. import OutputPlugin
from .connections import connect
from .publications import published

__all__ = ["PublishedColumn", "PublishedTable", "published_tables"]


@attrs.frozen
class PublishedColumn:
    """A column of a published table."""

    name: str
    type_name: str
    """``pg_type.typname`` of the column's type: ``int8``, or ``_text`` for an array of text."""


@attrs.frozen
class PublishedTable:
    """A table whose changes are published."""

    schema: str
    name: str
    columns: tuple[PublishedColumn, ...]
    """The published columns, in the table's order."""


# The view pg_publication_tables is not used, since it waits for each table that is locked.
_TABLES: Final = """
    WITH listed AS (
        SELECT c.oid, n.nspname, c.relname, {published} -> 0 AS names
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND c.oid >= {first}
            AND n.nspname <> ALL ('{{pg_catalog,information_schema,pg_toast}}')
    )
    SELECT c.nspname, c.relname, pg_catalog.json_agg(
        pg_catalog.json_build_array(a.attname, t.typname) ORDER BY a.attnum
    )
    FROM listed c
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
    WHERE pg_catalog.to_jsonb(c.names) ? a.attname::pg_catalog.text
      AND (%(role)s::pg_catalog.text IS NULL OR pg_catalog.has_column_privilege(
        (SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = %(role)s), c.oid, a.attnum,
        'SELECT'
      ))
    GROUP BY 1, 2 ORDER BY 1, 2 LIMIT %(most)s
"""
_FIRST_OWN_OID: Final = 16384
"""FirstNormalObjectId, in PostgreSQL's src/include/access/transam.h."""


async def published_tables(
    dsn: str,
    publications: Sequence[str],
    *,
    plugin: OutputPlugin = OutputPlugin.PGOUTPUT,
    role: str | None = None,
    most: int = 1000,
) -> tuple[PublishedTable, ...]:
    """Return the tables that publications publish, by schema and name.

    Args:
        dsn: the connection string, with the server's role.
        publications: the names of the publications; one that does not exist publishes nothing.
        plugin: the output plugin that the changes come from.
        role: the role that must be allowed to ``SELECT`` a column for it to be returned, and one
            column of a table for the table to be returned; None for all columns and tables. A role
            that does not exist may select nothing.
        most: the most tables to return.

    Raises:
        SourceError: if the query fails; it says why.
    """
    parameters = {"publications": list(publications), "role": role, "most": most}
    try:
        async with await connect(dsn, name="inspector") as connection:
            wanted = published(connection.info.server_version, plugin)
            query = _TABLES.format(published=wanted, first=_FIRST_OWN_OID)
            cursor = await connection.execute(query.encode(), parameters)
            rows = await cursor.fetchall()
    except psycopg.Error as exc:
        raise SourceError(one_line(exc)) from exc
    return tuple(
        PublishedTable(schema, name, tuple(PublishedColumn(*column) for column in columns))
        for schema, name, columns in rows
    )
