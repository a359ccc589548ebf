"""Real streams, compared with what triggers and queries in the same database say.

tests/core/captures.py says where they come from. What the publication leaves out is in the
server's account too; `PUBLISHED` takes it out again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from realtime_core import (
    UNCHANGED,
    Begin,
    Commit,
    Delete,
    Event,
    Insert,
    LogicalMessage,
    Record,
    Relation,
    ReplicaIdentity,
    Truncate,
    Update,
    ValueConversionError,
)
from realtime_core.oids import BUILTIN_TYPES
from tests.core.captures import Tables, checksums, decoder_for, events, expected, find, payloads
from tests.pgoutput_encoder import encode

pytestmark = pytest.mark.slow

Json = dict[str, Any]

FILES = {
    "replica_identity.bin": "replica_identity",
    "partition_root_true.bin": "partitioned",
    "partition_root_false.bin": "partitioned",
    "publication_filters.bin": "filters",
    "truncate_message_origin.bin": "truncate_message_origin",
    "types_text.bin": "types",
    "types_binary.bin": "types",
    "twophase_v1_reference.bin": "two_phase",
    "twophase_v3.bin": "two_phase",
    # Only beside the project; where they are not, there is one case less.
    "mixed_v1_text.bin.gz": "mixed",
    "mixed_v1_binary.bin.gz": "mixed",
    "stream_v1_reference.bin.gz": "streaming",
    "stream_v2.bin": "streaming",
    "stream_v2_binary.bin.gz": "streaming",
    "stream_v4_on.bin.gz": "streaming",
    "stream_v4_parallel.bin": "streaming",
    "twophase_v1_stream_reference.bin.gz": "two_phase_stream",
    "twophase_v4_stream.bin": "two_phase_stream",
    "twophase_v4_stream_parallel.bin.gz": "two_phase_stream",
}
# Many sessions at once: the account is in the order of their last changes, a stream in that
# of their commits. Streamed or not, prepared or not, the changes must be the same.
SESSIONS = [
    name for name, group in FILES.items() if group in ("streaming", "two_phase", "two_phase_stream")
]


def each(*names: str) -> pytest.MarkDecorator:
    """Parametrize over those of the captures that are there."""
    return pytest.mark.parametrize("name", [name for name in names if find(name) is not None])


@each(*FILES)
def test_every_message_encodes_to_its_own_bytes_again(name: str) -> None:
    """So nothing of it was passed over."""
    decoder = decoder_for(name)
    for payload in payloads(name):
        assert encode(decoder.decode(payload)) == payload


# Every change, one by one


def replica_identity(changes: list[Json]) -> Iterator[Json]:
    for change in changes:
        # Published for inserts and truncates alone.
        if change["relation"] == "ri.insert_only" and change["operation"] in ("UPDATE", "DELETE"):
            continue
        if change["relation"] == "ri.generated":
            for row in (change["old_row"], change["new_row"]):
                if row is not None:
                    del row["doubled"]
        if change["relation"] != "ri.unpublished":
            yield change


def partition_root_false(changes: list[Json]) -> Iterator[Json]:
    for change in changes:
        # Written while its partition was detached.
        if (change["new_row"] or {}).get("id") != "11":
            yield change


def partition_root_true(changes: list[Json]) -> Iterator[Json]:
    truncated = set()
    for change in partition_root_false(changes):
        if change["relation"] != "part.plain":
            if change["operation"] == "TRUNCATE":
                # A leaf's alone is not sent; the root's is sent once.
                leaves = [
                    other
                    for other in changes
                    if (other["xid"], other["operation"]) == (change["xid"], "TRUNCATE")
                ]
                if len(leaves) == 1 or change["xid"] in truncated:
                    continue
                truncated.add(change["xid"])
            change["relation"] = "part.measurements"
        yield change


def truncate_message_origin(changes: list[Json]) -> Iterator[Json]:
    for change in changes:
        if change["relation"] != "tm.unpublished" and (
            change["relation"],
            change["operation"],
        ) != ("tm.truncate_unpublished", "TRUNCATE"):
            yield change


PUBLISHED: dict[str, Callable[[list[Json]], Iterator[Json]]] = {
    "replica_identity.bin": replica_identity,
    "partition_root_true.bin": partition_root_true,
    "partition_root_false.bin": partition_root_false,
    "truncate_message_origin.bin": truncate_message_origin,
}


def old_row(change: Json, relation: Relation) -> Json | None:
    """Return what of the old row must arrive."""
    old, new = change["old_row"], change["new_row"]
    if relation.replica_identity is ReplicaIdentity.FULL:
        return old
    key = {name: old[name] for name in relation.key_shape.names}
    if new is not None and key == {name: new[name] for name in key}:
        return None
    return key


def new_row(change: Json, record: Record) -> Json:
    """Return what of the new row must arrive: all of it, but for TOAST that stayed as it was."""
    old, new = change["old_row"], change["new_row"]
    return {
        name: UNCHANGED
        if record.raw(name) is UNCHANGED and old is not None and old[name] == value
        else value
        for name, value in new.items()
    }


@each(*PUBLISHED)
def test_every_change_is_the_one_that_the_triggers_saw(name: str) -> None:
    account = PUBLISHED[name](expected(FILES[name])["changes"])
    for event in events(name):
        if not isinstance(event, Insert | Update | Delete | Truncate):
            continue
        relations = event.relations if isinstance(event, Truncate) else (event.relation,)
        for relation in relations:
            change = next(account)
            assert str(relation) == change["relation"]
            assert type(event).__name__.upper() == change["operation"]
            assert event.transaction.xid == change["xid"]
        match event:
            case Insert(record=record):
                assert record.as_text() == new_row(change, record)
            case Update(record=record, old_record=old):
                assert record.as_text() == new_row(change, record)
                assert (old and old.as_text()) == old_row(change, event.relation)
            case Delete(old_record=old):
                assert old.as_text() == old_row(change, event.relation)
    assert list(account) == []


def test_unchanged_toast_is_marked_under_default_and_restored_under_full() -> None:
    fields = Counter(
        (str(event.relation), event.record.raw("big") is UNCHANGED)
        for event in events("replica_identity.bin")
        if isinstance(event, Update) and "big" in event.record
    )
    assert fields == {
        ("ri.toast_default", True): 2,
        ("ri.toast_default", False): 3,
        ("ri.toast_full", False): 4,
    }


def test_a_column_list_and_a_row_filter_shape_what_arrives() -> None:
    """An UPDATE into the filter comes as an Insert, out of it as a Delete."""
    seen = [
        (
            type(event).__name__,
            event.relation.table,
            old.as_text() if (old := getattr(event, "old_record", None)) is not None else None,
            event.record.as_text() if not isinstance(event, Delete) else None,
        )
        for event in events("publication_filters.bin")
        if isinstance(event, Insert | Update | Delete)
    ]
    assert seen == [
        ("Insert", "people", None, {"id": "1", "name": "Ada"}),
        ("Insert", "people", None, {"id": "2", "name": "Bob"}),
        ("Update", "people", None, {"id": "1", "name": "Ada"}),
        ("Update", "people", {"id": "1"}, {"id": "3", "name": "Eve"}),
        ("Delete", "people", {"id": "2"}, None),
        ("Delete", "people", {"id": "3"}, None),
        ("Insert", "tasks", None, {"id": "2", "state": "open", "owner": "b"}),
        ("Insert", "tasks", None, {"id": "3", "state": "open", "owner": "c"}),
        ("Insert", "tasks", None, {"id": "1", "state": "open", "owner": "x"}),
        ("Delete", "tasks", {"id": "2", "state": "open"}, None),
        (
            "Update",
            "tasks",
            {"id": "3", "state": "open"},
            {"id": "3", "state": "done", "owner": "c"},
        ),
        ("Delete", "tasks", {"id": "1", "state": "open"}, None),
        ("Delete", "tasks", {"id": "3", "state": "done"}, None),
    ]


def test_every_logical_message_arrives_as_it_was_written() -> None:
    seen = [
        {
            "lsn": str(event.lsn),
            "is_transactional": "false" if event.transaction is None else "true",
            "message_prefix": event.prefix,
            "content_hex": event.content.hex(),
            "is_delivered": "true",
        }
        for event in events("truncate_message_origin.bin")
        if isinstance(event, LogicalMessage)
    ]
    account = [
        result
        for result in expected("truncate_message_origin")["results"]
        if result.get("is_delivered") == "true"
    ]
    # One that is not transactional comes ahead of the transaction that wrote it.
    assert sorted(seen, key=lambda message: message["lsn"]) == account
    assert sum(message["is_transactional"] == "false" for message in seen) == 5


def test_a_transaction_names_its_origin() -> None:
    origins = [
        event.transaction.origin
        for event in events("truncate_message_origin.bin")
        if isinstance(event, Begin) and event.transaction.origin is not None
    ]
    assert origins == ["upstream_a", "upstream_a", "upstream_a", 'upstream "ü" b']


# Transactions


@each("mixed_v1_text.bin.gz", *PUBLISHED)
def test_transactions_come_in_order_with_their_commit_times(name: str) -> None:
    rows: Counter[int] = Counter()
    times: dict[int, datetime] = {}
    for event in events(name):
        if isinstance(event, Insert | Update | Delete | Truncate):
            xid = event.transaction.xid
            rows[xid] += len(event.relations) if isinstance(event, Truncate) else 1
            times[xid] = event.transaction.commit_time
    account = expected(FILES[name])["transactions"]
    # pg_xact_commit_timestamp takes the origin's time of 0 for none; the WAL has it.
    zero = datetime(2000, 1, 1, tzinfo=UTC)
    assert [(xid, times[xid]) for xid in rows] == [
        (xid, zero if times[xid] == zero else datetime.fromisoformat(time))
        for xid, time, _ in account
        if xid in rows
    ]
    assert (zero in times.values()) is (FILES[name] == "truncate_message_origin")
    if FILES[name] == "mixed":
        assert list(rows.items()) == [(xid, number) for xid, _, number in account]


@each(*SESSIONS)
def test_transactions_of_many_sessions_have_their_commit_times(name: str) -> None:
    seen = {}
    for event in events(name):
        if isinstance(event, Insert | Update | Delete):
            transaction = event.transaction
            count = seen.get(transaction.xid, (None, 0))[1]
            seen[transaction.xid] = (transaction.commit_time, count + 1)
    assert seen == {
        xid: (datetime.fromisoformat(time), number)
        for xid, time, number in expected(FILES[name])["transactions"]
    }


@each(*(name for name in FILES if name != "mixed_v1_binary.bin.gz"))
def test_positions_rise_by_one_change_at_a_time(name: str) -> None:
    before = None
    index = 0
    for event in events(name):
        match event:
            case Begin(transaction):
                assert before is None or transaction.commit_lsn > before
                before, index = transaction.commit_lsn, 0
            case Commit():
                assert event.changes == index
                assert event.end_lsn > event.transaction.commit_lsn
            case LogicalMessage(transaction=None):
                assert event.position.index == 0
            case _:
                assert (event.position.lsn, event.position.index) == (before, index)
                index += 1


# What a consumer ends up with


def row_counts(stream: list[Event]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for event in stream:
        if isinstance(event, Insert | Update | Delete):
            table = counts.setdefault(str(event.relation), {})
            operation = type(event).__name__.upper()
            table[operation] = table.get(operation, 0) + 1
    return counts


@each("mixed_v1_text.bin.gz", *SESSIONS)
def test_the_rows_of_each_table_and_operation_are_as_many_as_were_committed(name: str) -> None:
    account = expected(FILES[name])["rows_by_table"]
    account.pop("st.unpublished", None)
    assert row_counts(events(name)) == account


# The md5 of these can't be followed: columns or truncates that are not sent, or a table whose
# shape changes. The partitioned tables are followed as their leaves.
NOT_FOLLOWED = {"ri.evolving", "ri.generated", "ri.unpublished", "tm.truncate_unpublished"}
EVOLVING = {"ri.evolving", "ri.evolved", "public.evolved"}


@each(
    "mixed_v1_text.bin.gz",
    "replica_identity.bin",
    "truncate_message_origin.bin",
    "partition_root_false.bin",
)
def test_applying_every_change_gives_the_same_tables(name: str) -> None:
    tables = Tables()
    for event in events(name):
        if not isinstance(event, Insert | Update | Delete) or str(event.relation) not in EVOLVING:
            tables.apply(event)
    state = {
        table: account
        for table, account in expected(FILES[name])["state"].items()
        if table not in NOT_FOLLOWED
    }
    assert {
        table: checksums(tables.rows(table), account["columns"]) for table, account in state.items()
    } == state


# Types


def type_columns(
    stream: list[Event], *, skip: str | None = None
) -> Iterator[tuple[Relation, str, Json, list[Record]]]:
    """Yield each column of the tables of types, with its account and its rows in that order."""
    rows: dict[str, dict[str, Record]] = {}
    relations: dict[str, Relation] = {}
    for event in stream:
        if isinstance(event, Insert | Update):
            relations[str(event.relation)] = event.relation
            key = event.record["id"]
            rows.setdefault(str(event.relation), {})[key] = event.record
        elif isinstance(event, Delete):
            del rows[str(event.relation)][event.old_record["id"]]
    account = {
        table: content for table, content in expected("types")["tables"].items() if table != skip
    }
    assert rows.keys() == account.keys()
    for table, content in account.items():
        assert sorted(rows[table]) == content["ids"]
        records = [rows[table][key] for key in content["ids"]]
        assert list(records[0]) == list(content["columns"])
        for column, facts in content["columns"].items():
            yield relations[table], column, facts, records


def test_every_type_arrives_as_its_output_function_writes_it() -> None:
    for relation, column, facts, records in type_columns(events("types_text.bin")):
        texts = facts["text"] if facts["out"] == "as text" else facts["out"]
        assert [record.text(column) for record in records] == texts, f"{relation} {column}"


def test_every_type_arrives_in_binary_as_its_send_function_writes_it() -> None:
    stream = events("types_binary.bin")
    for relation, column, facts, records in type_columns(stream, skip="types_text_only.acl_arrays"):
        fields = [record.raw(column) for record in records]
        if facts["send"] is None:
            # aclitem has no send function and comes as text among the binary fields.
            assert facts["type"] == "aclitem"
            assert fields == facts["text"]
        else:
            sent = [None if digits is None else bytes.fromhex(digits) for digits in facts["send"]]
            assert fields == sent, f"{relation} {column}"


def test_every_column_has_its_type() -> None:
    base_types = {
        "types.positive": "int4",
        "types.label": "varchar",
        "types.mood_domain": "mood",
        "types.int_list": "_int4",
    }
    for relation, name, facts, _ in type_columns(events("types_text.bin")):
        column = relation.columns[relation.shape.index[name]]
        assert column.type_oid == facts["oid"]
        assert column.type_modifier == facts["typmod"]
        if facts["oid"] in BUILTIN_TYPES:
            assert column.type_schema == "pg_catalog"
            assert column.type_name == BUILTIN_TYPES[facts["oid"]]
        elif facts["type"] in base_types:
            assert column.type_name == base_types[facts["type"]]
        elif facts["type"].endswith("[]"):
            # An array's name is its element's; public is in the search path of the account.
            element = facts["type"].removesuffix("[]").split(".")[-1]
            assert column.type_name == f"_{element}"
        else:
            assert f"{column.type_schema}.{column.type_name}".endswith(facts["type"])


def test_every_field_is_a_value_or_an_error_with_its_text() -> None:
    refused = set()
    for _, name, _, records in type_columns(events("types_text.bin")):
        for record in records:
            value = _value(record, name)
            if isinstance(value, ValueConversionError):
                assert (value.column, value.text) == (name, record.text(name))
                refused.add(value.type_name.removeprefix("_"))
            else:
                assert (value is None) == (record.text(name) in (None, "null"))
    assert refused == {
        "date",
        "daterange",
        "interval",
        "time",
        "timestamp",
        "timestamptz",
        "timetz",
        "tsrange",
        "tstzrange",
    }


def test_text_and_binary_are_the_same_values() -> None:
    """Except float4, whose binary form shows all the digits that it has."""
    binary = {
        (str(relation), name): records
        for relation, name, _, records in type_columns(
            events("types_binary.bin"), skip="types_text_only.acl_arrays"
        )
    }
    compared = set()
    for relation, name, facts, records in type_columns(events("types_text.bin")):
        if facts["type"].removesuffix("[]") in ("real", '"char"') or (
            str(relation) == "types_text_only.acl_arrays"
        ):
            continue
        for text, other in zip(records, binary[str(relation), name], strict=True):
            value = _value(other, name)
            if not isinstance(value, ValueConversionError):
                # repr, as NaN is not equal to itself.
                assert repr(value) == repr(_value(text, name))
                compared.add(facts["type"])
    assert {"integer", "numeric", "interval", "interval[]", "jsonb", "tstzrange[]"} <= compared
    assert "money[]" not in compared


def _value(record: Record, name: str) -> object:
    try:
        return record[name]
    except ValueConversionError as error:
        return error


def described(stream: list[Event]) -> list[object]:
    """Everything of every change, but for which Relation object it has and how it came."""
    return [
        (
            event.position,
            attrs.evolve(event.transaction, gid=None),
            type(event),
            getattr(event, "relation", None) and str(event.relation),
            getattr(event, "record", None),
            getattr(event, "old_record", None),
            getattr(event, "content", None),
        )
        for event in stream
        if not isinstance(event, Begin | Commit) and event.transaction is not None
    ]


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        (name, reference)
        for name, reference in (
            ("stream_v2.bin", "stream_v1_reference.bin.gz"),
            ("stream_v4_on.bin.gz", "stream_v1_reference.bin.gz"),
            ("stream_v4_parallel.bin", "stream_v1_reference.bin.gz"),
            ("twophase_v3.bin", "twophase_v1_reference.bin"),
            ("twophase_v4_stream.bin", "twophase_v1_stream_reference.bin.gz"),
            ("twophase_v4_stream_parallel.bin.gz", "twophase_v1_stream_reference.bin.gz"),
        )
        if find(name) is not None
    ],
)
def test_a_streamed_or_prepared_transaction_is_as_if_it_came_in_one_piece(
    name: str, reference: str
) -> None:
    assert described(events(name)) == described(events(reference))
