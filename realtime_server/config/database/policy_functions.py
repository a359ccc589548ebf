"""The functions that policies call, directly or not, and which of them are declared IMMUTABLE.

PostgreSQL computes a call of an IMMUTABLE function with constant arguments when it plans a query.
If such a function reads ``request.jwt.claims``, although it must not, it would be computed for the
first viewer, and its result would be used for the next ones, for as long as the plan is kept.

Theory of operation. The query starts with a table's policies for SELECT and follows ``pg_depend``:
to the functions and operators that the policies call, to the functions of the operators, to the
views and tables that the policies read, and to the policies of these. PostgreSQL records the calls
in a function's body only if the body is SQL between BEGIN ATOMIC and END. Other bodies are text, in
which the query looks for the names of functions, operators, views, and tables with policies. It may
find a name that is not meant, which costs time and nothing else. It does not find the calls of
compiled functions, nor those of a domain's CHECK, nor, in a body that is text, those of implicit
casts and of names with a dollar sign or Unicode escapes.

PostgreSQL's own functions, and compiled ones of an extension, are taken to be what they are
declared as. An extension's functions in SQL or another language count like a user's where
``pg_depend`` has the call, since anybody may have written them. In texts they are not looked for,
since many have the same names as PostgreSQL's functions.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

import attrs
from psycopg import AsyncConnection, AsyncCursor
from psycopg.rows import TupleRow

from .tables import Functions

__all__ = [
    "CALLS_FUNCTIONS",
    "ImmutableCall",
    "functions_of_policies",
    "immutable_calls",
    "reached_by_policies",
]

_COUNTS: Final = """
    {f}.oid >= '16384'::pg_catalog.oid AND NOT (
        EXISTS (
            SELECT FROM pg_catalog.pg_language l
            WHERE l.oid = {f}.prolang AND l.lanname IN ('c', 'internal')
        ) AND EXISTS (
            SELECT FROM pg_catalog.pg_depend e
            WHERE e.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
                AND e.objid = {f}.oid AND e.deptype = 'e'
        )
    )
"""

# By policy, what it reaches. 16384 is FirstNormalObjectId, in src/include/access/transam.h. A
# policy depends on its own table, whose other policies it does not call.
_REACHED: Final = """
    WITH RECURSIVE class AS NOT MATERIALIZED (
        SELECT 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid AS proc,
            'pg_catalog.pg_operator'::pg_catalog.regclass::pg_catalog.oid AS operator,
            'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid AS relation,
            'pg_catalog.pg_rewrite'::pg_catalog.regclass::pg_catalog.oid AS rule,
            'pg_catalog.pg_policy'::pg_catalog.regclass::pg_catalog.oid AS policy
    ), reached (policy, own, classid, objid{by_name}) AS (
        SELECT p.oid, p.polrelid, class.policy, p.oid{no}
        FROM class CROSS JOIN pg_catalog.pg_policy p
        WHERE p.polcmd IN ('r', '*') AND {which}
        UNION
        SELECT r.policy, r.own, n.classid, n.objid{carried}
        FROM reached r CROSS JOIN class CROSS JOIN LATERAL (
            SELECT d.refclassid, d.refobjid{no}
            FROM pg_catalog.pg_depend d
            WHERE d.classid = r.classid AND d.objid = r.objid AND r.classid <> class.relation
                AND d.refclassid IN (class.proc, class.operator, class.relation)
            UNION ALL
            SELECT class.rule, w.oid{no}
            FROM pg_catalog.pg_rewrite w
            JOIN pg_catalog.pg_class v ON v.oid = w.ev_class AND v.relkind = 'v'
            WHERE r.classid = class.relation AND w.ev_class = r.objid
            UNION ALL
            SELECT class.policy, q.oid{no}
            FROM pg_catalog.pg_policy q
            WHERE r.classid = class.relation AND q.polrelid = r.objid AND q.polcmd IN ('r', '*')
                AND q.polrelid <> r.own
            UNION ALL
            -- Each OFFSET 0 keeps what is before it together: for each of its rows an index has
            -- the rest, however many functions and tables there are.
            SELECT m.classid, m.objid{yes}
            FROM (
                SELECT b.prosrc AS body
                FROM pg_catalog.pg_proc b
                JOIN pg_catalog.pg_language k ON k.oid = b.prolang
                WHERE r.classid = class.proc AND b.oid = r.objid AND b.prosqlbody IS NULL
                    AND b.oid >= '16384'::pg_catalog.oid
                    AND k.lanname NOT IN ('c', 'internal')
                OFFSET 0
            ) t CROSS JOIN LATERAL (
                SELECT found.classid, found.objid
                FROM (
                    SELECT DISTINCT word::pg_catalog.name AS name
                    FROM (
                        SELECT pg_catalog.regexp_split_to_table(
                            t.body || ' ' || pg_catalog.lower(t.body), '\\W+'
                        )
                        UNION ALL
                        SELECT pg_catalog.replace(quoted[1], '""', '"')
                        FROM pg_catalog.regexp_matches(t.body, '"((?:[^"]|"")+)"', 'g') quoted
                    ) words (word)
                    OFFSET 0
                ) w CROSS JOIN LATERAL (
                    SELECT class.proc, g.oid
                    FROM pg_catalog.pg_proc g
                    WHERE g.proname = w.name AND g.oid >= '16384'::pg_catalog.oid
                    UNION ALL
                    SELECT class.relation, v.oid
                    FROM pg_catalog.pg_class v
                    WHERE v.relname = w.name AND v.oid >= '16384'::pg_catalog.oid
                        AND ({named})
                    OFFSET 0
                ) found (classid, objid)
                UNION ALL
                SELECT class.operator, o.oid
                FROM pg_catalog.pg_operator o
                WHERE o.oid >= '16384'::pg_catalog.oid
                    AND pg_catalog.strpos(t.body, o.oprname::pg_catalog.text) > 0
                OFFSET 0
            ) m (classid, objid)
            WHERE NOT EXISTS (
                SELECT FROM pg_catalog.pg_depend e
                WHERE e.classid = m.classid AND e.objid = m.objid AND e.deptype = 'e'
                OFFSET 0
            )
        ) n (classid, objid{by_name})
    )
