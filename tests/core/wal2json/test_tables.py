"""What the rows tell of their tables."""

from __future__ import annotations

from typing import Any

import pytest

from realtime_core import UNCHANGED, DecodeError, Record, ReplicaIdentity
from realtime_core.wal2json._rows import JsonRow
from realtime_core.wal2json._tables import IdentityLayout, KnownTable, Tables
from tests.alive import alive

TYPES = {
    "id": "integer",
    "tenant": "integer",
    "name": "text",
    "bio": "text",
    "n": "integer",
    "data": "bytea",
    "big": "text",
}


def row(**values: Any) -> JsonRow:
    """Return a row with its columns' types."""
    names = tuple(values)
    return (names, tuple(TYPES[name] for name in names), None), tuple(values.values())


@pytest.fixture
def table() -> KnownTable:
    return Tables().get("public", "users")


def with_key(table: KnownTable, *names: str) -> KnownTable:
    table.set_primary_key(list(names), names)
    return table


def update(table: KnownTable, new: JsonRow, old: JsonRow | None, *, format: int = 2) -> list[Any]:
    """Return the texts of both records."""
    records = table.update(new, old, skips_null=format == 1)
    return [None if record is None else record.as_text() for record in records]


def delete(table: KnownTable, old: JsonRow, *, format: int = 2) -> dict[str, Any]:
    return dict(table.delete(old, skips_null=format == 1).as_text())


# Relations


def test_equal_columns_are_the_same_relation(table: KnownTable) -> None:
    table.insert(row(id="1", name="a"))
    first = table.relation
    table.insert(row(id="2", name=None))
    assert table.relation is first
    table.insert(row(id="3", name="c", bio="d"))
    second = table.relation
    assert second is not first
    assert second.shape.names == ("id", "name", "bio")
    # As if a column had been added and dropped again.
    table.insert(row(id="4", name="e"))
    assert table.relation is first


def test_a_column_of_another_type_is_another_relation(table: KnownTable) -> None:
    table.insert(((("a",), ("integer",), None), ["1"]))
    first = table.relation
    table.insert(((("a",), ("text",), None), ["1"]))
    assert table.relation is not first
    assert first.columns[0].type_name == "int4"


def test_the_primary_key_is_the_key_until_an_identity_is_seen(table: KnownTable) -> None:
    with_key(table, "id").insert(row(id="1", tenant="2", name="a"))
    assert table.relation.key_shape.names == ("id",)
    update(table, row(id="1", tenant="2", name="b"), row(tenant="2"))
    assert table.relation.key_shape.names == ("tenant",)
    assert table.relation.replica_identity is ReplicaIdentity.INDEX
    table.insert(row(id="3", tenant="4", name="a"))
    assert table.relation.key_shape.names == ("tenant",)


def test_the_key_stays_known_while_its_columns_do(table: KnownTable) -> None:
    table.insert(row(id="1", name="a"))
    update(table, row(id="1", name="b"), row(id="1"))
    table.insert(row(id="1", name="a", n="2"))
    assert table.relation.key_shape.names == ("id",)
    table.insert(row(tenant="1", name="a"))
    assert table.relation.key_shape.names == ()


def test_a_new_primary_key_is_a_new_relation(table: KnownTable) -> None:
    table.insert(row(id="1", name="a"))
    assert table.relation.key_shape.names == ()
    with_key(table, "id")
    assert table.relation.key_shape.names == ("id",)
    assert table.has_primary_key(["id"])
    assert not table.has_primary_key(["name"])


def test_a_row_without_columns(table: KnownTable) -> None:
    assert table.insert((((), None, None), ())) == {}
    assert table.relation.columns == ()


# Old rows


def test_an_unchanged_key_is_no_old_record(table: KnownTable) -> None:
    assert update(table, row(id="1", name="a"), row(id="1")) == [{"id": "1", "name": "a"}, None]


