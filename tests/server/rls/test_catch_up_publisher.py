"""CatchUpPublisher: what those who came back are shown, without a database."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Collection, Sequence
from itertools import count
from typing import Any, cast

import attrs
import psycopg
import pytest

from realtime_core import Event, Gap, GapReason, Position
from realtime_core.lsn import LSN
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.topic_parser import Topic
from realtime_server.phoenix.serializers import SERIALIZERS
from realtime_server.replay.publishing import CannotPublishError, Published
from realtime_server.rls import catch_up_publisher
from realtime_server.rls.catch_up_publisher import CatchUpPublisher
from realtime_server.rls.checker import Checker, CheckResult
from realtime_server.rls.counters import Counters
from realtime_server.rls.lookup.locks import LockedRelation, Locks
from realtime_server.rls.lookup.visibility import Visibility
from realtime_server.rls.pending_changes import PendingChange, Shown
from realtime_server.rls.table_check import Lookup
from realtime_server.rls.viewers import Viewer
from tests.server_helpers import DEADLINE, RecordingOutbox, insert, make_relation
from tests.waiting import eventually

from .test_broadcaster import Text

TODOS = make_relation()
ANN, BOB = (Viewer.of({"role": "reader", "sub": sub}) for sub in ("ann", "bob"))
LOOKUP = cast(Lookup, object())


class Policies:
    """A checker that shows a row's id to those who may see it; some are slow with others, some
    also alone."""

    def __init__(
        self,
        allowed: dict[Viewer, set[str]],
        *,
        hurried: frozenset[Viewer] = frozenset(),
        slow: frozenset[Viewer] = frozenset(),
        failures: int = 0,
        failure: psycopg.Error | None = None,
        hides: dict[Viewer, set[Viewer]] | None = None,
        seconds: dict[Viewer, float] | None = None,
    ) -> None:
        self.allowed = allowed
        self.hurried = hurried
        self.slow = slow
        self.failures = failures
        self.failure = failure or psycopg.OperationalError("the server is away")
        self.hides = hides or {}
        """By viewer, those that are not looked at if it takes too long."""
        self.seconds = seconds or {}

    async def check(
        self, candidates: Sequence[PendingChange], lookup: Lookup | None = None
    ) -> CheckResult:
        if self.failures:
            self.failures -= 1
            raise self.failure
        late = self.slow | (self.hurried if lookup is None else frozenset())
        assert lookup in (None, LOOKUP)
        timeouts: Counter[Viewer] = Counter()
        shown: list[Shown] = []
        for one in candidates:
            number = one.change.record["id"]  # type: ignore[union-attr]
            views: Any = {}
            for viewer in one.viewers:
                if viewer in late:
                    timeouts[viewer] += 1
                elif str(number) in self.allowed.get(viewer, ()):
                    views[viewer] = Text(str(number))
            for viewer in list(timeouts):
                for hidden in self.hides.get(viewer, set()):
                    timeouts[hidden] += 0
                    views.pop(hidden, None)
            shown.append(views)
        return CheckResult(shown, timeouts, self.seconds)


def sit(hub: Hub, viewer: Viewer) -> RecordingOutbox:
    outbox = RecordingOutbox()
    topic = Topic.parse("realtime:*")
    hub.subscribe(Subscription(topic, SERIALIZERS["1.0.0"], outbox, None, viewer))
    return outbox


def ids(outbox: RecordingOutbox) -> list[str]:
    return ["gap" if frame["event"] == "system" else frame["payload"] for frame in outbox.frames]


def is_to_all(published: Published) -> bool:
    """Return whether everything was published to all viewers, and none has a round of its own."""
    one = published
    return not (one.slow or one.apart or one.costly or one.refused or one.held)


def publisher(
    policies: Policies,
    counters: Counters | None = None,
    *,
    patience: float = 60.0,
    locks: Latch | None = None,
) -> CatchUpPublisher:
    return CatchUpPublisher(
        cast(Checker, policies),
        LOOKUP,
        cast(Locks, locks),
        cast(Visibility, None),
        counters or Counters(),
        patience=patience,
    )


ROWS = [insert(TODOS, str(number), "x") for number in range(3)]
GAP = Gap(None, Position(LSN(5)), GapReason.LAG)


async def test_each_viewer_gets_what_it_may_see_now_and_all_get_gaps() -> None:
    hub = Hub()
    ann, bob = sit(hub, ANN), sit(hub, BOB)
    publish = publisher(Policies({ANN: {"0", "2"}, BOB: {"1"}}))
    for events in (ROWS[:2], [GAP], ROWS[2:]):
        assert is_to_all(await publish(hub, events, is_alone=False))
    assert (ids(ann), ids(bob)) == (["0", "gap", "2"], ["1", "gap"])


class Cancelling(list[bytes]):
    """Writes of an outbox, of which the first cancels a task."""

    def __init__(self, task: asyncio.Task[Published]) -> None:
        self._task = task

    def append(self, write: bytes) -> None:
        if not self:
            self._task.cancel()
        super().append(write)


@pytest.mark.slow
@pytest.mark.parametrize("events", [ROWS, [GAP]], ids=["rows", "a gap"])
async def test_what_is_being_written_is_written_to_all_and_a_cancellation_is_said(
    events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    # It gives way whenever it looks at the clock.
    hub = Hub(clock=count().__next__)
    outboxes = [sit(hub, ANN) for _ in range(2000)]
    publish = publisher(Policies({ANN: {"0", "1", "2"}}))
    task = asyncio.create_task(publish(hub, events, is_alone=False))
    monkeypatch.setattr(outboxes[0], "writes", Cancelling(task))
    assert (await task).is_last
    assert [ids(one) for one in outboxes] == [
        ["gap"] if events == [GAP] else ["0", "1", "2"]
    ] * 2000


async def test_whoever_is_slow_among_others_is_left_out_and_the_others_are_not() -> None:
    hub = Hub()
    ann, bob = sit(hub, ANN), sit(hub, BOB)
    everything = {"0", "1", "2"}
    policies = Policies({ANN: everything, BOB: everything}, hurried=frozenset({ANN}))
    published = await publisher(policies)(hub, [*ROWS], is_alone=False)
    assert (published.apart, published.slow) == ({ANN}, set())
    assert (ids(ann), ids(bob)) == ([], ["0", "1", "2"])


async def test_whoever_is_alone_has_the_whole_timeout() -> None:
    hub = Hub()
    ann = sit(hub, ANN)
    policies = Policies({ANN: {"0", "1"}}, hurried=frozenset({ANN}))
    assert is_to_all(await publisher(policies)(hub, [*ROWS], is_alone=True))
    assert ids(ann) == ["0", "1"]


async def test_a_round_that_has_one_viewer_left_waits_for_no_slow_one() -> None:
    slow_hub, hub = Hub(), Hub()
    sit(slow_hub, ANN)
    bob = sit(hub, BOB)
    go_on = asyncio.Event()

    class Slow(Policies):
        async def check(
            self, candidates: Sequence[PendingChange], lookup: Lookup | None = None
        ) -> CheckResult:
            if lookup is not None:
                await go_on.wait()
            return await super().check(candidates, lookup)

    publish = publisher(Slow({BOB: {"0"}}))
    slow = [asyncio.create_task(publish(slow_hub, [ROWS[0]], is_alone=True)) for _ in range(2)]
    await asyncio.sleep(0)
    async with asyncio.timeout(DEADLINE):
        assert is_to_all(await publish(hub, [ROWS[0]], is_alone=False))
    assert ids(bob) == ["0"]
    go_on.set()
    await asyncio.gather(*slow)


async def test_whoever_takes_too_long_alone_is_named_and_shown_nothing() -> None:
    hub = Hub()
    ann = sit(hub, ANN)
    counters = Counters()
    policies = Policies({ANN: {"0", "1", "2"}}, slow=frozenset({ANN}))
    published = await publisher(policies, counters)(hub, [*ROWS], is_alone=True)
    assert (published.slow, published.apart) == ({ANN}, set())
    assert ids(ann) == []
    assert counters.timeouts == 3


async def test_viewers_behind_one_that_uses_up_the_time_are_asked_without_it() -> None:
    hub = Hub()
    ann, bob = sit(hub, ANN), sit(hub, BOB)
    policies = Policies({ANN: {"0"}, BOB: {"0"}}, hurried=frozenset({ANN}), hides={ANN: {BOB}})
    published = await publisher(policies)(hub, [ROWS[0]], is_alone=False)
    assert published.apart == {ANN}
    assert (ids(ann), ids(bob)) == ([], ["0"])


async def test_whoever_takes_long_without_timing_out_is_named_and_shown_everything() -> None:
    hub = Hub()
    ann, bob = sit(hub, ANN), sit(hub, BOB)
    policies = Policies({ANN: {"0"}, BOB: {"0"}}, seconds={ANN: 0.5, BOB: 0.001})
    published = await publisher(policies)(hub, [ROWS[0]], is_alone=False)
    assert (published.costly, published.apart) == ({ANN}, set())
    assert ids(ann) == ids(bob) == ["0"]


async def test_a_database_that_is_away_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(catch_up_publisher, "RETRY", 0.0)
    hub = Hub()
    ann = sit(hub, ANN)
    policies = Policies({ANN: {"0"}}, failures=20)
    await publisher(policies)(hub, [ROWS[0]], is_alone=False)
    assert ids(ann) == ["0"]
    assert caplog.text.count("clients that came back wait") == 1


async def test_a_database_that_is_away_for_too_long_decides_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(catch_up_publisher, "RETRY", 0.05)
    hub = Hub()
    ann = sit(hub, ANN)
    policies = Policies({ANN: {"0"}}, failures=1000)
    with pytest.raises(CannotPublishError):
        await publisher(policies, patience=0.01)(hub, [ROWS[0]], is_alone=False)
    assert (ids(ann), 1000 - policies.failures) == ([], 2)


class Refusing(Policies):
    """A checker that refuses to check some viewers, and whoever is checked together with them."""

    def __init__(self, allowed: dict[Viewer, set[str]], refused: frozenset[Viewer]) -> None:
        super().__init__(allowed)
        self.refused = refused
        self.checks = 0

    async def check(
        self, candidates: Sequence[PendingChange], lookup: Lookup | None = None
    ) -> CheckResult:
        self.checks += 1
        if any(one.viewers & self.refused for one in candidates):
            raise psycopg.errors.InsufficientPrivilege("permission denied")
        return await super().check(candidates, lookup)


@pytest.mark.parametrize("is_alone", [True, False])
async def test_a_viewer_that_the_database_refuses_to_check_is_named(
    is_alone: bool, caplog: pytest.LogCaptureFixture
) -> None:
    hub = Hub()
    ann = sit(hub, ANN)
    policies = Refusing({ANN: {"0"}}, frozenset({ANN}))
    published = await publisher(policies)(hub, [ROWS[0]], is_alone=is_alone)
    assert published.refused == {ANN}
    assert (ids(ann), policies.checks) == ([], 1)
    assert caplog.text.count("the database refuses to check what it may see: Insuff") == 1


async def test_the_others_of_a_round_get_their_changes_where_one_is_refused() -> None:
    hub = Hub()
    viewers = [Viewer.of({"role": "reader", "sub": str(number)}) for number in range(1000)]
    outboxes = [sit(hub, viewer) for viewer in viewers]
    at_fault = frozenset((viewers[17], viewers[612]))
    policies = Refusing({viewer: {"0"} for viewer in viewers}, at_fault)
    published = await publisher(policies)(hub, [ROWS[0]], is_alone=False)
    assert published.refused == at_fault
    for viewer, outbox in zip(viewers, outboxes, strict=True):
        assert ids(outbox) == ([] if viewer in at_fault else ["0"])
    # Two of a thousand are found by halves.
    assert policies.checks < 45


@pytest.mark.slow
async def test_a_database_that_refuses_everybody_is_not_asked_for_each() -> None:
    hub = Hub()
    viewers = [Viewer.of({"role": "reader", "sub": str(number)}) for number in range(1000)]
    for viewer in viewers:
        sit(hub, viewer)
    policies = Refusing({}, frozenset(viewers))
    published = await publisher(policies)(hub, [ROWS[0]], is_alone=False)
    assert published.refused == {*viewers}
    assert policies.checks < 250


class Latch:
    """Locks that are released when the test says so."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.asked: list[LockedRelation] = []

    async def __aenter__(self) -> None: ...

    async def __aexit__(self, *failure: object) -> None: ...

    async def released(self, relations: Collection[LockedRelation]) -> None:
        self.asked += relations
        await self.open.wait()


