"""The same WAL in other forms: streamed, spilled, binary, under other settings, as CopyData.

test_captures.py has what the server says of each; here one form is held against another.
"""

from __future__ import annotations

import gzip
import json
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from realtime_core import (
    Begin,
    Commit,
    Delete,
    Event,
    Insert,
    LogicalMessage,
    Record,
    Truncate,
    Update,
    ValueConversionError,
)
from realtime_core.pgoutput import Assembler, Decoder, RelationMessage, StreamAbortMessage
from realtime_core.replication.protocol import Keepalive, XLogData, parse_copy_data
from tests.core.captures import (
    FOLDERS,
    Tables,
    checksums,
    decoder_for,
    events,
    expected,
    find,
    payloads,
    read,
)

pytestmark = pytest.mark.slow

STREAMED = {
    "stream_v2.bin": "streaming",
    "stream_v2_binary.bin.gz": "streaming",
    "stream_v4_on.bin.gz": "streaming",
    "stream_v4_parallel.bin": "streaming",
    "twophase_v3.bin": "two_phase",
    "twophase_v4_stream.bin": "two_phase_stream",
    "twophase_v4_stream_parallel.bin.gz": "two_phase_stream",
}
REFERENCES = {
    "streaming": "stream_v1_reference.bin.gz",
    "two_phase": "twophase_v1_reference.bin",
    "two_phase_stream": "twophase_v1_stream_reference.bin.gz",
}


def there(*names: str) -> list[str]:
    return [name for name in names if find(name) is not None]


def manifest() -> list[tuple[str, dict[str, int]]]:
    """Return how many messages of each kind the server sent, of the captures that are there."""
    return [
        (name, facts["kinds"])
        for name, facts in json.loads(read("manifest.json")).items()
        if facts["plugin"] == "pgoutput" and find(name) is not None
    ]


@pytest.mark.parametrize(("name", "kinds"), manifest())
def test_there_are_as_many_messages_of_each_kind_as_the_server_sent(
    name: str, kinds: dict[str, int]
) -> None:
    counted: Counter[str] = Counter()
    decoder = decoder_for(name)
    for payload in payloads(name):
        if "copydata" in name:
            data = parse_copy_data(payload)
            if isinstance(data, Keepalive):
                counted["k"] += 1
                continue
            payload = data.payload
        decoder.decode(payload)
        counted[chr(payload[0])] += 1
    assert counted == kinds


def test_every_small_capture_is_the_one_beside_the_project() -> None:
    """They belong to their expected/: one from another run would not."""
    data, captures = FOLDERS
    for path in data.rglob("*"):
        same = captures / path.relative_to(data)
        if path.suffix in (".bin", ".json", ".gz") and captures.exists():
            unpacked = same.with_suffix("") if not same.exists() else same
            assert _bytes(path) == _bytes(unpacked), path


