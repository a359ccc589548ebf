"""Checks of publications, and of the replica identities of their tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from psycopg import AsyncConnection

from ..replication.commands import quote_identifier
from .findings import Finding, Severity, column_literal, rows

__all__ = ["check_publications", "check_replica_identities"]

_SCHEMAS: Final = 150000
"""The first version whose publications can have all tables of a schema."""
_CHOOSE: Final = "or name tables: FOR TABLE a, b"

_ALL: Final = "SELECT pubname FROM pg_publication ORDER BY pubname"

_PUBLICATIONS: Final = """
    SELECT pubname AS name, puballtables AS all_tables,
           array_remove(ARRAY[
               CASE WHEN pubinsert THEN 'insert' END, CASE WHEN pubupdate THEN 'update' END,
               CASE WHEN pubdelete THEN 'delete' END, CASE WHEN pubtruncate THEN 'truncate' END
           ], NULL) AS actions,
           (SELECT count(*) FROM pg_publication_tables AS t WHERE t.pubname = p.pubname) AS tables
    FROM pg_publication AS p WHERE pubname = ANY (%(names)s) ORDER BY pubname
"""

# Tables with different column lists in two publications, which PostgreSQL 15 and newer refuse to
# stream together.
_COLUMN_LISTS: Final = """
    SELECT format('%%I.%%I', schemaname, tablename) AS table,
           array_agg(pubname ORDER BY pubname) AS publications
    FROM pg_publication_tables WHERE pubname = ANY (%(names)s)
    GROUP BY schemaname, tablename HAVING count(DISTINCT attnames) > 1 ORDER BY 1
"""

# Of a partitioned table the replica identities of its leaf partitions count, so these are listed. A
# deferrable primary key is no replica identity (pg_index.indimmediate).
_IDENTITIES: Final = """
    WITH named AS (
        SELECT DISTINCT c.oid, c.relkind
        FROM pg_publication_tables AS t
        JOIN pg_publication AS p USING (pubname)
        JOIN pg_namespace AS n ON n.nspname = t.schemaname
        JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
        WHERE %(names)s::text[] IS NOT NULL AND pubname = ANY (%(names)s)
          AND (p.pubupdate OR p.pubdelete)
        UNION
        SELECT c.oid, c.relkind
        FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
        WHERE %(names)s::text[] IS NULL AND c.relkind = 'r' AND c.relpersistence = 'p'
          AND n.nspname NOT LIKE 'pg\\_%%' AND n.nspname <> 'information_schema'
    ), leaves AS (
        SELECT DISTINCT COALESCE(tree.relid, named.oid) AS oid
        FROM named
        LEFT JOIN LATERAL pg_partition_tree(named.oid) AS tree
            ON named.relkind = 'p' AND tree.isleaf
    ), judged AS (
        SELECT c.oid, c.relreplident,
               EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid
                       AND i.indisprimary AND i.indimmediate) AS has_key,
               EXISTS (SELECT FROM pg_index AS i WHERE i.indrelid = c.oid
                       AND i.indisreplident) AS has_index
        FROM leaves JOIN pg_class AS c USING (oid) WHERE c.relkind = 'r'
    )
    SELECT oid::regclass::text AS table, relreplident = 'n' AND has_key AS key_will_do,
           CASE relreplident WHEN 'f' THEN true WHEN 'd' THEN has_key WHEN 'i' THEN has_index
               ELSE false END AS identified
    FROM judged ORDER BY 1
"""

# Columns of a replica identity that are missing in a column list, so that UPDATE and DELETE fail.
_UNCOVERED: Final = """
    SELECT c.oid::regclass::text AS table, t.pubname AS publication,
           array_agg(a.attname::text ORDER BY a.attnum) AS columns
    FROM pg_publication_tables AS t
    JOIN pg_publication AS p USING (pubname)
    JOIN pg_namespace AS n ON n.nspname = t.schemaname
    JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
    JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
        AND NOT a.attisdropped AND a.attgenerated = ''
    LEFT JOIN pg_index AS i ON i.indrelid = c.oid
        AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident END
    WHERE pubname = ANY (%(names)s) AND (p.pubupdate OR p.pubdelete)
      AND (c.relreplident = 'f' OR a.attnum = ANY (i.indkey)) AND a.attname <> ALL (t.attnames)
    GROUP BY 1, 2 ORDER BY 1, 2
