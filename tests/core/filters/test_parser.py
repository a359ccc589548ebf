"""The language: what it takes, what it makes of it, and what it says of all else."""

# ruff: noqa: E501 (a case of a table stands on one line)

from __future__ import annotations

import tracemalloc

import pytest

from realtime_core import FilterError
from realtime_core.filters import (
    And,
    Comparison,
    Node,
    Not,
    Operator,
    Or,
    Reference,
    Side,
    parse_filter,
)
from realtime_core.filters.parser import MAX_CONDITIONS, MAX_DEPTH, MAX_LENGTH


def eq(column: str, value: str) -> Comparison:
    return Comparison(Reference(column), Operator.EQ, value)


def is_in(column: str, *values: str) -> Comparison:
    return Comparison(Reference(column), Operator.IN, values)


A, B, C = eq("a", "1"), eq("b", "2"), eq("c", "3")


@pytest.mark.parametrize(
    ("text", "root"),
    [
        ("", None),
        ("id=eq.99", eq("id", "99")),
        ("name=eq.", eq("name", "")),
        ("name=eq. b ", eq("name", " b ")),
        ("name=eq.a=eq.b", eq("name", "a=eq.b")),
        ("name=eq.a.b.c", eq("name", "a.b.c")),
        ("größe=eq.漢", eq("größe", "漢")),
        ("my col=eq.1", eq("my col", "1")),
        (" a =eq. b ", eq(" a ", " b ")),
        ("my.col=eq.1", eq("my.col", "1")),
        ('"my,col"=eq.1', eq("my,col", "1")),
        ('"a\\"b\\\\c"=eq."x\\"y\\\\z\\,"', eq('a"b\\c', 'x"y\\z,')),
        ('name=eq."Smith, John"', eq("name", "Smith, John")),
        ('name=eq."line\nbreak"', eq("name", "line\nbreak")),
        ("name=eq.say (a, b) twice", eq("name", "say (a, b) twice")),
        ('name=eq.say "a, b" twice', eq("name", 'say "a, b" twice')),
        ("name=eq.:)", eq("name", ":)")),
        ("a=not.eq.1", Not(A)),
        ("a=eq.1,b=eq.2", And((A, B))),
        ("a=eq.1, b=eq.2", And((A, B))),
        ("a=in.(1,2)", is_in("a", "1", "2")),
        ('a=in.( 1 , "2,3" ,"")', is_in("a", "1", "2,3", "")),
        ("a=not.in.(1),b=eq.2", And((Not(is_in("a", "1")), B))),
        ("a=is.NULL", Comparison(Reference("a"), Operator.IS, "null")),
        ("a=is.not_null", Comparison(Reference("a"), Operator.IS, "not_null")),
        ("and(a.eq.1,b.eq.2)", And((A, B))),
        ("and=(a.eq.1,b.eq.2)", And((A, B))),
        ("or(a.eq.1,and(b.eq.2,c.eq.3))", Or((A, And((B, C))))),
        ("or=( a.eq.1 , b.eq.2 ) ,c=eq.3", And((Or((eq("a", "1 "), eq("b", "2 "))), C))),
        ("not.or(a.eq.1,b.eq.2)", Not(Or((A, B)))),
        ("not.and=(a.eq.1,b.not.eq.2)", Not(And((A, Not(B))))),
        ("and(a.eq.1)", A),
        ("and(a.eq.1,and(b.eq.2,c.eq.3))", And((A, B, C))),
        ("or(a.eq.1,or(b.eq.2,c.eq.3))", Or((A, B, C))),
        ("a=eq.1,and(b.eq.2,c.eq.3)", And((A, B, C))),
        ("not.and(a.not.eq.1)", A),
        ("and=eq.1", eq("and", "1")),
        ("or(not.eq.1,or.eq.2)", Or((eq("not", "1"), eq("or", "2")))),
        ("tags=cs.{a,b}", Comparison(Reference("tags"), Operator.CS, "{a,b}")),
        ('d=cs.{"a":[1,{"b":")"}]}', Comparison(Reference("d"), Operator.CS, '{"a":[1,{"b":")"}]}')),
        ("name=like.[1*,b=eq.2", And((Comparison(Reference("name"), Operator.LIKE, "[1*"), B))),
        ("r=ov.[1,10)", Comparison(Reference("r"), Operator.OV, "[1,10)")),
        ("or(r.adj.(1,10],a.eq.1)", Or((Comparison(Reference("r"), Operator.ADJ, "(1,10]"), A))),
        ("old.a=eq.1", Comparison(Reference("a", side=Side.OLD), Operator.EQ, "1")),
        ('new."a b"=eq.1', Comparison(Reference("a b", side=Side.NEW), Operator.EQ, "1")),
        ("or(old.a.eq.1,b.eq.2)", Or((Comparison(Reference("a", side=Side.OLD), Operator.EQ, "1"), B))),
        ("or(old.eq.1,b.eq.2)", Or((eq("old", "1"), B))),
        ("or(old.not.eq.1,b.eq.2)", Or((Not(eq("old", "1")), B))),
        ('or(old."eq".eq.1,b.eq.2)', Or((Comparison(Reference("eq", side=Side.OLD), Operator.EQ, "1"), B))),
        ("old=eq.1", eq("old", "1")),
        ('"old.a"=eq.1', eq("old.a", "1")),
        ("a=in.({1,2},{3})", Comparison(Reference("a"), Operator.IN, ("{1,2}", "{3}"))),
        ('a=in.( {"x,y}",z} , [1,5) )', Comparison(Reference("a"), Operator.IN, ('{"x,y}",z}', "[1,5)"))),
        ("a=in.((1,5],{[1,3),[5,8)}),b=eq.2", And((Comparison(Reference("a"), Operator.IN, ("(1,5]", "{[1,3),[5,8)}")), B))),
        ("or(a.in.({1,2}),b.eq.2)", Or((Comparison(Reference("a"), Operator.IN, ("{1,2}",)), B))),
        # One that is never closed ends at the comma.
        ("a=in.({1,2)", Comparison(Reference("a"), Operator.IN, ("{1", "2"))),
        ("a=in.([1,2)", Comparison(Reference("a"), Operator.IN, ("[1", "2"))),
        ("d->a->>b=eq.x", Comparison(Reference("d", ("a", "b"), True), Operator.EQ, "x")),
        ('d->0->-1->"2"->>"x y"=eq.1', Comparison(Reference("d", (0, -1, "2", "x y"), True), Operator.EQ, "1")),
        ("or(d->a.eq.1,d->>b.eq.2)", Or((
            Comparison(Reference("d", ("a",)), Operator.EQ, "1"),
            Comparison(Reference("d", ("b",), True), Operator.EQ, "2"),
        ))),
    ],
)  # fmt: skip
def test_a_text_is_this_tree(text: str, root: Node | None) -> None:
    parsed = parse_filter(text)
    assert parsed.root == root
    assert parse_filter(str(parsed)).root == root


