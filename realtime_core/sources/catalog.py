"""Queries of the system catalogs, for what the stream does not carry.

The functions take an open connection, which may be a replication one: open that with
``cursor_factory=psycopg.AsyncClientCursor``, because it speaks the simple query protocol only.

The user's search path stays as it is, because PostgreSQL prints the names of types by it. It may
begin with a schema in which somebody has created a function or an operator with a common name, so
each name in these queries has its schema.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from ..lsn import LSN

__all__ = [
    "Blocker",
    "ServerFacts",
    "SlotStatus",
    "blockers",
    "current_xid",
    "enum_labels",
    "enum_orders",
    "may_create",
    "missing_publications",
    "primary_key",
    "rights",
    "server_facts",
    "slot",
    "wal_end_behind",
    "writers_before",
]


@attrs.frozen
class ServerFacts:
    """The facts about the server that a source needs."""

    version: int
    """The setting ``server_version_num``, such as 170012."""
    database: str
    wal_level: str
    wal_sender_timeout: float
    """Seconds of the setting ``wal_sender_timeout``; 0 if it is off."""
    in_recovery: bool
    """Whether the server is a standby."""


@attrs.frozen
class SlotStatus:
    """The state of a replication slot; see ``pg_replication_slots``."""

    name: str
    """Name of the slot."""
    slot_type: str
    """``logical`` or ``physical``."""
    plugin: str | None
    """The output plugin; None for a physical slot."""
    database: str | None
    """The database that it belongs to; None for a physical slot."""
    temporary: bool
    """Whether PostgreSQL drops it with its connection."""
    active_pid: int | None
    """Process ID of the server process that uses the slot: a walsender, or the session that has
    created a temporary slot. None if no process does."""
    restart_lsn: LSN | None
    """LSN of the oldest WAL that the slot needs; None if it is lost."""
    confirmed_flush_lsn: LSN
    """The LSN up to which its consumer has acknowledged; it streams from there."""
    retained_bytes: int | None
    """How many bytes of WAL it keeps on the server's disk; None if it is lost."""
    wal_status: str | None
    """``reserved``, ``extended``, ``unreserved``, or ``lost`` if WAL that it needs was removed."""
    invalidation_reason: str | None
    """Why PostgreSQL has invalidated it, in the words of PostgreSQL 17; None if it has not."""
    failover: bool
    """Whether standbys keep a copy of the slot."""

    @property
    def active(self) -> bool:
        """Whether a server process uses it."""
        return self.active_pid is not None

    def exceeds(self, limit: int) -> bool:
        """Return whether its consumer is behind by more than ``limit`` bytes of WAL.

        A slot may also retain WAL for a transaction that has been open for long. That does not
        count here, because recreating the slot does not help against it.
        """
        if self.retained_bytes is None or self.restart_lsn is None:
            return False
        return self.retained_bytes - (self.confirmed_flush_lsn - self.restart_lsn) > limit

    @property
    def is_lost(self) -> bool:
        """Whether it can never stream again."""
        return self.wal_status == "lost" or self.invalidation_reason is not None


@attrs.frozen
class Blocker:
    """A session, or a prepared transaction, that a server process waits for."""

    pid: int | None
    """Process ID of the session; None for a prepared transaction."""
    database: str | None
    application_name: str | None
    state: str | None
    """The session's state in ``pg_stat_activity``; ``prepared`` for a prepared transaction."""
    query: str | None
    """The session's last statement, if the role may see it."""
    gid: str | None
    """Global identifier of the prepared transaction; None for a session."""

    def __str__(self) -> str:
        if self.gid is not None:
            return f"prepared transaction {self.gid!r}"
        return f"PID {self.pid} ({self.state} in database {self.database!r})"


async def _rows(
    connection: AsyncConnection[Any],
    query: str,
    parameters: Sequence[object] | Mapping[str, object] = (),
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
               (SELECT setting::pg_catalog.float8 OPERATOR(pg_catalog./) 1000
                FROM pg_catalog.pg_settings
                WHERE name OPERATOR(pg_catalog.=) 'wal_sender_timeout'),
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
        """
        SELECT pubname FROM pg_catalog.pg_publication
        WHERE pubname OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.text[])
        """,
        [list(names)],
    )
    found = {row[0] for row in rows}
    return tuple(name for name in names if name not in found)


