"""The index finds what each filter by itself would, and evaluates no more than it must."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from realtime_core import (
    LSN,
    FilterError,
    Insert,
    LogicalMessage,
    Record,
    ReplicaIdentity,
    Truncate,
)
from realtime_core.filters import FilterIndex, Match, _table_filters, parse_filter
from realtime_core.filters import index as index_module
from realtime_core.filters._rows import ValueSource
from realtime_core.filters._table_filters import FilterEntry, TableFilters
from realtime_core.filters.index import FilterIndex as _Index
from realtime_core.records import UNCHANGED, Field
from tests.alive import alive
from tests.core.filters.helpers import TRANSACTION, delete, insert, key, relation, row, update

T = relation(id="int4", name="text", v="int4")
FULL = relation(ReplicaIdentity.FULL, id="int4", name="text", v="int4")


def index_of(*texts: str, **arguments: Any) -> FilterIndex[str]:
    """Return an index in which each filter's text subscribes to it."""
    index: FilterIndex[str] = FilterIndex(**arguments)
    for text in texts:
        index.add(text, "public", "t", parse_filter(text))
    return index


def test_equality_in_and_and_or_are_found_by_value() -> None:
    index = index_of(
        *("id=eq.1", "id=eq.2", "id=in.(1,3)", "id=eq.1,v=gt.5", "id=eq.1,v=gt.50"),
        *("or(id.eq.1,name.eq.x)", "or(id.eq.2,name.eq.x)", "or(id.eq.2,id.eq.7)", "v=gt.5", ""),
        *("id=not.eq.1", "or(id.eq.1,v.gt.50)"),
    )
    assert set(index.match(insert(T, "1", "x", "9"))) == {
        *("id=eq.1", "id=in.(1,3)", "id=eq.1,v=gt.5", "or(id.eq.1,name.eq.x)"),
        *("or(id.eq.2,name.eq.x)", "v=gt.5", "", "or(id.eq.1,v.gt.50)"),
    }


def test_a_filter_under_several_columns_is_found_once() -> None:
    index = index_of("or(id.eq.1,name.eq.x)")
    assert index.match(insert(T, "1", "x", None)) == ["or(id.eq.1,name.eq.x)"]


def test_those_found_by_value_come_in_the_order_of_their_columns_names() -> None:
    texts = ["v=eq.1", "v=gt.0", "name=eq.x", "id=eq.1", "name=in.(x)"]
    found = index_of(*texts).match(insert(T, "1", "x", "1"))
    assert found == ["id=eq.1", "name=eq.x", "name=in.(x)", "v=eq.1", "v=gt.0"]


def test_what_is_equal_is_equal_by_type() -> None:
    of = relation(flag="bool", at="timestamptz", n="numeric")
    index = index_of("flag=eq.t", "flag=eq.true", "at=eq.2026-01-01T01:00:00+01", "n=eq.1")
    found = index.match(insert(of, "t", "2026-01-01 00:00:00+00", "1.00"))
    assert found == ["at=eq.2026-01-01T01:00:00+01", "flag=eq.t", "flag=eq.true", "n=eq.1"]


def test_null_and_the_unknown_are_found_under_no_value() -> None:
    index = index_of("name=eq.", "name=eq.null", "name=is.null")
    assert index.match(insert(T, "1", None, None)) == ["name=is.null"]
    assert index.match(update(T, row(T, "1", UNCHANGED, None))) == []


def test_only_filters_of_the_changes_table_are_asked() -> None:
    index = index_of("id=eq.1")
    assert index.match(insert(relation(table="other", id="int4"), "1")) == []
    assert index.match(insert(relation(schema="shop", id="int4"), "1")) == []


def test_truncates_and_messages_pass_no_filter() -> None:
    index = index_of("")
    truncate = Truncate(TRANSACTION, 0, (T,), False, False)
    message = LogicalMessage(LSN(1), "p", b"", TRANSACTION, 0)
    for change in (truncate, message):
        assert index.match(change) == []
        assert index.transitions(change) == []


def test_transitions_tell_who_enters_stays_and_leaves() -> None:
    index = index_of("v=gt.4", "v=lt.4", "v=eq.9", "v=eq.1", "id=eq.1", "name=eq.x", "old.v=eq.1")
    old, new = row(FULL, "1", None, "1"), row(FULL, "1", "x", "9")
    assert dict(index.transitions(update(FULL, new, old))) == {
        "v=gt.4": Match.ENTERS,
        "v=eq.9": Match.ENTERS,
        "id=eq.1": Match.STAYS,
        "name=eq.x": Match.PASSES,
        "old.v=eq.1": Match.PASSES,
        "v=lt.4": Match.LEAVES,
        "v=eq.1": Match.LEAVES,
    }
    assert index.transitions(insert(FULL, "2", None, "9")) == [
        ("v=eq.9", Match.ENTERS),
        ("v=gt.4", Match.ENTERS),
    ]
    assert index.transitions(delete(T, key(T, "1"))) == [("id=eq.1", Match.LEAVES)]


