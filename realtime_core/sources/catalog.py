"""What the stream does not carry and only SQL knows.

Functions on an open connection, a replication one included: those speak only the simple
query protocol, so open it with ``cursor_factory=psycopg.AsyncClientCursor``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

__all__ = [
    "ServerFacts",
    "enum_labels",
    "missing_publications",
    "primary_key",
    "server_facts",
    "slot_exists",
    "slot_holder",
]


@attrs.frozen
class ServerFacts:
    """What a source must know of its server."""

    version: int
    """``server_version_num``: 170012."""
    database: str
    wal_level: str
    wal_sender_timeout: float
    """In seconds; 0 when off."""
    in_recovery: bool
    """Whether it is a standby."""


async def _rows(
    connection: AsyncConnection[Any], query: str, parameters: Sequence[object] = ()
) -> list[tuple[Any, ...]]:
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(query, parameters or None)
        return await cursor.fetchall()


async def server_facts(connection: AsyncConnection[Any]) -> ServerFacts:
    """Ask the server about itself."""
    rows = await _rows(
        connection,
        """
        SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4,
               pg_catalog.current_database(),
               pg_catalog.current_setting('wal_level'),
               (SELECT setting::pg_catalog.float8 / 1000 FROM pg_catalog.pg_settings
                WHERE name = 'wal_sender_timeout'),
               pg_catalog.pg_is_in_recovery()
        """,
    )
    return ServerFacts(*rows[0])


async def missing_publications(
    connection: AsyncConnection[Any], names: Sequence[str]
) -> tuple[str, ...]:
    """Return those of ``names`` that are not publications of the database, in order."""
    rows = await _rows(
        connection,
        "SELECT pubname FROM pg_catalog.pg_publication WHERE pubname = ANY (%s)",
        [list(names)],
    )
    found = {row[0] for row in rows}
    return tuple(name for name in names if name not in found)


async def slot_exists(connection: AsyncConnection[Any], slot: str) -> bool:
    """Whether the cluster has a replication slot of that name."""
    rows = await _rows(
        connection, "SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_name = %s", [slot]
    )
    return bool(rows)


async def slot_holder(connection: AsyncConnection[Any], slot: str) -> int | None:
    """PID of the process that streams from the slot, None if nobody does."""
    rows = await _rows(
        connection,
        "SELECT active_pid FROM pg_catalog.pg_replication_slots WHERE slot_name = %s",
        [slot],
    )
    return rows[0][0] if rows else None


async def primary_key(connection: AsyncConnection[Any], relation_oid: int) -> tuple[str, ...]:
    """Return the primary key's columns in key order; empty without one.

    Under REPLICA IDENTITY FULL the stream flags every column as key, so this cannot be
    read from a :class:`~realtime_core.changes.Relation`.
    """
    rows = await _rows(
        connection,
        """
        SELECT a.attname
        FROM pg_catalog.pg_index i
        CROSS JOIN LATERAL pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
        JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
        WHERE i.indrelid = %s AND i.indisprimary AND k.place <= i.indnkeyatts
        ORDER BY k.place
        """,
        [relation_oid],
    )
    return tuple(row[0] for row in rows)


async def enum_labels(connection: AsyncConnection[Any], type_oid: int) -> tuple[str, ...]:
    """Return an enum's labels in their declared order; empty for another type."""
    rows = await _rows(
        connection,
        "SELECT enumlabel FROM pg_catalog.pg_enum WHERE enumtypid = %s ORDER BY enumsortorder",
        [type_oid],
    )
    return tuple(row[0] for row in rows)
