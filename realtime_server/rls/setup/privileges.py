"""Privileges: what the server's role lacks, as the lines that give it.

It need not be a superuser. It needs LOGIN and REPLICATION, to own what is in schema
``realtime`` (so CREATE on the database at first), to make temporary functions (TEMPORARY,
which everybody has by default), and to be allowed to become each role that tokens claim; it
never needs their rights itself. Nor does it those of types' owners, whose code runs as
:mod:`.nobody`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import attrs
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from ..memberships import acting, grant
from .nobody import missing_for_nobody

__all__ = ["Missing", "missing_privileges", "readers"]

_FACTS: Final = """
    SELECT pg_catalog.quote_ident(rolname), rolsuper OR rolreplication,
           pg_catalog.quote_ident(pg_catalog.current_database()),
           pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
           pg_catalog.has_database_privilege(pg_catalog.current_database(), 'TEMPORARY'),
           pg_catalog.to_regnamespace('realtime') IS NOT NULL,
           pg_catalog.current_setting('server_version_num')::pg_catalog.int4
    FROM pg_catalog.pg_roles WHERE rolname = current_user
"""

# Whoever was given something to read in a published table may come with a token, except those
# who are this server, its masters, or PostgreSQL's own.
_READERS: Final = """
    SELECT pg_catalog.quote_ident(r.rolname)
    FROM pg_catalog.pg_roles r
    WHERE NOT r.rolsuper AND r.rolname <> current_user AND r.rolname !~ '^pg_'
      AND (%s OR NOT pg_catalog.pg_has_role(current_user, r.oid, %s))
      AND (r.rolname = ANY (%s) OR EXISTS (
          SELECT FROM pg_catalog.pg_publication_tables p
          JOIN pg_catalog.pg_namespace n ON n.nspname = p.schemaname
          JOIN pg_catalog.pg_class c ON c.relname = p.tablename AND c.relnamespace = n.oid
          CROSS JOIN LATERAL (
              SELECT c.relacl AS acl
              UNION ALL
              SELECT a.attacl FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid
          ) acls
          CROSS JOIN LATERAL pg_catalog.aclexplode(acls.acl) g
          WHERE p.pubname = ANY (%s) AND g.privilege_type = 'SELECT' AND g.grantee = r.oid
            AND g.grantee <> c.relowner
      ))
    ORDER BY r.rolname
"""


@attrs.frozen
class Missing:
    """The statements that an administrator has to run."""

    own: tuple[str, ...]
    """Without these the server cannot work."""
    roles: tuple[str, ...]
    """Without these it may not act as some who come with tokens, and refuses them."""
    nobody: tuple[str, ...]
    """Without these it shows values of types that are not PostgreSQL's own as text, and refuses
    filters on them."""

    @property
    def every(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.own, *self.roles, *self.nobody)


async def missing_privileges(
    connection: AsyncConnection[Any], publications: Collection[str], roles: tuple[str, ...] = ()
) -> Missing:
    """Return what the server's role lacks.

    Args:
        connection: as that role.
        publications: whose tables' readers are expected to come with tokens.
        roles: more that are expected.
    """
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_FACTS)
        facts = await cursor.fetchone()
        assert facts is not None
        user, replicates, database, creates, makes_temporary, exists, version = facts
    return Missing(
        (
            *(() if replicates else (f"ALTER ROLE {user} REPLICATION;",)),
            *(() if creates or exists else (f"GRANT CREATE ON DATABASE {database} TO {user};",)),
            *(() if makes_temporary else (f"GRANT TEMPORARY ON DATABASE {database} TO {user};",)),
        ),
        tuple(
            f"{grant(reader, user, version)};"
            for reader in await readers(connection, publications, roles)
        ),
        await missing_for_nobody(connection, publications),
    )


async def readers(
    connection: AsyncConnection[Any],
    publications: Collection[str],
    roles: tuple[str, ...] = (),
    *,
    every: bool = False,
) -> list[str]:
    """Return the roles that are expected to come with tokens, quoted.

    Args:
        connection: as the server's role.
        publications: whose tables they may read.
        roles: more that are expected.
        every: also those that the server's role may act as.
    """
    how = acting(connection.info.server_version)
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_READERS, [every, how, list(roles), list(publications)])
        return [row[0] for row in await cursor.fetchall()]
