"""The queue in which senders take turns."""

from __future__ import annotations

from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_server.fanout.fair_queue import FairQueue


def test_senders_take_turns_and_each_ones_order_is_kept() -> None:
    queue: FairQueue[str] = FairQueue()
    assert not queue
    for item in ("a1", "a2", "a3", "b1", "c1", "c2"):
        queue.put(item[0], item)
    assert [queue.take() for _ in range(4)] == ["a1", "b1", "c1", "a2"]
    queue.put("b", "b2")
    assert queue
    assert [queue.take() for _ in range(3)] == ["c2", "a3", "b2"]
    assert not queue
    with pytest.raises(KeyError):
        queue.take()


@pytest.mark.slow
@given(st.lists(st.integers(0, 4) | st.none()))
def test_nothing_is_lost_and_nobody_waits_for_two_of_another(taken: list[int | None]) -> None:
    queue: FairQueue[tuple[int, int]] = FairQueue()
    waiting: dict[int, list[int]] = defaultdict(list)
    # By sender that waits: how many of each other's have been taken since its last.
    passed: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for number, sender in enumerate(taken):
        if sender is not None:
            queue.put(sender, (sender, number))
            waiting[sender].append(number)
        elif queue:
            who, which = queue.take()
            assert which == waiting[who].pop(0)
            passed.pop(who, None)
            for other, items in waiting.items():
                if items and other != who:
                    passed[other][who] += 1
                    assert passed[other][who] <= 1
    left = sum(map(len, waiting.values()))
    assert len([queue.take() for _ in range(left)]) == left
    assert not queue
