"""Text and binary fields to Python values.

Every built-in type's real text is in the captures (tests/core/pgoutput/test_captures.py);
here is what each kind of value becomes.
"""

import json
import os
import subprocess
import sys
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from ipaddress import IPv4Address, IPv4Network
from struct import pack
from typing import Any
from uuid import UUID

import pytest
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from realtime_core import UNCHANGED, Column, Record, Shape, ValueConversionError
from realtime_core.oids import BUILTIN_TYPES
from realtime_core.types.python_values import Converter, make_converter

OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}
NEW_YEAR = datetime(2026, 1, 1, 10)
AT = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
SOME_UUID = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"


def converter(type_name: str) -> Converter:
    return make_converter("c", OIDS[type_name], type_name, "pg_catalog")


@pytest.mark.parametrize(
    ("type_name", "text", "value"),
    [
        ("int2", "-32768", -32768),
        ("int4", "42", 42),
        ("int8", "9223372036854775807", 2**63 - 1),
        ("oid", "4294967295", 2**32 - 1),
        ("bool", "t", True),
        ("bool", "f", False),
        ("float8", "0.1", 0.1),
        ("float8", "-Infinity", float("-inf")),
        ("numeric", "12.3400", Decimal("12.3400")),
        ("numeric", "Infinity", Decimal("Infinity")),
        ("text", "", ""),
        ("text", "ünï 漢字 🚀", "ünï 漢字 🚀"),
        ("bpchar", "ab   ", "ab   "),
        ("bytea", "\\x00ff5c", b"\x00\xff\\"),
        ("uuid", SOME_UUID, UUID(SOME_UUID)),
        ("json", ' {"a" : [1, null, "x"]}', {"a": [1, None, "x"]}),
        ("jsonb", "null", None),
        ("date", "2026-02-28", date(2026, 2, 28)),
        ("time", "23:59:59.999999", time(23, 59, 59, 999999)),
        ("timetz", "12:00:00+05:30", time(12, tzinfo=timezone(timedelta(hours=5, minutes=30)))),
        ("timestamp", "2026-01-02 03:04:05.678901", datetime(2026, 1, 2, 3, 4, 5, 678901)),
        ("timestamptz", "2026-01-02 03:04:05+00", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("inet", "192.168.1.5", IPv4Address("192.168.1.5")),
        ("cidr", "10.0.0.0/8", IPv4Network("10.0.0.0/8")),
        ("int4range", "[1,5)", Range(1, 5, "[)")),
        ("_int4", "{1,NULL,3}", [1, None, 3]),
        ("_int4", "[0:1]={1,2}", [1, 2]),
        ("_text", '{{a,"b,c"},{"NULL","q\\"uo\\\\te"}}', [["a", "b,c"], ["NULL", 'q"uo\\te']]),
        ("_box", "{(1,1),(0,0);(2,2),(1,1)}", ["(1,1),(0,0)", "(2,2),(1,1)"]),
        ("_pg_snapshot", "{10:20:10,NULL}", ["10:20:10", None]),
        ("_int4", "{}", []),
        ("_int4", "{{{1,2},{3,NULL}}}", [[[1, 2], [3, None]]]),
        ("_int4", "[2:2][3:4]={{1,2}}", [[1, 2]]),
        ("_bytea", '{"\\\\x00ff",NULL}', [b"\x00\xff", None]),
        ("_jsonb", '{"{\\"a\\": 1}","null"}', [{"a": 1}, None]),
        ("_int4range", '{"[1,5)",empty,NULL}', [Range(1, 5), Range(empty=True), None]),
        ("int8range", "(,)", Range(None, None, "()")),
        ("numrange", "(1.50,2]", Range(Decimal("1.50"), Decimal(2), "(]")),
        ("daterange", "[2026-01-01,)", Range(date(2026, 1, 1), None, "[)")),
        ("int4multirange", "{}", Multirange([])),
        ("int4multirange", "{[1,3),[5,)}", Multirange([Range(1, 3), Range(5, None)])),
        ("_int4multirange", '{"{[1,3)}",NULL}', [Multirange([Range(1, 3)]), None]),
        ("tsmultirange", '{["2026-01-01 10:00:00",)}', Multirange([Range(NEW_YEAR, None)])),
    ],
)  # fmt: skip
def test_text_becomes_what_psycopg_makes_of_it(type_name: str, text: str, value: Any) -> None:
    converted = converter(type_name)(text)
    assert (type(converted), converted) == (type(value), value)


def test_timestamptz_is_in_utc_whatever_offset_it_is_written_with() -> None:
    converted = converter("timestamptz")("2026-01-02 08:34:05+05:30")
    assert converted.isoformat() == "2026-01-02T03:04:05+00:00"


def test_numeric_nan_is_a_decimal_nan() -> None:
    assert converter("numeric")("NaN").is_nan()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("00:00:00", timedelta()),
        ("1 day", timedelta(days=1)),
        ("-1 days", timedelta(days=-1)),
        ("1 mon -1 days", timedelta(days=29)),
        ("11 mons", timedelta(days=330)),
        ("1 year 2 mons 3 days 04:05:06.789", timedelta(428, 14706, 789000)),
        ("-1 years -2 mons +3 days -04:05:06.789", -timedelta(422, 14706, 789000)),
        ("-00:00:00.000001", timedelta(microseconds=-1)),
        ("2562047788:00:54.775807", timedelta(microseconds=2**63 - 1)),
    ],
)
def test_an_interval_has_months_of_30_days_and_years_of_365(text: str, value: timedelta) -> None:
    assert converter("interval")(text) == value
    assert converter("_interval")(f'{{"{text}",NULL}}') == [value, None]


