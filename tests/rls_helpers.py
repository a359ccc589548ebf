"""What the tests of RLS mode share: the schema ``realtime`` in a database, and roles."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import psycopg
from psycopg import AsyncConnection, sql

from realtime_server.config.database.connections import Dsn
from realtime_server.rls.setup.migrations import Migration, migrate
from realtime_server.rls.setup.nobody_role import NOBODY
from tests.fix_postgres import Database, Server, unique_name

__all__ = ["at", "grant_role", "make_nobody", "membership", "migrated", "roles", "wal"]


def at(dsn: str) -> Dsn:
    """Return what gives that connection string."""

    async def give() -> str:
        return dsn

    return give


async def migrated(dsn: str) -> list[Migration]:
    """Bring the database's schema ``realtime`` up to date; return what was applied."""
    async with await AsyncConnection.connect(dsn, autocommit=True) as connection:
        return await migrate(connection)


def make_nobody(server: Server) -> None:
    """Have the role as which users' code runs. It stays: all databases share it."""
    with contextlib.suppress(psycopg.errors.DuplicateObject, psycopg.errors.UniqueViolation):
        server.execute(f"create role {NOBODY} nologin noinherit")


def membership(server: Server) -> str:
    """Return what ends the GRANT of a role, so that its rights are not had without SET ROLE."""
    # Before, that is an attribute of the member.
    return " WITH INHERIT FALSE, SET TRUE" if server.version >= 16 else ""


def grant_role(server: Server, role: str, to: str) -> None:
    """Let a role act as another, and not have its rights otherwise."""
    if server.version < 16:
        server.execute(f'alter role "{to}" noinherit')
    server.execute(f'grant "{role}" to "{to}"{membership(server)}')


@contextlib.contextmanager
def roles(server: Server, *names: str, options: str = "") -> Iterator[tuple[str, ...]]:
    """Have roles of unique names that begin with ``names``; dropped at the end.

    Drop first what depends on them, which the databases of the block are.
    """
    unique = tuple(unique_name(name) for name in names)
    for name in unique:
        server.execute(sql.SQL("create role {} {}").format(sql.Identifier(name), sql.SQL(options)))
    try:
        yield unique
    finally:
        for name in unique:
            server.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def wal(
    database: Database | psycopg.Connection[Any],
    action: str,
    table: str,
    columns: list[tuple[str, str, Any]] | None = None,
    identity: list[tuple[str, str, Any]] | None = None,
    pk: tuple[str, ...] = ("id",),
    *,
    schema: str = "public",
    timestamp: str = "2026-11-24 05:36:00.166595+00",
) -> str:
    """Write one change as wal2json would; columns are (name, type, value)."""

    def described(row: list[tuple[str, str, Any]]) -> list[dict[str, Any]]:
        items = []
        for name, kind, value in row:
            oid = database.execute("select %s::regtype::oid::int8", (kind,))
            rows = oid if isinstance(oid, list) else oid.fetchall()
            items.append({"name": name, "type": kind, "typeoid": rows[0][0], "value": value})
        return items

    message: dict[str, Any] = {
        "action": action,
        "timestamp": timestamp,
        "schema": schema,
        "table": table,
    }
    if columns is not None:
        message["columns"] = described(columns)
    if identity is not None:
        message["identity"] = described(identity)
    kinds = {name: kind for name, kind, _ in [*(columns or []), *(identity or [])]}
    message["pk"] = [{"name": name, "type": kinds.get(name, "integer")} for name in pk]
    return json.dumps(message)
