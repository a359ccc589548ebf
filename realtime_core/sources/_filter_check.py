"""Checks filters against the tables of a database, before any change comes.

A source compiles a filter when a table's first change comes. So a filter for a misspelled table
never reports anything, and a filter with a misspelled column ends the stream at the first row.
Whoever types a filter by hand wants to know at once. It is only a warning: the table may be created
later, and a slot may hold rows that were written when the table had other columns.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, Final

from psycopg import AsyncConnection
from psycopg.rows import tuple_row

from ..changes import Relation, ReplicaIdentity
from ..errors import FilterError
from ..filters import EnumOrders, Filter, parse_filter
from ..records import Column
from . import catalog
from ._sessions import plain_connection

__all__ = ["filter_misfits"]

_ANY: Final = "*"

# For a column of a domain type this returns the base type, as the stream does.
_TABLES: Final = """
    SELECT n.nspname, c.relname, c.oid::pg_catalog.int8, p.relname IS NOT NULL,
        (
            SELECT pg_catalog.json_agg(pg_catalog.json_build_array(
                a.attname, t.oid::pg_catalog.int8, t.typname, tn.nspname
            ) ORDER BY a.attnum)
            FROM pg_catalog.pg_attribute a
            CROSS JOIN LATERAL (
                WITH RECURSIVE base AS (
                    SELECT b.oid, b.typtype, b.typbasetype FROM pg_catalog.pg_type b
                    WHERE b.oid OPERATOR(pg_catalog.=) a.atttypid
                    UNION ALL
                    SELECT b.oid, b.typtype, b.typbasetype
                    FROM base JOIN pg_catalog.pg_type b
                        ON b.oid OPERATOR(pg_catalog.=) base.typbasetype
                    WHERE base.typtype OPERATOR(pg_catalog.=) 'd'
                )
                SELECT base.oid FROM base WHERE base.typtype OPERATOR(pg_catalog.<>) 'd'
            ) of
            JOIN pg_catalog.pg_type t ON t.oid OPERATOR(pg_catalog.=) of.oid
            JOIN pg_catalog.pg_namespace tn ON tn.oid OPERATOR(pg_catalog.=) t.typnamespace
            WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid AND NOT a.attisdropped
                AND a.attnum OPERATOR(pg_catalog.>) 0::pg_catalog.int2
        )
    FROM pg_catalog.pg_class c
    JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    LEFT JOIN (
        SELECT DISTINCT schemaname, tablename FROM pg_catalog.pg_publication_tables
        WHERE pubname OPERATOR(pg_catalog.=) ANY (%s::pg_catalog.text[])
    ) p (nspname, relname) ON p.nspname OPERATOR(pg_catalog.=) n.nspname
        AND p.relname OPERATOR(pg_catalog.=) c.relname
    WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'::pg_catalog."char"[])
        AND n.nspname OPERATOR(pg_catalog.<>) ALL
            ('{pg_catalog,information_schema,pg_toast}'::pg_catalog.name[])
"""


async def filter_misfits(
    dsn: str, filters: Mapping[str, str], publications: Sequence[str] | None
) -> tuple[str, ...]:
    """Return a sentence for each reason why a filter does not fit the tables as they are now.

    Args:
        dsn: connection string of the database.
        filters: filters by ``schema.table``; the one for ``*`` is for all other tables.
        publications: the publications that are streamed; None if all tables are.

    Raises:
        SourceError: if the database cannot be asked.
    """
    async with plain_connection(dsn, "") as connection:
        tables = {
            str(relation): (relation, is_published or publications is None)
            async for relation, is_published in _tables(connection, publications or ())
        }
        enums = await catalog.enum_orders(connection)
    found: list[str] = []
    for name, text in filters.items():
        filter = parse_filter(text)
        if name == _ANY:
            others = [
                relation
                for relation, is_published in tables.values()
                if is_published and str(relation) not in filters
            ]
            found += _misfits_of_any(filter, others, enums)
        elif name not in tables:
            close = get_close_matches(name, tables, 1)
            hint = f"; there is {close[0]}" if close else ""
            found.append(f"the filter for {name} passes nothing: there is no such table{hint}")
        else:
            relation, is_published = tables[name]
            if not is_published:
                found.append(
                    f"the filter for {name} passes nothing: the table is in none of the "
                    f"publications {', '.join(publications or ())}"
                )
            found += [
                f"the filter for {name} does not fit it: {problem}"
                for problem in _misfits(filter, relation, enums)
            ]
    return tuple(found)


def _misfits_of_any(
    filter: Filter, relations: Sequence[Relation], enums: EnumOrders
) -> Iterator[str]:
    for relation in relations:
        for problem in _misfits(filter, relation, enums):
            # One reason is enough: a row of this table ends the stream.
            yield f"the filter without a table does not fit {relation}: {problem}"
            return


def _misfits(filter: Filter, relation: Relation, enums: EnumOrders) -> Iterator[str]:
    try:
        filter.compile(relation, enums=enums)
    except FilterError as exc:
        yield str(exc)


async def _tables(
    connection: AsyncConnection[Any], publications: Sequence[str]
) -> AsyncIterator[tuple[Relation, bool]]:
    async with connection.cursor(row_factory=tuple_row) as cursor:
        await cursor.execute(_TABLES, [list(publications)])
        async for schema, table, oid, is_published, columns in cursor:
            shape = tuple(
                Column(name, type_oid, type_name, type_schema, -1, is_key=False)
                for name, type_oid, type_name, type_schema in columns or ()
            )
            yield Relation(oid, schema, table, ReplicaIdentity.DEFAULT, shape), is_published