@pytest.mark.parametrize(
    "type_name", ["money", "point", "tsvector", "xml", "bit", "pg_lsn", "regclass"]
)
def test_a_type_without_a_python_counterpart_stays_text(type_name: str) -> None:
    assert converter(type_name)("whatever it is") == "whatever it is"


def test_an_enum_stays_text() -> None:
    assert make_converter("c", 16400, "mood", "public")("very happy") == "very happy"


@pytest.mark.parametrize("type_name", ["_mood", "_positive", "_point3", "_float_range"])
def test_an_array_of_types_of_ones_own_stays_text(type_name: str) -> None:
    """The stream says a type's name, not what it is: an enum's label may look like an array."""
    text = '{ok,"very happy",NULL}'
    assert make_converter("c", 16401, type_name, "public")(text) == text


@pytest.mark.parametrize(
    ("type_name", "text"),
    [
        ("point3", '(1,"a ""b"" \\\\ c, (d)",1.50)'),
        ("nested", '("a name","(1,y,2.5)","{a,b}",ok)'),
        ("float_range", "[0.1,1e+300)"),
        ("float_multirange", "{[0.1,0.2],(0.3,0.4)}"),
        ("hstore", '"a"=>"1", "b"=>NULL'),
        ("citext", "ÜNÏ"),
    ],
)
def test_a_composite_or_range_of_ones_own_stays_text(type_name: str, text: str) -> None:
    assert make_converter("c", 16402, type_name, "public")(text) == text


