"""Casts: the JSON of values that only the database can make, as of rows and extensions' types.

A type's own functions, a domain's check or a cast do that, so it may fail, or take any time. That
must not keep changes back: values of such a type are shown as text, and those of a type that takes
too long for some time, without asking again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import Final

import psycopg

from ...config.database.connections import Connections
from ..payloads import Answers

__all__ = ["Casts"]

logger = logging.getLogger("realtime.rls")

_REFUSED_FOR: Final = 60.0
"""Seconds for which a type is not asked about that took too long."""

_TIMED_OUT: Final = psycopg.errors.QueryCanceled.sqlstate

# In the order of the values, which are sorted.
_CAST: Final = """
    SELECT c.json::pg_catalog.text
    FROM (
        SELECT v.type, pg_catalog.array_agg(v.text ORDER BY v.place) AS texts
        FROM ROWS FROM (
            pg_catalog.unnest(%s::pg_catalog.oid[]), pg_catalog.unnest(%s::pg_catalog.text[])
        ) WITH ORDINALITY AS v (type, text, place)
        GROUP BY v.type
    ) g
    CROSS JOIN LATERAL pg_catalog.unnest(
        realtime.core_cast_all(g.texts, g.type::pg_catalog.regtype)
    ) WITH ORDINALITY AS c (json, place)
    ORDER BY g.type, c.place
"""


class Casts:
    """Asks the database for JSON.

    Args:
        connections: that have a ``statement_timeout``.
        timeout: seconds of that.
    """

    def __init__(self, connections: Connections, timeout: float) -> None:
        self._connections = connections
        self._timeout = timeout
        # By a type's OID, until when.
        self._refused: dict[int, float] = {}

    async def json_of(self, values: Iterable[tuple[int, str]]) -> Answers:
        """Return what the database makes of values, each with its type's OID.

        Those that are missing then are to be shown as text.

        Raises:
            psycopg.OperationalError: if the database cannot be asked.
        """
        now = asyncio.get_running_loop().time()
        self._refused = {oid: until for oid, until in self._refused.items() if until > now}
        asked = sorted(value for value in values if value[0] not in self._refused)
        if not asked:
            return {}
        try:
            return await self._ask(asked)
        except (_LostError, _ValueError):
            # If PostgreSQL was restarted, there is no connection yet.
            pass
        # Which type is it? Each by itself, and the others are answered.
        answers: dict[tuple[int, str], str] = {}
        for oid, group in groupby(asked, itemgetter(0)):
            answers.update(await self._ask_for_one(oid, list(group)))
        return answers

    async def _ask_for_one(self, oid: int, values: list[tuple[int, str]]) -> Answers:
        try:
            return await self._ask(values)
        except _LostError:
            name = await self._name_of(oid)
            self._refused[oid] = asyncio.get_running_loop().time() + _REFUSED_FOR
            logger.warning(
                "making JSON of values of type %s ends the session; they are shown as text for "
                "%d s; look at the type's checks and casts",
                name,
                _REFUSED_FOR,
            )
        except _ValueError as exc:
            name = await self._name_of(oid)
            if exc.sqlstate == _TIMED_OUT:
                self._refused[oid] = asyncio.get_running_loop().time() + _REFUSED_FOR
                logger.warning(
                    "values of type %s take too long to become JSON, and are shown as text for "
                    "%d s; make the type's checks and casts faster, or raise RLS_CHECK_TIMEOUT",
                    name,
                    _REFUSED_FOR,
                )
            else:
                # A type that is gone or has changed, or a value that its checks allow no more.
                logger.warning(
                    "values of type %s cannot become JSON (%s), and are shown as text",
                    name,
                    exc.sqlstate,
                )
        return {}

    async def _ask(self, values: list[tuple[int, str]]) -> Answers:
        async with self._connections.one() as connection:
            pid = connection.info.backend_pid
            try:
                # A check that catches the cancellation would run for ever.
                async with asyncio.timeout(self._timeout * 2 + 1):
                    cursor = await connection.execute(
                        _CAST, [[oid for oid, _ in values], [text for _, text in values]]
                    )
                    rows = await cursor.fetchall()
                return dict(zip(values, (row[0] for row in rows), strict=True))
            except TimeoutError:
                await connection.close()
            except psycopg.Error as exc:
                # Any SQLSTATE may be a check's own, OperationalError's too.
                if connection.closed:
                    raise _LostError from exc
                raise _ValueError(exc.sqlstate) from exc
        await self._connections.terminate(pid)
        raise _ValueError(_TIMED_OUT)

    async def _name_of(self, oid: int) -> str:
        async with self._connections.one() as connection:
            cursor = await connection.execute(
                "SELECT pg_catalog.format_type(%s::pg_catalog.oid, NULL)", [oid]
            )
            [[name]] = await cursor.fetchall()
        return str(name)


class _LostError(Exception):
    """The connection was lost while values were looked at."""


class _ValueError(Exception):
    """PostgreSQL has raised an error because of the values, or of the time that they take."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__()
        self.sqlstate = sqlstate
