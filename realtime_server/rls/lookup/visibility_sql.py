"""The SQL functions that find out which rows of a table each viewer may see.

Each connection has one temporary function for each table. The function's parameters are the rows'
keys and, for each viewer, the role, the claims, and which of the rows to look up. All statements of
the function but the viewer's query run as the server's role, with the search path that policies
have. So every name and operator in the function is qualified with its schema.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

from psycopg import sql

from ...config.database.tables import Functions, KeyColumn, Table
from .locks import LOCKED_RELATIONS

__all__ = ["CANCELED", "deleted_rows_function", "function", "rows_of", "type_of"]

# The problem that ends a call early: this viewer and those behind it have no answer yet.
CANCELED: Final = "canceled"

_FUNCTION: Final = """
CREATE FUNCTION pg_temp.{name}(
    {parameters}, compared_ pg_catalog.jsonb[],
    roles_json_ pg_catalog.json, claims_json_ pg_catalog.json, wanted_json_ pg_catalog.json
)
RETURNS TABLE (
    viewer_ integer, visible_ integer[], problem_ pg_catalog.text, detail_ pg_catalog.text,
    seconds_ double precision, locked_ pg_catalog.int8[]
)
LANGUAGE plpgsql
-- At the end, however it comes, the role is the session's own.
SET role = 'none'
AS ${name}$
{directive}
DECLARE
    {declarations}
    roles_ pg_catalog.text[] := ARRAY(SELECT pg_catalog.json_array_elements_text(roles_json_));
    claims_ pg_catalog.text[] := ARRAY(SELECT pg_catalog.json_array_elements_text(claims_json_));
    wanted_ pg_catalog.text[] := ARRAY(SELECT pg_catalog.json_array_elements_text(wanted_json_));
    mine_ integer[];
    started_ pg_catalog.timestamptz;
BEGIN
    FOR place_ IN 1 .. pg_catalog.cardinality(roles_) LOOP
        viewer_ := place_;
        mine_ := wanted_[place_]::integer[];
        started_ := pg_catalog.clock_timestamp();
        visible_ := NULL;
        seconds_ := NULL;
        BEGIN
            {forget}
            PERFORM
                pg_catalog.set_config('role', roles_[place_], true),
                pg_catalog.set_config('request.jwt.claims', claims_[place_], true);
            {look_up}
            -- Behind the rollback it would take 15 µs.
            seconds_ := pg_catalog.date_part(
                'epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) started_
            );
            -- What a policy has set for the transaction is not there for the next viewer.
            RAISE SQLSTATE 'RTEND';
        EXCEPTION
            WHEN query_canceled OR lock_not_available THEN
                visible_ := NULL;
                seconds_ := pg_catalog.date_part(
                    'epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) started_
                );
                problem_ := CASE
                    WHEN SQLSTATE OPERATOR(pg_catalog.=) '57014' THEN 'canceled'
                    ELSE SQLSTATE
                END;
                detail_ := pg_catalog.left(SQLERRM, 1000);
                -- Perhaps the viewer waited for one of these: the caller finds out.
                locked_ := ARRAY({locked});
                IF problem_ OPERATOR(pg_catalog.=) 'canceled'
                    OR pg_catalog.cardinality(locked_) OPERATOR(pg_catalog.>) 0
                THEN
                    RETURN NEXT;
                    RETURN;
                END IF;
            WHEN OTHERS OR assert_failure THEN
                -- Ours at the end, unless there is no answer yet.
                problem_ := CASE WHEN visible_ IS NULL THEN SQLSTATE END;
                detail_ := CASE WHEN visible_ IS NULL THEN pg_catalog.left(SQLERRM, 1000) END;
                locked_ := NULL;
        END;
        RETURN NEXT;
    END LOOP;
END
${name}$
"""

# Functions in a policy keep plans, too. Each statement is planned when it is run: after this, that
# is after the viewer's claims were set.
_FORGET: Final = "DISCARD PLANS;"

_BY_ROW: Final = """
            visible_ := ARRAY(
                SELECT k.place
                FROM ROWS FROM ({keys}, pg_catalog.unnest(compared_))
                    WITH ORDINALITY AS k ({aliases}, compared, place)
                JOIN {table} t ON {equal}
                WHERE (mine_ IS NULL OR k.place OPERATOR(pg_catalog.=) ANY (mine_)) {unchanged}
            );
"""

# One descent of the index finds many keys, in half the time. No policy may run for rows that nobody
# asks for, so the keys are picked before.
_BY_KEY: Final = """
            picked_ := CASE WHEN mine_ IS NULL THEN typed_0_
                ELSE ARRAY(SELECT typed_0_[m] FROM pg_catalog.unnest(mine_) m) END;
            visible_ := ARRAY(
                SELECT CASE WHEN mine_ IS NULL THEN k.place ELSE mine_[k.place] END
                FROM (
                    SELECT t.{name} AS key FROM {table} t WHERE t.{name} {equals} ANY (picked_)
                ) v
                JOIN pg_catalog.unnest(picked_) WITH ORDINALITY AS k (key, place)
                    ON k.key {equals} v.key
            );
"""

# Deleted rows, as values. A policy names the table, and may mean the whole row. A value's type may
# have checks, which run as the viewer's role.
_BY_VALUE: Final = """
            PERFORM pg_catalog.set_config('search_path', {search_path}, true);
            visible_ := ARRAY(
                SELECT k.place
                FROM pg_catalog.unnest(key_0_) WITH ORDINALITY AS k (row_text, place)
                WHERE CASE
                    WHEN mine_ IS NULL OR k.place OPERATOR(pg_catalog.=) ANY (mine_) THEN EXISTS (
                        SELECT
                        FROM pg_catalog.unnest(ARRAY[k.row_text::{type}]) AS {alias}
                        WHERE {condition}
                    )
                    ELSE false
                END
            );
