"""Backlog: what waits for all clients together, and who is cut off when it is too much."""

from __future__ import annotations

import pytest

from realtime_server.net.slow_clients import Backlog, OutboxLimits


class Box:
    """An outbox as far as a backlog knows it."""

    def __init__(self, backlog: Backlog) -> None:
        self._backlog = backlog
        self.size = 0
        self.looked_at = 0
        self.reason: str | None = None

    def put(self, size: int) -> None:
        self.size += size
        self._backlog.note(self, self.size)

    def waiting(self) -> int:
        self.looked_at += 1
        return self.size

    def cut_off(self, reason: str) -> None:
        self.reason = reason
        self.size = 0
        self._backlog.note(self, 0)


def backlog_of(total_bytes: int) -> Backlog:
    return Backlog(OutboxLimits(max_bytes=40, max_age=2.0, total_bytes=total_bytes))


def reason(waiting: int, total: int = 110, most: int = 100) -> str:
    return (
        f"{waiting} bytes wait for it, {total} for all clients together, and "
        f"OUTBOX_TOTAL_BYTES is {most}"
    )


def boxes(backlog: Backlog, *sizes: int) -> list[Box]:
    made = []
    for size in sizes:
        made.append(Box(backlog))
        made[-1].put(size)
    return made


def test_as_much_as_the_bound_may_wait() -> None:
    backlog = backlog_of(100)
    one, other = boxes(backlog, 60, 40)
    assert (one.reason, other.reason, backlog.bytes) == (None, None, 100)


def test_the_largest_goes_first_and_no_more_than_must() -> None:
    backlog = backlog_of(100)
    small, large, last = boxes(backlog, 20, 60, 20)
    last.put(10)
    assert (small.reason, large.reason, last.reason) == (None, reason(60), None)
    assert backlog.bytes == 50


def test_the_one_that_has_just_got_more_may_be_the_largest() -> None:
    backlog = backlog_of(100)
    small, large = boxes(backlog, 30, 40)
    large.put(40)
    assert (small.reason, large.reason, backlog.bytes) == (None, reason(80), 30)


def test_what_was_taken_meanwhile_counts_no_more() -> None:
    backlog = backlog_of(100)
    one, other = boxes(backlog, 60, 30)
    one.size = 5
    other.put(60)
    assert (one.reason, other.reason, backlog.bytes) == (None, None, 95)


def test_an_empty_one_is_forgotten() -> None:
    backlog = backlog_of(100)
    one, other = boxes(backlog, 60, 30)
    one.size = 0
    one.put(0)
    other.put(60)
    assert (one.looked_at, other.looked_at, backlog.bytes) == (0, 0, 90)


def test_a_client_is_behind_when_more_than_a_quarter_waits_of_what_may() -> None:
    backlog = backlog_of(1000)
    assert not backlog.is_behind(0)
    assert not backlog.is_behind(10)
    assert backlog.is_behind(11)


def test_whoever_has_anything_waiting_is_behind_when_more_than_half_waits_for_all() -> None:
    backlog = backlog_of(100)
    (box,) = boxes(backlog, 50)
    assert not backlog.is_behind(1)
    box.put(1)
    assert backlog.is_behind(1)
    assert not backlog.is_behind(0)


def test_one_client_may_have_so_much_waiting_and_for_so_long() -> None:
    backlog = backlog_of(1000)
    assert backlog.why_too_much(40) is None
    assert backlog.why_too_much(41) == "41 bytes wait for it, and OUTBOX_MAX_BYTES is 40"
    assert backlog.why_too_old(5, 2.0) is None
    assert backlog.why_too_old(5, 2.5) == (
        "5 bytes wait for it, the oldest for 2.5 s, and OUTBOX_MAX_AGE is 2000 ms"
    )


@pytest.mark.slow
def test_thousands_that_read_nothing_are_not_all_looked_at_for_each_write() -> None:
    backlog = backlog_of(100_000)
    crowd = boxes(backlog, *[9] * 10_000)
    for _ in range(20):
        for box in crowd:
            box.put(9)
    # Of 1.8 MB, each eighth of the bound at most once.
    assert sum(box.looked_at for box in crowd) < 2_500_000
    assert backlog.bytes <= 100_000
