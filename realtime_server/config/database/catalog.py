"""The SQL that reads the present state of tables from PostgreSQL's catalog."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from .. import OutputPlugin
from .policy_functions import CALLS_FUNCTIONS, functions_of_policies
from .publications import Published, published
from .snapshots import Snapshot
from .tables import FIRST_CUSTOM_OID, CustomType, Functions, KeyColumn, LiveColumn, Table, TableName

__all__ = ["look_at_tables", "read_tables", "roles_that_may_read"]

# Lists are JSON, so that there is one row for a table; OIDs are JSON numbers.
_TABLES: Final = """
    SELECT pg_catalog.pg_current_snapshot()::text, w.schema, w.name, c.oid::pg_catalog.int8,
        c.relrowsecurity, c.relkind = 'p', c.relispartition,
        c.relreplident = 'f',
        CASE
            WHEN c.relrowsecurity THEN false
            WHEN c.relispartition OR c.relkind = 'p' THEN EXISTS (
                SELECT FROM pg_catalog.pg_class r
                WHERE r.relrowsecurity AND r.oid IN (
                    SELECT relid FROM pg_catalog.pg_partition_ancestors(c.oid)
                    UNION ALL SELECT relid FROM pg_catalog.pg_partition_tree(c.oid)
                )
            )
            ELSE false
        END,
        (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                a.attname, t.typname, n.nspname, a.atttypid::pg_catalog.int8,
                pg_catalog.format_type(a.atttypid, -1)
            ) ORDER BY a.attnum)
            FROM pg_catalog.pg_attribute a
            JOIN pg_catalog.pg_type t ON t.oid = a.atttypid
            JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
        ),
        (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                a.attname,
                CASE
                    WHEN a.atttypid < 16384 THEN pg_catalog.format_type(a.atttypid, -1)
                    ELSE (
                        WITH RECURSIVE base AS (
                            SELECT t.oid, t.typtype, t.typbasetype, t.typcategory
                            FROM pg_catalog.pg_type t WHERE t.oid = a.atttypid
                            UNION ALL
                            SELECT t.oid, t.typtype, t.typbasetype, t.typcategory
                            FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.typbasetype
                            WHERE b.typtype = 'd'
                        )
                        -- Superusers alone make base types. What is made of others may have a
                        -- domain in it.
                        SELECT pg_catalog.format_type(b.oid, -1) FROM base b
                        WHERE b.oid < 16384 AND b.typtype <> 'd' OR b.typtype = 'e'
                            OR b.typtype = 'b' AND b.typcategory <> 'A'
                    )
                END,
                (
                    SELECT pg_catalog.format('operator(%%I.%%s)', n.nspname, o.oprname)
                    FROM pg_catalog.pg_opclass oc
                    JOIN pg_catalog.pg_amop ao ON ao.amopfamily = oc.opcfamily
                        AND ao.amoplefttype = oc.opcintype AND ao.amoprighttype = oc.opcintype
                        AND ao.amopstrategy = 3
                    JOIN pg_catalog.pg_operator o ON o.oid = ao.amopopr
                    JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
                    WHERE oc.oid = i.indclass[k.place - 1]
                )
            ) ORDER BY k.place)
            FROM pg_catalog.pg_index i
            CROSS JOIN LATERAL pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
            JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum
            WHERE i.indrelid = c.oid AND i.indisprimary AND k.place <= i.indnkeyatts
        ),
        (
            SELECT pg_catalog.json_object_agg(r.rolname, pg_catalog.json_build_array(
                r.rolsuper OR r.rolbypassrls,
                ARRAY(
                    SELECT a.attname
                    FROM pg_catalog.pg_attribute a
                    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
                        AND pg_catalog.has_schema_privilege(r.oid, s.oid, 'USAGE')
                        AND pg_catalog.has_column_privilege(r.oid, c.oid, a.attnum, 'SELECT')
                )
            ))
            FROM pg_catalog.pg_roles r WHERE r.rolname = ANY (%(roles)s)
        ),
        {calls_functions},
        {published}
    FROM ROWS FROM (
        pg_catalog.unnest(%(schemas)s::text[]), pg_catalog.unnest(%(names)s::text[])
    ) AS w (schema, name)
    LEFT JOIN (
        pg_catalog.pg_class c JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
    ) ON s.nspname = w.schema AND c.relname = w.name AND c.relkind IN ('r', 'p')
"""

# In place of a domain its base type, and in place of an array of domains an array of that.
_TYPES: Final = """
    WITH RECURSIVE base AS (
        SELECT t.oid AS of, t.oid, t.typtype, t.typbasetype
        FROM pg_catalog.pg_type t WHERE t.oid = ANY (%(oids)s::oid[])
            OR t.oid IN (
                SELECT e.typelem FROM pg_catalog.pg_type e WHERE e.oid = ANY (%(oids)s::oid[])
            )
        UNION ALL
        SELECT b.of, t.oid, t.typtype, t.typbasetype
        FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.typbasetype
        WHERE b.typtype = 'd'
    )
    SELECT b.of::pg_catalog.int8, t.oid::pg_catalog.int8, t.typtype::text,
        CASE WHEN t.typcategory = 'A' THEN t.typelem::pg_catalog.int8 ELSE 0 END,
        t.typname, n.nspname
    FROM base b JOIN pg_catalog.pg_type t ON t.oid = b.oid
    JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
    WHERE b.typtype <> 'd'
