"""TableLookup: reads from the database how tables are now, for many joins at once.

Theory of operation. There is one connection, and one query at a time. All joins that come while a
query runs share the next one, so that thousands of clients that join the same topic after a restart
cost two queries. A table that was found is remembered for some seconds. One that was not found is
queried each time, since it may be made at any moment. The connection is opened for the first query,
and closed when there was none for a minute.

While the database cannot be queried the answer is None, and it is not tried again for a moment: no
join waits longer than one query may take.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Collection, Mapping, Sequence
from types import TracebackType
from typing import Final, Self

import attrs
import psycopg
from psycopg import AsyncConnection
from psycopg.rows import TupleRow

from realtime_core.errors import SourceError
from realtime_core.filters import EnumOrders
from realtime_core.sources.catalog import enum_orders as read_enum_orders
from realtime_core.sources.failures import one_line

from ...config.database.catalog import read_tables
from ...config.database.connections import Dsn, connect
from ...config.database.tables import Table, TableName
from ..cancellation import cancel_within

__all__ = ["RETRY", "FoundTables", "TableLookup"]

logger = logging.getLogger("realtime.catalog")

_REMEMBERED: Final = 2.0
"""Seconds for which a table is remembered, unless a change shows that it was altered."""
_MAX_REMEMBERED: Final = 1000
"""Tables that are remembered."""
_MAX_NAMES: Final = 500
"""Tables that one query reads."""
_TIMEOUT: Final = 1.0
"""Seconds that a query may take, and that a join waits for its answer."""
RETRY: Final = 1.0
"""Seconds until the database is tried again after it could not be queried."""
_TOO_LONG: Final = f"it takes more than {_TIMEOUT:g} s"
_IDLE: Final = 60.0
"""Seconds without a query until the connection is closed."""


@attrs.frozen
class FoundTables:
    """The tables that were found."""

    tables: Mapping[TableName, Table | None]
    """The tables by the names that were requested; None if there is no such table."""
    enums: EnumOrders
    """The labels of their columns' enum types in the declared order, by schema and name."""
    is_fresh: bool
    """Whether everything here was read after the request, and nothing was remembered."""


class _Question:
    """Tables that one query reads, and its answer."""

    def __init__(self) -> None:
        self.names: dict[TableName, None] = {}
        self.answer: asyncio.Future[Mapping[TableName, Table] | None] = (
            asyncio.get_running_loop().create_future()
        )

    def settle(self, found: Mapping[TableName, Table] | None) -> None:
        if not self.answer.done():
            self.answer.set_result(found)


