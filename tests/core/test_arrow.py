"""Rows as Arrow's record batches: every built-in type, and what is told of each change."""

from __future__ import annotations

import math
import re
import struct
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest

from realtime_core import (
    LSN,
    UNCHANGED,
    Column,
    CommittedTransaction,
    Delete,
    Gap,
    GapReason,
    Idle,
    Insert,
    Position,
    RawRows,
    Record,
    Relation,
    ReplicaIdentity,
    Snapshot,
    SnapshotBegin,
    SnapshotProgress,
    Transaction,
    Truncate,
    Update,
    ValueConversionError,
)
from realtime_core.arrow import arrow_schema, to_arrow
from realtime_core.oids import BUILTIN_TYPES
from realtime_core.types.arrays import split_array
from tests.core.captures import events

pa = pytest.importorskip("pyarrow")

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "arrow.md"
OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}
TIME = datetime(2026, 11, 28, 12, tzinfo=UTC)
TRANSACTION = Transaction(7, LSN(0x16B374D848), TIME)


def column(name: str, type_name: str, *, key: bool = False, modifier: int = -1) -> Column:
    return Column(name, OIDS[type_name], type_name, "pg_catalog", modifier, key)


def relation(*columns: Column, identity: ReplicaIdentity = ReplicaIdentity.DEFAULT) -> Relation:
    return Relation(1, "public", "orders", identity, columns)


ID, NOTE = column("id", "int8", key=True), column("note", "text")
ORDERS = relation(ID, NOTE)


def row(relation: Relation, *fields: Any) -> Record:
    return Record(relation.shape, fields)


def key(relation: Relation, *fields: Any) -> Record:
    return Record(relation.key_shape, fields)


def inserted(relation: Relation, *fields: Any, index: int = 0) -> Insert:
    return Insert(TRANSACTION, index, relation, row(relation, *fields))


def only(changes: list[Any], **options: Any) -> Any:
    (table,) = to_arrow(changes, **options)
    return table.rows


def value_of(type_name: str, text: str, *, modifier: int = -1, **options: Any) -> Any:
    of_type = relation(column("c", type_name, modifier=modifier))
    return only([inserted(of_type, text)], **options)["c"].to_pylist()[0]


def same(value: Any, expected: Any) -> bool:
    if isinstance(expected, float):
        if math.isnan(expected):
            return math.isnan(value)
        return value == expected or struct.pack("f", value) == struct.pack("f", expected)
    if isinstance(expected, list) and isinstance(value, list):
        return len(value) == len(expected) and all(map(same, value, expected))
    return bool(value == expected) and type(value) is type(expected)


def expected_value(record: Record, name: str, kind: Any) -> Any:
    """Return PostgreSQL's text for strings, else Python's value; None if Arrow has none for it."""
    text = record.text(name)
    if text is None or pa.types.is_string(kind):
        return text
    if pa.types.is_list(kind):
        box = record.shape.columns[record.shape.index[name]].type_name == "_box"
        elements, lengths, _ = split_array(str(text), ";" if box else ",")
        if len(lengths) > 1:
            return None
        if pa.types.is_string(kind.value_type):
            return list(elements)
    try:
        value = record[name]
    except ValueConversionError:
        return None
    values = value if isinstance(value, list) else [value]
    return None if any(isinstance(each, Decimal) and each.is_nan() for each in values) else value


@pytest.mark.slow
def test_every_value_of_a_capture_of_all_types_is_pythons_or_the_text() -> None:
    """A value that Python cannot hold, Arrow cannot either, and besides those NaN in a decimal."""
    changes = [each for each in events("types_text.bin") if isinstance(each, Insert)]
    compared = set()
    for table in to_arrow(changes, on_error="null"):
        records = [each.record for each in changes if str(each.relation) == str(table.relation)]
        for name in table.relation.shape.names:
            kind = table.rows.schema.field(name).type
            values = table.rows[name].to_pylist()
            for record, value in zip(records, values, strict=True):
                expected = expected_value(record, name, kind)
                assert same(value, expected), (table.relation, name, record, value)
                compared.add(str(kind))
    assert len(compared) > 20


