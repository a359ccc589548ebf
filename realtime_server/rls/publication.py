"""What a publication publishes, for joins and for ``--check``."""

from __future__ import annotations

from typing import Any, Final

import attrs
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from realtime_core.errors import PublicationNotFoundError

from ..gate import OWN_SCHEMA

__all__ = ["Publication", "read_publication"]


@attrs.frozen
class Publication:
    """What a publication publishes."""

    name: str
    actions: tuple[str, ...]
    """Of ``insert``, ``update`` and ``delete``."""
    tables: frozenset[tuple[str, str]] | None
    """Schemas and names, of partitions too; None for all tables."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing can come."""
        return not self.actions or self.tables == frozenset()


_PUBLICATION: Final = """
    SELECT p.puballtables, p.pubinsert, p.pubupdate, p.pubdelete
    FROM pg_catalog.pg_publication p WHERE p.pubname = %s
"""

_TABLES: Final = """
    SELECT DISTINCT n.nspname, c.relname
    FROM pg_catalog.pg_publication p
    CROSS JOIN LATERAL ({members}) m
    CROSS JOIN LATERAL (
        SELECT m.relid
        UNION SELECT t.relid FROM pg_catalog.pg_partition_tree(m.relid) t
    ) each
    JOIN pg_catalog.pg_class c ON c.oid = each.relid AND c.relkind = 'r'
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE p.pubname = %s
"""

_MEMBERS: Final = """
    SELECT r.prrelid AS relid
    FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid
    UNION ALL
    SELECT k.oid
    FROM pg_catalog.pg_publication_namespace s
    JOIN pg_catalog.pg_class k ON k.relnamespace = s.pnnspid AND k.relkind IN ('r', 'p')
    WHERE s.pnpubid = p.oid
"""

_MEMBERS_14: Final = """
    SELECT r.prrelid AS relid
    FROM pg_catalog.pg_publication_rel r WHERE r.prpubid = p.oid
"""


async def read_publication(connection: AsyncConnection[Any], name: str) -> Publication:
    """Return what a publication publishes now.

    Raises:
        PublicationNotFoundError: if there is none of that name.
    """
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_PUBLICATION, [name])
        row = await cursor.fetchone()
        if row is None:
            raise PublicationNotFoundError((name,), connection.info.dbname)
        has_all, *flags = row
        actions = tuple(
            action
            for action, is_published in zip(("insert", "update", "delete"), flags, strict=True)
            if is_published
        )
        if has_all:
            return Publication(name, actions, None)
        is_old = connection.info.server_version < 150000
        query = _TABLES.replace("{members}", _MEMBERS_14 if is_old else _MEMBERS)
        await cursor.execute(query.encode(), [name])
        members = await cursor.fetchall()
    tables = {(schema, table) for schema, table in members if schema != OWN_SCHEMA}
    return Publication(name, actions, frozenset(tables))
