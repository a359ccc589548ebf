"""How often something may happen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_server.net.token_bucket import TokenBucket


def test_a_burst_is_followed_by_so_many_a_second() -> None:
    bucket = TokenBucket(2, 100.0)
    assert [bucket.take(100.0) for _ in range(3)] == [True, True, False]
    assert [bucket.take(100.5) for _ in range(2)] == [True, False]
    assert [bucket.take(103.0) for _ in range(3)] == [True, True, False]


def test_several_are_taken_together_or_not_at_all() -> None:
    bucket = TokenBucket(10, 0.0)
    assert not bucket.take(0.0, 11)
    assert bucket.take(0.0, 10)
    assert not bucket.take(0.0)


def test_what_is_borrowed_has_to_come_back_before_more_is_taken() -> None:
    bucket = TokenBucket(10, 0.0)
    assert bucket.take(0.0)
    bucket.borrow(19)
    assert not bucket.take(1.0)
    assert bucket.take(1.2)


def test_nobody_borrows_for_more_than_a_few_seconds() -> None:
    bucket = TokenBucket(10, 0.0)
    bucket.borrow(1_000_000)
    assert not bucket.take(5.0)
    assert bucket.take(5.2)


@pytest.mark.slow
@given(
    st.integers(1, 1000),
    st.lists(st.tuples(st.floats(0, 10), st.integers(0, 100)), max_size=50),
)
def test_no_more_than_the_burst_and_the_rate_are_ever_taken(
    per_second: int, wishes: list[tuple[float, int]]
) -> None:
    bucket, now, taken = TokenBucket(per_second, 0.0), 0.0, 0
    for pause, count in wishes:
        now += pause
        taken += count if bucket.take(now, count) else 0
        assert taken <= per_second * (now + 1) * (1 + 1e-9)
