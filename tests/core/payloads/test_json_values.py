"""PostgreSQL's text to JSON, type by type. What a server says of the same is in integration."""

from __future__ import annotations

import json
import tracemalloc
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime_core import Column, Insert
from realtime_core.payloads.json_values import renderer
from tests.core.captures import events


def render(text: str, type_name: str, schema: str = "pg_catalog") -> str:
    return renderer(Column("c", 0, type_name, schema, -1, False))(text)


@pytest.mark.parametrize(
    ("type_name", "text", "shown"),
    [
        ("int2", "-32768", "-32768"),
        ("int8", "9223372036854775807", "9223372036854775807"),
        ("numeric", "12345678901234567890.1234567890", "12345678901234567890.1234567890"),
        ("numeric", "NaN", '"NaN"'),
        ("numeric", "-Infinity", '"-Infinity"'),
        ("float8", "1.7976931348623157e+308", "1.7976931348623157e+308"),
        ("float8", "-0", "-0"),
        ("float4", "Infinity", '"Infinity"'),
        ("bool", "t", "true"),
        ("bool", "f", "false"),
        ("oid", "4294967295", '"4294967295"'),
        ("money", "$1,234.50", '"$1,234.50"'),
        ("text", "", '""'),
        ("text", 'a "quoted" \\ \n\x01 漢', '"a \\"quoted\\" \\\\ \\n\\u0001 漢"'),
        ("json", '{ "b": 1,\n "b": 1e400}', '{ "b": 1,\n "b": 1e400}'),
        ("jsonb", '{"a": [1, null]}', '{"a": [1, null]}'),
        ("bytea", "\\xdeadbeef", '"\\\\xdeadbeef"'),
        ("uuid", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", '"a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"'),
        ("date", "0044-03-15 BC", '"0044-03-15 BC"'),
        ("timestamp", "2026-11-24 05:36:56.5", '"2026-11-24T05:36:56.5"'),
        ("timestamp", "infinity", '"infinity"'),
        ("timestamp", "0044-03-15 12:00:00 BC", '"0044-03-15T12:00:00 BC"'),
        ("timestamptz", "2026-11-24 05:36:56.5+00", '"2026-11-24T05:36:56.5+00:00"'),
        ("timestamptz", "2026-11-24 05:36:56+05:30", '"2026-11-24T05:36:56+05:30"'),
        ("timestamptz", "2026-11-24 05:36:56-08", '"2026-11-24T05:36:56-08:00"'),
        ("timestamptz", "0044-03-15 12:00:00+00 BC", '"0044-03-15T12:00:00+00:00 BC"'),
        ("timestamptz", "-infinity", '"-infinity"'),
        ("int4range", "[1,5)", '"[1,5)"'),
        ("int2vector", "1 2", "[1,2]"),
        ("oidvector", "", "[]"),
        ("_int4", "{}", "[]"),
        ("_int4", "{1,NULL,3}", "[1,null,3]"),
        ("_int4", "{{1,2},{3,NULL}}", "[[1,2],[3,null]]"),
        ("_int4", "[0:1]={1,2}", "[1,2]"),
        ("_int4", "[-1:-1][2:3]={{1,2}}", "[[1,2]]"),
        ("_numeric", "{1.50,NaN}", '[1.50,"NaN"]'),
        ("_bool", "{t,f,NULL}", "[true,false,null]"),
        (
            "_text",
            '{"a b",NULL,"NULL","null","q\\"uo\\\\te","","{}",",","x\ny"}',
            r'["a b",null,"NULL","null","q\"uo\\te","","{}",",","x\ny"]',
        ),
        ("_jsonb", '{"{\\"a\\": [1, 2]}",null}', '[{"a": [1, 2]},null]'),
        ("_timestamptz", '{"2026-11-24 03:36:00+00"}', '["2026-11-24T03:36:00+00:00"]'),
        ("_timestamp", "{infinity}", '["infinity"]'),
        ("_bytea", '{"\\\\x00ff"}', '["\\\\x00ff"]'),
        ("_box", "{(1,1),(0,0);(2,2),(0,0)}", '["(1,1),(0,0)","(2,2),(0,0)"]'),
        ("_box", "{(1,1),(0,0)}", '["(1,1),(0,0)"]'),
        ("_point", '{"(1,2)"}', '["(1,2)"]'),
    ],
)  # fmt: skip
def test_a_value_is_what_to_jsonb_says(type_name: str, text: str, shown: str) -> None:
    assert render(text, type_name) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{sad,\"\",NULL}", '["sad","",null]'),
        # Named like arrays, but not.
        ("(1,x)", '"(1,x)"'),
        ("{sad", '"{sad"'),
        ("", '""'),
        ('{a"', '"{a\\""'),
        ('{"a"b}', '"{\\"a\\"b}"'),
        ("[1]", '"[1]"'),
    ],
)  # fmt: skip
def test_arrays_of_a_users_types_have_texts_for_elements(text: str, shown: str) -> None:
    assert render(text, "_mood", "public") == shown


def test_a_users_type_with_a_built_in_name_is_text() -> None:
    assert render("1", "int4", "public") == '"1"'
    assert render("t", "bool", "") == '"t"'


@pytest.mark.parametrize("text", ["1,2", "", "{1", "{1}x", '{"1}'])
def test_what_is_no_array_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="array"):
        render(text, "_int4")


@pytest.mark.parametrize("piece", ["a b", '\\"', "\\\\"])
def test_a_long_element_takes_little_more_memory_than_itself(piece: str) -> None:
    text = '{"' + piece * 300_000 + '"}'
    render('{"a b"}', "_text")
    tracemalloc.start()
    try:
        render(text, "_text")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 30 * len(text)


def exactly(text: str) -> Any:
    return json.loads(text, parse_float=Decimal)


texts = st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def literal(value: Any) -> str:
    """Write an array as ``array_out`` does, with every element quoted."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "{" + ",".join(map(literal, value)) + "}"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(texts, max_size=4)
    # Each array in an array is as long as the others.
    | st.integers(1, 3).flatmap(
        lambda length: st.lists(
            st.lists(texts, min_size=length, max_size=length), min_size=1, max_size=3
        )
    )
)
def test_any_array_of_texts_comes_back(value: list[Any]) -> None:
    assert exactly(render(literal(value), "_text")) == value


@settings(max_examples=60, deadline=None)
@given(st.decimals(allow_nan=False, allow_infinity=False), st.integers())
def test_any_number_keeps_each_digit(number: Decimal, integer: int) -> None:
    assert render(format(number, "f"), "numeric") == format(number, "f")
    assert exactly(render(f"{{{integer},{integer}}}", "_int8")) == [integer] * 2


def test_every_value_of_the_captured_types_becomes_json() -> None:
    seen = set()
    for event in events("types_text.bin"):
        if isinstance(event, Insert):
            for column, text in zip(event.relation.columns, event.record.fields, strict=True):
                if isinstance(text, str):
                    seen.add(column.type_name)
                    exactly(renderer(column)(text))
    assert len(seen) > 100
