"""SlowViewers without a database: what waits for them all together, and where gaps are told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest_asyncio

from realtime_core import Gap, GapReason, Position, Relation, RowChange
from realtime_core.lsn import LSN
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.topics import Topic
from realtime_server.fanout.turns import run_steps
from realtime_server.phoenix.serializers import SERIALIZERS
from realtime_server.rls.checker import Checker, Verdict
from realtime_server.rls.counters import Counters
from realtime_server.rls.delivery import Delivery
from realtime_server.rls.lookup.visibility import Visibility
from realtime_server.rls.matcher import Matcher
from realtime_server.rls.pending_changes import PendingChange
from realtime_server.rls.reader import Read
from realtime_server.rls.slow_viewers import SlowViewers
from realtime_server.rls.viewers import Viewer
from realtime_server.rls.waiting import AROUND
from tests.server_helpers import RecordingOutbox, insert, make_relation
from tests.waiting import eventually

TODOS, OTHERS = make_relation(), make_relation(table="others")
ANN, BOB, EVE = (Viewer.of({"role": "reader", "sub": sub}) for sub in ("ann", "bob", "eve"))
GAP = Gap(None, Position(LSN(1)), GapReason.SLOT_MISSING)
SIZE = 10_000


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
    """Viewers who are slow from their first change on, until they may go on."""

    def __init__(self, max_bytes: int) -> None:
        self.hub = Hub()
        self.counters = Counters()
        self.slow: set[Viewer] = set()
        self.asked_apart = 0
        self.seconds: dict[Viewer, float] = {}
        self.may_go_on = asyncio.Event()
        self.outboxes: dict[Viewer, RecordingOutbox] = {}
        self.delivery = Delivery(self.hub, self.counters)
        asking = cast("Visibility", SimpleNamespace(check=None, check_apart=None, timeout=1.0))
        self.viewers = SlowViewers(
            cast("Checker", self), asking, asking, self.delivery, self.counters, max_bytes=max_bytes
        )

    def sit(self, viewer: Viewer, *, is_slow: bool, topic: str = "realtime:*") -> None:
        outbox = self.outboxes[viewer] = RecordingOutbox()
        serializer = SERIALIZERS["1.0.0"]
        self.hub.subscribe(Subscription(Topic.parse(topic), serializer, outbox, None, viewer))
        self.viewers.add_channel(viewer)
        if is_slow:
            self.slow.add(viewer)

    async def check(self, candidates: Sequence[PendingChange], lookup: Any = None) -> Verdict:
        """As a checker does."""
        timeouts: Counter[Viewer] = Counter()
        if lookup is None:
            timeouts.update({v for one in candidates for v in one.viewers} & self.slow)
        else:
            self.asked_apart += 1
            await self.may_go_on.wait()
        shown: list[Any] = [
            dict.fromkeys(one.viewers - timeouts.keys(), Id(one.change)) for one in candidates
        ]
        asked = {viewer for one in candidates for viewer in one.viewers}
        return Verdict(shown, timeouts, {viewer: self.seconds.get(viewer, 0.0) for viewer in asked})

    async def publish(self, one: int, *, table: Relation = TODOS) -> None:
        reads = [Read(attrs.evolve(insert(table, str(one), "x"), index=one), SIZE)]
        decided = await self.viewers.check(await Matcher(self.hub).match(reads))
        await run_steps(self.delivery.handing_out(decided))

    def got(self, viewer: Viewer) -> list[Any]:
        return [
            frame["payload"]["message"] if frame["event"] == "system" else frame["payload"]
            for frame in self.outboxes[viewer].frames
        ]


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


async def test_when_too_much_waits_for_all_those_with_most_lose_it(stage: Stage) -> None:
    stage.sit(ANN, is_slow=True, topic="realtime:public:todos")
    stage.sit(BOB, is_slow=True, topic="realtime:public:others")
    stage.sit(EVE, is_slow=False)
    await stage.publish(1)
    await eventually(lambda: stage.asked_apart == 1)
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
    stage.seconds[ANN] = 0.05
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


async def test_what_all_take_is_nobodys_fault(stage: Stage) -> None:
    for viewer in (ANN, BOB, EVE):
        stage.sit(viewer, is_slow=False)
    stage.seconds = {ANN: 0.4, BOB: 0.1, EVE: 0.1}
    for one in range(1, 6):
        await stage.publish(one)
    assert stage.got(ANN) == stage.got(BOB) == [str(one) for one in range(1, 6)]


async def test_who_is_alone_and_takes_much_is_asked_for_apart(stage: Stage) -> None:
    stage.sit(ANN, is_slow=False)
    stage.seconds = {ANN: 0.2}
    for one in range(1, 5):
        await stage.publish(one)
    assert stage.got(ANN) == ["1", "2", "3"]
    stage.may_go_on.set()
    await eventually(lambda: stage.got(ANN) == ["1", "2", "3", "4"])