@pytest.mark.parametrize("is_alone", [True, False])
async def test_whoever_asks_for_a_locked_table_is_held_and_the_others_are_not(
    is_alone: bool,
) -> None:
    table = LockedRelation(7, "table", "public", "todos")

    class Locked(Policies):
        async def check(
            self, candidates: Sequence[PendingChange], lookup: Lookup | None = None
        ) -> CheckResult:
            result = await super().check(candidates, lookup)
            if locks.open.is_set() or not any(ANN in one.viewers for one in candidates):
                return result
            for views in result.shown:
                views.pop(ANN, None)
            result.timeouts[ANN] += 0
            return attrs.evolve(result, locked=frozenset({table}), locked_out=frozenset({ANN}))

    locks, hub = Latch(), Hub()
    ann = sit(hub, ANN)
    outboxes = [] if is_alone else [sit(hub, BOB)]
    publish = publisher(Locked({ANN: {"0"}, BOB: {"0"}}), locks=locks)
    async with asyncio.timeout(DEADLINE):
        published = await publish(hub, [ROWS[0]], is_alone=is_alone)
    assert (published.held, published.apart, published.slow) == ({ANN}, set(), set())
    assert ids(ann) == []
    assert [ids(one) for one in outboxes] == [["0"] for _ in outboxes]
    await asyncio.sleep(0)
    assert locks.asked == [table]
    assert not published.may_go_on()
    locks.open.set()
    await eventually(published.may_go_on)
    assert is_to_all(await publish(hub, [ROWS[0]], is_alone=True))
    assert ids(ann) == ["0"]