def test_a_changed_key_is_the_old_record(table: KnownTable) -> None:
    assert update(table, row(id="2", name="a"), row(id="1"))[1] == {"id": "1"}
    old = table.update(row(id="2", name="a"), row(id="1"), skips_null=False)[1]
    assert isinstance(old, Record)
    assert old.shape is table.relation.key_shape


def test_a_whole_old_row_is_the_old_record_even_if_nothing_changed(table: KnownTable) -> None:
    new = row(id="1", name=None)
    assert update(with_key(table, "id"), new, new)[1] == {"id": "1", "name": None}
    assert table.relation.replica_identity is ReplicaIdentity.FULL
    assert [column.is_key for column in table.relation.columns] == [True, True]


def test_a_key_of_all_columns_is_a_key_if_it_is_the_primary_key(table: KnownTable) -> None:
    new = row(id="1", tenant="2")
    assert update(with_key(table, "id", "tenant"), new, new)[1] is None
    assert table.relation.replica_identity is ReplicaIdentity.DEFAULT


def test_full_becomes_default_again(table: KnownTable) -> None:
    update(table, row(id="1", name="a"), row(id="1", name="a"))
    assert table.relation.replica_identity is ReplicaIdentity.FULL
    assert update(table, row(id="1", name="b"), row(id="1"))[1] is None
    assert table.relation.replica_identity is ReplicaIdentity.DEFAULT


def test_an_update_without_identity_has_no_old_record(table: KnownTable) -> None:
    assert update(table, row(id="1"), None) == [{"id": "1"}, None]


def test_a_delete_before_any_row_makes_its_key_the_relation(table: KnownTable) -> None:
    assert delete(table, row(id="1")) == {"id": "1"}
    assert table.relation.shape.names == table.relation.key_shape.names == ("id",)
    table.insert(row(id="1", name="a"))
    assert delete(table, row(id="1")) == {"id": "1"}
    assert table.relation.shape.names == ("id", "name")
    assert table.relation.replica_identity is ReplicaIdentity.DEFAULT


def test_a_delete_of_other_columns_is_of_another_table(table: KnownTable) -> None:
    table.insert(row(id="1", name="a"))
    assert delete(table, row(tenant="1")) == {"tenant": "1"}
    assert table.relation.shape.names == ("tenant",)


def test_format_1_leaves_nulls_out_of_an_old_row(table: KnownTable) -> None:
    with_key(table, "id").insert(row(id="1", name=None, bio="x"))
    new, old = row(id="1", name="a", bio="x"), row(id="1", bio="x")
    assert update(table, new, old, format=1)[1] == {"id": "1", "bio": "x"}
    assert table.relation.replica_identity is ReplicaIdentity.FULL
    first = table.relation
    assert delete(table, row(id="1", name="a", bio="x"), format=1)["name"] == "a"
    assert table.relation is first


def test_format_1_cannot_tell_a_row_with_nothing_but_its_key_from_a_key(table: KnownTable) -> None:
    with_key(table, "id").insert(row(id="1", name=None))
    assert update(table, row(id="1", name="a"), row(id="1"), format=1)[1] is None


def test_format_1_shows_full_by_other_columns_than_before(table: KnownTable) -> None:
    table.insert(row(id="1", name="a", bio="x"))
    update(table, row(id="1", name="a", bio="y"), row(id="1", bio="x"), format=1)
    assert table.relation.replica_identity is ReplicaIdentity.DEFAULT
    update(table, row(id="1", name="a", bio="y"), row(id="1", name="a"), format=1)
    assert table.relation.replica_identity is ReplicaIdentity.FULL
    # It stays so: a row of which all but one column is NULL is no key.
    assert update(table, row(id="1", name="a", bio="y"), row(id="1"), format=1)[1] == {"id": "1"}


def test_format_1_may_leave_out_a_null_and_unchanged_toast_at_once(table: KnownTable) -> None:
    whole = row(id="1", name="a", big="x", n="2")
    table.insert(whole)
    update(table, whole, whole, format=1)
    new, old = update(table, row(id="1", n="3"), row(id="1", n="2"), format=1)
    assert new == {"id": "1", "name": UNCHANGED, "big": UNCHANGED, "n": "3"}
    assert old == {"id": "1", "n": "2"}


