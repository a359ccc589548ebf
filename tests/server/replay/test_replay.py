"""Replay as connections and the broadcaster call it, with clients that are lists."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from realtime_core import LSN, Position, StreamIdentity
from realtime_core.positions import LAST_INDEX
from realtime_server.config.choices import IdentityKind
from realtime_server.replay import inquiry
from tests.waiting import eventually

from .stage import GAP, STREAM, Client, Stage, batch

pytestmark = pytest.mark.asyncio

OTHER = StreamIdentity(8, 1, ("shop",))


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def running(stage: Stage, until: Callable[[], object]) -> None:
    """Run replay until a condition holds."""
    task = asyncio.create_task(stage.replay.run())
    try:
        await eventually(until)
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_a_client_that_comes_back_gets_what_it_missed(stage: Stage) -> None:
    client = Client(stage)
    assert not client.come().resumed
    stage.publish(*batch(16, 1))
    client.prove()
    client.leave()
    stage.publish(*batch(32, 2))
    assert client.come().resumed
    await running(stage, lambda: client.ids == [1, 2])
    assert client.gaps == []


# Another stream, whose places begin below those of the former one.


async def test_writes_of_a_former_stream_prove_nothing_of_another(stage: Stage) -> None:
    replay, client = stage.replay, Client(stage)
    client.come()
    for lsn in range(1000, 1100, 8):
        stage.publish(*batch(lsn, lsn))
        client.prove()
        stage.now += 0.3
    stage.publish(*batch(1104, 1))
    # It has proven some of it, and not all.
    assert (1000, 0) < replay.place_at(client.cursor.proven, None) < replay.handed
    stage.publish(GAP)
    stage.publish(*batch(16, 1, stream=OTHER))
    stage.publish(*batch(32, 2, stream=OTHER))
    assert replay.place_at(client.cursor.proven, None) < (16, 0)
    assert replay.needed() < (16, 0)
    assert replay.log.floor == (16, -1)
    replay.tidy()
    assert replay.log.floor == (16, -1)


async def test_a_queue_of_a_former_stream_says_nothing_of_another(stage: Stage) -> None:
    queues = stage.replay.queues
    client = Client(stage)
    client.come()
    stage.publish(*batch(1000, 1))
    queues.note("slow", Position(LSN(1000), 0, STREAM))
    queues.note("waited", Position(LSN(1000), 0, STREAM))
    queues.note("waited", None)
    stage.publish(GAP)
    stage.publish(*batch(16, 2, stream=OTHER))
    stage.publish(*batch(32, 3, stream=OTHER))
    # What waits is still the former stream's, so nothing of this one has been sent.
    assert stage.replay.handed_to("slow") < (16, 0)
    assert stage.replay.handed_to("waited") == (32, LAST_INDEX)
    queues.note("slow", Position(LSN(1008), 0, STREAM))
    assert stage.replay.handed_to("slow") < (16, 0)
    queues.note("slow", Position(LSN(32), 0, OTHER))
    assert stage.replay.handed_to("slow") == (32, -1)
    queues.note("slow", None)
    assert stage.replay.handed_to("slow") == (32, LAST_INDEX)


# Tokens that say nothing of who somebody is.


async def test_a_channel_that_waits_begins_when_its_token_says_no_more_who_it_is() -> None:
    stage = Stage(kinds=(IdentityKind.CLAIMS,))
    former = Client(stage)
    former.come({"sub": "ann"})
    # The former connection does not answer, so the later one waits.
    later = Client(stage)
    later.ref = 10
    later.connect()
    later.join({"sub": "ann"})
    assert later.starts == []
    stage.publish(*batch(16, 1))
    later.renew({})
    assert [one.resumed for one in later.starts] == [False]
    await running(stage, lambda: later.ids == [1])
    stage.publish(*batch(32, 2))
    assert later.ids == [1, 2]
    later.leave()


async def test_a_channel_that_waits_in_vain_begins_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inquiry, "WITHIN", 0.01)
    stage = Stage(kinds=(IdentityKind.CLAIMS,))
    former, later = Client(stage), Client(stage)
    former.come({"sub": "ann"})
    later.ref = 10
    later.connect()
    later.join({"sub": "ann"})
    later.renew({})
    asked = Client(stage)
    asked.ref = 20
    asked.connect()
    asked.join({"sub": "ann"})
    await eventually(lambda: asked.starts)
    assert len(later.starts) == 1
    stage.publish(*batch(16, 1))
    assert later.ids == [1]
