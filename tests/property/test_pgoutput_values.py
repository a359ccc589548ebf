"""What holds for any value: numbers and times are exact, text and binary alike, and any field
is a Python value or a ValueConversionError."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cache
from struct import pack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import ValueConversionError
from realtime_core.oids import BUILTIN_TYPES
from realtime_core.types.python_values import Converter, make_converter, text_function
from tests.property.examples import examples

OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}
EPOCH = datetime(2000, 1, 1)
MICROSECOND = timedelta(microseconds=1)


@cache
def converter(type_name: str) -> Converter:
    return make_converter("c", OIDS[type_name], type_name, "pg_catalog")


def convert(type_name: str, field: str | bytes) -> Any:
    return converter(type_name)(field)


def numeric_send(value: Decimal) -> bytes:
    """Write a finite number as PostgreSQL does: in digits of base 10000."""
    sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    scale = max(0, -exponent)
    # Whole groups of four, counted from the decimal point.
    text = "".join(map(str, digits)) + "0" * (exponent if exponent > 0 else 0)
    text += "0" * (-scale % 4)
    text = text.rjust(-(-len(text) // 4) * 4, "0")
    groups = [int(text[at : at + 4]) for at in range(0, len(text), 4)]
    weight = len(groups) - 1 - -(-scale // 4)
    while groups and groups[0] == 0:
        groups.pop(0)
        weight -= 1
    while groups and groups[-1] == 0:
        groups.pop()
    if not groups:
        sign, weight = 0, 0
    return pack(f"!hhHH{len(groups)}H", len(groups), weight, 0x4000 * sign, scale, *groups)


def array_out(value: object) -> str:
    """Write nested lists of strings as array_out does, quoting whatever might need it."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "{" + ",".join(map(array_out, value)) + "}"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'


def array_send(values: list[str | None], dimensions: list[int]) -> bytes:
    head = pack("!iiI", len(dimensions), 0, OIDS["text"])
    bounds = b"".join(pack("!ii", length, 1) for length in dimensions)
    return (
        head
        + bounds
        + b"".join(
            pack("!i", -1) if value is None else pack("!i", len(value.encode())) + value.encode()
            for value in values
        )
    )


numbers = st.builds(
    lambda sign, digits, exponent: Decimal((sign, tuple(map(int, str(digits))), exponent)),
    st.sampled_from([0, 1]),
    st.integers(0, 10**60),
    st.integers(-80, 40),
)
texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=10)
names = st.sampled_from(sorted(OIDS))


@pytest.mark.slow
@examples(100)
@given(numbers)
def test_a_numeric_is_exact(number: Decimal) -> None:
    expected = abs(number) if number == 0 else number
    text, binary = convert("numeric", f"{number:f}"), convert("numeric", numeric_send(number))
    assert (text, binary) == (expected, expected)
    # The digits behind the point are part of the value: 1.50 is not 1.5.
    scale = max(0, -int(number.as_tuple().exponent))
    assert -int(text.as_tuple().exponent) == scale
    assert -int(binary.as_tuple().exponent) == scale


@examples(60)
@given(st.integers(-(2**63), 2**63 - 1))
def test_an_integer_is_exact(number: int) -> None:
    assert convert("int8", str(number)) == number
    assert convert("int8", pack("!q", number)) == number
    assert convert("_int8", f"{{{number},NULL}}") == [number, None]


@examples(60)
@given(st.floats(allow_nan=False))
def test_a_float8_is_the_same_one(number: float) -> None:
    text = repr(number).replace("inf", "Infinity")
    assert convert("float8", text) == number
    assert convert("float8", pack("!d", number)) == number


