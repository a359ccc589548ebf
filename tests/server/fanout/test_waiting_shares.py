"""How much each sender may have waiting."""

from __future__ import annotations

import pytest

from realtime_server.fanout.waiting_shares import MAX_WAITING_SECONDS, WaitingShares, WritePace


def fill(shares: WaitingShares, sender: str, amount: int, most: float) -> int:
    """Have as much wait as may; return how much it is."""
    for number in range(1_000_000):
        if not shares.fits(sender, amount, most):
            return number
        shares.add(sender, amount)
    raise AssertionError("there is no bound")


def test_a_flood_leaves_others_as_much_as_it_takes() -> None:
    shares = WaitingShares()
    assert fill(shares, "ann", 2, 2000) == 500
    assert fill(shares, "bob", 2, 2000) == 250
    assert fill(shares, "cat", 2, 2000) == 125
    # What is written of one is free for all.
    for _ in range(500):
        shares.remove("ann", 2)
    assert fill(shares, "cat", 2, 2000) == 250
    assert fill(shares, "ann", 2, 2000) == 187


def test_of_equal_floods_each_gets_the_same() -> None:
    shares = WaitingShares()
    waiting = dict.fromkeys("abcd", 0)
    for _ in range(1000):
        for sender in waiting:
            if shares.fits(sender, 2, 2000):
                shares.add(sender, 2)
                waiting[sender] += 1
    assert set(waiting.values()) == {200}


def test_what_comes_while_nothing_waits_is_never_too_much() -> None:
    shares = WaitingShares()
    assert shares.fits("ann", 10**9, 100)
    shares.add("ann", 10**9)
    assert not shares.fits("bob", 1, 100)
    shares.remove("ann", 10**9)
    shares.add("ann", 0)
    assert not shares.fits("bob", 101, 100)
    shares.remove("ann", 0)
    assert shares.fits("bob", 10**9, 100)


@pytest.mark.parametrize("microseconds", [1, 4, 50])
def test_deliveries_are_bounded_by_how_long_they_take(microseconds: int) -> None:
    pace = WritePace()
    for _ in range(300):
        pace.wrote(5000, 5000 * microseconds / 1e6)
        # What a few take says nothing of what many do.
        pace.wrote(2, 1.0)
    seconds = pace.most_waiting * microseconds / 1e6
    assert MAX_WAITING_SECONDS * 0.9 < seconds < MAX_WAITING_SECONDS * 1.1
