"""SlowViewers without a database: what waits for them all together, and where gaps are told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any, cast

import attrs
import psycopg
import pytest
import pytest_asyncio

from realtime_core import Gap, GapReason, Position, Relation, RowChange
from realtime_core.lsn import LSN
from realtime_server.fanout import turns
from realtime_server.fanout.frames import Frames
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.topic_parser import Topic
from realtime_server.fanout.turns import run_steps
from realtime_server.phoenix.serializers import SERIALIZERS
from realtime_server.replay.queue_places import QueuePlaces
from realtime_server.rls import slow_viewer_queue
from realtime_server.rls.checker import Checker, CheckResult
from realtime_server.rls.counters import Counters
from realtime_server.rls.delivery import Delivery
from realtime_server.rls.lookup.locks import LockedRelation
from realtime_server.rls.lookup.shared_check import SharedCheck
from realtime_server.rls.lookup.visibility import Visibility
from realtime_server.rls.matcher import Matcher
from realtime_server.rls.pending_changes import PendingChange
from realtime_server.rls.reader import Read
from realtime_server.rls.slow_viewer_memory import AROUND
from realtime_server.rls.slow_viewers import SlowViewers
from realtime_server.rls.viewers import Viewer
from tests.server_helpers import RecordingOutbox, insert, make_relation
from tests.waiting import eventually

TODOS, OTHERS = make_relation(), make_relation(table="others")
ANN, BOB, EVE = (Viewer.of({"role": "reader", "sub": sub}) for sub in ("ann", "bob", "eve"))
GAP = Gap(None, Position(LSN(1)), GapReason.SLOT_MISSING)
SIZE = 10_000
LOCKED = LockedRelation(1, "table", "public", "todos")


class Id:
    """A view that is its row's id."""

    known_of_old = None

    def __init__(self, change: RowChange) -> None:
        self._text = cast("Any", change).record.text("id")

    def allows_filter_on(self, columns: frozenset[str]) -> bool:
        return True

    def is_too_large(self, select: Any = None) -> bool:
        return False

    def payload(self, select: Any = None) -> bytes:
        return f'"{self._text}"'.encode()


