"""The ages of channels while what is outdated is removed."""

from __future__ import annotations

from realtime_server.replay.channel_ages import ChannelAges


def test_nothing_is_kept_for_a_tidying_that_was_given_up() -> None:
    ages = ChannelAges()
    for number in range(2000):
        ages.add((float(number), b"", number))
    tidying = ages.tidying(0, lambda age: False)
    next(tidying)
    tidying.close()
    ages.add((5000.0, b"", 5000))
    # The heap, and no list of what was added to it.
    attributes = [vars(ages)[name] for name in vars(ages)]
    assert sum(isinstance(one, list) for one in attributes) == 1
    assert len(ages.take(9000.0, 9000)) == 2001
