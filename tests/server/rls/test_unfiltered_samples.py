"""For whom a row is looked up whatever the filters say: by the time and the last ones alone."""

from __future__ import annotations

from realtime_server.rls.pending_changes import PendingChange
from realtime_server.rls.unfiltered_samples import UnfilteredSamples
from realtime_server.rls.viewers import Viewer
from tests.server_helpers import insert, make_relation

TODOS = make_relation()
ANN, BOB = (Viewer.of({"role": "reader", "sub": sub}) for sub in ("ann", "bob"))
NOBODY: frozenset[Viewer] = frozenset()
BOTH = frozenset({ANN, BOB})


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def candidates(
    *passes: frozenset[Viewer], filtering: frozenset[Viewer] = BOTH
) -> list[PendingChange]:
    """Return changes, each with those whose filters it passes."""
    return [
        PendingChange(insert(TODOS, str(n), "x"), 1, viewers, filtering - viewers, filtering)
        for n, viewers in enumerate(passes)
    ]


def take(
    samples: UnfilteredSamples, batch: list[PendingChange], failing: frozenset[Viewer] = NOBODY
) -> list[frozenset[Viewer]]:
    """Return who is chosen for each change; those who fail do so for every one."""
    places = range(len(batch))
    sampled = samples.pick(batch, places)
    samples.note(batch, sampled, {place: set(failing) for place in places})
    return [sampled.get(place, NOBODY) for place in places]


def test_the_first_change_is_one_whatever_the_filters_say() -> None:
    for first in (NOBODY, frozenset({ANN}), BOTH):
        assert take(UnfilteredSamples(), candidates(first, BOTH, NOBODY)) == [BOTH, NOBODY, NOBODY]


def test_then_one_every_now_and_then() -> None:
    clock = Clock()
    samples = UnfilteredSamples(clock=clock)
    batch = candidates(NOBODY, BOTH)
    assert take(samples, batch) == [BOTH, NOBODY]
    for _ in range(3):
        clock.now += 9.9
        assert take(samples, batch) == [NOBODY, NOBODY]
        clock.now += 0.1
        assert take(samples, batch) == [BOTH, NOBODY]


def test_who_comes_later_has_a_first_one_too() -> None:
    samples = UnfilteredSamples(clock=Clock())
    assert take(samples, candidates(BOTH, filtering=frozenset({ANN}))) == [{ANN}]
    assert take(samples, candidates(BOTH)) == [{BOB}]
    assert take(samples, candidates(BOTH, filtering=frozenset({ANN}))) == [NOBODY]


def test_from_one_that_failed_to_one_that_did_not_all_are() -> None:
    samples = UnfilteredSamples(clock=Clock())
    take(samples, candidates(NOBODY), frozenset({ANN}))
    for passes in (BOTH, NOBODY):
        batch = candidates(passes, passes)
        assert take(samples, batch, frozenset({ANN})) == [{ANN}, {ANN}]
    assert take(samples, candidates(BOTH)) == [{ANN}]
    assert take(samples, candidates(BOTH)) == [NOBODY]


def test_a_failure_of_a_row_that_was_looked_up_because_of_a_filter_changes_nothing() -> None:
    samples = UnfilteredSamples(clock=Clock())
    take(samples, candidates(BOTH))
    assert take(samples, candidates(BOTH), BOTH) == [NOBODY]
    assert take(samples, candidates(BOTH)) == [NOBODY]


def test_a_batch_that_was_not_decided_is_chosen_from_again() -> None:
    samples = UnfilteredSamples(clock=Clock())
    batch = candidates(NOBODY)
    samples.pick(batch, [0])
    assert take(samples, batch) == [BOTH]


def test_who_was_not_asked_for_has_its_sample_the_next_time() -> None:
    samples = UnfilteredSamples(clock=Clock())
    batch = candidates(NOBODY)
    samples.note(batch, samples.pick(batch, [0]), {}, unasked={ANN})
    assert take(samples, candidates(NOBODY, NOBODY)) == [{ANN}, NOBODY]
