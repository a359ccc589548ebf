"""Topics taken apart."""

from __future__ import annotations

import time

import pytest

from realtime_server.errors import TopicError
from realtime_server.topics import ColumnFilter, Topic


@pytest.mark.parametrize(
    "name", ["realtime:", "realtime:*", "realtime:public", "realtime:public:todos", "realtime::"]
)
def test_up_to_the_table_there_is_nothing_to_filter_by(name: str) -> None:
    assert Topic.parse(name) == Topic(name, ())


@pytest.mark.parametrize(
    ("name", "column_filter"),
    [
        ("realtime:s:t:id=eq.99", ColumnFilter("realtime:s:t", "id", "99")),
        ("realtime:s:t:name=eq.", ColumnFilter("realtime:s:t", "name", "")),
        ("realtime:s:t:a=eq.b=eq.c", ColumnFilter("realtime:s:t", "a", "b=eq.c")),
        ("realtime:s:t: a =eq. b ", ColumnFilter("realtime:s:t", " a ", " b ")),
        ("realtime:s:t:größe=eq.漢", ColumnFilter("realtime:s:t", "größe", "漢")),
        ('realtime:my schema:my "table":my col=eq.1', None),
        ("realtime:s:t:body=eq.Smith, John", ColumnFilter("realtime:s:t", "body", "Smith, John")),
    ],
)
def test_a_filter_is_a_column_and_a_value(name: str, column_filter: ColumnFilter | None) -> None:
    expected = column_filter or ColumnFilter('realtime:my schema:my "table"', "my col", "1")
    assert Topic.parse(name) == Topic(name, (expected,))


def test_a_value_may_have_colons() -> None:
    name = "realtime:s:t:at=eq.2026-11-24T05:36:00Z"
    assert Topic.parse(name).filters == (
        ColumnFilter("realtime:s:t", "at", "2026-11-24T05:36:00Z"),
    )


def test_names_may_have_colons() -> None:
    assert Topic.parse("realtime:s:a:b:c:d=eq.1").filters == (
        ColumnFilter("realtime:s:a", "b:c:d", "1"),
        ColumnFilter("realtime:s:a:b", "c:d", "1"),
        ColumnFilter("realtime:s:a:b:c", "d", "1"),
    )


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("realtime:s:t:", ""),
        ("realtime:s:t:id", "id"),
        ("realtime:s:t:id=gt.18", "id=gt.18"),
        ("realtime:s:t:=eq.1", "=eq.1"),
        ("realtime:s:t:id=eq", "id=eq"),
        ("realtime:s:t:and(a.eq.1,b.lt.5)", "and(a.eq.1,b.lt.5)"),
        ("realtime:s:t:id=in.(1,2)", "id=in.(1,2)"),
    ],
)
def test_what_is_no_equality_is_refused_with_an_example(name: str, rest: str) -> None:
    with pytest.raises(TopicError) as caught:
        Topic.parse(name)
    assert caught.value.reason == (
        f"cannot filter by {rest!r}: this server filters by equality of one column, as in "
        "realtime:s:t:id=eq.99"
    )


def test_a_value_of_many_colons_costs_no_more_than_its_length() -> None:
    name = "realtime:s:t:a=eq." + ":=eq." * 200_000
    begin = time.perf_counter()
    topic = Topic.parse(name)
    assert len(topic.filters) <= 4
    assert topic.filters[0].value == ":=eq." * 200_000
    assert time.perf_counter() - begin < 1