@pytest.mark.parametrize(
    ("base", "text", "value"),
    [
        ("int4", "7", 7),
        ("_int4", "{{1,2},{NULL,4}}", [[1, 2], [None, 4]]),
        ("varchar", "x", "x"),
        ("numeric", "1.50", Decimal("1.50")),
        ("timestamptz", "2026-01-02 03:04:05+00", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
        ("int4range", "[1,5)", Range(1, 5)),
    ],
)
def test_a_domain_converts_as_its_base_type(base: str, text: str, value: Any) -> None:
    """The Type message of a domain carries the base type's name."""
    assert make_converter("c", 16500, base, "pg_catalog")(text) == value


@pytest.mark.parametrize(
    ("base", "data", "value"),
    [("int4", b"\0\0\0\7", 7), ("varchar", b"x", "x"), ("bool", b"\1", True)],
)
def test_a_binary_domain_converts_as_its_base_type(base: str, data: bytes, value: Any) -> None:
    assert make_converter("c", 16500, base, "pg_catalog")(data) == value


def test_a_type_of_ones_own_that_is_named_like_a_builtin_one_stays_text() -> None:
    assert make_converter("c", 16500, "int4", "public")("7") == "7"


@pytest.mark.parametrize(
    ("type_name", "text"),
    [
        ("date", "infinity"),
        ("date", "0044-03-15 BC"),
        ("date", "10000-01-01"),
        ("timestamp", "-infinity"),
        ("timestamp", "4714-11-24 00:00:00 BC"),
        ("timestamptz", "infinity"),
        ("timestamptz", "294276-12-31 23:59:59.999999+00"),
        ("time", "24:00:00"),
        ("timetz", "24:00:00-15:59:59"),
        ("interval", "infinity"),
        ("interval", "-infinity"),
        ("interval", "178000000 years"),
        ("interval", "P1Y2M"),
        ("interval", ""),
        ("tsrange", "[-infinity,infinity]"),
        ("_date", "{2026-01-01,infinity}"),
        ("_interval", "{infinity}"),
        ("int4", "many"),
        ("int4", ""),
        ("uuid", "no-uuid"),
        ("json", "{"),
        ("inet", "nowhere"),
        ("int4range", "[1,"),
        ("int4multirange", "{[1,2)"),
        ("datemultirange", "{[2026-01-01,infinity)}"),
        ("_text", "x"),
        ("json", "[" * 200_000 + "]" * 200_000),
    ],
)
def test_what_python_cannot_hold_is_an_error_with_the_text(type_name: str, text: str) -> None:
    with pytest.raises(ValueConversionError) as caught:
        converter(type_name)(text)
    error = caught.value
    assert (error.column, error.type_name, error.text) == ("c", type_name, text)
    assert f"column 'c' of type {type_name}" in str(error)


@pytest.mark.parametrize(
    ("type_name", "data", "value"),
    [
        ("int4", b"\0\0\0\x2a", 42),
        ("bool", b"\1", True),
        ("text", "ünï".encode(), "ünï"),
        ("bytea", b"\0\xff", b"\0\xff"),
        ("jsonb", b'\x01{"a": 1}', {"a": 1}),
        ("numeric", b"\0\2\0\0\0\0\0\2\0\x0c\x0d\x48", Decimal("12.34")),
        ("timestamptz", b"\0" * 8, datetime(2000, 1, 1, tzinfo=UTC)),
        ("interval", b"\0\0\0\0\0\0\0\1\0\0\0\2\0\0\0\x0d", timedelta(397, 0, 1)),
        ("interval", b"\xff" * 16, timedelta(-31, 0, -1)),
        ("_int4", b"\0\0\0\1\0\0\0\0\0\0\0\x17\0\0\0\1\0\0\0\1\0\0\0\4\0\0\0\7", [7]),
    ],
)
def test_binary_becomes_the_same_value_as_text(type_name: str, data: bytes, value: Any) -> None:
    converted = converter(type_name)(data)
    assert (type(converted), converted) == (type(value), value)


MONEY_ARRAY = b"\0\0\0\1\0\0\0\0\0\0\x03\x16\0\0\0\1\0\0\0\1\0\0\0\x08" + b"\0" * 8
LAST = b"\x7f\xff\xff\xff"


@pytest.mark.parametrize(
    ("type_name", "data"),
    [
        ("money", b"\0" * 8),
        ("_money", MONEY_ARRAY),
        ("xml", b"<a/>"),
        ("date", LAST),
        ("timestamptz", LAST + b"\xff" * 4),
        ("time", b"\0\0\0\x14\x1d\xd7\x60\0"),
        ("interval", LAST + b"\xff" * 4 + LAST + LAST),
        ("interval", b"\0" * 8 + b"\0" * 4 + b"\x7f\x50\xb6\0"),
        ("interval", b"\0"),
        ("inet", b"\2"),
    ],
)
def test_binary_without_a_python_value_is_an_error_without_text(
    type_name: str, data: bytes
) -> None:
    with pytest.raises(ValueConversionError) as caught:
        converter(type_name)(data)
    error = caught.value
    assert (error.column, error.type_name, error.text) == ("c", type_name, None)
    assert "row.raw('c')" in str(error)


def array(element: str, items: list[bytes | None], *bounds: tuple[int, int]) -> bytes:
    """Return what array_send writes; a bound is a length and the first index."""
    bounds = bounds or ((len(items), 1),)
    head = pack("!iiI", len(bounds), int(None in items), OIDS[element])
    return (
        head
        + b"".join(pack("!ii", *bound) for bound in bounds)
        + b"".join(
            b"\xff\xff\xff\xff" if item is None else pack("!i", len(item)) + item for item in items
        )
    )


def int4range(lower: int, upper: int | None) -> bytes:
    """Return what range_send writes of [lower,upper)."""
    if upper is None:
        return pack("!Bii", 0x12, 4, lower)
    return pack("!Biiii", 0x02, 4, lower, 4, upper)


ONE, TWO, THREE, FOUR = (pack("!i", number) for number in (1, 2, 3, 4))


@pytest.mark.parametrize(
    ("type_name", "data", "value"),
    [
        ("_int4", pack("!iiI", 0, 0, OIDS["int4"]), []),
        ("_int4", array("int4", [ONE, None, TWO]), [1, None, 2]),
        ("_int4", array("int4", [ONE, TWO], (2, -5)), [1, 2]),
        ("_int4", array("int4", [ONE, TWO, THREE, None], (2, 1), (2, 0)), [[1, 2], [3, None]]),
        ("_text", array("text", [b"", b"NULL", "ü".encode()]), ["", "NULL", "ü"]),
        ("int4range", b"\x01", Range(empty=True)),
        ("int4range", int4range(1, 5), Range(1, 5)),
        ("int4range", int4range(1, None), Range(1, None)),
        ("_int4range", array("int4range", [int4range(1, 5), None]), [Range(1, 5), None]),
        ("int4multirange", pack("!i", 0), Multirange([])),
        (
            "int4multirange",
            pack("!ii", 2, 17) + int4range(1, 3) + pack("!i", 9) + int4range(5, None),
            Multirange([Range(1, 3), Range(5, None)]),
        ),
        ("uuid", UUID(SOME_UUID).bytes, UUID(SOME_UUID)),
        ("json", b' {"a": null}', {"a": None}),
        ("int8", pack("!q", -(2**63)), -(2**63)),
        ("float8", pack("!d", 0.1), 0.1),
        ("date", pack("!i", -1), date(1999, 12, 31)),
        ("time", pack("!q", 86_399_999_999), time(23, 59, 59, 999999)),
        ("inet", b"\x02\x20\x00\x04\x0a\x01\x02\x03", IPv4Address("10.1.2.3")),
        ("cidr", b"\x02\x08\x01\x04\x0a\x00\x00\x00", IPv4Network("10.0.0.0/8")),
    ],
)  # fmt: skip
def test_a_nested_binary_value_is_the_same_as_from_text(
    type_name: str, data: bytes, value: Any
) -> None:
    converted = converter(type_name)(data)
    assert (type(converted), converted) == (type(value), value)


@pytest.mark.parametrize(
    ("type_name", "data"),
    [
        ("mood", b"ok"),
        ("_mood", array("text", [b"ok"])),
        ("_positive", array("int4", [ONE])),
        ("point3", pack("!iIi", 1, OIDS["int4"], 4) + ONE),
        ("_point3", array("text", [pack("!iIi", 1, OIDS["int4"], 4) + ONE])),
        ("float_range", b"\x01"),
        ("hstore", b"\0\0\0\0"),
    ],
)
def test_a_binary_value_of_a_type_of_ones_own_has_no_python_value(
    type_name: str, data: bytes
) -> None:
    with pytest.raises(ValueConversionError, match=r"no binary loader .* row\.raw\('c'\)"):
        make_converter("c", 16400, type_name, "public")(data)


SIZES = {
    **{"bool": 1, "int2": 2, "int4": 4, "int8": 8, "oid": 4, "float4": 4, "float8": 8},
    **{"date": 4, "time": 8, "timetz": 12, "timestamp": 8, "timestamptz": 8, "interval": 16},
    **{"uuid": 16, "numeric": 8},
}


@pytest.mark.parametrize(("type_name", "size"), SIZES.items())
def test_binary_of_the_wrong_length_is_refused(type_name: str, size: int) -> None:
    """psycopg's C loaders read what is behind it in memory."""
    assert converter(type_name)(b"\0" * size) is not None
    element = array(type_name, [b"\0" * size])
    assert len(converter(f"_{type_name}")(element)) == 1
    for wrong in {0, 1, size - 1, size + 1, 2 * size} - {size}:
        with pytest.raises(ValueConversionError):
            converter(type_name)(b"\0" * wrong)
        with pytest.raises(ValueConversionError):
            converter(f"_{type_name}")(array(type_name, [b"\0" * wrong]))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "requires a buffer"),
        (array("text", [b"ab"])[:-1], "an element of 2 bytes in an array of 25"),
        (array("text", [b"ab"]) + b"\0", "1 bytes left over"),
        (pack("!iiI", 1, 0, 25) + pack("!iii", 1, 1, -5), "an element of -5 bytes"),
        (array("int4", [ONE]), "an array of another type, 23"),
        # Each of these made psycopg crash, or go on for ever.
        (array("text", [b"ab"], (2**31 - 1, 1)), r"cannot have dimensions \[2147483647\]"),
        (array("text", [], (2**16, 1), (2**16, 1)), "cannot have dimensions"),
        (array("text", [], (0, 1)), "cannot have dimensions"),
        (array("text", [], (-1, 1)), "cannot have dimensions"),
        (pack("!iiI", 7, 0, 25) + b"\0\0\0\1" * 20, "an array has no 7 dimensions"),
        (pack("!iiI", -1, 0, 25), "an array has no -1 dimensions"),
        (pack("!iiI", 1, 0, 25) + pack("!iii", 1, 1, 2**30), "an element of 1073741824 bytes"),
    ],
)  # fmt: skip
def test_a_binary_array_that_cannot_be_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ValueConversionError, match=reason):
        converter("_text")(data)


