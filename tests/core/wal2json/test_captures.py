"""Real streams, compared with what the server says, and with pgoutput's of the same WAL."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from itertools import zip_longest
from typing import Any

import attrs
import pytest

from realtime_core import (
    LSN,
    UNCHANGED,
    Begin,
    Change,
    Commit,
    Delete,
    Insert,
    LogicalMessage,
    Relation,
    Truncate,
    Update,
)
from realtime_core.wal2json import Wal2JsonDecoder
from tests.core.captures import checksums, expected
from tests.core.captures import events as uncached_pgoutput_events
from tests.core.wal2json.captures import Replica, changes, each, events, texts

GROUPS = {
    "wal2json_v2_replica_identity.bin": "replica_identity",
    "wal2json_v1_replica_identity.bin": "replica_identity",
    "wal2json_v1_chunks.bin": "replica_identity",
    "wal2json_v2_types.bin": "types",
    "wal2json_v2_types_everything.bin": "types",
    "wal2json_v1_types.bin": "types",
    "wal2json_v2_truncate_message.bin": "truncate_message_origin",
    "wal2json_v1_truncate_message.bin": "truncate_message_origin",
    # Only beside the project; where they are not, there is one case less.
    "wal2json_v2_mixed.txt": "mixed",
    "wal2json_v1_mixed.txt": "mixed",
}
PGOUTPUT = {
    "replica_identity": "replica_identity.bin",
    "types": "types_text.bin",
    "truncate_message_origin": "truncate_message_origin.bin",
    "mixed": "mixed_v1_text.bin.gz",
}
TRACKED = [name for name, group in GROUPS.items() if group != "types"]
# Numbers that JSON does not have, and the types that have them.
SPECIAL = {"NaN", "Infinity", "-Infinity"}
NUMBERS = {"real", "double precision", "numeric", "float4", "float8"}
KINDS = {Insert: "INSERT", Update: "UPDATE", Delete: "DELETE"}


pgoutput_events = cache(uncached_pgoutput_events)


def is_format_1(name: str) -> bool:
    return "_v1_" in name


# The server's account


@each(*TRACKED)
def test_transactions_come_in_order_with_their_commit_times(name: str) -> None:
    account = expected(GROUPS[name])
    left_out = Counter(
        change["xid"] for change in account.get("changes", []) if not is_written(name, change)
    )
    wanted = [
        [xid, time, rows - left_out[xid]]
        for xid, time, rows in account["transactions"]
        if rows > left_out[xid]
    ]
    found: list[list[Any]] = []
    for event in events(name):
        match event:
            case Begin(transaction):
                found.append([transaction.xid, iso(transaction.commit_time), 0])
            case Commit(transaction):
                assert transaction.xid == found[-1][0]
            case Insert() | Update() | Delete() | Truncate() if seen_by_triggers(event):
                assert event.transaction.xid == found[-1][0]
                found[-1][2] += 1
    # pg_xact_commit_timestamp takes the origin's time of 0 for none; the WAL has it.
    zero = "2000-01-01T00:00:00.000000Z"
    times = {xid: time for xid, time, _ in wanted}
    for entry in found:
        if entry[1] == zero:
            entry[1] = times[entry[0]]
    assert [entry for entry in found if entry[2]] == wanted


def iso(time: datetime | None) -> str:
    assert time is not None
    return time.isoformat(timespec="microseconds").replace("+00:00", "Z")


def seen_by_triggers(change: Insert | Update | Delete | Truncate) -> bool:
    return not isinstance(change, Insert) or str(change.relation) != "ri.unpublished"


def is_written(name: str, change: dict[str, Any]) -> bool:
    """Say whether wal2json writes the change at all."""
    if change["operation"] == "TRUNCATE":
        return not is_format_1(name)
    # A table without replica identity.
    return change["relation"] != "ri.insert_only" or change["operation"] == "INSERT"


@each(*TRACKED)
def test_rows_by_table_and_operation(name: str) -> None:
    counts: dict[str, Counter[str]] = {}
    for change in changes(name):
        if isinstance(change, (Insert, Update, Delete)) and seen_by_triggers(change):
            counts.setdefault(str(change.relation), Counter())[KINDS[type(change)]] += 1
    assert counts == expected_counts(name)


def expected_counts(name: str) -> dict[str, Any]:
    account = expected(GROUPS[name])
    if "rows_by_table" in account:
        return account["rows_by_table"]  # type: ignore[no-any-return]
    counts: dict[str, Any] = {}
    for change in account["changes"]:
        if change["operation"] != "TRUNCATE" and is_written(name, change):
            counts.setdefault(change["relation"], Counter())[change["operation"]] += 1
    return counts


@each(*(name for name in TRACKED if GROUPS[name] != "mixed"))
def test_every_change_is_as_the_server_saw_it(name: str) -> None:
    account = [each for each in expected(GROUPS[name])["changes"] if is_written(name, each)]
    found = [
        change
        for change in changes(name)
        if not isinstance(change, LogicalMessage) and seen_by_triggers(change)
    ]
    for change, truth in zip_longest(found, account):
        match change:
            case Truncate(relations=(relation,)):
                assert truth["operation"] == "TRUNCATE"
            case Insert() | Update() | Delete():
                relation = change.relation
                assert truth["operation"] == KINDS[type(change)]
                check_row(getattr(change, "record", None), truth["new_row"])
                check_old_row(change, truth["old_row"])
            case _:
                pytest.fail(f"{change} where the server saw {truth}")
        assert (truth["relation"], truth["xid"]) == (str(relation), change.transaction.xid)


def check_row(record: Any, truth: dict[str, str | None] | None) -> None:
    if truth is None:
        assert record is None
        return
    assert set(record) == set(truth)
    for name, field in record.as_text().items():
        assert field is UNCHANGED or field == truth[name]


def check_old_row(change: Insert | Update | Delete, truth: dict[str, str | None] | None) -> None:
    old = getattr(change, "old_record", None)
    if old is None:
        return
    assert truth is not None
    assert old.as_text().items() <= truth.items()


# Their DDL cannot be followed; updates without a replica identity are not sent.
EVOLVING = ("ri.evolving", "ri.evolved", "public.evolved")
NOT_FOLLOWED = (*EVOLVING, "ri.insert_only")


@each(*(name for name in TRACKED if name != "wal2json_v1_truncate_message.bin"))
def test_applying_the_changes_gives_the_servers_final_state(name: str) -> None:
    replica = Replica()
    for event in events(name):
        if not isinstance(event, (Insert, Update, Delete)) or str(event.relation) not in EVOLVING:
            replica.apply(event)
    for table, state in expected(GROUPS[name])["state"].items():
        if table in NOT_FOLLOWED:
            continue
        found = checksums(replica.rows(table), state["columns"])
        if table == "shop.wide":
            # These two have NaN, which arrives as NULL.
            for account in (found, state):
                del account["md5"], account["columns"]["n5"], account["columns"]["f3"]
        assert (table, found) == (table, state)


@each("wal2json_v2_truncate_message.bin", "wal2json_v1_truncate_message.bin")
def test_logical_messages_are_those_that_were_written(name: str) -> None:
    """But for what stands behind a NUL, which wal2json leaves out."""
    found = [
        (each.lsn, each.transaction is not None, each.prefix, each.content)
        for each in changes(name)
        if isinstance(each, LogicalMessage)
    ]
    truth = [
        (
            LSN(0) if is_format_1(name) else LSN.parse(each["lsn"]),
            each["is_transactional"] == "true",
            each["message_prefix"],
            bytes.fromhex(each["content_hex"]).partition(b"\0")[0],
        )
        for each in expected("truncate_message_origin")["results"]
        if each.get("is_delivered") == "true"
    ]
    assert sorted(found) == sorted(truth)


@each(*(name for name, group in GROUPS.items() if group == "types"))
def test_every_value_is_what_its_output_function_writes(name: str) -> None:
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for change in changes(name):
        assert not isinstance(change, (Truncate, LogicalMessage))
        if isinstance(change, Insert):
            rows = tables.setdefault(str(change.relation), {})
            rows[change.record.text("id")] = change.record.as_text()  # type: ignore[index]
    everything = "everything" in name
    truth = expected("types")["tables"]
    assert tables.keys() == truth.keys()
    for table, columns in truth.items():
        for column, facts in columns["columns"].items():
            output = facts["text"] if facts["out"] == "as text" else facts["out"]
            for id_, text in zip(columns["ids"], output, strict=True):
                found = tables[table][str(id_)][column]
                is_number = facts["type"].partition("(")[0] in NUMBERS
                if text in SPECIAL and is_number and not everything:
                    text = None
                assert (table, column, found) == (table, column, text)


# pgoutput's changes of the same WAL


def facts(change: Change) -> tuple[Any, ...]:
    """Return what both formats carry of a change."""
    transaction = change.transaction
    head = (
        type(change),
        None if transaction is None else (transaction.xid, transaction.commit_time),
    )
    match change:
        case LogicalMessage():
            return (*head, change.prefix, change.content.partition(b"\0")[0])
        case Truncate():
            return (*head, [str(relation) for relation in change.relations])
        case _:
            records = [getattr(change, name, None) for name in ("record", "old_record")]
            texts = [None if record is None else dict(record.as_text()) for record in records]
            return (*head, str(change.relation), *texts)


def one_by_one(change: Change) -> Iterator[Change]:
    """Yield a Truncate for each of its tables, as wal2json writes it, without its options."""
    if not isinstance(change, Truncate):
        yield change
        return
    for relation in change.relations:
        yield attrs.evolve(change, relations=(relation,), cascade=False, restart_identity=False)


UNPUBLISHED = ("ri.unpublished", "tm.unpublished", "tm.truncate_unpublished")


def comparable(name: str) -> tuple[list[Change], list[Change]]:
    """Return the changes of wal2json and of pgoutput that both have, in pairs."""
    ours = []
    for change in changes(name):
        match change:
            case Truncate(relations=(relation,)) if str(relation) in UNPUBLISHED:
                continue
            case Insert(relation=relation) if str(relation) in UNPUBLISHED[:2]:
                continue
        ours.append(change)
    theirs = [
        part
        for event in pgoutput_events(PGOUTPUT[GROUPS[name]])
        if not isinstance(event, (Begin, Commit))
        for part in one_by_one(event)  # type: ignore[arg-type]
        if not (is_format_1(name) and isinstance(part, Truncate))
    ]
    assert len(ours) == len(theirs)
    return ours, theirs


@each(*GROUPS)
def test_the_changes_are_pgoutputs(name: str) -> None:
    for ours, theirs in zip(*comparable(name), strict=True):
        found, truth = facts(ours), facts(theirs)
        if found != truth:
            truth = without_what_is_not_written(name, ours, found, truth)
        assert found == truth


def without_what_is_not_written(
    name: str, ours: Change, found: tuple[Any, ...], truth: tuple[Any, ...]
) -> tuple[Any, ...]:
    """Take out of pgoutput's facts what wal2json does not write. docs/reference lists it."""
    *head, record, old = truth
    if str(ours.relation) == "ri.generated":  # type: ignore[union-attr]
        # The other way round: PostgreSQL 17's pgoutput never sends generated columns.
        record = record | {"doubled": found[-2]["doubled"]}
    if "everything" not in name and GROUPS[name] in ("types", "mixed"):
        numbers = {
            column.name
            for column in ours.relation.columns  # type: ignore[union-attr]
            if column.type_name in NUMBERS
        }
        record, old = (
            row
            and {
                name: None if name in numbers and text in SPECIAL else text
                for name, text in row.items()
            }
            for row in (record, old)
        )
    if is_format_1(name) and old is not None:
        old = {name: text for name, text in old.items() if text is not None}
    return (*head, record, old)


