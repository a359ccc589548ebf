"""Powers: role attributes, such as SUPERUSER, that the server's role should not have, and the SQL
to take them away.

In RLS mode the server runs queries as other roles, and policies, functions and types are code of
other people. If such code became the server's role, it could do all that the role may do.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import attrs
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from ..role_grants import grant
from .nobody_role import NOBODY
from .privileges import readers

__all__ = ["Excess", "excess_powers"]

_FACTS: Final = """
    SELECT pg_catalog.quote_ident(rolname), rolsuper, rolbypassrls,
        pg_catalog.quote_ident(pg_catalog.current_database()),
        pg_catalog.to_regnamespace('realtime') IS NOT NULL,
        (
            SELECT name FROM pg_catalog.unnest(ARRAY['realtime', 'realtime_server']) AS name
            WHERE name <> current_user LIMIT 1
        ),
        ARRAY(
            SELECT known.rolname FROM pg_catalog.pg_roles known
            WHERE known.rolname IN ('realtime', 'realtime_server', 'realtime_nobody')
        ),
        -- Privileges that everybody has by default, and that were revoked.
        ARRAY(
            SELECT p FROM pg_catalog.unnest(ARRAY['CONNECT', 'TEMPORARY']) AS p
            WHERE NOT pg_catalog.has_database_privilege(
                'public', pg_catalog.current_database(), p
            )
        )
    FROM pg_catalog.pg_roles WHERE rolname = current_user
"""


@attrs.frozen
class Excess:
    """The role attributes that the server's role should not have."""

    message: str
    """Which attributes, and why; without a full stop."""
    sql: tuple[str, ...]
    """The statements that make a better role, or take the attribute from this one."""


async def excess_powers(
    connection: AsyncConnection[Any], publications: Collection[str]
) -> Excess | None:
    """Return the role attributes that the server's role should not have; None if it has none.

    Args:
        connection: a connection with the server's role.
        publications: the names of the publications; the roles that may read their tables are
            expected as roles of tokens.
    """
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_FACTS)
        facts = await cursor.fetchone()
    assert facts is not None
    user, is_superuser, bypasses, database, is_migrated, name, known, revoked = facts
    if not is_superuser:
        if not bypasses:
            return None
        return Excess(
            f"the server's role {user} has BYPASSRLS, which RLS mode does not need: code of "
            "tables' owners that became the server's role would see every row",
            (f"ALTER ROLE {user} NOBYPASSRLS;",),
        )
    lines = [f"CREATE ROLE {name} LOGIN REPLICATION PASSWORD '…';"] if name not in known else []
    if NOBODY not in known:
        lines.append(f"CREATE ROLE {NOBODY} NOLOGIN NOINHERIT;")
    version = connection.info.server_version
    # A superuser may act as every role, so no grants were needed until now.
    for role in (NOBODY, *await readers(connection, publications, every=True)):
        if role != name:
            lines.append(f"{grant(role, name, version)};")
    privileges = [*revoked, *(() if is_migrated else ["CREATE"])]
    if privileges:
        lines.append(f"GRANT {', '.join(privileges)} ON DATABASE {database} TO {name};")
    if is_migrated:
        lines += [
            f"GRANT ALL ON {what} TO {name};"
            for what in (
                "SCHEMA realtime",
                "ALL TABLES IN SCHEMA realtime",
                "ALL FUNCTIONS IN SCHEMA realtime",
            )
        ]
    return Excess(
        f"the server's role {user} is a superuser, which RLS mode does not need: code of tables' "
        f"owners that became the server's role could do anything; make the role {name}, and "
        f"start the server with DB_USER={name}",
        tuple(lines),
    )
