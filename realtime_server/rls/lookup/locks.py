"""Locks: waiting until tables are no longer locked.

While a table is altered, no viewer's rows can be looked up, which is no viewer's fault. However
many viewers wait for a table, one query asks for all of them whether its lock is gone, and one line
in the log names the table.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from types import TracebackType
from typing import Final, Self

import attrs
import psycopg

from ...config.database.connections import Connections, brief
from ...config.database.tables import Table

__all__ = ["Locks"]

logger = logging.getLogger("realtime.rls")

_PAUSES: Final = (0.05, 0.5)
"""The fewest and the most seconds between two looks at the locks."""

# The same condition as in the functions that look rows up, or viewers would be sent back and forth.
_LOCKED: Final = """
    SELECT DISTINCT l.relation FROM pg_catalog.pg_locks l
    WHERE l.mode OPERATOR(pg_catalog.=) 'AccessExclusiveLock'
        AND l.relation OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.oid[])
"""


@attrs.define(eq=False)
class _Locked:
    """A table that is locked."""

    table: Table
    released: asyncio.Event = attrs.field(factory=asyncio.Event)


class Locks:
    """Waits for locked tables. Use it as a context manager, so that no query runs at the end.

    Args:
        catalog: connections for queries that run no code but PostgreSQL's own.
    """

    def __init__(self, catalog: Connections) -> None:
        self._catalog = catalog
        self._locked: dict[int, _Locked] = {}
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

    async def released(self, tables: Collection[Table]) -> None:
        """Wait until nobody has locked any of some tables, or waits to do so."""
        for table in tables:
            if table.oid not in self._locked:
                self._locked[table.oid] = _Locked(table)
                logger.warning(
                    "table %s.%s is locked; its changes wait until it is not",
                    table.schema,
                    table.name,
                )
        waiting = [self._locked[table.oid] for table in tables]
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._watch())
        for one in waiting:
            await one.released.wait()

    async def _watch(self) -> None:
        pause, most = _PAUSES
        while self._locked:
            await asyncio.sleep(pause)
            pause = min(pause * 1.5, most)
            # Tables that come meanwhile are asked about the next time.
            asked = list(self._locked)
            try:
                async with self._catalog.one() as connection:
                    cursor = await connection.execute(_LOCKED, [asked])
                    still = {oid for (oid,) in await cursor.fetchall()}
            except psycopg.Error as exc:
                logger.debug("it is not known whether tables are locked: %s", brief(exc))
                continue
            for oid in set(asked) - still:
                one = self._locked.pop(oid)
                logger.info("table %s.%s is not locked any more", one.table.schema, one.table.name)
                one.released.set()