class Counting(_Index):
    """Counts how often it evaluates a filter."""

    evaluated = 0

    def _evaluate(self, *arguments: Any) -> bool | None:
        self.evaluated += 1
        return super()._evaluate(*arguments)


def test_equal_filters_are_evaluated_once_for_all_their_subscriptions() -> None:
    index = Counting()
    for number in range(100):
        text = "v=gt.4,id=lt.9" if number % 2 else "and(v.gt.4,id.lt.9)"
        index.add(number, "public", "t", parse_filter(text))
    assert len(index) == 100
    assert sorted(index.match(insert(T, "1", None, "5"))) == list(range(100))
    assert index.evaluated == 1


def test_equality_is_not_evaluated_at_all() -> None:
    index = Counting()
    for number in range(1000):
        index.add(number, "public", "t", parse_filter(f"id=eq.{number}"))
    assert index.match(insert(T, "7", None, None)) == [7]
    assert index.evaluated == 0


def test_a_field_is_read_once_for_all_filters() -> None:
    index = index_of(
        *("v=eq.1", "v=gt.0", "v=lt.9,id=gt.0", "or(v.eq.3,id.eq.1)", "v=in.(1,2)", "name=is.null"),
        *("name=like.x*", "name=eq.x"),
    )
    read = []

    class Watched(Record):
        def raw(self, name: str) -> Field:
            read.append(name)
            return super().raw(name)

    change = Insert(TRANSACTION, 0, T, Watched(T.shape, ("1", "x", "1")))
    assert len(index.match(change)) == 7
    assert sorted(read) == ["id", "name", "v"]


@pytest.mark.slow
def test_what_filters_read_is_forgotten_with_them() -> None:
    of = relation(id="int4", data="jsonb")
    index = index_of("id=eq.1")
    index.match(insert(of, "1", "{}"))
    before = alive(ValueSource)
    for number in range(2_000):
        filter = parse_filter(f"data->a->>key{number}=eq.x")
        index.add("ann", "public", "t", filter)
        index.remove("ann", "public", "t", filter)
    assert alive(ValueSource) - before < 10


def test_many_paths_are_put_in_order_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def watched(items: Any, **arguments: Any) -> list[Any]:
        result = sorted(items, **arguments)
        sizes.append(len(result))
        return result

    monkeypatch.setattr(_table_filters, "sorted", watched, raising=False)
    of = relation(id="int4", data="jsonb")
    index = index_of(*(f"data->a->>key{number}=eq.x" for number in range(100)))
    assert index.match(insert(of, "1", '{"a": {"key7": "x"}}')) == ["data->a->>key7=eq.x"]
    assert sizes == [100]


@pytest.mark.slow
def test_errors_of_a_path_are_forgotten_with_it() -> None:
    of = relation(id="int4", data="json")
    index = index_of("id=eq.1")
    change = insert(of, "2", '{"a": 1e999999}')
    assert index.match(change) == []
    before = alive(FilterEntry, ValueSource)
    for number in range(10):
        filter = parse_filter(f"data->>a=eq.x,data->a->{number}=eq.1")
        index.add("ann", "public", "t", filter)
        assert index.match(change) == []
        index.remove("ann", "public", "t", filter)
    assert index.errors == 10
    assert alive(FilterEntry, ValueSource) == before


@pytest.mark.slow
def test_removing_takes_out_what_was_added_and_nothing_else() -> None:
    texts = ["id=eq.1", "id=eq.1,v=gt.0", "v=gt.0", "", "or(id.eq.1,name.eq.x)", "id=in.(1,2)"]
    before = alive(TableFilters)
    index = index_of(*texts)
    index.add("again", "public", "t", parse_filter("id=eq.1"))
    change = insert(T, "1", "x", "1")
    for text in [*texts, *texts]:
        present = index.match(change)
        index.remove(text, "public", "t", parse_filter(text))
        index.remove("stranger", "public", "t", parse_filter(text))
        index.remove(text, "public", "unknown", parse_filter(text))
        assert set(present) - set(index.match(change)) <= {text}
        assert text not in index.match(change)
    assert index.match(change) == ["again"]
    index.remove("again", "public", "t", parse_filter("id=eq.1"))
    assert len(index) == 0
    assert alive(TableFilters) == before


def test_adding_twice_is_adding_once() -> None:
    index = index_of("id=eq.1", "id=eq.1")
    assert index.match(insert(T, "1", None, None)) == ["id=eq.1"]
    assert len(index) == 1


