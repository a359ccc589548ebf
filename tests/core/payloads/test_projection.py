"""Changes and rows as JSON; that the server writes the same is tested with its payloads."""

from __future__ import annotations

import json

import pytest

from realtime_core import LSN, UNCHANGED, Insert, Record, Transaction, ValueConversionError
from tests.server_helpers import insert, make_relation

TABLE = make_relation(table="goods", columns=[("id", "int8", True), ("details", "text", False)])


def test_a_row_alone() -> None:
    assert Record(TABLE.shape, ("7", 'a "b"')).as_json() == b'{"id":7,"details":"a \\"b\\""}'
    assert Record(TABLE.shape, ("7", None)).as_json() == b'{"id":7,"details":null}'
    assert Record(TABLE.shape, ("7", UNCHANGED)).as_json() == b'{"id":7}'
    with pytest.raises(ValueConversionError, match=r"'details'.*a binary field has no JSON"):
        Record(TABLE.shape, ("7", b"x")).as_json()


def test_a_commit_without_a_time() -> None:
    change = Insert(Transaction(1, LSN(16), None), 0, TABLE, Record(TABLE.shape, ("7", "x")))
    assert json.loads(change.as_json())["commit_timestamp"] is None
    assert json.loads(insert(TABLE, "7", "x").as_json())["commit_timestamp"] is not None
