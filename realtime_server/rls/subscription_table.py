"""The SQL of the tables ``realtime.subscription`` and ``realtime.core_node``.

``realtime.subscription`` has a row for each channel and table. Each server marks its rows with its
node. In ``realtime.core_node`` it writes until when its rows are valid, so that others can delete
the rows of a server that has ended without deleting them. The callers of these methods provide the
connection, and handle psycopg's errors.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import Any, Final
from uuid import UUID, uuid4

import attrs
from psycopg import AsyncConnection

from realtime_core.sources.catalog import enum_orders as read_enum_orders

from ..config import OutputPlugin
from ..config.database.catalog import read_tables
from ..config.database.publications import published
from ..errors import RefusedError
from ..fanout.allowed_topics import OWN_SCHEMA
from ..fanout.subscription_specs import SubscriptionSpec, check_spec, possible
from ..fanout.turns import Turns
from ..phoenix.reasons import RlsReason
from .role_grants import acting, grant
from .subscription_rows import SubscriptionRow, note_of, row_of
from .viewers import Viewer

__all__ = ["Registration", "SubscriptionTable", "limit_time"]

logger = logging.getLogger("realtime.rls")


@attrs.define(eq=False)
class Registration:
    """A joined channel, as ``realtime.subscription`` has it."""

    wants: tuple[tuple[SubscriptionSpec, ...], ...]
    """The items that the channel listens to; for each item, all the ways in which it can be
    read."""
    viewer: Viewer
    """The role and claims that rows are checked for."""
    id: UUID = attrs.field(factory=uuid4)
    """``subscription_id`` of the channel's rows."""
    notes: tuple[str, ...] = ()
    """Notices for the client about its subscriptions, although they are accepted."""

    @property
    def has_wildcard(self) -> bool:
        """Whether the channel also gets changes of tables that are made later: an item of its join
        names no schema, or no table."""
        return any(spec.schema is None or spec.table is None for spec in chain(*self.wants))


_ROLE: Final = """
    SELECT pg_catalog.pg_has_role(current_user, r.oid, %s), pg_catalog.quote_ident(r.rolname),
        pg_catalog.quote_ident(current_user)
    FROM pg_catalog.pg_roles r WHERE r.rolname = %s
"""

_ALL_TABLES: Final = """
    SELECT c.oid::pg_catalog.int8
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
        AND n.nspname <> ALL ('{pg_catalog,information_schema,pg_toast}')
        AND n.nspname <> %(own)s AND (%(schema)s::text IS NULL OR n.nspname = %(schema)s)
        AND (%(table)s::text IS NULL OR c.relname = %(table)s)
        AND pg_catalog.has_schema_privilege(%(role)s::name, n.oid, 'USAGE')
        AND pg_catalog.has_any_column_privilege(%(role)s::name, c.oid, 'SELECT')
        AND {published} IS NOT NULL
"""

_INSERT: Final = """
    INSERT INTO realtime.subscription
        (subscription_id, entity, filters, claims, action_filter, selected_columns, node)
    SELECT %(id)s, r.entity,
        ARRAY(
            SELECT (f ->> 0, f ->> 1, f ->> 2)::realtime.user_defined_filter
            FROM pg_catalog.jsonb_array_elements(r.filters) f
        ),
        %(claims)s, r.action,
        CASE pg_catalog.jsonb_typeof(r.selected) WHEN 'array' THEN ARRAY(
            SELECT pg_catalog.jsonb_array_elements_text(r.selected)
        ) END,
        %(node)s
    FROM ROWS FROM (
        pg_catalog.unnest(%(entities)s::oid[]), pg_catalog.unnest(%(filters)s::jsonb[]),
        pg_catalog.unnest(%(actions)s::text[]), pg_catalog.unnest(%(selected)s::jsonb[])
    ) r (entity, filters, action, selected)
    ON CONFLICT DO NOTHING
"""

_SAY_ALIVE: Final = """
    INSERT INTO realtime.core_node (node, expires_at)
    VALUES (%(node)s, pg_catalog.now() + pg_catalog.make_interval(secs => %(seconds)s))
    ON CONFLICT (node) DO UPDATE SET expires_at = excluded.expires_at
"""

_DELETE_DEAD: Final = """
    WITH dead AS (DELETE FROM realtime.core_node WHERE expires_at < pg_catalog.now())
    DELETE FROM realtime.subscription s
    WHERE s.node IS NOT NULL AND NOT EXISTS (
        SELECT FROM realtime.core_node n
        WHERE n.node = s.node AND n.expires_at >= pg_catalog.now()
    )
"""