@pytest.mark.slow
@examples(100)
@given(st.datetimes(), st.timedeltas(timedelta(hours=-15), timedelta(hours=15)))
def test_a_timestamp_is_exact_to_the_microsecond(moment: datetime, offset: timedelta) -> None:
    microseconds = (moment - EPOCH) // MICROSECOND
    assert convert("timestamp", moment.isoformat(" ")) == moment
    assert convert("timestamp", pack("!q", microseconds)) == moment
    assert convert("timestamptz", moment.isoformat(" ") + "+00") == moment.replace(tzinfo=UTC)
    assert convert("timestamptz", pack("!q", microseconds)) == moment.replace(tzinfo=UTC)
    # Whatever offset a text is written with, it is the same moment.
    zone = timezone(timedelta(minutes=offset // timedelta(minutes=1)))
    if datetime.min + timedelta(days=2) < moment < datetime.max - timedelta(days=2):
        aware = moment.replace(tzinfo=UTC).astimezone(zone)
        assert convert("timestamptz", aware.isoformat(" ")) == aware


@examples(60)
@given(st.dates(), st.times())
def test_a_date_and_a_time_are_exact(day: date, moment: time) -> None:
    assert convert("date", day.isoformat()) == day
    assert convert("date", pack("!i", (day - EPOCH.date()).days)) == day
    microseconds = (datetime.combine(EPOCH, moment) - EPOCH) // MICROSECOND
    assert convert("time", moment.isoformat()) == moment
    assert convert("time", pack("!q", microseconds)) == moment


@pytest.mark.slow
@examples(60)
@given(st.lists(st.none() | texts, min_size=1, max_size=4), st.integers(1, 3), st.integers(1, 2))
def test_an_array_has_its_elements_and_its_dimensions(
    row: list[str | None], rows: int, planes: int
) -> None:
    value: list[Any] = [[list(row) for _ in range(rows)] for _ in range(planes)]
    flat = [element for plane in value for line in plane for element in line]
    assert convert("_text", array_out(value)) == value
    assert convert("_text", array_send(flat, [planes, rows, len(row)])) == value
    assert convert("_text", array_out(row)) == row
    assert convert("_text", array_send(row, [len(row)])) == row


@pytest.mark.slow
@examples(150)
@given(names, st.binary(max_size=40) | texts)
def test_any_field_is_a_value_or_an_error_that_names_it(type_name: str, field: str | bytes) -> None:
    try:
        convert(type_name, field)
    except ValueConversionError as error:
        text = field if isinstance(field, str) else None
        named = (error.column, error.type_name, error.text)
    else:
        return
    assert named == ("c", type_name, text)


@pytest.mark.slow
@examples(150)
@given(st.lists(st.none() | texts, min_size=1, max_size=3), st.data())
def test_a_binary_array_with_wrong_bytes_is_a_value_or_an_error(
    row: list[str | None], data: st.DataObject
) -> None:
    array = bytearray(array_send(row, [len(row)]))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(array) - 1))
        array[place] = data.draw(st.sampled_from(b"\x00\x01\x7f\x80\xff"))
    cut = data.draw(st.integers(0, len(array)))
    for wrong in (bytes(array), bytes(array[:cut])):
        try:
            assert isinstance(convert("_text", wrong), list)
        except ValueConversionError:
            continue


# Texts as PostgreSQL writes them in the ISO style, those that Python cannot hold among them.
dates_out = st.builds(
    lambda year, month, day, era: f"{year:04}-{month:02}-{day:02}{era}",
    st.integers(1, 9999) | st.integers(1, 294_276),
    st.integers(1, 12),
    st.integers(1, 31),
    st.sampled_from(["", "", "", " BC"]),
) | st.sampled_from(["infinity", "-infinity"])
times_out = st.builds(
    lambda hour, minute, second, fraction: f"{hour:02}:{minute:02}:{second:02}{fraction}",
    st.integers(0, 24),
    st.integers(0, 59),
    st.integers(0, 59),
    st.just("") | st.integers(1, 10**6 - 1).map(lambda part: f".{part:06}".rstrip("0")),
)
zones_out = st.sampled_from(["+00", "+00", "-08", "+05:30", "-00:44:30", "+15:59:59"])


def timestamp_out(day: str, time_of_day: str, zone: str) -> str:
    if day.endswith("infinity"):
        return day
    return f"{day.removesuffix(' BC')} {time_of_day}{zone}{' BC' * day.endswith(' BC')}"


texts_out = st.one_of(
    st.tuples(st.sampled_from(["int2", "int4", "int8", "oid"]), st.integers().map(str)),
    st.tuples(
        st.sampled_from(["float4", "float8", "numeric"]),
        st.floats().map(repr) | st.sampled_from(["NaN", "Infinity", "-Infinity", "-0"]),
    ),
    st.tuples(st.just("numeric"), st.decimals(allow_nan=False, allow_infinity=False).map(str)),
    st.tuples(st.just("bool"), st.sampled_from("tf")),
    st.tuples(st.just("date"), dates_out),
    st.tuples(st.just("timestamp"), st.builds(timestamp_out, dates_out, times_out, st.just(""))),
    st.tuples(st.just("timestamptz"), st.builds(timestamp_out, dates_out, times_out, zones_out)),
    st.tuples(
        st.sampled_from(["json", "jsonb"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(json.dumps),
    ),
    st.tuples(st.sampled_from(["text", "varchar", "bpchar", "name"]), st.text()),
)


@pytest.mark.slow
@examples(500)
@given(texts_out)
def test_the_short_way_to_a_value_gives_what_psycopg_does(case: tuple[str, str]) -> None:
    type_name, text = case
    function = text_function(OIDS[type_name], type_name, "pg_catalog")
    assert function is not None
    try:
        value = function(text)
    except Exception:
        return  # then psycopg is asked
    expected = convert(type_name, text)
    assert (type(value), repr(value)) == (type(expected), repr(expected))
