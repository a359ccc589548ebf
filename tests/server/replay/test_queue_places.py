"""Places of viewers whose changes wait in a queue: never higher than what was sent to them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import LSN, Position
from realtime_server.replay.places import Place
from realtime_server.replay.queue_places import QueuePlaces


def test_a_viewer_without_a_queue_has_what_others_have() -> None:
    places = QueuePlaces(lambda: 7)
    places.note("ann", None)
    assert places.place_at("ann", 9, (16, 3)) == (16, 3)
    assert places.lowest_at(9, (16, 3)) == (16, 3)


def test_what_waits_is_not_had_until_the_write_that_has_it_is_proven() -> None:
    ordinal = 10
    places = QueuePlaces(lambda: ordinal)
    places.note("ann", Position(LSN(32), 1))
    ordinal = 20
    places.note("ann", Position(LSN(48), 0))
    ordinal = 30
    places.note("ann", None)
    end: Place = (99, 0)
    # Before anything waited.
    assert places.place_at("ann", 9, (16, 0)) == (16, 0)
    assert [places.place_at("ann", proven, end) for proven in (10, 19, 20, 29, 30, 99)] == [
        *((32, 0), (32, 0), (48, -1), (48, -1)),
        *(end, end),
    ]
    assert places.lowest_at(19, end) == (32, 0)
    places.forget("ann")
    # Its last channel is getting another viewer.
    assert places.place_at("ann", 10, end) == (32, 0)
    places.tidy()
    assert places.place_at("ann", 10, end) == end


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2), st.booleans()), max_size=400))
def test_places_are_never_higher_than_what_was_sent(steps: list[tuple[int, int, bool]]) -> None:
    """Changes come, and the first of those that wait are sent, each with a write."""
    ordinal = 0
    places = QueuePlaces(lambda: ordinal)
    waiting: list[int] = []
    last = 0
    exact: list[tuple[int, Place]] = []
    for come, go, is_noted in steps:
        for _ in range(come):
            last += 16
            waiting.append(last)
        places.note("ann", Position(LSN(waiting[0]), 0) if waiting else None)
        del waiting[:go]
        ordinal += 1
        if is_noted or waiting:
            places.note("ann", Position(LSN(waiting[0]), 0) if waiting else None)
            exact.append((ordinal, (waiting[0], -1) if waiting else (last, 0)))
    for proven, place in exact:
        assert places.place_at("ann", proven, (last, 0)) <= max(place, (last, 0))
        if place[1] < 0:
            assert places.place_at("ann", proven, (last, 0)) <= place
    if len(exact) < 20:
        for proven, place in exact:
            if place[1] < 0:
                assert places.place_at("ann", proven, (last, 0)) == place
