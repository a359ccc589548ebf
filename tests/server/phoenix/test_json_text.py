"""JSON as text: what is JSON, and where in it things are."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from realtime_server.phoenix.json_text import check_json, items, load_leniently, members, start_of


@pytest.mark.parametrize(
    "data",
    [
        *(b"1", b"-0", b"1e999", b"9" * 5000, b'"\\ud800"', b'"\\u0000"', b" [ ] ", b"null"),
        b'{"a":1,"a":2}',
        '"漢"'.encode(),
    ],
)
def test_this_is_json(data: bytes) -> None:
    check_json(data)


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b" ", b"NaN", b"-Infinity", b"Infinity", b"[NaN]", b"01", b"1.", b".5", b"+1"),
        *(b"'a'", b"{a:1}", b"[1,]", b'{"a":1,}', b"[1", b"1 2", b"True", b"// x\n1"),
        *(b'"\x00"', b'"\n"', b'"\xff"', b'"\xed\xa0\x80"', b"\xef\xbb\xbf1", b"\xff\xfe1\0"),
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_this_is_no_json(data: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 (its text is nobody's concern)
        check_json(data)


def test_what_is_nested_too_deeply_to_be_read_is_an_error_of_its_value() -> None:
    with pytest.raises(ValueError, match="nested too deeply"):
        load_leniently("[" * 100_000 + "]" * 100_000)


def test_members_are_where_they_are_said_to_be() -> None:
    text = ' {"a" : [1, {"b":2}] ,"\\u0061": "x" , "a":12345678901234567890}'
    found = [(name, text[begin:end]) for name, _, begin, end in members(text, start_of(text))]
    assert found == [("a", '[1, {"b":2}]'), ("a", '"x"'), ("a", "12345678901234567890")]
    assert list(members("{ }", 0)) == []


def test_items_are_where_they_are_said_to_be() -> None:
    text = '\n[ 1.50 , [ ],"]" ]'
    found = [text[begin:end] for _, begin, end in items(text, start_of(text))]
    assert found == ["1.50", "[ ]", '"]"']
    assert list(items("[ ]", 0)) == []


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.text(), json_values, max_size=5),
    st.sampled_from([None, 1, "\t "]),
    st.booleans(),
)
def test_any_object_can_be_put_together_from_its_members(
    value: dict[str, Any], indent: Any, ascii: bool
) -> None:
    text = json.dumps(value, indent=indent, ensure_ascii=ascii)
    check_json(text.encode())
    read = {name: json.loads(text[begin:end]) for name, _, begin, end in members(text, 0)}
    assert read == value
    array = f"[{text},{text}]"
    assert [json.loads(array[begin:end]) for _, begin, end in items(array, 0)] == [value] * 2
