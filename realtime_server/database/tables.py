"""What is true of tables now: row level security, primary key, columns, who may read them.

A change tells how a table was when a row was written. Whether somebody may see the row is decided
in RLS mode by how the table is when the row goes out, so this is read anew for every batch; what a
join asks for is checked against how it is when somebody joins.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import attrs
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from realtime_core import Column, Relation, ReplicaIdentity

from ..config import OutputPlugin
from .immutable import CALLS_FUNCTIONS, Functions, functions_of_policies
from .publications import Published, published
from .snapshots import Snapshot

__all__ = [
    "CustomType",
    "KeyColumn",
    "LiveColumn",
    "Table",
    "TableName",
    "look_at_tables",
    "read_tables",
    "roles_that_may_read",
]

TableName = tuple[str, str]
"""Schema and name."""


@attrs.frozen
class CustomType:
    """What ``pg_type`` says of a type that is not built in."""

    oid: int
    """Its own; of a domain, its base type's."""
    kind: str
    """``typtype``: ``b``, ``c``, ``e``, ``m`` or ``r``; never ``d``."""
    element: int
    """OID of an array's elements; 0 for what is no array."""
    name: str
    """``pg_type.typname``; of a domain, its base type's, as the stream has it."""
    schema: str
    """Likewise."""


@attrs.frozen
class LiveColumn:
    """A column."""

    name: str
    type_name: str
    """``pg_type.typname``; of a domain, the domain's."""
    type_schema: str
    type_oid: int
    type_sql: str
    """Its type as SQL writes it, without a modifier."""


@attrs.frozen
class KeyColumn:
    """A column of the primary key."""

    name: str
    type_sql: str | None
    """Its type as SQL writes it; of a domain, its base type's. None if to read a value of that may
    run a user's code, as a domain's check."""
    equals: str
    """The index's equality operator as SQL writes it: ``operator(pg_catalog.=)``."""


@attrs.frozen
class Table:
    """A table."""

    oid: int
    schema: str
    name: str
    has_rls: bool
    """Whether row level security is enabled, or the table is at odds with its relatives."""
    is_partitioned: bool
    """Whether its rows are its partitions'."""
    is_partition: bool
    """Whether its rows are those of a partitioned table, too."""
    is_full: bool
    """Whether its replica identity is FULL."""
    is_at_odds: bool
    """Whether row level security is not enabled, but is where rows are stored or above that: of
    the table that is partitioned, or of a partition. Nothing says then who may see a row."""
    columns: tuple[LiveColumn, ...]
    """By ``attnum``."""
    key: tuple[KeyColumn, ...]
    """In the index's order; empty without a primary key."""
    published: frozenset[str] | None
    """The columns that are published; None if the table is not, or if that was not asked for."""
    published_actions: frozenset[str] | None
    """Of ``INSERT``, ``UPDATE`` and ``DELETE``; None where the stream has no others."""
    has_row_filter: bool
    """Whether a publication has one for it that the stream does not apply."""
    selectable: Mapping[str, frozenset[str]]
    """By role, the columns that it may SELECT. Roles that do not exist are not there."""
    bypassing: frozenset[str]
    """The roles among them for whom row level security does not count."""
    types: Mapping[int, CustomType]
    """By OID, what JSON needs to know of the columns' types that are not built in."""
    functions: Functions
    """Those that its policies call; none if they were not asked for."""

    @property
    def has_enums(self) -> bool:
        """Whether a column is of an enum, or an array of one."""
        return any(type.kind == "e" for type in self.types.values())

    @cached_property
    def key_names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.key)

    def compared_as(self, column: LiveColumn) -> str | None:
        """Return the type that text becomes, as SQL writes it, to be compared with a column.

        None: it stays text, because anybody may have made a cast to the column's type.
        """
        if column.type_oid < _FIRST_CUSTOM_OID:
            return column.type_sql
        type_ = self.types.get(column.type_oid)
        if type_ is None or type_.oid >= _FIRST_CUSTOM_OID:
            return None
        # A domain's base type.
        name = type_.name.replace('"', '""')
        return f'pg_catalog."{name}"'

    def visible(self, role: str) -> tuple[LiveColumn, ...]:
        """Return the columns that go out to a role."""
        allowed = self.selectable.get(role, frozenset()) & (self.published or frozenset())
        return tuple(column for column in self.columns if column.name in allowed)

    @cached_property
    def relation(self) -> Relation:
        """The table as a row's change would describe it."""
        columns = []
        for column in self.columns:
            # A domain is its base type there.
            base = self.types.get(column.type_oid)
            name, schema = (
                (column.type_name, column.type_schema) if base is None else (base.name, base.schema)
            )
            is_key = column.name in self.key_names
            columns.append(Column(column.name, column.type_oid, name, schema, -1, is_key))
        return Relation(self.oid, self.schema, self.name, ReplicaIdentity.DEFAULT, tuple(columns))


# As JSON, which is one value a table; OIDs are numbers there.
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

# A domain is its base type; an array of domains, an array of theirs.
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

_FIRST_CUSTOM_OID: Final = 16384
"""FirstNormalObjectId, in PostgreSQL's src/include/access/transam.h."""


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
    """Return those of some roles that may SELECT something of a table, whatever its name is now.

    All that exist, if there is no such table.

    Args:
        connection: in autocommit mode.
        oid: the table's; 0: it is not known.
        roles: their names.
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
    """Return the tables that exist, by name, with what is published of them.

    Their policies' functions are not asked for.
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
    """Return the tables that exist, by name, and in which snapshot.

    Args:
        connection: in autocommit mode, without the just-in-time compiler, which would take longer
            than what it compiles.
        names: one, at least.
        roles: whose privileges are asked for.
        publications: of which it is asked what they publish; none: it is not asked.
        plugin: that makes the changes.
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
        # Not for a table that nobody may read: it would take longer to answer than one that is
        # not there.
        custom = {
            oid
            for row in rows
            if not roles or any(allowed for _, allowed in (row[11] or {}).values())
            for _, _, _, oid, _ in row[9] or ()
            if oid >= _FIRST_CUSTOM_OID
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