@pytest.mark.parametrize(
    ("type_name", "data"),
    [
        ("jsonb", b"\x02{}"),
        ("jsonb", b""),
        ("numeric", b"\0\2\0\0\0\0\0\0"),
        ("int4range", int4range(1, 5)[:-1]),
        ("int4multirange", pack("!i", 3)),
        ("inet", b""),
    ],
)
def test_other_binary_that_is_cut_is_refused(type_name: str, data: bytes) -> None:
    with pytest.raises(ValueConversionError):
        converter(type_name)(data)


@pytest.mark.parametrize(
    "text",
    [
        r"{\}",
        r"{a,b\}",
        r"{\,a}",
        r'{a"\}"}',
        r'{a{"\}"}',
        r'{"a"\}',
        r'{"a""\}"}',
        r'[,"={\}"]',
        r'{;"\}"}',
        r'{"\"}',
    ],
)
def test_an_array_with_a_backslash_outside_of_quotes_is_refused(text: str) -> None:
    """psycopg's loader in C writes behind the memory that it has for such an element."""
    with pytest.raises(ValueConversionError, match="malformed array"):
        converter("_text")(text)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r'{"\\"}', ["\\"]),
        (r'{a,"\"b\\",NULL,c}', ["a", '"b\\', None, "c"]),
        (r'{{"\\"},{"}{,"}}', [["\\"], ["}{,"]]),
        ('[0:1]={"\\\\\n",x}', ["\\\n", "x"]),
    ],
)
def test_an_array_with_a_backslash_in_quotes_has_it(text: str, value: Any) -> None:
    assert converter("_text")(text) == value


