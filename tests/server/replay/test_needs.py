"""What clients need, all together, and what one of them must not hold back for all others."""

from __future__ import annotations

import asyncio

import pytest

from realtime_core import LSN
from realtime_server.phoenix.actions import Departure
from realtime_server.replay import needs
from realtime_server.replay.connection_proof import ping_payload
from realtime_server.replay.lost_reasons import LostReason
from tests.waiting import eventually

from .stage import Client, Stage, batch

pytestmark = pytest.mark.asyncio


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def tick(stage: Stage, seconds: float) -> None:
    """Let some seconds pass, with all that is done meanwhile."""
    for _ in range(round(seconds)):
        stage.now += 1.0
        for _ in range(8):
            stage.proofs.tick()
        await stage.replay.tidy()


async def running(stage: Stage, client: Client, *ids: int) -> None:
    """Run replay until a client has rows."""
    task = asyncio.create_task(stage.guarded.run())
    try:
        await eventually(lambda: client.ids[-len(ids) :] == [*ids])
    finally:
        task.cancel()
        await asyncio.wait({task})


# Clients that close by themselves


def closes(client: Client) -> None:
    client.proof.closed_by_client()
    client.leave(Departure.LOST)


async def test_who_closes_gets_again_what_came_since_its_last_message_but_one(
    stage: Stage,
) -> None:
    client = Client(stage)
    client.come()
    for number in range(1, 5):
        stage.publish(*batch(16 * number, number))
        await tick(stage, 2)
        client.prove()
        await tick(stage, 4)
        client.proof.received()
    assert stage.replay.needs.proven_here() == stage.replay.handed
    closes(client)
    await tick(stage, 2)
    assert client.come().resumed
    # What it had when its last message but one came is not sent again.
    await running(stage, client, 4, 4)
    assert client.ids == [1, 2, 3, 4, 4]
    stats = stage.replay.stats()
    assert (stats.changes, stats.duplicates_possible) == (1, 1)
    assert client.gaps == []


async def test_what_a_round_brought_is_taken_back_with_the_proofs(stage: Stage) -> None:
    client = Client(stage)
    client.come()
    stage.publish(*batch(16, 1))
    client.leave()
    client.pings.clear()
    stage.publish(*batch(32, 2))
    client.come()
    await running(stage, client, 1, 2)
    await tick(stage, 2)
    client.prove()
    await tick(stage, 2)
    assert stage.replay.needs.proven_here() == stage.replay.handed
    # The page may have handled nothing of it.
    closes(client)
    assert client.come().resumed
    await running(stage, client, 1, 2, 1, 2)
    assert client.gaps == []


# Clients that prove nothing


async def test_a_client_that_answers_no_pings_holds_nobody_back(stage: Stage) -> None:
    deaf, other = Client(stage, "deaf"), Client(stage, "other")
    deaf.come()
    other.come()
    stage.publish(*batch(16, 1))
    await tick(stage, 2)
    other.prove()
    await tick(stage, 2)
    # It may still answer.
    assert stage.replay.needs.proven_here() < (16, 0)
    await tick(stage, needs.OVERDUE)
    assert stage.replay.needs.proven_here() == stage.replay.handed
    # What it needs is kept for it all the same.
    assert stage.replay.needs.lowest() < (16, 0)
    assert stage.replay.needs.first_needed_lsn() == LSN(0)
    deaf.leave()
    assert deaf.come().resumed
    await running(stage, deaf, 1, 1)


async def test_the_wal_is_not_kept_for_it_for_longer_than_the_window(stage: Stage) -> None:
    deaf = Client(stage)
    deaf.come()
    stage.publish(*batch(16, 1))
    await tick(stage, 200)
    stage.publish(*batch(32, 2))
    await tick(stage, 120)
    assert stage.replay.needs.first_needed_lsn() == LSN(16)
    # What has been handed out since counts.
    await tick(stage, 200)
    assert stage.replay.needs.first_needed_lsn() is None


async def test_who_answers_after_all_is_waited_for_again(stage: Stage) -> None:
    late = Client(stage)
    late.come()
    stage.publish(*batch(16, 1))
    await tick(stage, needs.OVERDUE + 5)
    assert late.proof.is_overdue
    late.prove()
    await tick(stage, 2)
    assert not late.proof.is_overdue
    stage.publish(*batch(32, 2))
    assert stage.replay.needs.proven_here() < (32, 0)


async def test_who_echoes_something_else_holds_nothing_back_and_is_told_of_a_gap(
    stage: Stage,
) -> None:
    client = Client(stage)
    client.come()
    stage.publish(*batch(16, 1))
    await tick(stage, 2)
    client.proof.pong(ping_payload(1 << 60))
    await tick(stage, 1)
    assert stage.replay.needs.lowest() == stage.replay.handed
    client.leave()
    stage.publish(*batch(32, 2))
    start = client.come()
    assert not start.resumed
    assert stage.replay.stats().gaps == {LostReason.UNPROVEN.value: 1}