@each(*GROUPS)
def test_positions_are_pgoutputs(name: str) -> None:
    """Where both have the same changes in a transaction; format 1 has no commit LSN."""
    ours, theirs = comparable(name)
    # A TRUNCATE of several tables is several changes here, and none in format 1.
    truncating = {
        event.transaction.xid
        for event in pgoutput_events(PGOUTPUT[GROUPS[name]])
        if isinstance(event, Truncate)
    }
    compared = 0
    for our, their in zip(ours, theirs, strict=True):
        if our.transaction is None or our.transaction.xid not in truncating:
            compared += 1
            assert our.index == their.index
            assert is_format_1(name) or our.position == their.position
    assert compared > len(ours) / 2


@each(*GROUPS)
def test_commits_end_where_pgoutputs_do(name: str) -> None:
    theirs = {
        event.transaction.xid: event
        for event in pgoutput_events(PGOUTPUT[GROUPS[name]])
        if isinstance(event, Commit)
    }
    found = 0
    for event in events(name):
        if isinstance(event, Commit) and event.transaction.xid in theirs:
            truth = theirs[event.transaction.xid]
            assert event.end_lsn == truth.end_lsn
            if not is_format_1(name):
                assert event.transaction.commit_lsn == truth.transaction.commit_lsn
            found += 1
    assert found == len(theirs)


