"""The findings of ``--check`` about data that more people may see than is meant."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from psycopg import AsyncConnection

from realtime_core import Finding

from ...config.database.policy_functions import ImmutableCall, immutable_calls

__all__ = ["exposure_findings"]

_MOST_NAMED: Final = 20
"""How many tables, policies or functions a finding names."""

# Who may read realtime.subscription by a grant: PUBLIC or a role, if a role that has the grant may
# use the schema. Owners and superusers can read everything anyway. If row level security is enabled
# for the table, and it has no policies, no other role can read it.
_READERS: Final = """
    WITH grants AS (
        SELECT DISTINCT c.relowner, g.grantee
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        CROSS JOIN LATERAL (
            SELECT c.relacl AS acl
            UNION ALL
            SELECT a.attacl FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid
        ) acls
        CROSS JOIN LATERAL pg_catalog.aclexplode(acls.acl) g
        WHERE n.nspname = 'realtime' AND c.relname = 'subscription'
            AND g.privilege_type = 'SELECT' AND g.grantee <> c.relowner
            AND (
                NOT c.relrowsecurity
                OR EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid)
            )
    )
    SELECT DISTINCT coalesce(pg_catalog.quote_ident(o.rolname), 'PUBLIC')
    FROM grants g
    LEFT JOIN pg_catalog.pg_roles o ON o.oid = g.grantee
    WHERE NOT coalesce(o.rolsuper OR o.rolname = current_user, false) AND EXISTS (
        SELECT FROM pg_catalog.pg_roles r
        WHERE NOT r.rolsuper AND r.rolname <> current_user AND r.oid <> g.relowner
            AND r.rolname !~ '^pg_'
            AND pg_catalog.has_schema_privilege(r.oid, 'realtime', 'USAGE')
            AND (o.oid IS NULL OR pg_catalog.pg_has_role(r.oid, o.oid, 'USAGE'))
    )
    ORDER BY 1
"""

# The published tables without row level security that may be read by a role with policies to obey.
# Where row level security is enabled for another table of the same tree of partitions, the server
# sends nobody the rows.
_UNGUARDED: Final = """
    SELECT DISTINCT pg_catalog.format('%%I.%%I', n.nspname, c.relname)
    FROM pg_catalog.pg_publication_tables t
    JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
    JOIN pg_catalog.pg_class c ON c.relname = t.tablename AND c.relnamespace = n.oid
    WHERE t.pubname = ANY (%s) AND NOT c.relrowsecurity
        AND NOT EXISTS (
            SELECT FROM pg_catalog.pg_class r
            WHERE r.relrowsecurity AND r.oid IN (
                SELECT relid FROM pg_catalog.pg_partition_ancestors(c.oid)
                UNION ALL SELECT relid FROM pg_catalog.pg_partition_tree(c.oid)
            )
        )
        AND EXISTS (
            SELECT FROM pg_catalog.pg_roles r
            WHERE NOT (r.rolsuper OR r.rolbypassrls) AND r.rolname <> current_user
                AND r.oid <> c.relowner AND r.rolname !~ '^pg_'
                AND pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')
                AND pg_catalog.has_any_column_privilege(r.oid, c.oid, 'SELECT')
        )
    ORDER BY 1
"""


async def exposure_findings(
    connection: AsyncConnection[Any], publications: Collection[str]
) -> list[Finding]:
    """Check whether policies and privileges show more than is meant; change nothing.

    Args:
        connection: a connection with the server's role.
        publications: the names of the publications.

    Raises:
        psycopg.Error: if a query fails.
    """
    return [
        *await _immutable(connection, publications),
        *await _unguarded(connection, publications),
        *await _readers(connection),
    ]


async def _immutable(
    connection: AsyncConnection[Any], publications: Collection[str]
) -> list[Finding]:
    calls = await immutable_calls(connection, publications)
    if not calls:
        return []
    return [
        Finding.warning(
            "functions in policies",
            "policies call functions that are declared IMMUTABLE: "
            f"{_listed([_call(call) for call in calls])}. PostgreSQL may keep what such a function "
            "returns for one user and use it for the next; so the server looks rows of these "
            "tables up with a new plan for each viewer, which takes several times as long",
            *(f"ALTER FUNCTION {call.function} STABLE;" for call in calls[:_MOST_NAMED]),
            remedy="each that reads claims, settings or tables; what depends on its arguments "
            "alone may stay",
        )
    ]


def _call(call: ImmutableCall) -> str:
    """Name a function, and the policies that call it."""
    by = []
    if call.policies:
        by.append(f"called by {_listed(call.policies)}")
    if call.perhaps:
        by.append(
            f"perhaps {'' if by else 'called '}by {_listed(call.perhaps)} through a function whose "
            "body has the name"
        )
    return f"{call.function} ({', '.join(by)})"


async def _unguarded(
    connection: AsyncConnection[Any], publications: Collection[str]
) -> list[Finding]:
    cursor = await connection.execute(_UNGUARDED.encode(), [list(publications)])
    tables = [str(name) for (name,) in await cursor.fetchall()]
    if not tables:
        return []
    return [
        Finding.warning(
            "row level security",
            f"published without row level security, so that everybody who may SELECT from them "
            f"gets every row: {_listed(tables)}",
            *(f"ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;" for name in tables[:_MOST_NAMED]),
            remedy="and CREATE POLICY: without policies no role sees a row, in queries either",
        )
    ]


async def _readers(connection: AsyncConnection[Any]) -> list[Finding]:
    cursor = await connection.execute(_READERS.encode())
    readers = [str(name) for (name,) in await cursor.fetchall()]
    if not readers:
        return []
    return [
        Finding.warning(
            "realtime.subscription",
            f"others may read realtime.subscription, which has all clients' claims and filters: "
            f"{_listed(readers)}",
            f"REVOKE SELECT ON realtime.subscription FROM {', '.join(readers)};",
        )
    ]


def _listed(names: Collection[str]) -> str:
    shown = list(names)[:_MOST_NAMED]
    left = len(names) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")
