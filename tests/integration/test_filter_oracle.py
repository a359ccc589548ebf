"""PostgreSQL judges the filter engine: the same predicate, as SQL, over the same rows.

    ORACLE=50 ORACLE_SEED=$RANDOM python -m pytest tests/integration/test_filter_oracle.py

tries fifty times as many. Where the engine differs on purpose, the random filters do not go,
and a test below shows both answers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from realtime_core import FilterError, Record
from realtime_core.filters import Comparison, Operator, Reference, parse_filter
from tests.core.filters.test_compiler import OUT_OF_RANGE
from tests.filter_oracle import (
    SETTINGS,
    Difference,
    differences,
    foreign_literals,
    prepare,
    quoted,
    read_relation,
    read_texts,
)
from tests.fix_postgres import Server, unique_name
from tests.server_helpers import make_relation

pytestmark = pytest.mark.integration

# A class, an escape or an option each, and what can be made of them.
PATTERNS = [
    *("a", "^a", "a$", "a.b", "^.$", "[ab]", "[^a]", "^[]a]+$", "^[^]a]$", "^[a-]+$", "[[a]", "a|"),
    *("()", "a{2}", "a{,2}", "a{1,2}", "a*?b", "(?:ab)+", "(?i)A", "(?s)a.b", "(?m)^b", "(?x)a b"),
    *(f"\\{letter}" for letter in "abcdefmnrstuvwxyzABDMSWYZ01é\\.-_"),
    *(f"[\\{letter}]" for letter in "abdefnrstvwxDSW\\.-]"),
    *(f"[[:{name}:]]" for name in ("alpha", "digit", "alnum", "space", "blank", "punct", "cntrl")),
    *(f"[^[:{name}:]]" for name in ("upper", "graph", "print", "xdigit", "word", "ascii")),
    *("(?i)[[:upper:]]", "[[:<:]]a", "[[.a.]]", "[[=a=]b]", r"\x41", r"\x41B", r"^\u00e9", r"\012"),
    *(r"(a)\1", "(.)" * 10 + r"\10", "a(?=b)", "(?<!a)b", "***=a.b", r"^\w+$", r"\W\w", r"\S\s"),
]
SEARCHED = [
    *(
        "",
        "a",
        "A",
        "b",
        "B",
        "ab",
        "ba",
        "aa",
        "a b",
        "a.b",
        "a\nb",
        "a\n",
        "a\bb",
        "\\",
        "\\x",
        "_",
    ),
    *("é", "É", "größe_1", "漢字", "🙂", "€", "“", "Л", "5", "\xa0", "\v", "\x85", "\u2028"),
    *(" ", "\t", "!", ".", "-", "]", "[", "[a", "]a", "-a", "a{,2}", "AB", "x", "\x1b", "\x01"),
    *("abcdefghijj", "abcdefghijk"),
]

TABLES = 24 * int(os.environ.get("ORACLE", "1"))
SEED = int(os.environ.get("ORACLE_SEED", "1"))
ROWS, FILTERS = 25, 60


@pytest.fixture
def oracle(pg: Server) -> Iterator[psycopg.Connection]:
    """A connection to a database of code point order and Unicode's simple case mapping."""
    if pg.version < 17:
        pytest.skip("PostgreSQL has a locale of its own from version 17 on")
    name = unique_name("oracle")
    pg.execute(
        sql.SQL(
            "create database {} template template0 encoding utf8 "
            "locale_provider builtin builtin_locale 'C.UTF-8' locale 'C.UTF-8'"
        ).format(sql.Identifier(name))
    )
    with psycopg.connect(make_conninfo(pg.dsn, dbname=name), autocommit=True) as connection:
        prepare(connection)
        yield connection
    pg.execute(sql.SQL("drop database {} with (force)").format(sql.Identifier(name)))


def test_random_filters_over_random_rows_are_judged_as_by_postgresql(
    oracle: psycopg.Connection,
) -> None:
    seed = SEED
    judged = 0
    found: list[Difference] = []
    for table in range(TABLES):
        count, differing = differences(
            oracle, Random(f"{seed} {table}"), rows=ROWS, filters=FILTERS
        )
        judged += count
        found += differing
    assert not found, f"seed {seed}: {len(found)} of {judged} differ, such as {min(found, key=str)}"
    assert judged >= 20_000


def both(
    oracle: psycopg.Connection, type_name: str, value: str, condition: str, expression: str
) -> tuple[bool, bool]:
    """Return PostgreSQL's answer and ours for one value of a column v."""
    oracle.execute(SETTINGS)
    oracle.execute("DROP TABLE IF EXISTS t")
    oracle.execute(f"CREATE TEMPORARY TABLE t (v {type_name})")  # type: ignore[call-overload]
    oracle.execute(f"INSERT INTO t VALUES ({quoted(value)})")  # type: ignore[call-overload]
    relation = read_relation(oracle)
    (fields,) = read_texts(oracle, "SELECT v FROM t")
    ((theirs,),) = read_texts(oracle, f"SELECT {expression} FROM t")
    ours = parse_filter(f"v={condition}").compile(relation)(Record(relation.shape, fields))
    return theirs == "t", ours