@pytest.mark.parametrize("operator", Operator)
def test_every_operator_is_read_in_both_spellings(operator: Operator) -> None:
    value = {Operator.IN: "(1)", Operator.IS: "null"}.get(operator, "1")
    top = parse_filter(f"a={operator.value}.{value}").root
    nested = parse_filter(f"and(a.{operator.value}.{value})").root
    assert isinstance(top, Comparison)
    assert top == nested
    assert top.operator is operator


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("and(a.eq.1,or(b.eq.x,c.is.null))", "a=eq.1,or(b.eq.x,c.is.null)"),
        ("or=(a.eq.1,not.and(b.eq.2,c.gt.3))", "or(a.eq.1,not.and(b.eq.2,c.gt.3))"),
        ("not.or(a.eq.1,b.not.like.A*)", "not.or(a.eq.1,b.not.like.A*)"),
        ("a=in.( 1,2 )", "a=in.(1,2)"),
        ("tags=cs.{a,b}", 'tags=cs."{a,b}"'),
        ('"a"=eq."1"', "a=eq.1"),
        ('"and"=eq.""', '"and"=eq.'),
        ('d->"a"->>"b c"=is.Null', 'd->a->>"b c"=is.null'),
        ("new.a=eq. x", 'new.a=eq." x"'),
        ("or(a.eq.,b.in.(\"\"))", 'or(a.eq.,b.in.(""))'),
    ],
)  # fmt: skip
def test_the_canonical_text(text: str, canonical: str) -> None:
    assert str(parse_filter(text)) == canonical
    assert str(parse_filter(canonical)) == canonical


