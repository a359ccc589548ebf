"""Places of events."""

from __future__ import annotations

import pytest

from realtime_core import (
    LSN,
    Begin,
    Commit,
    Event,
    Gap,
    GapReason,
    Idle,
    LogicalMessage,
    Position,
)
from realtime_core.positions import LAST_INDEX
from realtime_server.replay.places import BEFORE, Place, place_behind_gap, place_of

from ...server_helpers import TRANSACTION, delete, insert, make_relation, truncate, update

TODOS = make_relation()
ROW = insert(TODOS, "1", "x")


@pytest.mark.parametrize(
    ("event", "place"),
    [
        (ROW, (0x1000, 0)),
        (update(TODOS, ("1", "y")), (0x1000, 0)),
        (delete(TODOS, ROW.record), (0x1000, 0)),
        (truncate(TODOS), (0x1000, 0)),
        (Commit(TRANSACTION, LSN(0x1030), 1), (0x1000, LAST_INDEX)),
        (LogicalMessage(LSN(0x900), "p", b"", TRANSACTION, 3), (0x1000, 3)),
        (LogicalMessage(LSN(0x900), "p", b"", None, 0), (0x8FF, 0)),
        (Idle(Position(LSN(0x2000))), (0x2000, 0)),
        (Begin(TRANSACTION), None),
        (Gap(None, Position(LSN(1)), GapReason.LAG), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_place_of_an_event(event: Event, place: Place | None) -> None:
    assert place_of(event) == place


def test_a_gap_is_between_what_came_before_it_and_everything_behind() -> None:
    places = [BEFORE, place_behind_gap(BEFORE), (0, 0), (16, 3), (16, 4), (16, LAST_INDEX)]
    gap = place_behind_gap((16, 3))
    more = place_behind_gap(gap)
    assert sorted([more, *places, gap]) == [*places[:4], gap, more, *places[4:]]
