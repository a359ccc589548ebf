"""Random tables, rows and filters, and the same filters as SQL.

PostgreSQL says which rows a predicate passes, in three values; the filter engine has to say
the same of the same rows. Everything comes from the given :class:`random.Random`.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import attrs
import psycopg

from realtime_core import Column, Record, Relation, ReplicaIdentity
from realtime_core.filters import (
    And,
    Comparison,
    Node,
    Not,
    Operator,
    Or,
    Reference,
    parse_filter,
)
from realtime_core.filters._rows import FilterRow
from realtime_core.filters.compiler import Scope
from realtime_core.types.base import DataType
from realtime_core.types.columns import data_type_of

ENUM_LABELS = ("sad", "ok", "happy", "Überglücklich")
SETTINGS = """
    SET datestyle = 'ISO'; SET intervalstyle = 'postgres'; SET extra_float_digits = 3;
    SET timezone = 'UTC'; SET bytea_output = 'hex'; SET client_min_messages = 'error'
"""

TEXTS = [
    *(
        "",
        "a",
        "A",
        "ab",
        "b",
        "B",
        "aB",
        "Z",
        "z",
        "ä",
        "Ä",
        "é",
        "ß",
        "ẞ",
        "漢字",
        "🙂",
        "\ue000",
    ),
    *("a%b", "a_b", "a*b", "a\\b", "a b", " a", "a ", "a  ", "a,b", 'say "hi"', "(x)", "[1,2)"),
    *("{a}", "1", "10", "9", "x\ny", "İ", "\u0131", "Σ", "ς", "null", "NULL", "true", "Ångström"),
]
INTEGERS = ["0", "1", "-1", "2", "9", "10", "99", "100", "32767", "-32768"]
NUMBERS = [*INTEGERS, "0.5", "-0.5", "1.50", "1.5", "0.1", "1e-5", "NaN", "Infinity", "-Infinity"]
DATES = [
    *("2026-11-24", "2026-11-25", "1999-12-31", "2000-02-29", "0001-01-01", "9999-12-31"),
    *("10000-01-01", "0044-03-15 BC", "4714-11-24 BC", "5874897-12-31", "infinity", "-infinity"),
    *("20261124", "epoch"),
]
TIMESTAMPS = [
    *("2026-11-24 05:36:00", "2026-11-24T05:36:00", "2026-11-24 05:36:00.5", "2026-11-24 24:00:00"),
    *("2026-11-24 05:36:00.166595", "2026-11-25 00:00:00", "0044-03-15 12:00:00 BC", "1999-12-31"),
    *("294276-12-31 23:59:59.999999", "4714-11-24 00:00:00 BC", "infinity", "-infinity"),
    *("2026-11-24T05:36:00Z", "2026-11-24 05:36:00+02", "10000-01-01 00:00:00", "epoch"),
    *("2026-11-24 05:36:00.1234565", "20261124T053600", "2026-11-24 05:36"),
]
TIMESTAMPTZ = [
    *("2026-11-24 05:36:00+00", "2026-11-24 07:36:00+02", "2026-11-24T05:36:00Z", "infinity"),
    *("2026-11-24 00:06:00-0530", "0044-03-15 12:00:00+00 BC", "-infinity", "1999-12-31 UTC"),
    *("2026-11-24 05:36:00.000001+00", "10000-01-01 00:00:00+14:30:15", "2026-11-24 05:36:60Z"),
]
JSON = [
    *("null", "true", "false", "0", "1", "1.0", "1e2", "100", "-1.5", '""', '"a"', '"b"', '"ä"'),
    *("[]", "{}", "[[]]", "[null]", "[1]", "[1,2]", "[2,1]", '["a",["b",1]]', "[1,[1,2]]"),
    *('{"a":1}', '{"a":1.0}', '{"a":"x","b":[1,2,{"c":null}]}', '{"b":2,"a":1}', '{"a":null}'),
    *('{"bb":1,"a":{"b":"y"}}', '{"a":{"b":{"c":[1,"2"]}}}', '{"1":"one","0":"zero"}', '"1"'),
    *('{"a":[true,false,null,"q\\"\\u00e4\\n"]}', "[0.10,-0.0,1.5e-3]", '{"a":"A"}', '{"a":[]}'),
]
ARRAYS = [
    *("{}", "{1}", "{1,2}", "{2,1}", "{1,2,3}", "{NULL}", "{1,NULL}", "{{1,2},{3,4}}", "{10,9}"),
    *("[0:1]={1,2}", "{1,1}", "{{1},{2}}", "{3,2,1,0}", " { 1 , 2 } "),
]
INTERVALS = [
    *("0", "1 day", "24:00:00", "30 days", "1 mon", "1 year", "12 mons", "360 days", "-1 day"),
    *("1 day -00:00:01", "-1 mons +3 days", "@ 1 hour ago", "P1Y2M3DT4H5M6S", "PT0.5S", "1.5 days"),
    *("178000000 years", "-178000000 years", "00:00:00.000001", "2 weeks", "1-2", "3 4:05:06"),
    *("90", "1.25 months", "1.3 years", "100 us", "7 ms", "infinity", "-infinity"),
    *("-2147483648 days", "2147483647 days", "-2147483648 mons", "178956970 years 7 mons"),
    *("-9223372036854775808 us", "9223372036854775807 us", "PT-2562047788H-54.775808S"),
    *("-306783378 weeks -2 days", "2147483647 days 24:00:00", "P-2147483648DT-1S"),
]
RANGES = [
    "empty",
    "[1,5)",
    "[1,4]",
    "(0,5)",
    "(,5]",
    "[3,)",
    "(,)",
    "[5,9]",
    "[7,7]",
    "(7,8)",
    "[9,10)",
]
LAST_RANGES = [
    "[1,{last})",
    "[{last},{last})",
    "({last},{last}]",
    "[{last},)",
    "({before},{last})",
    "(5,{before}]",
]
"""At the end of a type's values."""
NUMERIC_RANGES = [
    *RANGES,
    "[0.5,1.5]",
    "(1.5,2]",
    "(1,1]",
    "[5,9)",
    "(5,9]",
    "[-Infinity,3)",
    "(3,NaN]",
]
MULTI = [
    "{}",
    "{[1,5)}",
    "{[1,3),[3,5)}",
    "{[1,2),[4,8)}",
    "{empty}",
    "{(,3),[9,)}",
    "{[8,9)}",
    "{(,)}",
]
DATE_RANGES = [
    "empty",
    "[2026-01-01,2026-02-01)",
    "[2026-01-01,2026-01-31]",
    "(2026-01-31,)",
    "(,2026-01-01)",
    "[-infinity,infinity]",
    "(2025-12-31,infinity)",
    *(each.format(last="5874897-12-31", before="5874897-12-30") for each in LAST_RANGES[1:-1]),
    "[2026-01-01,5874897-12-31)",
    "(-infinity,4714-11-24 BC]",
    "(infinity,)",
]
TS_RANGES = [
    "empty",
    '["2026-01-01 00:00:00","2026-01-01 12:00:00")',
    "[2026-01-01,2026-01-02]",
    "(,2026-01-01]",
    "(2026-01-01,)",
    "[2026-01-02,infinity)",
]

