"""Backlog: what waits for all clients together, and who is cut off when it is too much."""

from __future__ import annotations

from realtime_server.net.backlog import Backlog


class Box:
    """An outbox as far as a backlog knows it."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self.size = 0
        self.looked_at = 0
        self.told: tuple[int, int] | None = None

    def put(self, size: int) -> None:
        self.size += size
        self._backlog.note(self, self.size)

    def waiting(self) -> int:
        self.looked_at += 1
        return self.size

    def give_up(self, total: int, most: int) -> None:
        self.told = total, most
        self.size = 0
        self._backlog.note(self, 0)


def boxes(backlog: Backlog, *sizes: int) -> list[Box]:
    made = []
    for size in sizes:
        made.append(Box(backlog))
        made[-1].put(size)
    return made


def test_as_much_as_the_bound_may_wait() -> None:
    backlog = Backlog(100)
    one, other = boxes(backlog, 60, 40)
    assert (one.told, other.told, backlog.bytes) == (None, None, 100)


def test_the_largest_goes_first_and_no_more_than_must() -> None:
    backlog = Backlog(100)
    small, large, last = boxes(backlog, 20, 60, 20)
    last.put(10)
    assert (small.told, large.told, last.told) == (None, (110, 100), None)
    assert backlog.bytes == 50


def test_the_one_that_has_just_got_more_may_be_the_largest() -> None:
    backlog = Backlog(100)
    small, large = boxes(backlog, 30, 40)
    large.put(40)
    assert (small.told, large.told, backlog.bytes) == (None, (110, 100), 30)


def test_what_was_taken_meanwhile_counts_no_more() -> None:
    backlog = Backlog(100)
    one, other = boxes(backlog, 60, 30)
    one.size = 5
    other.put(60)
    assert (one.told, other.told, backlog.bytes) == (None, None, 95)


def test_an_empty_one_is_forgotten() -> None:
    backlog = Backlog(100)
    one, other = boxes(backlog, 60, 30)
    one.size = 0
    one.put(0)
    other.put(60)
    assert (one.looked_at, other.looked_at, backlog.bytes) == (0, 0, 90)


def test_it_is_high_when_more_than_half_waits() -> None:
    backlog = Backlog(100)
    (box,) = boxes(backlog, 50)
    assert not backlog.is_high
    box.put(1)
    assert backlog.is_high


def test_thousands_that_read_nothing_are_not_all_looked_at_for_each_write() -> None:
    backlog = Backlog(100_000)
    crowd = boxes(backlog, *[9] * 10_000)
    for _ in range(20):
        for box in crowd:
            box.put(9)
    # Of 1.8 MB, each eighth of the bound at most once.
    assert sum(box.looked_at for box in crowd) < 2_500_000
    assert backlog.bytes <= 100_000