def test_a_filter_may_come_before_its_table_and_is_typed_when_that_appears() -> None:
    told: list[tuple[str, FilterError]] = []
    index = index_of("id=eq.x", "v=gt.1", on_error=lambda text, error: told.append((text, error)))
    assert told == []
    assert index.match(insert(T, "1", None, "5")) == ["v=gt.1"]
    assert [(text, error.problem) for text, error in told] == [
        ("id=eq.x", "'x' cannot be read as int4: it is not an integer")
    ]
    index.match(insert(T, "1", None, "5"))
    assert len(told) == 1


def test_once_the_table_is_known_a_filter_that_does_not_fit_is_refused() -> None:
    index = index_of("v=gt.1")
    index.match(insert(T, "1", None, "5"))
    for _ in range(2):
        with pytest.raises(FilterError, match="no column 'missing'"):
            index.add("bad", "public", "t", parse_filter("missing=eq.1"))
    index.remove("bad", "public", "t", parse_filter("missing=eq.1"))
    assert len(index) == 1
    index.add("later", "public", "t", parse_filter("id=eq.1"))
    assert index.match(insert(T, "1", None, "5")) == ["later", "v=gt.1"]


def test_other_columns_make_the_filters_typed_anew() -> None:
    told: list[str] = []
    index = index_of("v=gt.10", "id=eq.1", on_error=lambda text, _: told.append(text))
    assert index.match(insert(T, "1", None, "9")) == ["id=eq.1"]
    as_text = relation(id="int4", name="text", v="text")
    assert index.match(insert(as_text, "1", None, "9")) == ["id=eq.1", "v=gt.10"]
    without = relation(id="int4")
    assert index.match(insert(without, "1")) == ["id=eq.1"]
    assert told == ["v=gt.10"]
    # One more that waits for the column to come back is told at once.
    with pytest.raises(FilterError, match="no column 'v'"):
        index.add("another", "public", "t", parse_filter("v=gt.10"))
    assert index.match(insert(T, "1", None, "11")) == ["id=eq.1", "v=gt.10"]


def test_the_same_columns_again_type_nothing_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of("id=eq.1")
    index.match(insert(T, "1", None, None))
    monkeypatch.delattr(_table_filters.TableFilters, "bind")
    again = relation(id="int4", name="text", v="int4")
    assert again is not T
    assert index.match(insert(again, "1", None, None)) == ["id=eq.1"]


def test_the_order_of_enums_may_become_known_later_and_change() -> None:
    told: list[str] = []
    enums: dict[tuple[str, str], tuple[str, ...]] = {}
    of = relation(m="mood", others="_mood")
    index = index_of(
        "m=gt.ok", "others=gt.{ok}", enums=enums, on_error=lambda text, _: told.append(text)
    )
    assert index.match(insert(of, "sad", "{sad}")) == []
    assert told == ["m=gt.ok", "others=gt.{ok}"]
    enums["public", "mood"] = ("ok", "sad")
    # That counts from when the table is described again: after a reconnect.
    assert index.match(insert(of, "sad", "{sad}")) == []
    again = relation(m="mood", others="_mood")
    assert index.match(insert(again, "sad", "{sad}")) == ["m=gt.ok", "others=gt.{ok}"]
    enums["public", "mood"] = ("sad", "ok")
    assert index.match(insert(relation(m="mood", others="_mood"), "sad", "{sad}")) == []


def test_a_label_that_was_added_since_has_no_order_but_is_equal_to_itself() -> None:
    of = relation(m="mood")
    index = index_of("m=gt.sad", "m=eq.ok", "m=neq.ok", enums={("public", "mood"): ("sad", "ok")})
    assert index.match(insert(of, "ok")) == ["m=eq.ok", "m=gt.sad"]
    assert index.errors == 0
    assert index.match(insert(of, "new")) == ["m=neq.ok"]
    assert index.errors == 1


def test_an_error_passes_nothing_and_is_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    of = relation(id="int4", m="money")
    index = index_of("m=eq.5", "m=gt.5", "id=eq.1", "or(id.eq.1,m.gt.0)", "m=is.not_null")
    with caplog.at_level(logging.ERROR, "realtime.filters"):
        for count in (1, 2):
            found = index.match(insert(of, "1", "5,00 €"))
            assert found == ["id=eq.1", "or(id.eq.1,m.gt.0)", "m=is.not_null"]
            assert index.errors == 2 * count
    assert [record.getMessage() for record in caplog.records] == [
        "a row of public.t cannot be matched by column 'm': money is read as in "
        '"$1,234.50", which is lc_monetary C or en_US',
        "a row of public.t cannot be matched with a filter on m: money is read as "
        'in "$1,234.50", which is lc_monetary C or en_US',
    ]
    assert index.match(insert(of, "1", "$5.00"))[0] == "id=eq.1"
    assert index.errors == 4


