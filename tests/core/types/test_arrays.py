"""An array's text taken apart, as PostgreSQL writes it and as people do."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core.types.arrays import split_array
from realtime_core.types.base import UnreadableError


@pytest.mark.parametrize(
    ("text", "elements", "lengths", "lower"),
    [
        ("{}", [], (), ()),
        (" { } ", [], (), ()),
        ("{1}", ["1"], (1,), (1,)),
        ("{1,2,3}", ["1", "2", "3"], (3,), (1,)),
        ("{1,NULL,null,Null}", ["1", None, None, None], (4,), (1,)),
        ('{"NULL",nullable}', ["NULL", "nullable"], (2,), (1,)),
        (' { 1 , a b , "c" } ', ["1", "a b", "c"], (3,), (1,)),
        ('{"a,b","{}","","q\\"\\\\","x\ny"}', ["a,b", "{}", "", 'q"\\', "x\ny"], (5,), (1,)),
        (r"{a\,b,\ ,c\ }", ["a,b", " ", "c "], (3,), (1,)),
        ("{{1,2},{3,4},{5,6}}", ["1", "2", "3", "4", "5", "6"], (3, 2), (1, 1)),
        ('{ {1 , "2"} , {3,NULL} }', ["1", "2", "3", None], (2, 2), (1, 1)),
        ("{{{1}},{{2}}}", ["1", "2"], (2, 1, 1), (1, 1, 1)),
        ("[0:1]={1,2}", ["1", "2"], (2,), (0,)),
        ("[-1:-1][2:3]={{1,2}}", ["1", "2"], (1, 2), (-1, 2)),
        ("[2]={1,2}", ["1", "2"], (2,), (1,)),
        ("{a\u00a0b,\u00a0}", ["a\u00a0b", "\u00a0"], (2,), (1,)),
    ],
)
def test_an_array_is_its_elements_and_its_dimensions(
    text: str, elements: list[str | None], lengths: tuple[int, ...], lower: tuple[int, ...]
) -> None:
    assert split_array(text) == (elements, lengths, lower)


def test_boxes_have_a_semicolon_between_them() -> None:
    text = "{(1,1),(0,0);(2,2),(0,0)}"
    assert split_array(text, ";") == (["(1,1),(0,0)", "(2,2),(0,0)"], (2,), (1,))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "write an array as"),
        ("1,2", "write an array as"),
        ("[0:1]", "write an array as"),
        ("{", "empty element"),
        ("{1", "expected a comma or }"),
        ('{"1}', "empty element"),
        ('{"a"b}', "expected a comma or }"),
        ('{a"b"}', "expected a comma or }"),
        ("{1,}", "empty element"),
        ("{,1}", "empty element"),
        ("{{1}", "expected a comma or }"),
        ("{1}x", "something follows"),
        ("{}x", "something follows"),
        ("{{1}}}", "something follows"),
        ("{1,{2}}", "mixes elements and arrays"),
        ("{{1},2}", "different dimensions"),
        ("{{{1}},{2}}", "different dimensions"),
        ("{{1},{2,3}}", "different lengths"),
        ("{{{{{{{1}}}}}}}", "at most 6 dimensions"),
        ("[1:3]={1,2}", "bounds do not fit"),
        ("[1:1]={}", "bounds do not fit"),
    ],
)
def test_what_is_no_array_is_refused_saying_why(text: str, problem: str) -> None:
    with pytest.raises(UnreadableError, match=problem):
        split_array(text)


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))


def literal(value: Any) -> str:
    """Write an array as ``array_out`` does, with every element quoted."""
    if value is None:
        return "NULL"
    if isinstance(value, list):
        return "{" + ",".join(map(literal, value)) + "}"
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@pytest.mark.slow
@given(st.data(), st.lists(st.integers(1, 3), min_size=1, max_size=4))
def test_any_array_comes_back(data: st.DataObject, lengths: list[int]) -> None:
    count = len(list(product(*map(range, lengths))))
    elements = data.draw(st.lists(st.none() | texts, min_size=count, max_size=count))
    nested: list[Any] = elements
    for length in reversed(lengths[1:]):
        nested = [nested[at : at + length] for at in range(0, len(nested), length)]
    assert split_array(literal(nested)) == (elements, tuple(lengths), (1,) * len(lengths))
