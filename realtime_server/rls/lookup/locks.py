"""Locks: waiting until tables are no longer locked.

While a table is altered, no rows of it can be looked up, nor rows of other tables whose policies
read it, which is no viewer's fault. However many viewers wait for a lock, one query asks for all of
them whether the lock is gone, and one line in the log names the table.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from types import TracebackType
from typing import Any, Final, Self

import attrs
import psycopg
from psycopg import AsyncConnection

from ...config.database.connections import Connections, brief
from ...config.database.policy_functions import reached_by_policies

__all__ = ["LOCKED_RELATIONS", "LockedRelation", "Locks", "locks_in_the_way"]

logger = logging.getLogger("realtime.rls")

_PAUSES: Final = (0.05, 0.5)
"""The fewest and the most seconds between two looks at the locks."""

LOCKED_RELATIONS: Final = """
    SELECT DISTINCT l.relation::pg_catalog.int8 FROM pg_catalog.pg_locks l
    WHERE l.mode OPERATOR(pg_catalog.=) 'AccessExclusiveLock'
        AND l.database OPERATOR(pg_catalog.=) (
            SELECT d.oid FROM pg_catalog.pg_database d
            WHERE d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
        )
        AND l.relation IS NOT NULL
"""
"""A query for the tables, indexes and views that a session has locked against SELECT, or waits to
lock, by OID. Both the check of rows and the wait use it, or viewers would be sent back and forth
between the two."""

# A policy reads what its expression and the functions in it name, and the partitions of that.
# A table without partitions is looked up by itself, without tables that inherit from it. An index
# is read with its table.
_IN_THE_WAY: Final = f"""
    {reached_by_policies("p.polrelid = %(table)s::pg_catalog.oid", finds_all_tables=True)},
    needed (oid) AS (
        SELECT %(table)s::pg_catalog.oid
        UNION
        SELECT r.objid FROM reached r
        WHERE r.classid = 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
        UNION
        SELECT i.inhrelid
        FROM needed d
        JOIN pg_catalog.pg_inherits i ON i.inhparent = d.oid
        JOIN pg_catalog.pg_class p ON p.oid = d.oid
        WHERE p.relkind = 'p' OR p.oid <> %(table)s::pg_catalog.oid
    )
    SELECT c.oid::pg_catalog.int8,
        CASE
            WHEN c.relkind = ANY ('{{i,I}}'::pg_catalog."char"[]) THEN 'index'
            WHEN c.relkind = 'v' THEN 'view'
            ELSE 'table'
        END,
        n.nspname, c.relname
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_catalog.pg_index x ON x.indexrelid = c.oid
    WHERE c.oid = ANY (%(locked)s::pg_catalog.oid[])
        AND coalesce(x.indrelid, c.oid) IN (SELECT d.oid FROM needed d)
"""


@attrs.frozen
class LockedRelation:
    """A table, an index or a view that somebody has locked."""

    oid: int
    """Its OID."""
    kind: str = attrs.field(eq=False)
    """``table``, ``index`` or ``view``."""
    schema: str = attrs.field(eq=False)
    """The schema that it is in."""
    name: str = attrs.field(eq=False)
    """Its name."""

    def __str__(self) -> str:
        return f"{self.kind} {self.schema}.{self.name}"


async def locks_in_the_way(
    connection: AsyncConnection[Any], table: int, locked: Collection[int]
) -> frozenset[LockedRelation]:
    """Return those locked relations without which a table's rows cannot be looked up.

    These are the table itself, its partitions, the tables and views that its policies read,
    directly or through views and functions, the partitions of these tables, and the indexes of all
    of these. The bodies of functions are text, in which names are looked for: a relation may be
    found that is not read.

    Args:
        connection: a connection in autocommit mode, without a user's search path.
        table: the table's OID.
        locked: the OIDs of the relations that are locked, as :data:`LOCKED_RELATIONS` has them.

    Raises:
        psycopg.Error: if the query fails.
    """
    cursor = await connection.execute(
        _IN_THE_WAY.encode(), {"table": table, "locked": list(locked)}
    )
    return frozenset([LockedRelation(*row) for row in await cursor.fetchall()])


class Locks:
    """Waits for locked relations. Use it as a context manager, so that no query runs at the end.

    Args:
        catalog: connections for queries that run no code but PostgreSQL's own.
    """

    def __init__(self, catalog: Connections) -> None:
        self._catalog = catalog
        # The relations that are waited for, each with what is set when its lock is gone.
        self._released: dict[LockedRelation, asyncio.Event] = {}
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def released(self, relations: Collection[LockedRelation]) -> None:
        """Wait until nobody has locked any of some relations, or waits to do so.

        It may return earlier, when the server stops. The caller looks up its rows again anyway.
        """
        for relation in relations:
            if relation not in self._released:
                self._released[relation] = asyncio.Event()
                logger.warning(
                    "%s is locked; changes that cannot be checked without it wait until it is not",
                    relation,
                )
        waiting = [self._released[relation] for relation in relations]
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        for one in waiting:
            await one.wait()

    async def _watch(self) -> None:
        try:
            pause, most = _PAUSES
            while self._released:
                await asyncio.sleep(pause)
                pause = min(pause * 1.5, most)
                # Relations that come meanwhile are asked about the next time.
                asked = list(self._released)
                try:
                    async with self._catalog.one() as connection:
                        cursor = await connection.execute(LOCKED_RELATIONS)
                        still = {oid for (oid,) in await cursor.fetchall()}
                except psycopg.Error as exc:
                    logger.debug("it is not known whether tables are locked: %s", brief(exc))
                    continue
                for relation in asked:
                    if relation.oid not in still:
                        logger.info("%s is not locked any more", relation)
                        self._released.pop(relation).set()
        finally:
            # However this task ends, nobody must wait for it any longer.
            for released in self._released.values():
                released.set()
            self._released.clear()
