"""Which description of a table counts when transactions overlap.

PostgreSQL says each relation again in every stream, after each Stream Abort, and to whoever
uses it after a change; it does not say again what a committed stream has said.
"""

from __future__ import annotations

import pytest

from realtime_core import LSN, Insert, UnknownRelationError
from realtime_core.pgoutput import (
    Assembler,
    BeginMessage,
    BeginPrepareMessage,
    CommitMessage,
    InsertMessage,
    Message,
    PrepareMessage,
    RelationColumn,
    RelationMessage,
    RollbackPreparedMessage,
    StreamAbortMessage,
    StreamCommitMessage,
    StreamPrepareMessage,
    StreamStartMessage,
    StreamStopMessage,
)

STOP = StreamStopMessage()


def table(*names: str, xid: int | None = None) -> RelationMessage:
    columns = tuple(RelationColumn(0, name, 25, -1) for name in names)
    return RelationMessage(16385, "public", "t", "d", columns, xid)


def row(*values: str, xid: int | None = None) -> InsertMessage:
    return InsertMessage(16385, values, xid)


def plain(lsn: int, *messages: Message) -> tuple[Message, ...]:
    return (
        BeginMessage(LSN(lsn), 0, lsn),
        *messages,
        CommitMessage(0, LSN(lsn), LSN(lsn + 8), 0),
    )


def block(xid: int, *messages: Message, first: bool = False) -> tuple[Message, ...]:
    return (StreamStartMessage(xid, first), *messages, STOP)


def commit(xid: int, lsn: int) -> StreamCommitMessage:
    return StreamCommitMessage(xid, 0, LSN(lsn), LSN(lsn + 8), 0)


def rows(*messages: Message) -> list[dict[str, object]]:
    assembler = Assembler()
    return [
        event.record.as_text()
        for message in messages
        for event in assembler.feed(message)
        if isinstance(event, Insert)
    ]


def test_what_a_stream_has_described_is_known_once_it_has_committed() -> None:
    assert rows(
        *block(10, table("a", xid=10), row("1", xid=10), first=True),
        commit(10, 100),
        *plain(200, row("2")),
    ) == [{"a": "1"}, {"a": "2"}]


def test_what_a_stream_has_described_is_not_known_to_others_before_it_commits() -> None:
    with pytest.raises(UnknownRelationError):
        rows(
            *block(10, table("a", xid=10), row("1", xid=10), first=True),
            *plain(200, row("2")),
        )


def test_what_a_rolled_back_stream_has_described_is_forgotten() -> None:
    assert rows(
        *plain(100, table("a"), row("1")),
        *block(10, table("a", "b", xid=10), row("x", "y", xid=10), first=True),
        StreamAbortMessage(10, 10),
        *plain(200, row("2")),
    ) == [{"a": "1"}, {"a": "2"}]


def test_a_newer_description_is_not_replaced_when_an_older_stream_commits() -> None:
    """As after ALTER PUBLICATION … SET TABLE t (b), which waits for nobody."""
    assert rows(
        *block(10, table("a", "b", xid=10), row("1", "x", xid=10), first=True),
        *plain(100, table("b"), row("y")),
        commit(10, 200),
        *plain(300, row("z")),
    ) == [{"b": "y"}, {"a": "1", "b": "x"}, {"b": "z"}]


def test_what_a_rolled_back_subtransaction_has_described_is_not_taken_over() -> None:
    """Its lock is gone, so another transaction alters the table before the stream commits."""
    assert rows(
        *block(10, table("a", "b", xid=11), row("1", "x", xid=11), first=True),
        StreamAbortMessage(10, 11),
        *plain(100, table("b"), row("y")),
        *block(10),
        commit(10, 200),
        *plain(300, row("z")),
    ) == [{"b": "y"}, {"b": "z"}]


def test_a_rollback_to_a_savepoint_brings_the_former_description_back() -> None:
    assert rows(
        *plain(50, table("z"), row("0")),
        *block(10, table("a", xid=10), row("1", xid=10), first=True),
        *block(10, table("a", "b", xid=11), row("2", "x", xid=11)),
        *block(10, table("a", "b", "c", xid=12), row("3", "x", "y", xid=12)),
        StreamAbortMessage(10, 12),
        StreamAbortMessage(10, 11),
        *block(10, row("4", xid=10)),
        commit(10, 100),
        *plain(200, row("5")),
    ) == [{"z": "0"}, {"a": "1"}, {"a": "4"}, {"a": "5"}]


def test_a_subtransaction_that_describes_twice_is_forgotten_twice() -> None:
    with pytest.raises(UnknownRelationError):
        rows(
            *block(10, table("a", xid=11), table("a", "b", xid=12), first=True),
            *block(10, table("a", "b", "c", xid=11)),
            StreamAbortMessage(10, 12),
            StreamAbortMessage(10, 11),
            *block(10, row("1", xid=10)),
        )


def test_a_stream_uses_what_was_described_to_everybody_until_it_is_told_otherwise() -> None:
    assert rows(
        *plain(100, table("a"), row("1")),
        *block(10, row("2", xid=10), first=True),
        commit(10, 200),
    ) == [{"a": "1"}, {"a": "2"}]


def test_what_a_prepared_transaction_has_described_is_known_to_all() -> None:
    """It is no stream: PostgreSQL says it once."""
    begin = BeginPrepareMessage(LSN(100), LSN(108), 0, 10, "g")
    prepare = PrepareMessage(0, LSN(100), LSN(108), 0, 10, "g")
    rollback = RollbackPreparedMessage(0, LSN(108), LSN(208), 0, 0, 10, "g")
    assert rows(begin, table("a"), row("1"), prepare, rollback, *plain(300, row("2"))) == [
        {"a": "2"}
    ]


def test_what_a_prepared_stream_has_described_is_not_taken_over() -> None:
    """PostgreSQL says it again, whether it commits or not."""
    prepare = StreamPrepareMessage(0, LSN(100), LSN(108), 0, 10, "g")
    rollback = RollbackPreparedMessage(0, LSN(108), LSN(208), 0, 0, 10, "g")
    assert rows(
        *plain(50, table("z"), row("0")),
        *block(10, table("a", "b", xid=10), row("1", "x", xid=10), first=True),
        prepare,
        rollback,
        *plain(300, row("2")),
    ) == [{"z": "0"}, {"z": "2"}]
