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
from typing import Any
from uuid import UUID

import pytest
from psycopg.types.range import Range

from realtime_core import ValueConversionError
from realtime_core.oids import BUILTIN_TYPES
from realtime_core.values import Converter, make_converter

OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}
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


def test_an_array_of_enums_stays_text() -> None:
    assert make_converter("c", 16401, "_mood", "public")('{ok,"very happy"}') == '{ok,"very happy"}'


@pytest.mark.parametrize(
    ("base", "text", "value"),
    [("int4", "7", 7), ("_int4", "{1,2}", [1, 2]), ("varchar", "x", "x")],
)
def test_a_domain_converts_as_its_base_type(base: str, text: str, value: Any) -> None:
    """The Type message of a domain carries the base type's name."""
    assert make_converter("c", 16500, base, "pg_catalog")(text) == value


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


def test_a_binary_enum_has_no_python_value() -> None:
    with pytest.raises(ValueConversionError, match="no binary loader"):
        make_converter("mood", 16400, "mood", "public")(b"ok")


PURE_PYTHON = """
import json, sys
from realtime_core.oids import BUILTIN_TYPES
from realtime_core.values import make_converter
OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}
import psycopg
assert psycopg.pq.__impl__ == "python", psycopg.pq.__impl__
for name, text, expected in json.load(sys.stdin):
    value = make_converter("c", OIDS[name], name, "pg_catalog")(text)
    assert str(value) == expected, (name, text, value)
"""


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
