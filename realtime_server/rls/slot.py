"""SlotSession: a slot, and the one session that reads it.

The session does nothing else: any error in it would take a temporary slot away. Whoever
polls a slot is not seen in ``pg_replication_slots`` but for moments, so the session holds an
advisory lock of the slot's name: two servers would take turns with it, and each would miss
what the other has read.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, Final, Self

import psycopg
from psycopg import AsyncConnection, sql

from realtime_core import LSN, StreamIdentity
from realtime_core.errors import (
    ConnectionLostError,
    PrivilegeError,
    SlotInUseError,
    SlotLostError,
    SlotUnavailableError,
    SourceError,
    WalLevelError,
)
from realtime_core.sources import catalog
from realtime_core.sources.catalog import SlotStatus

from ..catalog.connections import connect

__all__ = ["SlotSession"]

logger = logging.getLogger("realtime.rls")

PLUGIN: Final = "wal2json"

# What texts look like, and that nothing ends the session but us.
_SETTINGS: Final = """
    SET datestyle = ISO; SET intervalstyle = postgres; SET extra_float_digits = 3;
    SET timezone = UTC; SET bytea_output = hex; SET search_path = '';
    SET statement_timeout = 0; SET lock_timeout = 0;
    SET idle_in_transaction_session_timeout = 0
