"""Subscriptions: who listens to what, checked against the database and kept there.

``realtime.subscription`` has a row for each channel and table, for those who look, and for
callers of ``realtime.apply_rls``; the server itself delivers from its memory. A row is there
before its join is answered. Each server writes its own rows, marked with its node, and now
and then compares them with its channels; the rows of servers that ended without a word are
removed when they have not been seen for some time.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from typing import Any, Final
from uuid import UUID, uuid4

import attrs
import psycopg
from psycopg import AsyncConnection
from psycopg_pool import PoolTimeout

from realtime_core.sources.catalog import enum_orders as read_enum_orders

from ..config import OutputPlugin
from ..config.database.catalog import read_tables
from ..config.database.connections import Connections, brief
from ..config.database.publications import published
from ..errors import RefusedError, UnavailableError
from ..fanout.subscription_specs import SubscriptionSpec, check_spec, possible
from ..fanout.topic_rules import OWN_SCHEMA
from ..fanout.turns import Turns
from ..net.aio import cancel_within
from .memberships import acting, grant
from .rows import SubscriptionRow, note_of, row_of
from .viewers import Viewer

__all__ = ["Registration", "Registry"]

logger = logging.getLogger("realtime.rls")

_LIVES: Final = 3
"""Comparisons that a server may miss until its rows are taken for a dead one's."""
_RETRY: Final = 1.0
"""Seconds until the database is tried again."""
_ATTEMPTS: Final = 3
"""To write a join down."""
_PATIENCE: Final = 2.0
"""Seconds that each of them waits for a connection: clients wait no longer than ten."""
_MOST_SECONDS: Final = 2.0
"""For a statement: to check a filter's value, a type may take any time."""


@attrs.define(eq=False)
class Registration:
    """A channel, as the database knows it."""

    wants: tuple[tuple[SubscriptionSpec, ...], ...]
    """Each in all the ways in which it can be read; one of them has to be possible."""
    viewer: Viewer
    id: UUID = attrs.field(factory=uuid4)
    notes: tuple[str, ...] = ()
    """What its client should know of what it wants, though it can be had."""

    @property
    def has_wildcard(self) -> bool:
        """Whether tables that come later belong to it."""
        return any(wish.schema is None or wish.table is None for wish in chain(*self.wants))


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

_TOUCH: Final = """
    INSERT INTO realtime.core_node (node, expires_at)
    VALUES (%(node)s, pg_catalog.now() + pg_catalog.make_interval(secs => %(seconds)s))
    ON CONFLICT (node) DO UPDATE SET expires_at = excluded.expires_at
"""

_BURY: Final = """
    WITH dead AS (DELETE FROM realtime.core_node WHERE expires_at < pg_catalog.now())
    DELETE FROM realtime.subscription s
    WHERE s.node IS NOT NULL AND NOT EXISTS (
        SELECT FROM realtime.core_node n
        WHERE n.node = s.node AND n.expires_at >= pg_catalog.now()
    )
"""


