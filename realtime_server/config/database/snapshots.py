"""Snapshots: which transactions have ended, so that everybody sees what they did.

A transaction's changes can be read from the WAL before others can see them. A row that is looked up
too early is not there yet, and neither is a table that the transaction made.
"""

from __future__ import annotations

from typing import Any, Self

import attrs
from psycopg import AsyncConnection

__all__ = ["Snapshot", "current_snapshot"]


@attrs.frozen
class Snapshot:
    """A snapshot as ``pg_current_snapshot()`` returns it. Transaction ids have 64 bits here."""

    xmin: int
    """All transactions with lower ids have ended."""
    xmax: int
    """No transaction with this id or a higher one has ended."""
    under_way: frozenset[int]
    """The ids between the two whose transactions have not ended."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read PostgreSQL's text, which is ``xmin:xmax:ids under way``."""
        lowest, following, running = text.split(":")
        under_way = frozenset(map(int, running.split(","))) if running else frozenset()
        return cls(int(lowest), int(following), under_way)

    def is_over(self, xid: int) -> bool:
        """Return whether a transaction has ended.

        Args:
            xid: the lower 32 bits of its id, as the stream has them.
        """
        # Of the ids with these 32 bits, the one nearest to the snapshot.
        whole = xid + ((self.xmax - xid + 0x80000000) & ~0xFFFFFFFF)
        return whole < self.xmin or (whole < self.xmax and whole not in self.under_way)


async def current_snapshot(connection: AsyncConnection[Any]) -> Snapshot:
    """Return the database's snapshot of now.

    Raises:
        psycopg.Error: if the query fails.
    """
    cursor = await connection.execute("SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text")
    [[text]] = await cursor.fetchall()
    return Snapshot.parse(text)
