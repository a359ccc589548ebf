"""CatchUp: who waits, who leaves a round, what one publishes at once, and what a failure does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable
from contextlib import asynccontextmanager
from itertools import count

import pytest

from realtime_core import (
    LSN,
    Begin,
    Commit,
    Event,
    Gap,
    GapReason,
    Insert,
    Position,
    Record,
    Transaction,
)
from realtime_core.positions import LAST_INDEX
from realtime_server.fanout import turns
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.topic_parser import Topic
from realtime_server.phoenix.serializers import SERIALIZERS
from realtime_server.replay import change_log
from realtime_server.replay.catch_up import CatchUp
from realtime_server.replay.change_log import ChangeLog
from realtime_server.replay.places import BEFORE, Place
from realtime_server.replay.publishing import CannotPublishError, Publish, Published, one_at_a_time

from ...server_helpers import COMMIT_TIME, DEADLINE, RecordingOutbox, make_relation
from ...stopped_clock import StoppedClock, stop_the_clock

TODOS = make_relation()
GAP: Event = Gap(None, Position(LSN(0)), GapReason.WAL_REMOVED)


def batch(lsn: int, *ids: str, text: str = "x") -> list[Event]:
    one = Transaction(lsn, LSN(lsn), COMMIT_TIME)
    rows = [
        Insert(one, index, TODOS, Record(TODOS.shape, (number, text)))
        for index, number in enumerate(ids)
    ]
    return [Begin(one), *rows, Commit(one, LSN(lsn + 8), len(rows))]


def ids(outbox: RecordingOutbox) -> list[str]:
    return [
        "gap" if frame["event"] == "system" else frame["payload"]["record"]["id"]
        for frame in outbox.frames
    ]


@pytest.fixture(autouse=True)
def each_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the log give up each batch by itself, however quickly they come."""
    monkeypatch.setattr(change_log, "_TOGETHER", 0.0)


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, which other tasks bring about."""
    async with asyncio.timeout(DEADLINE):
        while not condition():  # noqa: ASYNC110 (each has no event of its own)
            await asyncio.sleep(0)


def lowest(server: Server) -> Place | None:
    """Return the lowest place that rounds need."""
    return min(server.catch_up.places(), default=None)


class Gate:
    """Publishes when it is told to."""

    def __init__(self) -> None:
        self.published: list[int] = []
        self.open = asyncio.Event()
        self._publish = one_at_a_time()

    async def __call__(self, hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        self.published.append(len(events))
        await self.open.wait()
        return await self._publish(hub, events, is_alone=is_alone)


class Server:
    """A log, a live hub and rounds."""

    def __init__(self, publish: Publish, new_hub: Callable[[], Hub]) -> None:
        self.log = ChangeLog(max_bytes=1 << 30, window=1e9, clock=lambda: 0.0)
        self.hub = Hub()
        self.live: list[Subscription] = []
        self.gaps: list[tuple[Subscription, Place, Place]] = []
        self.slow: list[tuple[Subscription, Place, Place]] = []
        self.lost: list[tuple[Subscription, Place, Place]] = []
        self.hubs = 0
        """Rounds that were begun."""

        def make_hub() -> Hub:
            self.hubs += 1
            return new_hub()

        self.catch_up = CatchUp(
            self.log,
            self.hub,
            make_hub,
            publish=publish,
            on_live=self.live.append,
            on_floor=lambda *gap: self.gaps.append(gap),
            on_slow=lambda *gap: self.slow.append(gap),
            on_lost=lambda *gap: self.lost.append(gap),
        )

    def publish(self, events: list[Event]) -> None:
        self.catch_up.before(events)
        self.hub.publish(events)
        self.catch_up.after()

    def come_back(
        self,
        place: Place,
        topic: str = "realtime:*",
        outbox: RecordingOutbox | None = None,
        *,
        viewer: Hashable = None,
    ) -> tuple[Subscription, RecordingOutbox]:
        outbox = outbox or RecordingOutbox()
        subscription = Subscription(Topic.parse(topic), SERIALIZERS["1.0.0"], outbox, viewer=viewer)
        self.catch_up.add(subscription, place)
        return subscription, outbox


@asynccontextmanager
async def open_server(
    publish: Publish | None = None, *, new_hub: Callable[[], Hub] = Hub
) -> AsyncIterator[Server]:
    server = Server(publish or one_at_a_time(), new_hub)
    running = asyncio.create_task(server.catch_up.run())
    try:
        yield server
    finally:
        running.cancel()
        await asyncio.wait({running})
        assert running.cancelled()


async def test_a_channel_that_missed_nothing_goes_live_at_once() -> None:
    async with open_server() as server:
        server.publish(batch(16, "1"))
        one, outbox = server.come_back((16, LAST_INDEX))
        assert server.live == [one]
        server.publish(batch(32, "2"))
        assert ids(outbox) == ["2"]


async def test_nobody_goes_live_while_a_batch_is_being_published() -> None:
    async with open_server() as server:
        server.publish(batch(16, "1"))
        events = batch(32, "2")
        server.catch_up.before(events)
        assert server.catch_up.handed == (16, LAST_INDEX)
        _, one = server.come_back((32, LAST_INDEX))
        _, other = server.come_back((16, LAST_INDEX))
        await until(lambda: ids(other) == ["2"])
        for _ in range(10):
            await asyncio.sleep(0)
        assert server.live == []
        server.hub.publish(events)
        server.catch_up.after()
        assert server.catch_up.handed == (32, LAST_INDEX)
        await until(lambda: len(server.live) == 2)
        server.publish(batch(48, "3"))
        assert (ids(one), ids(other)) == (["3"], ["2", "3"])


async def test_those_who_come_back_together_share_a_round() -> None:
    async with open_server() as server:
        for lsn in (16, 32, 48):
            server.publish(batch(lsn, str(lsn)))
        outboxes = [server.come_back(place)[1] for place in (BEFORE, (16, 0), (32, LAST_INDEX))]
        assert lowest(server) == BEFORE
        await until(lambda: len(server.live) == 3)
        assert [ids(one) for one in outboxes] == [["16", "32", "48"], ["32", "48"], ["48"]]
        assert server.hubs == 1
        assert lowest(server) is None


async def test_a_step_that_is_cancelled_reaches_everybody_and_counts_as_written() -> None:
    """A server that stops cancels its rounds; otherwise all would get the step again."""
    # So it gives way after each write.
    server = Server(one_at_a_time(), lambda: Hub(clock=count().__next__))
    server.publish(batch(16, *map(str, range(600))))
    came = [server.come_back(BEFORE) for _ in range(3)]
    running = asyncio.create_task(server.catch_up.run())
    await until(lambda: came[0][1].frames)
    running.cancel()
    await asyncio.wait({running})
    assert running.cancelled()
    for one, outbox in came:
        assert ids(outbox) == list(map(str, range(500)))
        assert server.catch_up.place_of(one) == (16, 499)


@pytest.mark.slow
async def test_at_most_four_rounds_run_and_the_next_one_takes_all_who_wait() -> None:
    gate = Gate()
    async with open_server(gate) as server:
        server.publish(batch(16, "1", "2"))
        for started in range(1, 5):
            server.come_back(BEFORE)
            await until(lambda started=started: server.hubs == started)
            # It has begun, so the next one cannot join it.
            await until(lambda started=started: len(gate.published) == started)
        for _ in range(10):
            server.come_back(BEFORE)
        await asyncio.sleep(0.05)
        assert server.catch_up.stats().running == 4
        gate.open.set()
        await until(lambda: len(server.live) == 14)
        assert server.hubs == 5


async def test_rounds_take_a_small_part_of_the_time_while_a_crowd_comes_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, publish = stop_the_clock(monkeypatch), one_at_a_time()

    async def take_a_while(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        # No sum of hundredths, so that no rounding decides which of them is late enough.
        clock.now += 0.019
        return await publish(hub, events, is_alone=is_alone)

    async with open_server(take_a_while) as server:
        server.publish(batch(16, "1"))
        for _ in range(100):
            server.come_back(BEFORE)
            await clock.pass_by(0.01)
        # One in about 0.16 s, and not in 0.02.
        assert 5 <= server.hubs <= 8
        while server.catch_up.stats().waiting:
            await clock.pass_by(0.01)
        assert len(server.live) == 100
        # Nobody waits for the sake of a round that was long ago.
        await clock.pass_by(1.0)
        server.come_back(BEFORE)
        for _ in range(10):
            await clock.pass_by(0.01)
        assert len(server.live) == 101


async def test_who_comes_back_to_a_place_that_a_round_has_not_reached_joins_it() -> None:
    gate = Gate()
    async with open_server(gate) as server:
        server.publish(batch(16, *map(str, range(600))))
        server.come_back(BEFORE)
        await until(lambda: gate.published == [500])
        _, outbox = server.come_back((16, 549))
        gate.open.set()
        await until(lambda: len(server.live) == 2)
        assert server.hubs == 1
        # It enters where it stands.
        assert gate.published == [500, 50, 50]
        assert ids(outbox) == list(map(str, range(550, 600)))


@pytest.mark.slow
async def test_a_client_that_is_behind_leaves_its_round_until_it_has_read() -> None:
    async with open_server() as server:
        server.publish(batch(16, *map(str, range(1200))))
        slow, quick = RecordingOutbox(), RecordingOutbox()
        slow.is_behind = True
        behind, _ = server.come_back(BEFORE, outbox=slow)
        other, _ = server.come_back(BEFORE, outbox=quick)
        await until(lambda: server.live == [other])
        assert len(ids(quick)) == 1200
        # It got one step: before that it was not known to be behind.
        assert len(ids(slow)) == 500
        assert server.catch_up.place_of(behind) == lowest(server) == (16, 499)
        await asyncio.sleep(0.05)
        assert len(ids(slow)) == 500
        slow.is_behind = False
        await until(lambda: server.live == [other, behind])
        assert ids(slow) == list(map(str, range(1200)))
        assert server.gaps == []


async def test_a_step_has_fewer_bytes_for_a_socket_with_more_channels() -> None:
    async def published(channels: int) -> list[int]:
        gate = Gate()
        gate.open.set()
        async with open_server(gate) as server:
            server.publish(batch(16, *map(str, range(40)), text="x" * 100_000))
            outbox = RecordingOutbox()
            for number in range(channels):
                server.come_back(BEFORE, f"realtime:*:todos:id=eq.{number}", outbox)
            await until(lambda: len(server.live) == channels)
        return gate.published

    assert await published(1) == [6] * 6 + [4]
    assert await published(4) == [2] * 20


async def test_a_channel_that_leaves_gets_nothing_more() -> None:
    gate = Gate()
    async with open_server(gate) as server:
        server.publish(batch(16, "1", "2"))
        one, outbox = server.come_back(BEFORE)
        other, _ = server.come_back((16, 0))
        late, _ = server.come_back(BEFORE)
        server.catch_up.remove(late)
        await until(lambda: gate.published)
        assert server.catch_up.place_of(one) == BEFORE
        assert server.catch_up.place_of(other) == (16, 0)
        for subscription in (one, other, other):
            server.catch_up.remove(subscription)
        assert server.catch_up.place_of(one) is None
        gate.open.set()
        await until(lambda: server.catch_up.stats().running == 0)
        assert (outbox.frames, server.live) == ([], [])
        assert not one.is_open


async def test_a_place_that_has_left_the_log_is_told_as_a_gap() -> None:
    async with open_server() as server:
        for lsn in (16, 32, 48):
            server.publish(batch(lsn, str(lsn)))
        server.log.trim((32, 0))
        one, outbox = server.come_back((16, LAST_INDEX))
        await until(lambda: server.live)
        assert server.gaps == [(one, (16, LAST_INDEX), (32, 0))]
        assert ids(outbox) == ["48"]


async def test_whoever_waits_while_the_stream_becomes_another_one_is_told_of_a_gap() -> None:
    async with open_server() as server:
        server.publish(batch(1000, "1"))
        server.publish(batch(1008, "1"))
        one, outbox = server.come_back((1000, LAST_INDEX))
        server.publish(batch(16, "2"))
        await until(lambda: server.live)
        assert server.gaps == [(one, (1000, LAST_INDEX), (16, -1))]
        assert ids(outbox) == ["2"]
        assert server.catch_up.handed == (16, LAST_INDEX)


async def test_a_round_that_fails_tells_of_a_gap_and_lets_its_channels_go_live(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        raise RuntimeError("broken")

    with caplog.at_level(logging.ERROR):
        async with open_server(publish) as server:
            server.publish(batch(16, "1", "2"))
            one, outbox = server.come_back(BEFORE)
            other, _ = server.come_back((16, 0))
            await until(lambda: len(server.live) == 2)
            end = (16, LAST_INDEX)
            assert sorted(server.lost, key=lambda gap: gap[1]) == [
                (one, BEFORE, end),
                (other, (16, 0), end),
            ]
            server.publish(batch(32, "3"))
            assert ids(outbox) == ["3"]
    assert "please report it" in caplog.text


async def test_a_viewer_that_takes_too_long_is_told_of_a_gap_and_goes_live() -> None:
    gate = Gate()

    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        await gate(hub, events, is_alone=is_alone)
        return Published(slow={"slow"})

    async with open_server(publish) as server:
        server.publish(batch(16, "1"))
        slow, outbox = server.come_back(BEFORE, viewer="slow")
        quick, _ = server.come_back(BEFORE, viewer="quick")
        await until(lambda: gate.published)
        events = batch(32, "2")
        server.catch_up.before(events)
        gate.open.set()
        await until(lambda: len(gate.published) == 2)
        assert server.live == []
        server.hub.publish(events)
        server.catch_up.after()
        assert server.live[0] is slow
        await until(lambda: len(server.live) == 2)
        assert server.slow == [(slow, BEFORE, (32, LAST_INDEX))]
        assert server.gaps == []
        server.publish(batch(48, "3"))
        # It may have got some of what the gap says.
        assert ids(outbox)[-1] == "3"
        assert server.live == [slow, quick]


async def test_a_channel_that_is_brought_up_gets_another_viewer_in_its_round() -> None:
    gate = Gate()
    async with open_server(gate) as server:
        server.publish(batch(16, "1"))
        one, _ = server.come_back(BEFORE, viewer="one")
        assert server.catch_up.move(one, "two")
        assert (one.viewer, one.is_open) == ("two", False)
        await until(lambda: gate.published)
        assert server.catch_up.move(one, "three")
        # What is being published was checked for the former one.
        assert (one.viewer, one.is_open) == ("three", False)
        assert server.hub.is_empty
        gate.open.set()
        await until(lambda: server.live)
        assert not server.catch_up.move(one, "four")
        assert one.viewer == "three"


async def test_what_publishes_one_at_a_time_does() -> None:
    publish = one_at_a_time()
    under_way: list[int] = []

    class Slow(Hub):
        def publishing(self, events):  # type: ignore[no-untyped-def]
            under_way.append(1)
            assert len(under_way) == 1
            yield 0.0
            under_way.pop()

    waiting: list[Awaitable[object]] = [publish(Slow(), [], is_alone=False) for _ in range(3)]
    await asyncio.gather(*waiting)


async def test_whoever_takes_long_has_a_round_of_its_own_and_nobody_waits_for_it() -> None:
    alone = asyncio.Event()
    seen: list[set[Hashable]] = []
    publish_to_all = one_at_a_time()

    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        viewers = {one.viewer for one in hub_viewers[hub]}
        seen.append(viewers)
        if viewers == {"sleeper"}:
            await alone.wait()
        elif "sleeper" in viewers:
            for one in list(hub_viewers[hub]):
                if one.viewer == "sleeper":
                    hub.unsubscribe(one)
            await publish_to_all(hub, events, is_alone=is_alone)
            return Published(apart={"sleeper"})
        return await publish_to_all(hub, events, is_alone=is_alone)

    hub_viewers: dict[Hub, set[Subscription]] = {}

    class WatchedHub(Hub):
        def subscribe(self, subscription: Subscription) -> None:
            super().subscribe(subscription)
            hub_viewers.setdefault(self, set()).add(subscription)

        def unsubscribe(self, subscription: Subscription) -> None:
            super().unsubscribe(subscription)
            hub_viewers[self].discard(subscription)

    async with open_server(publish, new_hub=WatchedHub) as server:
        server.publish(batch(16, "1", "2"))
        sleeper, slow = server.come_back(BEFORE, viewer="sleeper")
        tab, _ = server.come_back(BEFORE, viewer="sleeper")
        others = [server.come_back(BEFORE, viewer=number) for number in range(3)]
        await until(lambda: {"sleeper"} in seen)
        await until(lambda: len(server.live) == 3)
        for _, outbox in others:
            assert ids(outbox) == ["1", "2"]
        # Whoever comes later has a round, too.
        for number in range(10):
            server.come_back(BEFORE, viewer=10 + number)
        await until(lambda: len(server.live) == 13)
        assert ids(slow) == []
        assert lowest(server) == BEFORE
        alone.set()
        await until(lambda: {sleeper, tab} <= {*server.live})
        assert ids(slow) == ["1", "2"]
        assert (server.gaps, server.slow, server.lost) == ([], [], [])
        server.publish(batch(32, "3"))
        assert ids(slow) == ["1", "2", "3"]


async def test_whoever_has_got_it_late_goes_on_behind_it_in_a_round_of_its_own() -> None:
    rounds: list[set[Hashable]] = []
    publish_to_all = one_at_a_time()

    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        await publish_to_all(hub, events, is_alone=is_alone)
        rounds.append({id(hub)})
        return Published(costly={"costly"} if len(rounds) == 1 else ())

    async with open_server(publish) as server:
        server.publish(batch(16, *map(str, range(700))))
        _, costly = server.come_back(BEFORE, viewer="costly")
        _, quick = server.come_back(BEFORE, viewer="quick")
        await until(lambda: len(server.live) == 2)
        assert ids(costly) == ids(quick) == list(map(str, range(700)))
        assert rounds[1] != rounds[2]


async def test_what_cannot_be_published_is_a_gap_and_no_bug(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        raise CannotPublishError("the database refuses")

    async with open_server(publish) as server:
        server.publish(batch(16, "1"))
        one, outbox = server.come_back(BEFORE)
        await until(lambda: server.live)
        assert server.lost == [(one, BEFORE, (16, LAST_INDEX))]
        server.publish(batch(32, "2"))
        assert ids(outbox) == ["2"]
    assert "1 channels that came back miss changes: the database refuses" in caplog.text
    assert "please report it" not in caplog.text


async def test_who_waits_for_a_round_alone_may_leave() -> None:
    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        await asyncio.sleep(0)
        return Published(apart={"sleeper"})

    async with open_server(publish) as server:
        server.publish(batch(16, "1"))
        one, _ = server.come_back(BEFORE, viewer="sleeper")
        await until(lambda: server.hubs > 1)
        server.catch_up.remove(one)
        await until(lambda: not server.catch_up.stats().running)
        assert server.catch_up.stats().waiting == 0
        assert lowest(server) is None


@pytest.mark.slow
async def test_whoever_gets_another_viewer_during_a_step_gets_it_anew_for_that_one() -> None:
    started, go_on = asyncio.Event(), asyncio.Event()
    publish_to_all = one_at_a_time()
    steps: list[int] = []

    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        steps.append(len(events))
        if len(steps) > 1:
            return await publish_to_all(hub, events, is_alone=is_alone)
        started.set()
        await go_on.wait()
        # Nothing was published to the former viewer, and the new one is not known here.
        for one in (moved, parted):
            hub.unsubscribe(one)
        await publish_to_all(hub, events, is_alone=is_alone)
        return Published(apart={"old"})

    async with open_server(publish) as server:
        server.publish(batch(16, *map(str, range(700))))
        moved, outbox = server.come_back(BEFORE, viewer="old")
        parted, slow = server.come_back(BEFORE, viewer="old")
        _, quick = server.come_back(BEFORE, viewer="quick")
        to_slow, third = server.come_back(BEFORE, viewer="other")
        await started.wait()
        assert server.catch_up.move(moved, "new")
        assert server.catch_up.move(to_slow, "old")
        assert server.catch_up.place_of(moved) == lowest(server) == BEFORE
        go_on.set()
        await until(lambda: len(server.live) == 4)
        for one in (outbox, slow, quick, third):
            assert ids(one) == list(map(str, range(700)))
        assert (moved.viewer, to_slow.viewer) == ("new", "old")
        assert (server.gaps, server.slow, server.lost) == ([], [], [])
        assert server.catch_up.stats().duplicates_possible == 2 * 500


async def test_whoever_gets_another_viewer_during_a_step_may_leave_or_begin_anew() -> None:
    gate = Gate()
    async with open_server(gate) as server:
        server.publish(batch(16, "1"))
        gone, nothing = server.come_back(BEFORE, viewer="old")
        one, outbox = server.come_back(BEFORE, viewer="old")
        await until(lambda: gate.published)
        for each in (gone, one):
            assert server.catch_up.move(each, "new")
        server.catch_up.remove(gone)
        server.catch_up.begin_anew()
        assert server.live == [one]
        assert one.is_open
        gate.open.set()
        await until(lambda: not server.catch_up.stats().running)
        server.publish(batch(32, "2"))
        assert (ids(nothing), ids(outbox)) == ([], ["2"])


async def test_who_joins_while_others_are_told_of_a_gap_misses_nothing_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "SLICE", 0.0)
    publish_to_all = one_at_a_time()

    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        if server.log.end == (16, LAST_INDEX):
            for lsn in (32, 48, 64):
                server.publish(batch(lsn, str(lsn)))
            server.log.trim((48, LAST_INDEX))
        return await publish_to_all(hub, events, is_alone=is_alone)

    async with open_server(publish) as server:
        server.publish(batch(16, "1", "2"))
        server.come_back(BEFORE)
        for _ in range(20):
            server.come_back((16, 0))
        await until(lambda: len(server.gaps) > 2)
        assert len(server.gaps) < 20
        late, outbox = server.come_back((32, LAST_INDEX))
        await until(lambda: len(server.live) == 22)
        assert ids(outbox) == ["64"]
        assert (late, (32, LAST_INDEX), server.log.floor) in server.gaps


async def test_nobody_waits_for_a_round_because_one_of_a_slow_viewer_has_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock, publish_to_all = stop_the_clock(monkeypatch), one_at_a_time()
    alone: set[Hashable] = set()

    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        viewers = {group.viewer for group in hub.groups()}
        if slow := viewers - {"quick"} - alone:
            alone.update(slow)
            for one in subscriptions:
                hub.unsubscribe(one)
            return Published(apart=slow)
        if "quick" not in viewers:
            clock.now += 0.2
        return await publish_to_all(hub, events, is_alone=is_alone)

    async with open_server(publish) as server:
        server.publish(batch(16, "1"))
        subscriptions = [server.come_back(BEFORE, viewer=number)[0] for number in range(20)]
        await until_passed(clock, lambda: len(server.live) > 2)
        quick, _ = server.come_back(BEFORE, viewer="quick")
        await until_passed(clock, lambda: quick in server.live)
        assert len(server.live) < 12
        await until_passed(clock, lambda: len(server.live) == 21)


async def until_passed(clock: StoppedClock, condition: Callable[[], object]) -> None:
    """Let time pass until a condition holds."""
    for _ in range(10_000):
        if condition():
            return
        await clock.pass_by(0.01)
    raise AssertionError("it never held")


async def test_a_gap_of_the_stream_comes_once_to_whoever_is_set_apart_behind_it() -> None:
    publish_to_all = one_at_a_time()
    row = batch(32, "2")[1]

    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        if not is_alone and row in events and slow.is_open:
            before = events[: events.index(row)]
            await publish_to_all(hub, before, is_alone=is_alone)
            hub.unsubscribe(slow)
            await publish_to_all(hub, events[len(before) :], is_alone=is_alone)
            return Published(apart={"slow"})
        return await publish_to_all(hub, events, is_alone=is_alone)

    async with open_server(publish) as server:
        server.publish([*batch(16, "1"), GAP, *batch(32, "2")])
        slow, outbox = server.come_back(BEFORE, viewer="slow")
        _, quick = server.come_back(BEFORE, viewer="quick")
        await until(lambda: len(server.live) == 2)
        assert ids(outbox) == ids(quick) == ["1", "gap", "2"]


async def test_a_gap_of_the_stream_comes_once_to_whoever_gets_another_viewer_meanwhile() -> None:
    publish_to_all = one_at_a_time()
    told, go_on = asyncio.Event(), asyncio.Event()

    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        published = await publish_to_all(hub, events, is_alone=is_alone)
        if GAP in events:
            told.set()
            await go_on.wait()
        return published

    async with open_server(publish) as server:
        server.publish([*batch(16, "1"), GAP, *batch(32, "2")])
        one, outbox = server.come_back(BEFORE, viewer="one")
        await told.wait()
        assert server.catch_up.move(one, "two")
        go_on.set()
        await until(lambda: server.live)
        assert ids(outbox) == ["1", "gap", "2"]


async def test_whoever_cannot_be_published_to_now_waits_outside_of_the_round() -> None:
    publish_to_all = one_at_a_time()
    is_locked = True

    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        assert not is_alone
        if is_locked and one.is_open:
            hub.unsubscribe(one)
            await publish_to_all(hub, events, is_alone=is_alone)
            return Published(held={"locked"}, may_go_on=lambda: not is_locked)
        return await publish_to_all(hub, events, is_alone=is_alone)

    async with open_server(publish) as server:
        server.publish(batch(16, "1"))
        one, outbox = server.come_back(BEFORE, viewer="locked")
        _, quick = server.come_back(BEFORE, viewer="quick")
        await until(lambda: len(server.live) == 1)
        server.publish(batch(32, "2"))
        assert ids(quick) == ["1", "2"]
        await until(lambda: not server.catch_up.stats().running)
        # What it needs is kept.
        assert lowest(server) == BEFORE
        is_locked = False
        await until(lambda: len(server.live) == 2)
        assert ids(outbox) == ["1", "2"]
        assert (server.gaps, server.slow, server.lost) == ([], [], [])


async def test_whoever_waits_until_what_it_missed_is_gone_is_told_of_a_gap_and_goes_live() -> None:
    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        return Published(held={"locked"}, may_go_on=lambda: False)

    async with open_server(publish) as server:
        server.publish(batch(16, "1"))
        one, outbox = server.come_back(BEFORE, viewer="locked")
        other, _ = server.come_back(BEFORE, viewer="locked")
        await until(lambda: server.hubs and not server.catch_up.stats().running)
        server.catch_up.remove(other)
        server.publish(batch(32, "2"))
        server.log.trim((16, LAST_INDEX))
        await until(lambda: server.live)
        assert server.gaps == [(one, BEFORE, (32, LAST_INDEX))]
        server.publish(batch(48, "3"))
        assert ids(outbox) == ["3"]
        assert server.live == [one]


async def test_whom_the_database_refuses_is_told_of_a_gap_and_the_others_go_on() -> None:
    publish_to_all = one_at_a_time()

    async def publish(hub: Hub, events: list[Event], *, is_alone: bool) -> Published:
        if refused.is_open:
            hub.unsubscribe(refused)
        await publish_to_all(hub, events, is_alone=is_alone)
        return Published(refused={"refused"})

    async with open_server(publish) as server:
        server.publish(batch(16, "1"))
        refused, outbox = server.come_back(BEFORE, viewer="refused")
        _, quick = server.come_back(BEFORE, viewer="quick")
        await until(lambda: len(server.live) == 2)
        assert server.lost == [(refused, BEFORE, (16, LAST_INDEX))]
        assert (ids(outbox), ids(quick)) == ([], ["1"])