def _bytes(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


# Streamed


@pytest.mark.parametrize("max_memory", [0, 5000])
@pytest.mark.parametrize("name", there(*STREAMED))
def test_what_is_spilled_comes_back_as_if_it_had_stayed_in_memory(
    name: str, max_memory: int
) -> None:
    decoder, assembler = decoder_for(name), Assembler(max_memory=max_memory)
    spilled = [
        event for payload in payloads(name) for event in assembler.feed(decoder.decode(payload))
    ]
    assert list(map(facts, spilled)) == list(map(facts, events(name)))


def facts(event: Event) -> tuple[object, ...]:
    """Return all of an event, but for which Relation object it has."""
    values = {field.name: getattr(event, field.name) for field in attrs.fields(type(event))}
    relation = values.pop("relation", None)
    relations = values.pop("relations", ())
    return type(event), str(relation), [str(each) for each in relations], values


@pytest.mark.parametrize(
    "name",
    [name for name in there(*STREAMED, *REFERENCES.values()) if "binary" not in name],
)
def test_applying_every_change_gives_the_same_tables(name: str) -> None:
    group = STREAMED.get(name) or next(key for key, value in REFERENCES.items() if value == name)
    tables = Tables()
    seed(tables)
    for event in events(name):
        tables.apply(event)
    state = expected(group)["state"]
    del state["st.unpublished"]
    assert {
        table: checksums(tables.rows(table), account["columns"]) for table, account in state.items()
    } == state


def seed(tables: Tables) -> None:
    """Fill in the rows that were there before the slots, by workload/streaming_schema.sql."""
    for number in range(1, 21):
        tables.add("st.cut", {"id": str(number), "v": f"row {number}"}, ["id"])
    for number in range(1, 401):
        row = {"id": str(number), "v": f"row {number}", "n": str(number)}
        tables.add("st.f", row, ["id", "v", "n"])


@pytest.mark.parametrize(
    ("name", "group"),
    [(name, group) for name, group in STREAMED.items() if name in there(*STREAMED)],
)
def test_messages_arrive_at_the_position_that_their_function_returned(
    name: str, group: str
) -> None:
    account = [
        result["pg_logical_emit_message"]
        for result in expected(group)["results"]
        if "pg_logical_emit_message" in result
    ]
    seen = [event.lsn for event in events(name) if isinstance(event, LogicalMessage)]
    assert sorted(map(str, seen)) == sorted(account)


@pytest.mark.parametrize("name", there("stream_v2.bin", "stream_v4_on.bin.gz"))
def test_a_message_that_is_not_transactional_comes_before_its_transaction(name: str) -> None:
    messages = [event for event in events(name) if isinstance(event, LogicalMessage)]
    assert [
        (message.prefix, message.content, message.transaction is None) for message in messages
    ] == [("beside", b"not transactional", True), ("in stream", b"of the other", False)]


# Binary


TEXT_OF = {
    "mixed_v1_binary.bin.gz": "mixed_v1_text.bin.gz",
    "replica_identity_binary.bin.gz": "replica_identity.bin",
    "stream_v2_binary.bin.gz": "stream_v1_reference.bin.gz",
}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param(
            *(name, TEXT_OF[name]), id=name, marks=[pytest.mark.slow] if "mixed" in name else []
        )
        for name in there(*TEXT_OF)
    ],
)
def test_binary_fields_are_the_same_python_values_as_text_ones(name: str, text: str) -> None:
    without_loader = set()
    binary_fields = 0
    for binary_row, text_row in zip(rows(events(name)), rows(events(text)), strict=True):
        assert list(binary_row) == list(text_row)
        for column, kind in zip(text_row, text_row.shape.columns, strict=True):
            raw = binary_row.raw(column)
            if not isinstance(raw, bytes):
                assert raw == text_row.raw(column)
                continue
            binary_fields += 1
            got = value(binary_row, column)
            if got is ValueConversionError and value(text_row, column) is not got:
                without_loader.add(kind.type_name)
            elif kind.type_name == "float4":
                # Its text is the shortest that comes back to the same 32 bits.
                assert got == pytest.approx(value(text_row, column), rel=1e-7, nan_ok=True)
            else:
                # repr, as NaN is not equal to itself.
                assert repr(got) == repr(value(text_row, column))
            with pytest.raises(ValueConversionError, match="a binary field has no text"):
                binary_row.text(column)
    assert binary_fields > 100
    # psycopg knows no enum of one's own, and no binary form of these.
    assert without_loader <= {"order_status", "mood", "tsvector", "money"}


def rows(stream: list[Event]) -> Iterator[Record]:
    for event in stream:
        match event:
            case Insert(record=record):
                yield record
            case Update(record=record, old_record=old):
                yield record
                if old is not None:
                    yield old
            case Delete(old_record=old):
                yield old


# Under other settings


def test_text_is_as_the_settings_of_the_session_shape_it() -> None:
    """DateStyle SQL, IntervalStyle iso_8601, Asia/Kolkata, few digits, bytea escape."""
    rows_by_table: dict[str, dict[int, Record]] = {}
    for event in events("types_text_other_settings.bin"):
        if isinstance(event, Insert | Update):
            table = rows_by_table.setdefault(str(event.relation), {})
            table[int(str(event.record.text("id")))] = event.record
        elif isinstance(event, Delete):
            del rows_by_table[str(event.relation)][int(str(event.old_record.text("id")))]
    changed = set()
    for table_name, content in expected("types")["tables"].items():
        for column, account in content["columns"].items():
            out = account["text"] if account["out"] == "as text" else account["out"]
            other = account["text"] if account["other"] == "as text" else account["other"]
            texts = [rows_by_table[table_name][key].text(column) for key in content["ids"]]
            assert texts == other, f"{table_name} {column}"
            if other != out:
                changed.add(account["type"])
    assert {"date", "interval", "timestamp with time zone", "bytea", "double precision"} <= changed


def test_text_of_other_settings_is_not_taken_for_another_value() -> None:
    """The sources pin their sessions' settings; a stream without is read right or refused."""
    wrong = []
    pinned = [row for row in rows(events("types_text.bin")) if "c_date" in row]
    other = [row for row in rows(events("types_text_other_settings.bin")) if "c_date" in row]
    for one, another in zip(pinned, other, strict=True):
        for column in ("c_date", "c_timestamp", "c_timestamp_0", "c_interval"):
            values = [value(one, column), value(another, column)]
            if values[0] != values[1] and values[1] is not ValueConversionError:
                wrong.append((column, one.text(column), another.text(column), values))
    assert wrong == []


def value(row: Record, column: str) -> Any:
    try:
        return row[column]
    except ValueConversionError:
        return ValueConversionError


# Fewer transactions, and more around them