async def slot(connection: AsyncConnection[Any], name: str) -> SlotStatus | None:
    """Return the state of a replication slot, None if the cluster has no slot of that name."""
    # Some columns are read through JSON, because older servers do not have them.
    rows = await _rows(
        connection,
        """
        SELECT slot_type, plugin, database, temporary, active_pid,
               (restart_lsn OPERATOR(pg_catalog.-) '0/0')::pg_catalog.int8,
               (confirmed_flush_lsn OPERATOR(pg_catalog.-) '0/0')::pg_catalog.int8,
               (CASE WHEN pg_catalog.pg_is_in_recovery()
                     THEN pg_catalog.pg_last_wal_replay_lsn()
                     ELSE pg_catalog.pg_current_wal_lsn() END
                OPERATOR(pg_catalog.-) restart_lsn)::pg_catalog.int8,
               wal_status,
               pg_catalog.jsonb_extract_path_text(pg_catalog.to_jsonb(s), 'invalidation_reason'),
               pg_catalog.jsonb_extract_path_text(pg_catalog.to_jsonb(s), 'conflicting')
                   OPERATOR(pg_catalog.=) 'true',
               coalesce(
                   pg_catalog.jsonb_extract_path_text(pg_catalog.to_jsonb(s), 'failover')
                       OPERATOR(pg_catalog.=) 'true',
                   false
               )
        FROM pg_catalog.pg_replication_slots s
        WHERE slot_name OPERATOR(pg_catalog.=) %s::pg_catalog.text
        """,
        [name],
    )
    if not rows:
        return None
    kind, plugin, database, temporary, pid, restart, confirmed, retained, *rest = rows[0]
    wal_status, invalidation, conflicting, failover = rest
    return SlotStatus(
        name,
        kind,
        plugin,
        database,
        temporary,
        pid,
        None if restart is None else LSN(restart),
        LSN(confirmed or 0),
        None if retained is None else max(retained, 0),
        wal_status,
        # PostgreSQL 16 reports only this reason, as a column of its own.
        invalidation or ("rows_removed" if conflicting else None),
        failover,
    )


async def blockers(connection: AsyncConnection[Any], pid: int) -> tuple[Blocker, ...]:
    """Return the sessions and prepared transactions that a server process waits for."""
    rows = await _rows(
        connection,
        """
        SELECT a.pid, a.datname, a.application_name, a.state, a.query, NULL
        FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(%(pid)s)) AS b (pid)
        JOIN pg_catalog.pg_stat_activity a ON a.pid OPERATOR(pg_catalog.=) b.pid
        UNION ALL
        SELECT NULL, p.database, NULL, 'prepared', NULL, p.gid
        FROM pg_catalog.pg_prepared_xacts p
        JOIN pg_catalog.pg_locks l ON l.pid OPERATOR(pg_catalog.=) %(pid)s AND NOT l.granted
             AND l.locktype OPERATOR(pg_catalog.=) 'transactionid'
             AND l.transactionid OPERATOR(pg_catalog.=) p.transaction
        """,
        {"pid": pid},
    )
    return tuple(Blocker(*row) for row in rows)


async def current_xid(connection: AsyncConnection[Any]) -> int:
    """Return a transaction ID of 64 bits that is higher than that of any writer so far.

    A standby cannot assign one. There it is the ID that follows the last transaction which the
    standby knows to have ended.
    """
    rows = await _rows(
        connection,
        """
        SELECT (CASE WHEN pg_catalog.pg_is_in_recovery()
                     THEN pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())
                     ELSE pg_catalog.pg_current_xact_id() END)::pg_catalog.text
        """,
    )
    return int(rows[0][0])


