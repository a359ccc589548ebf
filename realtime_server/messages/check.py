"""The findings of ``--check`` about ``realtime.messages``: broadcasts from there, and private
channels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

import psycopg

from realtime_core import Finding
from realtime_core.errors import SourceError
from realtime_core.sources.failures import connection_failed

from ..config import MESSAGES_PUBLICATION, SETTING_NAMES
from ..config.database.connections import connect
from ..rls.role_grants import acting, grant
from ..rls.setup.migrations import pending

__all__ = ["message_findings", "private_channel_findings"]

_CHECK: Final = "messages"
_PRIVATE: Final = "private channels"
_MIGRATE: Final = "run `python -m realtime_server migrate`"

_FACTS: Final = """
    SELECT c.relrowsecurity,
        pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner)),
        pg_catalog.quote_ident(current_user),
        pg_catalog.pg_has_role(current_user, c.relowner, %s),
        p.oid IS NOT NULL,
        p.pubinsert,
        p.puballtables OR EXISTS (
            SELECT FROM pg_catalog.pg_publication_rel r
            WHERE r.prpubid = p.oid AND r.prrelid = c.oid
        )
    FROM pg_catalog.pg_class c
    LEFT JOIN pg_catalog.pg_publication p ON p.pubname = %s
    WHERE c.oid = pg_catalog.to_regclass('realtime.messages') AND c.relkind = 'p'
"""

_PRIVATE_FACTS: Final = """
    SELECT pg_catalog.pg_has_role(current_user, c.relowner, 'USAGE'),
        pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(c.relowner)),
        pg_catalog.quote_ident(current_user),
        EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'realtime' AND c.relname = 'messages'
"""

# The roles that policies name, and those that `migrate` grants the table to where a policy is for
# every role; and which privileges they lack for what their policies allow. The server need not act
# as a role that only writes, as one that owns a trigger function does.
_ROLES: Final = """
    SELECT role.name, role.acts OR NOT pg_catalog.bool_or(p.polcmd IN ('r', '*')), role.uses,
        pg_catalog.bool_or(p.polcmd IN ('r', '*') AND NOT role.reads),
        pg_catalog.bool_or(p.polcmd IN ('a', '*') AND NOT role.writes)
    FROM (
        SELECT r.oid, pg_catalog.quote_ident(r.rolname) AS name,
            r.rolname IN ('anon', 'authenticated', 'service_role') AS is_usual,
            pg_catalog.pg_has_role(current_user, r.oid, %s) AS acts,
            pg_catalog.has_schema_privilege(r.oid, 'realtime', 'USAGE') AS uses,
            pg_catalog.has_table_privilege(r.oid, 'realtime.messages', 'SELECT') AS reads,
            pg_catalog.has_table_privilege(r.oid, 'realtime.messages', 'INSERT') AS writes
        FROM pg_catalog.pg_roles r
    ) role
    JOIN pg_catalog.pg_policy p ON p.polrelid = 'realtime.messages'::pg_catalog.regclass
        AND (role.oid = ANY (p.polroles) OR role.is_usual AND 0 = ANY (p.polroles))
    GROUP BY role.name, role.acts, role.uses
    ORDER BY role.name
