"""The partitions of ``realtime.messages``: one for each day in UTC, made before the day begins, and
dropped when its last row is 72 hours old.

A row whose day has no partition goes into ``realtime.messages_default``, so that
``realtime.send`` works however long nobody has made any. When the partition is made, the day's rows
are moved there. The slot sees that as an INSERT, so they get ``skip_broadcast`` on the way.

Each partition is made, or dropped, in a transaction of its own, which waits for locks only briefly,
as those who send wait behind it. The table itself is locked first: who has found the default
partition for a row, and waits for its lock, would fail when another one has that row's day. An
advisory lock has one server do it at a time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import attrs
import psycopg
from psycopg import AsyncConnection, sql
from psycopg.rows import tuple_row

from ..config.database.connections import brief

__all__ = ["LOCK", "Upkeep", "keep_partitions"]

logger = logging.getLogger("realtime.messages")

LOCK: Final = int.from_bytes(b"rlmsgp", "big")
"""The key of the advisory lock under which partitions are made and dropped."""
_KEPT: Final = timedelta(hours=72)
"""For how long messages are kept, at least."""
_AHEAD: Final = 3
"""For how many days after today there are partitions."""
_LOCK_TIMEOUT: Final = "500ms"
"""How long a change of partitions waits for a lock; who sends may wait for as long."""
_NAME: Final = re.compile(r"messages_(\d{4})_(\d\d)_(\d\d)")

_FACTS: Final = """
    SELECT pg_catalog.timezone('utc', pg_catalog.clock_timestamp()),
        pg_catalog.pg_get_userbyid(c.relowner)
    FROM pg_catalog.pg_class c
    WHERE c.oid = pg_catalog.to_regclass('realtime.messages') AND c.relkind = 'p'
"""
_PARTITIONS: Final = """
    SELECT c.relname FROM pg_catalog.pg_inherits i
    JOIN pg_catalog.pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'realtime.messages'::pg_catalog.regclass
"""
_DAYS: Final = """
    SELECT DISTINCT inserted_at::pg_catalog.date FROM realtime.messages_default
    WHERE inserted_at >= %s AND inserted_at < %s
"""
_MAKE: Final = """
    CREATE TABLE {table} (LIKE realtime.messages INCLUDING DEFAULTS INCLUDING CONSTRAINTS);
    ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
    LOCK TABLE ONLY realtime.messages IN SHARE ROW EXCLUSIVE MODE;
    LOCK TABLE realtime.messages_default IN ACCESS EXCLUSIVE MODE;
    WITH moved AS (
        DELETE FROM realtime.messages_default
        WHERE inserted_at >= {begin} AND inserted_at < {end}
        RETURNING {columns}
    )
    INSERT INTO {table} ({columns}, skip_broadcast) SELECT moved.*, true FROM moved;
    ALTER TABLE realtime.messages ATTACH PARTITION {table} FOR VALUES FROM ({begin}) TO ({end})
"""
_MOVED: Final = (
    *("topic", "extension", "payload", "event", "private", "updated_at", "inserted_at", "id"),
    *("binary_payload", "expires_at"),
)


@attrs.frozen
class Upkeep:
    """What was done to the partitions."""

    made: tuple[str, ...] = ()
    """The names of the partitions that were made."""
    dropped: tuple[str, ...] = ()
    """The names of those that were dropped."""
    failed: tuple[str, ...] = ()
    """For each that could be neither made nor dropped, its name and why."""


async def keep_partitions(connection: AsyncConnection[Any], now: datetime) -> Upkeep | None:
    """Make the partitions from yesterday's to that in three days, and drop old ones.

    Args:
        connection: a connection in autocommit mode, with a role that may act as the table's owner.
        now: the time by this machine's clock. Nothing is dropped that is young by this clock or by
            the database's, so that a step of one of them loses nothing.

    Returns:
        What was done; None if another server is doing it, or if there is no such table.

    Raises:
        psycopg.Error: if the database cannot be asked.
    """
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute("SELECT pg_catalog.pg_try_advisory_lock(%s)", [LOCK])
        if await cursor.fetchone() != (True,):
            return None
        try:
            return await _keep(connection, now)
        finally:
            if not connection.broken:
                await cursor.execute("SELECT pg_catalog.pg_advisory_unlock(%s)", [LOCK])


async def _keep(connection: AsyncConnection[Any], now: datetime) -> Upkeep | None:
    facts = await _rows(connection, _FACTS)
    if not facts:
        return None
    [(database_now, owner)] = facts
    present = {day: name for (name,) in await _rows(connection, _PARTITIONS) if (day := _day(name))}
    today = database_now.date()
    last = today + timedelta(days=_AHEAD)
    wanted = {today + timedelta(days=days) for days in range(-1, _AHEAD + 1)}
    kept_since = min(database_now, now.astimezone(UTC).replace(tzinfo=None)) - _KEPT
    waiting = await _rows(connection, _DAYS, [kept_since.date(), last + timedelta(days=1)])
    wanted.update(day for (day,) in waiting)
    made, dropped, failed = [], [], []
    for day in sorted(wanted - present.keys()):
        name = f"messages_{day:%Y_%m_%d}"
        if (why := await _change(connection, owner, _making(name, day))) is None:
            made.append(name)
        else:
            failed.append(f"{name}: {why}")
    for day, name in sorted(present.items()):
        if _midnight(day + timedelta(days=1)) > kept_since:
            continue
        statement = sql.SQL("DROP TABLE {}").format(sql.Identifier("realtime", name))
        if (why := await _change(connection, owner, statement)) is None:
            dropped.append(name)
        else:
            failed.append(f"{name}: {why}")
    old = sql.SQL("DELETE FROM realtime.messages_default WHERE inserted_at < {}").format(
        sql.Literal(_midnight(kept_since.date()))
    )
    if (why := await _change(connection, owner, old)) is not None:
        failed.append(f"messages_default: {why}")
    return Upkeep(tuple(made), tuple(dropped), tuple(failed))


def _making(name: str, day: date) -> sql.Composed:
    return sql.SQL(_MAKE).format(
        table=sql.Identifier("realtime", name),
        columns=sql.SQL(", ").join(map(sql.Identifier, _MOVED)),
        begin=sql.Literal(str(_midnight(day))),
        end=sql.Literal(str(_midnight(day + timedelta(days=1)))),
    )


async def _change(
    connection: AsyncConnection[Any], owner: str, statement: sql.Composed
) -> str | None:
    """Run a statement as the table's owner; return why that failed."""
    # All partitions shall have one owner, whoever makes them. It is one message, and so one
    # transaction: locks that others wait for must not wait for this process.
    whole = sql.SQL("SET LOCAL lock_timeout = {}; SET LOCAL ROLE {}; {}").format(
        sql.Literal(_LOCK_TIMEOUT), sql.Identifier(owner), statement
    )
    try:
        await connection.execute(whole)
    except psycopg.errors.InsufficientPrivilege:
        return f"the server's role may not act as its owner; run GRANT {owner} TO the role"
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
        return "the table is locked"
    except psycopg.Error as exc:
        if connection.broken:
            raise
        return brief(exc)
    return None


async def _rows(
    connection: AsyncConnection[Any], query: str, parameters: Sequence[object] = ()
) -> Sequence[tuple[Any, ...]]:
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(query.encode(), parameters)
        return await cursor.fetchall()


def _day(name: str) -> date | None:
    """Return the day of a partition; None if its name is not that of one."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    try:
        return date(*map(int, match.groups()))
    except ValueError:
        return None


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day)