"""


async def check_publications(
    connection: AsyncConnection[Any], names: Sequence[str], *, version: int, database: str
) -> tuple[list[Finding], list[str]]:
    """Check the publications.

    Args:
        connection: an open connection.
        names: names of the publications to check; empty for all of the database.
        version: ``server_version_num``.
        database: name of the database.

    Returns:
        The findings, and the names of the publications that exist.
    """
    check = "publication"
    wanted = list(names) or [row["pubname"] for row in await rows(connection, _ALL)]
    if not wanted:
        return [
            Finding.problem(
                check,
                f"database {database} has no publication",
                *_make("my_publication", version),
                remedy=_CHOOSE,
            )
        ], []
    found = {row["name"]: row for row in await rows(connection, _PUBLICATIONS, {"names": wanted})}
    findings = [
        _publication(name, found.get(name), version=version, database=database) for name in wanted
    ]
    if version >= 150000:
        for row in await rows(connection, _COLUMN_LISTS, {"names": list(found)}):
            publications = row["publications"]
            findings.append(
                Finding.problem(
                    "column lists",
                    f"publications {', '.join(publications)} have different column lists for "
                    f"{row['table']}, which PostgreSQL does not stream together",
                    f"ALTER PUBLICATION {quote_identifier(publications[-1])} "
                    f"DROP TABLE {row['table']};",
                )
                if names
                else Finding.warning(
                    "column lists",
                    f"publications {', '.join(publications)} have different column lists for "
                    f"{row['table']}: they cannot be streamed together",
                )
            )
    return findings, list(found)


def _make(name: str, version: int) -> tuple[str]:
    tables = "TABLES IN SCHEMA public" if version >= _SCHEMAS else "TABLE my_table"
    return (f"CREATE PUBLICATION {quote_identifier(name)} FOR {tables};",)


def _publication(name: str, row: dict[str, Any] | None, *, version: int, database: str) -> Finding:
    check, quoted = "publication", quote_identifier(name)
    if row is None:
        return Finding.problem(
            check,
            f"publication {quoted} does not exist in database {database}",
            *_make(name, version),
            remedy=_CHOOSE,
        )
    if not row["tables"] and not row["all_tables"]:
        return Finding.warning(
            check,
            f"publication {quoted} has no tables",
            f"ALTER PUBLICATION {quoted} ADD TABLE my_table;",
        )
    if not row["actions"]:
        return Finding.warning(
            check,
            f"publication {quoted} publishes no kind of change",
            f"ALTER PUBLICATION {quoted} SET (publish = 'insert, update, delete, truncate');",
        )
    publishes = f"publication {quoted} publishes {', '.join(row['actions'])} of"
    count = row["tables"]
    if row["all_tables"]:
        in_schema = ", or FOR TABLES IN SCHEMA public" if version >= _SCHEMAS else ""
        return Finding(
            check,
            Severity.OK,
            f"{publishes} all tables, now {count}",
            f"and those that are created later; better name the tables: FOR TABLE a, b{in_schema}",
        )
    return Finding.ok(check, f"{publishes} {count} table{'s'[: count - 1]}")


async def check_replica_identities(
    connection: AsyncConnection[Any], names: Sequence[str] | None, *, version: int
) -> list[Finding]:
    """Check the replica identities of the tables.

    Args:
        connection: an open connection.
        names: names of the publications whose tables to check; None for all tables, which
            wal2json streams.
        version: ``server_version_num``.
    """
    check = "replica identity"
    parameters = {"names": None if names is None else list(names)}
    tables = await rows(connection, _IDENTITIES, parameters)
    without = [row for row in tables if not row["identified"]]
    effect = (
        "wal2json leaves its UPDATEs and DELETEs out"
        if names is None
        else "PostgreSQL refuses UPDATE and DELETE on it while it is published"
    )
    findings = [
        Finding.warning(
            check,
            f"table {row['table']} has no replica identity: {effect}",
            f"ALTER TABLE {row['table']} REPLICA IDENTITY "
            f"{'DEFAULT' if row['key_will_do'] else 'FULL'};",
            remedy=None if row["key_will_do"] else "better: give it a primary key",
        )
        for row in without
    ]
    if names is not None and version >= 150000:
        findings += [
            Finding.warning(
                check,
                f"the column list of {row['table']} in publication "
                f"{quote_identifier(row['publication'])} lacks columns of its replica identity: "
                "PostgreSQL refuses UPDATE and DELETE on it",
                remedy=f"add {column_literal(row['columns'])} to the list",
            )
            for row in await rows(connection, _UNCOVERED, parameters)
        ]
    if not findings and tables:
        message = f"all {len(tables)} tables" if len(tables) > 1 else f"table {tables[0]['table']}"
        verb = "have" if len(tables) > 1 else "has"
        findings.append(Finding.ok(check, f"{message} {verb} a replica identity"))
    return findings
