"""Collections of garbage, which look only at what has come since."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator

import pytest

from realtime_server.net import garbage as garbage_module
from realtime_server.net.garbage import Garbage
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio


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
async def running() -> AsyncIterator[None]:
    """Run it for a while."""
    gc.unfreeze()  # what the run of the tests has left out
    frozen, thresholds, callbacks = gc.get_freeze_count(), gc.get_threshold(), len(gc.callbacks)
    task = asyncio.create_task(Garbage().run())
    try:
        await eventually(lambda: gc.get_freeze_count() > frozen)
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})
    assert (gc.get_threshold(), len(gc.callbacks)) == (thresholds, callbacks)


@pytest.mark.slow
async def test_what_survives_a_full_collection_is_left_out_of_the_next() -> None:
    first = pair()
    async with running():
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
    async with running():
        gone = weakref.ref(pair())
        gc.collect()
        assert gone() is None


@pytest.mark.slow
async def test_what_becomes_garbage_later_stays_until_everything_is_looked_at() -> None:
    async with running():
        kept = pair()
        gone = weakref.ref(kept)
        gc.collect()
        del kept
        gc.collect()
        assert gone() is not None


@pytest.mark.slow
async def test_everything_is_looked_at_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(garbage_module, "_INTERVAL", 0.01)
    async with running():
        for _ in range(2):
            kept = pair()
            gone = weakref.ref(kept)
            gc.collect()
            del kept
            await eventually(lambda gone=gone: gone() is None)


@pytest.mark.slow
async def test_no_collection_looks_at_many_objects_however_many_there_are() -> None:
    looked_at: list[int] = []
    full = 0

    def note(phase: str, info: dict[str, int]) -> None:
        nonlocal full
        if phase == "start":
            generations = range(info["generation"] + 1)
            looked_at.append(sum(len(gc.get_objects(each)) for each in generations))
            full += info["generation"] == 2

    async with running():
        gc.callbacks.append(note)
        kept = [pair() for _ in range(50_000)]
        gc.callbacks.remove(note)
    assert kept
    assert full >= 10
    # A collection of the youngest begins with so many.
    assert max(looked_at) < 4 * gc.get_threshold()[0]
