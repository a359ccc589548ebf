"""Where channels begin that join before it is known what clients of former processes have."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from realtime_server.phoenix.actions import Departure
from realtime_server.replay.absences import Absence
from realtime_server.replay.channel_starts import ChannelStarts
from tests.waiting import eventually

from .stage import Client, Stage, batch


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> tuple[Stage, ChannelStarts]:
    """A server that has not read the journal yet."""
    made: list[ChannelStarts] = []

    class Kept(ChannelStarts):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            made.append(self)

    monkeypatch.setattr("realtime_server.replay.replay.ChannelStarts", Kept)
    stage = Stage()
    made[0].held.hold()
    return stage, made[0]


def join(stage: Stage, name: str, ref: int) -> Client:
    """Let a client join whose last message had the ref before."""
    client = Client(stage, name)
    client.ref = ref - 1
    client.connect()
    client.join()
    return client


@contextlib.asynccontextmanager
async def running(stage: Stage) -> AsyncIterator[None]:
    """Bring clients up to now meanwhile."""
    task = asyncio.create_task(stage.guarded.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_who_joins_with_its_first_message_waits_for_no_journal(
    held: tuple[Stage, ChannelStarts],
) -> None:
    stage, starts = held
    new, other, gone = join(stage, "new", 1), join(stage, "other", 2), join(stage, "gone", 1)
    # What was committed before they have come.
    stage.publish(*batch(16, 1))
    assert [one.starts for one in (new, other, gone)] == [[], [], []]
    gone.leave(Departure.LEFT)
    await starts.held.release_new((20, -1))
    assert [one.resumed for one in new.starts] == [False]
    later, another = join(stage, "later", 1), join(stage, "another", 7)
    assert [one.resumed for one in later.starts] == [False]
    stage.publish(*batch(32, 2))
    assert (new.ids, later.ids) == ([2], [2])
    assert [one.starts for one in (other, another, gone)] == [[], [], []]
    await starts.held.release((20, -1))
    await asyncio.sleep(0)
    assert [len(one.starts) for one in (new, later, other, another, gone)] == [1, 1, 1, 1, 0]
    stage.publish(*batch(48, 3))
    assert (new.ids, later.ids) == ([2, 3], [2, 3])


async def test_who_was_new_and_comes_back_waits_for_the_journal(
    held: tuple[Stage, ChannelStarts],
) -> None:
    stage, starts = held
    await starts.held.release_new((0, -1))
    client = join(stage, "a", 1)
    stage.publish(*batch(16, 1))
    client.leave()
    stage.publish(*batch(32, 2))
    client.connect()
    client.join()
    assert len(client.starts) == 1
    await starts.held.release((0, -1))
    assert [one.resumed for one in client.starts] == [False, True]


@pytest.mark.parametrize("times", [1, 2])
async def test_who_is_new_and_cut_off_before_the_journal_is_known_goes_on_from_its_join(
    held: tuple[Stage, ChannelStarts], times: int
) -> None:
    """Nobody can tell it from a client that was known to nobody any more, so it is told that it
    began anew."""
    stage, starts = held
    stage.publish(*batch(16, 1))
    client = join(stage, "a", 7)
    for number in range(times):
        stage.publish(*batch(32 + 16 * number, 2 + number))
        client.leave()
        client.connect()
        client.join()
    await starts.held.release((16, -1))
    async with running(stage):
        await eventually(lambda: client.ids == [2, 3][:times])
        assert [one.resumed for one in client.starts] == [False]
        client.prove()
        client.leave()
        assert client.come().resumed


@pytest.mark.parametrize("ref", [1, 7])
async def test_who_may_not_know_that_it_has_begun_anew_is_told_once_more(ref: int) -> None:
    stage = Stage()
    client = join(stage, "a", ref)
    stage.publish(*batch(16, 1))
    for _ in range(2):
        client.leave()
        # With its first message no client can have missed anything before.
        assert client.come().resumed is (ref == 1)


@pytest.mark.parametrize(
    "how", [Departure.REJOINING, Departure.LOST], ids=["joins again", "is gone"]
)
async def test_who_is_cut_off_before_the_journal_is_known_goes_on_from_what_the_journal_says(
    held: tuple[Stage, ChannelStarts], how: Departure
) -> None:
    """Its own join on this server came later than the changes that it has missed."""
    stage, starts = held
    stage.publish(*batch(16, 1))
    client = join(stage, "a", 7)
    assert client.visit is not None
    stage.guarded.leave(client.visit, client.subscription, how)
    client.proof.close()
    stage.guarded.close(client.visit, Departure.LOST)
    key = client.visit.visitor.key({}, client.topic, client.subscription.bindings)
    assert key is not None
    before = Absence(key, 5, (0, -1), stage.now, may_be_here=True)
    stage.replay.memberships.absences.elsewhere = lambda digest: [before]
    await starts.held.release((16, -1))
    assert client.come().resumed
    async with running(stage):
        await eventually(lambda: client.ids == [1])