def test_format_1_deletes_a_row_of_nulls(table: KnownTable) -> None:
    table.insert(row(name=None, bio=None))
    assert delete(table, (((), (), None), ()), format=1) == {}
    assert table.relation.replica_identity is ReplicaIdentity.FULL


# Unchanged TOAST


def test_a_column_that_an_update_leaves_out_is_unchanged(table: KnownTable) -> None:
    table.insert(row(id="1", bio="x", n="2"))
    relation = table.relation
    new, old = update(table, row(id="1", n="3"), row(id="1"))
    assert new == {"id": "1", "bio": UNCHANGED, "n": "3"}
    assert old is None
    assert table.relation.shape.names == relation.shape.names


def test_it_is_absent_where_no_row_has_shown_it(table: KnownTable) -> None:
    assert update(table, row(id="1", n="3"), row(id="1"))[0] == {"id": "1", "n": "3"}
    # Until one does.
    update(table, row(id="1", bio="x", n="3"), row(id="1"))
    assert update(table, row(id="1", n="3"), row(id="1"))[0]["bio"] is UNCHANGED


def test_a_whole_old_row_has_its_value(table: KnownTable) -> None:
    table.insert(row(id="1", bio="x", n="2"))
    old = row(id="1", bio="x", n="2")
    assert update(table, row(id="1", n="3"), old)[0] == {"id": "1", "bio": "x", "n": "3"}


def test_a_whole_old_row_tells_of_a_column_that_no_row_has_shown(table: KnownTable) -> None:
    old = row(id="1", bio="x", n="2")
    assert update(table, row(id="1", n="3"), old) == [
        {"id": "1", "bio": "x", "n": "3"},
        {"id": "1", "bio": "x", "n": "2"},
    ]
    assert table.relation.replica_identity is ReplicaIdentity.FULL


def test_an_unchanged_toasted_key_has_its_value(table: KnownTable) -> None:
    """PostgreSQL sends an old key that is TOASTed even if it did not change."""
    assert update(table, row(n="3"), row(big="x")) == [{"big": "x", "n": "3"}, {"big": "x"}]
    assert table.relation.key_shape.names == ("big",)
    assert update(table, row(big="y", n="3"), row(big="x"))[1] == {"big": "x"}


def test_a_fixed_length_column_that_is_left_out_was_dropped(table: KnownTable) -> None:
    table.insert(row(id="1", n="2", bio="x"))
    assert update(table, row(id="1", bio="x"), row(id="1"))[0] == {"id": "1", "bio": "x"}
    assert table.relation.shape.names == ("id", "bio")


def test_a_column_that_is_added_does_not_make_unchanged_toast_a_dropped_one(
    table: KnownTable,
) -> None:
    with_key(table, "id")
    table.insert(row(id="1", bio="b", name="a"))
    record, _ = table.update(row(id="1", name="c", n="2", big=None), row(id="1"), skips_null=False)
    assert record.shape.names == ("id", "bio", "name", "n", "big")
    assert record.fields == ("1", UNCHANGED, "c", "2", None)
    # Nor where the last one is not there: that may have been renamed.
    record, _ = table.update(row(id="1", name="d", n="2", data=None), row(id="1"), skips_null=False)
    assert record.shape.names == ("id", "name", "n", "data")


def test_an_insert_without_a_column_says_that_it_was_dropped(table: KnownTable) -> None:
    table.insert(row(id="1", n="2", bio="x"))
    update(table, row(id="1", n="2"), row(id="1"))
    assert table.relation.shape.names == ("id", "n", "bio")
    assert table.insert(row(id="1", n="2")) == {"id": 1, "n": 2}
    assert update(table, row(id="1", n="2"), row(id="1"))[0] == {"id": "1", "n": "2"}