"""

_LOCK_CLASS: Final = int.from_bytes(b"slot", "big")
_PATIENCE: Final = 5.0
"""Seconds after which a slot that cannot be made yet is mentioned."""


class SlotSession:
    """A connection with a slot of its own."""

    def __init__(self, connection: AsyncConnection[Any], slot: str) -> None:
        self._connection = connection
        self.slot = slot

    @classmethod
    async def connect(cls, dsn: str, slot: str) -> Self:
        """Open a session; the slot is attached to with :meth:`attach`.

        Raises:
            SourceError: if it cannot be opened, saying why.
        """
        connection = await connect(
            dsn,
            name="slot",
            keepalives_idle=30,
            keepalives_interval=10,
            tcp_user_timeout=60_000,
        )
        session = cls(connection, slot)
        try:
            with session._translated():
                await connection.execute(_SETTINGS)
        except BaseException:
            await connection.close()
            raise
        return session

    async def close(self) -> None:
        """Close the connection; a temporary slot goes with it."""
        await self._connection.close()

    async def attach(self, *, temporary: bool) -> tuple[LSN, bool]:
        """Have the slot; return from where it reads, and whether it was made just now.

        Raises:
            SlotInUseError: if another session has it.
            SourceError: if it cannot be had, saying why.
        """
        with self._translated():
            facts = await catalog.server_facts(self._connection)
            if facts.wal_level != "logical":
                raise WalLevelError(facts.wal_level)
            await self._lock()
            status = await catalog.slot(self._connection, self.slot)
            if status is None:
                return await self._create(temporary), True
            self._check(status, facts.database, temporary)
            return status.confirmed_flush_lsn, False

    async def _lock(self) -> None:
        [is_ours] = await self._row(
            "SELECT pg_catalog.pg_try_advisory_lock(%s, pg_catalog.hashtext(%s))",
            [_LOCK_CLASS, self.slot],
        )
        if is_ours:
            return
        holders = await self._connection.execute(
            """
            SELECT pid FROM pg_catalog.pg_locks
            WHERE locktype = 'advisory' AND granted AND objsubid = 2
                AND classid = %s::pg_catalog.int8::pg_catalog.oid
                AND objid = (pg_catalog.hashtext(%s)::pg_catalog.int8 & 4294967295)::pg_catalog.oid
                AND database = (
                    SELECT oid FROM pg_catalog.pg_database
                    WHERE datname = pg_catalog.current_database()
                )
            """,
            [_LOCK_CLASS, self.slot],
        )
        holder = await holders.fetchone()
        raise SlotInUseError(self.slot, None if holder is None else holder[0])

    def _check(self, status: SlotStatus, database: str, temporary: bool) -> None:
        found = None
        if status.slot_type != "logical":
            found = "is a physical one"
        elif status.database != database:
            found = f"belongs to database {status.database!r}, not {database!r}"
        elif status.plugin != PLUGIN:
            found = f"uses the output plugin {status.plugin!r}, not {PLUGIN}"
        elif temporary and not status.temporary:
            found = "is a permanent one, not temporary"
        if found is not None:
            raise SlotUnavailableError(
                self.slot, f"slot {self.slot!r} {found}; choose another SLOT_NAME"
            )
        if status.active or status.temporary:
            raise SlotInUseError(self.slot, status.active_pid)
        if status.is_lost:
            raise SlotLostError(
                self.slot,
                f"slot {self.slot!r} is lost: PostgreSQL has removed WAL that it needs "
                "(max_slot_wal_keep_size), and the changes with it; drop it with SELECT "
                f"pg_drop_replication_slot('{self.slot}') to start anew",
            )

    async def _create(self, temporary: bool) -> LSN:
        mention = asyncio.get_running_loop().call_later(
            _PATIENCE,
            logger.warning,
            "slot %r is not made yet: PostgreSQL waits for write transactions to end; "
            "SELECT pid, query FROM pg_stat_activity WHERE backend_xid IS NOT NULL shows them",
            self.slot,
        )
        try:
            [lsn] = await self._row(
                "SELECT (lsn - '0/0')::pg_catalog.int8"
                " FROM pg_catalog.pg_create_logical_replication_slot(%s, %s, %s)",
                [self.slot, PLUGIN, temporary],
            )
        finally:
            mention.cancel()
        return LSN(lsn)

    async def identity(self, publication: str) -> StreamIdentity:
        """Return what positions of this stream have in common."""
        with self._translated():
            [system, timeline] = await self._row(
                "SELECT s.system_identifier, c.timeline_id"
                " FROM pg_catalog.pg_control_system() s, pg_catalog.pg_control_checkpoint() c"
            )
        # An int8 in SQL, unsigned everywhere else.
        return StreamIdentity(system & 0xFFFFFFFFFFFFFFFF, timeline, (publication,))

    async def flush_lsn(self) -> LSN:
        """Return up to where WAL is written: all that is committed before it can be read."""
        with self._translated():
            [lsn] = await self._row(
                "SELECT (pg_catalog.pg_current_wal_flush_lsn() - '0/0')::pg_catalog.int8"
            )
        return LSN(lsn)

    async def peek(
        self, upto: LSN, limit: int, options: Mapping[str, str], *, chunk: int
    ) -> AsyncGenerator[list[str], None]:
        """Iterate over the texts of whole transactions, some at a time; the slot stays where it is.

        They come through a cursor: a large transaction takes no memory here.

        Args:
            upto: read what is committed before.
            limit: texts, roughly: the transaction that passes it is the last one.
            options: wal2json's.
            chunk: texts at a time.
        """
        pairs = [item for pair in options.items() for item in pair]
        declare = sql.SQL(
            "DECLARE changes NO SCROLL CURSOR FOR SELECT data"
            " FROM pg_catalog.pg_logical_slot_peek_changes({}, {}, {}, VARIADIC {})"
        ).format(sql.Literal(self.slot), sql.Literal(str(upto)), limit, sql.Literal(pairs))
        fetch = sql.SQL("FETCH {} FROM changes").format(chunk)
        with self._translated():
            # The transaction's end closes the cursor. psycopg's own server-side cursor cannot be
            # closed once the connection is lost, and warns of that.
            async with self._connection.transaction():
                await self._connection.execute(declare)
                while rows := await (await self._connection.execute(fetch)).fetchall():
                    yield [row[0] for row in rows]

    async def advance(self, lsn: LSN) -> None:
        """Move the slot: what is committed before is done with."""
        with self._translated():
            await self._row(
                "SELECT pg_catalog.pg_replication_slot_advance(%s, %s)", [self.slot, str(lsn)]
            )

    async def _row(self, query: str, parameters: list[object] | None = None) -> Any:
        cursor = await self._connection.execute(query.encode(), parameters)
        return await cursor.fetchone()

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as exc:
            raise _translate(exc, self.slot) from exc


def _text(exc: psycopg.Error) -> str:
    return " ".join(str(exc).split())


def _translate(exc: psycopg.Error, slot: str) -> SourceError:
    """Say what an error means, and what to do."""
    text, state = _text(exc), exc.sqlstate or ""
    if state == "58P01" and PLUGIN in text:
        return SourceError(
            f"the output plugin {PLUGIN} is not installed on the server ({text}); install it, as "
            "with apt-get install postgresql-17-wal2json"
        )
    if state == "42501" and "output_plugin_libraries" in f"{text} {exc.diag.message_hint}":
        return PrivilegeError(
            f"PostgreSQL does not allow the output plugin {PLUGIN} ({text}); run ALTER SYSTEM SET "
            f"output_plugin_libraries = pgoutput, test_decoding, {PLUGIN} and SELECT "
            "pg_reload_conf()"
        )
    if state == "42501":
        return PrivilegeError(
            f"the role may not read replication slots ({text}); run ALTER ROLE … REPLICATION"
        )
    if state == "55006":
        return SlotInUseError(slot, None)
    if state == "53400":
        return SlotUnavailableError(
            slot,
            f"slot {slot!r} cannot be made ({text}); drop an unused slot or raise "
            "max_replication_slots",
        )
    if state == "42704":
        return SlotUnavailableError(slot, f"slot {slot!r} is gone ({text}); it is made anew")
    if state[:2] in ("08", "57") or not state:
        return ConnectionLostError(f"the connection to PostgreSQL was lost ({text})")
    return SourceError(f"PostgreSQL reported {state}: {text}")
