"""How many bytes changes take as objects."""

from __future__ import annotations

import pytest

from realtime_core import Event
from realtime_server.replay.change_size import CHANGE_BYTES, estimated_size, size_of
from tests.server_helpers import delete, insert, make_relation, truncate, update

TODOS = make_relation()
SMALL = insert(TODOS, "1", "x" * 30)
LARGE = insert(TODOS, "1", "x" * 1_000_000)


def test_the_size_of_a_change_grows_with_its_values() -> None:
    changed = update(TODOS, ("1", "abc"), SMALL.record)
    for change, characters in (
        (SMALL, 31),
        (insert(TODOS, "12", None), 2),
        (insert(TODOS, "1", b"abcd"), 5),
        (changed, 4 + 31),
        (delete(TODOS, SMALL.record), 31),
        (truncate(TODOS), 0),
    ):
        assert size_of((change,)) == CHANGE_BYTES + characters


@pytest.mark.parametrize("count", range(1, 5))
def test_of_few_changes_each_is_looked_at(count: int) -> None:
    for place in range(count):
        changes: list[Event] = [SMALL] * count
        changes[place] = LARGE
        for turn in range(8):
            assert estimated_size(changes, turn) == size_of(changes)


@pytest.mark.parametrize("count", [5, 8, 9, 10, 16, 17, 100])
def test_of_many_changes_each_counts_as_much_over_eight_estimates(count: int) -> None:
    for place in range(count):
        changes: list[Event] = [SMALL] * count
        changes[place] = LARGE
        estimates = [estimated_size(changes, turn) for turn in range(8)]
        assert sum(estimates) == 8 * size_of(changes)
        assert min(estimates) >= CHANGE_BYTES * count