def test_filters_of_one_meaning_and_spelling_are_equal_and_hash_alike() -> None:
    one, other = parse_filter("and(a.eq.1,b.eq.2)"), parse_filter('a=eq."1", b=eq.2')
    assert one == other
    assert hash(one) == hash(other)
    assert one != parse_filter("b=eq.2,a=eq.1")


def test_the_columns_that_a_filter_reads() -> None:
    parsed = parse_filter("or(a.eq.1,and(old.b.gt.2,d->x->>y.is.null)),a=lt.5")
    assert parsed.columns == {"a", "b", "d"}
    assert parsed.compares_versions
    assert not parse_filter("a=eq.1").compares_versions
    assert parse_filter("").columns == frozenset()


OPERATORS = ", ".join(operator.value for operator in Operator)
QUOTE = '; put the whole value in double quotes, as in name=eq."Smith, John (jr.)"'


@pytest.mark.parametrize(
    ("text", "position", "problem"),
    [
        ("a", 1, "unexpected end; expected '=' after the column, as in age=gte.18"),
        ("a.eq.1", 6, "unexpected end; expected '=' after the column, as in age=gte.18"),
        ("=eq.1", 0, "unexpected '='; expected a column's name, as in age=gte.18"),
        (",a=eq.1", 0, "unexpected ','; expected a column's name, as in age=gte.18"),
        ("a=eq.1,", 7, "unexpected end; expected a column's name, as in age=gte.18"),
        ("a=eq.1,,b=eq.2", 7, "unexpected ','; expected a column's name, as in age=gte.18"),
        ("or()", 3, "unexpected ')'; expected a column's name, as in and(age.gte.18,name.like.A*)"),
        ("or(a=eq.1)", 4, "unexpected '='; expected '.' after the column, as in age.gte.18"),
        ("or(a.eq.1", 0, "the parenthesis of or( is never closed"),
        ("b=eq.2,not.and(a.eq.1,b.eq.2", 7, "the parenthesis of and( is never closed"),
        ("or(a.eq.1)b=eq.2", 10, "unexpected 'b'; expected a comma or the end"),
        ("or(a.eq.1))", 10, "unexpected ')'; expected a comma or the end"),
        ("a=", 2, f"unexpected end; expected one of {OPERATORS}, as in age=gte.18"),
        ("a=.1", 2, f"unexpected '.'; expected one of {OPERATORS}, as in age=gte.18"),
        ("a=not.1", 6, f"unknown operator '1'; expected one of {OPERATORS}, as in age=gte.18"),
        ("a=foo.1", 2, f"unknown operator 'foo'; expected one of {OPERATORS}, as in age=gte.18"),
        ("or(a.EQ.1)", 5, f"unknown operator 'EQ'; expected one of {OPERATORS}, as in age.gte.18"),
        ("a=eq", 4, "unexpected end; expected '.' and a value after the operator"),
        (
            "a=eq(any).{1}",
            4,
            "unexpected '('; expected '.' and a value after the operator; for any of several "
            "values: in.(1,2,3)",
        ),
        ("a=is.maybe", 5, "'maybe' cannot follow is; expected one of null, not_null, true, false, unknown"),
        ("a=in.1", 5, "unexpected '1'; expected a list, as in in.(1,2,3) or in.(\"a,b\",\"c\")"),
        ("a=in.(1,2", 5, "the parenthesis of in.( is never closed"),
        ("a=in.()", 6, "an empty value of in; expected a value; the empty text is \"\""),
        ("a=in.(1,)", 8, "an empty value of in; expected a value; the empty text is \"\""),
        ('a=in.("1"2)', 9, "unexpected '2'; expected ',' or ')' behind a value of in"),
        ("a=in.((1))", 6, "an empty value of in; expected a value; the empty text is \"\""),
        ("a=in.(" + "1," * 100 + "1)", 5, "too many values for in: at most 100"),
        ('a=eq."x', 5, f'a double quote is never closed{QUOTE}, and write \\" for one of its own'),
        ('a=eq.5" pipe', 6, f'a double quote is never closed{QUOTE}, and write \\" for one of its own'),
        ('a=eq."x"y', 8, f"unexpected 'y' behind a quoted value{QUOTE}"),
        ("a=eq.f(x,b=eq.2", 6, f"'(' is never closed{QUOTE}"),
        ("a=cs.(1,[2", 5, f"'(' is never closed{QUOTE}"),
        ("d->>a->b=eq.1", 5, "->> gives text, which has no parts; expected -> before the last step"),
        ("d->=eq.1", 3, "unexpected '='; expected a JSON key, as in data->address->>city"),
        ("a=eq.\0", 5, "'\\x00' is not a character that a text in PostgreSQL can have"),
        ("a=eq.x\ud800", 6, "'\\ud800' is not a character that a text in PostgreSQL can have"),
    ],
)  # fmt: skip
def test_an_error_says_what_and_where(text: str, position: int, problem: str) -> None:
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    error = caught.value
    assert (error.text, error.position, error.problem) == (text, position, problem)
    assert f"(at character {position + 1} of " in str(error)


