"""Functions: SQL that goes through viewers and says which rows each of them may see.

One for each table, temporary, on each connection. It takes the rows' keys, and of each viewer
role, claims and which rows it is asked about.

What it does itself it does as the server, with the search path that policies have: every name and
operator in it says its schema.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Final

from psycopg import sql

from ...config.database.tables import Functions, KeyColumn, Table
from .locks import LOCKED_RELATIONS

__all__ = ["CANCELED", "former_function", "function", "rows_of", "type_of"]

# It stops a call early: the viewer and those behind it have no answer yet.
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

# Plans that functions in a policy keep, too. Each statement is planned when it is run, so after the
# viewer's claims are set.
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

# One descent of the index for many keys, which takes half the time. Rows that are not asked for
# must not be looked at, so their keys are picked before.
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

# Rows that are there no more, as values; a policy names the table, and may mean its whole row. A
# value's type may have checks, which are the viewer's to run.
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

# As text, under this session's settings: not every type has an equality, and where it has
# one, 1.0 = 1.00. A row value of NULLs IS NULL, and is none.
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
    """Return where a table's rows are, as SQL writes it behind FROM.

    Those of a table that inherits from it are another table's, and may have the same key.
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
        oid: the table's.
        table: what :func:`rows_of` says of it.
        key: its primary key.
        compared: columns in which rows must still be as they were, by name, each with the type that
            its text becomes; None: none.
        called: by the table's policies.
    """
    fields = {
        # Of their types: a cast from text could be anybody's.
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
def former_function(
    oid: int,
    schema: str,
    table: str,
    condition: str,
    search_path: str,
    called: Functions,
) -> tuple[str, str]:
    """Return the same for rows of a table that are there no more, which are their own keys.

    Args:
        oid: the table's.
        schema: the table's.
        table: its name.
        condition: the SQL condition that a row must meet.
        search_path: the search path with which to read the condition.
        called: by the table's policies.
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
        # A plan from before one of them was another may hold what it returned as IMMUTABLE.
        "called": called.stamp,
        "forget": _FORGET if called.immutable else "",
        "oid": str(oid),
        "locked": LOCKED_RELATIONS,
    }
    # It ends the quoted body, too, so that nothing in there can.
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
    """Return the type of a key's values here, where they are made as the server."""
    return "pg_catalog.text" if column.type_sql is None else column.type_sql


def _equal(column: KeyColumn, value: str) -> str:
    """Return that a key's column has a value."""
    name = f"t.{_quoted(column.name)}"
    if column.type_sql is None:
        # By the type's output function, where a cast could be anybody's.
        return f"pg_catalog.concat({name}) OPERATOR(pg_catalog.=) {value}"
    return f"{name} {column.equals} {value}"


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)