"""


async def message_findings(dsn: str) -> tuple[Finding, ...]:
    """Check the table ``realtime.messages`` and its publication, for ``--check``; change nothing.

    Args:
        dsn: the connection string, with the server's role.

    Raises:
        SourceError: if the database cannot be queried.
    """
    try:
        async with await connect(dsn, name="check") as connection:
            version = connection.info.server_version
            cursor = await connection.execute(_FACTS, [acting(version), MESSAGES_PUBLICATION])
            facts = await cursor.fetchone()
            try:
                is_old = bool(await pending(connection))
            except SourceError as exc:
                return (Finding.problem(_CHECK, str(exc)),)
    except psycopg.Error as exc:
        raise connection_failed(exc, SETTING_NAMES) from exc
    if facts is None or is_old:
        what = "is missing" if facts is None else "may lack columns: the schema realtime is old"
        return (Finding.problem(_CHECK, f"the table realtime.messages {what}", remedy=_MIGRATE),)
    found = tuple(_findings(facts, version))
    return found or (
        Finding.ok(_CHECK, "rows of realtime.messages are broadcast, and its partitions kept"),
    )


def _findings(facts: tuple[Any, ...], version: int) -> Iterator[Finding]:
    is_guarded, owner, user, may_act, is_there, has_inserts, has_table = facts
    changes = []
    if is_there and not has_table:
        changes.append("ADD TABLE realtime.messages")
    if is_there and not has_inserts:
        changes.append("SET (publish = 'insert')")
    if changes:
        yield Finding.problem(
            _CHECK,
            f"publication {MESSAGES_PUBLICATION} does not publish what is inserted into "
            "realtime.messages",
            *(f"ALTER PUBLICATION {MESSAGES_PUBLICATION} {change};" for change in changes),
        )
    if not is_there:
        yield Finding.problem(
            _CHECK,
            f"publication {MESSAGES_PUBLICATION} is missing, as nobody with CREATE on the database "
            "has migrated",
            f"CREATE PUBLICATION {MESSAGES_PUBLICATION} FOR TABLE realtime.messages "
            "WITH (publish = 'insert', publish_via_partition_root = true);",
        )
    if not may_act:
        yield Finding.warning(
            _CHECK,
            f"{user} cannot make and drop partitions of realtime.messages, so that messages are "
            f"kept for ever: the table belongs to {owner}",
            f"{grant(owner, user, version)};",
        )
    if not is_guarded:
        yield Finding.warning(
            _CHECK,
            "realtime.messages has no row level security: who may read or write it reads and "
            "writes in all private rooms",
            "ALTER TABLE realtime.messages ENABLE ROW LEVEL SECURITY;",
        )


async def private_channel_findings(dsn: str, *, migrates: bool) -> tuple[Finding, ...]:
    """Check whether policies can be asked, for ``--check``; change nothing.

    Args:
        dsn: the connection string, with the server's role.
        migrates: whether the server makes the table when it starts.

    Raises:
        SourceError: if the database cannot be queried.
    """
    try:
        async with await connect(dsn, name="check") as connection:
            version = connection.info.server_version
            cursor = await connection.execute(_PRIVATE_FACTS)
            facts = await cursor.fetchone()
            lacks: tuple[Finding, ...] = ()
            if facts is not None and facts[0]:
                cursor = await connection.execute(_ROLES, [acting(version)])
                lacks = tuple(_role_findings(await cursor.fetchall(), facts[2], version))
    except psycopg.Error as exc:
        raise connection_failed(exc, SETTING_NAMES) from exc
    if facts is None and migrates:
        return ()
    if facts is None:
        return (
            Finding.problem(
                _PRIVATE,
                "the table realtime.messages, whose policies decide about private channels, is "
                "missing",
                remedy=f"{_MIGRATE}, or set PRIVATE_CHANNELS=false",
            ),
        )
    may_write, owner, user, has_policies = facts
    if not may_write:
        return (
            Finding.problem(
                _PRIVATE,
                f"{user} cannot try what policies allow: realtime.messages belongs to {owner}",
                f"GRANT {owner} TO {user};",
            ),
        )
    if lacks:
        return lacks
    if not has_policies:
        return (
            Finding.ok(
                _PRIVATE, "nobody may join a private channel: realtime.messages has no policies"
            ),
        )
    return (Finding.ok(_PRIVATE, "policies of realtime.messages decide about private channels"),)


def _role_findings(roles: Iterable[tuple[Any, ...]], user: str, version: int) -> Iterator[Finding]:
    for role, acts, uses, lacks_select, lacks_insert in roles:
        grants = []
        if not acts:
            grants.append(f"{grant(role, user, version)};")
        if not uses:
            grants.append(f"GRANT USAGE ON SCHEMA realtime TO {role};")
        if lacks_select:
            grants.append(f"GRANT SELECT ON realtime.messages TO {role};")
        if lacks_insert:
            grants.append(f"GRANT INSERT ON realtime.messages TO {role};")
        if grants:
            yield Finding.warning(
                _PRIVATE,
                f"policies of realtime.messages are for the role {role}, and what they allow is "
                "refused to it, because a grant is missing",
                *grants,
            )
