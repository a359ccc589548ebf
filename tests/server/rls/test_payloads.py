"""What a view of a change says, without a database."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

import attrs
import pytest

from realtime_core import UNCHANGED, Delete, Insert, Record, RowChange, Update
from realtime_server.config.database.tables import (
    CustomType,
    Functions,
    KeyColumn,
    LiveColumn,
    Table,
)
from realtime_server.fanout.payloads.row_payload import row_payloads
from realtime_server.rls.payloads import ErrorView, View, unknown_values
from tests.server_helpers import delete, insert, make_relation, update

GOODS = make_relation(
    table="goods",
    columns=[("id", "int8", True), ("details", "text", False), ("price", "numeric", False)],
)
TABLE = Table(
    oid=16385,
    schema="public",
    name="goods",
    has_rls=True,
    is_partitioned=False,
    is_partition=False,
    is_full=False,
    is_at_odds=False,
    columns=tuple(
        LiveColumn(column.name, column.type_name, "pg_catalog", 0, column.type_name)
        for column in GOODS.columns
    ),
    key=(KeyColumn("id", "int8", "operator(pg_catalog.=)"),),
    published=frozenset(GOODS.shape.names),
    published_actions=None,
    has_row_filter=False,
    selectable={},
    bypassing=frozenset(),
    types={},
    functions=Functions(),
)
KEY = Record(GOODS.key_shape, ("7",))
CHANGES: list[Insert | Update | Delete] = [
    insert(GOODS, "7", 'a "ü"', "1.50"),
    insert(GOODS, "7", None, UNCHANGED),
    update(GOODS, ("7", "new", "2")),
    update(GOODS, ("8", "new", "2"), KEY),
    delete(GOODS, KEY),
]


def view_of(
    change: RowChange,
    *,
    columns: Collection[str] = GOODS.shape.names,
    table: Table = TABLE,
    answers: Any = (),
    hides_old: bool = False,
    size: int = 10,
) -> View:
    shown = [column for column in table.columns if column.name in columns]
    return View(change, table, shown, dict(answers), hides_old=hides_old, size=size, max_bytes=1000)


def rows_of(payload: bytes) -> Any:
    data = json.loads(payload)
    return {name: data[name] for name in ("record", "old_record") if name in data}


@pytest.mark.parametrize("change", CHANGES)
def test_who_may_see_everything_gets_what_stream_mode_sends(change: RowChange) -> None:
    (expected,) = row_payloads(change, {})
    assert view_of(change).payload() == expected.typed(expected.event)
    assert view_of(change).payload(frozenset({"price"})) == expected.typed(
        expected.event, frozenset({"price"})
    )


def test_a_column_that_a_role_may_not_select_is_neither_named_nor_shown() -> None:
    view = view_of(CHANGES[0], columns=["id", "price"])
    assert rows_of(view.payload()) == {"record": {"id": 7, "price": 1.5}}
    names = [column["name"] for column in json.loads(view.payload())["columns"]]
    assert names == ["id", "price"]
    assert view.allows_filter_on(frozenset({"price"}))
    assert not view.allows_filter_on(frozenset({"price", "details"}))


def test_of_an_old_row_that_another_may_have_seen_the_key_alone_is_shown() -> None:
    old = Record(GOODS.shape, ("7", "secret", "1"))
    change = delete(GOODS, old)
    assert rows_of(view_of(change, hides_old=True).payload()) == {"old_record": {"id": 7}}
    assert view_of(change, hides_old=True).known_of_old == frozenset({"id"})
    whole = {"id": 7, "details": "secret", "price": 1}
    assert rows_of(view_of(change).payload()) == {"old_record": whole}
    assert view_of(change).known_of_old is None


def test_a_change_that_is_too_large_is_shown_without_its_long_values_and_says_so() -> None:
    change = insert(GOODS, "7", "x" * 2000, "1")
    view = view_of(change, size=2001)
    assert view.is_too_large()
    assert json.loads(view.payload())["errors"] == ["Error 413: Payload Too Large"]
    assert rows_of(view.payload()) == {"record": {"id": 7, "price": 1}}
    # What is not shown does not count.
    assert not view.is_too_large(frozenset({"price"}))
    assert json.loads(view.payload(frozenset({"price"})))["errors"] is None


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (CHANGES[0], {"record": {}}),
        (CHANGES[2], {"record": {}, "old_record": {}}),
        (CHANGES[4], {"old_record": {}}),
    ],
)
def test_an_error_has_the_envelope_and_no_values(change: RowChange, rows: Any) -> None:
    view = ErrorView(change, TABLE, "Error 401: Unauthorized")
    data = json.loads(view.payload(has_time=True))
    seen = json.loads(view_of(change).payload())
    assert data == {**seen, **rows, "errors": ["Error 401: Unauthorized"], "columns": []}
    assert json.loads(view.payload(has_time=False)) == {**data, "commit_timestamp": None}


def test_values_that_only_the_database_can_render_are_asked_for_and_shown() -> None:
    oid = 16400
    relation = attrs.evolve(
        GOODS,
        columns=(
            *GOODS.columns[:2],
            attrs.evolve(GOODS.columns[2], type_name="place", type_schema="public", type_oid=oid),
        ),
    )
    table = attrs.evolve(
        TABLE,
        columns=(*TABLE.columns[:2], LiveColumn("price", "place", "public", oid, "public.place")),
        types={oid: CustomType(oid, "c", 0, "place", "public")},
    )
    change = insert(relation, "7", "x", "(1,2)")
    assert list(unknown_values(change, table, table.columns)) == [(oid, "(1,2)")]
    assert list(unknown_values(change, table, table.columns[:2])) == []
    answers = {(oid, "(1,2)"): '{"x":1,"y":2}'}
    record = {"id": 7, "details": "x", "price": {"x": 1, "y": 2}}
    assert rows_of(view_of(change, table=table, answers=answers).payload()) == {"record": record}
    # Without an answer it is text.
    record["price"] = "(1,2)"
    assert rows_of(view_of(change, table=table).payload()) == {"record": record}