COMPARE = (Operator.EQ, Operator.NEQ, Operator.IN, Operator.ISDISTINCT)
ORDER = (Operator.GT, Operator.GTE, Operator.LT, Operator.LTE)
PATTERN = (Operator.LIKE, Operator.ILIKE, Operator.MATCH, Operator.IMATCH)
CONTAIN = (Operator.CS, Operator.CD)
RANGE = (*CONTAIN, Operator.OV, Operator.SL, Operator.SR, Operator.NXR, Operator.NXL, Operator.ADJ)
NETWORK = (Operator.OV, Operator.SL, Operator.SR)


@attrs.frozen
class ColumnType:
    """A type, and literals of it that both sides must read."""

    sql: str
    values: Sequence[str]
    operators: tuple[Operator, ...] = (*COMPARE, *ORDER)


TYPES = [
    ColumnType("int2", INTEGERS),
    ColumnType("int4", [*INTEGERS, "2147483647", "-2147483648", " 7 ", "0x1F", "1_000", "+5"]),
    ColumnType("int8", [*INTEGERS, "9223372036854775807", "-9223372036854775808", "0b101"]),
    ColumnType("oid", ["0", "1", "10", "9", "4294967295"]),
    ColumnType("xid8", ["0", "1", "10", "18446744073709551615"]),
    ColumnType("xid", ["0", "1", "10", "4294967295"], (Operator.EQ, Operator.NEQ)),
    ColumnType(
        "numeric", [*NUMBERS, "1" * 40, f"-{'9' * 200}.5", "1e100", "1e-1000", " nan ", "inf"]
    ),
    ColumnType("numeric(10,2)", ["0", "1.005", "1.01", "1.00", "1", "-3.14", "12345678.9"]),
    ColumnType("float4", [*NUMBERS, "3.4028235e38", "1e-45", "0.10000000149", "16777217", "-0"]),
    ColumnType(
        "float8", [*NUMBERS, "1.7976931348623157e308", "5e-324", "-0", "0.30000000000000004"]
    ),
    ColumnType("money", ["0", "1", "1.5", "-1234.50", "$1,234.50", "92233720368547758.07"]),
    ColumnType("bool", ["t", "f", "true", "FALSE", "yes", "n", "on", "of", "1", "0"]),
    ColumnType("text", TEXTS, (*COMPARE, *ORDER, *PATTERN)),
    ColumnType("varchar(20)", TEXTS, (*COMPARE, *ORDER, *PATTERN)),
    ColumnType("citext", TEXTS, (*COMPARE, *ORDER, *PATTERN)),
    ColumnType("char(8)", [each for each in TEXTS if len(each) <= 8], (*COMPARE, *ORDER, *PATTERN)),
    ColumnType("name", [*TEXTS, "n" * 70], (*COMPARE, *ORDER, Operator.LIKE)),
    ColumnType('"char"', ["", "a", "b", "Z", "~", "\\344", "\\001"]),
    ColumnType(
        "uuid",
        [
            "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
            "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
            "{a0eebc999c0b4ef8bb6d6bb9bd380a11}",
            "00000000-0000-0000-0000-000000000000",
            "f0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11",
        ],
    ),
    ColumnType(
        "bytea", ["", "\\x", "\\x00ff", "\\xDEADBEEF", "abc", "a\\\\b", "\\000", "\\x 00 FF"]
    ),
    ColumnType("bit(4)", ["1011", "0000", "1111", "B1000", "xB"]),
    ColumnType("varbit", ["", "1", "10", "01", "111111110", "11111111", "xFF", "b0"]),
    ColumnType("date", DATES),
    ColumnType("timestamp", TIMESTAMPS),
    ColumnType("timestamp(0)", TIMESTAMPS),
    ColumnType("timestamptz", TIMESTAMPTZ),
    ColumnType(
        "time",
        ["00:00", "24:00:00", "23:59:59.999999", "05:36:00.5", "053600", "23:59:60", "05:36+02"],
    ),
    ColumnType(
        "timetz",
        ["05:36:00+00", "07:36:00+02", "00:00:00+15:59:59", "24:00:00-15:59", "05:36", "05:36Z"],
    ),
    ColumnType("interval", INTERVALS),
    ColumnType(
        "inet",
        [
            "10.0.0.1",
            "10.0.0.1/8",
            "10.0.0.0/8",
            "10.0.0.0/24",
            "::1",
            "fe80::/10",
            "::ffff:1.2.3.4",
            "255.255.255.255",
            "0.0.0.0/0",
        ],
        (*COMPARE, *ORDER, *NETWORK),
    ),
    ColumnType(
        "cidr",
        ["10/8", "10.0.0.0/8", "10.1/16", "::/0", "10.0.0.0/24", "fe80::/10"],
        (*COMPARE, *ORDER, *NETWORK),
    ),
    ColumnType(
        "macaddr",
        [
            "08:00:2b:01:02:03",
            "08-00-2B-01-02-04",
            "08002b:010205",
            "0800.2b01.0206",
            "FFFFFFFFFFFF",
        ],
    ),
    ColumnType(
        "macaddr8",
        ["08:00:2b:01:02:03", "08:00:2b:ff:fe:01:02:03", "0800.2b01.0203.0405", "FFFFFFFFFFFFFFFF"],
    ),
    ColumnType("pg_lsn", ["0/0", "16/B374D848", "FFFFFFFF/FFFFFFFF", "0/a"]),
    ColumnType("tid", ["(0,1)", "(0,2)", "(10,1)", "(9,1)"]),
    ColumnType("jsonb", JSON, (*COMPARE, *ORDER, *CONTAIN)),
    ColumnType("json", JSON, ()),
    ColumnType("mood", ENUM_LABELS),
    ColumnType(
        "mood[]",
        ["{}", "{sad,ok}", "{happy,NULL}", '{"Überglücklich"}', "{ok}"],
        (*COMPARE, *ORDER, *CONTAIN, Operator.OV),
    ),
    ColumnType("positive", INTEGERS[0:2] + INTEGERS[3:]),
    ColumnType("int4[]", ARRAYS, (*COMPARE, *ORDER, *CONTAIN, Operator.OV)),
    ColumnType(
        "text[]",
        [*ARRAYS, '{"a b","c,d"}', '{"",a}', '{"NULL",null}', '{"\\"q\\"","\\\\"}', "{ä,z}"],
        (*COMPARE, *ORDER, *CONTAIN, Operator.OV),
    ),
    ColumnType(
        "citext[]",
        ["{}", "{a,B}", "{A,b}", "{ä}", "{Ä,NULL}", "{b}", "{B,a,A}"],
        (*COMPARE, *ORDER, *CONTAIN, Operator.OV),
    ),
    ColumnType(
        "numeric[]", [*ARRAYS, "{1.0,2}", "{NaN}"], (*COMPARE, *ORDER, *CONTAIN, Operator.OV)
    ),
    ColumnType(
        "date[]",
        ["{}", "{2026-01-01}", "{infinity,NULL}"],
        (*COMPARE, *ORDER, *CONTAIN, Operator.OV),
    ),
    ColumnType(
        "int4range",
        [*RANGES, *(each.format(last=2147483647, before=2147483646) for each in LAST_RANGES)],
        (*COMPARE, *ORDER, *RANGE),
    ),
    ColumnType(
        "int8range",
        [
            *RANGES,
            *(
                each.format(last=9223372036854775807, before=9223372036854775806)
                for each in LAST_RANGES
            ),
        ],
        (*COMPARE, *ORDER, *RANGE),
    ),
    ColumnType("numrange", NUMERIC_RANGES, (*COMPARE, *ORDER, *RANGE)),
    ColumnType("daterange", DATE_RANGES, (*COMPARE, *ORDER, *RANGE)),
    ColumnType("tsrange", TS_RANGES, (*COMPARE, *ORDER, *RANGE)),
    ColumnType("tstzrange", TS_RANGES, (*COMPARE, *ORDER, *RANGE)),
    ColumnType("int4multirange", MULTI, (*COMPARE, *ORDER, *RANGE)),
    ColumnType("nummultirange", [*MULTI, "{(0.5,1.5],(1.5,2)}"], (*COMPARE, *ORDER, *RANGE)),
    ColumnType(
        "int4range[]",
        ["{}", '{"[1,5)"}', '{"[1,4]",empty}'],
        (*COMPARE, *ORDER, *CONTAIN, Operator.OV),
    ),
    ColumnType("tsvector", ["", "'a'", "'a':1 'b':2"], (Operator.EQ, Operator.NEQ)),
]

