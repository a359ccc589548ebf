"""RawDecoder: the frames decoded, the rows as they came. Encoder: all of it as messages again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from typing import Any

import attrs
import pytest

from realtime_core import (
    LSN,
    Begin,
    Commit,
    ConfigError,
    DecodeError,
    Event,
    Gap,
    GapReason,
    Insert,
    LogicalMessage,
    Position,
    RawRows,
    Relation,
    StreamIdentity,
    Transaction,
    Truncate,
    TruncatedMessageError,
    UnknownRelationError,
)
from realtime_core.pgoutput import (
    BeginMessage,
    ChangeDecoder,
    CommitMessage,
    Encoder,
    InsertMessage,
    LogicalMessageMessage,
    Message,
    OriginMessage,
    RawDecoder,
    RelationColumn,
    RelationMessage,
    StreamCommitMessage,
    StreamStartMessage,
    StreamStopMessage,
    TruncateMessage,
    TypeMessage,
    encode_relation,
)
from tests.core.captures import find, payloads, read
from tests.pgoutput_encoder import encode

STREAM = StreamIdentity(7, 1, ("shop",))
BEGIN = BeginMessage(LSN(100), 5, 700)
COMMIT = CommitMessage(0, LSN(100), LSN(120), 5)
BEGIN_2 = BeginMessage(LSN(200), 6, 701)
COMMIT_2 = CommitMessage(0, LSN(200), LSN(220), 6)


def described(oid: int = 1, name: str = "item", xid: int | None = None) -> RelationMessage:
    return RelationMessage(oid, "public", name, "d", (RelationColumn(1, "id", 23, -1),), xid)


def row(text: str, oid: int = 1, xid: int | None = None) -> InsertMessage:
    return InsertMessage(oid, (text,), xid)


def decode(*messages: Message, **options: Any) -> list[Event | RawRows]:
    return list(RawDecoder(STREAM, **options).decode(map(encode, messages)))


def runs(events: Iterable[object]) -> list[tuple[str, int, tuple[bytes, ...]]]:
    return [
        (event.relation.table, event.index, event.messages)
        for event in events
        if isinstance(event, RawRows)
    ]


def bytes_of(*texts: str, oid: int = 1) -> tuple[bytes, ...]:
    return tuple(encode(row(text, oid)) for text in texts)


def test_rows_of_a_table_come_together_with_the_place_of_the_first() -> None:
    events = decode(
        *(BEGIN, described(), described(2, "more"), row("1"), row("2"), row("3", 2), row("4")),
        COMMIT,
    )
    begin, first, second, third, commit = events
    assert isinstance(begin, Begin)
    transaction = begin.transaction
    assert transaction == Transaction(
        700, LSN(100), datetime(2000, 1, 1, 0, 0, 0, 5, UTC), stream=STREAM
    )
    assert runs(events) == [
        ("item", 0, bytes_of("1", "2")),
        ("more", 2, bytes_of("3", oid=2)),
        ("item", 3, bytes_of("4")),
    ]
    assert isinstance(first, RawRows)
    assert isinstance(second, RawRows)
    assert isinstance(third, RawRows)
    assert first.position == Position(LSN(100), 1, STREAM)
    assert third.relation is first.relation
    assert commit == Commit(transaction, LSN(120), 4)


def test_no_more_rows_come_together_than_are_asked_for() -> None:
    rows = [row(str(number)) for number in range(5)]
    events = decode(BEGIN, described(), *rows, COMMIT, max_rows=2)
    assert [(index, len(messages)) for _, index, messages in runs(events)] == [
        (0, 2),
        (2, 2),
        (4, 1),
    ]
    for wrong in (0, -1):
        with pytest.raises(ConfigError, match="max_rows is a number of rows above 0"):
            RawDecoder(max_rows=wrong)


def test_a_relation_that_is_described_anew_is_another_one() -> None:
    wider = RelationMessage(
        *(1, "public", "item", "d"),
        (RelationColumn(1, "id", 23, -1), RelationColumn(0, "name", 25, -1)),
    )
    wide = InsertMessage(1, ("2", "two"))
    events = decode(BEGIN, described(), row("1"), wider, wide, wide, COMMIT)
    first, second = (event for event in events if isinstance(event, RawRows))
    assert [column.name for column in first.relation.columns] == ["id"]
    assert [column.name for column in second.relation.columns] == ["id", "name"]
    assert second.messages == (encode(wide), encode(wide))


def test_rows_of_streamed_transactions_come_without_their_xid() -> None:
    events = decode(
        *(
            StreamStartMessage(700, True),
            described(xid=700),
            row("1", xid=700),
            StreamStopMessage(),
        ),
        *(BEGIN_2, described(), row("9"), COMMIT_2),
        *(StreamStartMessage(700, False), row("2", xid=705), StreamStopMessage()),
        StreamCommitMessage(700, 0, LSN(300), LSN(320), 7),
    )
    assert runs(events) == [("item", 0, bytes_of("9")), ("item", 0, bytes_of("1", "2"))]
    assert [type(event) for event in events[3:]] == [Begin, RawRows, Commit]


def test_held_rows_come_together_up_to_64_kib() -> None:
    """All of a held transaction is there at once, so what comes together needs a bound."""
    long = "x" * 30_000
    rows = [row(long, xid=700) for _ in range(5)] + [row(long * 4, xid=700)]
    events = decode(
        *(StreamStartMessage(700, True), described(xid=700), *rows, StreamStopMessage()),
        StreamCommitMessage(700, 0, LSN(300), LSN(320), 7),
        max_memory=0,
    )
    assert [(index, len(messages)) for _, index, messages in runs(events)] == [
        *((0, 2), (2, 2), (4, 1), (5, 1))
    ]


def test_rows_before_an_error_are_handed_over() -> None:
    decoder = RawDecoder()
    events = decoder.decode(map(encode, (BEGIN, described(), row("1"), row("2", oid=9))))
    assert isinstance(next(events), Begin)
    assert runs([next(events)]) == [("item", 0, bytes_of("1"))]
    with pytest.raises(UnknownRelationError):
        next(events)
    with pytest.raises(DecodeError, match="met an error before"):
        list(decoder.decode([encode(row("3"))]))


def test_rows_before_an_error_of_the_payloads_are_handed_over() -> None:
    def broken() -> Iterator[bytes]:
        yield from map(encode, (BEGIN, described(), row("1")))
        raise DecodeError("no CopyData")

    events = RawDecoder().decode(broken())
    next(events)
    assert runs([next(events)]) == [("item", 0, bytes_of("1"))]
    with pytest.raises(DecodeError, match="no CopyData"):
        next(events)


@pytest.mark.parametrize(
    ("messages", "error", "words"),
    [
        ([encode(described()), encode(row("1"))], DecodeError, "outside of a transaction"),
        ([encode(BEGIN), b"I\0\0"], TruncatedMessageError, "ends after 3 bytes"),
        (
            [encode(StreamStartMessage(7, True)), b"I\0\0\0\1\0\0"],
            TruncatedMessageError,
            "ends after 7 bytes",
        ),
        ([encode(BEGIN), b""], TruncatedMessageError, "empty"),
        ([encode(BEGIN), encode(row("1"))], UnknownRelationError, "1"),
    ],
)
def test_a_row_that_cannot_be_is_an_error(
    messages: list[bytes], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        list(RawDecoder().decode(messages))


def test_other_changes_are_what_they_always_are() -> None:
    message = LogicalMessageMessage(1, LSN(90), "app", b"\0x")
    alone = LogicalMessageMessage(0, LSN(95), "now", b"y")
    events = decode(
        *(BEGIN, OriginMessage(LSN(1), "far"), described(), message, row("1"), alone),
        *(TruncateMessage(3, (1,)), COMMIT),
    )
    begin, first, rows, second, truncate, commit = events
    assert isinstance(begin, Begin)
    assert begin.transaction.origin == "far"
    assert isinstance(first, LogicalMessage)
    assert isinstance(second, LogicalMessage)
    assert isinstance(truncate, Truncate)
    assert isinstance(rows, RawRows)
    assert isinstance(commit, Commit)
    assert (first.index, rows.index, truncate.index, commit.changes) == (0, 1, 2, 3)
    assert second.transaction is None


# Written again


def written(events: Iterable[Any]) -> list[bytes]:
    encoder = Encoder()
    return [message for event in events for message in encoder.encode(event)]


def test_messages_are_written_as_postgresql_writes_them() -> None:
    messages = [
        BEGIN,
        OriginMessage(LSN(0), "far"),
        TypeMessage(16500, "public", "mood"),
        RelationMessage(
            *(1, "public", "ünï", "f"),
            (RelationColumn(1, "id", 23, -1), RelationColumn(1, "mood", 16500, 7)),
        ),
        InsertMessage(1, ("1", None)),
        InsertMessage(1, ("2", "sad")),
        LogicalMessageMessage(1, LSN(90), "app", b"\0x"),
        LogicalMessageMessage(0, LSN(95), "now", b""),
        TruncateMessage(2, (1,)),
        COMMIT,
        BEGIN_2,
        InsertMessage(1, ("3", "glad")),
        COMMIT_2,
    ]
    assert written(decode(*messages)) == [encode(message) for message in messages]


def test_relations_of_a_truncate_are_described_too() -> None:
    messages = [BEGIN, described(), described(2, "more"), TruncateMessage(1, (1, 2)), COMMIT]
    assert written(decode(*messages)) == [encode(message) for message in messages]


def test_what_has_no_message_is_refused() -> None:
    encoder = Encoder()
    place = Position(LSN(1), 0)
    with pytest.raises(TypeError, match="Gap has no pgoutput message"):
        encoder.encode(Gap(None, place, GapReason.SLOT_MOVED))  # type: ignore[arg-type]
    change = next(
        event
        for event in ChangeDecoder().decode(map(encode, (BEGIN, described(), row("1"))))
        if isinstance(event, Insert)
    )
    with pytest.raises(TypeError, match="Insert has no"):
        encoder.encode(change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="transaction 5 has no commit time"):
        encoder.encode(Begin(Transaction(5, LSN(1), None)))


# Captured streams

CAPTURES = [
    name
    for name, facts in json.loads(read("manifest.json")).items()
    if facts["plugin"] == "pgoutput" and "copydata" not in name and find(name) is not None
]


def facts(event: Event) -> tuple[object, ...]:
    """Return all of an event: of its relations what was described, not which object it is."""
    values = {field.name: getattr(event, field.name) for field in attrs.fields(type(event))}
    relations = [*values.pop("relations", ()), *filter(None, [values.pop("relation", None)])]
    if (transaction := values.get("transaction")) is not None:
        values["transaction"] = attrs.evolve(transaction, gid=None)
    return type(event), [_facts(relation) for relation in relations], values


def _facts(relation: Relation) -> tuple[object, ...]:
    return (
        *(relation.oid, relation.schema, relation.table, relation.replica_identity),
        relation.columns,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", CAPTURES)
def test_a_capture_written_again_is_the_same_changes(name: str) -> None:
    parallel = "parallel" in name
    again = ChangeDecoder(STREAM).decode(
        written(RawDecoder(STREAM, abort_info=parallel).decode(payloads(name)))
    )
    changes = ChangeDecoder(STREAM, abort_info=parallel).decode(payloads(name))
    assert list(map(facts, again)) == list(map(facts, changes))


# In a stream block a description carries an xid.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in CAPTURES if "stream" not in name or "reference" in name]
)
def test_descriptions_of_a_capture_are_written_as_they_came(name: str) -> None:
    """They are compared by their bytes, to tell whether a relation has changed."""
    came = {payload for payload in payloads(name) if payload[:1] in (b"R", b"Y")}
    wrote = {
        message
        for event in RawDecoder(abort_info="parallel" in name).decode(payloads(name))
        if isinstance(event, RawRows)
        for message in encode_relation(event.relation)
    }
    assert wrote <= came
