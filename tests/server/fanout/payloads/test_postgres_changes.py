"""Typed payloads: which columns, which rows, and the bytes."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest

from realtime_core import UNCHANGED, Change, LogicalMessage, Record, ReplicaIdentity, Truncate
from realtime_core.positions import StreamIdentity
from realtime_server.fanout.payloads.row_payload import RelationPlan, row_payloads
from tests.server_helpers import TRANSACTION, delete, insert, make_relation, truncate, update

COLUMNS = [("id", "int8", True), ("details", "text", False), ("price", "numeric", False)]
GOODS = make_relation(table="goods", columns=COLUMNS)
FULL = make_relation(
    table="goods",
    columns=[(name, kind, True) for name, kind, _ in COLUMNS],
    identity=ReplicaIdentity.FULL,
)
SHOWN = [{"name": name, "type": kind} for name, kind, _ in COLUMNS]
POSITION = "0/1000:0"


def typed(change: Change, event: str = "", select: set[str] | None = None) -> Any:
    (payload,) = row_payloads(change, {})
    if not event and select is None:
        # The library's is the same.
        assert not isinstance(change, LogicalMessage)
        relations = change.relations if isinstance(change, Truncate) else ()
        library = change.as_json(*relations)  # type: ignore[call-arg]
        assert library == payload.typed(payload.event)
    return json.loads(
        payload.typed(event or payload.event, None if select is None else frozenset(select))
    )


def data(event: str, columns: Any = SHOWN, **rows: Any) -> Any:
    return {
        "schema": "public",
        "table": "goods",
        "type": event,
        "errors": None,
        "columns": columns,
        "commit_timestamp": "2026-11-24T05:36:00.166Z",
        "position": POSITION,
        **rows,
    }


def test_each_event_has_the_rows_that_it_is_about() -> None:
    row = {"id": 9007199254740993, "details": "x", "price": 1.5}
    fields = ("9007199254740993", "x", "1.50")
    assert typed(insert(GOODS, *fields)) == data("INSERT", record=row)
    key_of_new = {"id": 9007199254740993}
    assert typed(update(GOODS, fields)) == data("UPDATE", record=row, old_record=key_of_new)
    key = Record(GOODS.key_shape, ("7",))
    assert typed(update(GOODS, fields, key)) == data("UPDATE", record=row, old_record={"id": 7})
    assert typed(delete(GOODS, key)) == data("DELETE", old_record={"id": 7})
    assert typed(delete(FULL, Record(FULL.shape, fields))) == data("DELETE", old_record=row)
    assert typed(truncate(GOODS)) == data("TRUNCATE")


@pytest.mark.parametrize("identity", [ReplicaIdentity.NOTHING, ReplicaIdentity.FULL])
def test_of_an_old_row_that_is_not_known_nothing_is_told(identity: ReplicaIdentity) -> None:
    is_full = identity is ReplicaIdentity.FULL
    columns = [(name, kind, is_full) for name, kind, _ in COLUMNS]
    goods = make_relation(table="goods", columns=columns, identity=identity)
    assert typed(update(goods, ("1", "x", None)))["old_record"] == {}


def test_the_old_key_is_there_whatever_is_selected() -> None:
    shown = typed(update(GOODS, ("1", "x", "2")), select={"price"})
    assert (shown["record"], shown["old_record"]) == ({"id": 1, "price": 2}, {"id": 1})


def test_an_identity_of_several_columns_is_in_the_tables_order() -> None:
    columns = [("b", "text", True), ("details", "text", False), ("a", "int8", True)]
    pairs = make_relation(columns=columns, identity=ReplicaIdentity.INDEX)
    (payload,) = row_payloads(update(pairs, ("x", "y", "1")), {})
    assert payload.typed("UPDATE").endswith(b',"old_record":{"b":"x","a":1}}')


def test_the_digits_are_in_the_bytes() -> None:
    (payload,) = row_payloads(insert(GOODS, "9223372036854775807", "ä", "0.10"), {})
    assert b'"record":{"id":9223372036854775807,"details":"\xc3\xa4","price":0.10}' in (
        payload.typed("INSERT")
    )


def test_null_is_null_and_unchanged_toast_is_absent() -> None:
    assert typed(insert(GOODS, "1", None, None))["record"] == {
        "id": 1,
        "details": None,
        "price": None,
    }
    assert typed(update(GOODS, ("1", UNCHANGED, "2")))["record"] == {"id": 1, "price": 2}


def test_a_row_that_left_somebodys_sight_is_told_as_a_delete_of_the_old_one() -> None:
    old = Record(FULL.shape, ("1", "before", None))
    assert typed(update(FULL, ("1", "after", None), old), "DELETE") == data(
        "DELETE", old_record={"id": 1, "details": "before", "price": None}
    )


@pytest.mark.parametrize(
    ("relation", "select", "shown"),
    [
        (GOODS, {"price"}, ["id", "price"]),
        (GOODS, set(), ["id"]),
        (GOODS, {"nowhere"}, ["id"]),
        # The stream does not tell the primary key.
        (FULL, {"price"}, ["price"]),
    ],
)
def test_selected_columns_are_shown_and_the_identity(
    relation: Any, select: set[str], shown: list[str]
) -> None:
    row = {"id": 1, "details": "x", "price": 2}
    row = {name: row[name] for name in shown}
    columns = [column for column in SHOWN if column["name"] in shown]
    old = Record(relation.shape, ("1", "x", "2"))
    assert typed(update(relation, ("1", "x", "2"), old), select=select) == data(
        "UPDATE", columns, record=row, old_record=row
    )


def test_position_and_time_are_the_changes_own() -> None:
    stream = StreamIdentity(7416, 1, ("shop", "a b"))
    transaction = attrs.evolve(TRANSACTION, stream=stream)
    plans: dict[tuple[str, str], RelationPlan] = {}
    for changed in (transaction, TRANSACTION, transaction):
        for index in (0, 12):
            change = attrs.evolve(insert(GOODS, "1", "x", "1"), transaction=changed, index=index)
            (payload,) = row_payloads(change, plans)
            assert json.loads(payload.typed("INSERT"))["position"] == str(change.position)


def test_a_payload_is_rendered_once_for_each_form() -> None:
    (payload,) = row_payloads(insert(GOODS, "1", "x", "1"), {})
    assert payload.typed("INSERT") is payload.typed("INSERT")
    some = payload.typed("INSERT", frozenset({"id"}))
    assert some is payload.typed("INSERT", frozenset({"id"}))
    assert some != payload.typed("INSERT")


@pytest.mark.slow
def test_projections_that_clients_invent_do_not_pile_up() -> None:
    plan = RelationPlan(GOODS)
    names = [frozenset({f"c{number}"}) for number in range(3000)]
    made = [plan.projection(one) for one in names]
    # Those that are kept are the same object; the last ones were made last.
    kept = [plan.projection(names[place]) is made[place] for place in reversed(range(3000))]
    assert kept[0]
    assert sum(kept) <= 1000


def test_names_are_quoted_whatever_is_in_them() -> None:
    odd = make_relation('a"b', "漢\\", [('c"d', "int4", True), ("\x01", "text", False)])
    (payload,) = row_payloads(insert(odd, "1", "x"), {})
    shown = json.loads(payload.typed("INSERT"))
    assert (shown["schema"], shown["table"]) == ('a"b', "漢\\")
    assert shown["record"] == {'c"d': 1, "\x01": "x"}