PREPARE = f"""
    CREATE EXTENSION citext;
    CREATE TYPE mood AS ENUM ({", ".join(f"'{label}'" for label in ENUM_LABELS)});
    CREATE DOMAIN positive AS int4 CHECK (value > -10000000)
"""

LIKES = [
    "%",
    "",
    "a%",
    "%b",
    "%a%",
    "_",
    "__",
    "a_b",
    "a\\_b",
    "a\\%b",
    "%\\\\%",
    "A*",
    "*",
    "*a*b",
    "%ä%",
    "İ",
    "a\\*b",
    "_%_",
    "%_b",
    "Σ",
    "%é%",
    "1%",
    "a b%",
    "%\n%",
]
REGEXES = [
    "a",
    "^a",
    "b$",
    "^a.b$",
    "[ab]",
    "[^a]",
    "^[[:alpha:]]+$",
    "^\\d+$",
    "\\s",
    "^\\w*$",
    "a|b",
    "(a|b)c?",
    "^.$",
    "x.y",
    "a{2}",
    "^a{0,1}$",
    "\\\\",
    "\\.",
    "^$",
    "[[:digit:][:space:]]",
    "[a-c]",
    "[]a]",
    "a*?b",
    "^[^[:punct:]]*$",
    "ä",
    "[à-ö]",
    "\\W",
    "\\S",
    "\\D",
    "é|漢",
    "a$|^b",
    "()",
    "(?:ab)+",
    "[[:upper:]]",
    "[[:lower:]]",
    "\\(x\\)",
    "[\\d,]",
    "[a\\-z]",
    "\\x61",
]
PATHS: list[tuple[str | int, ...]] = [
    ("a",),
    ("b",),
    ("a", "b"),
    (0,),
    (-1,),
    (1,),
    ("a", 0),
    ("b", 2, "c"),
    ("0",),
    ("1",),
    ("missing",),
    ("a", "b", "c", 1),
]


