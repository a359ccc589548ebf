import pytest

from realtime_core.lsn import LSN
from realtime_core.replication.progress import SlotProgress


def test_a_transaction_moves_the_slot_when_its_last_change_is_acknowledged() -> None:
    progress = SlotProgress(LSN(100))
    progress.transaction_ended((200, 2), LSN(210))
    assert not progress.acknowledge((200, 1))
    assert progress.flushed == 100
    assert progress.acknowledge((200, 2))
    assert progress.flushed == 210
    assert progress.written == 210


def test_acknowledging_is_cumulative_and_older_places_change_nothing() -> None:
    progress = SlotProgress()
    progress.transaction_ended((200, 0), LSN(210))
    progress.transaction_ended((300, 5), LSN(310))
    progress.transaction_ended((400, 0), LSN(410))
    assert progress.acknowledge((350, 0))
    assert progress.flushed == 310
    assert not progress.acknowledge((200, 0))
    assert progress.waiting == 1


def test_a_place_acknowledged_before_its_commit_counts_when_the_commit_comes() -> None:
    progress = SlotProgress()
    assert not progress.acknowledge((200, 1))
    progress.transaction_ended((200, 1), LSN(210))
    assert progress.flushed == 210


def test_an_empty_transaction_needs_no_acknowledgement_but_waits_its_turn() -> None:
    progress = SlotProgress()
    progress.transaction_ended((200, 0), LSN(210))
    progress.transaction_ended(None, LSN(260))
    assert progress.flushed == 0
    progress.acknowledge((200, 0))
    assert progress.flushed == 260


def test_a_keepalive_moves_an_idle_slot() -> None:
    progress = SlotProgress(LSN(100))
    progress.keepalive(LSN(5000))
    assert progress.flushed == 5000


def test_a_keepalive_never_passes_an_unacknowledged_transaction() -> None:
    progress = SlotProgress(LSN(100))
    progress.transaction_ended((200, 0), LSN(210))
    progress.keepalive(LSN(5000))
    assert progress.flushed == 100
    progress.acknowledge((200, 0))
    assert progress.flushed == 5000


def test_an_idle_hour_behind_a_slow_consumer_is_one_entry() -> None:
    progress = SlotProgress()
    progress.transaction_ended((200, 0), LSN(210))
    for wal_end in range(1000, 2000):
        progress.keepalive(LSN(wal_end))
    assert progress.entries == 1
    progress.acknowledge((200, 0))
    assert progress.flushed == 1999


def test_the_flushed_position_never_goes_back() -> None:
    progress = SlotProgress(LSN(5000))
    progress.keepalive(LSN(4000))
    assert progress.flushed == 5000
    assert progress.written == 5000


def test_many_transactions_without_changes_behind_a_slow_consumer_are_one_entry() -> None:
    progress = SlotProgress(LSN(100))
    progress.transaction_ended((200, 0), LSN(210))
    for end in range(1000, 2000):
        progress.transaction_ended(None, LSN(end))
    assert progress.entries == 1
    progress.acknowledge((200, 0))
    assert progress.flushed == 1999


def test_wal_that_only_arrived_moves_nothing() -> None:
    progress = SlotProgress(LSN(100))
    progress.arrived(LSN(500))
    progress.arrived(LSN(300))
    assert (progress.written, progress.flushed, progress.waits_for) == (500, 100, (0, -1))
    progress.transaction_ended((600, 0), LSN(610))
    assert progress.waits_for == (600, 0)
    progress.acknowledge((600, 0))
    assert progress.waits_for == (0, -1)


@pytest.mark.slow
def test_a_consumer_that_never_acknowledges_needs_no_more_memory_each_day() -> None:
    progress = SlotProgress(LSN(100))
    for lsn in range(1000, 1_000_000, 10):
        progress.transaction_ended((lsn, 0), LSN(lsn + 5))
    assert progress.entries <= 10_000
    assert progress.waiting == 99_900
    # It never passes what was not acknowledged, and loses little behind what was.
    for lsn in range(1990, 1_000_000, 990):
        progress.acknowledge((lsn, 0))
        assert lsn - 200 < progress.flushed <= lsn + 5
    progress.acknowledge((999_990, 0))
    assert progress.flushed == 999_995
    assert progress.waiting == 0