class Stage:
    """Viewers who are slow from their first change on, until they may go on.

    It is the checker, too, and does what :class:`SharedCheck` does by whom it finds new, and slow.
    """

    def __init__(self, max_bytes: int) -> None:
        self.hub = Hub()
        self.counters = Counters()
        self.slow: set[Viewer] = set()
        self.new: set[Viewer] = set()
        self.together: list[set[Viewer]] = []
        self.on_trial: list[set[Viewer]] = []
        self.asked_apart: list[Viewer] = []
        self.fails = 0
        self.seconds: dict[Viewer, float] = {}
        self.is_locked = False
        self.looks_at_locks = 0
        self.may_go_on = asyncio.Event()
        self.outboxes: dict[Viewer, RecordingOutbox] = {}
        self.delivery = Delivery(self.hub, self.counters)
        asking = cast(
            "Visibility", SimpleNamespace(catalog=self, timeout=1.0, check_alone=object())
        )
        self.places = QueuePlaces(lambda: 0)
        self.viewers = SlowViewers(
            cast("Checker", self),
            asking,
            asking,
            self.delivery,
            self.counters,
            max_bytes=max_bytes,
            places=self.places,
        )
        self.meanwhile: Callable[[], object] = lambda: None

    def sit(self, viewer: Viewer, *, is_slow: bool, topic: str = "realtime:*") -> None:
        self.outboxes[viewer], _ = self.join(viewer, topic)
        if is_slow:
            self.slow.add(viewer)

    def join(
        self, viewer: Viewer, topic: str = "realtime:*"
    ) -> tuple[RecordingOutbox, Subscription]:
        outbox = RecordingOutbox()
        serializer = SERIALIZERS["1.0.0"]
        channel = Subscription(Topic.parse(topic), serializer, outbox, None, viewer)
        self.hub.subscribe(channel)
        self.viewers.add_channel(viewer)
        return outbox, channel

    def renew(self, channel: Subscription, viewer: Viewer) -> bool:
        """Give a channel another viewer, as replay does; return whether it is told of a gap."""
        former = cast("Viewer", channel.viewer)
        self.viewers.add_channel(viewer)
        self.viewers.remove_channel(former)
        is_told = self.places.let_go(former, channel)
        self.hub.move(channel, viewer)
        return is_told

    async def check(
        self, candidates: Sequence[PendingChange], lookup: Any = None, catalog: Any = None
    ) -> CheckResult:
        """As a checker does."""
        self.meanwhile()
        timeouts: Counter[Viewer] = Counter()
        asked = {viewer for one in candidates for viewer in one.viewers}
        if self.is_locked:
            await asyncio.sleep(0)
            timeouts.update(dict.fromkeys(asked, 0))
            return CheckResult([{} for _ in candidates], timeouts, {}, {LOCKED}, asked)
        if lookup is None:
            self.together.append(set(asked))
            timeouts.update(asked & self.slow - self.new)
            for viewer in asked & self.new:
                timeouts[viewer] += 0
            self.new -= asked
        elif isinstance(getattr(lookup, "__self__", None), SharedCheck):
            self.on_trial.append(set(asked))
            if self.fails:
                self.fails -= 1
                raise psycopg.OperationalError("no connection")
            # One at a time, and those behind have no answer yet.
            slow = sorted(asked & self.slow, key=lambda one: one.claims)[:1]
            timeouts.update(slow)
            if slow:
                for viewer in asked - set(slow):
                    timeouts[viewer] += 0
        else:
            [viewer] = asked
            self.asked_apart.append(viewer)
            await self.may_go_on.wait()
        shown: list[Any] = [
            dict.fromkeys(one.viewers - timeouts.keys(), Id(one.change)) for one in candidates
        ]
        return CheckResult(
            shown, timeouts, {viewer: self.seconds.get(viewer, 0.0) for viewer in asked}
        )

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Stage]:
        """As a pool's connection."""
        yield self

    async def execute(self, query: str) -> Stage:
        self.looks_at_locks += 1
        return self

    async def fetchall(self) -> list[tuple[int]]:
        return [(LOCKED.oid,)] if self.is_locked else []

    async def publish(self, one: int, *, table: Relation = TODOS) -> None:
        reads = [Read(attrs.evolve(insert(table, str(one), "x"), index=one), SIZE)]
        decided = await self.viewers.check(await Matcher(self.hub).match(reads))
        await run_steps(self.delivery.handing_out(decided))

    def got(self, viewer: Viewer) -> list[Any]:
        return [
            frame["payload"]["message"] if frame["event"] == "system" else frame["payload"]
            for frame in self.outboxes[viewer].frames
        ]

    async def until(self, viewer: Viewer, *what: str) -> None:
        """Wait until a viewer has got this and nothing else."""
        await eventually(lambda: self.got(viewer) == list(what))


@pytest_asyncio.fixture
async def stage() -> AsyncIterator[Stage]:
    # Six changes of one viewer.
    stage = Stage(6 * (SIZE + 2 * AROUND))
    async with stage.viewers:
        yield stage


async def test_a_gap_is_told_behind_what_came_before_it(stage: Stage) -> None:
    stage.sit(ANN, is_slow=True)
    stage.sit(BOB, is_slow=False)
    await stage.publish(1)
    await stage.publish(2)
    await run_steps(stage.viewers.telling(GAP))
    await stage.publish(3)
    assert stage.got(BOB) == ["1", "2", "Gap: slot_missing", "3"]
    assert stage.got(ANN) == []
    stage.may_go_on.set()
    await eventually(lambda: stage.got(ANN) == ["1", "2", "Gap: slot_missing", "3"])
    # Nothing waits any more.
    await run_steps(stage.viewers.telling(GAP))
    assert stage.got(ANN)[4:] == ["Gap: slot_missing"]