class TableLookup:
    """Reads from the database which tables exist. Use it as a context manager.

    Args:
        dsn: returns the connection string, with the server's role.
        publications: names of the publications that the server reads.
        enum_orders: labels of enum types in their declared order, by schema and name. It is updated
            with the types of the tables that are read, which may be newer than what filled it.
    """

    def __init__(
        self,
        dsn: Dsn,
        publications: Sequence[str],
        *,
        enum_orders: dict[tuple[str, str], tuple[str, ...]],
    ) -> None:
        self._dsn = dsn
        self._publications = publications
        # When each table was read, and what was found; the one that was read last is the last.
        self._remembered: OrderedDict[TableName, tuple[float, Table]] = OrderedDict()
        # The tables that the current query reads, unless they were forgotten meanwhile.
        self._reading: set[TableName] = set()
        # The queries that have to be made, and whether there are any.
        self._questions: deque[_Question] = deque()
        self._asked = asyncio.Event()
        # To the database; None while it is not needed.
        self._connection: AsyncConnection[TupleRow] | None = None
        self._task: asyncio.Task[None]
        # Until when the database is not tried again; None if it could be queried last.
        self._away_until: float | None = None
        self._enum_orders = enum_orders

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        for question in self._questions:
            question.settle(None)
        await self._disconnect()

    async def tables(
        self, names: Collection[TableName], *, fresh: bool = False
    ) -> FoundTables | None:
        """Return the tables that have these names; None if the database cannot be queried.

        Args:
            names: pairs of schema and table.
            fresh: whether to query the database for all, whatever is remembered.
        """
        now = asyncio.get_running_loop().time()
        tables: dict[TableName, Table | None] = {}
        for name in () if fresh else names:
            asked_at, table = self._remembered.get(name, (now - _REMEMBERED, None))
            if now - asked_at < _REMEMBERED:
                tables[name] = table
        missing = [name for name in names if name not in tables]
        if not missing:
            return FoundTables(tables, self._enum_orders, is_fresh=not tables)
        if self._away_until is not None and now < self._away_until:
            return None
        found = await self._ask(missing)
        if found is None:
            return None
        is_fresh = not tables
        tables |= {name: found.get(name) for name in missing}
        return FoundTables(tables, self._enum_orders, is_fresh)

    def forget(self, name: TableName) -> None:
        """Forget what was read about a table, also by the query that runs now."""
        self._remembered.pop(name, None)
        self._reading.discard(name)

    async def _ask(self, names: Collection[TableName]) -> Mapping[TableName, Table] | None:
        if not self._questions or len(self._questions[-1].names) >= _MAX_NAMES:
            self._questions.append(_Question())
        question = self._questions[-1]
        question.names.update(dict.fromkeys(names))
        self._asked.set()
        try:
            async with asyncio.timeout(_TIMEOUT):
                return await asyncio.shield(question.answer)
        except TimeoutError:
            self._note_away(_TOO_LONG)
            return None

    async def _run(self) -> None:
        """Make queries; never return."""
        while True:
            try:
                async with asyncio.timeout(_IDLE):
                    await self._asked.wait()
            except TimeoutError:
                await self._disconnect()
                continue
            self._asked.clear()
            while self._questions:
                await self._answer(self._questions.popleft())

    async def _answer(self, question: _Question) -> None:
        asked_at = asyncio.get_running_loop().time()
        self._reading = set(question.names)
        reading = asyncio.create_task(self._read_again(tuple(question.names)))
        try:
            await asyncio.wait({reading}, timeout=_TIMEOUT)
            found = self._result(reading)
            for name, table in (found or {}).items():
                if name in self._reading:
                    self._remembered[name] = asked_at, table
                    self._remembered.move_to_end(name)
            while len(self._remembered) > _MAX_REMEMBERED:
                self._remembered.popitem(last=False)
            question.settle(found)
        finally:
            question.settle(None)
            if not reading.done():
                await cancel_within({reading}, 0)
                await self._disconnect()

    def _result(
        self, reading: asyncio.Task[Mapping[TableName, Table]]
    ) -> Mapping[TableName, Table] | None:
        """Return what a query found; note whether the database can be queried."""
        if not reading.done():
            self._note_away(_TOO_LONG)
            return None
        # To raise the error here would make it refer to this task, and so to itself.
        error = reading.exception()
        if isinstance(error, psycopg.Error | SourceError):
            self._note_away(one_line(error))
            return None
        if error is not None:
            logger.error(
                "joins cannot be checked (a bug in realtime_server: please report it)",
                exc_info=error,
            )
            self._note_away("see the error above")
            return None
        if self._away_until is not None:
            logger.info("joins are checked against the database again")
            self._away_until = None
        return reading.result()

    def _note_away(self, why: str) -> None:
        if self._away_until is None:
            logger.warning(
                "joins are accepted unchecked while the database cannot be queried: %s", why
            )
        self._away_until = asyncio.get_running_loop().time() + RETRY
        while self._questions:
            self._questions.popleft().settle(None)

    async def _read_again(self, names: Sequence[TableName]) -> Mapping[TableName, Table]:
        """Read tables, on a new connection if the old one turns out to be dead."""
        is_old = self._connection is not None
        try:
            return await self._read(names)
        except psycopg.OperationalError:
            await self._disconnect()
            if not is_old:
                raise
        return await self._read(names)

    async def _read(self, names: Sequence[TableName]) -> Mapping[TableName, Table]:
        if self._connection is None:
            self._connection = await connect(await self._dsn(), name="catalog")
        # No name in PostgreSQL has this character, and psycopg refuses a query that has it.
        names = [name for name in names if not any("\0" in part for part in name)]
        try:
            found = await read_tables(self._connection, names, (), self._publications)
        except psycopg.DataError:
            # A name cannot be written in the database's encoding: there is no such table. Read the
            # others one by one.
            if len(names) == 1:
                return {}
            found = {}
            for name in names:
                found |= await self._read([name])
            return found
        if any(table.has_enums for table in found.values()):
            self._enum_orders.update(await read_enum_orders(self._connection))
        return found

    async def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()
