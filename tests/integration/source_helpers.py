"""What the tests of sources share: a table, a publication of it, and a source that reads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Iterable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from realtime_core import Insert, PgoutputSource
from tests.fix_postgres import Database

__all__ = [
    "confirmed",
    "drop_slot_of",
    "ids",
    "insert",
    "kill_walsenders",
    "open_source",
    "soon",
    "take",
    "wal_position",
]

T = TypeVar("T")


async def soon(awaitable: Awaitable[T]) -> T:
    """Fail rather than hang."""
    async with asyncio.timeout(30):
        return await awaitable


@asynccontextmanager
async def open_source(database: Database, **settings: Any) -> AsyncIterator[PgoutputSource]:
    settings.setdefault("publications", ["shop"])
    settings.setdefault("backoff", (0.01, 0.1))
    async with PgoutputSource(database.dsn, **settings) as source:
        yield source


def insert(database: Database, *ids: int) -> None:
    values = ", ".join(f"({number}, 'name {number}')" for number in ids)
    database.execute(f"insert into item values {values}")


def kill_walsenders(database: Database) -> None:
    database.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and backend_type = 'walsender'"
    )


def confirmed(database: Database, slot: str) -> int:
    query = "select confirmed_flush_lsn - '0/0' from pg_replication_slots where slot_name = %s"
    return int(database.execute(query, (slot,))[0][0])


def wal_position(database: Database) -> int:
    return int(database.execute("select pg_current_wal_insert_lsn() - '0/0'")[0][0])


def ids(events: Iterable[object]) -> list[int]:
    return [event.record["id"] for event in events if isinstance(event, Insert)]


async def take(source: PgoutputSource, count: int) -> list[Any]:
    return [await soon(anext(source)) for _ in range(count)]


def drop_slot_of(database: Database, slot: str) -> None:
    """Take the slot away from under whoever streams from it, before it can be taken again.

    A walsender that has more to send than the socket takes ends when that was read.
    """
    kill_walsenders(database)
    database.execute(
        "do $$ begin for i in 1..2000 loop begin perform pg_drop_replication_slot("
        f"'{slot}'); return; exception when object_in_use then perform pg_sleep(0.005),"
        " pg_terminate_backend(active_pid) from pg_replication_slots where slot_name ="
        f" '{slot}'; end; end loop; raise 'it is still in use'; end $$"
    )