"""

_READERS: Final = """
    SELECT r.rolname
    FROM pg_catalog.pg_roles r
    LEFT JOIN pg_catalog.pg_class c ON c.oid = %(oid)s::oid
    WHERE r.rolname = ANY (%(roles)s) AND (
        c.oid IS NULL
        OR pg_catalog.has_schema_privilege(r.oid, c.relnamespace, 'USAGE')
            AND pg_catalog.has_any_column_privilege(r.oid, c.oid, 'SELECT')
    )
"""


async def roles_that_may_read(
    connection: AsyncConnection[Any], oid: int, roles: Collection[str]
) -> frozenset[str]:
    """Return which roles may SELECT a column of a table, whatever the table's name is now.

    If the table does not exist, all roles that exist are returned.

    Args:
        connection: a connection in autocommit mode.
        oid: the table's OID; 0 if it is not known.
        roles: the names of the roles to look at.
    """
    parameters = {"oid": oid, "roles": list(roles)}
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_READERS, parameters)
        return frozenset([role for (role,) in await cursor.fetchall()])


async def read_tables(
    connection: AsyncConnection[Any],
    names: Collection[TableName],
    roles: Collection[str],
    publications: Collection[str],
    plugin: OutputPlugin = OutputPlugin.PGOUTPUT,
) -> dict[TableName, Table]:
    """Return the tables that exist, by name, without the functions of their policies.

    Args:
        connection: a connection in autocommit mode.
        names: the schemas and names of the tables.
        roles: the roles whose privileges are read.
        publications: the publications of which it is read what they publish; if there are none,
            that is not read.
        plugin: the output plugin that the changes come from.
    """
    if not names:
        return {}
    wanted = published(connection.info.server_version, plugin) if publications else "NULL"
    return (await _read(connection, names, roles, wanted, publications, "false"))[1]


async def look_at_tables(
    connection: AsyncConnection[Any],
    names: Collection[TableName],
    roles: Collection[str],
    publications: Collection[str] = (),
    plugin: OutputPlugin = OutputPlugin.PGOUTPUT,
) -> tuple[Snapshot, dict[TableName, Table]]:
    """Read the tables that exist, by name; return them with the snapshot in which they were read.

    Args:
        connection: a connection in autocommit mode, without the just-in-time compiler, which would
            take longer than the query that it compiles.
        names: the schemas and names of the tables; at least one.
        roles: the roles whose privileges are read.
        publications: the publications of which it is read what they publish; if there are none,
            that is not read.
        plugin: the output plugin that the changes come from.
    """
    wanted = published(connection.info.server_version, plugin) if publications else "NULL"
    return await _read(connection, names, roles, wanted, publications, CALLS_FUNCTIONS)


async def _read(
    connection: AsyncConnection[Any],
    names: Collection[TableName],
    roles: Collection[str],
    wanted: str,
    publications: Collection[str],
    calls_functions: str,
) -> tuple[Snapshot, dict[TableName, Table]]:
    parameters = {
        "schemas": [schema for schema, _ in names],
        "names": [name for _, name in names],
        "roles": list(roles),
    }
    if publications:
        parameters["publications"] = list(publications)
    async with connection.cursor(row_factory=tuple_row) as cursor:
        query = _TABLES.replace("{published}", wanted)
        query = query.replace("{calls_functions}", calls_functions)
        await cursor.execute(query.encode(), parameters)
        rows = await cursor.fetchall()
        # Not for a table that none of the roles may read: the time of the answer would show that
        # the table exists.
        custom = {
            oid
            for row in rows
            if not roles or any(allowed for _, allowed in (row[11] or {}).values())
            for _, _, _, oid, _ in row[9] or ()
            if oid >= FIRST_CUSTOM_OID
        }
        types: dict[int, CustomType] = {}
        if custom:
            await cursor.execute(_TYPES, {"oids": list(custom)})
            async for oid, *facts in cursor:
                types[oid] = CustomType(*facts)
        calling = [row[3] for row in rows if row[12]]
        functions = await functions_of_policies(cursor, calling) if calling else {}
    tables = {(row[1], row[2]): _table(row, types, functions) for row in rows if row[3] is not None}
    return Snapshot.parse(rows[0][0]), tables


def _table(
    row: Sequence[Any], types: Mapping[int, CustomType], functions: Mapping[int, Functions]
) -> Table:
    _, schema, name, oid, has_rls, *kinds, columns, key, roles, _, facts = row
    is_partitioned, is_partition, is_full, is_at_odds = kinds
    roles = roles or {}
    found = Published.read(facts)
    return Table(
        oid,
        schema,
        name,
        has_rls or is_at_odds,
        is_partitioned,
        is_partition,
        is_full,
        is_at_odds,
        tuple(LiveColumn(*column) for column in columns or ()),
        tuple(KeyColumn(*column) for column in key or ()),
        None if found is None else found.columns,
        None if found is None else found.actions,
        found is not None and found.has_row_filter,
        {role: frozenset(allowed) for role, (_, allowed) in roles.items()},
        frozenset(role for role, (is_bypassing, _) in roles.items() if is_bypassing),
        types,
        functions.get(oid, Functions()),
    )