def test_an_error_in_the_old_row_does_not_make_anything_leave() -> None:
    of = relation(ReplicaIdentity.FULL, id="int4", m="money")
    index = index_of("m=eq.5", "m=gt.5")
    change = update(of, row(of, "1", "$5.00"), row(of, "1", "5,00 €"))
    assert index.transitions(change) == [("m=eq.5", Match.PASSES)]


def test_nothing_leaves_when_the_new_row_cannot_be_judged() -> None:
    of = relation(ReplicaIdentity.FULL, id="int4", m="money")
    index = index_of("m=eq.5", "m=lt.9", "or(id.eq.1,m.eq.5)", "id=eq.1", "id=neq.2")
    change = update(of, row(of, "2", "5,00 €"), row(of, "1", "$5.00"))
    assert index.transitions(change) == [("id=eq.1", Match.LEAVES), ("id=neq.2", Match.LEAVES)]


@pytest.mark.slow
@pytest.mark.parametrize("present", [False, True])
def test_a_filter_that_does_not_fit_may_wait_until_the_table_has_other_columns(
    present: bool,
) -> None:
    told: list[tuple[str, str]] = []
    index = index_of("id=eq.1", on_error=lambda name, error: told.append((name, error.problem)))
    filter = parse_filter("extra=eq.x")
    if present:
        index.add("early", "public", "t", filter)
    index.match(insert(T, "1", None, None))
    told.clear()
    index.add("ann", "public", "t", filter, wait=True)
    assert told == [("ann", "public.t has no column 'extra'; it has id, name, v")]
    assert index.match(insert(T, "1", None, None)) == ["id=eq.1"]
    wider = relation(id="int4", extra="text")
    found = ["early", "ann"] if present else ["ann"]
    assert index.match(insert(wider, "2", "x")) == found
    # And again where it does not fit.
    assert index.match(insert(T, "1", None, None)) == ["id=eq.1"]
    index.remove("ann", "public", "t", filter)
    assert index.match(insert(wider, "2", "x")) == found[:-1]
    index.remove("early", "public", "t", filter)
    before = alive(TableFilters)
    index.remove("id=eq.1", "public", "t", parse_filter("id=eq.1"))
    assert alive(TableFilters) == before - 1


def test_filters_are_typed_in_parts_between_which_others_come_and_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(index_module, "_PART", 2)
    told: list[str] = []
    texts = ["id=eq.1", "v=gt.0", "missing=eq.1", "name=eq.x", "id=in.(1,2)", "", "id=eq.x"]
    index = index_of(*texts, on_error=lambda name, _: told.append(name))
    steps = index.prepare(T)
    next(steps)
    assert told == []
    # One that was typed already, two that were not, and one that comes.
    for text in ("id=eq.1", "id=in.(1,2)", "id=eq.x"):
        index.remove(text, "public", "t", parse_filter(text))
    index.add("late", "public", "t", parse_filter("v=lt.9"))
    # Theirs is still to be typed, and they are told with the others.
    index.add("second", "public", "t", parse_filter("missing=eq.1"), wait=True)
    with pytest.raises(FilterError):
        index.add("third", "public", "t", parse_filter("missing=eq.1"))
    next(steps)
    assert told == ["missing=eq.1", "second"]
    # What is left is done when it is needed.
    assert sorted(index.match(insert(T, "1", "x", "5"))) == ["", "late", "name=eq.x", "v=gt.0"]
    assert list(steps) == []
    assert list(index.prepare(T)) == []
    assert list(index.prepare(relation(table="other", id="int4"))) == []
    assert len(told) == 2
    # All anew, for other columns.
    wider = relation(id="int4", name="text", v="int4", missing="int4")
    assert len(list(index.prepare(wider))) == 3
    found = index.match(insert(wider, "1", "x", "5", "1"))
    assert sorted(found) == ["", "late", "missing=eq.1", "name=eq.x", "second", "v=gt.0"]


def test_a_long_filter_that_may_wait_is_typed_with_the_next_change() -> None:
    told: list[str] = []
    index = index_of("id=eq.1", on_error=lambda name, _: told.append(name))
    assert index.match(insert(T, "1", "x", "5")) == ["id=eq.1"]
    fits = ",".join(f"id=neq.{number}" for number in range(20))
    for text in (fits, f"{fits},missing=eq.1"):
        index.add(text, "public", "t", parse_filter(text), wait=True)
    assert told == []
    assert len(list(index.prepare(T))) == 1
    assert told == [f"{fits},missing=eq.1"]
    assert index.match(insert(T, "50", "x", "5")) == [fits]
