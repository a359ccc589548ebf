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

from ..lsn import LSN

__all__ = [
    "ServerFacts",
    "Slot",
    "enum_labels",
    "missing_publications",
    "primary_key",
    "server_facts",
    "slot",
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


@attrs.frozen
class Slot:
    """A replication slot; see ``pg_replication_slots``."""

    name: str
    slot_type: str
    """``logical`` or ``physical``."""
    plugin: str | None
    """Output plugin, of a logical slot."""
    database: str | None
    """Of a logical slot."""
    temporary: bool
    active_pid: int | None
    """Process ID of the walsender that streams from it."""
    wal_status: str | None
    """``lost`` when WAL that it needs is gone."""
    confirmed_flush_lsn: LSN
    """Up to where its consumer has acknowledged; it streams from there."""


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


async def slot(connection: AsyncConnection[Any], name: str) -> Slot | None:
    """Return what is known of a replication slot, None if the cluster has none of that name."""
    rows = await _rows(
        connection,
        """
        SELECT slot_type, plugin, database, temporary, active_pid, wal_status,
               (confirmed_flush_lsn - '0/0')::pg_catalog.int8
        FROM pg_catalog.pg_replication_slots WHERE slot_name = %s
        """,
        [name],
    )
    if not rows:
        return None
    kind, plugin, database, temporary, pid, wal_status, confirmed = rows[0]
    return Slot(name, kind, plugin, database, temporary, pid, wal_status, LSN(confirmed or 0))


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