"""


def reached_by_policies(
    which: str, *, tells_names: bool = False, finds_all_tables: bool = False
) -> str:
    """Return the WITH clause of a query: a table of all database objects that policies use.

    These are the functions, operators, views and other objects that the policies name, those that
    these name, and so on.

    Args:
        which: an SQL condition that selects the policies, as rows ``p`` of ``pg_policy``.
        tells_names: whether the table has a column ``by_name``, which is true where an object is
            known only because its name is in the body of a function. An object that is known in
            both ways is in the table twice then.
        finds_all_tables: whether all tables are looked for in texts; else only views and tables
            with policies, since others call no functions.
    """
    parts = {"by_name": ", by_name", "no": ", false", "yes": ", true"}
    parts["carried"] = ", r.by_name OR n.by_name"
    if not tells_names:
        parts = dict.fromkeys(parts, "")
    named = "v.relkind = 'v' OR v.relrowsecurity"
    if finds_all_tables:
        named = "v.relkind = ANY ('{r,p,v,m}'::pg_catalog.\"char\"[])"
    return _REACHED.format(which=which, named=named, **parts)


_NAME: Final = """
    pg_catalog.format(
        '%%I.%%I(%%s)', s.nspname, f.proname, pg_catalog.pg_get_function_identity_arguments(f.oid)
    )
"""

CALLS_FUNCTIONS: Final = """
    c.relrowsecurity AND EXISTS (
        SELECT
        FROM pg_catalog.pg_policy p
        JOIN pg_catalog.pg_depend d ON d.objid = p.oid
            AND d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass::pg_catalog.oid
        WHERE p.polrelid = c.oid AND (
            d.refclassid IN (
                'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid,
                'pg_catalog.pg_operator'::pg_catalog.regclass::pg_catalog.oid
            ) OR (
                d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid
                AND d.refobjid <> c.oid
            )
        )
    )
"""
"""A condition on a row ``c`` of ``pg_class``: whether the table's policies may call functions that
are not PostgreSQL's."""