def make_table(random: Random, columns: int = 8) -> list[ColumnType]:
    return [random.choice(TYPES) for _ in range(columns)]


def table_sql(types: Sequence[ColumnType]) -> str:
    columns = ", ".join(f"c{place} {each.sql}" for place, each in enumerate(types))
    return f"CREATE TEMPORARY TABLE t (id int4, {columns})"


def row_sql(random: Random, types: Sequence[ColumnType], number: int) -> str:
    values = [
        "NULL" if random.random() < 0.15 else quoted(random.choice(each.values)) for each in types
    ]
    return f"({', '.join([str(number), *values])})"


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def make_node(random: Random, types: Sequence[ColumnType], depth: int = 0) -> Node:
    """Return a random expression over the columns c0, c1 …"""
    kind = random.random()
    if depth >= 3 or kind < 0.55:
        return make_comparison(random, types)
    if kind < 0.7:
        return Not(make_node(random, types, depth + 1))
    items = tuple(make_node(random, types, depth + 1) for _ in range(random.randint(2, 3)))
    return And(items) if kind < 0.85 else Or(items)


def make_comparison(random: Random, types: Sequence[ColumnType]) -> Comparison:
    place = random.randrange(len(types))
    column = types[place]
    name = f"c{place}"
    if random.random() < 0.08:
        return Comparison(Reference(name), Operator.IS, random.choice(["null", "not_null"]))
    if column.sql == "bool" and random.random() < 0.4:
        return Comparison(Reference(name), Operator.IS, random.choice(["true", "false", "unknown"]))
    if column.sql == "json" or (column.sql == "jsonb" and random.random() < 0.6):
        path = random.choice(PATHS)
        if random.random() < 0.5:
            reference = Reference(name, path, as_text=True)
            operators: tuple[Operator, ...] = (*COMPARE, *ORDER, *PATTERN)
            return compare(
                random, reference, operators, [*TEXTS, '{"b": "y"}', "1", "2", "[1, 2]", "1.0"]
            )
        return compare(random, Reference(name, path), (*COMPARE, *ORDER, *CONTAIN), JSON)
    return compare(random, Reference(name), column.operators, column.values)


