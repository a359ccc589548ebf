"""Functions that look at a replication slot, create one, and drop one.

A source creates the slot that it needs by itself. These functions are for set-up scripts, for
operators and for tests. They use an ordinary connection, with a role that may replicate.
"""

from __future__ import annotations

import asyncio
from typing import Final

import psycopg

from ..errors import ConfigError, SlotInUseError, SlotUnavailableError, SourceError
from ..replication.commands import check_slot_name
from . import catalog
from ._sessions import plain_connection
from ._slot_checks import check_kind, log_when_slow
from .catalog import SlotStatus

__all__ = ["drop_slot", "ensure_slot", "slot_status"]

_PAUSE: Final = 0.05
"""Seconds between two attempts to drop a slot in use."""
_FAILOVER_SINCE: Final = 170000


async def slot_status(dsn: str, name: str) -> SlotStatus | None:
    """Return the state of a replication slot, None if the cluster has no slot of that name.

    Args:
        dsn: a libpq connection string or URI, of any database of the cluster.
        name: name of the slot, logical or physical.

    Raises:
        SourceError: if the server cannot be asked.
    """
    async with plain_connection(dsn, name) as connection:
        return await catalog.slot(connection, name)


async def ensure_slot(
    dsn: str, name: str, *, plugin: str = "pgoutput", failover: bool = False
) -> SlotStatus:
    """Create a permanent logical slot, unless there is one already that has the same properties.

    The slot keeps the changes that are committed from now on. PostgreSQL waits for all write
    transactions that are running; if that takes long, a log line names them.

    Args:
        dsn: a libpq connection string or URI, of the database whose changes are wanted.
        name: name of the slot.
        plugin: its output plugin.
        failover: whether standbys keep a copy of it (PostgreSQL 17 or newer).

    Returns:
        The slot as it is now.

    Raises:
        ConfigError: if PostgreSQL does not accept the name.
        SlotUnavailableError: if there is a slot of that name, but of another kind, database or
            plugin, or without ``failover``; or if ``max_replication_slots`` is reached.
        SourceError: if PostgreSQL refuses otherwise, saying why.
    """
    _check_name(name)
    async with plain_connection(dsn, name) as connection:
        facts = await catalog.server_facts(connection)
        if failover and facts.version < _FAILOVER_SINCE:
            raise SourceError(
                f"PostgreSQL {facts.version // 10000} has no failover slots; they came with 17"
            )
        status = await catalog.slot(connection, name)
        if status is None:
            arguments: list[object] = [name, plugin, False, False]
            if failover:
                arguments.append(True)
            marks = ", ".join(["%s"] * len(arguments))
            await log_when_slow(
                connection.execute(
                    "SELECT 1 FROM pg_catalog.pg_create_logical_replication_slot"
                    f"({marks})".encode(),
                    arguments,
                ),
                dsn=dsn,
                name=name,
                pid=connection.info.backend_pid,
            )
            status = await catalog.slot(connection, name)
            assert status is not None
        check_kind(status, plugin=plugin, database=facts.database)
        found = None
        if status.temporary:
            found = "is a temporary slot; choose another slot name"
        elif failover and not status.failover:
            found = "is not a failover slot; stream from it with failover=True, which alters it"
        if found is not None:
            raise SlotUnavailableError(name, f"slot {name!r} {found}")
        return status


async def drop_slot(dsn: str, name: str, *, wait: float = 5.0) -> bool:
    """Drop a slot that nobody uses. PostgreSQL then removes the WAL that the slot has retained.

    Args:
        dsn: a libpq connection string or URI, of any database of the cluster.
        name: name of the slot.
        wait: for how many seconds to wait while the slot is in use.

    Returns:
        Whether there was a slot of that name.

    Raises:
        SlotInUseError: if it is still in use after that; the error names the process.
        SourceError: if PostgreSQL refuses otherwise, saying why.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + wait
    while True:
        try:
            async with plain_connection(dsn, name) as connection:
                await connection.execute("SELECT pg_catalog.pg_drop_replication_slot(%s)", [name])
        except SlotUnavailableError as exc:
            if isinstance(exc.__cause__, psycopg.errors.UndefinedObject):
                return False
            raise
        except SlotInUseError as exc:
            if loop.time() >= deadline:
                raise SlotInUseError(name, exc.pid, "or wait= for longer") from exc.__cause__
            await asyncio.sleep(_PAUSE)
        else:
            return True


def _check_name(name: str) -> None:
    try:
        check_slot_name(name)
    except ValueError as exc:
        raise ConfigError(f"slot {exc}") from None