"""

# Values are compared as text, under this session's settings: not every type has an equality, and
# where a type has one, 1.0 = 1.00. A row value of NULLs IS NULL, though it is no NULL.
_UNCHANGED: Final = """
    AND (
        NOT pg_catalog.jsonb_exists(k.compared, {label})
        OR (
            (t.{name} IS NOT DISTINCT FROM NULL) OPERATOR(pg_catalog.=)
                (pg_catalog.jsonb_extract_path_text(k.compared, {label}) IS NULL)
            AND pg_catalog.concat(t.{name}) OPERATOR(pg_catalog.=) pg_catalog.concat(
                pg_catalog.jsonb_extract_path_text(k.compared, {label}){type}
            )
        )
    )
"""


def rows_of(table: Table) -> str:
    """Return the FROM item that reads a table's own rows.

    The rows of tables that inherit from the table are left out: they may have the same keys.
    """
    name = f"{_quoted(table.schema)}.{_quoted(table.name)}"
    return name if table.is_partitioned else f"ONLY {name}"


@lru_cache(maxsize=256)
def function(
    oid: int,
    table: str,
    key: tuple[KeyColumn, ...],
    compared: tuple[tuple[str, str | None], ...],
    called: Functions,
) -> tuple[str, str]:
    """Return name and definition of the function for a table.

    Args:
        oid: the table's OID.
        table: the table as :func:`rows_of` returns it.
        key: the columns of the table's primary key.
        compared: the columns in which rows must still have the values of the change: pairs of the
            name and the type to which the change's text is cast; None: the text is not cast.
        called: the functions that the table's policies call.
    """
    fields = {
        # The parameters have the columns' types: anybody could have made a cast from text.
        "parameters": ", ".join(f"key_{n}_ {type_of(column)}[]" for n, column in enumerate(key)),
        "declarations": " ".join(
            f"typed_{n}_ {type_of(column)}[] := key_{n}_;" for n, column in enumerate(key)
        )
        + f" picked_ {type_of(key[0])}[];",
        "look_up": _look_up(table, key, compared),
        "directive": "",
    }
    return _named(oid, fields, called)


@lru_cache(maxsize=256)
def deleted_rows_function(
    oid: int,
    schema: str,
    table: str,
    condition: str,
    search_path: str,
    called: Functions,
) -> tuple[str, str]:
    """Return name and definition of the function for deleted rows of a table.

    The only key of such a row is the whole row as text.

    Args:
        oid: the table's OID.
        schema: the table's schema.
        table: the table's name.
        condition: the SQL condition that a row must meet.
        search_path: the search path with which to read the condition.
        called: the functions that the table's policies call.
    """
    fields = {
        "parameters": "key_0_ pg_catalog.text[]",
        "declarations": "",
        "look_up": _BY_VALUE.format(
            search_path=sql.Literal(search_path).as_string(None),
            type=f"{_quoted(schema)}.{_quoted(table)}",
            alias=_quoted(table),
            condition=condition,
        ),
        # The condition is about columns, whatever their names.
        "directive": "#variable_conflict use_column",
    }
    return _named(oid, fields, called)


def _named(oid: int, fields: dict[str, str], called: Functions) -> tuple[str, str]:
    fields = {
        **fields,
        # If one of these functions was replaced, a plan from before may hold what it returned.
        "called": called.stamp,
        "forget": _FORGET if called.immutable else "",
        "oid": str(oid),
        "locked": LOCKED_RELATIONS,
    }
    # The name also ends the quoted body, so that nothing in the body can end it.
    unique = f"realtime_{hashlib.sha256(repr(fields).encode()).hexdigest()[:16]}"
    return unique, _FUNCTION.format(name=unique, **fields)


def _look_up(
    table: str, key: tuple[KeyColumn, ...], compared: tuple[tuple[str, str | None], ...]
) -> str:
    if len(key) == 1 and key[0].type_sql is not None and not compared:
        [column] = key
        return _BY_KEY.format(name=_quoted(column.name), table=table, equals=column.equals)
    return _BY_ROW.format(
        keys=", ".join(f"pg_catalog.unnest(typed_{n}_)" for n, _ in enumerate(key)),
        aliases=", ".join(f"key_{n}" for n, _ in enumerate(key)),
        table=table,
        equal=" AND ".join(_equal(column, f"k.key_{n}") for n, column in enumerate(key)),
        unchanged="".join(
            _UNCHANGED.format(
                name=_quoted(name),
                label=sql.Literal(name).as_string(None),
                type="" if type_sql is None else f"::{type_sql}",
            )
            for name, type_sql in compared
        ),
    )


def type_of(column: KeyColumn) -> str:
    """Return the type of a key's values in the function, where they are made as the server's
    role."""
    return "pg_catalog.text" if column.type_sql is None else column.type_sql


def _equal(column: KeyColumn, value: str) -> str:
    """Return the SQL condition that a column of the key has a value."""
    name = f"t.{_quoted(column.name)}"
    if column.type_sql is None:
        # The type's output function is PostgreSQL's own; anybody could have made a cast.
        return f"pg_catalog.concat({name}) OPERATOR(pg_catalog.=) {value}"
    return f"{name} {column.equals} {value}"


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)
