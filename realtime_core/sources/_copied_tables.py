"""Asks the catalog which tables a snapshot copies, and describes them as the stream will."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs
from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from ..changes import Relation, ReplicaIdentity
from ..errors import SourceError
from ..records import Column
from ..snapshot.tables import CopiedTable

__all__ = [
    "COLUMN_LISTS_SINCE",
    "Choice",
    "altered_tables",
    "chosen_tables",
    "describe",
    "publications_state",
    "published_tables",
    "writers",
]

Pattern: TypeAlias = tuple[str | None, str | None]
"""A schema and a table, of which None stands for any."""

COLUMN_LISTS_SINCE: Final = 150000
"""The first version with column lists and row filters of publications."""
_GENERATED_SINCE: Final = 180000
"""The first version that publishes generated columns."""

# Every name has its schema, because a search path may begin with somebody else's.
_PUBLISHED: Final = """
    SELECT c.oid::pg_catalog.int8, pg_catalog.format('%%I.%%I', p.schemaname, p.tablename),
           p.pubname, {columns}, {row_filter},
           ARRAY(SELECT relid::pg_catalog.oid::pg_catalog.int8
                 FROM pg_catalog.pg_partition_ancestors(c.oid) AS a (relid)
                 WHERE relid::pg_catalog.oid OPERATOR(pg_catalog.<>) c.oid)
    FROM pg_catalog.pg_publication_tables p
    JOIN pg_catalog.pg_namespace n ON n.nspname OPERATOR(pg_catalog.=) p.schemaname
    JOIN pg_catalog.pg_class c ON c.relnamespace OPERATOR(pg_catalog.=) n.oid
         AND c.relname OPERATOR(pg_catalog.=) p.tablename
    WHERE p.pubname OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.text[])
    ORDER BY p.schemaname, p.tablename, p.pubname
"""
# PostgreSQL 15 lists generated columns, too, where a publication has no list of its own.
_LISTED: Final = """
    ARRAY(SELECT a.attname::pg_catalog.text FROM pg_catalog.pg_attribute a
          WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid
            AND a.attname OPERATOR(pg_catalog.=) ANY (p.attnames)
            AND a.attgenerated OPERATOR(pg_catalog.=) ''
          ORDER BY a.attnum)
"""
_ALL: Final = """
    SELECT c.oid::pg_catalog.int8, n.nspname, c.relname
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.relkind OPERATOR(pg_catalog.=) ANY (%s::"char"[])
      AND c.relpersistence OPERATOR(pg_catalog.=) 'p'
      AND n.nspname OPERATOR(pg_catalog.<>) ALL (ARRAY['pg_catalog', 'information_schema'])
    ORDER BY n.nspname, c.relname
"""
_TABLES: Final = """
    SELECT c.oid::pg_catalog.int8, n.nspname, c.relname, c.relreplident::pg_catalog.text,
           c.relkind OPERATOR(pg_catalog.=) 'p',
           CASE WHEN c.reltuples OPERATOR(pg_catalog.>=) 0
                THEN c.reltuples::pg_catalog.int8 END
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.oid OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.oid[])
"""
# The stream names the base type of a domain.
_COLUMNS: Final = """
    WITH RECURSIVE base (oid, base) AS (
        SELECT t.oid, t.oid FROM pg_catalog.pg_type t
        WHERE t.typtype OPERATOR(pg_catalog.<>) 'd'
        UNION ALL
        SELECT t.oid, b.base FROM pg_catalog.pg_type t
        JOIN base b ON t.typbasetype OPERATOR(pg_catalog.=) b.oid
        WHERE t.typtype OPERATOR(pg_catalog.=) 'd'
    )
    SELECT a.attrelid::pg_catalog.int8, a.attname, a.atttypid::pg_catalog.int8, t.typname,
           n.nspname, a.atttypmod,
           EXISTS (SELECT 1 FROM pg_catalog.pg_index i
                   WHERE i.indrelid OPERATOR(pg_catalog.=) c.oid
                     AND ((c.relreplident OPERATOR(pg_catalog.=) 'd'
                           AND i.indisprimary AND i.indimmediate)
                          OR (c.relreplident OPERATOR(pg_catalog.=) 'i' AND i.indisreplident))
                     AND a.attnum OPERATOR(pg_catalog.=) ANY (i.indkey)),
           a.attgenerated OPERATOR(pg_catalog.<>) ''
    FROM pg_catalog.pg_attribute a
    JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) a.attrelid
    JOIN base b ON b.oid OPERATOR(pg_catalog.=) a.atttypid
    JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) b.base
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) t.typnamespace
    WHERE a.attrelid OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.oid[])
      AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
    ORDER BY a.attrelid, a.attnum
