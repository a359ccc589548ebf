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
from realtime_server.rls import round_publisher
from realtime_server.rls.checker import Checker, Verdict
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
    ) -> None:
        self.allowed = allowed
        self.hurried = hurried
        self.slow = slow
        self.failures = failures

    async def check(
        self, candidates: Sequence[PendingChange], lookup: Lookup | None = None
    ) -> Verdict:
        if self.failures:
            self.failures -= 1
            raise psycopg.OperationalError("the server is away")
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
            shown.append(views)
        return Verdict(shown, timeouts)


def sit(hub: Hub, viewer: Viewer) -> RecordingOutbox:
    outbox = RecordingOutbox()
    topic = Topic.parse("realtime:*")
    hub.subscribe(Subscription(topic, SERIALIZERS["1.0.0"], outbox, None, viewer))
    return outbox


def ids(outbox: RecordingOutbox) -> list[str]:
    return ["gap" if frame["event"] == "system" else frame["payload"] for frame in outbox.frames]


def publisher(policies: Policies, counters: Counters | None = None) -> RoundPublisher:
    return RoundPublisher(
        cast(Checker, policies),
        LOOKUP,
        cast(Locks, None),
        cast(Visibility, None),
        counters or Counters(),
    )


ROWS = [insert(TODOS, str(number), "x") for number in range(3)]
GAP = Gap(None, Position(LSN(5)), GapReason.LAG)


async def test_each_viewer_gets_what_it_may_see_now_and_all_get_gaps_in_their_place() -> None:
    hub = Hub()
    ann, bob = sit(hub, ANN), sit(hub, BOB)
    publish = publisher(Policies({ANN: {"0", "2"}, BOB: {"1"}}))
    assert ANN not in await publish(hub, [*ROWS[:2], GAP, ROWS[2]])
    assert (ids(ann), ids(bob)) == (["0", "gap", "2"], ["1", "gap"])


async def test_whoever_is_slow_among_others_is_checked_alone() -> None:
    hub = Hub()
    ann, bob = sit(hub, ANN), sit(hub, BOB)
    everything = {"0", "1", "2"}
    policies = Policies({ANN: everything, BOB: everything}, hurried=frozenset({ANN}))
    assert ANN not in await publisher(policies)(hub, [*ROWS])
    assert ids(ann) == ids(bob) == ["0", "1", "2"]


async def test_whoever_takes_too_long_alone_is_named_and_shown_nothing() -> None:
    hub = Hub()
    ann, bob = sit(hub, ANN), sit(hub, BOB)
    everything = {"0", "1", "2"}
    policies = Policies({ANN: everything, BOB: everything}, slow=frozenset({ANN}))
    counters = Counters()
    slow = await publisher(policies, counters)(hub, [*ROWS])
    assert ANN in slow
    assert BOB not in slow
    assert (ids(ann), ids(bob)) == ([], ["0", "1", "2"])
    assert counters.timeouts == 3


async def test_a_database_that_is_away_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(round_publisher, "RETRY", 0.0)
    hub = Hub()
    ann = sit(hub, ANN)
    policies = Policies({ANN: {"0"}}, failures=2)
    await publisher(policies)(hub, [ROWS[0]])
    assert ids(ann) == ["0"]
    assert caplog.text.count("clients that came back wait") == 2