DECIDED = [
    # The type, a value, our condition, the same as SQL; PostgreSQL's answer is the other one.
    ("text", "\u0903", r"match.^\w$", r"v ~ '^\w$'"),
    ("text", "\u212a", "imatch.k", "v ~* 'k'"),
    ("name", "Ä", "imatch.ä", "v ~* 'ä'"),
    ("name", "ä", r"match.^\w$", r"v ~ '^\w$'"),
    ("name", "Ä", "ilike.ä", "v ILIKE 'ä'"),
    ("tsvector", "a b", "eq.b a", "v = 'b a'"),
]


@pytest.mark.parametrize(("type_name", "value", "condition", "expression"), DECIDED)
def test_where_we_differ_on_purpose(
    oracle: psycopg.Connection, type_name: str, value: str, condition: str, expression: str
) -> None:
    """docs/reference/filters.md lists them; a case that agrees by now should leave the list."""
    theirs, ours = both(oracle, type_name, value, condition, expression)
    assert theirs is not ours


def test_text_is_ordered_by_code_point_whatever_the_collation(pg17: Server) -> None:
    ((theirs,),) = pg17.execute("SELECT 'B' > 'a' COLLATE \"en-x-icu\"")
    relation = make_relation(columns=[("v", "text", False)])
    ours = parse_filter("v=gt.a").compile(relation)(Record(relation.shape, ("B",)))
    assert (theirs, ours) == (True, False)


REFUSED = [
    ("text", r"match.\yword\y", r"v ~ '\yword\y'"),
    ("text", r"match.""\"(a)\\\\1\"", r"v ~ '(a)\1'"),
    ("text", "match.\"a(?=b)\"", "v ~ 'a(?=b)'"),
    ("timestamp", "eq.January 8\\, 1999".replace("\\,", ""), "v = 'January 8 1999'"),
    ("timestamptz", "lt.now", "v < 'now'"),
    ("timestamptz", "lt.2026-11-24 05:36 Europe/Berlin", "v < '2026-11-24 05:36 Europe/Berlin'"),
    ("box", 'eq."(1,1),(0,0)"', "v = '(1,1),(0,0)'"),
    ("circle", 'eq."<(0,0),1>"', "v = '<(0,0),1>'"),
    ("float8", "eq.0x1p3", "v = '0x1p3'"),
]  # fmt: skip


@pytest.mark.parametrize(("type_name", "condition", "expression"), REFUSED)
def test_what_postgresql_takes_and_we_refuse(
    oracle: psycopg.Connection, type_name: str, condition: str, expression: str
) -> None:
    oracle.execute("DROP TABLE IF EXISTS t")
    oracle.execute(f"CREATE TEMPORARY TABLE t (v {type_name})")  # type: ignore[call-overload]
    oracle.execute(f"SELECT {expression} FROM t")  # type: ignore[call-overload]
    with pytest.raises(FilterError):
        parse_filter(f"v={condition}").compile(read_relation(oracle))


@pytest.mark.parametrize(("type_name", "literal"), OUT_OF_RANGE)
def test_what_we_call_out_of_range_is_so_for_postgresql(
    oracle: psycopg.Connection, type_name: str, literal: str
) -> None:
    with pytest.raises(psycopg.DataError, match="out of range"):
        oracle.execute(f"SELECT {quoted(literal)}::{type_name}")  # type: ignore[call-overload]


def test_a_literal_that_we_take_is_one_for_postgresql(oracle: psycopg.Connection) -> None:
    seed = SEED
    wrong, taken = foreign_literals(oracle, Random(seed), each=150)
    assert not wrong, f"seed {seed}: PostgreSQL refuses {wrong}"
    assert taken > 1_000


@pytest.mark.parametrize(
    ("operator", "sql_operator"), [(Operator.MATCH, "~"), (Operator.IMATCH, "~*")]
)
def test_a_regular_expression_means_what_it_does_in_postgresql_or_is_refused(
    oracle: psycopg.Connection, operator: Operator, sql_operator: str
) -> None:
    table = make_relation(columns=[("v", "text", False)])
    taken = []
    for pattern in PATTERNS:
        try:
            found = oracle.execute(
                f"select t, t {sql_operator} %s from unnest(%s::text[]) t", (pattern, SEARCHED)
            ).fetchall()
        except psycopg.errors.InvalidRegularExpression:
            continue
        try:
            condition = Comparison(Reference("v"), operator, pattern)
            passes = parse_filter(str(condition)).compile(table)
        except FilterError:
            continue
        taken.append(pattern)
        for text, matches in found:
            assert passes(Record(table.shape, (text,))) is matches, (pattern, text)
    # Most of them.
    assert len(taken) > len(PATTERNS) / 2
