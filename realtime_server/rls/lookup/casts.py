"""Casts: asks the database for the JSON of values of composite types and extensions' types.

The type's functions, a domain's check or a cast make it, so it may fail, or take any time. That
must not hold up changes: values for which it fails are sent as text. If a type takes too long, the
database is not asked for its values for a while.
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
"""Seconds for which the database is not asked for values of a type that took too long."""

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
    """Asks the database for the JSON of values.

    Args:
        connections: a pool of connections that have a ``statement_timeout``.
        timeout: how many seconds that is.
    """

    def __init__(self, connections: Connections, timeout: float) -> None:
        self._connections = connections
        self._timeout = timeout
        # Until when the database is not asked for values of a type, by the type's OID.
        self._refused: dict[int, float] = {}

    async def json_of(self, values: Iterable[tuple[int, str]]) -> Answers:
        """Return the JSON of values.

        Args:
            values: each value's type, as its OID, and text.

        Returns:
            The JSON by type and text. A value that is missing in it is to be sent as text.

        Raises:
            psycopg.OperationalError: if the database cannot be reached.
        """
        now = asyncio.get_running_loop().time()
        self._refused = {oid: until for oid, until in self._refused.items() if until > now}
        asked = sorted(value for value in values if value[0] not in self._refused)
        if not asked:
            return {}
        try:
            return await self._ask(asked)
        except (_LostError, _ValueError):
            # A type is the cause, or PostgreSQL was restarted.
            pass
        # Ask for each type by itself, so that one type's failure does not affect the others.
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
                "making JSON of values of type %s ends the session; they are sent as text for "
                "%d s; look at the type's checks and casts",
                name,
                _REFUSED_FOR,
            )
        except _ValueError as exc:
            name = await self._name_of(oid)
            if exc.sqlstate == _TIMED_OUT:
                self._refused[oid] = asyncio.get_running_loop().time() + _REFUSED_FOR
                logger.warning(
                    "making JSON of values of type %s takes too long; they are sent as text for "
                    "%d s; make the type's checks and casts faster, or raise RLS_CHECK_TIMEOUT",
                    name,
                    _REFUSED_FOR,
                )
            else:
                # The type was dropped or changed, or its checks no longer allow a value.
                logger.warning(
                    "PostgreSQL cannot make JSON of values of type %s (SQLSTATE %s); they are sent "
                    "as text",
                    name,
                    exc.sqlstate,
                )
        return {}

    async def _ask(self, values: list[tuple[int, str]]) -> Answers:
        async with self._connections.one() as connection:
            pid = connection.info.backend_pid
            try:
                # A type's check that catches the cancellation of its statement would run for ever.
                async with asyncio.timeout(self._timeout * 2 + 1):
                    cursor = await connection.execute(
                        _CAST, [[oid for oid, _ in values], [text for _, text in values]]
                    )
                    rows = await cursor.fetchall()
                return dict(zip(values, (row[0] for row in rows), strict=True))
            except TimeoutError:
                await connection.close()
            except psycopg.Error as exc:
                # A type's check can raise any SQLSTATE, also those of OperationalError.
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
    """The connection was lost while PostgreSQL made JSON of values."""


class _ValueError(Exception):
    """PostgreSQL could not make JSON of values, or took too long."""

    def __init__(self, sqlstate: str | None) -> None:
        super().__init__()
        self.sqlstate = sqlstate
