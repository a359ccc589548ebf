"""Changes to bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from realtime_core import (
    LSN,
    UNCHANGED,
    Change,
    Column,
    Gap,
    GapReason,
    LogicalMessage,
    Position,
    Record,
    Relation,
    ReplicaIdentity,
)
from realtime_core.positions import StreamIdentity
from realtime_server.fanout.payloads.row_payload import (
    RelationPlan,
    gap_payload,
    iso_timestamp,
    row_payloads,
)
from tests.server_helpers import delete, insert, make_relation, truncate, update

TODOS = make_relation()
COLUMNS = [
    {"flags": ["key"], "name": "id", "type": "int8", "type_modifier": 4294967295},
    {"flags": [], "name": "details", "type": "text", "type_modifier": 4294967295},
]
HEAD = {
    "schema": "public",
    "table": "todos",
    "commit_timestamp": "2026-11-24T05:36:00.166595Z",
}


def payloads(change: Change) -> list[Any]:
    return [json.loads(payload.payload) for payload in row_payloads(change, {})]


def test_an_insert_has_no_old_record() -> None:
    assert payloads(insert(TODOS, "14", "x")) == [
        {**HEAD, "type": "INSERT", "errors": None, "columns": COLUMNS}
        | {"record": {"id": "14", "details": "x"}}
    ]


@pytest.mark.slow
def test_an_update_without_an_old_row_has_an_empty_old_record() -> None:
    assert payloads(update(TODOS, ("14", None))) == [
        {**HEAD, "type": "UPDATE", "errors": None, "columns": COLUMNS}
        | {"record": {"id": "14", "details": None}, "old_record": {}}
    ]


def test_an_update_of_the_key_has_the_old_key() -> None:
    old = Record(TODOS.key_shape, ("13",))
    assert payloads(update(TODOS, ("14", "x"), old)) == [
        {**HEAD, "type": "UPDATE", "errors": None, "columns": COLUMNS}
        | {"record": {"id": "14", "details": "x"}, "old_record": {"id": "13"}}
    ]


def test_an_update_under_full_has_the_old_row() -> None:
    old = Record(TODOS.shape, ("14", "w"))
    assert payloads(update(TODOS, ("14", "x"), old)) == [
        {**HEAD, "type": "UPDATE", "errors": None, "columns": COLUMNS}
        | {"record": {"id": "14", "details": "x"}, "old_record": {"id": "14", "details": "w"}}
    ]


def test_a_delete_has_no_record() -> None:
    assert payloads(delete(TODOS, Record(TODOS.key_shape, ("14",)))) == [
        {**HEAD, "type": "DELETE", "errors": None, "columns": COLUMNS}
        | {"old_record": {"id": "14"}}
    ]


def test_a_truncate_is_one_payload_of_four_keys_for_each_table() -> None:
    other = make_relation("shop", "orders", oid=16400)
    assert payloads(truncate(TODOS, other)) == [
        {**HEAD, "type": "TRUNCATE"},
        {**HEAD, "type": "TRUNCATE", "schema": "shop", "table": "orders"},
    ]


def test_a_logical_message_has_no_payload() -> None:
    assert row_payloads(LogicalMessage(LSN(1), "prefix", b"", None, 0), {}) == []


def test_unchanged_toast_is_absent() -> None:
    assert payloads(update(TODOS, ("14", UNCHANGED)))[0]["record"] == {"id": "14"}


def test_a_table_without_columns_has_an_empty_record() -> None:
    empty = make_relation(columns=())
    assert payloads(insert(empty)) == [
        {**HEAD, "type": "INSERT", "errors": None, "columns": [], "record": {}}
    ]


def test_text_is_escaped_as_json_and_not_as_ascii() -> None:
    (payload,) = row_payloads(insert(TODOS, "1", 'a"b\\c\n\0é漢🦄'), {})
    assert '"details":"a\\"b\\\\c\\n\\u0000é漢🦄"'.encode() in payload.payload


def test_names_are_escaped() -> None:
    odd = make_relation('a"b', "c\\d\n", [('e"f', "text", False)])
    (payload,) = row_payloads(insert(odd, "x"), {})
    shown = json.loads(payload.payload)
    assert (shown["schema"], shown["table"], shown["record"]) == ('a"b', "c\\d\n", {'e"f': "x"})
    assert payload.plan.table_topic == 'realtime:a"b:c\\d\n'


def test_timestamps_of_pg_catalog_become_iso_and_other_types_stay() -> None:
    kinds = ["timestamp", "timestamptz", "_timestamp", "text", "date"]
    relation = make_relation(columns=[(f"c_{kind}", kind, False) for kind in kinds])
    text = "2026-11-24 05:36:00.5"
    (payload,) = payloads(insert(relation, text, text + "+00", f'{{"{text}"}}', text, "2026-11-24"))
    assert payload["record"] == {
        "c_timestamp": "2026-11-24T05:36:00.5Z",
        "c_timestamptz": "2026-11-24T05:36:00.5Z",
        "c__timestamp": '{"2026-11-24 05:36:00.5"}',
        "c_text": text,
        "c_date": "2026-11-24",
    }


def test_somebodys_own_type_named_timestamp_stays_text() -> None:
    column = Column("at", 99999, "timestamp", "public", -1, False)
    relation = Relation(1, "public", "t", ReplicaIdentity.DEFAULT, (column,))
    (payload,) = payloads(insert(relation, "2026-11-24 05:36:00"))
    assert payload["record"] == {"at": "2026-11-24 05:36:00"}


def test_null_and_unchanged_timestamps_are_left_alone() -> None:
    relation = make_relation(
        columns=[("a", "timestamp", False), ("b", "timestamp", False), ("c", "int4", True)]
    )
    (payload,) = payloads(update(relation, (None, UNCHANGED, "1")))
    assert payload["record"] == {"a": None, "c": "1"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2026-11-24 05:36:00", "2026-11-24T05:36:00Z"),
        ("2026-11-24 05:36:56.5", "2026-11-24T05:36:56.5Z"),
        ("2026-11-24 05:36:56.166595+00", "2026-11-24T05:36:56.166595Z"),
        ("0001-01-01 00:00:00+00", "0001-01-01T00:00:00Z"),
        ("infinity", "infinity"),
        ("-infinity", "-infinity"),
        ("0044-03-15 12:00:00 BC", "0044-03-15 12:00:00 BC"),
        ("0044-03-15 12:00:00+00 BC", "0044-03-15 12:00:00+00 BC"),
        ("10000-01-01 00:00:00", "10000-01-01 00:00:00"),
        ("294276-12-31 23:59:59.999999+00", "294276-12-31 23:59:59.999999+00"),
        ("", ""),
        # Other zones do not come from a pinned session; they are not to be called Z.
        ("2026-11-24 05:36:00+09", "2026-11-24 05:36:00+09"),
        ("2026-11-24 05:36:00+00:00:05", "2026-11-24 05:36:00+00:00:05"),
        ("2026-11-24 05:36:00+00\n", "2026-11-24 05:36:00+00\n"),
    ],
)
def test_iso_timestamp_changes_only_what_iso_8601_can_hold(text: str, shown: str) -> None:
    assert iso_timestamp(text) == shown


def test_a_type_modifier_is_shown_unsigned() -> None:
    columns = (
        Column("a", 1043, "varchar", "pg_catalog", 14, True),
        Column("b", 1700, "numeric", "pg_catalog", -1, False),
    )
    relation = Relation(1, "public", "t", ReplicaIdentity.DEFAULT, columns)
    (payload,) = payloads(insert(relation, "x", "1"))
    assert payload["columns"] == [
        {"flags": ["key"], "name": "a", "type": "varchar", "type_modifier": 14},
        {"flags": [], "name": "b", "type": "numeric", "type_modifier": 4294967295},
    ]


def test_a_payload_is_rendered_once() -> None:
    (payload,) = row_payloads(insert(TODOS, "14", "x"), {})
    assert payload.payload is payload.payload


def test_filters_look_at_the_new_row_and_of_a_delete_at_the_old_one() -> None:
    old = Record(TODOS.shape, ("1", "old"))
    changes: list[Change] = [
        insert(TODOS, "1", "new"),
        update(TODOS, ("1", "new"), old),
        delete(TODOS, old),
        truncate(TODOS),
    ]
    assert [row_payloads(change, {})[0].rendered for change in changes] == [
        {"id": "1", "details": "new"},
        {"id": "1", "details": "new"},
        {"id": "1", "details": "old"},
        {},
    ]


def test_a_relations_plan_is_made_once_and_anew_when_the_relation_was_described_again() -> None:
    plans: dict[tuple[str, str], RelationPlan] = {}
    first = row_payloads(insert(TODOS, "1", "x"), plans)[0].plan
    assert row_payloads(update(TODOS, ("1", "x")), plans)[0].plan is first
    wider = make_relation(columns=[("id", "int8", True), ("title", "text", False)])
    (payload,) = row_payloads(insert(wider, "1", "x"), plans)
    assert payload.plan is not first
    assert json.loads(payload.payload)["record"] == {"id": "1", "title": "x"}
    assert plans == {("public", "todos"): payload.plan}


STREAM = StreamIdentity(7416, 1, ("shop",))


def test_a_gap_tells_where_it_begins_and_ends() -> None:
    gap = Gap(
        Position(LSN(0x10), 3, STREAM), Position(LSN(0x20), 0, STREAM), GapReason.TEMPORARY_SLOT
    )
    assert gap_payload(gap, "public:todos") == {
        "channel": "public:todos",
        "extension": "postgres_changes",
        "status": "ok",
        "message": "Gap: temporary_slot",
        "gap": {
            "after": "0/10:3@7416.1/shop",
            "until": "0/20:0@7416.1/shop",
            "reason": "temporary_slot",
        },
    }


def test_a_gap_before_the_first_change_begins_nowhere() -> None:
    gap = Gap(None, Position(LSN(0x20), 0, STREAM), GapReason.SLOT_MISSING)
    assert gap_payload(gap, "*")["gap"] == {
        "after": None,
        "until": "0/20:0@7416.1/shop",
        "reason": "slot_missing",
    }
