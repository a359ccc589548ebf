"""Describes tables of a database as a source will, before there is a stream."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import AsyncConnection

from ..errors import ConfigError, WalLevelError
from ..replication.commands import quote_identifier
from ..snapshot.tables import CopiedTable
from . import catalog
from ._copied_tables import chosen_tables, describe, published_tables
from ._sessions import plain_connection

__all__ = ["create_publication", "described_tables"]


async def described_tables(
    dsn: str, publication: str, tables: Sequence[tuple[str, str]]
) -> tuple[list[CopiedTable], bool]:
    """Return tables, with the columns that a publication has of them, and whether there is one.

    Args:
        dsn: the connection string.
        publication: the publication's name. If there is none, all columns are returned.
        tables: the schema and the name of each.

    Raises:
        ConfigError: if a table is not there, if the role may not read or publish it, or if the
            publication has others.
        WalLevelError: if the server writes no WAL for logical decoding.
        SourceError: if the server cannot be asked.
    """
    async with plain_connection(dsn, "") as connection:
        facts = await catalog.server_facts(connection)
        if facts.wal_level != "logical":
            raise WalLevelError(facts.wal_level)
        version = facts.version
        is_there = not await catalog.missing_publications(connection, [publication])
        if is_there:
            choices = await published_tables(connection, version, [publication])
        else:
            choices = await chosen_tables(connection, tables, (), partitioned=True)
        found = await describe(connection, version, choices)
        problems = await _missing_rights(connection, found, publishes=not is_there)
    names = {(each.relation.schema, each.relation.table) for each in found}
    if names == set(tables):
        if problems:
            raise ConfigError(problems)
        return found, is_there
    if is_there:
        raise ConfigError(
            f"publication {publication!r} has other tables than are to be copied; copy these by "
            f"another --name, or run ALTER PUBLICATION {quote_identifier(publication)} SET TABLE "
            f"{_listed(tables)}, and begin anew with --overwrite if there is a copy already"
        )
    raise ConfigError(
        [
            f"the source has no table {schema}.{table} that can be published"
            for schema, table in tables
            if (schema, table) not in names
        ]
    )


async def _missing_rights(
    connection: AsyncConnection[Any], tables: Sequence[CopiedTable], *, publishes: bool
) -> list[str]:
    """Return a sentence for each right that the role lacks to read tables, and to publish them."""
    role, database, may_create = await catalog.may_create(connection)
    role, problems = quote_identifier(role), []
    if publishes and not may_create:
        problems.append(
            f"role {role} may not create a publication in the source: run GRANT CREATE ON DATABASE "
            f"{quote_identifier(database)} TO {role}, or have somebody else create it"
        )
    rights = await catalog.rights(connection, [table.oid for table in tables])
    for table in tables:
        may_read, owns = rights.get(table.oid, (False, False))
        if not may_read:
            problems.append(
                f"role {role} may not read table {table.relation} of the source: run GRANT SELECT "
                f"ON {_listed([(table.relation.schema, table.relation.table)])} TO {role}"
            )
        if publishes and not owns:
            problems.append(
                f"role {role} does not own table {table.relation} of the source, so it may not "
                "publish it: have the owner create the publication"
            )
    return problems


async def create_publication(dsn: str, name: str, tables: Sequence[tuple[str, str]]) -> None:
    """Create a publication of tables, which has a partitioned one as one table.

    Raises:
        SourceError: if the server refuses.
    """
    statement = (
        f"CREATE PUBLICATION {quote_identifier(name)} FOR TABLE {_listed(tables)} "
        "WITH (publish_via_partition_root)"
    )
    async with plain_connection(dsn, "") as connection:
        await connection.execute(statement.encode())


def _listed(tables: Sequence[tuple[str, str]]) -> str:
    return ", ".join(
        f"{quote_identifier(schema)}.{quote_identifier(table)}" for schema, table in tables
    )
