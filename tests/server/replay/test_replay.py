"""Replay as connections and the broadcaster call it, with clients that are lists."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import pytest

from realtime_core import LSN, Event, Position, StreamIdentity
from realtime_core.positions import LAST_INDEX
from realtime_server.auth.authorizer import ConnectRequest
from realtime_server.config.choices import IdentityKind
from realtime_server.fanout.hub import Hub
from realtime_server.phoenix.actions import Departure
from realtime_server.replay import catch_up, guarded_replay, liveness_checks
from realtime_server.replay.channel_starts import ChannelStarts
from realtime_server.replay.identity import Identifier
from realtime_server.replay.lost_reasons import LostReason
from realtime_server.replay.membership import Choice
from realtime_server.replay.memberships import Memberships
from realtime_server.replay.parking import Parking
from realtime_server.replay.publishing import Published
from realtime_server.replay.standings import Standings
from tests.waiting import eventually

from .stage import GAP, STREAM, Client, Stage, batch

pytestmark = pytest.mark.asyncio

OTHER = StreamIdentity(8, 1, ("shop",))


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def running(stage: Stage, until: Callable[[], object]) -> None:
    """Run replay until a condition holds."""
    task = asyncio.create_task(stage.guarded.run())
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


async def test_who_is_lost_while_it_catches_up_goes_on_behind_the_last_step_it_has_proven(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catch_up, "_STEP", 1)
    client = Client(stage)
    client.come()
    client.leave()
    for number in range(1, 5):
        stage.publish(*batch(16 * number, number))
    client.come()
    await running(stage, lambda: client.ids == [1, 2, 3, 4])
    # It was asked behind the first one.
    assert len(client.pings) == 1
    client.prove()
    client.leave()
    client.come()
    await running(stage, lambda: client.ids == [1, 2, 3, 4, 2, 3, 4])


async def test_who_went_on_behind_its_place_is_told_late(stage: Stage) -> None:
    async def come(client: Client) -> None:
        client.connect()
        client.join()
        for other in (one, third, stranger):
            other.prove()
        await asyncio.sleep(0)

    one, third, stranger = (Client(stage, session=False) for _ in range(3))
    one.come()
    third.ref = 4
    await come(third)
    stage.publish(*batch(16, 1))
    one.prove()
    third.prove()
    one.leave()
    stage.publish(*batch(32, 2))
    # Somebody who has the same address, and comes for the first time.
    stranger.ref = 10
    await come(stranger)
    await running(stage, lambda: stranger.ids == [2])
    third.prove()
    third.leave()
    stage.publish(*batch(48, 3))
    # It is taken for the third one.
    one.ref = 7
    await come(one)
    await running(stage, lambda: one.ids == [1, 3])
    assert one.gaps == []
    third.ref = 8
    await come(third)
    assert third.gaps == ["replay_lost"]
    assert one.gaps == ["replay_lost"]
    gap = one.messages[-1]["payload"]["gap"]
    assert [gap[name].split("@")[0] for name in ("after", "until")] == [
        str(Position(LSN(lsn), LAST_INDEX)) for lsn in (16, 32)
    ]
    # Before that has arrived, its client does not know.
    one.leave()
    await come(one)
    assert one.gaps == ["replay_lost"] * 2
    one.proof.ask()
    one.prove()
    one.leave()
    await come(one)
    assert one.gaps == ["replay_lost"] * 2


# Another stream, whose places begin below those of the former one.


# A client that begins anew is told so until it has read that.


@pytest.fixture
async def anew(stage: Stage) -> Client:
    """A client that was cut before it has read that it begins anew, has come back, and was told so
    again. It has not got what came meanwhile."""
    client = Client(stage)
    client.ref = 4
    assert not client.come().resumed
    client.leave()
    stage.publish(*batch(16, 1))
    assert not client.come().resumed
    client.proof.ask()
    return client


async def test_who_has_read_that_it_begins_anew_is_not_told_so_again(
    stage: Stage, anew: Client
) -> None:
    anew.prove()
    anew.leave()
    assert anew.come().resumed
    await running(stage, lambda: anew.ids == [1])


async def test_who_may_not_have_read_that_it_begins_anew_is_told_so_again(anew: Client) -> None:
    anew.leave()
    assert not anew.come().resumed


async def test_who_ignores_that_it_begins_anew_is_told_so_again(stage: Stage, anew: Client) -> None:
    # It has given up the join.
    stage.now += 6
    anew.prove()
    anew.leave()
    assert not anew.come().resumed


async def test_a_page_that_closes_may_not_have_read_that_it_begins_anew(anew: Client) -> None:
    # Its browser has.
    anew.prove()
    anew.proof.closed_by_client()
    anew.leave()
    assert not anew.come().resumed


# A client that has given up a join ignores its answer, and the changes behind it, too.


@pytest.fixture
async def late(stage: Stage) -> Client:
    """A client that proves only after a while that it has the answer to its join, and a change."""
    client = Client(stage)
    client.come()
    stage.publish(*batch(16, 1))
    stage.now += 6
    client.prove()
    assert client.proof.proven == client.proof.written
    return client


@pytest.mark.parametrize("leaves", [True, False], ids=["leaves", "joins again"])
async def test_a_channel_whose_join_was_given_up_goes_on_where_that_began(
    stage: Stage, late: Client, leaves: bool
) -> None:
    stage.publish(*batch(32, 2))
    late.prove()
    late.rejoin(leaves=leaves)
    assert late.starts[-1].resumed
    await running(stage, lambda: late.ids == [1, 2, 1, 2])


async def test_a_client_that_had_given_up_its_join_comes_back_to_where_that_began(
    stage: Stage, late: Client
) -> None:
    late.leave()
    assert late.come().resumed
    await running(stage, lambda: late.ids == [1, 1])


async def test_a_join_that_has_waited_in_the_server_may_have_been_given_up_as_well(
    stage: Stage,
) -> None:
    client = Client(stage)
    client.connect()
    client.join(waited=6)
    stage.publish(*batch(16, 1))
    client.prove()
    client.leave()
    assert client.come().resumed
    await running(stage, lambda: client.ids == [1, 1])


async def test_a_join_whose_answer_has_come_in_time_was_not_given_up_however_late_it_is_looked_at(
    stage: Stage,
) -> None:
    client = Client(stage)
    client.come()
    stage.publish(*batch(16, 1))
    stage.now += 1
    client.prove()
    # Nothing is looked at any more by a server that stops, which may take long.
    stage.now += 6
    client.leave()
    stage.publish(*batch(32, 2))
    assert client.come().resumed
    await running(stage, lambda: client.ids == [1, 2])


async def test_a_channel_that_was_left_before_its_joins_answer_goes_on_where_the_join_began(
    stage: Stage,
) -> None:
    client = Client(stage)
    client.come()
    stage.publish(*batch(16, 1))
    stage.guarded.leave(client.visit, client.subscription, Departure.LEFT)
    # The answer comes after all.
    client.prove()
    client.join()
    await running(stage, lambda: client.ids == [1, 1])


@pytest.fixture
async def behind(stage: Stage) -> Client:
    """A page that leaves a channel when its join has timed out, though its browser has answered."""
    client = Client(stage)
    client.connect()
    client.proof.received()
    client.join()
    stage.publish(*batch(16, 1))
    client.prove()
    await stage.replay.tidy()
    stage.now += 10
    client.proof.received()
    stage.guarded.leave(client.visit, client.subscription, Departure.LEFT)
    stage.publish(*batch(32, 2))
    return client


async def test_a_page_that_may_have_given_up_its_join_gets_all_when_it_joins_again(
    stage: Stage, behind: Client
) -> None:
    behind.join()
    assert behind.starts[-1].resumed
    await running(stage, lambda: behind.ids == [1, 1, 2])


async def test_a_page_that_may_have_given_up_its_join_gets_all_when_it_comes_back(
    stage: Stage, behind: Client
) -> None:
    behind.proof.close()
    stage.guarded.close(behind.visit, Departure.LOST)
    assert behind.come().resumed
    await running(stage, lambda: behind.ids == [1, 1, 2])


async def test_a_page_that_does_not_join_again_has_left_for_good(
    stage: Stage, behind: Client
) -> None:
    stage.now += 31
    await stage.replay.tidy()
    behind.join()
    assert not behind.starts[-1].resumed
    behind.leave(Departure.LEFT)


async def test_a_page_that_has_sent_something_since_leaves_for_good(stage: Stage) -> None:
    client = Client(stage)
    client.connect()
    client.proof.received()
    client.join()
    client.proof.ask()
    client.prove()
    await stage.replay.tidy()
    for _ in range(2):
        stage.now += 10
        client.proof.received()
    stage.guarded.leave(client.visit, client.subscription, Departure.LEFT)
    stage.publish(*batch(16, 1))
    client.join()
    assert [one.resumed for one in client.starts] == [False, False]


@pytest.mark.parametrize("after", [1, 40], ids=["at once", "long after a late answer"])
async def test_a_channel_whose_client_has_the_answer_goes_on_exactly_where_it_ended(
    stage: Stage, after: int
) -> None:
    client = Client(stage)
    client.come()
    stage.publish(*batch(16, 1))
    stage.now += after - 1
    client.prove()
    await stage.replay.tidy()
    stage.now += after
    stage.publish(*batch(32, 2))
    client.rejoin(leaves=False)
    stage.publish(*batch(48, 3))
    await running(stage, lambda: client.ids == [1, 2, 3])


async def test_a_client_that_never_answers_is_not_taken_for_a_late_one_for_ever(
    stage: Stage,
) -> None:
    client = Client(stage)
    client.come()
    stage.publish(*batch(16, 1))
    stage.now += 100
    client.rejoin(leaves=False)
    stage.publish(*batch(32, 2))
    await running(stage, lambda: client.ids == [1, 2])


async def test_writes_of_a_former_stream_prove_nothing_of_another(stage: Stage) -> None:
    replay, client = stage.replay, Client(stage)
    client.come()
    for lsn in range(1000, 1100, 8):
        stage.publish(*batch(lsn, lsn))
        client.prove()
        stage.now += 0.3
    stage.publish(*batch(1104, 1))
    # It has proven some of it, and not all.
    assert (1000, 0) < replay.place_at(client.proof.proven, None) < replay.handed
    stage.publish(GAP)
    stage.publish(*batch(16, 1, stream=OTHER))
    stage.publish(*batch(32, 2, stream=OTHER))
    assert replay.place_at(client.proof.proven, None) < (16, 0)
    assert replay.needs.lowest() < (16, 0)
    assert replay.log.floor == (16, -1)
    await replay.tidy()
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
    monkeypatch.setattr(liveness_checks, "WITHIN", 0.01)
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


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("session", [True, False])
async def test_who_comes_back_while_the_former_connection_closes_goes_on(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, ends: bool, session: bool
) -> None:
    monkeypatch.setattr(liveness_checks, "WITHIN", 0.01)
    client, again = (Client(stage, session=session) for _ in range(2))
    client.come()
    stage.publish(*batch(16, 1))
    client.prove()
    for _ in range(2):
        stage.now += 10
        client.proof.received()
    # The close frame has come, and the end of the TCP connection takes some time.
    client.proof.closed_by_client()
    stage.publish(*batch(32, 2))
    again.ref = 10
    again.connect()
    again.join()
    if ends:
        client.leave()
    await eventually(lambda: again.starts)
    assert [one.resumed for one in again.starts] == [True]
    await running(stage, lambda: again.ids[-1:] == [2])
    if not ends:
        client.leave()
    assert len(stage.replay.memberships.absences) == 0


async def wait_for_a(stage: Stage, client: Client, *, is_sure: bool = False) -> None:
    """Bring a client of the viewer A to where a change of 32 waits for A's slow policies, and one
    of 48 has come."""
    client.come({"sub": "ann"})
    client.renew({"sub": "ann"}, viewer="A")
    stage.publish(*batch(16, 1))
    client.prove()
    # The hub sends nothing of it.
    stage.guarded.before(batch(32, 2))
    stage.replay.queues.note("A", Position(LSN(32), 0, STREAM))
    stage.guarded.after()
    stage.now += 2
    stage.publish(*batch(48, 3))
    client.prove()
    # The server sees in time that the client has the answer to its join.
    await stage.replay.tidy()
    for _ in range(2 * is_sure):
        stage.now += 10
        client.proof.received()


@pytest.mark.parametrize("has_proven", [False, True])
async def test_what_waits_for_a_former_viewer_is_not_passed_over_in_silence(
    stage: Stage, has_proven: bool
) -> None:
    client = Client(stage)
    await wait_for_a(stage, client)
    # Another channel of A's keeps the queue.
    stage.replay.queues.let_go = lambda viewer, channel: viewer == "A"
    client.renew({"sub": "ann"}, viewer="B")
    assert (client.ids, client.gaps) == ([1, 3], ["token_replaced"])
    stage.replay.queues.note("A", None)
    stage.now += 2
    stage.publish(*batch(64, 4))
    if has_proven:
        client.prove()
    client.leave()
    assert client.come({"sub": "ann"}).resumed is True
    # If the message may not have arrived, it gets what B may see of it.
    again = [] if has_proven else [1, 2, 3, 4]
    await running(stage, lambda: client.ids == [1, 3, 4, *again])
    assert client.gaps == ["token_replaced"]


async def test_who_misses_nothing_that_waits_is_told_of_nothing(stage: Stage) -> None:
    client = Client(stage)
    await wait_for_a(stage, client)
    client.renew({"sub": "ann"}, viewer="B")
    stage.now += 2
    stage.publish(*batch(64, 4))
    client.prove()
    client.leave()
    assert client.come({"sub": "ann"}).resumed is True
    assert (client.ids, client.gaps) == ([1, 3, 4], [])


async def test_a_change_of_the_batch_under_way_that_waits_is_told_of(stage: Stage) -> None:
    client = Client(stage)
    client.come({"sub": "ann"})
    client.renew({"sub": "ann"}, viewer="A")
    stage.guarded.before(batch(32, 2))
    stage.replay.queues.note("A", Position(LSN(32), 0, STREAM))
    # The rest of the batch is not out yet.
    stage.replay.queues.let_go = lambda viewer, channel: True
    client.renew({"sub": "ann"}, viewer="B")
    assert client.gaps == ["token_replaced"]
    assert client.messages[-1]["payload"]["gap"]["until"].startswith("0/20:")
    stage.guarded.after()


async def test_what_a_channel_needs_that_has_another_viewer_is_kept(stage: Stage) -> None:
    client = Client(stage)
    await wait_for_a(stage, client, is_sure=True)
    await stage.replay.tidy()
    stage.replay.queues.let_go = lambda viewer, channel: True
    client.renew({"sub": "ann"}, viewer="B")
    # Nobody else needs the change of 32.
    stage.replay.queues.note("A", None)
    stage.replay.queues.forget("A")
    stage.now += 20
    client.proof.received()
    await stage.replay.tidy()
    assert stage.replay.needs.lowest() == (32, -1)
    client.leave()
    assert client.come({"sub": "ann"}).resumed is True
    await running(stage, lambda: client.ids == [1, 3, 2, 3])


@pytest.mark.parametrize("has_proven", [False, True])
async def test_a_gap_that_a_client_may_not_know_of_is_told_again_after_another_token(
    stage: Stage, has_proven: bool
) -> None:
    client = Client(stage)
    client.come({"sub": "ann"})
    client.renew({"sub": "ann"}, viewer="A")
    client.leave()
    stage.replay.memberships.absences.lose_all(LostReason.LOST)
    client.come({"sub": "ann"})
    assert client.gaps == ["replay_lost"]
    client.renew({"sub": "ann"}, viewer="A")
    stage.now += 2
    stage.publish(*batch(16, 1))
    if has_proven:
        client.prove()
    stage.replay.queues.note("A", Position(LSN(32), 0, STREAM))
    stage.replay.queues.note("A", None)
    client.renew({"sub": "ann"}, viewer="B")
    client.leave()
    resumed = client.come({"sub": "ann"}).resumed
    assert (resumed, client.gaps) == (has_proven, ["replay_lost"] * (2 - has_proven))


async def test_a_gap_that_a_client_knows_of_is_not_told_again_when_it_joins_again(
    stage: Stage,
) -> None:
    client = Client(stage)
    client.come()
    client.leave()
    stage.replay.memberships.absences.lose_all(LostReason.LOST)
    client.come()
    assert client.gaps == ["replay_lost"]
    stage.now += 2
    stage.publish(*batch(16, 1))
    client.prove()
    # The channel ends, and is joined again on the same connection, which breaks at once.
    stage.guarded.leave(client.visit, client.subscription, Departure.REJOINING)
    client.join()
    client.leave()
    assert client.come().resumed is True
    assert client.gaps == ["replay_lost"]


async def test_a_viewers_last_channel_is_not_behind_once_its_gap_has_arrived(stage: Stage) -> None:
    client = Client(stage)
    client.come({"sub": "ann"})
    client.renew({"sub": "ann"}, viewer="A")
    stage.guarded.before(batch(32, 2))
    stage.replay.queues.note("A", Position(LSN(32), 0, STREAM))
    stage.guarded.after()
    # The queue ends with the viewer's last channel, and has told it so.
    stage.replay.queues.forget("A")
    client.renew({"sub": "ann"}, viewer="B")
    assert client.gaps == []
    stage.publish(*batch(48, 3))
    stage.now += 2
    stage.publish(*batch(64, 4))
    client.prove()
    client.leave()
    assert client.come({"sub": "ann"}).resumed is True
    assert (client.ids, client.gaps) == ([3, 4], [])


# The log.


@pytest.mark.slow
async def test_a_thousand_gaps_are_one_line(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clients = [Client(stage, str(number)) for number in range(1000)]

    async def all_come_back() -> list[str]:
        for client in clients:
            client.come()
            client.leave()
        stage.replay.memberships.absences.lose_all(LostReason.LOST)
        for client in clients:
            client.come()
            client.leave()
        known = len(caplog.messages)
        for _ in range(3):
            await stage.replay.tidy()
        return caplog.messages[known:]

    loop = asyncio.get_running_loop()
    began = loop.time()
    # However long it takes here.
    monkeypatch.setattr(loop, "time", lambda: began)
    said = "1000 channels miss changes: replay_lost; one of them is 'realtime:*'"
    assert await all_come_back() == [said]
    # Not again within ten seconds. They are told once more, as they proved nothing.
    assert await all_come_back() == []
    monkeypatch.setattr(loop, "time", lambda: began + 11)
    assert await all_come_back() == [said.replace("1000", "4000")]


# Failures of replay itself.


def fail(*arguments: object, **more: object) -> None:
    raise KeyError("a bug")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[object, str], None]:
    return lambda thing, name: monkeypatch.setattr(thing, name, fail)


async def test_a_stream_goes_on_though_replay_fails_with_each_batch(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    here, away = Client(stage, "here"), Client(stage, "away")
    here.come()
    away.come()
    stage.publish(*batch(16, 1))
    away.prove()
    away.leave()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.replay.log, "append", fail)
        for lsn in (32, 48, 64):
            stage.publish(*batch(lsn, lsn))
    assert here.ids == [1, 32, 48, 64]
    assert stage.guarded.stats().failures == 3
    [line] = [one for one in caplog.records if one.levelname == "ERROR"]
    assert line.exc_info is not None
    # From then on, it replays again.
    assert not away.come().resumed
    assert away.gaps == ["replay_lost"]
    await running(stage, lambda: away.subscription.is_open)
    stage.now += 2
    stage.publish(*batch(80, 80))
    assert away.ids == [1, 80]
    away.prove()
    here.prove()
    away.leave()
    stage.publish(*batch(96, 96))
    assert away.come().resumed
    await running(stage, lambda: away.ids == [1, 80, 96])


async def test_channels_go_live_when_replay_fails_behind_a_batch(stage: Stage) -> None:
    client, here = Client(stage), Client(stage, "here")
    here.come()
    client.come()
    client.leave()
    stage.publish(*batch(16, 1))
    assert client.come().resumed
    # It waits for a round.
    assert stage.replay.catch_up.stats().waiting == 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.replay.catch_up, "after", fail)
        stage.publish(*batch(32, 2))
    assert client.gaps == ["replay_lost"]
    assert client.subscription.is_open
    assert stage.replay.catch_up.stats().waiting == 0
    stage.publish(*batch(48, 3))
    assert (client.ids, here.ids) == ([3], [1, 2, 3])


async def test_a_round_that_runs_while_replay_fails_leaves_everybody_live(stage: Stage) -> None:
    client = Client(stage)
    client.come()
    client.leave()
    for lsn in range(16, 1600, 16):
        stage.publish(*batch(lsn, *range(lsn, lsn + 10)))
    client.come()
    task = asyncio.create_task(stage.guarded.run())
    try:
        async with asyncio.timeout(30):
            # Looked at in each turn: the round would be over soon.
            while not stage.replay.catch_up.stats().running:  # noqa: ASYNC110
                await asyncio.sleep(0)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stage.replay.log, "append", fail)
            stage.publish(*batch(1600, 1))
        assert client.gaps == ["replay_lost"]
        known = len(client.ids)
        stage.publish(*batch(1616, 2))
        await eventually(lambda: not stage.replay.catch_up.stats().running)
        assert client.ids[known:] == [2]
    finally:
        task.cancel()
        await asyncio.wait({task})


@pytest.mark.parametrize("part", ["_begin_round", "_let_all_go"])
async def test_rounds_that_cannot_begin_leave_nobody_waiting(
    stage: Stage, broken: Callable[[object, str], None], part: str
) -> None:
    client = Client(stage)
    client.come()
    client.leave()
    stage.publish(*batch(16, 1))
    client.come()
    broken(stage.replay.catch_up, part)
    # It does not end, either: the server would.
    await running(stage, lambda: client.subscription.is_open)
    assert client.gaps == ["replay_lost"]
    stage.publish(*batch(32, 2))
    assert client.ids == [2]


@pytest.mark.slow
async def test_replay_forgets_and_asks_though_that_has_failed(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarded_replay, "_RETRY", 0.01)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.replay, "tidy", fail)
        task = asyncio.create_task(stage.guarded.run())
        await eventually(lambda: stage.guarded.stats().failures)
    tidied = asyncio.Event()

    async def tidy() -> None:
        tidied.set()

    monkeypatch.setattr(stage.replay, "tidy", tidy)
    await tidied.wait()
    task.cancel()
    await asyncio.wait({task})


@pytest.mark.parametrize(
    ("part", "name"),
    [(Parking, "take"), (Memberships, "enter"), (Standings, "add"), (ChannelStarts, "begin")],
)
async def test_a_channel_goes_live_though_replay_fails_with_its_join(
    stage: Stage, broken: Callable[[object, str], None], part: type, name: str
) -> None:
    broken(part, name)
    client = Client(stage)
    assert not client.come().resumed
    stage.publish(*batch(16, 1))
    assert client.ids == [1]
    client.leave()
    stage.publish(*batch(32, 2))
    assert client.ids == [1]


async def test_a_channel_whose_end_replay_fails_with_gets_nothing_and_then_a_gap(
    stage: Stage,
) -> None:
    client = Client(stage)
    client.come()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.replay.memberships, "depart", fail)
        client.leave()
    stage.publish(*batch(16, 1))
    assert client.ids == []
    assert not client.come().resumed
    assert client.gaps == ["replay_lost"]


async def test_a_token_counts_though_replay_fails_with_it(stage: Stage) -> None:
    client = Client(stage)
    client.come()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage.replay.catch_up, "move", fail)
        client.renew({"sub": "ann"}, viewer="ann")
    assert client.subscription.viewer == "ann"
    stage.publish(*batch(16, 1))
    assert client.ids == [1]


async def test_a_connection_is_served_though_replay_fails_with_it(
    stage: Stage, broken: Callable[[object, str], None]
) -> None:
    client = Client(stage)
    client.come()
    broken(Parking, "leave")
    client.leave()
    broken(Identifier, "visitor")
    request = ConnectRequest("/socket/websocket", {}, {})
    assert stage.guarded.visit(request, "192.0.2.1", client, lambda: 0) is None
    assert stage.guarded.stats().failures == 2


async def test_what_was_sent_before_and_not_proven_is_counted(stage: Stage) -> None:
    client = Client(stage)
    client.come()
    stage.publish(*batch(16, 1))
    stage.publish(*batch(32, 2, 3))
    client.leave()
    stage.publish(*batch(48, 4))
    client.come()
    await running(stage, lambda: client.ids == [1, 2, 3, 1, 2, 3, 4])
    stats = stage.replay.stats()
    assert (stats.changes, stats.duplicates_possible) == (4, 3)


async def test_failures_that_rounds_and_decisions_handle_themselves_are_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        raise KeyError("a bug")

    def choose(*args: object) -> Choice:
        raise KeyError("a bug")

    stage = Stage(publish=publish)
    for number in (1, 2):
        client = Client(stage, str(number))
        client.come()
        client.prove()
        client.leave()
        stage.publish(*batch(16 * number, number))
        client.come()
        await running(stage, lambda: client.gaps == ["replay_lost"])  # noqa: B023
        assert stage.guarded.stats().failures == number
    assert caplog.text.count("a round failed") == 1
    monkeypatch.setattr(stage.replay.memberships, "choose", choose)
    Client(stage, "3").come()
    assert stage.guarded.stats().failures == 3
