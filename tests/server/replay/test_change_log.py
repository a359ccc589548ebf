"""The log of changes: what is read is what was appended, within its bounds."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import (
    LSN,
    UNCHANGED,
    Begin,
    Commit,
    Delete,
    Event,
    Gap,
    GapReason,
    Insert,
    LogicalMessage,
    Position,
    Record,
    ReplicaIdentity,
    StreamIdentity,
    Transaction,
    Truncate,
    Update,
)
from realtime_core.positions import LAST_INDEX
from realtime_server.replay.change_log import ChangeLog
from realtime_server.replay.places import BEFORE, Place, place_of
from realtime_server.replay.segments import pack, unpack

from ...server_helpers import make_relation

TODOS = make_relation()
FULL = make_relation(table="full", identity=ReplicaIdentity.FULL, oid=16400)
ALTERED = make_relation(columns=(("id", "int8", True), ("done", "bool", False)))
STREAM = StreamIdentity(7, 1, ("shop",))
NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
GAP = Gap(None, Position(LSN(0)), GapReason.WAL_REMOVED)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def make_log(
    *, max_bytes: int = 1 << 30, window: float = 300.0, clock: Clock | None = None
) -> ChangeLog:
    return ChangeLog(max_bytes=max_bytes, window=window, clock=clock or Clock())


def transaction(lsn: int, changes: int = 1, text: str = "x") -> list[Event]:
    """Return a transaction that inserts rows."""
    one = Transaction(lsn, LSN(lsn), NOON, None, STREAM)
    rows = [
        Insert(one, index, TODOS, Record(TODOS.shape, (str(lsn), f"{text}{index}")))
        for index in range(changes)
    ]
    return [Begin(one), *rows, Commit(one, LSN(lsn + 8), changes)]


def changes_of(events: Sequence[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, Begin | Commit | LogicalMessage)]


def everything(log: ChangeLog, after: Place | None = None) -> list[Event]:
    found: list[Event] = []
    place = log.floor if after is None else after
    while True:
        events, place = log.read(place, 1 << 30)
        if not events:
            return found
        found += events


# What is read


def test_what_is_behind_a_place_is_read_in_steps() -> None:
    log = make_log()
    events = [*transaction(16, 3), *transaction(32, 2)]
    log.append(events)
    rows = changes_of(events)
    assert log.end == (32, LAST_INDEX)
    assert log.read(BEFORE, 2) == (rows[:2], (16, 1))
    assert log.read((16, 1), 2) == (rows[2:4], (32, 0))
    assert log.read((16, 1), 3) == (rows[2:], (32, LAST_INDEX))
    assert log.read((32, 0), 2) == (rows[4:], (32, LAST_INDEX))
    assert log.read((32, LAST_INDEX), 2) == ([], (32, LAST_INDEX))


def test_a_read_ends_at_the_place_that_it_is_told() -> None:
    log = make_log()
    events = [*transaction(16, 3), *transaction(32, 2)]
    log.append(events)
    rows = changes_of(events)
    assert log.read(BEFORE, 9, (16, 1)) == (rows[:2], (16, 1))
    assert log.read(BEFORE, 9, (20, 0)) == (rows[:3], (20, 0))
    assert log.read((20, 0), 9, (99, 0)) == (rows[3:], (32, LAST_INDEX))


def test_a_read_ends_when_it_has_enough_bytes_and_has_one_change_at_least() -> None:
    log = make_log()
    events = transaction(16, 5, "x" * 10_000)
    log.append(events)
    rows = changes_of(events)
    assert log.read(BEFORE, 9, most_bytes=1) == (rows[:1], (16, 0))
    assert log.read(BEFORE, 9, most_bytes=15_000) == (rows[:2], (16, 1))


def test_messages_are_not_kept_and_leave_the_end_where_it_is() -> None:
    """Nobody gets them. If they moved the end, each record of the journal would be followed by one
    that says that all clients have the one before."""
    log = make_log()
    message = LogicalMessage(LSN(300), "app", b"x", None, 0)
    log.append([message])
    assert (log.end, everything(log)) == (BEFORE, [])
    log.append([*transaction(400), LogicalMessage(LSN(500), "app", b"x", None, 0)])
    assert log.end == (400, LAST_INDEX)
    log.append(transaction(600))
    assert log.epoch == 0
    assert everything(log) == changes_of([*transaction(400), *transaction(600)])


def test_a_message_shows_that_the_stream_is_another_one() -> None:
    log = make_log()
    log.append(transaction(900))
    log.append([GAP, LogicalMessage(LSN(300), "app", b"x", None, 0)])
    assert log.epoch == 1
    log.append(transaction(400))
    assert everything(log) == changes_of(transaction(400))


def test_gaps_lie_in_their_place() -> None:
    log = make_log()
    before, behind = transaction(16, 2), transaction(32)
    log.append([*before, GAP])
    end = log.end
    log.append([GAP])
    log.append(behind)
    assert (16, LAST_INDEX) < end < (32, 0)
    assert everything(log, BEFORE) == [*changes_of(before), GAP, GAP, *changes_of(behind)]
    # Whoever has all that was before the gap has still to be told of it, and only once.
    assert log.read((16, LAST_INDEX), 1) == ([GAP], end)
    assert everything(log, end) == [GAP, *changes_of(behind)]


def test_a_gap_lies_behind_the_messages_before_it() -> None:
    log = make_log()
    log.append([*transaction(16), LogicalMessage(LSN(300), "app", b"x", None, 0)])
    log.append([GAP, *transaction(400)])
    # The journal may have told that a client has everything up to the message.
    assert everything(log, (300, -1)) == [GAP, *changes_of(transaction(400))]


def test_a_gap_is_read_by_itself() -> None:
    log = make_log()
    before, behind = transaction(16, 2), transaction(32, 2)
    log.append([*before, GAP, *behind])
    rows, place = log.read(BEFORE, 9)
    assert (rows, place) == (changes_of(before), (16, 1))
    told, place = log.read(place, 9)
    assert (told, place) == ([GAP], (16, LAST_INDEX, 1))
    assert log.read(place, 9) == (changes_of(behind), (32, LAST_INDEX))
    # Whoever joins a round before the gap waits for it there, and not behind it.
    assert log.read(BEFORE, 9, (16, LAST_INDEX)) == (rows, (16, 1))
    assert log.read((16, 1), 9, (16, LAST_INDEX)) == ([], (16, LAST_INDEX))


def test_a_place_before_the_floor_has_lost_changes() -> None:
    clock = Clock()
    log = make_log(clock=clock)
    log.append(transaction(16))
    clock.now += 1
    log.append(transaction(32))
    log.trim((16, 0))
    assert log.floor == (16, 0)
    with pytest.raises(ValueError, match="begins at"):
        log.read(BEFORE, 9)


def test_a_stream_that_goes_backwards_is_another_one() -> None:
    log = make_log()
    log.append(transaction(64))
    log.append([GAP])
    assert log.epoch == 0
    behind = transaction(32)
    log.append(behind)
    assert (log.epoch, log.floor, log.end) == (1, (32, -1), (32, LAST_INDEX))
    assert everything(log) == changes_of(behind)


def test_gap_and_greater_places_keep_the_epoch() -> None:
    log = make_log()
    log.append([*transaction(16), GAP, *transaction(32)])
    assert log.epoch == 0


# What is kept


def test_nothing_is_kept_that_nobody_needs() -> None:
    log = make_log()
    for lsn in range(16, 1600, 16):
        log.append(transaction(lsn))
        log.trim(log.end)
        assert (log.bytes, log.seconds) == (0, 0.0)
    assert log.end == (1584, LAST_INDEX)


@pytest.mark.slow
def test_changes_are_packed_in_steps_when_somebody_has_long_been_away() -> None:
    clock = Clock()
    log = make_log(clock=clock)
    events: list[Event] = []

    def append(lsn: int) -> int:
        """Return how many bytes more the log takes."""
        before = log.bytes
        events.extend(some := transaction(lsn))
        log.append(some)
        return log.bytes - before

    for lsn in range(16, 16 * 5001, 16):
        assert append(lsn) > 500
    clock.now += 60
    # Clients that are there need no more than this. Nothing is packed for them.
    assert append(90_000) > 500
    clock.now += 10
    for lsn in (100_000, 110_000):
        assert -2000 * 500 < append(lsn) < -2000 * 400
    append(120_000)
    assert log.bytes < 5010 * 100
    assert everything(log, BEFORE) == changes_of(events)


def test_nothing_is_packed_that_is_given_up_within_a_minute() -> None:
    clock = Clock()
    log = make_log(clock=clock)
    ends: list[Place] = []
    for lsn in range(16, 16 * 5001, 16):
        clock.now += 0.02
        log.append(transaction(lsn))
        ends.append(log.end)
        if len(ends) > 2500:
            # Each client has everything up to 50 seconds ago.
            log.trim(ends[-2500])
    assert log.bytes > 2500 * 500


def test_objects_beyond_their_part_of_the_bytes_are_packed_at_once() -> None:
    log = make_log(max_bytes=4_000_000)
    for lsn in range(16, 16 * 5001, 16):
        log.append(transaction(lsn))
        assert log.bytes < 1_500_000
    assert len(everything(log, BEFORE)) == 5000


@pytest.mark.slow
def test_small_batches_that_come_together_take_no_more_than_their_changes() -> None:
    """Whatever is kept of a batch besides its changes is kept for many batches."""
    log = make_log()
    batches = [transaction(lsn) for lsn in range(16, 16 * 10_001, 16)]
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for batch in batches:
            log.append(batch)
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert grown < 40 * len(batches)


@pytest.mark.slow
def test_the_oldest_are_given_up_beyond_the_bound_in_bytes() -> None:
    log = make_log(max_bytes=500_000)
    events: list[Event] = []
    for lsn in range(16, 16 * 20_001, 16):
        events += (some := transaction(lsn))
        log.append(some)
        assert log.bytes <= 500_000
    kept = everything(log)
    assert 2000 < len(kept) < 20_000
    assert kept == changes_of(events)[-len(kept) :]


@pytest.mark.slow
def test_a_transaction_larger_than_the_log_leaves_a_floor_within_it() -> None:
    log = make_log(max_bytes=100_000)
    events = transaction(16, 10_000)
    for at in range(0, len(events), 100):
        log.append(events[at : at + 100])
    assert (16, 0) < log.floor < (16, 9999)
    rows = changes_of(events)
    assert everything(log) == rows[log.floor[1] + 1 :]


def test_one_change_larger_than_the_log_is_not_kept() -> None:
    log = make_log(max_bytes=100_000)
    log.append(transaction(16, text="x" * 1_000_000))
    assert (log.bytes, log.floor, log.end) == (0, (16, 0), (16, LAST_INDEX))


def test_changes_older_than_the_window_are_given_up() -> None:
    clock = Clock()
    log = make_log(window=60.0, clock=clock)
    log.append(transaction(16))
    clock.now += 40
    log.append(some := transaction(32))
    assert log.seconds == 40
    clock.now += 30
    log.trim(BEFORE)
    assert (log.floor, log.seconds) == ((16, 0), 30)
    assert everything(log) == changes_of(some)


@pytest.mark.slow
def test_few_segments_are_unpacked_at_a_time() -> None:
    clock = Clock()
    log = make_log(clock=clock)
    events: list[Event] = []
    for lsn in range(1, 20_001):
        log.append(some := transaction(lsn))
        events += some
        clock.now += 0.01
    rows = changes_of(events)
    place: Place = BEFORE
    count = 0
    tracemalloc.start()
    try:
        while place < log.end:
            found, place = log.read(place, 500)
            assert found == rows[count : count + len(found)]
            count += len(found)
        found.clear()
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == 20_000
    # Of 20, which would take more than 10 MB.
    assert kept < 5_000_000


# Packing


AT_THREE = datetime(2026, 11, 24, 15, tzinfo=timezone(timedelta(hours=3)))
TRANSACTIONS = st.builds(
    Transaction,
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**64 - 1).map(LSN),
    st.none()
    | st.just(AT_THREE)
    | st.datetimes(timezones=st.just(UTC), max_value=datetime(9999, 12, 31)),
    st.none() | st.text(),
    st.none() | st.just(STREAM),
    st.none() | st.text(),
)
FIELDS = st.none() | st.text() | st.binary() | st.just(UNCHANGED)


@st.composite
def any_changes(draw: st.DrawFn) -> list[Insert | Update | Delete | Truncate]:
    found: list[Insert | Update | Delete | Truncate] = []
    one = draw(TRANSACTIONS)
    for index in draw(st.lists(st.integers(0, 2**32 - 1))):
        if draw(st.booleans()):
            one = draw(TRANSACTIONS)
        table = draw(st.sampled_from((TODOS, FULL, ALTERED)))
        row = Record(table.shape, draw(st.tuples(FIELDS, FIELDS)))
        shape = draw(st.sampled_from((table.shape, table.key_shape)))
        old = Record(shape, draw(st.tuples(*[FIELDS] * len(shape.names))))
        found.append(
            draw(
                st.sampled_from(
                    (
                        Insert(one, index, table, row),
                        Update(one, index, table, row, None),
                        Update(one, index, table, row, old),
                        Delete(one, index, table, old),
                        Truncate(one, index, (TODOS, table), True, False),
                    )
                )
            )
        )
    return found


@pytest.mark.slow
@given(any_changes())
def test_changes_that_are_made_again_are_equal(
    changes: list[Insert | Update | Delete | Truncate],
) -> None:
    again = unpack(*pack(changes))
    assert again == changes
    for one, other in zip(changes, again, strict=True):
        assert type(one) is type(other)
        assert type(other.transaction.commit_lsn) is LSN
        if not isinstance(one, Truncate):
            assert not isinstance(other, Truncate)
            # What was computed for the relation is not computed again.
            assert one.relation is other.relation


# Against a list


@st.composite
def batches(draw: st.DrawFn) -> list[list[Event]]:
    lsn = 0
    events: list[Event] = []
    for size in draw(st.lists(st.integers(0, 40), max_size=30)):
        lsn += draw(st.integers(1, 100))
        events += [GAP] if not size else transaction(lsn, size)
    found = []
    while events:
        count = draw(st.integers(1, 60))
        found.append(events[:count])
        events = events[count:]
    return found


@pytest.mark.slow
@given(batches(), st.data())
def test_the_log_is_a_list_within_bounds(found: list[list[Event]], data: st.DataObject) -> None:
    clock = Clock()
    log = make_log(max_bytes=data.draw(st.integers(10_000, 300_000)), window=50, clock=clock)
    model: list[tuple[Place, Event]] = []
    for batch in found:
        clock.now += data.draw(st.sampled_from((0.0, 0.1, 5.0, 20.0)))
        for event in batch:
            place = place_of(event)
            if isinstance(event, Gap):
                end = model[-1][0] if model else BEFORE
                place = (*end[:2], end[2] + 1 if len(end) > 2 else 1)
            if place is not None:
                model.append((place, event))
        log.append(batch)
        assert log.bytes <= 300_000
        if data.draw(st.booleans()) and model:
            log.trim(data.draw(st.sampled_from(model))[0])
        if model:
            assert log.end == model[-1][0]
        kept = [(place, e) for place, e in model if place > log.floor and not isinstance(e, Commit)]
        assert everything(log) == [event for _, event in kept]
        if kept:
            after, until = sorted(data.draw(st.sampled_from(kept))[0] for _ in range(2))
            most = data.draw(st.integers(1, 50))
            part = [(place, event) for place, event in kept if after < place <= until]
            read, place = log.read(after, most, until)
            gaps = [at for at, (_, event) in enumerate(part) if isinstance(event, Gap)]
            if gaps:
                # A gap is read by itself.
                most = min(most, max(gaps[0], 1))
            assert read == [event for _, event in part[:most]]
            is_cut = len(part) >= most and part[most - 1] != kept[-1]
            assert place == (part[most - 1][0] if is_cut or most in gaps else until)


# What was before


@pytest.mark.slow
def test_what_was_read_later_is_put_before_what_came_at_once() -> None:
    older, log = make_log(), make_log()
    for lsn in range(100, 3100):
        older.append(transaction(lsn))
    log.append(transaction(5000, 3))
    log.put_before(older, (50, -1))
    assert log.floor == (50, -1)
    assert [place_of(event) for event in everything(log)] == [
        *((lsn, 0) for lsn in range(100, 3100)),
        *((5000, index) for index in range(3)),
    ]
    assert everything(log, (2999, 0))[0] == changes_of(transaction(3000))[0]
    log.append(transaction(6000))
    log.trim((3050, 0))
    assert (50, -1) < log.floor <= (3050, 0)
    assert len(everything(log, (3098, 0))) == 5
    log.trim((6000, LAST_INDEX))
    assert log.bytes == 0


def test_nothing_before_leaves_a_floor() -> None:
    log = make_log()
    log.put_before(make_log(), (50, -1))
    assert (log.floor, log.end) == ((50, -1), (50, -1))
    log.append(transaction(100))
    assert len(everything(log)) == 1
    with pytest.raises(ValueError, match="before that"):
        log.read((49, 0), 1)


def test_what_was_given_up_before_stays_given_up() -> None:
    older, log = make_log(max_bytes=20_000), make_log()
    for lsn in range(100, 3100):
        older.append(transaction(lsn))
    assert older.floor > (100, 0)
    log.put_before(older, (50, -1))
    assert log.floor == older.floor


def test_nothing_is_put_before_what_has_been_given_up_meanwhile() -> None:
    """Between the two, changes are missing: nobody may go on from before them."""
    older, log = make_log(), make_log(max_bytes=20_000)
    older.append(transaction(100))
    for lsn in range(5000, 8000):
        log.append(transaction(lsn))
    floor, end, size = log.floor, log.end, log.bytes
    assert floor > (5000, 0)
    log.put_before(older, (50, -1))
    assert (log.floor, log.end, log.bytes) == (floor, end, size)
    with pytest.raises(ValueError, match="before that"):
        log.read((60, 0), 1)


def test_nothing_is_put_before_another_stream() -> None:
    older, log = make_log(), make_log()
    older.append(transaction(8000))
    log.append(transaction(9000))
    log.append([GAP])
    log.append(transaction(300))
    assert log.epoch == 1
    log.put_before(older, (7000, -1))
    assert everything(log) == changes_of(transaction(300))
    with pytest.raises(ValueError, match="before that"):
        log.read((299, 0), 1)


def test_before_a_gap_nothing_is_put() -> None:
    older, log = make_log(), make_log()
    older.append(transaction(100))
    log.append([GAP])
    log.append(transaction(200))
    log.put_before(older, (50, -1))
    assert log.floor == (100, 0)
    assert len(everything(log)) >= 1
