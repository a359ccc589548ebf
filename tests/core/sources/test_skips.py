"""Skips: up to where what PostgreSQL 18 leaves out is old news, to the byte."""

from __future__ import annotations

from datetime import UTC, datetime

from realtime_core import LSN, Begin, Commit, LogicalMessage, Transaction
from realtime_core.replication.sequence import Sequence
from realtime_core.sources._skips import Skips

END = LSN(1000)


def transaction(lsn: int) -> Transaction:
    return Transaction(700, LSN(lsn), datetime(2026, 11, 24, tzinfo=UTC))


def begin_skips() -> tuple[Skips, Sequence]:
    skips = Skips()
    skips.begin(END)
    return skips, Sequence(LSN(0))


def test_what_commits_before_the_end_is_taken_and_what_commits_at_it_comes_again() -> None:
    skips, sequence = begin_skips()
    accept = skips.accepting(sequence)
    assert accept(Begin(transaction(999)))
    assert accept(Commit(transaction(999), LSN(1000), 0))
    assert not skips.passed
    assert not accept(Begin(transaction(1000)))
    assert not accept(Commit(transaction(1000), LSN(1010), 0))
    assert skips.passed
    skips.end()
    assert (skips.floor, skips.until, skips.passed) == (END, None, False)
    # Nothing of it was taken.
    accept = skips.accepting(sequence)
    assert accept(Begin(transaction(1000)))


def test_a_message_without_a_transaction_has_the_last_byte_of_its_record() -> None:
    skips, sequence = begin_skips()
    accept = skips.accepting(sequence)
    assert accept(LogicalMessage(END, "p", b"ends there", None, 0))
    assert not skips.passed
    assert not accept(LogicalMessage(LSN(END + 40), "p", b"begins there", None, 0))
    assert skips.passed


def test_a_keepalive_from_behind_the_end_moves_nothing() -> None:
    skips, _ = begin_skips()
    assert skips.keepalive(LSN(999))
    assert not skips.passed
    assert not skips.keepalive(END)
    assert skips.passed
    skips.end()
    assert skips.keepalive(END)


def test_as_long_as_nothing_is_skipped_it_is_in_nobodys_way() -> None:
    skips, sequence = Skips(), Sequence(LSN(0))
    assert skips.accepting(sequence) == sequence.accept
    assert skips.keepalive(END)
    assert skips.floor == 0