def test_the_page_lists_the_type_of_every_built_in_type() -> None:
    listed = {}
    for names, arrow in re.findall(r"^\| (`\w[^|]*`) \| `([^`|]+)`", PAGE.read_text(), re.M):
        for name in re.findall(r"`([^`]+)`", names):
            listed[name] = arrow
    scalars = [name for name in BUILTIN_TYPES.values() if not name.startswith("_")]
    for name in scalars:
        for type_name in (name, f"_{name}"):
            if type_name in OIDS:
                kind = arrow_schema(relation(column("c", type_name))).field("c").type
                element = listed.get(name, "string")
                wanted = element if type_name == name else f"list<item: {element}>"
                assert str(kind).replace("extension<arrow.uuid>", "uuid") == wanted


@pytest.mark.parametrize(
    ("precision", "scale", "kind"),
    [
        (10, 2, pa.decimal128(10, 2)),
        (38, 0, pa.decimal128(38, 0)),
        (60, 20, pa.decimal256(60, 20)),
        (3, 5, pa.decimal128(5, 5)),
        (77, 2, pa.string()),
        (5, -2, pa.string()),
    ],
)
def test_a_numeric_has_the_precision_and_scale_of_its_column(
    precision: int, scale: int, kind: Any
) -> None:
    modifier = (precision << 16 | scale & 0x7FF) + 4
    price = column("price", "numeric", modifier=modifier)
    assert arrow_schema(relation(price)).field("price").type == kind


def test_a_change_tells_its_kind_its_place_and_its_time() -> None:
    changes = [
        inserted(ORDERS, "1", "a"),
        Update(TRANSACTION, 1, ORDERS, row(ORDERS, "2", "b"), key(ORDERS, "1")),
        Update(TRANSACTION, 2, ORDERS, row(ORDERS, "2", UNCHANGED), None),
        Delete(TRANSACTION, 3, ORDERS, key(ORDERS, "2")),
        Truncate(TRANSACTION, 4, (ORDERS,), False, False),
    ]
    place = {"_lsn": 0x16B374D848, "_commit_time": TIME}
    assert only(changes).to_pylist() == [
        {"id": 1, "note": "a", "_kind": "insert", **place, "_index": 0}
        | {"_unchanged": None, "_old": None},
        {"id": 2, "note": "b", "_kind": "update", **place, "_index": 1}
        | {"_unchanged": None, "_old": {"id": 1}},
        {"id": 2, "note": None, "_kind": "update", **place, "_index": 2}
        | {"_unchanged": ["note"], "_old": None},
        {"id": 2, "note": None, "_kind": "delete", **place, "_index": 3}
        | {"_unchanged": None, "_old": None},
        {"id": None, "note": None, "_kind": "truncate", **place, "_index": 4}
        | {"_unchanged": None, "_old": None},
    ]


def test_rows_of_a_snapshot_have_no_place() -> None:
    progress = SnapshotProgress(ORDERS, 1, None, 1, 10, None, 0, 1)
    events = [SnapshotBegin((ORDERS,), None), Snapshot(ORDERS, row(ORDERS, "1", None), progress)]
    rows = only(events)
    assert rows["_kind"].to_pylist() == ["snapshot_begin", "snapshot"]
    assert rows["id"].to_pylist() == [None, 1]
    assert rows["_lsn"].null_count == rows["_index"].null_count == 2


def test_the_old_row_is_whole_with_replica_identity_full() -> None:
    keys = (column("id", "int8", key=True), column("note", "text", key=True))
    full = relation(*keys, identity=ReplicaIdentity.FULL)
    update = Update(TRANSACTION, 0, full, row(full, "1", "new"), row(full, "1", "old"))
    delete = Delete(TRANSACTION, 1, full, row(full, "1", "new"))
    rows = only([update, delete])
    assert rows["_old"].to_pylist() == [{"id": 1, "note": "old"}, None]
    assert rows["note"].to_pylist() == ["new", "new"]


def test_a_table_without_a_replica_identity_has_no_old_rows() -> None:
    assert "_old" not in arrow_schema(relation(column("c", "text"))).names


def test_a_table_whose_columns_change_within_a_batch_has_a_record_batch_for_each_form() -> None:
    wider = relation(ID, NOTE, column("paid", "bool"))
    again = relation(ID, NOTE)  # as after a reconnect
    changes = [inserted(ORDERS, "1", "a"), inserted(wider, "2", "b", "t"), inserted(again, "3", "")]
    first, second = to_arrow(changes)
    assert first.rows["id"].to_pylist() == [1, 3]
    assert (second.rows["id"].to_pylist(), second.rows["paid"].to_pylist()) == ([2], [True])
    assert second.relation is wider


