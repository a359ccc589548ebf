"""A fan-out compared with a plain model: who gets what, and what the slot keeps."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import Consumer, ConsumerDroppedError, Insert, MemoryDatabase, MemorySource
from tests.property.examples import examples

BOUND = 8
"""The most events that may wait, Begin and Commit among them."""
whos = st.integers(0, 4)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(1, 3)),
        st.tuples(st.just("read"), whos),
        st.tuples(st.just("read"), whos),
        st.tuples(st.just("ack"), whos),
        st.tuples(st.just("ack"), whos),
        st.tuples(st.just("add"), st.booleans()),
        st.tuples(st.just("leave"), whos),
        st.tuples(st.just("fail"), whos),
    ),
    min_size=20,
    max_size=60,
)


class Reader:
    """A consumer, and what the model says of it. Rows are numbered from 1, in their order."""

    def __init__(self, consumer: Consumer[Any], given: int, *, drops: bool) -> None:
        self.consumer = consumer
        self.drops = drops
        self.begun: deque[int] = deque()
        self.waiting: deque[list[int]] = deque()
        self.given = self.handed = self.acknowledged = given
        # The sizes of what waits, Begin and Commit among them.
        self.sizes: deque[int] = deque()
        self.dropped = False

    def give(self, rows: list[int], events: int) -> None:
        self.waiting.append(rows)
        self.sizes.append(events)
        self.given = rows[-1]

    def take(self) -> int:
        if not self.begun:
            self.begun.extend(self.waiting.popleft())
            self.sizes.popleft()
        self.handed = self.begun.popleft()
        return self.handed

    @property
    def events(self) -> int:
        return sum(self.sizes)

    @property
    def is_full(self) -> bool:
        return self.events >= BOUND


class World:
    def __init__(self) -> None:
        self.database = MemoryDatabase()
        self.table = self.database.table("item", {"id": "int4"}, key="id")
        self.source = MemorySource(self.database, slot="shared")
        self.fan_out = self.source.fan_out(max_events=BOUND)
        self.readers: list[Reader] = []
        self.failed: list[Reader] = []
        self.unread: list[int] = []
        self.unread_events = 0
        self.rows = 0
        self.given = 0
        # Whether the source is being read, though nobody may be waiting any more.
        self.reading = False
        # The last rows of transactions.
        self.ends = [0]
        # What the slot may have moved past.
        self.done = 0

    def add(self, drops: bool) -> None:
        consumer = self.fan_out.consumer("one", on_full="drop" if drops else "wait")
        self.readers.append(Reader(consumer, self.given, drops=drops))

    async def write(self, count: int) -> None:
        with self.database.transaction():
            for _ in range(count):
                self.rows += 1
                self.table.insert(id=self.rows)
                self.unread.append(self.rows)
        self.unread_events += count + 2
        self.ends.append(self.rows)
        if self.reading:
            await turns()
            self.give()

    async def read(self, reader: Reader) -> None:
        reading = asyncio.ensure_future(anext(reader.consumer))
        if reader.dropped and not reader.begun:
            with pytest.raises(ConsumerDroppedError):
                await reading
            self.readers.remove(reader)
            return
        if not (reader.begun or reader.waiting) and not self.give():
            await turns()
            assert not reading.done()
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            return
        async with asyncio.timeout(30):
            event = await reading
        assert isinstance(event, Insert)
        assert event.record["id"] == reader.take()

    def give(self) -> bool:
        """Return whether the source may be read and has something; give it to all."""
        counted = [reader for reader in self.readers if not reader.dropped]
        if any(each.is_full and not each.drops for each in counted):
            return False
        self.reading = not self.unread
        if not self.unread:
            return False
        for each in counted:
            if each.is_full:
                each.dropped = True
                each.waiting.clear()
                each.sizes.clear()
                self.acknowledge(given=self.unread[-1])
            else:
                each.give(self.unread, self.unread_events)
        self.given = self.unread[-1]
        self.unread, self.unread_events = [], 0
        return True

    def ack(self, reader: Reader) -> None:
        position = reader.consumer.position
        if position is not None:
            reader.consumer.ack(position)
            if reader.handed > reader.acknowledged:
                reader.acknowledged = reader.handed
                if not reader.dropped:
                    self.acknowledge()

    def acknowledge(self, given: int | None = None) -> None:
        """Say what the slot may move past now: what all have acknowledged."""
        counted = [reader for reader in self.readers if not reader.dropped]
        if counted:
            holding = [each for each in counted if each.acknowledged < each.given]
            rows = [each.acknowledged for each in (*holding, *self.failed)]
            upto = min(rows, default=self.given if given is None else given)
            self.done = max(self.done, upto)

    async def leave(self, reader: Reader, *, failed: bool) -> None:
        exc = ZeroDivisionError() if failed else None
        await reader.consumer.__aexit__(type(exc) if exc else None, exc, None)
        self.readers.remove(reader)
        if not reader.dropped:
            if failed:
                self.failed.append(reader)
            self.acknowledge()

    def check(self) -> None:
        confirmed = max(end for end in self.ends if end <= self.done)
        kept = [change.record["id"] for change in self.database.unacknowledged("shared")]  # type: ignore[union-attr]
        assert kept == list(range(confirmed + 1, self.rows + 1))
        counted = [reader.consumer for reader in self.readers if not reader.dropped]
        assert list(self.fan_out.consumers) == counted
        for reader in self.readers:
            assert reader.consumer.waiting_events == reader.events


async def turns() -> None:
    """Let other tasks run."""
    for _ in range(10):
        await asyncio.sleep(0)


async def play(script: list[tuple[str, Any]]) -> None:
    world = World()
    async with world.source:
        world.add(False)
        world.add(False)
        for step, what in script:
            if step == "write":
                await world.write(what)
            elif step == "add":
                world.add(what)
            elif what < len(world.readers):
                reader = world.readers[what]
                if step == "read":
                    await world.read(reader)
                elif step == "ack":
                    world.ack(reader)
                else:
                    await world.leave(reader, failed=step == "fail")
            world.check()


@pytest.mark.slow
@examples(60)
@given(steps)
def test_each_gets_all_and_the_slot_keeps_what_one_has_not_acknowledged(
    script: list[tuple[str, Any]],
) -> None:
    asyncio.run(play(script))
