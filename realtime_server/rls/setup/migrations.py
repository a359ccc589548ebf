"""Migrations: numbered SQL files that create the schema ``realtime`` and bring it up to date.

Each file of ``sql/`` is one migration, and runs in one transaction. A file that was released is
never changed: to change something, add another file. So a later file may define a function of an
earlier one again, and the definition in the file with the highest number counts;
``grep -l 'function realtime.cast(' sql/*`` lists the files that define ``realtime.cast``. Every
migration can be applied twice without harm, and keeps the tables, types and grants of a schema that
the original server has installed. The role ``realtime_nobody`` is not created by a migration, since
that may take an administrator: :mod:`.nobody_role` and :mod:`.type_schemas` set it up each time.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, Final

import attrs
import psycopg
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from realtime_core.errors import PrivilegeError

from .nobody_role import confine

__all__ = ["LOCK", "MIGRATIONS", "Migration", "migrate", "pending", "why_not"]

_FILE: Final = re.compile(r"(?P<number>\d{4})_(?P<name>\w+)\.sql")

LOCK: Final = int.from_bytes(b"rlmigr", "big")
"""The key of the advisory lock, with which servers that start together migrate one by one."""

_LEDGER: Final = """
    CREATE SCHEMA IF NOT EXISTS realtime;
    CREATE TABLE IF NOT EXISTS realtime.core_migration (
        number integer PRIMARY KEY,
        name text NOT NULL,
        applied_at timestamptz NOT NULL DEFAULT now()
    )
"""


@attrs.frozen
class Migration:
    """One migration, which is a file of ``sql/``."""

    number: int
    """The steps are applied in the order of their numbers."""
    name: str
    """The name of what the step makes."""
    sql: str = attrs.field(repr=False)

    def __str__(self) -> str:
        return f"{self.number:04} {self.name}"


def _read() -> tuple[Migration, ...]:
    found = []
    for file in (files(__package__) / "sql").iterdir():
        if match := _FILE.fullmatch(file.name):
            found.append(
                Migration(int(match["number"]), match["name"], file.read_text(encoding="utf-8"))
            )
    return tuple(sorted(found, key=lambda migration: migration.number))


MIGRATIONS: Final = _read()
"""All steps, in their order."""


async def pending(connection: AsyncConnection[Any]) -> list[Migration]:
    """Return the migrations that the database lacks, without changing anything.

    Raises:
        PrivilegeError: if the role may not read which steps it has.
    """
    async with _explaining(connection):
        ledger = "SELECT pg_catalog.to_regclass('realtime.core_migration') IS NOT NULL"
        applied: set[int] = set()
        if (await _rows(connection, ledger))[0][0]:
            rows = await _rows(connection, "SELECT number FROM realtime.core_migration")
            applied = {row[0] for row in rows}
        return [migration for migration in MIGRATIONS if migration.number not in applied]


async def why_not(connection: AsyncConnection[Any]) -> str | None:
    """Return why the server's role cannot migrate an existing schema; None if it can."""
    [(may,)] = await _rows(
        connection,
        """
        SELECT coalesce(pg_catalog.bool_and(
            pg_catalog.pg_has_role(current_user, n.nspowner, 'MEMBER')
        ), true)
        FROM pg_catalog.pg_namespace n WHERE n.nspname = 'realtime'
        """,
    )
    if may:
        return None
    return f"the schema realtime cannot be set up; {await _remedy(connection)}"


async def migrate(connection: AsyncConnection[Any]) -> list[Migration]:
    """Apply the migrations that the database lacks.

    Args:
        connection: a connection in autocommit mode. Several may migrate at once: each waits until
            the one before is done.

    Returns:
        The steps that were applied.

    Raises:
        PrivilegeError: if the role may not make or change the objects; it says which role may.
    """
    if not await pending(connection):
        # A role that may not change the schema is fine if nothing has to be changed.
        await confine(connection, LOCK)
        return []
    await connection.execute("SELECT pg_catalog.pg_advisory_lock(%s)", [LOCK])
    try:
        applied = []
        async with _explaining(connection):
            await connection.execute(_LEDGER)
            for migration in await pending(connection):
                async with connection.transaction():
                    # The steps write out schemas, so that no other schema's objects are used.
                    await connection.execute("SET LOCAL search_path = ''")
                    await connection.execute(migration.sql.encode())
                    await connection.execute(
                        "INSERT INTO realtime.core_migration (number, name) VALUES (%s, %s)",
                        [migration.number, migration.name],
                    )
                applied.append(migration)
            await confine(connection, LOCK)
        return applied
    finally:
        await connection.execute("SELECT pg_catalog.pg_advisory_unlock(%s)", [LOCK])


@asynccontextmanager
async def _explaining(connection: AsyncConnection[Any]) -> AsyncIterator[None]:
    try:
        yield
    except psycopg.errors.InsufficientPrivilege as exc:
        raise PrivilegeError(
            f"the schema realtime cannot be set up ({exc.diag.message_primary}); "
            f"{await _remedy(connection)}"
        ) from exc


async def _remedy(connection: AsyncConnection[Any]) -> str:
    facts = await _rows(
        connection,
        """
        SELECT pg_catalog.quote_ident(current_user),
               pg_catalog.quote_ident(pg_catalog.current_database()),
               (SELECT pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(nspowner))
                FROM pg_catalog.pg_namespace WHERE nspname = 'realtime')
        """,
    )
    user, database, owner = facts[0]
    if owner is None:
        return f"run GRANT CREATE ON DATABASE {database} TO {user}"
    grants = "; ".join(
        f"GRANT ALL ON {what} TO {user}"
        for what in (
            "SCHEMA realtime",
            "ALL TABLES IN SCHEMA realtime",
            "ALL FUNCTIONS IN SCHEMA realtime",
        )
    )
    return (
        f"it belongs to {owner}: run `python -m realtime_server migrate` with DB_USER={owner}, "
        f"and {grants}; or GRANT {owner} TO {user}"
    )


async def _rows(connection: AsyncConnection[Any], query: str) -> Sequence[tuple[Any, ...]]:
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(query)
        return await cursor.fetchall()
