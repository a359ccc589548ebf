"""Attachment: who waits for the stream, and how the waiting ends."""

from __future__ import annotations

import asyncio

import pytest

from realtime_core import MemoryDatabase, MemorySource
from realtime_server.fanout import turns
from realtime_server.fanout.source_attachment import Attachment
from tests.waiting import eventually


class Stream:
    """A stream that is attached or not, and how many wait for it."""

    def __init__(self) -> None:
        self._is_there = asyncio.Event()
        self.waiting = 0
        self.told: list[tuple[str, bool]] = []
        self.attachment = Attachment(self._is_there.is_set, self._attached)

    async def _attached(self) -> None:
        self.waiting += 1
        try:
            await self._is_there.wait()
        finally:
            self.waiting -= 1

    def attach(self) -> None:
        self._is_there.set()

    def detach(self) -> None:
        self._is_there.clear()

    def wait(self, name: str, within: float | None = None) -> None:
        self.attachment.wait(lambda attached: self.told.append((name, attached)), within=within)


async def test_it_is_what_the_stream_is() -> None:
    stream = Stream()
    assert not stream.attachment
    stream.attach()
    assert stream.attachment


async def test_who_waits_is_told_once_in_order_when_the_stream_attaches() -> None:
    stream = Stream()
    stream.wait("first")
    stream.wait("second", within=60)
    await eventually(lambda: stream.waiting)
    assert (stream.waiting, stream.told) == (1, [])
    stream.attach()
    await eventually(lambda: stream.told)
    assert stream.told == [("first", True), ("second", True)]
    assert stream.waiting == 0
    # And so it goes the next time.
    stream.detach()
    stream.wait("third")
    await eventually(lambda: stream.waiting)
    stream.attach()
    await eventually(lambda: len(stream.told) == 3)


async def test_who_waits_is_told_at_once() -> None:
    """No time passes: a few turns of the event loop, none of which waits for a clock."""
    database = MemoryDatabase()
    holder, source = (
        MemorySource(database, slot="etl", persistent=True, on_gap="continue") for _ in range(2)
    )
    attachment = Attachment(lambda: source.stats().connected, source.attached)
    told: list[bool] = []
    async with holder, source:
        attachment.wait(told.append)
        await asyncio.sleep(0)
        assert not told
        assert not attachment
        await holder.aclose()
        for _ in range(5):
            await asyncio.sleep(0)
        assert told == [True]


async def test_who_waits_in_vain_is_told_so() -> None:
    stream = Stream()
    stream.wait("short", within=0.01)
    stream.wait("long")
    await eventually(lambda: stream.told)
    assert stream.told == [("short", False)]
    stream.attach()
    await eventually(lambda: len(stream.told) == 2)
    assert stream.told[1] == ("long", True)


async def test_nobody_is_told_before_wait_returns() -> None:
    stream = Stream()
    stream.attach()
    stream.wait("now", within=0)
    assert stream.told == []
    await eventually(lambda: stream.told)


async def test_a_cancelled_wait_is_told_nothing() -> None:
    stream = Stream()
    told: list[bool] = []
    stream.attachment.wait(told.append, within=0.01).cancel()
    wait = stream.attachment.wait(told.append)
    wait.cancel()
    wait.cancel()
    # It comes to its end later than the first would have.
    stream.wait("in vain", within=0.02)
    await eventually(lambda: stream.told)
    # Nobody is left, and so the stream is not waited for; its task ends a turn of the loop later.
    await eventually(lambda: stream.waiting == 0)
    stream.attach()
    stream.wait("last")
    await eventually(lambda: len(stream.told) == 2)
    assert told == []


async def test_one_who_is_told_may_cancel_another() -> None:
    stream = Stream()
    told: list[bool] = []
    stream.attach()
    stream.attachment.wait(lambda _: second.cancel())
    second = stream.attachment.wait(told.append)
    stream.wait("last")
    await eventually(lambda: stream.told)
    assert told == []


@pytest.mark.parametrize("by_the_mode", [True, False])
async def test_others_have_their_turn_while_those_that_waited_are_told(
    by_the_mode: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Thousands may have joined meanwhile."""
    monkeypatch.setattr(turns, "SLICE", 0.0)
    stream = Stream()
    for name in ("first", "second", "third"):
        stream.wait(name)
    await eventually(lambda: stream.waiting)
    seen: set[int] = set()

    async def others() -> None:
        while len(stream.told) < 3:
            seen.add(len(stream.told))
            await asyncio.sleep(0)

    running = asyncio.create_task(others())
    if by_the_mode:
        await stream.attachment.begin()
        assert len(stream.told) == 3
    else:
        stream.attach()
    await running
    assert seen == {0, 1, 2}


async def test_who_has_gone_while_others_are_told_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "SLICE", 0.0)
    stream, first, told = Stream(), asyncio.Event(), list[bool]()
    stream.attachment.wait(lambda attached: first.set())
    gone = stream.attachment.wait(told.append)
    beginning = asyncio.create_task(stream.attachment.begin())
    await first.wait()
    gone.cancel()
    await beginning
    assert not told