def test_a_whole_old_row_without_a_column_says_that_it_was_dropped(table: KnownTable) -> None:
    whole = row(id="1", n="2", bio="x")
    table.insert(whole)
    update(table, whole, whole)
    new = row(id="1", n="2")
    assert update(table, new, new)[0] == {"id": "1", "n": "2"}


def test_what_looked_like_a_whole_row_may_have_been_a_key(table: KnownTable) -> None:
    """Without include-pk, while all other columns are unchanged TOAST."""
    update(table, row(id="1"), row(id="1"))
    table.insert(row(id="1", bio="x"))
    assert update(table, row(id="1"), row(id="1")) == [{"id": "1", "bio": UNCHANGED}, None]


def test_renamed_columns_are_other_columns(table: KnownTable) -> None:
    table.insert(row(id="1", bio="x", n="2"))
    assert update(table, row(id="1", big="x"), row(id="1"))[0] == {"id": "1", "big": "x"}


# Values


def test_a_bytea_value_gets_its_prefix_back(table: KnownTable) -> None:
    assert table.insert(row(data="00ff")).text("data") == "\\x00ff"
    assert table.insert(row(data="")).text("data") == "\\x"
    assert table.insert(row(data=None)).text("data") is None
    # A domain's value with include-domain-data-type, in format 2.
    assert table.insert(row(data="\\x00ff")).text("data") == "\\x00ff"
    assert delete(table, row(data="aa")) == {"data": "\\xaa"}


@pytest.mark.parametrize("text", ["abc", "ab cd", "\\001", "g0"])
def test_a_bytea_value_in_escape_format_has_lost_two_characters(
    table: KnownTable, text: str
) -> None:
    with pytest.raises(DecodeError, match="bytea_output = 'hex'"):
        table.insert(row(data=text))


def test_booleans_are_postgresqls_text(table: KnownTable) -> None:
    record = table.insert(((("a", "b", "c"), None, None), (True, False, None)))
    assert record.as_text() == {"a": "t", "b": "f", "c": None}


@pytest.mark.parametrize("value", [[], {}, ["a"]])
def test_a_value_that_is_no_scalar_is_an_error(table: KnownTable, value: Any) -> None:
    with pytest.raises(DecodeError, match="list or an object"):
        table.insert(((("a",), None, None), (value,)))


# Errors


@pytest.mark.parametrize(
    "signature",
    [
        ((None,), ("text",), None),
        (("a",), (None,), None),
        (("a",), ("text", "text"), None),
        (("a",), None, ("1", "2")),
        (("a",), None, (True,)),
        (("a", "a"), None, None),
    ],
)
def test_columns_of_no_known_form_are_an_error(table: KnownTable, signature: Any) -> None:
    with pytest.raises(DecodeError):
        table.insert((signature, ["x"] * len(signature[0])))


def test_a_row_and_an_identity_that_contradict_each_other_are_an_error(table: KnownTable) -> None:
    with pytest.raises(DecodeError, match="contradict"):
        table.update(
            ((("a", "b"), ("text", "text"), None), ("x", "y")),
            ((("a", "b", "c"), ("integer", "text", "text"), None), ("1", "y", "z")),
            skips_null=False,
        )


@pytest.mark.parametrize("name", [None, 1, True])
def test_a_name_that_is_no_text_is_an_error(name: Any) -> None:
    with pytest.raises(DecodeError, match="not a string"):
        Tables().get("public", name)


@pytest.mark.slow
def test_what_is_remembered_of_a_table_has_a_bound(table: KnownTable) -> None:
    """In format 1 under FULL each combination of NULLs is a list of its own."""
    names = [f"c{place}" for place in range(11)]
    everything = (tuple(names), None, None), tuple("x" * 11)
    before = alive(IdentityLayout)
    table.insert(everything)
    for bits in range(2048):
        some = tuple(name for place, name in enumerate(names) if bits >> place & 1)
        delete(table, ((some, None, None), ("x",) * len(some)), format=1)
    assert 0 < alive(IdentityLayout) - before <= 512
