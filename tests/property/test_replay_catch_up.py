"""The switch from a round to the live hub: each channel gets exactly what is behind its place.

Channels come back at random places and at random times, leave again, and fall behind, while batches
are published that are cut into slices at random, all on a virtual clock. Whatever a channel was
sent must be what the stream has behind its place: nothing left out, sent twice or overtaken.
"""

from __future__ import annotations

import asyncio
import json
import selectors
from collections.abc import Coroutine
from functools import lru_cache
from random import Random
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from realtime_core import (
    LSN,
    Begin,
    Commit,
    Event,
    Gap,
    GapReason,
    Insert,
    Position,
    Record,
    Transaction,
    Truncate,
)
from realtime_server.fanout.frames import Frames
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.topic_parser import Topic
from realtime_server.fanout.turns import run_steps
from realtime_server.phoenix.serializers import SERIALIZERS
from realtime_server.replay.catch_up import CatchUp
from realtime_server.replay.change_log import ChangeLog
from realtime_server.replay.places import BEFORE, Place, place_behind_gap, place_of
from realtime_server.replay.publishing import one_at_a_time

from ..server_helpers import COMMIT_TIME, make_relation
from .examples import examples

TODOS = make_relation()


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock goes forward when nothing is left to do, and a little otherwise."""

    def __init__(self, random: Random) -> None:
        super().__init__(_Selector(self))
        self.now = 0.0
        self.random = random

    def time(self) -> float:
        # So slices of time are over at random.
        self.now += self.random.choice((0.0, 0.0, 0.0001, 0.002))
        return self.now


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout:
            self._loop.now += timeout
        return super().select(0)


def run_virtual(main: Coroutine[Any, Any, None], random: Random) -> None:
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(random)) as runner:
        runner.run(asyncio.wait_for(main, 10_000))


class Outbox:
    """Remembers what it got: for each topic the ids of rows, or the events."""

    def __init__(self) -> None:
        self.sent: dict[str, list[str]] = {}
        self.is_behind = False

    def write(self, frames: Frames) -> None:
        for payload in frames.payloads:
            topic, look = _look(payload)
            self.sent.setdefault(topic, []).append(look)


@lru_cache(maxsize=10_000)
def _look(payload: bytes) -> tuple[str, str]:
    frame = json.loads(payload)
    event = frame["event"]
    return frame["topic"], frame["payload"]["record"]["id"] if event == "INSERT" else event


@attrs.define(eq=False)
class Channel:
    """A channel that came back, and what it is to get."""

    subscription: Subscription
    outbox: Outbox
    place: Place
    """Behind which it is to get everything."""
    has_left: bool = False
    is_live: bool = False
    gaps: list[tuple[Place, Place]] = attrs.field(factory=list)
    """What it was told to be lost."""

    @property
    def sent(self) -> list[str]:
        """What it was sent, each as :attr:`World.stream` has it."""
        return self.outbox.sent.get(self.subscription.topic.name, [])


class World:
    """A stream, its broadcaster, and the channels that come back to it."""

    def __init__(self, random: Random, *, max_bytes: int = 1 << 30) -> None:
        self.random = random
        self.stream: list[tuple[Place, str]] = []
        """The place of each change and gap, and how it looks."""
        loop = asyncio.get_running_loop()
        self.log = ChangeLog(max_bytes=max_bytes, window=1e9, clock=loop.time)
        self.hub = self.new_hub()
        self.channels: dict[Subscription, Channel] = {}
        self.catch_up = CatchUp(
            self.log,
            self.hub,
            self.new_hub,
            publish=one_at_a_time(),
            on_live=self.on_live,
            on_floor=self.on_floor,
            on_slow=self.on_floor,
            on_lost=self.on_floor,
        )
        self.went_live = asyncio.Event()
        self.lsn = 16
        self.last: Place = BEFORE
        self.count = 0

    def new_hub(self) -> Hub:
        return Hub(clock=asyncio.get_running_loop().time)

    def on_live(self, subscription: Subscription) -> None:
        channel = self.channels[subscription]
        assert not channel.is_live
        assert subscription.is_open
        channel.is_live = True
        self.went_live.set()

    def on_floor(self, subscription: Subscription, after: Place, until: Place) -> None:
        channel = self.channels[subscription]
        assert after < until
        # It has got everything before the gap, and nothing behind it.
        assert channel.sent == self.due(channel, up_to=after)
        channel.gaps.append((after, until))

    def batch(self) -> list[Event]:
        """Make the next batch: parts of transactions, and now and then a gap."""
        events: list[Event] = []
        for _ in range(self.random.randrange(1, 5)):
            self.lsn += self.random.randrange(1, 50)
            one = Transaction(self.lsn, LSN(self.lsn), COMMIT_TIME)
            rows: list[Event] = []
            for index in range(self.random.choice((0, 1, 1, 1, 3, 30))):
                self.count += 1
                text = str(self.count)
                rows.append(Insert(one, index, TODOS, Record(TODOS.shape, (text, "x"))))
            if self.random.random() < 0.1:
                rows.append(Truncate(one, len(rows), (TODOS,), False, False))
            events += [Begin(one), *rows, Commit(one, LSN(self.lsn + 8), len(rows))]
            if self.random.random() < 0.05:
                events.append(Gap(None, Position(LSN(self.lsn)), GapReason.LAG))
        for event in events:
            self._note(event)
        return events

    def _note(self, event: Event) -> None:
        place = place_behind_gap(self.last) if isinstance(event, Gap) else place_of(event)
        if place is None:
            return
        self.last = place
        match event:
            case Insert():
                self.stream.append((place, str(event.record.fields[0])))
            case Truncate():
                self.stream.append((place, "TRUNCATE"))
            case Gap():
                self.stream.append((place, "system"))

    async def broadcast(self, batches: int) -> None:
        for _ in range(batches):
            if self.random.random() < 0.5:
                await asyncio.sleep(self.random.choice((0, 0.001, 0.01, 0.05)))
            batch = self.batch()
            self.catch_up.before(batch)
            await run_steps(self.hub.publishing(batch))
            self.catch_up.after()

    async def come_and_go(self, count: int) -> None:
        random = self.random
        for _ in range(count):
            await asyncio.sleep(random.choice((0, 0, 0.001, 0.02)))
            outbox = Outbox()
            for topic in random.sample(("realtime:public", "realtime:*"), random.randrange(1, 3)):
                place = random.choice([BEFORE, self.catch_up.handed, *(p for p, _ in self.stream)])
                # What has not been handed out, nobody has.
                place = min(place, self.catch_up.handed)
                subscription = Subscription(Topic.parse(topic), SERIALIZERS["1.0.0"], outbox)
                channel = Channel(subscription, outbox, place)
                self.channels[subscription] = channel
                self.catch_up.add(subscription, place)
            for channel in random.sample(list(self.channels.values()), 1):
                if random.random() < 0.2:
                    self.leave(channel)
                elif random.random() < 0.3:
                    channel.outbox.is_behind = not channel.outbox.is_behind

    def leave(self, channel: Channel) -> None:
        if channel.has_left:
            return
        channel.has_left = True
        subscription = channel.subscription
        place = self.catch_up.place_of(subscription)
        assert (place is None) == channel.is_live
        if place is not None:
            # It may have got a part of what is being published, too.
            least = self.due(channel, up_to=place)
            assert channel.sent[: len(least)] == least
        self.catch_up.remove(subscription)
        if channel.is_live:
            self.hub.unsubscribe(subscription)

    def due(self, channel: Channel, *, up_to: Place) -> list[str]:
        """Return what a channel is to get up to a place."""
        return [
            look
            for place, look in self.stream
            if channel.place < place <= up_to
            and not any(after < place <= until for after, until in channel.gaps)
        ]

    def check(self, channel: Channel) -> None:
        """See that a channel got what is due, or the beginning of that if it has left."""
        sent, due = channel.sent, self.due(channel, up_to=self.last)
        if channel.has_left:
            assert sent == due[: len(sent)]
        else:
            assert channel.is_live
            assert sent == due


async def live(random: Random, *, max_bytes: int = 1 << 30) -> World:
    world = World(random, max_bytes=max_bytes)
    running = asyncio.create_task(world.catch_up.run())
    try:
        await world.broadcast(random.randrange(20))
        async with asyncio.TaskGroup() as group:
            group.create_task(world.broadcast(random.randrange(60)))
            group.create_task(world.come_and_go(random.randrange(1, 30)))
        for channel in world.channels.values():
            channel.outbox.is_behind = False
        while world.catch_up.stats().waiting:
            world.went_live.clear()
            await world.went_live.wait()
        # All are live now, and stay it.
        await world.broadcast(2)
    finally:
        running.cancel()
        await asyncio.wait({running})
    assert running.cancelled()
    for channel in world.channels.values():
        world.check(channel)
    assert not [*world.catch_up.places()]
    return world


@pytest.mark.slow
@examples(30)
@given(st.integers(0, 2**32 - 1))
def test_each_channel_gets_exactly_what_is_behind_its_place(seed: int) -> None:
    random = Random(seed)

    async def main() -> None:
        world = await live(random)
        assert not any(channel.gaps for channel in world.channels.values())

    run_virtual(main(), random)


@pytest.mark.slow
@examples(30)
@given(st.integers(0, 2**32 - 1))
def test_what_the_log_does_not_have_any_more_is_told_as_a_gap(seed: int) -> None:
    random = Random(seed)

    async def main() -> None:
        await live(random, max_bytes=20_000)

    run_virtual(main(), random)