def compare(
    random: Random, reference: Reference, operators: Sequence[Operator], values: Sequence[str]
) -> Comparison:
    operator = random.choice(operators)
    if operator is Operator.IN:
        chosen = tuple(random.choice(values) for _ in range(random.randint(1, 4)))
        return Comparison(reference, operator, chosen, value_positions=(0,) * len(chosen))
    if operator in (Operator.LIKE, Operator.ILIKE):
        values = LIKES
    elif operator in (Operator.MATCH, Operator.IMATCH):
        values = REGEXES
    return Comparison(reference, operator, random.choice(values))


SQL_OPERATORS = {
    Operator.EQ: "=",
    Operator.NEQ: "<>",
    Operator.GT: ">",
    Operator.GTE: ">=",
    Operator.LT: "<",
    Operator.LTE: "<=",
    Operator.LIKE: "LIKE",
    Operator.ILIKE: "ILIKE",
    Operator.MATCH: "~",
    Operator.IMATCH: "~*",
    Operator.ISDISTINCT: "IS DISTINCT FROM",
    Operator.CS: "@>",
    Operator.CD: "<@",
    Operator.OV: "&&",
    Operator.SL: "<<",
    Operator.SR: ">>",
    Operator.NXR: "&<",
    Operator.NXL: "&>",
    Operator.ADJ: "-|-",
}


