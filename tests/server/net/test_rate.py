"""Rate: so many a second, after a burst of as many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from realtime_server.net.rate import Rate


def test_a_burst_is_followed_by_so_many_a_second() -> None:
    rate = Rate(2, 100.0)
    assert [rate.take(100.0) for _ in range(3)] == [True, True, False]
    assert [rate.take(100.5) for _ in range(2)] == [True, False]
    assert [rate.take(103.0) for _ in range(3)] == [True, True, False]


def test_several_are_taken_together_or_not_at_all() -> None:
    rate = Rate(10, 0.0)
    assert not rate.take(0.0, 11)
    assert rate.take(0.0, 10)
    assert not rate.take(0.0)


def test_what_is_owed_has_to_come_before_more_is_taken() -> None:
    rate = Rate(10, 0.0)
    assert rate.take(0.0)
    rate.owe(19)
    assert not rate.take(1.0)
    assert rate.take(1.2)


def test_nobody_owes_for_more_than_a_few_seconds() -> None:
    rate = Rate(10, 0.0)
    rate.owe(1_000_000)
    assert not rate.take(5.0)
    assert rate.take(5.2)


@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 100)), max_size=50),
)
def test_no_more_than_the_burst_and_the_rate_are_ever_taken(
    per_second: int, wishes: list[tuple[float, int]]
) -> None:
    rate, now, taken = Rate(per_second, 0.0), 0.0, 0
    for pause, count in wishes:
        now += pause
        taken += count if rate.take(now, count) else 0
        assert taken <= per_second * (now + 1) * (1 + 1e-9)