def same_columns(name: str, ours: Relation, theirs: Relation) -> None:
    """Compare what both formats tell of columns."""
    with_domains = "everything" in name
    known = {column.name: column for column in ours.columns}
    assert [column.name for column in theirs.columns if column.name in known] == [
        column.name for column in ours.columns if column.name != "doubled"
    ]
    for theirs_column in theirs.columns:
        column = known.get(theirs_column.name)
        if column is None or (column.name.startswith("c_domain") and not with_domains):
            continue
        assert column.type_name == theirs_column.type_name
        if column.type_schema:
            assert column.type_schema == theirs_column.type_schema
        if not column.name.startswith("c_domain"):
            # A domain's own modifier, where include-domain-data-type tells its base type.
            assert column.type_modifier == theirs_column.type_modifier
        assert column.type_oid in (0, theirs_column.type_oid)
        if with_domains:
            assert column.type_oid


@each(*GROUPS)
def test_columns_are_pgoutputs(name: str) -> None:
    for ours, theirs in zip(*comparable(name), strict=True):
        if isinstance(ours, (Insert, Update, Delete)):
            same_columns(name, ours.relation, theirs.relation)  # type: ignore[union-attr]


@each(*GROUPS)
def test_the_identity_is_pgoutputs_once_it_has_shown_itself(name: str) -> None:
    for ours, theirs in zip(*comparable(name), strict=True):
        if isinstance(ours, (Update, Delete)) and str(ours.relation) != "public.evolved":
            assert isinstance(theirs, (Update, Delete))
            assert ours.relation.key_shape.names == theirs.relation.key_shape.names
            assert ours.relation.replica_identity is theirs.relation.replica_identity


