"""The role ``realtime_nobody``, as which the code of users' types runs.

A domain's check, an operator, and a cast to JSON are code of the type's owner. It must not run as
the server's role, which may act as other roles, and may be a superuser. So the function
``realtime.core_as_nobody`` runs it. It is a SECURITY DEFINER function of the role
``realtime_nobody``, which has the privileges of PUBLIC and no others. Within such a function
PostgreSQL refuses SET ROLE and SET SESSION AUTHORIZATION.

To make the role takes CREATEROLE. Without the role ``realtime.cast`` and similar functions refuse
values of users' types: they are sent as text, and filters on their columns are refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from typing import Any, Final

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from ..role_grants import acting, grant
from .type_schemas import hidden_schemas

__all__ = ["NOBODY", "confine", "is_confined", "missing_for_nobody"]

NOBODY: Final = "realtime_nobody"

_CONFINE: Final = """
DO $confine$
DECLARE
    as_whom CONSTANT text := pg_catalog.current_setting('role');
    caller text;
BEGIN
    PERFORM pg_catalog.pg_advisory_xact_lock({lock});
    IF realtime.core_is_confined() THEN
        RETURN;
    END IF;
    IF pg_catalog.to_regrole('realtime_nobody') IS NULL THEN
        BEGIN
            CREATE ROLE realtime_nobody NOLOGIN NOINHERIT;
        EXCEPTION
            -- A server of another database has been faster.
            WHEN duplicate_object OR unique_violation THEN NULL;
        END;
    END IF;
    IF NOT pg_catalog.pg_has_role(
        current_user, 'realtime_nobody', '{acting}'
    ) THEN
        {grant};
    END IF;
    -- Of another owner, as a dump may have left it.
    DROP FUNCTION IF EXISTS realtime.core_as_nobody(text);
    GRANT USAGE, CREATE ON SCHEMA realtime TO realtime_nobody;
    PERFORM pg_catalog.set_config('role', 'realtime_nobody', true);
    CREATE FUNCTION realtime.core_as_nobody(query text)
        RETURNS text
        LANGUAGE plpgsql
        VOLATILE
        SECURITY DEFINER
        SET search_path = pg_catalog, pg_temp
    AS $body$
    DECLARE
        result text;
    BEGIN
        EXECUTE query INTO result;
        RETURN result;
    END
    $body$;
    REVOKE EXECUTE ON FUNCTION realtime.core_as_nobody(text) FROM PUBLIC;
    -- Those who may call realtime.cast: the schema's owner, and whom it grants that.
    FOR caller IN
        SELECT pg_catalog.format(
            '%I%s', r.rolname, CASE WHEN r.oid = p.proowner THEN ' WITH GRANT OPTION' ELSE '' END
        )
        FROM pg_catalog.pg_proc p
        CROSS JOIN pg_catalog.aclexplode(p.proacl) g
        JOIN pg_catalog.pg_roles r ON r.oid = g.grantee
        WHERE p.oid = pg_catalog.to_regprocedure('realtime.cast(text, regtype)')
            AND g.privilege_type = 'EXECUTE' AND r.rolname <> 'realtime_nobody'
    LOOP
        EXECUTE 'GRANT EXECUTE ON FUNCTION realtime.core_as_nobody(text) TO ' || caller;
    END LOOP;
    PERFORM pg_catalog.set_config('role', as_whom, true);
    REVOKE USAGE, CREATE ON SCHEMA realtime FROM realtime_nobody;
END
$confine$
"""

_IS_MIGRATED: Final = "SELECT pg_catalog.to_regprocedure('realtime.core_is_confined()') IS NOT NULL"

_FACTS: Final = """
    SELECT pg_catalog.quote_ident(current_user), r.oid IS NOT NULL,
        r.rolsuper OR r.rolbypassrls OR r.rolreplication OR r.rolcreaterole OR r.rolcreatedb
            OR r.rolcanlogin,
        coalesce(pg_catalog.pg_has_role(current_user, r.oid, %s), false),
        (SELECT u.rolsuper OR u.rolcreaterole FROM pg_catalog.pg_roles u
            WHERE u.rolname = current_user),
        ARRAY(
            SELECT pg_catalog.quote_ident(g.rolname)
            FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles g ON g.oid = m.roleid
            WHERE m.member = r.oid ORDER BY 1
        ),
        coalesce((
            SELECT pg_catalog.pg_has_role(current_user, n.nspowner, 'USAGE')
            FROM pg_catalog.pg_namespace n WHERE n.nspname = 'realtime'
        ), true)
    FROM (SELECT) AS _ LEFT JOIN pg_catalog.pg_roles r ON r.rolname = 'realtime_nobody'
"""


async def confine(connection: AsyncConnection[Any], lock: int) -> None:
    """Create the role ``realtime_nobody`` and its function, if they are missing and the server's
    role may create them.

    Args:
        connection: a connection in autocommit mode, with the server's role.
        lock: the key of the advisory lock for changes of the schema ``realtime``.
    """
    with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
        if not await is_confined(connection):
            version = connection.info.server_version
            statement = _CONFINE.format(
                lock=lock, acting=acting(version), grant=grant(NOBODY, "CURRENT_USER", version)
            )
            await connection.execute(statement.encode())


async def is_confined(connection: AsyncConnection[Any]) -> bool:
    """Return whether the code of users' types runs as ``realtime_nobody``; if not, it does not
    run at all."""
    return bool(
        await _value(connection, _IS_MIGRATED)
        and await _value(connection, "SELECT realtime.core_is_confined()")
    )


async def missing_for_nobody(
    connection: AsyncConnection[Any], publications: Collection[str]
) -> tuple[str, ...]:
    """Return the statements without which users' types are sent as text and not filtered on.

    Args:
        connection: a connection with the server's role.
        publications: the names of the publications; the types of their tables' columns count.
    """
    version = connection.info.server_version
    try:
        confined = await is_confined(connection)
    except psycopg.errors.InsufficientPrivilege:
        # The server's role may not use the schema realtime, which other findings say.
        return ()
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_FACTS, [acting(version)])
        facts = await cursor.fetchone()
        assert facts is not None
        user, exists, is_powerful, may_be, makes_roles, memberships, owns = facts
        if not exists:
            # The server makes the role itself when it starts.
            if makes_roles:
                return ()
            return (
                f"CREATE ROLE {NOBODY} NOLOGIN NOINHERIT;",
                f"{grant(NOBODY, user, version)};",
            )
        lines = [f"REVOKE {group} FROM {NOBODY};" for group in memberships]
        if is_powerful:
            lines.append(
                f"ALTER ROLE {NOBODY} NOLOGIN NOSUPERUSER NOBYPASSRLS NOREPLICATION NOCREATEROLE "
                "NOCREATEDB;"
            )
        if not confined and not may_be:
            lines.append(f"{grant(NOBODY, user, version)};")
        hidden = await hidden_schemas(connection, publications)
        lines += [schema.grant for schema in hidden if not schema.can_open]
        if not confined and not lines and not owns:
            # Only the schema's owner can make the function.
            lines.append(f"ALTER SCHEMA realtime OWNER TO {user};")
    return tuple(lines)


async def _value(connection: AsyncConnection[Any], query: str) -> Any:
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(query.encode())
        [value] = await cursor.fetchone() or [None]
    return value
