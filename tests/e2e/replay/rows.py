"""Rows that are written without a pause, and where the write-ahead log has each."""

from __future__ import annotations

import asyncio
import random
import re
from bisect import bisect_left
from typing import Final, NamedTuple, Self

import psycopg

from tests.fix_postgres import Database

__all__ = ["Place", "Transaction", "Writer", "Written", "parse_place"]

Place = tuple[int, int]
"""A commit's LSN, and the index of a change in its transaction."""

_SIZES: Final = (1, 1, 1, 2, 5, 20, 100)
"""Rows of a transaction."""
_LENGTHS: Final = (5, 40, 40, 200, 2000)
"""Characters of a row."""
_PAUSE: Final = 0.12
"""Seconds at most between two transactions."""


def parse_place(position: str) -> Place:
    """Read the position of a gap message: ``0/164C208:4@7711788188615102203.1/shop``."""
    found = re.match(r"([0-9A-F]+)/([0-9A-F]+):(-?\d+)@", position)
    assert found, position
    return (int(found[1], 16) << 32) + int(found[2], 16), int(found[3])


class Transaction(NamedTuple):
    """Rows that were committed together."""

    first: int
    last: int
    """Their ids."""
    before: int
    after: int
    """LSNs, between which its commit is: not below the one, below the other."""


class Written:
    """What was written, in the order of the commits, which is that of the ids."""

    def __init__(self) -> None:
        self.transactions: list[Transaction] = []

    @property
    def last(self) -> int:
        """The last row's id; 0 if there is none."""
        return self.transactions[-1].last if self.transactions else 0

    def is_between(self, row: int, after: Place | None, until: Place) -> bool:
        """Whether a row's place is above the one and not above the other."""
        found = bisect_left(self.transactions, row, key=lambda each: each.last)
        transaction = self.transactions[found]
        index = row - transaction.first

        def is_above(place: Place) -> bool:
            if place[0] < transaction.before:
                return True
            return place[0] < transaction.after and place[1] < index

        return (after is None or is_above(after)) and not is_above(until)


class Writer:
    """Writes rows into a table ``item (id int8, note text)`` while it is open, one by one.

    Args:
        database: has the table.
        seed: of sizes and pauses.
    """

    def __init__(self, database: Database, *, seed: int) -> None:
        self.written = Written()
        self._dsn = database.dsn
        self._random = random.Random(seed)
        self._is_over = False
        self._writing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        self._connection = await psycopg.AsyncConnection.connect(self._dsn, autocommit=True)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        self._is_over = True
        await self._task
        await self._connection.close()

    @property
    def is_writing(self) -> bool:
        """Whether it has not failed; the end of the block raises why."""
        return not self._task.done()

    async def write(self, count: int) -> None:
        """Write so many rows in one transaction."""
        async with self._writing:
            first = self.written.last + 1
            last = first + count - 1
            length = self._random.choice(_LENGTHS)
            before = await self._lsn()
            await self._connection.execute(
                "insert into item select id, %s from generate_series(%s::int8, %s) as id",
                ("x" * length, first, last),
            )
            self.written.transactions.append(Transaction(first, last, before, await self._lsn()))

    async def _lsn(self) -> int:
        cursor = await self._connection.execute("select pg_current_wal_insert_lsn() - '0/0'")
        found = await cursor.fetchone()
        assert found is not None
        return int(found[0])

    async def _run(self) -> None:
        while not self._is_over:
            await self.write(self._random.choice(_SIZES))
            await asyncio.sleep(self._random.uniform(0, _PAUSE))