def to_sql(node: Node) -> str:
    """Return an expression as SQL, with each literal's type left to PostgreSQL."""
    match node:
        case Not(item):
            return f"(NOT {to_sql(item)})"
        case And(items):
            return f"({' AND '.join(map(to_sql, items))})"
        case Or(items):
            return f"({' OR '.join(map(to_sql, items))})"
        case Comparison():
            return f"({comparison_sql(node)})"


def comparison_sql(node: Comparison) -> str:
    left = reference_sql(node.reference)
    if node.operator is Operator.IS:
        return f"{left} IS {node.value.replace('_', ' ')}"  # type: ignore[union-attr]
    if node.operator is Operator.IN:
        return f"{left} IN ({', '.join(map(quoted, node.value))})"
    assert isinstance(node.value, str)
    value = node.value
    if node.operator in (Operator.LIKE, Operator.ILIKE):
        value = value.replace("\\*", "\0").replace("*", "%").replace("\0", "\\*")
    return f"{left} {SQL_OPERATORS[node.operator]} {quoted(value)}"


def reference_sql(reference: Reference) -> str:
    if not reference.path:
        return reference.column
    text = f"to_jsonb({reference.column})"
    for place, step in enumerate(reference.path):
        last = place == len(reference.path) - 1
        arrow = "->>" if last and reference.as_text else "->"
        text = f"({text} {arrow} {step if isinstance(step, int) else quoted(step)})"
    return text


@attrs.frozen
class Difference:
    """Where the engine and PostgreSQL disagree."""

    filter: str
    sql: str
    columns: dict[str, str]
    """Of the columns that the filter reads: type and text."""
    expected: bool | None
    found: object

    def __str__(self) -> str:
        return (
            f"{self.filter!r} of {self.columns}: PostgreSQL says {self.expected}, we {self.found}"
        )


def prepare(connection: psycopg.Connection) -> None:
    """Make the types; once a database."""
    connection.prepare_threshold = None
    connection.execute(PREPARE)


def differences(
    connection: psycopg.Connection, random: Random, *, rows: int, filters: int
) -> tuple[int, list[Difference]]:
    """Compare one random table; return how many (row, filter) pairs were judged, and the rest."""
    connection.execute(SETTINGS)
    connection.execute("DROP TABLE IF EXISTS t")
    types = make_table(random)
    connection.execute(table_sql(types))
    values = ", ".join(row_sql(random, types, number) for number in range(rows))
    connection.execute(f"INSERT INTO t VALUES {values}")
    relation = read_relation(connection)
    records = [
        Record(relation.shape, fields)
        for fields in read_texts(connection, "SELECT * FROM t ORDER BY id")
    ]

    nodes = [make_node(random, types) for _ in range(filters)]
    selected = ", ".join(to_sql(node) for node in nodes)
    expected = read_texts(connection, f"SELECT {selected} FROM t ORDER BY id")
    scope = Scope(relation, {("public", "mood"): ENUM_LABELS})
    found: list[Difference] = []
    for place, node in enumerate(nodes):
        text = str(node)
        # Parsed anew, so that the language is tried as well.
        parsed = parse_filter(text)
        assert parsed.root is not None
        test = scope.plan(parsed.root, text).test
        for record, results in zip(records, expected, strict=True):
            right = {"t": True, "f": False, None: None}[results[place]]
            try:
                got: object = test(FilterRow(record))
            except Exception as exc:
                got = exc
            if got is not right:
                columns = {
                    name: f"{types[int(name[1:])].sql} {record.text(name)!r}"
                    for name in sorted(parsed.columns)
                }
                found.append(Difference(text, to_sql(node), columns, right, got))
    return rows * filters, found


