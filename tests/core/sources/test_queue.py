"""The ways to read a source, over one queue of events."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Self

import pytest

from realtime_core import (
    LSN,
    Acknowledgeable,
    Begin,
    Commit,
    CommittedTransaction,
    ConfigError,
    Event,
    Gap,
    GapReason,
    Idle,
    LogicalMessage,
    Position,
    SourceStats,
    Transaction,
    TransactionTooLargeError,
)
from realtime_core.sources._queue import EventQueue


class Scripted(EventQueue):
    """Hands over the parts of a script; between two of them it waits for :meth:`go_on`."""

    def __init__(
        self, *parts: Iterable[Event], boundaries: bool = False, auto_ack: bool = False
    ) -> None:
        super().__init__(boundaries=boundaries, auto_ack=auto_ack)
        self._parts = list(parts)
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.acknowledged: list[Acknowledgeable] = []

    @property
    def _connected(self) -> bool:
        return True

    async def _connect(self) -> None:
        raise AssertionError("it is always connected")

    @property
    def _has_parts(self) -> bool:
        return bool(self._parts)

    async def _fill(self) -> None:
        await self.may_go_on.wait()
        if not self._parts:
            raise StopAsyncIteration
        self._queue.extend(self._parts.pop(0))

    async def __aenter__(self) -> Self:
        return self

    def stats(self) -> SourceStats:
        return SourceStats()

    async def fetch(self) -> None:
        """Take the next part, as a read does that is cancelled then."""
        await self._fill()

    def ack(self, upto: Acknowledgeable) -> None:
        self.acknowledged.append(upto)

    async def aclose(self) -> None:
        self._closed = True


def transaction(number: int) -> Transaction:
    return Transaction(number, LSN(number * 100), datetime(2026, 11, 24, tzinfo=UTC))


def change(number: int, index: int, content: bytes = b"") -> LogicalMessage:
    return LogicalMessage(LSN(1), "p", content, transaction(number), index)


def whole(number: int, changes: int) -> list[Event]:
    """A transaction with its boundaries."""
    return [
        Begin(transaction(number)),
        *(change(number, index) for index in range(changes)),
        Commit(transaction(number), LSN(number * 100 + 10), changes),
    ]


def committed(number: int, changes: int) -> CommittedTransaction:
    return CommittedTransaction(
        transaction(number),
        tuple(change(number, index) for index in range(changes)),
        Position(LSN(number * 100), changes - 1),
    )


GAP = Gap(Position(LSN(100), 5), Position(LSN(900), 0), GapReason.SLOT_MISSING)


async def test_events_come_one_by_one_without_boundaries() -> None:
    source = Scripted(whole(1, 2), [], whole(2, 0) + whole(3, 1))
    assert [event async for event in source] == [change(1, 0), change(1, 1), change(3, 0)]
    assert source.position == Position(LSN(300), 0)


async def test_boundaries_are_handed_over_where_asked_for() -> None:
    source = Scripted(whole(1, 1), whole(2, 0), boundaries=True)
    assert [event async for event in source] == whole(1, 1) + whole(2, 0)
    batches = Scripted(whole(1, 1), [], whole(2, 0), boundaries=True)
    assert [batch async for batch in batches.batches()] == [whole(1, 1), whole(2, 0)]


async def test_a_batch_is_never_empty() -> None:
    source = Scripted(whole(1, 0), [], whole(2, 2), [GAP])
    batches = [batch async for batch in source.batches()]
    assert batches == [[change(2, 0), change(2, 1)], [GAP]]
    assert source.position == Position(LSN(200), 1)


async def test_a_batch_has_no_more_rows_than_that() -> None:
    source = Scripted(whole(1, 5) + whole(2, 1), whole(3, 1), [GAP])
    batches = [batch async for batch in source.batches(max_rows=2)]
    assert batches == [
        [change(1, 0), change(1, 1)],
        [change(1, 2), change(1, 3)],
        [change(1, 4), change(2, 0)],
        [change(3, 0)],
        [GAP],
    ]
    assert source.position == Position(LSN(300), 0)


async def test_a_batch_has_no_more_bytes_than_that() -> None:
    sizes = [100, 100, 1000, 1, 1]
    events = [change(1, index, bytes(size)) for index, size in enumerate(sizes)]
    source = Scripted([Begin(transaction(1)), *events])
    batches = [batch async for batch in source.batches(max_bytes=450)]
    assert [[len(event.content) for event in batch] for batch in batches] == [  # type: ignore[union-attr]
        [100, 100],
        [1000],
        [1, 1],
    ]
    assert source.position == Position(LSN(100), 4)


async def test_boundaries_do_not_count_as_rows() -> None:
    source = Scripted(whole(1, 1) + whole(2, 1), whole(3, 0), boundaries=True)
    batches = [batch async for batch in source.batches(max_rows=1)]
    begin, row, commit = whole(1, 1)
    assert batches[:2] == [[begin, row], [commit, *whole(2, 1)[:2]]]
    # What follows the last row comes by itself.
    assert batches[2:] == [[whole(2, 1)[2]], whole(3, 0)]


async def test_a_batch_waits_for_more_until_it_is_full_or_late() -> None:
    source = Scripted(whole(1, 1), whole(2, 1), whole(3, 1))
    batches = source.batches(max_wait=60, max_rows=2)
    assert await anext(batches) == [change(1, 0), change(2, 0)]
    # The end of the stream ends the wait.
    assert await anext(batches) == [change(3, 0)]
    with pytest.raises(StopAsyncIteration):
        await anext(batches)

    source = Scripted(whole(1, 1), whole(2, 1))
    await source.fetch()
    source.may_go_on.clear()
    assert await anext(source.batches(max_wait=0.001)) == [change(1, 0)]
    source.may_go_on.set()
    assert await anext(source.batches(max_wait=0.001)) == [change(2, 0)]


@pytest.mark.parametrize(
    ("bounds", "words"),
    [
        ({"max_wait": 0}, "max_wait is a number above 0, or None, not 0"),
        ({"max_wait": "1"}, "max_wait is a number above 0, or None, not '1'"),
        ({"max_rows": -1}, "max_rows is a whole number above 0, or None, not -1"),
        ({"max_rows": 1.5}, "max_rows is a whole number above 0, or None, not 1.5"),
        ({"max_bytes": 0}, "max_bytes is a whole number above 0, or None, not 0"),
    ],
)
async def test_bounds_of_batches_are_above_zero(bounds: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Scripted().batches(**bounds)


async def test_transactions_come_as_a_whole_however_they_were_cut() -> None:
    events = [*whole(1, 3), *whole(2, 0), *whole(3, 2)]
    for size in (1, 2, 3, 10):
        parts = [events[at : at + size] for at in range(0, len(events), size)]
        found = [item async for item in Scripted(*parts).transactions(10_000)]
        assert found == [committed(1, 3), committed(3, 2)]


async def test_what_is_outside_of_transactions_passes() -> None:
    message = LogicalMessage(LSN(150), "p", b"", None, 0)
    idle = Idle(Position(LSN(180), 0))
    source = Scripted([*whole(1, 1), message, idle, GAP], whole(2, 1))
    found = [item async for item in source.transactions(10_000)]
    assert found == [committed(1, 1), message, idle, GAP, committed(2, 1)]


async def test_a_transaction_without_its_end_is_part_of_the_gap() -> None:
    source = Scripted([*whole(1, 1), *whole(2, 3)[:2]], [GAP], whole(9, 1))
    found = [item async for item in source.transactions(10_000)]
    after = Position(LSN(100), 0)
    assert found == [committed(1, 1), Gap(after, GAP.until, GAP.reason), committed(9, 1)]


async def test_a_transaction_beyond_the_bound_is_an_error_and_loses_nothing() -> None:
    large = [
        Begin(transaction(1)),
        *(change(1, index, bytes(400)) for index in range(3)),
        Commit(transaction(1), LSN(110), 3),
    ]
    source = Scripted(large[:2], large[2:], whole(2, 1))
    for _ in range(2):
        with pytest.raises(TransactionTooLargeError, match="larger than max_bytes=1000") as caught:
            await anext(source.transactions(1000))
        assert (caught.value.xid, caught.value.max_bytes) == (1, 1000)
    assert source.position is None
    assert await anext(source) == change(1, 0, bytes(400))
    assert await anext(source) == change(1, 1, bytes(400))
    # What is left of it comes as a whole.
    rest = await anext(source.transactions(1000))
    assert isinstance(rest, CommittedTransaction)
    assert rest.changes == (change(1, 2, bytes(400)),)
    assert await anext(source.transactions(1500)) == committed(2, 1)


async def test_a_bound_that_bounds_nothing_is_refused() -> None:
    with pytest.raises(ConfigError, match="max_bytes"):
        Scripted().transactions(0)


@pytest.mark.parametrize("way", ["events", "batches", "transactions"])
async def test_a_cancelled_step_loses_nothing(way: str) -> None:
    source = Scripted(whole(1, 3)[:2], whole(1, 3)[2:])

    async def step() -> object:
        match way:
            case "events":
                return await anext(source)
            case "batches":
                return await anext(source.batches())
            case _:
                return await anext(source.transactions(10_000))

    source.may_go_on.clear()
    for _ in range(3):
        reading = asyncio.create_task(step())
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
    source.may_go_on.set()
    if way == "transactions":
        # Cancelled once more, with half of it taken.
        await source.fetch()
        source.may_go_on.clear()
        reading = asyncio.create_task(step())
        await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait({reading})
        source.may_go_on.set()
    assert (
        await step()
        == {
            "events": change(1, 0),
            "batches": [change(1, 0)],
            "transactions": committed(1, 3),
        }[way]
    )


async def test_two_consumers_are_refused() -> None:
    source = Scripted(whole(1, 1))
    source.may_go_on.clear()
    first = asyncio.create_task(anext(source))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="one consumer"):
        await anext(source)
    source.may_go_on.set()
    assert await first == change(1, 0)


async def test_auto_ack_acknowledges_when_the_next_is_asked_for() -> None:
    source = Scripted(whole(1, 3), whole(2, 1), auto_ack=True)
    assert await anext(source) == change(1, 0)
    assert source.acknowledged == []
    assert await anext(source) == change(1, 1)
    assert source.acknowledged == [change(1, 0)]
    rest = await anext(source.batches())
    assert rest == [change(1, 2)]
    assert source.acknowledged[1:] == [change(1, 1)]
    assert await anext(source.transactions(1000)) == committed(2, 1)
    assert source.acknowledged[2:] == [change(1, 2)]
    with pytest.raises(StopAsyncIteration):
        await anext(source)
    assert source.acknowledged[3:] == [committed(2, 1)]
