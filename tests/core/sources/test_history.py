"""StreamHistory: which events are new, where gaps begin, and what may be acknowledged."""

from __future__ import annotations

from typing import Any

import attrs
import pytest

from realtime_core import (
    LSN,
    Begin,
    Commit,
    GapReason,
    Position,
    PositionMismatchError,
    StreamIdentity,
    Transaction,
    Truncate,
)
from realtime_core.sources._attach import AttachedStream
from realtime_core.sources._history import StreamHistory
from realtime_core.sources._meter import Meter

STREAM = StreamIdentity(7, 1, ("shop",))
OTHER = StreamIdentity(8, 1, ("shop",))


def history(start_at: Position | None = None, meter: Meter | None = None) -> StreamHistory:
    own_checkpoint, meter = start_at is not None, meter or Meter()
    return StreamHistory(start_at, own_checkpoint=own_checkpoint, passes=None, meter=meter)


def attachment(
    start: int, reason: GapReason | None = None, stream: StreamIdentity = STREAM
) -> AttachedStream:
    connection: Any = None
    return AttachedStream(connection, stream, LSN(start), reason, None, 60.0, "shop", {})


def take(history: StreamHistory, lsn: int) -> Truncate | None:
    """Take a transaction with one change; return the change if it is new."""
    transaction = Transaction(1, LSN(lsn), None, stream=history.stream)
    change = Truncate(transaction, 0, (), cascade=False, restart_identity=False)
    accept = history.sequence.accept
    accept(Begin(transaction))
    is_new = accept(change)
    accept(Commit(transaction, LSN(lsn + 5), 1))
    return change if is_new else None


def test_who_watches_is_shown_each_new_change_once_also_those_that_do_not_pass() -> None:
    ours = StreamHistory(None, own_checkpoint=False, passes=lambda _: False, meter=Meter())
    ours.attached(attachment(100))
    shown: list[Any] = []
    ours.watch = shown.append
    for _ in range(2):
        accept = ours.accepting(ours.sequence)
        for lsn in (110, 120):
            transaction = Transaction(1, LSN(lsn), None, stream=ours.stream)
            accept(Begin(transaction))
            assert not accept(Truncate(transaction, 0, (), cascade=False, restart_identity=False))
            accept(Commit(transaction, LSN(lsn + 5), 1))
        ours.attached(attachment(100))
    assert [change.transaction.commit_lsn for change in shown] == [110, 120]


def test_before_the_first_connection_there_is_nothing_to_go_on_with() -> None:
    assert history().resume_point() is None


def test_what_a_new_connection_repeats_is_not_new() -> None:
    ours = history()
    assert ours.attached(attachment(100)) is None
    assert take(ours, 110) is not None
    assert ours.attached(attachment(100)) is None
    assert take(ours, 110) is None
    assert take(ours, 120) is not None
    point = ours.resume_point()
    assert point is not None
    assert (point.stream, point.last, point.acknowledged) == (STREAM, (120, 0), LSN(100))


def test_a_gap_counts_before_it_is_asked_for() -> None:
    """A consumer that waits for something else may ask for it much later."""
    meter = Meter()
    ours = history(meter=meter)
    ours.attached(attachment(100))
    gap = ours.attached(attachment(200, GapReason.SLOT_MOVED))
    assert meter.gaps == 1
    assert gap is not None
    assert len(list(gap)) == 1
    assert meter.gaps == 1


def test_a_gap_begins_behind_what_is_taken_before_it_is_asked_for() -> None:
    """What was read from the last connection may be decoded only when there is another one."""
    ours = history()
    ours.attached(attachment(100))
    former = ours.sequence
    take(ours, 110)
    gap = ours.attached(attachment(200, GapReason.SLOT_MOVED))
    assert gap is not None
    transaction = Transaction(2, LSN(120), None, stream=STREAM)
    assert former.accept(Truncate(transaction, 0, (), cascade=False, restart_identity=False))
    (told,) = gap
    assert told.after == Position(LSN(120), 0, STREAM)
    assert told.until == Position(LSN(200), 0, STREAM)
    assert told.reason is GapReason.SLOT_MOVED


def test_behind_a_gap_nothing_is_a_repetition() -> None:
    ours = history()
    ours.attached(attachment(100))
    take(ours, 110)
    ours.attached(attachment(50, GapReason.OTHER_CLUSTER, OTHER))
    change = take(ours, 60)
    assert change is not None
    assert change.position == Position(LSN(60), 0, OTHER)


def test_a_position_of_a_former_stream_acknowledges_nothing() -> None:
    ours = history()
    ours.attached(attachment(100))
    ours.attached(attachment(50, GapReason.OTHER_CLUSTER, OTHER))
    assert ours.place_of(Position(LSN(110), 0, STREAM)) is None
    assert ours.place_of(Position(LSN(60), 3, OTHER)) == (60, 3)


def test_a_position_of_a_former_timeline_acknowledges_nothing_behind_a_gap() -> None:
    ours = history()
    ours.attached(attachment(100))
    promoted = attrs.evolve(STREAM, timeline=2)
    ours.attached(attachment(100, GapReason.NEW_TIMELINE, promoted))
    assert ours.place_of(Position(LSN(110), 0, STREAM)) is None
    assert ours.place_of(Position(LSN(110), 0, promoted)) == (110, 0)


def test_a_position_of_a_stream_that_was_never_read_is_refused() -> None:
    ours = history()
    ours.attached(attachment(100))
    for stream in (None, OTHER):
        with pytest.raises(PositionMismatchError, match="this source streams 7"):
            ours.place_of(Position(LSN(110), 0, stream))


def test_a_checkpoint_of_another_list_of_publications_may_be_acknowledged() -> None:
    start = Position(LSN(110), 4, attrs.evolve(STREAM, publications=("all",)))
    ours = history(start)
    ours.attached(attachment(100))
    assert ours.place_of(start) == ours.handed_over(None) == (110, 4)
    assert ours.handed_over(Position(LSN(120), 0, STREAM)) == (120, 0)
    assert take(ours, 105) is None
    assert take(ours, 120) is not None
    # On another timeline its LSN may lie behind all changes.
    promoted = attrs.evolve(STREAM, timeline=2)
    ours.attached(attachment(100, GapReason.NEW_TIMELINE, promoted))
    assert ours.place_of(start) is None


def test_a_gap_at_the_start_begins_at_the_checkpoint() -> None:
    ours = history(Position(LSN(110), 4, None))
    gap = ours.attached(attachment(200, GapReason.START_BEHIND_SLOT))
    assert gap is not None
    (told,) = gap
    assert told.after == Position(LSN(110), 4, STREAM)