def test_a_number_in_an_array_that_is_too_large_for_a_float_is_refused() -> None:
    """Though Python makes it infinite, which another value is; PostgreSQL writes no such number."""
    column = Column("c", OIDS["_float4"], "_float4", "pg_catalog", -1, False)
    record = Record(Shape((column,)), ('{"1e710"}',))
    with pytest.raises(ValueConversionError, match="too large"):
        record.as_python()
    with pytest.raises(ValueConversionError, match="too large"):
        record["c"]


def test_numbers_in_json_are_floats_as_json_loads_makes_them() -> None:
    """Their text is exact; take that where it matters."""
    assert converter("jsonb")("[12345678901234567890.12]") == [12345678901234567890.12]
    assert converter("jsonb")("[12345678901234567890]") == [12345678901234567890]


def test_a_record_of_every_kind_of_value_converts_as_a_whole() -> None:
    columns = {
        "id": ("int8", "9007199254740993", 9007199254740993),
        "price": ("numeric", "0.10", Decimal("0.10")),
        "tags": ("_text", '{a,"b,c",NULL}', ["a", "b,c", None]),
        "span": ("int4range", "[1,5)", Range(1, 5)),
        "data": ("jsonb", '{"a": [1, null]}', {"a": [1, None]}),
        "at": ("timestamptz", "2026-01-02 03:04:05.678901+00", AT),
        "gone": ("text", None, None),
        "big": ("text", UNCHANGED, UNCHANGED),
        "raw": ("int4", b"\0\0\0\7", 7),
    }
    shape = Shape(
        tuple(
            Column(name, OIDS[type_name], type_name, "pg_catalog", -1, False)
            for name, (type_name, _, _) in columns.items()
        )
    )
    row = Record(shape, tuple(field for _, field, _ in columns.values()))
    assert row.as_python() == {name: value for name, (_, _, value) in columns.items()}


