"""Rules: which changes an endpoint wants, and what of them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from realtime_core import UNCHANGED, Change, Record, Relation, ReplicaIdentity
from realtime_core.filters import parse_filter
from realtime_server.config import Webhook
from realtime_server.fanout.payloads.row_payload import Plans, row_payloads
from realtime_server.webhooks.rules import Rules
from tests.server_helpers import delete, insert, make_relation, truncate, update

USERS = make_relation(
    "public",
    "users",
    (("id", "int8", True), ("name", "text", False), ("age", "int4", False)),
)
FULL = make_relation(
    "public", "users", (("id", "int8", True), ("age", "int4", True)), ReplicaIdentity.FULL
)
ANNA = insert(USERS, "1", "Anna", "30")


def told(webhook: Webhook, change: Change, rules: Rules | None = None) -> list[Any]:
    plans: Plans = {}
    found = map((rules or Rules(webhook, {})).wanted, row_payloads(change, plans))
    return [orjson.loads(row.payload) for row in found if row is not None]


def hook(**more: Any) -> Webhook:
    if "filter" in more:
        more["filter"] = parse_filter(more["filter"])
    return Webhook("http://x", **more)


@pytest.mark.parametrize(
    ("relation", "wanted"),
    [
        ("*", True),
        ("public", True),
        ("public:users", True),
        ("public:*", True),
        ("*:users", True),
        ("*:*", True),
        ("other", False),
        ("public:other", False),
        ("other:users", False),
        ("users", False),
    ],
)
def test_a_relation_is_a_schema_and_a_table(relation: str, wanted: bool) -> None:
    assert bool(told(hook(relation=relation), ANNA)) is wanted


def test_the_servers_own_schema_is_never_sent() -> None:
    own = insert(make_relation("realtime", "subscription"), "1", "secret")
    assert told(hook(), own) == []
    assert told(hook(relation="realtime"), own) == []


def test_events_are_those_that_are_listed() -> None:
    old = Record(USERS.key_shape, ("1",))
    changes = (ANNA, update(USERS, ("1", "B", "1")), delete(USERS, old), truncate(USERS))
    kinds = ("INSERT", "UPDATE", "DELETE", "TRUNCATE")
    for kind in kinds:
        webhook = hook(events=(kind,))
        assert [told(webhook, change) != [] for change in changes] == [kind == k for k in kinds]
    assert [row["type"] for change in changes for row in told(hook(), change)] == list(kinds)


def test_a_change_is_told_as_the_original_does() -> None:
    (row,) = told(hook(), ANNA)
    assert row == {
        "schema": "public",
        "table": "users",
        "type": "INSERT",
        "commit_timestamp": "2026-11-24T05:36:00.166595Z",
        "errors": None,
        "columns": [
            {"flags": ["key"], "name": "id", "type": "int8", "type_modifier": 4294967295},
            {"flags": [], "name": "name", "type": "text", "type_modifier": 4294967295},
            {"flags": [], "name": "age", "type": "int4", "type_modifier": 4294967295},
        ],
        "record": {"id": "1", "name": "Anna", "age": "30"},
    }


def test_a_filter_is_asked_of_the_new_row_and_of_a_deletes_old_one() -> None:
    webhook = hook(filter="age=gte.18")
    assert told(webhook, insert(FULL, "1", "18"))
    assert not told(webhook, insert(FULL, "1", "7"))
    assert not told(webhook, insert(FULL, "1", None))
    child, adult = Record(FULL.shape, ("1", "9")), Record(FULL.shape, ("1", "90"))
    assert told(webhook, update(FULL, ("1", "18"), child))
    assert not told(webhook, update(FULL, ("1", "9"), adult))
    assert told(webhook, delete(FULL, adult))
    assert not told(webhook, delete(FULL, child))
    # Only its key is known.
    assert not told(webhook, delete(USERS, Record(USERS.key_shape, ("1",))))
    assert not told(webhook, truncate(FULL))


def test_numbers_are_compared_as_numbers() -> None:
    assert told(hook(filter="age=gt.9"), insert(FULL, "1", "10")) != []
    assert told(hook(filter="age=gt.10"), insert(FULL, "1", "9")) == []


def test_a_filter_that_does_not_fit_sends_nothing_and_is_said_without_its_values(
    caplog: pytest.LogCaptureFixture,
) -> None:
    webhook = hook(filter="ssn=eq.078-05-1120", name="audit")
    rules = Rules(webhook, {})
    for _ in range(3):
        assert told(webhook, ANNA, rules) == []
    assert rules.errors == 3
    (line,) = caplog.messages
    assert line == (
        "webhook 'audit': its filter does not fit public.users, none of whose rows is sent; "
        "mend it, from character 1 on; the table's columns are id, name, age"
    )


def test_a_row_that_cannot_be_judged_is_not_sent_and_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    webhook = hook(filter="age=gt.1")
    rules = Rules(webhook, {})
    for _ in range(3):
        assert told(webhook, insert(USERS, "1", "x", "secret"), rules) == []
    assert rules.errors == 3
    assert len(caplog.messages) == 1
    assert "secret" not in caplog.text


def test_a_table_that_changes_is_looked_at_anew() -> None:
    webhook = hook(filter="age=gt.1")
    rules = Rules(webhook, {})
    without = make_relation("public", "users", (("id", "int8", True),))
    assert not told(webhook, insert(without, "1"), rules)
    assert told(webhook, ANNA, rules)


# Columns.


def names(row: Any) -> list[str]:
    return [column["name"] for column in row["columns"]]


def test_only_the_selected_columns_are_told() -> None:
    (row,) = told(hook(select=("age", "id")), ANNA)
    assert names(row) == ["id", "age"]
    assert row["record"] == {"id": "1", "age": "30"}


def test_a_selection_holds_for_old_rows_too() -> None:
    webhook = hook(select=("age",))
    (row,) = told(webhook, update(FULL, ("1", "2"), Record(FULL.shape, ("1", "1"))))
    assert (row["record"], row["old_record"]) == ({"age": "2"}, {"age": "1"})
    key = Record(USERS.key_shape, ("1",))
    (row,) = told(webhook, update(USERS, ("2", "x", "3"), key))
    assert (row["record"], row["old_record"]) == ({"age": "3"}, {})
    (row,) = told(hook(select=("id", "name")), delete(USERS, key))
    assert (names(row), row["old_record"]) == (["id", "name"], {"id": "1"})


def test_a_filter_may_look_at_what_is_not_selected() -> None:
    webhook = hook(select=("id",), filter="age=gt.18")
    (row,) = told(webhook, ANNA)
    assert row["record"] == {"id": "1"}


def test_unchanged_columns_are_left_out_of_a_selection() -> None:
    (row,) = told(hook(select=("id", "name")), update(USERS, ("1", UNCHANGED, "2")))
    assert row["record"] == {"id": "1"}


def test_a_selected_column_that_is_not_there_is_said(caplog: pytest.LogCaptureFixture) -> None:
    webhook = hook(select=("id", "nmae"), name="audit")
    rules = Rules(webhook, {})
    assert [row["record"] for row in told(webhook, ANNA, rules)] == [{"id": "1"}]
    told(webhook, ANNA, rules)
    assert caplog.messages == [
        "webhook 'audit': public.users has no column 'nmae', which its select names"
    ]


def test_a_truncate_of_several_tables_is_told_for_those_that_are_wanted() -> None:
    other: Relation = make_relation("public", "other", oid=2)
    rows = told(hook(relation="public:other", select=("id",)), truncate(USERS, other))
    assert rows == [
        {
            "schema": "public",
            "table": "other",
            "type": "TRUNCATE",
            "commit_timestamp": "2026-11-24T05:36:00.166595Z",
        }
    ]
