"""The published part of a table, as an SQL expression about a row ``c`` of ``pg_class``.

The view ``pg_publication_tables`` is not used, since it reads all tables for each answer.

pgoutput applies publications itself. Its changes have the name of the partition or, with
``publish_via_partition_root``, of the topmost published table above it. wal2json does not know
publications: its changes have the partition's name, and their reader has to leave out the changes
that are not published. See "Logical Replication" in the PostgreSQL documentation, and
``get_rel_sync_entry`` in its src/backend/replication/pgoutput/pgoutput.c.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import attrs
from psycopg import AsyncConnection

from realtime_core.errors import PublicationNotFoundError, SourceError
from realtime_core.sources.catalog import missing_publications

from .. import OutputPlugin

__all__ = ["Published", "check_for_wal2json", "published"]

_HAS_SCHEMAS_AND_LISTS: Final = 150000


@attrs.frozen
class Published:
    """The part of a table that is published."""

    columns: frozenset[str]
    """The names of the published columns."""
    actions: frozenset[str] | None
    """Which of ``INSERT``, ``UPDATE`` and ``DELETE`` are published; None if the stream has no other
    changes than published ones."""
    has_row_filter: bool
    """Whether a publication has a row filter that the stream does not apply."""

    @classmethod
    def read(cls, value: Any) -> Published | None:
        """Read a value of the expression; return None if the table is not published."""
        if value is None:
            return None
        columns, actions, has_row_filter = value
        kinds = None if actions is None else frozenset(actions)
        return cls(frozenset(columns), kinds, has_row_filter)


def published(version: int, plugin: OutputPlugin) -> str:
    """Return an SQL expression for what is published of the table ``c``.

    :meth:`Published.read` reads its values.

    The names of the publications are the query's parameter ``publications``.

    Args:
        version: PostgreSQL's ``server_version_num``.
        plugin: the output plugin that the changes come from.
    """
    if plugin is OutputPlugin.PGOUTPUT:
        return _pgoutput(version)
    return _wal2json(version)


_ABOVE: Final = """
    SELECT FROM pg_catalog.pg_partition_ancestors(c.oid) x
    JOIN pg_catalog.pg_class above ON above.oid = x.relid
    WHERE above.oid <> c.oid AND {member}
