"""Snapshots: which transactions are over for everybody.

A transaction is in WAL before others can see what it did: a row that is looked up then is not
there yet, and neither is a table that it made.
"""

from __future__ import annotations

from typing import Any, Self

import attrs
from psycopg import AsyncConnection

__all__ = ["Snapshot", "current_snapshot"]


@attrs.frozen
class Snapshot:
    """What ``pg_current_snapshot()`` says."""

    xmin: int
    """All before are over. With 64 bits, as the others."""
    xmax: int
    """None from there on is."""
    under_way: frozenset[int]
    """Those in between that are not."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read PostgreSQL's text: ``xmin:xmax:under way``."""
        lowest, following, running = text.split(":")
        under_way = frozenset(map(int, running.split(","))) if running else frozenset()
        return cls(int(lowest), int(following), under_way)

    def is_over(self, xid: int) -> bool:
        """Say whether a transaction, named by its 32 bits, is over for everybody."""
        # Of the numbers with these 32 bits, the one next to the snapshot.
        whole = xid + ((self.xmax - xid + 0x80000000) & ~0xFFFFFFFF)
        return whole < self.xmin or (whole < self.xmax and whole not in self.under_way)


async def current_snapshot(connection: AsyncConnection[Any]) -> Snapshot:
    """Ask for a snapshot.

    Raises:
        psycopg.Error: if the database cannot be asked.
    """
    cursor = await connection.execute("SELECT pg_catalog.pg_current_snapshot()::pg_catalog.text")
    [[text]] = await cursor.fetchall()
    return Snapshot.parse(text)
