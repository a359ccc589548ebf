"""SlowViewerQueue without a database: order, what is given up, and errors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import attrs
import psycopg
import pytest
import pytest_asyncio

from realtime_server.logs import LineLimit
from realtime_server.rls import slow_viewer_queue
from realtime_server.rls.channel_gaps import ChannelGap
from realtime_server.rls.counters import Counters
from realtime_server.rls.pending_changes import PendingChange
from realtime_server.rls.slow_viewer_memory import AROUND, SlowViewerMemory
from realtime_server.rls.slow_viewer_queue import QueuedNotice, SlowViewerQueue
from realtime_server.rls.viewers import Viewer
from tests.server_helpers import insert, make_relation
from tests.waiting import eventually

ANN = Viewer.of({"role": "reader", "sub": "ann"})
TODOS = make_relation()


def part(*ids: int) -> list[PendingChange]:
    changes = (attrs.evolve(insert(TODOS, str(one), "x"), index=one) for one in ids)
    return [PendingChange(change, 1, frozenset({ANN})) for change in changes]


class Works:
    """Where a queue works; it writes down what became of the changes."""

    def __init__(self) -> None:
        self.done: list[object] = []
        self.at_once: list[int] = []
        self.seconds = 0.0
        self.problems: list[Exception] = []
        self.deaf: list[Exception] = []
        self.begun = asyncio.Event()
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.counters = Counters()
        held = SlowViewerMemory(1_000_000, self.counters)
        self.moved = asyncio.Event()
        self.queue = SlowViewerQueue(
            self.work, self.lose, ANN, held, 0.5, LineLimit(), self.moved.set
        )

    async def work(self, candidates: Sequence[PendingChange]) -> float:
        self.begun.set()
        await self.may_go_on.wait()
        if self.problems:
            raise self.problems.pop(0)
        self.done += [one.change.position.index for one in candidates]
        self.at_once.append(len(candidates))
        return self.seconds

    def lose(self, loss: ChannelGap) -> None:
        if self.deaf:
            raise self.deaf.pop()
        after = None if loss.after is None else loss.after.index
        self.done.append((loss.reason.value, after, loss.until.index, loss.count))


@pytest_asyncio.fixture
async def works() -> AsyncIterator[Works]:
    works = Works()
    yield works
    await asyncio.wait({works.queue.cancel()})


async def test_what_waits_is_worked_off_in_order(works: Works) -> None:
    works.queue.put(part(1, 2))
    works.queue.put(part(3))
    await eventually(lambda: works.done == [1, 2, 3])


async def test_the_more_is_looked_at_at_once_the_faster_that_is(works: Works) -> None:
    for one in range(1, 16):
        works.queue.put(part(one))
    await eventually(lambda: works.done == list(range(1, 16)))
    assert works.at_once == [1, 2, 4, 8]
    # And the fewer, the slower.
    works.seconds = 5.0
    for one in range(16, 40):
        works.queue.put(part(one))
    await eventually(lambda: works.done == list(range(1, 40)))
    assert works.at_once[4:] == [16, 8]
    # What came together stays together, whatever it takes.
    works.queue.put(part(*range(40, 100)))
    await eventually(lambda: works.at_once[6:] == [60])


async def test_what_is_told_between_changes_is_told_there(works: Works) -> None:
    works.may_go_on.clear()
    works.queue.put(part(1))
    await works.begun.wait()
    works.queue.put(part(2))
    works.queue.put_notice(QueuedNotice(lambda: works.done.append("told")))
    works.queue.put(part(3))
    works.may_go_on.set()
    await eventually(lambda: works.done == [1, 2, "told", 3])


async def test_a_lost_connection_is_tried_again(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_viewer_queue, "_RETRY", 0.0)
    works.problems += [psycopg.OperationalError("away")] * 2
    works.queue.put(part(1))
    await eventually(lambda: works.done == [1])


async def test_a_fault_costs_what_it_is_about_and_nothing_else(
    works: Works, caplog: pytest.LogCaptureFixture
) -> None:
    works.queue.put(part(1))
    await eventually(lambda: works.done == [1])
    works.problems.append(ValueError("unexpected"))
    works.queue.put(part(2, 3))
    works.queue.put(part(4))
    await eventually(lambda: works.done == [1, ("rls_failed", 1, 3, 2), 4])
    assert "please report it" in caplog.text


async def test_a_gap_that_cannot_be_told_is_logged_and_not_the_end(
    works: Works, caplog: pytest.LogCaptureFixture
) -> None:
    works.problems.append(ValueError("unexpected"))
    works.deaf.append(ValueError("unexpected, too"))
    works.queue.put(part(1))
    works.queue.put(part(2))
    await eventually(lambda: works.done == [2])
    assert "a gap for a role cannot be sent" in caplog.text


@pytest.mark.parametrize("bound", ["_MOST_WAITING", "_MOST_BYTES"])
async def test_when_too_much_waits_all_of_it_is_given_up_in_its_place(
    works: Works, monkeypatch: pytest.MonkeyPatch, bound: str
) -> None:
    # Each change has one byte.
    monkeypatch.setattr(slow_viewer_queue, bound, 3)
    works.may_go_on.clear()
    works.queue.put(part(1))
    await works.begun.wait()
    for ids in ((2, 3), (4, 5), (6,), (7, 8, 9), (10,)):
        works.queue.put(part(*ids))
    works.may_go_on.set()
    await eventually(lambda: works.done == [1, ("rls_too_slow", 1, 9, 8), 10])


async def test_a_fault_and_what_is_given_up_behind_it_are_told_in_order(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_viewer_queue, "_MOST_WAITING", 1)
    works.may_go_on.clear()
    works.problems.append(ValueError("unexpected"))
    works.queue.put(part(1))
    await works.begun.wait()
    for one in (2, 3, 4):
        works.queue.put(part(one))
    works.may_go_on.set()
    await eventually(lambda: len(works.done) == 3)
    assert works.done == [("rls_failed", None, 1, 1), ("rls_too_slow", None, 3, 2), 4]


async def test_more_than_may_wait_is_taken_if_it_comes_at_once(
    works: Works, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_viewer_queue, "_MOST_WAITING", 1)
    works.queue.put(part(1, 2, 3))
    await eventually(lambda: works.done == [1, 2, 3])


@pytest.mark.parametrize("behind", [0, 1, 3])
async def test_what_is_left_when_it_is_abandoned_is_one_loss(
    works: Works, monkeypatch: pytest.MonkeyPatch, behind: int
) -> None:
    monkeypatch.setattr(slow_viewer_queue, "_MOST_WAITING", 2)
    works.queue.put(part(1))
    await eventually(lambda: works.done == [1])
    works.may_go_on.clear()
    works.begun.clear()
    works.queue.put(part(2))
    await works.begun.wait()
    for one in range(behind):
        works.queue.put(part(3 + one))
    works.queue.abandon()
    reason = "token_replaced" if behind < 3 else "rls_too_slow"
    assert works.done == [1, (reason, 1, 2 + behind, 1 + behind)]


async def test_one_with_nothing_left_is_abandoned_without_a_word(works: Works) -> None:
    works.queue.put(part(1))
    await eventually(lambda: works.done == [1])
    works.queue.abandon()
    assert works.done == [1]


@pytest.mark.parametrize("is_given_up", [False, True])
async def test_a_word_comes_behind_what_came_before_it(works: Works, is_given_up: bool) -> None:
    works.may_go_on.clear()
    works.queue.put(part(1))
    await works.begun.wait()
    works.queue.put(part(2))
    works.queue.put_notice(QueuedNotice(lambda: works.done.append("gap")))
    works.queue.put(part(3))
    if is_given_up:
        works.queue.give_up()
    works.may_go_on.set()
    expected = [1, ("rls_too_slow", 1, 3, 2), "gap"] if is_given_up else [1, 2, "gap", 3]
    await eventually(lambda: works.done == expected)


async def test_a_word_is_said_when_the_lane_is_abandoned(works: Works) -> None:
    works.may_go_on.clear()
    works.queue.put(part(1))
    await works.begun.wait()
    works.queue.put_notice(QueuedNotice(lambda: works.done.append("gap")))
    works.queue.abandon()
    assert works.done == [("token_replaced", None, 1, 1), "gap"]


async def test_what_waits_is_counted_until_it_is_handed_out_or_given_up(works: Works) -> None:
    works.may_go_on.clear()
    works.queue.put(part(1))
    await works.begun.wait()
    works.queue.put(part(2, 3))
    each = 2 * AROUND + 1
    assert works.counters.waiting_bytes == 3 * each
    works.queue.give_up()
    assert works.counters.waiting_bytes == each
    works.may_go_on.set()
    await eventually(lambda: works.counters.waiting_bytes == 0)
    works.problems.append(ValueError("unexpected"))
    works.queue.put(part(4))
    await eventually(lambda: len(works.done) == 3)
    assert works.counters.waiting_bytes == 0
    works.begun.clear()
    works.may_go_on.clear()
    works.queue.put(part(5))
    await works.begun.wait()
    works.queue.put(part(6))
    works.queue.abandon()
    assert works.counters.waiting_bytes == 0


def test_a_change_that_waits_in_several_queues_counts_once() -> None:
    counters = Counters()
    held = SlowViewerMemory(10_000, counters)
    [one] = part(1)
    one = attrs.evolve(one, size=5000)
    held.take([one])
    held.take([attrs.evolve(one)])
    assert counters.waiting_bytes == 5000 + 3 * AROUND
    held.give_back([one])
    assert counters.waiting_bytes == 5000 + 2 * AROUND
    held.give_back([one])
    assert counters.waiting_bytes == 0


async def test_it_reports_that_it_is_idle_after_a_gap_without_a_check(works: Works) -> None:
    works.queue.put(part(1))
    works.queue.give_up()
    await asyncio.wait_for(works.moved.wait(), 5)
    assert works.queue.is_idle
    assert works.done == [("rls_too_slow", None, 1, 1)]


async def test_it_reports_that_it_is_idle_after_a_message_alone(works: Works) -> None:
    works.queue.put_notice(QueuedNotice(lambda: works.done.append("a gap")))
    await asyncio.wait_for(works.moved.wait(), 5)
    assert works.queue.is_idle
