"""RoundPublisher: what those who came back are shown, without a database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import psycopg
import pytest

from realtime_core import Gap, GapReason, Position
from realtime_core.lsn import LSN
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.topic_parser import Topic
from realtime_server.phoenix.serializers import SERIALIZERS
from realtime_server.replay.publishing import CannotPublishError, Published
from realtime_server.rls import round_publisher
from realtime_server.rls.checker import Checker, CheckResult
from realtime_server.rls.counters import Counters
from realtime_server.rls.lookup.locks import Locks
from realtime_server.rls.lookup.visibility import Visibility
from realtime_server.rls.pending_changes import PendingChange, Shown
from realtime_server.rls.round_publisher import RoundPublisher
from realtime_server.rls.table_check import Lookup
from realtime_server.rls.viewers import Viewer
from tests.server_helpers import RecordingOutbox, insert, make_relation

from .test_broadcaster import Text

TODOS = make_relation()
ANN, BOB = (Viewer.of({"role": "reader", "sub": sub}) for sub in ("ann", "bob"))
LOOKUP = cast(Lookup, object())
TO_ALL = Published(set(), set(), set())


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


def publisher(
    policies: Policies, counters: Counters | None = None, *, patience: float = 60.0
) -> RoundPublisher:
    return RoundPublisher(
        cast(Checker, policies),
        LOOKUP,
        cast(Locks, None),
        cast(Visibility, None),
        counters or Counters(),
        patience=patience,
    )


ROWS = [insert(TODOS, str(number), "x") for number in range(3)]
GAP = Gap(None, Position(LSN(5)), GapReason.LAG)


async def test_each_viewer_gets_what_it_may_see_now_and_all_get_gaps_in_their_place() -> None:
    hub = Hub()
    ann, bob = sit(hub, ANN), sit(hub, BOB)
    publish = publisher(Policies({ANN: {"0", "2"}, BOB: {"1"}}))
    assert await publish(hub, [*ROWS[:2], GAP, ROWS[2]]) == TO_ALL
    assert (ids(ann), ids(bob)) == (["0", "gap", "2"], ["1", "gap"])


async def test_whoever_is_slow_among_others_is_left_out_and_the_others_are_not() -> None:
    hub = Hub()
    ann, bob = sit(hub, ANN), sit(hub, BOB)
    everything = {"0", "1", "2"}
    policies = Policies({ANN: everything, BOB: everything}, hurried=frozenset({ANN}))
    published = await publisher(policies)(hub, [ROWS[0], GAP, *ROWS[1:]])
    assert published == Published(set(), {ANN}, set())
    # It gets all of it later, the gap as well.
    assert (ids(ann), ids(bob)) == ([], ["0", "gap", "1", "2"])


async def test_whoever_is_alone_has_the_whole_timeout() -> None:
    hub = Hub()
    ann = sit(hub, ANN)
    policies = Policies({ANN: {"0", "1"}}, hurried=frozenset({ANN}))
    assert await publisher(policies)(hub, [*ROWS]) == TO_ALL
    assert ids(ann) == ["0", "1"]


async def test_whoever_takes_too_long_alone_is_named_and_shown_nothing() -> None:
    hub = Hub()
    ann = sit(hub, ANN)
    counters = Counters()
    policies = Policies({ANN: {"0", "1", "2"}}, slow=frozenset({ANN}))
    published = await publisher(policies, counters)(hub, [*ROWS])
    assert published == Published({ANN}, set(), set())
    assert ids(ann) == []
    assert counters.timeouts == 3


async def test_viewers_behind_one_that_uses_up_the_time_are_asked_without_it() -> None:
    hub = Hub()
    ann, bob = sit(hub, ANN), sit(hub, BOB)
    policies = Policies({ANN: {"0"}, BOB: {"0"}}, hurried=frozenset({ANN}), hides={ANN: {BOB}})
    published = await publisher(policies)(hub, [ROWS[0]])
    assert published.apart == {ANN}
    assert (ids(ann), ids(bob)) == ([], ["0"])


async def test_whoever_takes_long_without_timing_out_is_named_and_shown_everything() -> None:
    hub = Hub()
    ann, bob = sit(hub, ANN), sit(hub, BOB)
    policies = Policies({ANN: {"0"}, BOB: {"0"}}, seconds={ANN: 0.5, BOB: 0.001})
    assert await publisher(policies)(hub, [ROWS[0]]) == Published(set(), set(), {ANN})
    assert ids(ann) == ids(bob) == ["0"]


async def test_a_database_that_is_away_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(round_publisher, "RETRY", 0.0)
    hub = Hub()
    ann = sit(hub, ANN)
    policies = Policies({ANN: {"0"}}, failures=20)
    await publisher(policies)(hub, [ROWS[0]])
    assert ids(ann) == ["0"]
    assert caplog.text.count("clients that came back wait") == 1


@pytest.mark.parametrize(
    ("failure", "tries"),
    [
        (psycopg.OperationalError("the server is away"), 2),
        (psycopg.errors.InsufficientPrivilege("permission denied"), 1),
    ],
)
async def test_what_the_database_does_not_say_is_shown_to_nobody(
    monkeypatch: pytest.MonkeyPatch, failure: psycopg.Error, tries: int
) -> None:
    monkeypatch.setattr(round_publisher, "RETRY", 0.05)
    hub = Hub()
    ann = sit(hub, ANN)
    policies = Policies({ANN: {"0"}}, failures=1000, failure=failure)
    with pytest.raises(CannotPublishError):
        await publisher(policies, patience=0.01)(hub, [ROWS[0]])
    assert (ids(ann), 1000 - policies.failures) == ([], tries)
