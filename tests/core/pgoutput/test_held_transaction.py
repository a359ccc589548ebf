"""Held transactions: what may come where, and what a contradiction is."""

from __future__ import annotations

import struct

import attrs
import pytest

from realtime_core import LSN, Begin, Commit, DecodeError, Insert, LogicalMessage
from realtime_core.pgoutput import (
    Assembler,
    BeginMessage,
    BeginPrepareMessage,
    ChangeDecoder,
    CommitMessage,
    CommitPreparedMessage,
    InsertMessage,
    LogicalMessageMessage,
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
from tests.pgoutput_encoder import encode

TABLE = RelationMessage(16385, "public", "t", "d", (RelationColumn(1, "id", 23, -1),))
START, STOP = StreamStartMessage(10, True), StreamStopMessage()
BEGIN = BeginPrepareMessage(LSN(100), LSN(108), 0, 10, "g")


def prepare(xid: int = 10, gid: str = "g") -> PrepareMessage:
    return PrepareMessage(0, LSN(100), LSN(108), 0, xid, gid)


def commit_prepared(xid: int = 10, gid: str = "g") -> CommitPreparedMessage:
    return CommitPreparedMessage(0, LSN(200), LSN(208), 0, xid, gid)


def rollback_prepared(xid: int = 10, gid: str = "g") -> RollbackPreparedMessage:
    return RollbackPreparedMessage(0, LSN(108), LSN(208), 0, 0, xid, gid)


def row(number: int) -> InsertMessage:
    return InsertMessage(16385, (str(number),))


def feed(*messages: Message) -> list[object]:
    assembler = Assembler()
    return [event for message in messages for event in assembler.feed(message)]


def ids(events: list[object]) -> list[object]:
    return [event.record["id"] for event in events if isinstance(event, Insert)]


@pytest.mark.parametrize(
    "before",
    [(START,), (BEGIN,)],
    ids=["in a stream block", "between Begin Prepare and Prepare"],
)
def test_a_message_that_is_not_transactional_waits_for_nobody(before: tuple[Message, ...]) -> None:
    message = LogicalMessageMessage(0, LSN(5), "app", b"now")
    assert feed(*before, message) == [LogicalMessage(LSN(5), "app", b"now", None, 0)]


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ((START, prepare()), "Prepare of 'g', transaction 10, within that of None"),
        ((BEGIN, prepare(11)), "Prepare of 'g', transaction 11, .* 'g', transaction 10"),
        ((BEGIN, prepare(gid="h")), "Prepare of 'h', transaction 10, .* 'g', transaction 10"),
        ((BEGIN, STOP), "Stream Stop within prepared transaction 'g'"),
        ((STOP,), "StreamStopMessage without its beginning"),
        ((prepare(),), "PrepareMessage without its beginning"),
        ((BEGIN, BeginMessage(LSN(1), 0, 11)), "BeginMessage within transaction 10"),
        ((BEGIN, START), "StreamStartMessage within transaction 10"),
        ((START, BEGIN), "BeginPrepareMessage within transaction 10"),
        ((START, StreamCommitMessage(10, 0, LSN(1), LSN(2), 0)), "within transaction 10"),
        ((START, StreamAbortMessage(10, 10)), "within transaction 10"),
        ((START, StreamPrepareMessage(0, LSN(1), LSN(2), 0, 10, "g")), "within transaction 10"),
        ((BEGIN, commit_prepared()), "within transaction 10"),
        ((BEGIN, rollback_prepared()), "within transaction 10"),
        ((START, STOP, START), "transaction 10 is streamed from its start again"),
        ((StreamStartMessage(10, False),), "the start of streamed transaction 10 is missing"),
        ((StreamCommitMessage(10, 0, LSN(1), LSN(2), 0),), "transaction 10, which never began"),
        ((StreamPrepareMessage(0, LSN(1), LSN(2), 0, 10, "g"),), "10, which never began"),
        (
            (BEGIN, prepare(), commit_prepared(11)),
            "'g' ends as transaction 11, but was prepared as 10",
        ),
        (
            (BEGIN, prepare(), rollback_prepared(11)),
            "'g' ends as transaction 11, but was prepared as 10",
        ),
    ],
)
def test_a_message_that_can_not_come_at_its_place_is_an_error(
    messages: tuple[Message, ...], words: str
) -> None:
    *before, last = messages
    assembler = Assembler()
    for message in before:
        assert list(assembler.feed(message)) == []
    with pytest.raises(DecodeError, match=words):
        assembler.feed(last)


@pytest.mark.parametrize("subxid", [10, 11], ids=["the transaction", "a subtransaction"])
@pytest.mark.parametrize("more", [(None, None), (LSN(150), 5)], ids=["on", "parallel"])
def test_an_abort_of_what_was_never_streamed_aborts_nothing(
    subxid: int, more: tuple[LSN | None, int | None]
) -> None:
    """PostgreSQL 18 sends it when it has found in time that a transaction is rolled back."""
    abort = StreamAbortMessage(10, subxid, *more)
    data = b"A" + struct.pack("!II", 10, subxid)
    if more != (None, None):
        data += struct.pack("!Qq", 150, 5)
    assert encode(abort) == data
    other = (
        *(
            StreamStartMessage(20, True),
            attrs.evolve(TABLE, xid=20),
            attrs.evolve(row(1), xid=20),
            STOP,
        ),
        abort,
        *(StreamStartMessage(20, False), attrs.evolve(row(2), xid=20), STOP),
        StreamCommitMessage(20, 0, LSN(300), LSN(308), 0),
        abort,
        *(BeginMessage(LSN(400), 0, 10), TABLE, row(3), CommitMessage(0, LSN(400), LSN(408), 0)),
    )
    assert ids(feed(abort, *other)) == [1, 2, 3]
    decoder = ChangeDecoder(abort_info=more != (None, None))
    found = list(decoder.decode([data, *map(encode, other)]))
    assert ids(list(found)) == [1, 2, 3]


def test_a_gid_can_be_used_again_after_its_end() -> None:
    assert ids(
        feed(
            *(BEGIN, TABLE, row(1), prepare(), commit_prepared()),
            *(BEGIN, row(2), prepare(), rollback_prepared()),
            *(BEGIN, row(3), prepare(), commit_prepared()),
        )
    ) == [1, 3]


def test_the_end_of_what_was_prepared_before_the_stream_began_has_no_rows() -> None:
    begin, commit = feed(commit_prepared())
    assert isinstance(begin, Begin)
    assert (begin.transaction.xid, begin.transaction.gid) == (10, "g")
    assert isinstance(commit, Commit)
    assert (commit.transaction, commit.end_lsn, commit.changes) == (begin.transaction, LSN(208), 0)
    assert feed(rollback_prepared()) == []