async def test_who_leaves_or_becomes_another_while_a_gap_waits(stage: Stage) -> None:
    stage.sit(ANN, is_slow=True)
    await stage.publish(1)
    await run_steps(stage.viewers.telling(GAP))
    [group] = stage.hub.groups()
    [channel] = group.members.values()
    stage.hub.move(cast("Subscription", channel), BOB)
    stage.viewers.remove_channel(ANN)
    assert stage.got(ANN) == ["Gap: token_replaced", "Gap: slot_missing"]


async def test_whose_token_is_replaced_while_the_batch_is_checked_is_told_with_the_batch(
    stage: Stage,
) -> None:
    stage.sit(ANN, is_slow=True)
    stage.sit(EVE, is_slow=False)
    outbox, channel = stage.join(ANN)
    stage.meanwhile = lambda: channel.viewer is ANN and stage.renew(channel, BOB)
    await stage.publish(1)
    # By the time that the slow policies have answered, its client may have proven later changes.
    assert [frame["payload"]["gap"]["reason"] for frame in outbox.frames] == ["token_replaced"]
    await stage.publish(2)
    stage.may_go_on.set()
    await stage.until(ANN, "1", "2")
    # It is told once.
    told = [frame["payload"] for frame in outbox.frames]
    assert [one if isinstance(one, str) else one["message"] for one in told] == [
        "Gap: token_replaced",
        "2",
    ]


async def test_whose_token_is_replaced_while_changes_wait_is_told_by_replay_alone(
    stage: Stage,
) -> None:
    stage.sit(ANN, is_slow=True)
    outbox, channel = stage.join(ANN)
    others, other = stage.join(ANN, "realtime:public:others")
    await stage.publish(1)
    assert stage.renew(channel, BOB)
    # The channel of another table misses nothing.
    assert not stage.renew(other, BOB)
    await stage.publish(2)
    stage.may_go_on.set()
    await stage.until(ANN, "1", "2")
    assert [frame["payload"] for frame in outbox.frames] == ["2"]
    assert others.frames == []


async def test_what_was_given_up_before_the_token_was_replaced_is_told_by_replay_alone(
    stage: Stage,
) -> None:
    stage.sit(ANN, is_slow=True)
    outbox, channel = stage.join(ANN)
    for one in range(1, 8):
        # At the last one too much waits, and all but the first are given up.
        await stage.publish(one)
    await eventually(lambda: stage.asked_apart == [ANN])
    assert stage.renew(channel, BOB)
    stage.may_go_on.set()
    await stage.until(ANN, "1", "Gap: rls_too_slow")
    assert outbox.frames == []


async def test_who_is_back_with_a_viewer_is_told_again_of_what_it_misses(stage: Stage) -> None:
    stage.sit(ANN, is_slow=True)
    outbox, channel = stage.join(ANN)
    await stage.publish(1)
    assert stage.renew(channel, BOB)
    assert not stage.renew(channel, ANN)
    await stage.publish(2)
    # Without replay.
    stage.hub.move(channel, BOB)
    stage.may_go_on.set()
    await stage.until(ANN, "1", "2")
    told = [frame["payload"]["message"] for frame in outbox.frames]
    assert told == ["Gap: token_replaced"] * 2