@each(*GROUPS)
def test_a_table_is_one_relation_until_it_changes(name: str) -> None:
    relations: dict[str, set[int]] = {}
    for change in changes(name):
        if isinstance(change, (Insert, Update, Delete)):
            relations.setdefault(str(change.relation), set()).add(id(change.relation))
    # Before and after the identity is known.
    counts = {table: len(ids) for table, ids in relations.items() if table != "ri.evolving"}
    assert max(counts.values()) <= 2


@pytest.mark.slow
@each(*GROUPS)
def test_where_the_stream_is_cut_does_not_matter(name: str) -> None:
    some = texts(name)
    if GROUPS[name] == "mixed":
        del some[60 if is_format_1(name) else 2000 :]
    stream = b"".join(some)
    decoded = [in_pieces(stream, size) for size in (len(stream), 1000, 7)]
    if "chunks" not in name:
        decoder = Wal2JsonDecoder()
        decoded.append([facts_of(event) for text in some for event in decoder.feed(text)])
    assert all(each == decoded[0] for each in decoded)


def in_pieces(stream: bytes, size: int) -> list[Any]:
    decoder = Wal2JsonDecoder()
    starts = range(0, len(stream), size)
    found = [
        facts_of(event)
        for start in starts
        for event in decoder.feed_chunk(stream[start : start + size])
    ]
    decoder.feed_chunk("")
    return found


def facts_of(event: Any) -> Any:
    """Return what is equal for equal events; relations are compared by identity."""
    if isinstance(event, (Begin, Commit)):
        return event
    return (facts(event), event.position, event.transaction)


def test_a_commit_time_of_an_origin_is_exact() -> None:
    times = {
        event.transaction.commit_time
        for event in events("wal2json_v2_truncate_message.bin")
        if isinstance(event, Begin) and event.transaction.origin is not None
    }
    assert datetime(2026, 1, 2, 3, 4, 5, 678901, UTC) in times
    assert datetime(2000, 1, 1, tzinfo=UTC) in times