"""


def _member(publication: str, table: str, version: int) -> str:
    """Return a condition: whether a publication has a table, or its schema."""
    named = f"""EXISTS (
        SELECT FROM pg_catalog.pg_publication_rel m
        WHERE m.prpubid = {publication}.oid AND m.prrelid = {table}.oid
    )"""
    return f"({named} OR {_in_schema(publication, table, version)})"


def _in_schema(publication: str, table: str, version: int) -> str:
    if version < _HAS_SCHEMAS_AND_LISTS:
        return "false"
    return f"""EXISTS (
        SELECT FROM pg_catalog.pg_publication_namespace m
        WHERE m.pnpubid = {publication}.oid AND m.pnnspid = {table}.relnamespace
    )"""


def _pgoutput(version: int) -> str:
    # From PostgreSQL 18 on publications may have stored generated columns.
    listed = """(
        a.attgenerated = ''
        OR a.attgenerated = 's' AND pg_catalog.to_jsonb(p) ->> 'pubgencols' = 's'
    )"""
    if version >= _HAS_SCHEMAS_AND_LISTS:
        listed = f"CASE WHEN r.prattrs IS NULL THEN {listed} ELSE a.attnum = ANY (r.prattrs) END"
    below = _ABOVE.format(member=_member("p", "above", version))
    by_name_above = _ABOVE.format(member=_member("v", "above", version))
    return f"""(
        SELECT pg_catalog.json_build_array(pg_catalog.array_agg(DISTINCT a.attname), NULL, false)
        FROM pg_catalog.pg_publication p
        LEFT JOIN pg_catalog.pg_publication_rel r ON r.prpubid = p.oid AND r.prrelid = c.oid
        JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
            AND NOT a.attisdropped AND {listed}
        WHERE p.pubname = ANY (%(publications)s) AND c.relpersistence = 'p'
            AND (c.relkind = 'r' OR c.relkind = 'p' AND p.pubviaroot)
            AND (
                p.puballtables OR r.oid IS NOT NULL OR {_in_schema("p", "c", version)}
                OR c.relkind = 'r' AND c.relispartition AND EXISTS ({below})
            )
            -- Or its changes have the name of a table above it.
            AND NOT (c.relispartition AND EXISTS (
                SELECT FROM pg_catalog.pg_publication v
                WHERE v.pubname = ANY (%(publications)s) AND v.pubviaroot
                    AND (v.puballtables OR EXISTS ({by_name_above}))
            ))
        HAVING pg_catalog.count(*) > 0
    )"""


def _wal2json(version: int) -> str:
    facts = "NULL::int2vector AS attnums, false AS is_filtered"
    if version >= _HAS_SCHEMAS_AND_LISTS:
        facts = "r.prattrs AS attnums, r.prqual IS NOT NULL AS is_filtered"
    above = _ABOVE.format(member=_in_schema("p", "above", version))
    # What a publication says of a partitioned table applies to its partitions.
    return f"""(
        SELECT pg_catalog.json_build_array(
            pg_catalog.array_agg(DISTINCT a.attname),
            pg_catalog.array_remove(ARRAY[
                CASE WHEN pg_catalog.bool_or(p.pubinsert) THEN 'INSERT' END,
                CASE WHEN pg_catalog.bool_or(p.pubupdate) THEN 'UPDATE' END,
                CASE WHEN pg_catalog.bool_or(p.pubdelete) THEN 'DELETE' END
            ], NULL),
            pg_catalog.bool_or(m.is_filtered)
        )
        FROM pg_catalog.pg_publication p
        CROSS JOIN LATERAL (
            SELECT r.prrelid AS relid, {facts}
            FROM pg_catalog.pg_publication_rel r
            WHERE r.prpubid = p.oid AND (r.prrelid = c.oid OR r.prrelid IN (
                SELECT x.relid FROM pg_catalog.pg_partition_ancestors(c.oid) x
            ))
            UNION ALL
            SELECT c.oid, NULL, false
            WHERE p.puballtables OR {_in_schema("p", "c", version)}
                OR c.relispartition AND EXISTS ({above})
        ) m
        JOIN pg_catalog.pg_attribute a ON a.attrelid = m.relid AND a.attnum > 0
            AND NOT a.attisdropped AND (m.attnums IS NULL OR a.attnum = ANY (m.attnums))
        WHERE p.pubname = ANY (%(publications)s) AND c.relpersistence = 'p' AND c.relkind = 'r'
        HAVING pg_catalog.count(*) > 0
    )"""


_FILTERED: Final = """
    SELECT pg_catalog.string_agg(DISTINCT r.prrelid::pg_catalog.regclass::text, ', ')
    FROM pg_catalog.pg_publication_rel r
    JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid
    WHERE p.pubname = ANY (%s) AND r.prqual IS NOT NULL
"""


async def check_for_wal2json(connection: AsyncConnection[Any], names: Sequence[str]) -> None:
    """Check whether publications can be applied to wal2json's changes.

    Raises:
        PublicationNotFoundError: if a publication does not exist.
        SourceError: if a publication has row filters.
    """
    missing = await missing_publications(connection, names)
    if missing:
        raise PublicationNotFoundError(missing, connection.info.dbname)
    if connection.info.server_version < _HAS_SCHEMAS_AND_LISTS:
        return
    cursor = await connection.execute(_FILTERED, [list(names)])
    [[tables]] = await cursor.fetchall()
    if tables is not None:
        raise SourceError(
            f"the publications have row filters (on {tables}), which are not applied with "
            "OUTPUT_PLUGIN=wal2json; take them away with ALTER PUBLICATION … SET TABLE … without "
            "WHERE, and write policies instead, or use pgoutput with a slot of its own"
        )