async def test_when_too_much_waits_for_all_those_with_most_lose_it(stage: Stage) -> None:
    stage.sit(ANN, is_slow=True, topic="realtime:public:todos")
    stage.sit(BOB, is_slow=True, topic="realtime:public:others")
    stage.sit(EVE, is_slow=False)
    await stage.publish(1)
    await eventually(lambda: stage.asked_apart == [ANN])
    for one in range(2, 5):
        await stage.publish(one)
    for one in range(5, 7):
        await stage.publish(one, table=OTHERS)
    each = SIZE + 2 * AROUND
    assert stage.counters.waiting_bytes == 6 * each
    # One more than may wait: of the first table all but the one that is looked at is given up.
    await stage.publish(7, table=OTHERS)
    assert stage.counters.waiting_bytes == 4 * each
    await stage.publish(8)
    stage.may_go_on.set()
    await eventually(lambda: stage.got(ANN) == ["1", "Gap: rls_too_slow", "8"])
    await eventually(lambda: stage.got(BOB) == ["5", "6", "7"])
    assert stage.got(EVE) == [str(one) for one in range(1, 9)]
    assert (stage.counters.given_up, stage.counters.waiting_bytes) == (3, 0)


async def test_changes_that_wait_for_many_are_held_once(stage: Stage) -> None:
    for number in range(20):
        viewer = Viewer.of({"role": "reader", "sub": f"slow {number}"})
        stage.sit(viewer, is_slow=True)
    for one in range(1, 3):
        await stage.publish(one)
    assert stage.counters.waiting_bytes == 2 * (SIZE + (1 + 20) * AROUND)
    assert stage.counters.given_up == 0


async def test_who_takes_much_of_each_batch_is_asked_for_apart(stage: Stage) -> None:
    for viewer in (ANN, BOB, EVE):
        stage.sit(viewer, is_slow=False)
    stage.seconds = {ANN: 0.4, BOB: 0.001, EVE: 0.002}
    await stage.publish(1)
    await stage.publish(2)
    # Once is nothing.
    stage.seconds[ANN] = 0.01
    await stage.publish(3)
    stage.seconds[ANN] = 0.4
    for one in range(4, 7):
        await stage.publish(one)
    assert stage.got(ANN) == [str(one) for one in range(1, 7)]
    await stage.publish(7)
    assert stage.got(ANN) == [str(one) for one in range(1, 7)]
    assert stage.got(BOB) == [str(one) for one in range(1, 8)]
    stage.may_go_on.set()
    await eventually(lambda: stage.got(ANN) == [str(one) for one in range(1, 8)])


async def test_many_who_take_a_bit_too_much_together_are_asked_for_apart(stage: Stage) -> None:
    crowd = [Viewer.of({"role": "reader", "sub": f"one of {number}"}) for number in range(40)]
    for viewer in (*crowd, EVE):
        stage.sit(viewer, is_slow=False)
    stage.seconds = dict.fromkeys(crowd, 0.009)
    for one in range(1, 5):
        await stage.publish(one)
    assert stage.together == [{*crowd, EVE}] * 3 + [{EVE}]
    assert stage.got(EVE) == ["1", "2", "3", "4"]
    stage.may_go_on.set()
    for viewer in crowd:
        await stage.until(viewer, "1", "2", "3", "4")


async def test_few_who_take_a_bit_are_not(stage: Stage) -> None:
    for viewer in (ANN, BOB, EVE):
        stage.sit(viewer, is_slow=False)
    stage.seconds = dict.fromkeys((ANN, BOB, EVE), 0.009)
    for one in range(1, 6):
        await stage.publish(one)
    assert stage.together == [{ANN, BOB, EVE}] * 5


async def test_who_is_new_holds_nobody_up_and_is_with_the_others_then(stage: Stage) -> None:
    stage.sit(ANN, is_slow=False)
    stage.new = {BOB, EVE}
    for viewer in stage.new:
        stage.sit(viewer, is_slow=False)
    await stage.publish(1)
    assert stage.got(ANN) == ["1"]
    await eventually(lambda: stage.got(BOB) == stage.got(EVE) == ["1"])
    # All at once.
    assert stage.on_trial == [{BOB, EVE}]
    await stage.publish(2)
    assert stage.got(BOB) == stage.got(EVE) == ["1", "2"]
    assert stage.together[1:] == [{ANN, BOB, EVE}]
    assert stage.asked_apart == []