class Registry:
    """The subscriptions of one server.

    Args:
        connections: as the server's role.
        publications: whose tables can be listened to.
        plugin: that makes the changes.
        node: names the server among others, and among its earlier selves.
        interval: seconds between two comparisons of rows and channels.
        enum_orders: labels of enums in their declared order, by schema and name; kept up here.
        ignored_claims: names of claims that no policy reads.
        asks_for_deleted: whether deleted rows of which all is known are shown to those who could
            see them.
    """

    def __init__(
        self,
        connections: Connections,
        *,
        publications: Collection[str],
        plugin: OutputPlugin = OutputPlugin.PGOUTPUT,
        node: str,
        interval: float,
        enum_orders: dict[tuple[str, str], tuple[str, ...]],
        ignored_claims: Collection[str] = (),
        asks_for_deleted: bool = False,
    ) -> None:
        self._connections = connections
        self._publications = publications
        self._plugin = plugin
        self._node = node
        self._interval = interval
        self._ignored = frozenset(ignored_claims)
        self._asks_for_deleted = asks_for_deleted
        self._registrations: dict[UUID, Registration] = {}
        self._removed: set[UUID] = set()
        self._woken = asyncio.Event()
        self._enum_orders = enum_orders
        # Whether nothing is compared until somebody joins.
        self._is_quiet = False

    async def refresh_enum_orders(self) -> None:
        """Learn the orders of enum types, for filters.

        Raises:
            psycopg.Error: if the database cannot be asked.
        """
        async with self._connections.one() as connection:
            self._enum_orders.update(await read_enum_orders(connection))

    async def register(
        self, wants: Sequence[tuple[SubscriptionSpec, ...]], claims: Mapping[str, Any]
    ) -> Registration:
        """Check what somebody wants, and write it down.

        Args:
            wants: what, each in all the ways in which it can be read.
            claims: of a verified token.

        Raises:
            RefusedError: if it cannot be, saying why.
        """
        registration = Registration(tuple(wants), Viewer.of(claims, self._ignored))
        # First, so that its rows are not taken for nobody's.
        self._registrations[registration.id] = registration
        try:
            await self._write(registration)
        except BaseException:
            self.remove(registration)
            raise
        return registration

    async def renew(self, registration: Registration, claims: Mapping[str, Any]) -> Viewer:
        """Take other claims for a registration; return whose eyes it has from now on.

        One that is removed meanwhile stays as it was.

        Raises:
            RefusedError: if what was wanted cannot be had with these claims.
        """
        viewer = Viewer.of(claims, self._ignored)
        if viewer is not registration.viewer:
            await self._write(attrs.evolve(registration, viewer=viewer), renewed=True)
            if registration.id in self._registrations:
                registration.viewer = viewer
            else:
                self._removed.add(registration.id)
                self._woken.set()
        return registration.viewer

    def remove(self, registration: Registration) -> None:
        """Forget a registration; its rows are deleted soon."""
        if self._registrations.pop(registration.id, None) is not None:
            self._removed.add(registration.id)
            self._woken.set()

    async def run(self) -> None:
        """Delete what was removed, and compare now and then, for ever.

        A server without channels has nothing to compare. It goes on for so long that the rows of
        one that had been killed are removed, and then asks nothing until somebody joins.
        """
        loop = asyncio.get_running_loop()
        due = loop.time()
        in_vain = 0
        while True:
            try:
                # First, so that it is done though a comparison fails for good.
                await self._delete()
                if loop.time() >= due:
                    await self.refresh_enum_orders()
                    await self._reconcile()
                    due = loop.time() + self._interval
                    in_vain = 0 if self._registrations else in_vain + 1
            except psycopg.Error as exc:
                logger.warning(
                    "the rows of realtime.subscription cannot be kept up: %s",
                    brief(exc),
                )
                await asyncio.sleep(_RETRY)
            except Exception:
                logger.exception(
                    "the rows of realtime.subscription cannot be kept up, which is a fault of the "
                    "server's; please report it"
                )
                await asyncio.sleep(self._interval)
            else:
                self._is_quiet = in_vain > _LIVES
                left = None if self._is_quiet else max(due - loop.time(), 0.0)
                try:
                    async with asyncio.timeout(left):
                        await self._woken.wait()
                except TimeoutError:
                    pass
                if self._registrations:
                    in_vain = 0

    async def close(self) -> None:
        """Delete the server's rows, if the database lets us."""
        deleting = asyncio.create_task(self._delete_own())
        await cancel_within({deleting}, 2 * _RETRY)
        try:
            reason = "the database does not answer" if deleting.cancelled() else deleting.result()
        except psycopg.Error as exc:
            reason = brief(exc)
        if reason is not None:
            logger.warning(
                "rows stay in realtime.subscription until another server removes them: %s", reason
            )

    async def _delete_own(self) -> None:
        async with self._connections.one(within=_RETRY) as connection:
            await connection.execute(
                "DELETE FROM realtime.subscription WHERE node = %s", [self._node]
            )
            await connection.execute("DELETE FROM realtime.core_node WHERE node = %s", [self._node])

    # Rows.

    async def _write(self, registration: Registration, *, renewed: bool = False) -> None:
        try:
            for attempt in range(_ATTEMPTS):
                try:
                    await self._write_once(registration, renewed)
                    return
                except (psycopg.errors.QueryCanceled, TimeoutError) as exc:
                    raise RefusedError(
                        "the database takes too long to check this; join again later, or use "
                        "filters whose values are checked faster"
                    ) from exc
                except psycopg.OperationalError as exc:
                    # After a restart of PostgreSQL each connection of the pool is a dead one.
                    if attempt == _ATTEMPTS - 1 or isinstance(exc, PoolTimeout):
                        raise
        except psycopg.OperationalError as exc:
            raise UnavailableError(
                "the database cannot be asked now; join again in a moment"
            ) from exc
        except psycopg.Error as exc:
            # The trigger's own checks, and the values' casts.
            raise RefusedError(
                f"{exc.diag.message_primary or exc.sqlstate:.1000}",
                logged=f"the database refuses it ({exc.sqlstate})",
            ) from exc

    async def _write_once(self, registration: Registration, renewed: bool) -> None:
        async with self._connections.one(within=_PATIENCE) as connection:
            pid = connection.info.backend_pid
            try:
                # A check that catches the cancellation would run for ever.
                async with asyncio.timeout(_MOST_SECONDS * 3), connection.transaction():
                    await _limit_time(connection)
                    await self._check_role(connection, registration.viewer.role)
                    if self._is_quiet:
                        # Nobody knows of this server, and it may not know of types.
                        await self._touch(connection)
                        self._enum_orders.update(await read_enum_orders(connection))
                        self._woken.set()
                    rows = await self._rows(connection, registration)
                    if renewed:
                        await connection.execute(
                            "DELETE FROM realtime.subscription WHERE subscription_id = %s",
                            [registration.id],
                        )
                    await self._insert(connection, registration, rows)
                return
            except TimeoutError:
                await connection.close()
        await self._connections.terminate(pid)
        raise TimeoutError

    async def _touch(self, connection: AsyncConnection[Any]) -> None:
        """Say that the server lives."""
        await connection.execute(_TOUCH, {"node": self._node, "seconds": self._interval * _LIVES})

    async def _insert(
        self,
        connection: AsyncConnection[Any],
        registration: Registration,
        rows: Sequence[SubscriptionRow],
    ) -> None:
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

    async def _check_role(self, connection: AsyncConnection[Any], role: str) -> None:
        version = connection.info.server_version
        cursor = await connection.execute(_ROLE, [acting(version), role])
        row = await cursor.fetchone()
        if row is None:
            raise RefusedError(
                f"there is no role {role!r} in the database",
                logged="its token's role is not in the database",
            )
        may_be, quoted, server = row
        if not may_be:
            logger.warning(
                "joins are refused, because this is missing: %s", grant(quoted, server, version)
            )
            raise RefusedError(
                f"this server may not act as role {role!r}",
                logged="this server may not act as its token's role",
            )

    async def _rows(
        self, connection: AsyncConnection[Any], registration: Registration
    ) -> list[SubscriptionRow]:
        """Return the rows of a registration.

        Raises:
            RefusedError: if something that is wanted is not possible in any way.
        """
        role = registration.viewer.role
        named = {
            (wish.schema, wish.table)
            for wish in chain(*registration.wants)
            if wish.schema is not None and wish.table is not None
        }
        tables = await read_tables(connection, named, [role], self._publications, self._plugin)
        if any(table.has_enums for table in tables.values()):
            # One may be newer than the last comparison, or have a new label.
            self._enum_orders.update(await read_enum_orders(connection))

        def row(wish: SubscriptionSpec) -> tuple[SubscriptionRow, str | None] | None:
            """Return row and note of a wish for one table, None for more of them."""
            check_spec(wish)
            if wish.schema is None or wish.table is None:
                return None
            table = tables.get((wish.schema, wish.table))
            note = note_of(wish, table, asks_for_deleted=self._asks_for_deleted)
            return row_of(wish, table, role, self._enum_orders), note

        rows: dict[SubscriptionRow, None] = {}
        notes: dict[str, None] = {}
        turns = Turns.shared()
        for ways in registration.wants:
            await turns.give_way()
            for wish, found in possible(ways, row):
                if found is None:
                    rows.update(dict.fromkeys(await self._wildcard_rows(connection, wish, role)))
                    continue
                found_row, note = found
                rows[found_row] = None
                if note is not None:
                    notes[note] = None
        registration.notes = tuple(notes)
        return list(rows)

    async def _wildcard_rows(
        self, connection: AsyncConnection[Any], wish: SubscriptionSpec, role: str
    ) -> list[SubscriptionRow]:
        wanted = published(connection.info.server_version, self._plugin)
        cursor = await connection.execute(
            _ALL_TABLES.replace("{published}", wanted).encode(),
            {
                "own": OWN_SCHEMA,
                "schema": wish.schema,
                "table": wish.table,
                "role": role,
                "publications": list(self._publications),
            },
        )
        return [SubscriptionRow(oid, (), wish.action, wish.selected) async for (oid,) in cursor]

    async def _delete(self) -> None:
        self._woken.clear()
        # One that is renewed meanwhile is added again, for another turn.
        removed, self._removed = self._removed, set()
        if not removed:
            return
        try:
            async with self._connections.one() as connection:
                await connection.execute(
                    "DELETE FROM realtime.subscription WHERE subscription_id = ANY (%s)",
                    [list(removed)],
                )
        except BaseException:
            self._removed |= removed
            raise

    async def _reconcile(self) -> None:
        """Write what is missing, delete what is too much, of this server and of dead ones."""
        left_out: Counter[tuple[str, str, str]] = Counter()
        async with self._connections.one() as connection:
            await self._touch(connection)
            await connection.execute(_BURY)
            cursor = await connection.execute(
                "SELECT DISTINCT subscription_id FROM realtime.subscription WHERE node = %s",
                [self._node],
            )
            written = {row[0] async for row in cursor}
            if nobodys := written - self._registrations.keys():
                self._removed |= nobodys
                self._woken.set()
            for registration in list(self._registrations.values()):
                if registration.id in written and not registration.has_wildcard:
                    continue
                try:
                    async with connection.transaction():
                        await _limit_time(connection)
                        rows = await self._rows(connection, registration)
                        await self._insert(connection, registration, rows)
                except (RefusedError, psycopg.IntegrityError, psycopg.DataError):
                    # A table or column is gone, or a privilege: nothing goes to it any more.
                    continue
                except psycopg.Error as exc:
                    # Any SQLSTATE may be a check's own, OperationalError's too.
                    if connection.closed:
                        raise
                    tables = ", ".join(map(str, chain(*registration.wants)))
                    left_out[registration.viewer.role, tables, _why(exc)] += 1
        for (role, tables, why), count in left_out.items():
            logger.warning(
                "subscriptions to %s are not in realtime.subscription (%d of them), because %s",
                tables,
                count,
                why,
            )
            logger.debug("the role is %s", role)


async def _limit_time(connection: AsyncConnection[Any]) -> None:
    await connection.execute(
        "SELECT pg_catalog.set_config('statement_timeout', %s, true)",
        [f"{_MOST_SECONDS * 1000:.0f}ms"],
    )


def _why(exc: psycopg.Error) -> str:
    """Say what keeps a row from being written, without the values that the error may quote."""
    if isinstance(exc, psycopg.errors.QueryCanceled):
        return "they take too long to check; make the checks of their columns' types faster"
    return f"they cannot be checked ({exc.sqlstate}); see the checks of their columns' types"
