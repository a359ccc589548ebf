"""What is new in a stream that repeats itself after each break."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import (
    LSN,
    Begin,
    Change,
    Commit,
    LogicalMessage,
    RawRows,
    Relation,
    ReplicaIdentity,
    Transaction,
)
from realtime_core.replication.sequence import NOWHERE, Sequence

TIME = datetime(2026, 11, 24, tzinfo=UTC)


def transaction(lsn: int, changes: int) -> list[Change | Begin | Commit]:
    """A transaction whose commit record lies at ``lsn`` and takes 10 bytes."""
    which = Transaction(1, LSN(lsn), TIME)
    return [
        Begin(which),
        *(LogicalMessage(LSN(lsn - 1), "p", b"", which, index) for index in range(changes)),
        Commit(which, LSN(lsn + 10), changes),
    ]


def message(lsn: int) -> list[Change | Begin | Commit]:
    """A message that belongs to no transaction, and whose record ends there."""
    return [LogicalMessage(LSN(lsn), "p", b"", None, 0)]


def feed(
    sequence: Sequence, events: list[Change | Begin | Commit]
) -> list[Change | Begin | Commit]:
    return [event for event in events if sequence.accept(event)]


def test_what_is_repeated_after_a_break_is_dropped() -> None:
    stream = [*transaction(100, 2), *message(150), *transaction(200, 3)]
    sequence = Sequence(LSN(50))
    assert feed(sequence, stream[:7]) == stream[:7]
    sequence.resume()
    assert feed(sequence, stream) == stream[7:]
    sequence.resume()
    assert feed(sequence, stream) == []
    assert (sequence.changes, sequence.transactions, sequence.last) == (6, 2, (200, 2))


def test_a_transaction_is_open_until_its_commit_is_taken_also_after_a_break() -> None:
    sequence, stream = Sequence(LSN(50), start=(90, 0)), transaction(100, 2)
    assert not sequence.is_open
    feed(sequence, stream[:2])
    assert sequence.is_open
    sequence.resume()
    # The repetition may break off before it comes to where the first stream was.
    feed(sequence, stream[:1])
    assert sequence.is_open
    feed(sequence, stream)
    assert not sequence.is_open
    feed(sequence, message(150))
    assert not sequence.is_open


def test_a_message_counts_with_its_own_lsn() -> None:
    sequence = Sequence(LSN(50))
    feed(sequence, [*message(100), *message(140)])
    sequence.progress.acknowledge((99, 0))
    # The next record begins there.
    assert sequence.progress.flushed == 100
    # The one that was acknowledged may be repeated by a server that forgot it.
    sequence.resume()
    assert feed(sequence, [*message(100), *message(140), *message(180)]) == message(180)
    assert sequence.progress.waiting == 2


def test_a_commit_record_right_behind_a_message_is_not_taken_for_it() -> None:
    stream = [*message(100), *transaction(100, 1)]
    sequence = Sequence(LSN(50))
    assert feed(sequence, message(100)) == message(100)
    sequence.resume()
    assert feed(sequence, stream) == transaction(100, 1)
    assert feed(Sequence(LSN(50), start=(99, 0)), stream) == transaction(100, 1)


def test_a_start_within_a_transaction_leaves_its_beginning_out() -> None:
    stream = [*transaction(100, 2), *transaction(200, 3), *transaction(300, 1)]
    sequence = Sequence(LSN(50), start=(200, 0))
    assert feed(sequence, stream) == stream[6:]
    # Only the consumer knows how sure its checkpoint is.
    assert sequence.progress.flushed == 50
    sequence.progress.acknowledge((200, 0))
    assert sequence.progress.flushed == 110
    sequence.progress.acknowledge((200, 2))
    assert sequence.progress.flushed == 210


def test_all_is_done_but_what_lies_behind_the_checkpoint() -> None:
    sequence = Sequence(LSN(50), start=(200, 1), own_checkpoint=True)
    assert sequence.all_done
    feed(sequence, [*transaction(100, 2), *transaction(200, 2)])
    assert sequence.progress.waiting == 2
    assert sequence.all_done
    feed(sequence, transaction(300, 2))
    assert not sequence.all_done
    sequence.progress.acknowledge((300, 0))
    assert (sequence.all_done, sequence.progress.flushed) == (False, 201)
    sequence.progress.acknowledge((300, 1))
    assert (sequence.all_done, sequence.progress.flushed) == (True, 301)


def test_a_start_at_the_end_of_a_transaction_leaves_all_of_it_out() -> None:
    sequence = Sequence(LSN(50), start=(200, 2))
    assert feed(sequence, [*transaction(200, 3), *transaction(250, 0)]) == transaction(250, 0)
    assert sequence.last == (200, 2)
    assert Sequence(LSN(50)).last == NOWHERE


def test_an_own_checkpoint_is_never_passed() -> None:
    sequence = Sequence(LSN(50), own_checkpoint=True)
    feed(sequence, [*transaction(100, 2), *transaction(150, 0), *transaction(200, 1)])
    sequence.progress.acknowledge((100, 1))
    assert sequence.progress.flushed == 101
    sequence.progress.acknowledge((200, 0))
    assert sequence.progress.flushed == 201
    assert sequence.all_done


def test_a_place_behind_the_commit_record_does_not_hide_the_next_one() -> None:
    """In wal2json's format 1 a place's LSN is where the next commit record may begin."""
    sequence = Sequence(LSN(50), own_checkpoint=True)
    which = Transaction(1, LSN(110), TIME)
    change = LogicalMessage(LSN(90), "p", b"", which, 0)
    feed(sequence, [Begin(which), change, Commit(which, LSN(110), 1)])
    sequence.progress.acknowledge((110, 0))
    assert sequence.progress.flushed == 110


@pytest.mark.slow
@given(
    st.lists(st.tuples(st.integers(10, 1000), st.integers(-1, 4)), min_size=1, max_size=8),
    st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=8),
)
def test_every_event_is_taken_once_whatever_breaks(
    parts: list[tuple[int, int]], breaks: list[tuple[int, int]]
) -> None:
    """Each break repeats from some transaction on; each connection gets so far."""
    steps: list[list[Change | Begin | Commit]] = []
    lsn = 0
    for distance, changes in parts:
        lsn += distance + 20
        steps.append(message(lsn) if changes < 0 else transaction(lsn, changes))
    sequence = Sequence(LSN(0))
    taken: list[Change | Begin | Commit] = []
    reached = 0
    for back, length in breaks:
        # No further back than to what is there, no later than what was taken.
        first = max(reached - back % 3, 0)
        stream = [event for step in steps[first:] for event in step]
        got = feed(sequence, stream[:length])
        taken += got
        sequence.resume()
        count = sum(len(step) for step in steps[:first]) + min(length, len(stream))
        while reached < len(steps) and sum(len(s) for s in steps[: reached + 1]) <= count:
            reached += 1
    taken += feed(sequence, [event for step in steps for event in step])
    assert taken == [event for step in steps for event in step]


def odd(event: Change | Begin | Commit) -> bool:
    return not isinstance(event, LogicalMessage) or event.index % 2 == 1


def test_what_does_not_pass_is_left_out_and_counts_all_the_same() -> None:
    sequence = Sequence(LSN(50), passes=odd)
    stream = [*transaction(100, 3), *transaction(200, 1), *transaction(300, 2)]
    assert feed(sequence, stream) == [each for each in stream if odd(each)]
    assert (sequence.changes, sequence.transactions, sequence.last) == (6, 3, (300, 1))
    # A transaction is done with when what came of it is; one of which nothing came, at once.
    assert sequence.progress.flushed == 50
    sequence.progress.acknowledge((100, 1))
    assert sequence.progress.flushed == 210
    sequence.progress.acknowledge((300, 1))
    assert sequence.progress.flushed == 310


def test_a_break_within_a_transaction_repeats_nothing_that_was_left_out() -> None:
    asked = []

    def passes(event: Change | Begin | Commit) -> bool:
        asked.append(event)
        return odd(event)

    sequence = Sequence(LSN(50), passes=passes)
    stream = transaction(100, 5)
    assert feed(sequence, stream[:4]) == [stream[0], stream[2]]
    sequence.resume()
    assert feed(sequence, stream) == [stream[4], stream[6]]
    assert asked == stream[1:6]
    sequence.progress.acknowledge((100, 3))
    assert sequence.progress.flushed == 110


def test_with_a_checkpoint_of_its_own_what_was_left_out_moves_nothing() -> None:
    sequence = Sequence(LSN(50), own_checkpoint=True, passes=odd)
    feed(sequence, [*transaction(100, 1), *transaction(200, 2)])
    assert sequence.progress.flushed == 50
    sequence.progress.acknowledge((200, 1))
    assert sequence.progress.flushed == 201


def raw_rows(lsn: int, index: int, count: int) -> RawRows:
    relation = Relation(1, "public", "item", ReplicaIdentity.DEFAULT, ())
    messages = tuple(b"I%d" % number for number in range(index, index + count))
    return RawRows(Transaction(1, LSN(lsn), TIME), index, relation, messages)


def test_raw_rows_count_one_by_one() -> None:
    sequence = Sequence(LSN(50))
    which = Transaction(1, LSN(100), TIME)
    assert sequence.accept(Begin(which))
    assert sequence.accept(raw_rows(100, 0, 3))
    assert sequence.accept(raw_rows(100, 3, 2))
    assert (sequence.changes, sequence.last) == (5, (100, 4))
    sequence.accept(Commit(which, LSN(110), 5))
    assert sequence.progress.acknowledge((100, 3)) is False
    assert sequence.progress.acknowledge((100, 4)) is True
    assert sequence.progress.flushed == 110


@pytest.mark.slow
@given(
    st.integers(1, 40),
    st.lists(st.integers(1, 9), max_size=9),
    st.lists(st.integers(1, 9), max_size=40),
)
def test_repeated_raw_rows_are_left_out_wherever_they_are_cut(
    count: int, before: list[int], again: list[int]
) -> None:
    """A break may come anywhere, and behind it other rows come together than before."""

    def cut(sizes: list[int]) -> list[RawRows]:
        runs, index = [], 0
        for size in [*sizes, count]:
            size = min(size, count - index)
            if size:
                runs.append(raw_rows(100, index, size))
            index += size
        return runs

    sequence = Sequence(LSN(50))
    first = [event for event in cut(before)[: len(before)] if sequence.accept(event)]
    sequence.resume()
    second = [event for event in cut(again) if sequence.accept(event)]
    messages = [message for event in (*first, *second) for message in event.messages]
    assert messages == [b"I%d" % number for number in range(count)]
    places = [event.index for event in (*first, *second)]
    assert places == sorted(set(places))
    assert sequence.changes == count
    assert sequence.last == (100, count - 1)
