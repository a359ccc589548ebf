"""However many are away or come back, replay lets others have their turn in between."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from realtime_core import Event
from realtime_server.fanout import turns
from realtime_server.fanout.hub import Hub
from realtime_server.replay.absences import Absence
from realtime_server.replay.channel_starts import ChannelStarts
from realtime_server.replay.identity import Key
from realtime_server.replay.lost_reasons import LostReason
from realtime_server.replay.publishing import CannotPublishError, Published
from realtime_server.replay.standings import STEP
from tests.waiting import eventually

from .stage import GAP, Client, Stage, batch

pytestmark = pytest.mark.asyncio

MANY = 300


class Others:
    """Other work, which counts how often it has its turn."""

    turns = 0

    async def run(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)


@pytest.fixture(autouse=True)
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each slice of time be over at once, so that no test depends on how fast a machine is."""
    monkeypatch.setattr(turns, "SLICE", 0.0)


@contextlib.asynccontextmanager
async def others() -> AsyncIterator[Others]:
    one = Others()
    running = asyncio.create_task(one.run())
    try:
        yield one
    finally:
        running.cancel()
        await asyncio.wait({running})


def key(number: int) -> Key:
    return Key(number.to_bytes(16), is_exact=True)


def leave_behind(stage: Stage, count: int) -> None:
    for number in range(count):
        one = Absence(key(number), 5, (8, 0), stage.now)
        stage.replay.memberships.absences.add(one)


async def test_forgetting_those_who_were_away_for_too_long() -> None:
    stage = Stage()
    leave_behind(stage, MANY)
    stage.now += 301
    async with others() as other:
        await stage.replay.tidy()
        assert other.turns >= MANY
    assert stage.replay.stats().away == 0


async def test_looking_at_those_who_are_here() -> None:
    stage = Stage()
    clients = [Client(stage, str(number)) for number in range(MANY)]
    for client in clients:
        client.come()
    stage.publish(*batch(16, 1))
    async with others() as other:
        await stage.replay.tidy()
        # All of them are looked at four times: what they owe, and prove, and who is settled.
        assert other.turns >= 4 * MANY // STEP
    assert stage.replay.needs.lowest() < (16, 0)
    for client in clients:
        client.prove()


