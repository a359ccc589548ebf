"""Collections of garbage, which look only at what has come since."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator

import attrs
import pytest

from realtime_server.net import garbage as garbage_module
from realtime_server.net.garbage import Garbage
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio


@attrs.define
class World:
    """The connections of a server, and a clock."""

    open_connections: int = 0
    ended_connections: int = 0
    now: float = 0.0

    def clock(self) -> float:
        return self.now


class Pair:
    """Refers to another one."""

    other: Pair


def pair() -> Pair:
    """Return one of two objects that refer to each other."""
    one, two = Pair(), Pair()
    one.other, two.other = two, one
    return one


def is_looked_at(thing: object) -> bool:
    """Return whether a full collection would look at something."""
    return any(one is thing for one in gc.get_objects())


@contextlib.asynccontextmanager
async def running(world: World) -> AsyncIterator[Garbage]:
    """Run it for a while."""
    garbage = Garbage(world, world.clock)
    frozen, thresholds, callbacks = gc.get_freeze_count(), gc.get_threshold(), len(gc.callbacks)
    task = asyncio.create_task(garbage.run())
    try:
        await eventually(lambda: gc.get_freeze_count() > frozen)
        yield garbage
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert (gc.get_threshold(), len(gc.callbacks)) == (thresholds, callbacks)


@pytest.mark.slow
async def test_what_survives_a_full_collection_is_left_out_of_the_next() -> None:
    first = pair()
    async with running(World()):
        assert not is_looked_at(first)
        second = pair()
        assert is_looked_at(second)
        gc.collect()
        assert not is_looked_at(second)
    # Then all is as it was before.
    assert is_looked_at(first)
    assert is_looked_at(second)


@pytest.mark.slow
async def test_garbage_among_what_came_since_is_collected() -> None:
    async with running(World()):
        gone = weakref.ref(pair())
        gc.collect()
        assert gone() is None


@pytest.mark.slow
async def test_what_becomes_garbage_later_is_collected_with_a_look_at_all() -> None:
    async with running(World()) as garbage:
        kept = pair()
        gone = weakref.ref(kept)
        gc.collect()
        del kept
        gc.collect()
        assert gone() is not None
        garbage.look_at_all()
        assert gone() is None
        # And so it goes on.
        other = pair()
        gc.collect()
        assert not is_looked_at(other)


@pytest.mark.slow
@pytest.mark.parametrize(("ended", "seconds"), [(19_999, 3599.0), (20_000, 0.0), (0, 3600.0)])
async def test_it_is_time_for_that_after_long_or_when_very_many_have_ended(
    ended: int, seconds: float
) -> None:
    world = World(50_000, 100)
    garbage = Garbage(world, world.clock)
    garbage.look_at_all()
    world.ended_connections += ended
    world.now += seconds
    assert garbage.is_time() is (ended == 20_000 or seconds == 3600.0)
    garbage.tick()
    assert not garbage.is_time()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("opened", "ended", "is_time"),
    [(0, 999, False), (0, 1000, True), (3000, 5999, False), (3000, 6000, True)],
)
async def test_it_is_time_for_that_when_most_have_ended_a_while_ago(
    opened: int, ended: int, is_time: bool
) -> None:
    world = World(opened, 100)
    garbage = Garbage(world, world.clock)
    garbage.look_at_all()
    world.ended_connections += ended
    assert not garbage.is_time()
    garbage.tick()
    assert garbage.is_time() is is_time
    garbage.tick()
    assert not garbage.is_time()


async def test_it_waits_while_the_clients_that_were_lost_come_back() -> None:
    world = World(3000)
    garbage = Garbage(world, world.clock)
    garbage.tick()
    world.ended_connections, world.open_connections = 3000, 0
    for opened in (0, 10, 500, 1000):
        world.open_connections = opened
        assert not garbage.is_time()
        garbage.tick()
    world.open_connections = 1009
    assert garbage.is_time()


async def test_it_does_not_wait_for_ever_while_clients_come_and_go() -> None:
    world = World()
    garbage = Garbage(world, world.clock)
    for ended in range(0, 20_000, 500):
        world.ended_connections = ended
        assert not garbage.is_time()
        garbage.tick()
    world.ended_connections = 20_000
    assert garbage.is_time()


@pytest.mark.slow
async def test_it_is_looked_at_by_itself_when_it_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage_module, "_INTERVAL", 0.01)
    world = World()
    async with running(world):
        kept = pair()
        gone = weakref.ref(kept)
        gc.collect()
        del kept
        world.ended_connections += 1000
        await eventually(lambda: gone() is None)
