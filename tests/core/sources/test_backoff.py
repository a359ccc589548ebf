from random import Random

from realtime_core.sources._backoff import Backoff


def test_delays_double_between_the_bounds_with_jitter() -> None:
    backoff = Backoff(1, 10, Random(1))
    for ceiling in (1, 2, 4, 8, 10, 10):
        assert ceiling / 2 <= backoff.next() <= ceiling


def test_a_success_starts_again_from_the_minimum() -> None:
    backoff = Backoff(1, 10, Random(1))
    for _ in range(5):
        backoff.next()
    backoff.reset()
    assert backoff.next() <= 1


def test_two_clients_do_not_come_back_together() -> None:
    assert Backoff(1, 10, Random(1)).next() != Backoff(1, 10, Random(2)).next()
