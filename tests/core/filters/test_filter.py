"""What a change does to the rows that pass: enters, stays, leaves."""

from __future__ import annotations

import pytest

from realtime_core import FilterMatchError, Record, ReplicaIdentity
from realtime_core.filters import Match, parse_filter
from realtime_core.records import UNCHANGED
from tests.core.filters.helpers import delete, insert, key, relation, row, update

DEFAULT = relation(id="int4", v="int4")
FULL = relation(ReplicaIdentity.FULL, id="int4", v="int4")
NOTHING = relation(ReplicaIdentity.NOTHING, id="int4", v="int4")


def of_update(text: str, new: Record, old: Record | None, *, of: object = FULL) -> Match | None:
    assert of in (DEFAULT, FULL, NOTHING)
    return parse_filter(text).compile(of).match(update(of, new, old))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("5", "6", Match.STAYS),
        ("1", "6", Match.ENTERS),
        ("5", "1", Match.LEAVES),
        ("1", "2", None),
        (None, "6", Match.PASSES),
        ("6", None, Match.LEAVES),
    ],
)
def test_an_update_whose_old_row_is_known(
    old: str | None, new: str | None, expected: Match | None
) -> None:
    assert of_update("v=gt.4", row(FULL, "1", new), row(FULL, "1", old)) is expected


def test_null_did_not_pass_but_is_not_known_to_have_failed() -> None:
    """NULL > 4 is unknown in SQL, too: ``is`` and ``isdistinct`` tell."""
    assert of_update("v=is.null", row(FULL, "1", None), row(FULL, "1", "5")) is Match.ENTERS
    assert of_update("v=isdistinct.5", row(FULL, "1", "6"), row(FULL, "1", None)) is Match.STAYS


def test_an_old_row_that_cannot_be_judged_is_as_one_that_was_not_sent() -> None:
    broken = row(FULL, "1", "?")
    assert of_update("v=gt.4", row(FULL, "1", "6"), broken) is Match.PASSES
    with pytest.raises(FilterMatchError):
        of_update("v=gt.4", row(FULL, "1", "1"), broken)
    with pytest.raises(FilterMatchError):
        of_update("v=gt.4", broken, row(FULL, "1", "6"))


def test_an_update_whose_old_row_was_not_sent() -> None:
    new = row(DEFAULT, "1", "6")
    assert of_update("v=gt.4", new, None, of=DEFAULT) is Match.PASSES
    assert of_update("v=gt.9", new, None, of=DEFAULT) is None


def test_without_an_old_key_the_key_is_what_it_was() -> None:
    new = row(DEFAULT, "1", "6")
    assert of_update("id=eq.1", new, None, of=DEFAULT) is Match.STAYS
    assert of_update("id=eq.2", new, None, of=DEFAULT) is None
    assert of_update("id=eq.1", row(NOTHING, "1", "6"), None, of=NOTHING) is Match.PASSES


def test_an_old_key_alone_tells_of_the_key() -> None:
    new, old = row(DEFAULT, "2", "6"), key(DEFAULT, "1")
    assert of_update("id=eq.2", new, old, of=DEFAULT) is Match.ENTERS
    assert of_update("id=eq.1", new, old, of=DEFAULT) is Match.LEAVES
    assert of_update("id=gt.0", new, old, of=DEFAULT) is Match.STAYS
    assert of_update("v=eq.6", new, old, of=DEFAULT) is Match.PASSES
    assert of_update("or(id.eq.1,v.eq.9)", new, old, of=DEFAULT) is Match.LEAVES


def test_unchanged_toast_is_not_known() -> None:
    new = row(DEFAULT, "1", UNCHANGED)
    for condition in ("v=eq.6", "v=neq.6", "v=is.null", "v=is.not_null", "v=isdistinct.6"):
        assert of_update(condition, new, None, of=DEFAULT) is None
    assert of_update("or(v.eq.6,id.eq.1)", new, None, of=DEFAULT) is Match.STAYS


def test_an_insert_enters_and_a_delete_leaves() -> None:
    compiled = parse_filter("v=gt.4").compile(FULL)
    assert compiled.match(insert(FULL, "1", "5")) is Match.ENTERS
    assert compiled.match(insert(FULL, "1", "4")) is None
    assert compiled.match(delete(FULL, row(FULL, "1", "5"))) is Match.LEAVES
    assert compiled.match(delete(FULL, row(FULL, "1", "4"))) is None


def test_a_delete_is_judged_by_what_is_known_of_the_old_row() -> None:
    old = key(DEFAULT, "1")
    for condition, expected in {
        "id=eq.1": Match.LEAVES,
        "v=eq.5": None,
        "v=is.null": None,
        "or(v.eq.5,id.eq.1)": Match.LEAVES,
        "v=neq.5,id=eq.1": None,
    }.items():
        assert parse_filter(condition).compile(DEFAULT).match(delete(DEFAULT, old)) is expected


def test_old_and_new_compare_the_versions_of_an_update() -> None:
    new, old = row(FULL, "1", "6"), row(FULL, "1", "3")
    assert of_update("old.v=lt.5,new.v=gte.5", new, old) is Match.PASSES
    assert of_update("old.v=lt.5,v=gte.5", new, old) is Match.PASSES
    assert of_update("old.v=gt.5", new, old) is None
    assert of_update("old.v=isdistinct.3", new, old) is None


def test_old_is_not_known_of_an_insert_nor_new_of_a_delete() -> None:
    for condition in ("old.v=eq.5", "old.v=is.null", "old.v=not.eq.5"):
        assert parse_filter(condition).compile(FULL).match(insert(FULL, "1", "5")) is None
    gone = delete(FULL, row(FULL, "1", "5"))
    assert parse_filter("new.v=is.null").compile(FULL).match(gone) is None
    assert parse_filter("old.v=eq.5").compile(FULL).match(gone) is Match.LEAVES
    assert parse_filter("new.v=eq.5").compile(FULL).match(insert(FULL, "1", "5")) is Match.ENTERS


def test_the_empty_filter_is_entered_stayed_in_and_left() -> None:
    compiled = parse_filter("").compile(DEFAULT)
    assert compiled.match(insert(DEFAULT, "1", "5")) is Match.ENTERS
    assert compiled.match(update(DEFAULT, row(DEFAULT, "1", "6"))) is Match.STAYS
    assert compiled.match(delete(DEFAULT, key(DEFAULT, "1"))) is Match.LEAVES