PURE_PYTHON = """
import json, sys
from realtime_core.oids import BUILTIN_TYPES
from realtime_core.types.python_values import make_converter
OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}
import psycopg
assert psycopg.pq.__impl__ == "python", psycopg.pq.__impl__
for name, text, expected in json.load(sys.stdin):
    value = make_converter("c", OIDS[name], name, "pg_catalog")(text)
    assert str(value) == expected, (name, text, value)
"""


@pytest.mark.slow
def test_the_python_implementation_of_psycopg_converts_alike() -> None:
    """Without `psycopg[binary]` its loaders are other code, and need a connection for more."""
    examples = [
        ("interval", "1 day 02:00:00", "1 day, 2:00:00"),
        ("timestamptz", "2026-01-02 08:34:05+05:30", "2026-01-02 03:04:05+00:00"),
        ("_date", "{2026-01-02}", "[datetime.date(2026, 1, 2)]"),
        ("bytea", "\\x00ff", r"b'\x00\xff'"),
    ]
    result = subprocess.run(
        [sys.executable, "-c", PURE_PYTHON],
        input=json.dumps(examples),
        env=os.environ | {"PSYCOPG_IMPL": "python"},
        capture_output=True,
        text=True,
        check=False,
    )
    if "libpq library not found" in result.stderr or "Couldn't find a libpq" in result.stderr:
        pytest.skip("psycopg's Python implementation finds no libpq on this machine")
    assert result.returncode == 0, result.stderr