def test_without_origins_the_rest_is_the_same() -> None:
    """With `origin 'none'`, which leaves out what was replicated from elsewhere."""
    seen = list(map(facts, events("origin_none.bin")))
    own = [
        facts(event)
        for event in events("truncate_message_origin.bin")
        if getattr(event, "transaction", None) is None or event.transaction.origin is None
    ]
    # A message that is not transactional has its session's origin, which it does not show.
    missing = [event for event in own if event not in seen]
    assert [event for event in own if event in seen] == seen
    assert {event[0] for event in missing} <= {LogicalMessage}


def test_copy_data_carries_the_same_messages() -> None:
    # Only beside the project; elsewhere there is nothing to compare.
    for name in there("mixed_v1_copydata.bin.gz"):
        inside = [
            data.payload
            for data in map(parse_copy_data, payloads(name))
            if isinstance(data, XLogData)
        ]
        assert inside == list(payloads("mixed_v1_text.bin.gz"))


def test_a_file_of_captures_ends_where_it_should() -> None:
    for name in there(*STREAMED, *REFERENCES.values()):
        data = read(name)
        total = sum(4 + len(payload) for payload in payloads(name))
        assert total == len(data)
        assert struct.unpack_from("!I", data)[0] > 0


# What the README of the captures warns of


def test_relations_under_full_have_every_column_as_key() -> None:
    for event in events("replica_identity.bin"):
        if isinstance(event, Update) and event.relation.replica_identity.value == "f":
            assert all(column.is_key for column in event.relation.columns)
            assert event.old_record is not None


def test_text_is_not_what_a_cast_to_text_shows() -> None:
    differing = {
        account["type"]
        for content in expected("types")["tables"].values()
        for account in content["columns"].values()
        if account["out"] != "as text"
    }
    assert {"boolean", "character(5)", "inet", "xml"} <= differing


def test_an_empty_prepared_transaction_is_begin_and_commit() -> None:
    stream = events("twophase_v3.bin")
    place = next(
        place
        for place, event in enumerate(stream)
        if isinstance(event, Begin) and event.transaction.gid == "empty"
    )
    commit = stream[place + 1]
    assert isinstance(commit, Commit)
    assert (commit.transaction.gid, commit.changes) == ("empty", 0)


def test_a_gid_that_is_used_again_is_another_transaction() -> None:
    """The second one is rolled back."""
    same = [
        event.transaction.xid
        for event in events("twophase_v3.bin")
        if isinstance(event, Begin) and event.transaction.gid == "same name"
    ]
    assert len(same) == 1
    truncates = [event for event in events("twophase_v3.bin") if isinstance(event, Truncate)]
    assert [event.transaction.gid for event in truncates] == ["same name"]


def test_a_row_of_a_table_without_columns_has_no_fields() -> None:
    assert [
        len(event.record)
        for event in events("replica_identity.bin")
        if isinstance(event, Insert) and not event.relation.columns
    ] == [0]


@pytest.mark.parametrize("name", there("stream_v2.bin", "stream_v4_on.bin.gz"))
def test_a_streamed_transaction_from_elsewhere_has_its_origin(name: str) -> None:
    """Its Origin message is in the first block, without xid, with an LSN of 0."""
    assert [
        (event.transaction.origin, event.transaction.commit_time.isoformat())
        for event in events(name)
        if isinstance(event, Begin) and event.transaction.origin is not None
    ] == [("elsewhere", "2026-02-03T04:05:06.789000+00:00")]


def test_only_parallel_streaming_makes_aborts_long() -> None:
    """With protocol 4 as well: its version does not tell."""
    lengths = {
        name: {len(payload) for payload in payloads(name) if payload[:1] == b"A"}
        for name in there(*STREAMED)
    }
    assert {name: found for name, found in lengths.items() if found} == {
        name: {25 if "parallel" in name else 9} for name, found in lengths.items() if found
    }


@pytest.mark.parametrize("name", there("stream_v2.bin", "stream_v4_on.bin.gz"))
def test_the_streams_hold_what_they_should(name: str) -> None:
    """Empty blocks, rows of subtransactions, and relations that are said again."""
    assert b"SE" in bytes(payload[0] for payload in payloads(name))
    decoder = Decoder()
    messages = [decoder.decode(payload) for payload in payloads(name)]
    described = Counter(
        message.name for message in messages if isinstance(message, RelationMessage)
    )
    assert described == {"a": 4, "b": 2, "cut": 2, "evolving": 4, "f": 2, "late": 3}
    # Of the nested ones the innermost first, and of the whole transaction last.
    assert [
        (message.xid - 19486, message.subxid - 19486)
        for message in messages
        if isinstance(message, StreamAbortMessage)
    ] == [(0, 5), (0, 10), (0, 9), (0, 8), (0, 14), (0, 17), (1, 7), (1, 1)]
