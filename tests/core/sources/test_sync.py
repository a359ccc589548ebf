"""What a SyncSource adds to what the contract suite asks of it."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pytest

from realtime_core import (
    Change,
    CommittedTransaction,
    Insert,
    MemoryDatabase,
    MemorySource,
    MemoryTable,
    SyncSource,
)
from realtime_core.sources._loop_thread import Errand, LoopThread, StoppedError
from tests.core.sources.test_queue import Scripted, change
from tests.waiting import eventually_sync


@pytest.fixture
def database() -> MemoryDatabase:
    return MemoryDatabase()


@pytest.fixture
def item(database: MemoryDatabase) -> MemoryTable:
    return database.table("item", {"id": "int4"}, key="id")


def opened(database: MemoryDatabase, **options: Any) -> SyncSource[Change]:
    return MemorySource.sync(database, slot="sync", **options)


def number(change: Change) -> int:
    assert isinstance(change, Insert)
    found: int = change.record["id"]
    return found


def test_changes_are_read_in_a_for_loop(database: MemoryDatabase, item: MemoryTable) -> None:
    with opened(database) as source:
        item.insert(id=1)
        item.insert(id=2)
        found = []
        for change in source:
            found.append(number(change))
            source.ack(change)
            assert source.position == change.position
            if len(found) == 2:
                break
    assert found == [1, 2]
    with opened(database) as source:
        item.insert(id=3)
        assert number(next(source)) == 3


def test_a_change_that_has_come_costs_one_call(database: MemoryDatabase, item: MemoryTable) -> None:
    calls: list[str] = []

    def count(frame: FrameType, event: str, _: Any) -> None:
        if event == "call":
            calls.append(frame.f_code.co_name)

    with opened(database) as source:
        with database.transaction():
            for each in range(101):
                item.insert(id=each)
        assert number(next(source)) == 0
        changes = []
        sys.setprofile(count)
        try:
            for got in source:
                changes.append(got)
                if len(changes) == 100:
                    break
        finally:
            sys.setprofile(None)
    assert [number(got) for got in changes] == list(range(1, 101))
    assert calls == ["__iter__", *["__next__"] * 100]


class AtHand(Scripted):
    """All parts of the script have come already."""

    looked_away = 0

    def _is_at_hand(self) -> bool:
        return self._has_parts

    def _look_away(self) -> None:
        self.looked_away += 1


@pytest.mark.parametrize(("parts", "errands"), [(3, 1), (40, 2), (100, 4)])
def test_its_thread_is_woken_once_for_hundreds_of_changes(
    monkeypatch: pytest.MonkeyPatch, parts: int, errands: int
) -> None:
    asked = []
    soon = LoopThread.soon

    def counted(thread: LoopThread, callback: Any) -> None:
        asked.append(callback)
        soon(thread, callback)

    script = [[change(part, index) for index in range(10)] for part in range(parts)]
    source = AtHand(*script)
    with SyncSource(source) as reader:
        monkeypatch.setattr(LoopThread, "soon", counted)
        assert [reader.next() for _ in range(10 * parts)] == [
            each for part in script for each in part
        ]
        assert len(asked) == errands
        # With few changes the consumer is done before more can come.
        assert source.looked_away == (parts * 10 >= 64) * errands
        assert list(reader) == []


def test_a_change_is_waited_for_no_longer_than_that(
    database: MemoryDatabase, item: MemoryTable
) -> None:
    with opened(database) as source:
        for timeout in (0, 0.01):
            with pytest.raises(TimeoutError, match="no event has come"):
                source.next(timeout)
        item.insert(id=1)
        # The wait that has begun goes on.
        assert number(source.next(30)) == 1
        item.insert(id=2)
        assert number(source.next()) == 2


def test_what_a_thread_was_asked_just_before_it_stops_ends() -> None:
    async def work() -> bool:
        raise AssertionError("it was stopped before")

    thread, is_busy, go_on = LoopThread("test"), threading.Event(), threading.Event()
    thread.soon(lambda: (is_busy.set(), go_on.wait(30)))
    assert is_busy.wait(30)
    errand = Errand(thread, work)
    assert not errand.wait(0)
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(thread.stop)
        eventually_sync(lambda: is_stopped(thread))
        go_on.set()
        assert errand.wait(30)
        stopping.result(30)
    assert isinstance(errand.error, asyncio.CancelledError)
    with pytest.raises(StoppedError):
        Errand(thread, work).wait()


def is_stopped(thread: LoopThread) -> bool:
    try:
        thread.soon(lambda: None)
    except StoppedError:
        return True
    return False


def test_one_thread_reads_at_a_time(database: MemoryDatabase, item: MemoryTable) -> None:
    with opened(database) as source, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(next, source)

        def is_refused() -> bool:
            try:
                source.next(0)
            except RuntimeError as exc:
                return "two threads are reading" in str(exc)
            except TimeoutError:
                return False
            return False

        eventually_sync(is_refused)
        item.insert(id=1)
        assert number(reading.result(30)) == 1
        item.insert(id=2)
        assert number(next(source)) == 2


def test_closing_in_another_thread_ends_the_loop(database: MemoryDatabase) -> None:
    with opened(database) as source, ThreadPoolExecutor(1) as pool:
        reading = pool.submit(list, source)
        assert source.stats().connected
        source.close()
        assert reading.result(30) == []
        assert list(source) == []
        source.close()
    assert not source.stats().connected
    with pytest.raises(RuntimeError, match="was closed"):
        source.__enter__()


def test_its_thread_ends_with_it(database: MemoryDatabase) -> None:
    before = threading.active_count()
    with opened(database) as source:
        assert threading.active_count() == before + 1
        with pytest.raises(RuntimeError, match="open already"):
            source.__enter__()
    assert threading.active_count() == before
    with opened(database), pytest.raises(Exception, match="active"):
        opened(database).__enter__()
    assert threading.active_count() == before


def test_a_source_that_was_not_entered_says_so(database: MemoryDatabase) -> None:
    source = opened(database)
    for attempt in (source.attached, lambda: next(source), lambda: next(source.batches())):
        with pytest.raises(RuntimeError, match="not open: use it in a `with` block"):
            attempt()


def test_acknowledging_from_many_threads_loses_none(
    database: MemoryDatabase, item: MemoryTable
) -> None:
    with opened(database) as source, ThreadPoolExecutor(8) as pool:
        for each in range(200):
            item.insert(id=each)
        done = [pool.submit(source.ack, source.next()) for _ in range(200)]
        for asked in done:
            asked.result(30)
    assert database.confirmed("sync") == database.end_of_wal


def test_what_was_handed_over_is_acknowledged_by_itself(
    database: MemoryDatabase, item: MemoryTable
) -> None:
    with opened(database, auto_ack=True) as source:
        for each in (1, 2, 3):
            item.insert(id=each)
        assert [number(next(source)) for _ in range(2)] == [1, 2]
    with opened(database) as source:
        assert number(next(source)) == 3


def test_a_function_that_the_source_calls_cannot_wait_for_it(database: MemoryDatabase) -> None:
    """It would wait for ever: the thread that would answer is its own."""
    asked: list[SyncSource[Change]] = []
    source = opened(database, start_at=lambda: asked[0].stats())
    asked.append(source)
    with pytest.raises(RuntimeError, match="cannot wait for the source"):
        source.__enter__()


class Interrupted(BaseException):
    """What the signal handler raises."""


@contextmanager
def interruptions(rng: random.Random) -> Iterator[list[bool]]:
    """Interrupt the main thread soon after it has put True into the list, which is then empty."""
    armed: list[bool] = []

    def interrupt(signum: int, frame: FrameType | None) -> None:
        signal.setitimer(signal.ITIMER_REAL, rng.choice((1e-4, 3e-4, 1e-3)))
        if armed:
            armed.clear()
            raise Interrupted

    former = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1e-4)
    try:
        yield armed
    finally:
        armed.clear()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


@pytest.mark.slow
# Python itself passes over what is raised in a destructor, and warns.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
@pytest.mark.parametrize("way", ["events", "batches", "transactions"])
def test_an_interrupted_read_loses_and_repeats_nothing(
    database: MemoryDatabase, item: MemoryTable, way: str
) -> None:
    """Ctrl-C at any moment of a read; the consumer goes on."""
    rng = random.Random(way)
    wanted = 1000

    def write() -> None:
        written = 0
        while written < wanted:
            with database.transaction():
                for _ in range(min(rng.choice((1, 2, 50)), wanted - written)):
                    item.insert(id=written)
                    written += 1
        database.end()

    # A C function, so that nothing comes between a read and keeping what it returns.
    kept: list[Any] = []
    with opened(database) as source, interruptions(rng) as armed:
        steps: Any = {
            "events": source,
            "batches": source.batches(),
            "transactions": source.transactions(1_000_000),
        }[way]
        writer = threading.Thread(target=write)
        writer.start()
        interrupted = 0
        ended = False
        while not ended:
            try:
                armed += [True]
                kept.extend(steps)
                del armed[:]
                ended = True
            except Interrupted:
                interrupted += 1
        writer.join()
    numbers = [number(change) for each in kept for change in changes_of(each)]
    assert numbers == list(range(wanted))
    assert interrupted


def changes_of(item: Any) -> list[Change]:
    if isinstance(item, CommittedTransaction):
        return list(item.changes)
    return item if isinstance(item, list) else [item]