def test_the_schema_is_that_of_the_rows() -> None:
    assert only([inserted(ORDERS, "1", "a")]).schema == arrow_schema(ORDERS)


def test_events_without_rows_are_left_out() -> None:
    here = Position(LSN(1))
    assert to_arrow([Gap(None, here, GapReason.LAG), Idle(here)]) == []


@pytest.mark.parametrize(
    ("type_name", "modifier", "text"),
    [
        ("date", -1, "infinity"),
        ("timestamptz", -1, "0044-03-15 00:00:00+00 BC"),
        ("time", -1, "24:00:00"),
        ("numeric", (10 << 16 | 2) + 4, "NaN"),
        ("_int4", -1, "{{1},{2}}"),
    ],
)
def test_a_value_that_does_not_fit_is_an_error_or_null_or_text(
    type_name: str, modifier: int, text: str
) -> None:
    with pytest.raises(
        ValueConversionError, match=r"orders, column 'c' of type .*; row\.t"
    ) as caught:
        value_of(type_name, text, modifier=modifier)
    assert caught.value.text == text
    assert value_of(type_name, text, modifier=modifier, on_error="null") is None
    assert value_of(type_name, text, modifier=modifier, as_text=["public.orders.c"]) == text


def test_values_beside_one_that_does_not_fit_are_kept() -> None:
    kinds = (column("day", "date"), column("key", "uuid"), column("tags", "_numeric"))
    table = relation(*kinds)
    one, other = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "not one"
    changes = [
        inserted(table, "2026-11-28", one, "{1.5,NULL}"),
        inserted(table, "infinity", other, "{{1}}"),
        inserted(table, None, None, None),
    ]
    rows = only(changes, on_error="null")
    assert [str(each) for each in rows["day"].to_pylist()] == ["2026-11-28", "None", "None"]
    assert [str(each) for each in rows["key"].to_pylist()] == [one, "None", "None"]
    assert rows["tags"].to_pylist() == [["1.5", None], None, None]


def test_decimals_of_an_array_have_the_columns_scale() -> None:
    assert value_of("_numeric", "{1.50}", modifier=(10 << 16 | 2) + 4) == [Decimal("1.50")]


def test_a_binary_field_is_an_error() -> None:
    with pytest.raises(ValueConversionError, match="without binary"):
        only([inserted(ORDERS, b"\0" * 8, "a")])


def test_rows_that_cannot_be_reached_are_an_error() -> None:
    change = inserted(ORDERS, "1", "a")
    whole = CommittedTransaction(TRANSACTION, (change,), change.position)
    with pytest.raises(TypeError, match=r"to_arrow\(it.changes\)"):
        to_arrow([whole])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="decoded changes"):
        to_arrow([RawRows(TRANSACTION, 0, ORDERS, (b"I",))])  # type: ignore[list-item]
    with pytest.raises(TypeError, match=r"not rows of typed\(\) such as a SimpleNamespace"):
        to_arrow([attrs.evolve(change, record=SimpleNamespace(fields=("1", "a")))])


def test_a_column_whose_name_is_taken_asks_for_another_prefix() -> None:
    table = relation(ID, column("_kind", "text"))
    with pytest.raises(ValueError, match="'_kind' of its own; give another prefix"):
        arrow_schema(table)
    assert "change_kind" in arrow_schema(table, prefix="change_").names


def test_the_error_without_pyarrow_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ImportError, match="pip install pyarrow"):
        arrow_schema(ORDERS)


def test_each_row_goes_to_its_table_although_nothing_else_keeps_its_relation() -> None:
    def changes() -> Iterator[Any]:
        # A stream has other relations for the same tables after each reconnect.
        for number in range(30):
            name = "lines" if number % 3 else "orders"
            table = Relation(1, "public", name, ReplicaIdentity.DEFAULT, (ID, NOTE))
            yield inserted(table, str(number), name)

    found = {each.relation.table: each.rows["note"].to_pylist() for each in to_arrow(changes())}
    assert found == {"orders": ["orders"] * 10, "lines": ["lines"] * 20}