async def test_on_trial_those_behind_a_slow_one_are_asked_for_without_it(stage: Stage) -> None:
    stage.new = {ANN, BOB, EVE}
    stage.sit(ANN, is_slow=True)
    for viewer in (BOB, EVE):
        stage.sit(viewer, is_slow=False)
    await stage.publish(1)
    await eventually(lambda: stage.got(BOB) == stage.got(EVE) == ["1"])
    assert stage.on_trial == [{ANN, BOB, EVE}, {BOB, EVE}]
    assert stage.asked_apart == [ANN]
    await stage.publish(2)
    assert stage.together[1:] == [{BOB, EVE}]
    stage.may_go_on.set()
    await eventually(lambda: stage.got(ANN) == ["1", "2"])


async def test_a_trial_without_a_connection_is_tried_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slow_viewer_queue, "_RETRY", 0.0)
    stage.new = {ANN, BOB}
    for viewer in (ANN, BOB):
        stage.sit(viewer, is_slow=False)
    stage.fails = 1
    await stage.publish(1)
    await stage.publish(2)
    await eventually(lambda: stage.got(ANN) == stage.got(BOB) == ["1", "2"])


async def test_who_has_held_the_others_up_is_not_with_them_for_a_while(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.sit(ANN, is_slow=True)
    stage.sit(BOB, is_slow=False)
    await stage.publish(1)
    # By the time it is on trial it is fast, which it may have planned.
    stage.slow.clear()
    await eventually(lambda: stage.got(ANN) == ["1"])
    await stage.publish(2)
    assert stage.together == [{ANN, BOB}, {BOB}]
    await eventually(lambda: stage.got(ANN) == ["1", "2"])
    let_time_pass(monkeypatch, 11)
    await stage.publish(3)
    assert stage.together[2:] == [{ANN, BOB}]


async def test_who_is_slow_no_more_is_with_the_others_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.sit(ANN, is_slow=True)
    stage.sit(BOB, is_slow=False)
    await stage.publish(1)
    await eventually(lambda: stage.asked_apart == [ANN])
    stage.slow.clear()
    stage.may_go_on.set()
    for one in range(2, 6):
        await stage.publish(one)
        await stage.until(ANN, *map(str, range(1, one + 1)))
    assert stage.together[1:] == [{BOB}] * 4
    let_time_pass(monkeypatch, 11)
    # Found out with the next check, which is the last one apart.
    await stage.publish(6)
    await eventually(lambda: stage.got(ANN)[-1:] == ["6"])
    await stage.publish(7)
    assert stage.together[5:] == [{BOB}, {ANN, BOB}]
    assert stage.got(ANN) == stage.got(BOB) == [str(one) for one in range(1, 8)]


async def test_slow_viewers_who_are_answered_do_not_wait_for_those_who_never_are(
    stage: Stage,
) -> None:
    for viewer in (ANN, BOB):
        stage.sit(viewer, is_slow=True)
    stage.sit(EVE, is_slow=False)
    stage.seconds[EVE] = 0.2
    stage.new = {EVE}
    await stage.publish(1)
    # Both hang, one of them on a connection; there is one left for her.
    await eventually(lambda: stage.asked_apart == [ANN])
    await eventually(lambda: stage.got(EVE) == ["1"])
    await stage.publish(2)
    await eventually(lambda: stage.asked_apart == [ANN, EVE])
    stage.may_go_on.set()
    for viewer in (ANN, BOB, EVE):
        await stage.until(viewer, "1", "2")


@pytest.mark.slow
async def test_where_all_are_slow_the_stream_waits_for_them(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody is held up by that, and nothing has to be given up."""
    monkeypatch.setattr(slow_viewer_queue, "_MOST_WAITING", 4)
    stage.sit(ANN, is_slow=False)
    stage.seconds[ANN] = 0.2
    for one in range(1, 4):
        await stage.publish(one)
    publishing = asyncio.create_task(publish_all(stage, range(4, 20)))
    await eventually(lambda: stage.asked_apart)
    done, _ = await asyncio.wait({publishing}, timeout=0.1)
    assert not done
    stage.may_go_on.set()
    await publishing
    await eventually(lambda: stage.got(ANN) == [str(one) for one in range(1, 20)])
    # Whoever is new is one more, and is not held up.
    stage.may_go_on.clear()
    publishing = asyncio.create_task(publish_all(stage, range(20, 30)))
    await eventually(lambda: len(stage.together) > 20)
    assert stage.got(ANN)[-1:] == ["19"]
    stage.sit(BOB, is_slow=False)
    await publishing
    assert stage.got(BOB)[-1:] == ["29"]
    stage.may_go_on.set()


async def test_who_is_on_trial_catches_up_however_fast_it_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A new viewer's queue is never empty while much comes; it must not run over."""
    monkeypatch.setattr(slow_viewer_queue, "_MOST_WAITING", 50)
    monkeypatch.setattr(slow_viewer_queue, "_FAR_BEHIND", 10)
    stage = Stage(1 << 30)
    async with stage.viewers:
        stage.sit(BOB, is_slow=False)
        stage.sit(ANN, is_slow=False)
        stage.new = {ANN}
        # Nothing else has a turn in between.
        await publish_all(stage, range(1, 200))
        await stage.until(ANN, *map(str, range(1, 200)))
        assert stage.together[20] == {ANN, BOB}
        assert stage.asked_apart == []


async def publish_all(stage: Stage, numbers: range) -> None:
    for one in numbers:
        await stage.publish(one)


def let_time_pass(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    clock = loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + seconds)


async def test_before_a_stop_what_is_on_trial_is_sent_and_the_rest_becomes_a_gap(
    stage: Stage,
) -> None:
    stage.sit(ANN, is_slow=True)
    stage.sit(BOB, is_slow=False)
    await stage.publish(1)
    await eventually(lambda: stage.asked_apart == [ANN])
    stage.new = {BOB}
    await stage.publish(2)
    await run_steps(stage.viewers.telling(GAP))
    assert stage.got(BOB) == ["1"]
    await stage.viewers.drain(10)
    assert stage.got(BOB) == ["1", "2", "Gap: slot_missing"]
    assert stage.got(ANN) == ["Gap: server_stopped", "Gap: slot_missing"]
    assert stage.counters.waiting_bytes == 0


async def test_a_stop_does_not_wait_long_for_slow_viewers(stage: Stage) -> None:
    stage.sit(ANN, is_slow=False)
    stage.seconds[ANN] = 0.2
    for one in range(1, 5):
        await stage.publish(one)
    await eventually(lambda: stage.asked_apart == [ANN])
    await stage.viewers.drain(0.01)
    assert stage.got(ANN) == ["1", "2", "3", "Gap: server_stopped"]


async def test_a_gap_misses_no_channel_that_gets_another_viewer_while_it_is_told() -> None:
    now = 0.0

    class SlowOutbox(RecordingOutbox):
        def write(self, frames: Frames) -> None:
            nonlocal now
            now += 1
            super().write(frames)

    hub = Hub(clock=lambda: now)
    channels = []
    for number in range(300):
        viewer = Viewer.of({"role": "reader", "sub": f"one of {number}"})
        topic, serializer = Topic.parse("realtime:*"), SERIALIZERS["1.0.0"]
        channels.append(Subscription(topic, serializer, SlowOutbox(), None, viewer))
        hub.subscribe(channels[-1])

    def told() -> list[int]:
        return [len(cast("RecordingOutbox", one.outbox).frames) for one in channels]

    steps = Delivery(hub, Counters()).telling(GAP)
    next(steps)
    assert (told()[0], told()[-1]) == (1, 0)
    hub.move(channels[-1], channels[0].viewer)
    for _ in steps:
        pass
    assert told() == [1] * 300


@pytest.mark.slow
async def test_where_all_are_slow_the_stream_waits_for_the_memory_that_they_share(
    stage: Stage,
) -> None:
    stage.sit(ANN, is_slow=False)
    stage.seconds[ANN] = 0.2
    await publish_all(stage, range(1, 4))
    publishing = asyncio.create_task(publish_all(stage, range(4, 20)))
    await eventually(lambda: stage.asked_apart)
    done, _ = await asyncio.wait({publishing}, timeout=0.1)
    assert not done
    stage.may_go_on.set()
    await publishing
    await stage.until(ANN, *map(str, range(1, 20)))
    assert stage.counters.given_up == 0


@pytest.mark.slow
async def test_a_lock_is_no_viewers_fault_and_makes_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    stage = Stage(1 << 30)
    crowd = [Viewer.of({"role": "reader", "sub": f"one of {number}"}) for number in range(200)]
    async with stage.viewers:
        for viewer in crowd:
            stage.sit(viewer, is_slow=False, topic="realtime:public:todos")
        stage.sit(EVE, is_slow=False, topic="realtime:public:others")
        stage.is_locked = True
        await stage.publish(1)
        await eventually(lambda: stage.looks_at_locks > 1)
        # As the other table is not locked.
        stage.is_locked = False
        await stage.publish(2, table=OTHERS)
        assert stage.got(EVE) == ["2"]
        for viewer in crowd:
            await stage.until(viewer, "1")
        assert not stage.viewers.slow
    assert [line for line in caplog.messages if "lock" in line] == [
        "table public.todos is locked; changes that cannot be checked without it wait until it is"
        " not",
        "table public.todos is not locked any more",
    ]
    assert "takes too long" not in caplog.text


@pytest.mark.slow
async def test_where_all_wait_for_a_lock_the_stream_waits_and_nothing_is_given_up(
    stage: Stage,
) -> None:
    stage.sit(ANN, is_slow=False)
    stage.is_locked = True
    await stage.publish(1)
    await eventually(lambda: stage.looks_at_locks > 0)
    publishing = asyncio.create_task(publish_all(stage, range(2, 20)))
    looks = stage.looks_at_locks
    await eventually(lambda: stage.looks_at_locks > looks)
    assert not publishing.done()
    stage.is_locked = False
    await publishing
    await stage.until(ANN, *map(str, range(1, 20)))
    assert stage.counters.given_up == 0


async def test_many_who_become_slow_make_one_line(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage(1 << 30)
    crowd = [Viewer.of({"role": "reader", "sub": f"one of {number}"}) for number in range(40)]
    async with stage.viewers:
        for viewer in crowd:
            stage.sit(viewer, is_slow=False)
        stage.seconds = dict.fromkeys(crowd, 0.2)
        for one in range(1, 5):
            await stage.publish(one)
        assert stage.viewers.slow == set(crowd)
    assert caplog.text.count("takes too long") == 1


async def test_what_is_done_for_each_viewer_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand viewers take 43 ms for each change."""
    stage = Stage(1 << 30)
    crowd = [Viewer.of({"role": "reader", "sub": f"one of {number}"}) for number in range(50)]
    for viewer in crowd:
        stage.sit(viewer, is_slow=True)
    await stage.publish(1)
    await eventually(lambda: len(stage.viewers.slow) == len(crowd))
    monkeypatch.setattr(turns, "SLICE", 0.0)
    rounds = 0

    async def count() -> None:
        nonlocal rounds
        while True:
            await asyncio.sleep(0)
            rounds += 1

    counting = asyncio.create_task(count())
    await stage.publish(2)
    counting.cancel()
    assert rounds >= len(crowd)
    stage.may_go_on.set()
    for viewer in crowd:
        await stage.until(viewer, "1", "2")
