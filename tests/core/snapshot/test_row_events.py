"""Rows in the text format of COPY, as events. test_accelerator.py has this tried compiled, too."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import Column, DecodeError, Relation, ReplicaIdentity, SnapshotProgress
from realtime_core.oids import BUILTIN_TYPES
from realtime_core.snapshot.row_events import row_events
from tests.core.snapshot.test_copy_text import FIELDS, written

OIDS = {name: oid for oid, name in BUILTIN_TYPES.items()}


def table(*types: str) -> Relation:
    columns = [
        Column(f"c{place}", OIDS[name], name, "pg_catalog", -1, place == 0)
        for place, name in enumerate(types)
    ]
    return Relation(1, "public", "t", ReplicaIdentity.DEFAULT, tuple(columns))


def progress(relation: Relation) -> SnapshotProgress:
    return SnapshotProgress(relation, 1, None, 1, 1, None, 0, 1)


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.tuples(*[FIELDS] * width))))
def test_each_row_is_an_event_of_its_table(rows: list[tuple[str | None, ...]]) -> None:
    relation = table(*["text"] * len(rows[0]) if rows else ["text"])
    far = progress(relation)
    events = row_events(relation, written(rows), far)
    assert [event.record.fields for event in events] == rows
    assert all(event.relation is relation and event.progress is far for event in events)
    assert all(event.record.shape is relation.shape for event in events)


def test_values_are_read_out_of_rows() -> None:
    relation = table("int8", "numeric", "timestamptz", "bool", "text", "bytea")
    texts = [b"-5", b"1.50", b"2026-01-02 03:04:05.5+00", b"t", rb"a\tb\\\n", rb"\\x00ff"]
    lines = b"\t".join(texts) + b"\n" + b"\t".join([rb"\N"] * 6) + b"\n"
    first, second = row_events(relation, lines, progress(relation))
    stamp = datetime(2026, 1, 2, 3, 4, 5, 500000, UTC)
    assert list(first.record.as_python().values()) == [
        *(-5, Decimal("1.50"), stamp, True),
        *("a\tb\\\n", b"\0\xff"),
    ]
    assert first.record["c4"] == "a\tb\\\n"
    assert set(second.record.as_python().values()) == {None}


def test_rows_without_columns_are_events_too() -> None:
    relation = table()
    events = row_events(relation, b"\n\n", progress(relation))
    assert [event.record.fields for event in events] == [(), ()]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"1\t2\n1\n", "has 1 fields, its table 2 columns"),
        (b"1\t2\n1\t2\t3\n", "has 3 fields, its table 2 columns"),
        (b"1\t2\n1\t2", "has no end"),
        (b"1\t\xff\n", "not UTF-8"),
        # Without the backslash it would be UTF-8.
        (b"1\t\xc3\\\xa9\n", "not UTF-8"),
    ],
)
def test_what_no_server_writes_is_refused(data: bytes, problem: str) -> None:
    relation = table("text", "text")
    with pytest.raises(DecodeError, match=problem):
        row_events(relation, data, progress(relation))