class SubscriptionTable:
    """One server's rows of ``realtime.subscription``.

    Args:
        publications: the publications whose changes are sent.
        plugin: the output plugin that the changes come from.
        node: names the server among others, and among its earlier runs.
        enum_orders: the labels of enum types in their declared order, by schema and name; kept up
            to date here, for filters.
        asks_for_deleted: whether a deleted row is sent to those who could see it, if all of its
            values are known.
    """

    def __init__(
        self,
        *,
        publications: Collection[str],
        plugin: OutputPlugin,
        node: str,
        enum_orders: dict[tuple[str, str], tuple[str, ...]],
        asks_for_deleted: bool,
    ) -> None:
        self._publications = publications
        self._plugin = plugin
        self._node = node
        self._enum_orders = enum_orders
        self._asks_for_deleted = asks_for_deleted

    async def refresh_enum_orders(self, connection: AsyncConnection[Any]) -> None:
        """Read the orders of enum types, for filters."""
        self._enum_orders.update(await read_enum_orders(connection))

    async def say_alive(self, connection: AsyncConnection[Any], seconds: float) -> None:
        """Write until when the server's rows are valid."""
        await connection.execute(_SAY_ALIVE, {"node": self._node, "seconds": seconds})

    async def delete_dead(self, connection: AsyncConnection[Any]) -> None:
        """Delete the rows of servers whose rows are no longer valid."""
        await connection.execute(_DELETE_DEAD)

    async def delete_own(self, connection: AsyncConnection[Any]) -> None:
        """Delete all of the server's rows."""
        await connection.execute("DELETE FROM realtime.subscription WHERE node = %s", [self._node])
        await connection.execute("DELETE FROM realtime.core_node WHERE node = %s", [self._node])

    async def delete(self, connection: AsyncConnection[Any], ids: Iterable[UUID]) -> None:
        """Delete the rows of registrations."""
        await connection.execute(
            "DELETE FROM realtime.subscription WHERE subscription_id = ANY (%s)", [list(ids)]
        )

    async def written(self, connection: AsyncConnection[Any]) -> set[UUID]:
        """Return the ids of the registrations that have rows."""
        cursor = await connection.execute(
            "SELECT DISTINCT subscription_id FROM realtime.subscription WHERE node = %s",
            [self._node],
        )
        return {row[0] async for row in cursor}

    async def insert(
        self,
        connection: AsyncConnection[Any],
        registration: Registration,
        rows: Sequence[SubscriptionRow],
    ) -> None:
        """Write the rows of a registration that are not there yet."""
        await connection.execute(
            _INSERT,
            {
                "id": registration.id,
                "claims": registration.viewer.claims,
                "node": self._node,
                "entities": [row.entity for row in rows],
                "filters": [json.dumps(row.filters) for row in rows],
                "actions": [row.action for row in rows],
                "selected": [json.dumps(row.select) for row in rows],
            },
        )

    async def check_role(self, connection: AsyncConnection[Any], role: str) -> None:
        """Check that a token's role exists, and that the server may act as it.

        Raises:
            RefusedError: if there is no such role, or the server may not.
        """
        version = connection.info.server_version
        cursor = await connection.execute(_ROLE, [acting(version), role])
        row = await cursor.fetchone()
        if row is None:
            raise RefusedError(
                RlsReason.UNKNOWN_ROLE.told(role=role),
                logged="its token's role is not in the database",
            )
        may_act, quoted, server = row
        if not may_act:
            logger.warning(
                "joins are refused, because this is missing: %s", grant(quoted, server, version)
            )
            raise RefusedError(
                RlsReason.MAY_NOT_ACT.told(role=role),
                logged="this server may not act as its token's role",
            )

    async def rows_of(
        self, connection: AsyncConnection[Any], registration: Registration
    ) -> list[SubscriptionRow]:
        """Return the rows of a registration, as the tables are now, and set its notes.

        Raises:
            RefusedError: if something that is wanted is not possible in any way.
        """
        role = registration.viewer.role
        named = {
            (spec.schema, spec.table)
            for spec in chain(*registration.wants)
            if spec.schema is not None and spec.table is not None
        }
        tables = await read_tables(connection, named, [role], self._publications, self._plugin)
        if any(table.has_enums for table in tables.values()):
            # An enum type may have been made since the last comparison, or have a new label.
            await self.refresh_enum_orders(connection)

        def row(spec: SubscriptionSpec) -> tuple[SubscriptionRow, str | None] | None:
            """Return the row and the note for one table, None for more tables."""
            check_spec(spec)
            if spec.schema is None or spec.table is None:
                return None
            table = tables.get((spec.schema, spec.table))
            note = note_of(spec, table, asks_for_deleted=self._asks_for_deleted)
            return row_of(spec, table, role, self._enum_orders), note

        rows: dict[SubscriptionRow, None] = {}
        notes: dict[str, None] = {}
        turns = Turns.shared()
        for readings in registration.wants:
            await turns.give_way()
            for spec, found in possible(readings, row):
                if found is None:
                    rows.update(dict.fromkeys(await self._wildcard_rows(connection, spec, role)))
                    continue
                found_row, note = found
                rows[found_row] = None
                if note is not None:
                    notes[note] = None
        registration.notes = tuple(notes)
        return list(rows)

    async def _wildcard_rows(
        self, connection: AsyncConnection[Any], spec: SubscriptionSpec, role: str
    ) -> list[SubscriptionRow]:
        is_published = published(connection.info.server_version, self._plugin)
        cursor = await connection.execute(
            _ALL_TABLES.replace("{published}", is_published).encode(),
            {
                "own": OWN_SCHEMA,
                "schema": spec.schema,
                "table": spec.table,
                "role": role,
                "publications": list(self._publications),
            },
        )
        return [SubscriptionRow(oid, (), spec.action, spec.selected) async for (oid,) in cursor]


async def limit_time(connection: AsyncConnection[Any], seconds: float) -> None:
    """Set a timeout for each further statement of this transaction.

    To check a filter's value, its type may take any time.
    """
    await connection.execute(
        "SELECT pg_catalog.set_config('statement_timeout', %s, true)",
        [f"{seconds * 1000:.0f}ms"],
    )
