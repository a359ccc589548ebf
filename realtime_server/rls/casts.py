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

from .connections import Connections
from .payloads import Answers

__all__ = ["Casts"]

logger = logging.getLogger("realtime.rls")

_REFUSED_FOR: Final = 60.0
"""Seconds for which a type is not asked about that took too long."""

_CAST: Final = """
    SELECT realtime.cast(v.text, v.type::pg_catalog.regtype)::text
    FROM ROWS FROM (pg_catalog.unnest(%s::oid[]), pg_catalog.unnest(%s::text[]))
        WITH ORDINALITY AS v (type, text, place)
    ORDER BY v.place
"""


class Casts:
    """Asks the database for JSON.

    Args:
        connections: whose ``statement_timeout`` says what takes too long.
    """

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
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
        except psycopg.Error as exc:
            if not _is_about_values(exc):
                raise
        # Which type is it? Each by itself, and the others are answered.
        answers: dict[tuple[int, str], str] = {}
        for oid, group in groupby(asked, itemgetter(0)):
            answers.update(await self._ask_for_one(oid, list(group)))
        return answers

    async def _ask_for_one(self, oid: int, values: list[tuple[int, str]]) -> Answers:
        try:
            return await self._ask(values)
        except psycopg.Error as exc:
            if not _is_about_values(exc):
                raise
            name = await self._name_of(oid)
            if isinstance(exc, psycopg.errors.QueryCanceled):
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
            cursor = await connection.execute(
                _CAST, [[oid for oid, _ in values], [text for _, text in values]]
            )
            rows = await cursor.fetchall()
        return dict(zip(values, (row[0] for row in rows), strict=True))

    async def _name_of(self, oid: int) -> str:
        async with self._connections.one() as connection:
            cursor = await connection.execute("SELECT pg_catalog.format_type(%s::oid, NULL)", [oid])
            [[name]] = await cursor.fetchall()
        return str(name)


def _is_about_values(exc: psycopg.Error) -> bool:
    return isinstance(exc, psycopg.errors.QueryCanceled) or not isinstance(
        exc, psycopg.OperationalError
    )
