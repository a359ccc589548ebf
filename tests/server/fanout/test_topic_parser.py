"""Topics taken apart."""

from __future__ import annotations

import pytest

from realtime_core.filters import Comparison, Operator, Reference, parse_filter
from realtime_server.fanout.topic_parser import TableFilter, Topic


@pytest.mark.parametrize(
    "name", ["realtime:", "realtime:*", "realtime:public", "realtime:public:todos", "realtime::"]
)
def test_up_to_the_table_there_is_nothing_to_filter_by(name: str) -> None:
    assert Topic.parse(name) == Topic(name, ())


@pytest.mark.parametrize(
    ("name", "filter"),
    [
        ("realtime:s:t:id=eq.99", 'id=eq."99"'),
        ("realtime:s:t:name=eq.", 'name=eq.""'),
        ("realtime:s:t: a =eq. b ", '" a "=eq." b "'),
        ("realtime:s:t:größe=eq.漢", "größe=eq.漢"),
        ("realtime:s:t:my col=eq.1", "my col=eq.1"),
        ("realtime:s:t:age=gt.18", "age=gt.18"),
        ("realtime:s:t:and(a.eq.1,b.lt.5)", "a=eq.1,b=lt.5"),
        ("realtime:s:t:id=in.(1,2)", "id=in.(1,2)"),
        ("realtime:s:t:name=eq.Smith,age=gt.18", "name=eq.Smith,age=gt.18"),
        # Not in the language, and so literally, as in the original.
        ("realtime:s:t:a=eq.b=eq.c", 'a=eq."b=eq.c"'),
        ("realtime:s:t:body=eq.Smith, John", 'body=eq."Smith, John"'),
        ('realtime:s:t:body=eq.5" (x', 'body=eq."5\\" (x"'),
        ("realtime:s:t:body=eq.a,b=eq", 'body=eq."a,b=eq"'),
        ("realtime:s:t:a=b=eq.x", '"a=b"=eq.x'),
        ('realtime:s:t:a"b=eq.x', '"a\\"b"=eq.x'),
    ],
)
def test_a_filter_is_an_expression_or_else_a_column_and_its_value(name: str, filter: str) -> None:
    assert Topic.parse(name) == Topic(name, (TableFilter("s", "t", parse_filter(filter)),))


def test_names_are_taken_as_they_are() -> None:
    (item,) = Topic.parse('realtime:my schema:my "table":id=eq.1').filters
    assert (item.schema, item.table) == ("my schema", 'my "table"')


def test_a_value_may_have_colons() -> None:
    name = "realtime:s:t:at=eq.2026-11-24T05:36:00Z"
    expected = TableFilter("s", "t", parse_filter("at=eq.2026-11-24T05:36:00Z"))
    assert Topic.parse(name).filters == (expected,)


def test_names_may_have_colons() -> None:
    assert set(Topic.parse("realtime:s:a:b:c=eq.1").filters) == {
        TableFilter("s", "a", parse_filter("b:c=eq.1")),
        TableFilter("s", "a:b", parse_filter("c=eq.1")),
        TableFilter("s:a", "b", parse_filter("c=eq.1")),
    }


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("realtime:s:t:", "there is no filter after the table; write one, as in "),
        ("realtime:s:t:id", "cannot filter by 'id': unexpected end; expected '=' after the "),
        ("realtime:s:t:=eq.1", "cannot filter by '=eq.1': unexpected '='; expected a column's "),
        ("realtime:s:t:id=eq", "cannot filter by 'id=eq': unexpected end; expected '.' and a "),
        ("realtime:s:t:id=foo.1", "cannot filter by 'id=foo.1': unknown operator 'foo'; "),
        ("realtime:s:t:or(a.eq.1", "cannot filter by 'or(a.eq.1': the parenthesis of or( is "),
        ("realtime:s:t:a=gt.1,b=eq.x, y", "cannot filter by 'a=gt.1,b=eq.x, y': unexpected end;"),
    ],
)
def test_what_is_no_filter_has_the_reason_for_which_it_is_none(name: str, reason: str) -> None:
    topic = Topic.parse(name)
    assert topic == Topic(name, ())
    assert topic.problem is not None
    assert topic.problem.reason.startswith(reason)


def test_a_value_of_many_colons_costs_no_more_than_its_length() -> None:
    name = "realtime:s:t:a=eq." + ":=eq." * 200_000
    # Were each colon tried, this would take longer than a test may.
    topic = Topic.parse(name)
    assert len(topic.filters) <= 10
    begun = Reference("a")
    (first,) = (item for item in topic.filters if item.filter.columns == {"a"})
    assert first.filter.root == Comparison(begun, Operator.EQ, ":=eq." * 200_000)