def test_a_long_filter_is_shown_around_the_position() -> None:
    text = "a=eq.1," * 100 + "b=foo.1," + "a=eq.1," * 100
    with pytest.raises(FilterError) as caught:
        parse_filter(text)
    assert len(str(caught.value)) < 400
    assert "b=foo.1" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a=eq." + "x" * MAX_LENGTH, "characters, at most 65,536 are taken"),
        ("a=eq.1," * MAX_CONDITIONS + "a=eq.1", "more than 500 conditions"),
        ("or(" * (MAX_DEPTH + 1) + "a.eq.1" + ")" * (MAX_DEPTH + 1), "nested more than 32 deep"),
        ("not.and(" * 5000, "nested more than 32 deep"),
        ("," * 60_000, "unexpected ','"),
        ("," * 1_000_000, "characters, at most 65,536 are taken"),
        ("a=eq." + "(" * 60_000, "is never closed"),
        ('a=eq."' + '\\"' * 30_000, "is never closed"),
        ("a" + "->b" * 20_000, "expected '='"),
        ('a=eq.x"' * 9_001, "never closed"),
        (",".join(["a=eq." + "[" * 120] * 500), "too many brackets are never closed"),
        ("a=in.(" + "{," * 98 + "x" + "{" * 2350 + ")", "too many brackets are never closed"),
    ],
)
def test_hostile_input_ends_in_a_short_error(text: str, problem: str) -> None:
    with pytest.raises(FilterError, match=problem) as caught:
        parse_filter(text)
    assert len(str(caught.value)) < 500


def test_a_long_quoted_value_takes_little_more_memory_than_itself() -> None:
    text = f'a=eq."{"x" * 60_000}"'
    tracemalloc.start()
    try:
        parse_filter(text)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10 * len(text)


def test_what_is_within_the_bounds_is_taken() -> None:
    nested = "or(a.eq.1,and(b.eq.2," * (MAX_DEPTH // 2) + "c.eq.3" + "))" * (MAX_DEPTH // 2)
    assert parse_filter(nested).columns == {"a", "b", "c"}
    parsed = parse_filter(",".join(["a=eq.1"] * MAX_CONDITIONS))
    assert isinstance(parsed.root, And)
    assert len(parsed.root.items) == MAX_CONDITIONS
    assert parse_filter("a=in.(" + ",".join(["1"] * 100) + ")").root is not None


def test_trees_made_by_hand_are_written_so_that_they_mean_the_same() -> None:
    assert str(Not(Not(A))) == "a=eq.1"
    assert str(Not(Not(Not(A)))) == "a=not.eq.1"
    assert str(And((And((A, B)), C))) == "and(a.eq.1,b.eq.2),c=eq.3"
    assert str(Or((Not(And((A, B))), C))) == "or(not.and(a.eq.1,b.eq.2),c.eq.3)"