def read_texts(connection: psycopg.Connection, query: str) -> list[tuple[str | None, ...]]:
    """Return a result as the texts that PostgreSQL sends, which are those of the stream."""
    with connection.cursor() as cursor:
        result = cursor.execute(query).pgresult
        assert result is not None
        return [
            tuple(
                None if (value := result.get_value(row, column)) is None else value.decode()
                for column in range(result.nfields)
            )
            for row in range(result.ntuples)
        ]


def read_relation(connection: psycopg.Connection, table: str = "t") -> Relation:
    """Describe a table as the stream would: a domain by its base type's name."""
    found = connection.execute(
        """
        SELECT a.attname, a.atttypid, b.typname, n.nspname, a.atttypmod
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
        JOIN pg_type b ON b.oid = CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE t.oid END
        JOIN pg_namespace n ON n.oid = b.typnamespace
        WHERE a.attrelid = %s::regclass AND a.attnum > 0 ORDER BY a.attnum
        """,
        (table,),
    ).fetchall()
    columns = tuple(
        Column(name, oid, type_name, schema, modifier, name == "id")
        for name, oid, type_name, schema, modifier in found
    )
    return Relation(1, "pg_temp", "t", ReplicaIdentity.DEFAULT, columns)


def foreign_literals(
    connection: psycopg.Connection, random: Random, *, each: int
) -> tuple[list[tuple[str, str]], int]:
    """Mutate literals of every type; return those that we take and PostgreSQL does not.

    And how many we took.
    """
    connection.execute(SETTINGS)
    tried = []
    for column in TYPES:
        kind = literal_type(connection, column.sql)
        if kind.by_text:
            continue
        for _ in range(each):
            text = mutated(random, random.choice(column.values), random.choice(column.values))
            try:
                kind.parse(text)
            except ValueError:
                continue
            # What it is compared with has no modifier, and cidr is compared as inet.
            tried.append((LITERAL_TYPES.get(column.sql, column.sql.partition("(")[0]), text))
    answers = connection.execute(
        "SELECT pg_input_is_valid(text, type) FROM unnest(%s::text[], %s::text[]) "
        "WITH ORDINALITY AS t (type, text, place) ORDER BY place",
        ([kind for kind, _ in tried], [text for _, text in tried]),
    ).fetchall()
    wrong = [each for each, (valid,) in zip(tried, answers, strict=True) if not valid]
    return wrong, len(tried)


LITERAL_TYPES = {"char(8)": "bpchar", "bit(4)": "varbit", "cidr": "inet", "positive": "int4"}


def literal_type(connection: psycopg.Connection, type_name: str) -> DataType:
    connection.execute("DROP TABLE IF EXISTS t")
    connection.execute(f"CREATE TEMPORARY TABLE t (v {type_name})")
    return data_type_of(read_relation(connection).columns[0], {("public", "mood"): ENUM_LABELS})


def mutated(random: Random, text: str, other: str) -> str:
    letters = list(text)
    for _ in range(random.randint(0, 3)):
        at = random.randint(0, len(letters))
        match random.randrange(4):
            case 0:
                letters[at : at + 1] = []
            case 1:
                letters.insert(at, random.choice("0123456789+-.:,eExT \\\"'{}[]()/_ abcdefZ"))
            case 2:
                letters[at:] = other[random.randint(0, len(other)) :]
            case _:
                letters[at : at + 1] = random.choice("0123456789")
    return "".join(letters)