"""
_KEYS: Final = """
    SELECT i.indrelid::pg_catalog.int8, a.attname
    FROM pg_catalog.pg_index i
    CROSS JOIN LATERAL pg_catalog.unnest(i.indkey) WITH ORDINALITY AS k (attnum, place)
    JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) i.indrelid
         AND a.attnum OPERATOR(pg_catalog.=) k.attnum
    WHERE i.indrelid OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.oid[]) AND i.indisprimary
          AND k.place OPERATOR(pg_catalog.<=) i.indnkeyatts
    ORDER BY i.indrelid, k.place
"""
# The catalog is read by the snapshot, and its functions tell what is true now. Without partitions,
# pg_partition_tree returns nothing. A table, or a column, may have another's name by now.
# IS DISTINCT FROM would look for its operator in the search path.
_ALTERED: Final = """
    SELECT pg_catalog.format('%%s.%%s', n.nspname, c.relname)
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.oid OPERATOR(pg_catalog.=) ANY (%(oids)s::pg_catalog.oid[]) AND (
        EXISTS (
            SELECT 1
            FROM (SELECT c.oid UNION SELECT relid::pg_catalog.oid
                  FROM pg_catalog.pg_partition_tree(c.oid)) AS p (oid)
            JOIN pg_catalog.pg_class f ON f.oid OPERATOR(pg_catalog.=) p.oid
            WHERE f.relkind OPERATOR(pg_catalog.=) 'r'
              AND coalesce(f.relfilenode OPERATOR(pg_catalog.<>)
                           pg_catalog.pg_relation_filenode(f.oid), true))
        OR EXISTS (
            SELECT 1
            FROM pg_catalog.pg_attribute a
            CROSS JOIN LATERAL pg_catalog.pg_identify_object_as_address(
                'pg_catalog.pg_class'::pg_catalog.regclass, c.oid, a.attnum) AS i
            WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid
              AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped
              AND coalesce(i.object_names OPERATOR(pg_catalog.<>)
                           ARRAY[n.nspname, c.relname, a.attname]::pg_catalog.text[], true)))
"""
# A transaction that has written holds this lock until snapshots see it.
_WRITERS: Final = """
    SELECT l.virtualtransaction, coalesce(l.pid, 0)
    FROM pg_catalog.pg_locks l
    JOIN (SELECT %(oid)s::pg_catalog.oid
          UNION SELECT relid::pg_catalog.oid
                FROM pg_catalog.pg_partition_tree(%(oid)s::pg_catalog.oid)) AS t (oid)
         ON l.relation OPERATOR(pg_catalog.=) t.oid
    JOIN pg_catalog.pg_database d ON d.oid OPERATOR(pg_catalog.=) l.database
         AND d.datname OPERATOR(pg_catalog.=) pg_catalog.current_database()
    WHERE l.granted AND l.locktype OPERATOR(pg_catalog.=) 'relation'
      AND l.mode OPERATOR(pg_catalog.=) ANY (ARRAY['RowExclusiveLock', 'ShareRowExclusiveLock',
          'ExclusiveLock', 'AccessExclusiveLock'])
"""


@attrs.frozen
class Choice:
    """A table that is copied, and what of it."""

    oid: int
    """The table's OID."""
    columns: tuple[str, ...] | None = None
    """The names of its columns; None for all that are not generated."""
    filters: tuple[str, ...] = ()
    """SQL conditions of which one has to be true; empty for all rows."""


async def published_tables(
    connection: AsyncConnection[Any], version: int, publications: Sequence[str]
) -> list[Choice]:
    """Return the tables of publications, with the column lists and row filters that they have.

    As for a subscription's first copy, the filters count whatever operations a publication has.

    Args:
        connection: a connection for SQL.
        version: the server's version, such as 170012.
        publications: the names of the publications.

    Raises:
        SourceError: if two of them have different column lists for a table, which PostgreSQL does
            not stream together (see "Column Lists" of logical replication in its documentation).
    """
    has_lists = version >= COLUMN_LISTS_SINCE
    columns = "p.attnames::pg_catalog.text[]" if version >= _GENERATED_SINCE else _LISTED
    query = _PUBLISHED.format(
        columns=columns if has_lists else "NULL",
        row_filter="p.rowfilter" if has_lists else "NULL",
    )
    found: dict[int, list[tuple[Any, ...]]] = {}
    for row in await _rows(connection, query, [list(publications)]):
        found.setdefault(row[0], []).append(row)
    return [
        Choice(oid, _columns(rows), _any_of([row[-2] for row in rows]))
        for oid, rows in found.items()
        # One publication has the partitioned table, and another one this partition of it: the
        # stream has its changes under the name of the partitioned table.
        if not found.keys() & set(rows[0][-1])
    ]


def _columns(rows: Sequence[tuple[Any, ...]]) -> tuple[str, ...] | None:
    """Return the column list of a table, which has to be the same in each row of _PUBLISHED."""
    _, table, first, columns, *_ = rows[0]
    for _, _, publication, others, *_ in rows:
        if others != columns:
            raise SourceError(
                f"publications {first!r} and {publication!r} have different column lists for "
                f"{table}, which PostgreSQL does not stream together: drop it from one of them "
                "with ALTER PUBLICATION"
            )
    return None if columns is None else tuple(columns)


