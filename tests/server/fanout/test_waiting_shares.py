"""How much each sender may have waiting."""

from __future__ import annotations

import pytest

from realtime_server.fanout.waiting_shares import (
    MAX_WAITING_BYTES,
    MAX_WAITING_SECONDS,
    WaitingShares,
)


def fill(shares: WaitingShares, sender: str, deliveries: int, size: int) -> int:
    """Have as much wait as may; return how much it is."""
    for number in range(1_000_000):
        if not shares.fits(sender, deliveries, size):
            return number
        shares.add(sender, deliveries, size)
    raise AssertionError("there is no bound")


def test_a_flood_leaves_others_as_much_as_it_takes() -> None:
    shares = WaitingShares()
    size = MAX_WAITING_BYTES // 1000
    assert fill(shares, "ann", 0, size) == 500
    assert fill(shares, "bob", 0, size) == 250
    assert fill(shares, "cat", 0, size) == 125
    # What is written of one is free for all.
    for _ in range(500):
        shares.remove("ann", 0, size)
    assert fill(shares, "cat", 0, size) == 250
    assert fill(shares, "ann", 0, size) == 187


def test_of_equal_floods_each_gets_the_same() -> None:
    shares = WaitingShares()
    size = MAX_WAITING_BYTES // 1000
    waiting = dict.fromkeys("abcd", 0)
    for _ in range(1000):
        for sender in waiting:
            if shares.fits(sender, 0, size):
                shares.add(sender, 0, size)
                waiting[sender] += 1
    assert set(waiting.values()) == {200}


def test_what_comes_while_nothing_waits_is_never_too_much() -> None:
    shares = WaitingShares()
    assert shares.fits("ann", 10**9, 10**9)
    shares.add("ann", 10**9, 10**9)
    assert not shares.fits("bob", 1, 1)
    shares.remove("ann", 10**9, 10**9)
    assert shares.fits("bob", 10**9, 0)


@pytest.mark.parametrize("microseconds", [1, 4, 50])
def test_deliveries_are_bounded_by_how_long_they_take(microseconds: int) -> None:
    shares = WaitingShares()
    for _ in range(300):
        shares.wrote(5000, 0.0)
        shares.wrote(0, 5000 * microseconds / 1e6)
    taken = fill(shares, "ann", 1000, 1) * 1000
    seconds = taken * microseconds / 1e6
    assert MAX_WAITING_SECONDS * 0.4 < seconds < MAX_WAITING_SECONDS * 0.6
