"""The lowest of many places that come and go together."""

from __future__ import annotations

import gc
from heapq import heappop

import pytest

from realtime_server.replay import needed_places
from realtime_server.replay.needed_places import NeededPlaces

MANY = 5000


def test_the_lowest_is_none_as_soon_as_nobody_needs_any() -> None:
    places = NeededPlaces()
    assert places.lowest() is None
    for number in range(MANY):
        places.add((number, 0))
    for number in range(MANY):
        places.remove((number, 0))
    assert places.lowest() is None


def test_a_place_is_needed_until_the_last_one_is_gone() -> None:
    places = NeededPlaces()
    for place in ((2, 0), (1, 0), (1, 0)):
        places.add(place)
    places.remove((1, 0))
    assert places.lowest() == (1, 0)
    places.remove((1, 0))
    assert places.lowest() == (2, 0)
    places.add((1, 0))
    assert places.lowest() == (1, 0)


def test_it_takes_no_longer_to_find_it_when_many_have_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_at = []

    def counting(heap: list[tuple[int, ...]]) -> tuple[int, ...]:
        looked_at.append(heap[0])
        return heappop(heap)

    monkeypatch.setattr(needed_places, "heappop", counting)
    places = NeededPlaces()
    for number in range(MANY + 1):
        places.add((number, 0))
    for number in range(MANY):
        places.remove((number, 0))
    found = []
    while not found or found[-1] != (MANY, 0):
        del looked_at[:]
        lowest = places.lowest()
        assert lowest is not None
        found.append(lowest)
        assert len(looked_at) <= 200
    # Each is too low, and none lower than the one before.
    assert found == sorted(found)
    assert len(found) == MANY / 200


def test_it_is_exact_when_what_is_unneeded_was_given_up() -> None:
    places = NeededPlaces()
    for number in range(MANY + 1):
        places.add((number, 0))
    for number in range(MANY):
        places.remove((number, 0))
    steps = places.tidying()
    for _ in range(MANY // 2):
        next(steps)
    # Meanwhile one comes, and one comes again.
    places.add((MANY - 3, 1))
    places.add((2, 0))
    for _ in steps:
        pass
    assert places.lowest() == (2, 0)
    places.remove((2, 0))
    assert places.lowest() == (MANY - 3, 1)
    assert next(places.tidying(), "nothing") == "nothing"


def test_nothing_is_kept_for_a_tidying_that_was_given_up() -> None:
    places = NeededPlaces()
    for number in range(MANY):
        places.add((number, 0))
    for number in range(1, MANY):
        places.remove((number, 0))
    tidying = places.tidying()
    next(tidying)
    tidying.close()
    for number in range(MANY):
        places.add((number, 1))
    # The heap, and no list of what was added to it.
    assert sum(isinstance(one, list) for one in gc.get_referents(places)) == 1
    assert places.lowest() == (0, 0)