_FUNCTIONS: Final = f"""
    {reached_by_policies("p.polrelid = ANY (%s::pg_catalog.oid[])")}
    SELECT p.polrelid::pg_catalog.int8,
        pg_catalog.string_agg(
            DISTINCT f.oid::pg_catalog.text || ' ' || f.xmin::pg_catalog.text, ','
        ),
        pg_catalog.array_agg(DISTINCT {_NAME}) FILTER (WHERE f.provolatile = 'i')
    FROM reached r
    JOIN pg_catalog.pg_policy p ON p.oid = r.policy
    JOIN pg_catalog.pg_proc f ON f.oid = r.objid
    JOIN pg_catalog.pg_namespace s ON s.oid = f.pronamespace
    WHERE r.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
        AND {_COUNTS.format(f="f")}
    GROUP BY p.polrelid
"""

# The just-in-time compiler would take seconds for a query that runs for a millisecond.
_NO_JIT: Final = "SET LOCAL jit = off"

_CALLS: Final = f"""
    {
    reached_by_policies(
        '''p.polrelid IN (
            SELECT c.oid
            FROM pg_catalog.pg_publication_tables t
            JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
            JOIN pg_catalog.pg_class c ON c.relname = t.tablename AND c.relnamespace = n.oid
            WHERE t.pubname = ANY (%s) AND c.relrowsecurity
        )''',
        tells_names=True,
    )
}
    SELECT name, pg_catalog.array_agg(policy ORDER BY policy) FILTER (WHERE NOT by_name),
        pg_catalog.array_agg(policy ORDER BY policy) FILTER (WHERE by_name)
    FROM (
        SELECT {_NAME} AS name,
            pg_catalog.format('%%I on %%I.%%I', p.polname, n.nspname, c.relname) AS policy,
            pg_catalog.bool_and(r.by_name) AS by_name
        FROM reached r
        JOIN pg_catalog.pg_proc f ON f.oid = r.objid
        JOIN pg_catalog.pg_namespace s ON s.oid = f.pronamespace
        JOIN pg_catalog.pg_policy p ON p.oid = r.policy
        JOIN pg_catalog.pg_class c ON c.oid = p.polrelid
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE r.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass::pg_catalog.oid
            AND f.provolatile = 'i' AND f.oid >= '16384'::pg_catalog.oid
            AND NOT EXISTS (
                SELECT FROM pg_catalog.pg_depend e
                WHERE e.classid = r.classid AND e.objid = f.oid AND e.deptype = 'e'
            )
        GROUP BY 1, 2
    ) calls
    GROUP BY 1 ORDER BY 1
"""


@attrs.frozen
class ImmutableCall:
    """A function that policies call and that is declared IMMUTABLE."""

    function: str
    """The function as SQL names it, with its arguments."""
    policies: tuple[str, ...]
    """The policies that call it, as PostgreSQL records it, each as ``policy on table``."""
    perhaps: tuple[str, ...]
    """The policies that may call it: its name, or the name of something that calls it, is in the
    body of a function that they call, which is text."""


async def functions_of_policies(
    cursor: AsyncCursor[TupleRow], oids: Collection[int]
) -> dict[int, Functions]:
    """Return the functions that policies call, by the OID of the table.

    Tables whose policies call none are left out.

    Args:
        cursor: a cursor of a connection without the just-in-time compiler.
        oids: the OIDs of the tables.

    Raises:
        psycopg.Error: if the query fails.
    """
    await cursor.execute(_FUNCTIONS.encode(), [list(oids)])
    return {
        oid: Functions(stamp, tuple(immutable or ()))
        for oid, stamp, immutable in await cursor.fetchall()
    }


async def immutable_calls(
    connection: AsyncConnection[Any], publications: Collection[str]
) -> list[ImmutableCall]:
    """Return the functions declared IMMUTABLE that policies of published tables call, by name.

    Functions of extensions are left out, since only their authors can declare them otherwise.

    Args:
        connection: a connection with the server's role.
        publications: the names of the publications.

    Raises:
        psycopg.Error: if the query fails.
    """
    async with connection.transaction():
        await connection.execute(_NO_JIT)
        cursor = await connection.execute(_CALLS.encode(), [list(publications)])
        found = await cursor.fetchall()
    return [
        ImmutableCall(function, tuple(policies or ()), tuple(perhaps or ()))
        for function, policies, perhaps in found
    ]