async def publications_state(connection: AsyncConnection[Any], version: int) -> set[Any]:
    """Return what differs when a publication was altered, as the connection's snapshot sees it.

    The functions of PostgreSQL that list tables of publications do not go by the snapshot.
    """
    catalogs = ["pg_publication", "pg_publication_rel"]
    if version >= COLUMN_LISTS_SINCE:
        catalogs.append("pg_publication_namespace")
    queries = (
        f"SELECT '{name}', oid::pg_catalog.int8, xmin::pg_catalog.text FROM pg_catalog.{name}"
        for name in catalogs
    )
    return set(await _rows(connection, " UNION ALL ".join(queries), []))


async def chosen_tables(
    connection: AsyncConnection[Any],
    tables: Iterable[Pattern] | None,
    exclude_tables: Iterable[Pattern],
    *,
    partitioned: bool = False,
) -> list[Choice]:
    """Return the tables whose schema and name are chosen.

    Args:
        connection: a connection for SQL.
        tables: pairs of schema and table, of which None stands for any; None for all tables.
        exclude_tables: pairs of tables to leave out.
        partitioned: whether a partitioned table may be chosen, besides its partitions.
    """
    chosen = [(None, None)] if tables is None else list(tables)
    excluded = list(exclude_tables)
    kinds = ["r", "p"] if partitioned else ["r"]
    return [
        Choice(oid)
        for oid, *pair in await _rows(connection, _ALL, [kinds])
        if _fits(pair, chosen) and not _fits(pair, excluded)
    ]


def _fits(pair: Sequence[str], patterns: Iterable[Pattern]) -> bool:
    return any(
        all(each is None or each == name for each, name in zip(pattern, pair, strict=True))
        for pattern in patterns
    )


def _any_of(filters: list[str | None]) -> tuple[str, ...]:
    """Return the filters of several publications; none if one publication has all rows."""
    known = [each for each in filters if each is not None]
    return tuple(dict.fromkeys(known)) if len(known) == len(filters) else ()


async def describe(
    connection: AsyncConnection[Any], version: int, choices: Iterable[Choice]
) -> list[CopiedTable]:
    """Return the tables with all that a snapshot needs to know of them, in the same order.

    Args:
        connection: a connection for SQL.
        version: the server's version, such as 170012.
        choices: which tables to describe.
    """
    wanted = {choice.oid: choice for choice in choices}
    oids = [list(wanted)]
    columns: dict[int, list[Column]] = {oid: [] for oid in wanted}
    tables = {row[0]: row[1:] for row in await _rows(connection, _TABLES, oids)}
    for oid, name, type_oid, type_name, type_schema, modifier, is_key, is_generated in await _rows(
        connection, _COLUMNS, oids
    ):
        listed = wanted[oid].columns
        is_left_out = is_generated and (listed is None or version < _GENERATED_SINCE)
        if is_left_out or (listed is not None and name not in listed):
            continue
        is_full = oid in tables and tables[oid][2] == ReplicaIdentity.FULL.value
        columns[oid].append(
            Column(name, type_oid, type_name, type_schema, modifier, is_key or is_full)
        )
    keys: dict[int, list[str]] = {oid: [] for oid in wanted}
    for oid, name in await _rows(connection, _KEYS, oids):
        keys[oid].append(name)
    return [
        _copied_table(wanted[oid], tables[oid], tuple(columns[oid]), tuple(keys[oid]))
        for oid in wanted
        if oid in tables
    ]


def _copied_table(
    choice: Choice, row: tuple[Any, ...], columns: tuple[Column, ...], key: tuple[str, ...]
) -> CopiedTable:
    schema, table, identity, is_partitioned, estimate = row
    relation = Relation(choice.oid, schema, table, ReplicaIdentity(identity), columns)
    return CopiedTable(relation, choice.oid, key, choice.filters, is_partitioned, estimate)


async def altered_tables(connection: AsyncConnection[Any], oids: Sequence[int]) -> tuple[str, ...]:
    """Return the tables that are not as a snapshot has them.

    They were rewritten or truncated, so the snapshot cannot see their rows any more; or they were
    dropped, or one of their names was changed.

    Args:
        connection: a connection whose transaction uses the snapshot, and has locked the tables.
        oids: the tables.
    """
    return tuple(row[0] for row in await _rows(connection, _ALTERED, {"oids": list(oids)}))


async def writers(connection: AsyncConnection[Any], oid: int) -> dict[str, int]:
    """Return the transactions that have written to a table, or may, with their process IDs."""
    return dict(await _rows(connection, _WRITERS, {"oid": oid}))


async def _rows(
    connection: AsyncConnection[Any],
    query: str,
    parameters: Sequence[object] | Mapping[str, object],
) -> list[tuple[Any, ...]]:
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(query.encode(), parameters)
        return await cursor.fetchall()
