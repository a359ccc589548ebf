"""Lookup: tables as they are now, for many who ask at once.

Theory of operation. There is one connection and one question at a time. Whoever asks while one is
under way shares the next, so that thousands who join the same topic after a restart are two
questions. A table that was found is remembered for some seconds; one that was not is asked for
each time, since it may be made at any moment. The connection is made when somebody asks, and
closed when nobody does.

While the database cannot be asked the answer is None, without a new attempt for a moment: nobody
waits for a database that is away longer than one question may take.
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
from ...net.aio import cancel_within

__all__ = ["RETRY", "Answer", "Lookup"]

logger = logging.getLogger("realtime.catalog")

_REMEMBERED: Final = 2.0
"""Seconds for which a table is taken to be as it was found, unless a change shows it otherwise."""
_MOST_REMEMBERED: Final = 1000
"""Tables."""
_MOST_NAMES: Final = 500
"""In one question."""
_PATIENCE: Final = 1.0
"""Seconds that a question may take, and that one who asks waits."""
RETRY: Final = 1.0
"""Seconds until the database is asked again that could not be."""
_TOO_LONG: Final = f"it takes more than {_PATIENCE:g} s"
_IDLE: Final = 60.0
"""Seconds without a question until the connection is closed."""


@attrs.frozen
class Answer:
    """What there is."""

    tables: Mapping[TableName, Table | None]
    """By the names that were asked for; None where there is no table."""
    enums: EnumOrders
    """The labels of their columns' enum types in the declared order, by schema and name."""
    is_fresh: bool
    """Whether all of it was read after it was asked for."""


class _Question:
    """Names that are asked for together."""

    def __init__(self) -> None:
        self.names: dict[TableName, None] = {}
        self.answer: asyncio.Future[Mapping[TableName, Table] | None] = (
            asyncio.get_running_loop().create_future()
        )

    def settle(self, found: Mapping[TableName, Table] | None) -> None:
        if not self.answer.done():
            self.answer.set_result(found)


class Lookup:
    """Answers questions about tables. Use it as a context manager.

    Args:
        dsn: of the database, as the server's role.
        publications: whose tables' changes are streamed.
        enum_orders: labels of enums in their declared order, by schema and name. Those of tables
            that are asked for are kept up here: a type may be newer than what filled it.
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
        # When it was asked for, and what was found; the last one asked for is the last.
        self._remembered: OrderedDict[TableName, tuple[float, Table]] = OrderedDict()
        # Of the question under way.
        self._reading: set[TableName] = set()
        self._questions: deque[_Question] = deque()
        self._asked = asyncio.Event()
        self._connection: AsyncConnection[TupleRow] | None = None
        self._task: asyncio.Task[None]
        # While the database is not asked: until when.
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

    async def tables(self, names: Collection[TableName], *, fresh: bool = False) -> Answer | None:
        """Return what there is of these names; None if the database cannot be asked.

        Args:
            names: schemas and tables.
            fresh: ask, whatever is remembered.
        """
        now = asyncio.get_running_loop().time()
        tables: dict[TableName, Table | None] = {}
        for name in () if fresh else names:
            asked_at, table = self._remembered.get(name, (now - _REMEMBERED, None))
            if now - asked_at < _REMEMBERED:
                tables[name] = table
        missing = [name for name in names if name not in tables]
        if not missing:
            return Answer(tables, self._enum_orders, is_fresh=not tables)
        if self._away_until is not None and now < self._away_until:
            return None
        found = await self._ask(missing)
        if found is None:
            return None
        is_fresh = not tables
        tables |= {name: found.get(name) for name in missing}
        return Answer(tables, self._enum_orders, is_fresh)

    def forget(self, name: TableName) -> None:
        """Remember a table no more, nor what is being read of it now."""
        self._remembered.pop(name, None)
        self._reading.discard(name)

    async def _ask(self, names: Collection[TableName]) -> Mapping[TableName, Table] | None:
        if not self._questions or len(self._questions[-1].names) >= _MOST_NAMES:
            self._questions.append(_Question())
        question = self._questions[-1]
        question.names.update(dict.fromkeys(names))
        self._asked.set()
        try:
            async with asyncio.timeout(_PATIENCE):
                return await asyncio.shield(question.answer)
        except TimeoutError:
            self._note_away(_TOO_LONG)
            return None

    async def _run(self) -> None:
        """Answer questions, for ever."""
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
            await asyncio.wait({reading}, timeout=_PATIENCE)
            found = self._result(reading)
            for name, table in (found or {}).items():
                if name in self._reading:
                    self._remembered[name] = asked_at, table
                    self._remembered.move_to_end(name)
            while len(self._remembered) > _MOST_REMEMBERED:
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
        """Return what was read; note whether the database can be asked."""
        if not reading.done():
            self._note_away(_TOO_LONG)
            return None
        try:
            found = reading.result()
        except (psycopg.Error, SourceError) as exc:
            self._note_away(one_line(exc))
            return None
        except Exception:
            logger.exception("joins cannot be checked, a fault of the server's; please report it")
            self._note_away("see above")
            return None
        if self._away_until is not None:
            logger.info("joins are checked against the database again")
            self._away_until = None
        return found

    def _note_away(self, why: str) -> None:
        if self._away_until is None:
            logger.warning(
                "joins are accepted unchecked while the database cannot be asked: %s", why
            )
        self._away_until = asyncio.get_running_loop().time() + RETRY
        while self._questions:
            self._questions.popleft().settle(None)

    async def _read_again(self, names: Sequence[TableName]) -> Mapping[TableName, Table]:
        """Read, on a new connection if the old one has died meanwhile."""
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
        # No name has this character, and psycopg refuses all of a question that has it.
        names = [name for name in names if not any("\0" in part for part in name)]
        try:
            found = await read_tables(self._connection, names, (), self._publications)
        except psycopg.DataError:
            # The database's encoding has no such name: there is no such table, but others' may be.
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
