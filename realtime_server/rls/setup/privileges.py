"""Privileges: what the server's role still needs, as the SQL statements that grant it.

The role need not be a superuser. It needs LOGIN and REPLICATION, ownership of the objects in the
schema ``realtime`` (and so CREATE on the database at first), TEMPORARY on the database to make
temporary functions, which everybody has by default, and a membership in each role that tokens name.
It does not need those roles' privileges for itself, nor those of types' owners, whose code runs as
:mod:`the role realtime_nobody <.nobody>`.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import attrs
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from ..role_grants import acting, grant
from .nobody_role import missing_for_nobody

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

# Tokens may name every role that was granted SELECT on a published table or its columns, except for
# the server's role, superusers, the table's owner, and PostgreSQL's own roles.
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
    """Statements without which the server cannot work."""
    roles: tuple[str, ...]
    """Statements without which the server may not act as some roles of tokens, and refuses joins
    with them."""
    nobody: tuple[str, ...]
    """Statements without which the server sends values of users' types as text, and refuses
    filters on them."""

    @property
    def every(self) -> tuple[str, ...]:
        """The statements of all kinds together."""
        return (*self.own, *self.roles, *self.nobody)


async def missing_privileges(
    connection: AsyncConnection[Any], publications: Collection[str], roles: tuple[str, ...] = ()
) -> Missing:
    """Return the statements that grant what the server's role still needs.

    Args:
        connection: a connection with the server's role.
        publications: the names of the publications; the roles that may read their tables are
            expected as roles of tokens.
        roles: further roles that are expected.
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
    """Return the roles that are expected as roles of tokens, quoted.

    Args:
        connection: a connection with the server's role.
        publications: the names of the publications whose tables the roles may read.
        roles: further roles that are expected.
        every: whether to return also the roles that the server's role may act as already.
    """
    how = acting(connection.info.server_version)
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_READERS, [every, how, list(roles), list(publications)])
        return [row[0] for row in await cursor.fetchall()]
