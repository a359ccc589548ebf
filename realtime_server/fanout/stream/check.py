"""What ``--check`` finds about STREAM mode: publications that show more than is meant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import psycopg

from realtime_core import Finding
from realtime_core.replication.commands import quote_identifier
from realtime_core.sources.failures import connection_failed

from ...config import SETTING_NAMES
from ...config.database.connections import connect

__all__ = ["stream_findings"]

_FOR_ALL_TABLES: Final = """
    SELECT p.pubname FROM pg_catalog.pg_publication p
    WHERE p.puballtables AND p.pubname = ANY (%s) ORDER BY 1
"""


async def stream_findings(dsn: str, publications: Sequence[str]) -> tuple[Finding, ...]:
    """Warn of publications FOR ALL TABLES, for ``--check``; change nothing.

    In STREAM mode every client that may join sees all changes of a published table.

    Args:
        dsn: connection string of the database, with the server's role.
        publications: names of the publications that the server streams (PUBLICATIONS).

    Raises:
        SourceError: if the database cannot be queried.
    """
    try:
        async with await connect(dsn, name="check") as connection:
            cursor = await connection.execute(_FOR_ALL_TABLES, [list(publications)])
            names = [str(name) async for (name,) in cursor]
    except psycopg.Error as exc:
        raise connection_failed(exc, SETTING_NAMES) from exc
    return tuple(
        Finding.warning(
            "all tables",
            f"publication {quote_identifier(name)} is FOR ALL TABLES: everybody who may join can "
            "see the changes of each table, also of those that are made later",
            f"CREATE PUBLICATION {quote_identifier(f'{name}_tables')} FOR TABLE my_table;",
            remedy="and set PUBLICATIONS to its name",
        )
        for name in names
    )