async def test_those_who_come_while_the_others_are_looked_at_count() -> None:
    stage = Stage()
    away = Client(stage, "away")
    away.come()
    away.leave()
    place = stage.replay.needs.lowest()
    stage.publish(*batch(16, 1))
    for number in range(MANY):
        Client(stage, str(number)).come()
    looking = stage.replay.needs.looking()
    for _ in range(MANY // STEP + 1):
        next(looking)
    # It takes its absence away, and has a place of its own instead.
    assert away.come().resumed
    for _ in looking:
        pass
    assert stage.replay.memberships.absences.lowest() is None
    assert stage.replay.needs.lowest() == place < stage.replay.handed
    # So does whoever comes before they are looked at again.
    away.leave()
    for _ in stage.replay.needs.looking():
        pass
    assert away.come().resumed
    assert stage.replay.memberships.absences.lowest() is None
    assert stage.replay.needs.lowest() == place


async def test_a_stream_that_becomes_another_one_while_all_are_looked_at() -> None:
    stage = Stage()
    for number in range(MANY):
        Client(stage, str(number)).come()
    stage.publish(*batch(1000, 1))
    looking = stage.replay.needs.looking()
    next(looking)
    stage.publish(GAP, *batch(16, 1))
    for _ in looking:
        pass
    assert stage.replay.needs.lowest() == stage.replay.needs.proven_here() == (16, -1)


async def test_losing_all_with_the_stream_takes_no_time() -> None:
    stage = Stage()
    absences = stage.replay.memberships.absences
    stage.publish(*batch(1000, 1))
    leave_behind(stage, MANY)
    changed: list[Absence] = []
    absences.on_change = changed.append
    stage.publish(GAP, *batch(16, 1))
    assert changed == []
    assert stage.replay.stats().away == 0
    assert absences.lowest() is None
    # Whoever comes back before it is noted is told all the same.
    assert [one.lost for one in absences.of(key(7))] == [LostReason.LOST]
    [one] = absences.of(key(8))
    absences.remove(one)
    assert not absences.has(one)
    leave_behind(stage, 1)
    async with others() as other:
        await stage.replay.tidy()
        assert other.turns >= MANY - 3
    for number in range(MANY):
        kept = [None, LostReason.LOST] if number == 0 else [LostReason.LOST]
        lost = {one.lost for one in absences.of(key(number))}
        assert lost == (set() if number == 8 else set(kept))


@pytest.mark.slow
async def test_the_heap_of_what_is_needed_is_made_anew_in_steps() -> None:
    stage = Stage()
    absences = stage.replay.memberships.absences
    for number in range(20 * MANY):
        if number >= MANY:
            absences.remove(*absences.of(key(number % MANY)))
        absences.add(Absence(key(number % MANY), 5, (number, 0), stage.now))
    steps = absences.tidying()
    for _ in range(MANY // 2):
        next(steps)
    # Meanwhile somebody goes, and somebody comes.
    absences.remove(*absences.of(key(0)))
    absences.add(Absence(key(MANY), 5, (7, 0), stage.now))
    assert sum(1 for _ in steps) > 0
    assert absences.lowest() == (7, 0)
    absences.remove(*absences.of(key(MANY)))
    assert absences.lowest() == (19 * MANY + 1, 0)
    # It is short now.
    assert sum(1 for _ in absences.tidying()) == 0


async def come_back(stage: Stage) -> list[Client]:
    """Return clients that wait for a round."""
    clients = [Client(stage, str(number)) for number in range(MANY)]
    for client in clients:
        client.come()
    for client in clients:
        client.leave()
    stage.publish(*batch(16, 1))
    for client in clients:
        client.come()
    return clients


async def told_apart(stage: Stage, clients: list[Client], reason: str) -> None:
    """Assert that clients are told of a gap one by one, so that others run in between."""
    running = asyncio.create_task(stage.guarded.run())
    told: set[int] = set()

    async def watch() -> None:
        while (count := sum(bool(one.gaps) for one in clients)) < len(clients):
            told.add(count)
            await asyncio.sleep(0)

    async with asyncio.timeout(30):
        await watch()
    assert len(told) > 10
    await eventually(lambda: not stage.replay.catch_up.stats().waiting)
    running.cancel()
    await asyncio.wait({running})
    stage.publish(*batch(64, 64))
    for client in clients:
        assert client.gaps == [reason]
        assert client.ids[-1] == 64


@pytest.mark.slow
async def test_telling_those_of_a_gap_who_wait_for_a_round() -> None:
    stage = Stage()
    clients = await come_back(stage)
    stage.publish(*batch(32, 2))
    stage.replay.log.trim((40, 0))
    await told_apart(stage, clients, "replay_limit")


@pytest.mark.slow
async def test_telling_those_of_a_gap_who_are_in_a_round() -> None:
    later = Later()
    stage = later.stage = Stage(publish=later)
    clients = await come_back(stage)
    await told_apart(stage, clients, "replay_limit")


class Later:
    """The floor passes the place of a round while this publishes for the first time."""

    def __init__(self) -> None:
        self.stage: Stage | None = None
        self.count = 0

    async def __call__(self, hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        assert self.stage is not None
        self.count += 1
        if self.count == 1:
            for lsn in (32, 48):
                self.stage.publish(*batch(lsn, lsn))
            self.stage.replay.log.trim((50, 0))
        return Published()


@pytest.mark.slow
async def test_letting_those_go_who_get_nothing_of_a_round(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("realtime_server.replay.going_live._PROMOTING", 0.0)

    async def refuse(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        raise CannotPublishError("the database refuses")

    stage = Stage(publish=refuse)
    await told_apart(stage, await come_back(stage), "replay_lost")


async def test_letting_those_begin_who_have_waited_for_the_journal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[ChannelStarts] = []

    class Kept(ChannelStarts):
        def __init__(self, *arguments: Any, **more: Any) -> None:
            super().__init__(*arguments, **more)
            made.append(self)

    monkeypatch.setattr("realtime_server.replay.replay.ChannelStarts", Kept)
    stage = Stage()
    decided: list[int] = []
    [channel_starts] = made
    channel_starts.held.hold()
    clients = [Client(stage, str(number)) for number in range(MANY)]
    for client in clients:
        client.connect()
        client.join()
    assert not any(client.starts for client in clients)
    late = Client(stage, "late")
    async with others() as other:
        releasing = asyncio.create_task(channel_starts.held.release((8, 0)))
        while not releasing.done():
            decided.append(sum(bool(one.starts) for one in clients))
            if len(decided) == 5:
                late.connect()
                late.join()
                assert late.starts == []
            await asyncio.sleep(0)
        assert other.turns >= MANY
    assert len(set(decided)) > 100
    assert all(len(client.starts) == 1 for client in (*clients, late))