async def wal_end_behind(connection: AsyncConnection[Any], xid: int) -> LSN | None:
    """Return the end of the WAL; None while a transaction with an ID below ``xid`` still runs."""
    rows = await _rows(
        connection,
        """
        SELECT ((CASE WHEN pg_catalog.pg_is_in_recovery()
                      THEN pg_catalog.pg_last_wal_replay_lsn()
                      ELSE pg_catalog.pg_current_wal_insert_lsn() END)
                OPERATOR(pg_catalog.-) '0/0')::pg_catalog.int8
        WHERE pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())
              OPERATOR(pg_catalog.>=) %s::pg_catalog.text::pg_catalog.xid8
        """,
        [str(xid)],
    )
    return LSN(rows[0][0]) if rows else None


async def writers_before(connection: AsyncConnection[Any], xid: int) -> tuple[Blocker, ...]:
    """Return the sessions and prepared transactions that have a transaction ID below ``xid``."""
    rows = await _rows(
        connection,
        """
        WITH old (age) AS (
            SELECT pg_catalog.age(%s::pg_catalog.text::pg_catalog.xid8::pg_catalog.xid)
        )
        SELECT a.pid, a.datname, a.application_name, a.state, a.query, NULL
        FROM pg_catalog.pg_stat_activity a, old
        WHERE pg_catalog.age(a.backend_xid) OPERATOR(pg_catalog.>) old.age
        UNION ALL
        SELECT NULL, p.database, NULL, 'prepared', NULL, p.gid
        FROM pg_catalog.pg_prepared_xacts p, old
        WHERE pg_catalog.age(p.transaction) OPERATOR(pg_catalog.>) old.age
        """,
        [str(xid)],
    )
    return tuple(Blocker(*row) for row in rows)


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
        JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid
             AND a.attnum OPERATOR(pg_catalog.=) k.attnum
        WHERE i.indrelid OPERATOR(pg_catalog.=) %s::pg_catalog.oid AND i.indisprimary
              AND k.place OPERATOR(pg_catalog.<=) i.indnkeyatts
        ORDER BY k.place
        """,
        [relation_oid],
    )
    return tuple(row[0] for row in rows)


async def may_create(connection: AsyncConnection[Any]) -> tuple[str, str, bool]:
    """Return the role, the database, and whether the role may create publications there."""
    rows = await _rows(
        connection,
        """
        SELECT current_user::pg_catalog.text, pg_catalog.current_database()::pg_catalog.text,
               pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE')
        """,
    )
    role, database, may_create = rows[0]
    return role, database, may_create


async def rights(
    connection: AsyncConnection[Any], relation_oids: Sequence[int]
) -> dict[int, tuple[bool, bool]]:
    """Return by OID whether the role may read a column of a table, and whether it owns it."""
    rows = await _rows(
        connection,
        """
        SELECT oid::pg_catalog.int8, pg_catalog.has_any_column_privilege(oid, 'SELECT'),
               pg_catalog.pg_has_role(relowner, 'USAGE')
        FROM pg_catalog.pg_class WHERE oid OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.oid[])
        """,
        [list(relation_oids)],
    )
    return {oid: (may_read, owns) for oid, may_read, owns in rows}


async def enum_labels(connection: AsyncConnection[Any], type_oid: int) -> tuple[str, ...]:
    """Return an enum's labels in their declared order; empty for another type."""
    rows = await _rows(
        connection,
        """
        SELECT enumlabel FROM pg_catalog.pg_enum
        WHERE enumtypid OPERATOR(pg_catalog.=) %s::pg_catalog.oid ORDER BY enumsortorder
        """,
        [type_oid],
    )
    return tuple(row[0] for row in rows)


async def enum_orders(connection: AsyncConnection[Any]) -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the labels of every enum in their declared order, by schema and name.

    That is what filters compare enums by: see :meth:`realtime_core.filters.Filter.compile`.
    """
    rows = await _rows(
        connection,
        """
        SELECT n.nspname, t.typname,
               pg_catalog.array_agg(e.enumlabel::pg_catalog.text ORDER BY e.enumsortorder)
        FROM pg_catalog.pg_enum e
        JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) e.enumtypid
        JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace
        GROUP BY 1, 2
        """,
    )
    return {(schema, name): tuple(labels) for schema, name, labels in rows}
