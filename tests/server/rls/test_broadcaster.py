"""From the match to the delivery without a database: a fault costs one change."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import attrs
import psycopg
import pytest

from realtime_core import (
    Commit,
    Event,
    Gap,
    GapReason,
    LogicalMessage,
    Position,
    StreamIdentity,
)
from realtime_core.lsn import LSN
from realtime_server.fanout import turns
from realtime_server.fanout.groups import Subscription
from realtime_server.fanout.hub import Hub
from realtime_server.fanout.topic_parser import Topic
from realtime_server.phoenix.serializers import SERIALIZERS
from realtime_server.rls import broadcaster
from realtime_server.rls.broadcaster import Broadcaster
from realtime_server.rls.channel_gaps import ChannelGap, ChannelGapReason
from realtime_server.rls.counters import Counters
from realtime_server.rls.delivery import Delivery
from realtime_server.rls.matcher import Matcher
from realtime_server.rls.payloads import ErrorView
from realtime_server.rls.pending_changes import Decided, PendingChange
from realtime_server.rls.reader import Batch, Read
from realtime_server.rls.viewers import Viewer
from tests.server_helpers import RecordingOutbox, insert, make_metrics, make_relation

TODOS = make_relation()
ANN, BOB = (Viewer.of({"role": "reader", "sub": sub}) for sub in ("ann", "bob"))


class Text:
    """A view that is its text, or a fault."""

    known_of_old = None

    def __init__(self, text: str) -> None:
        self.text = text

    def allows_filter_on(self, columns: frozenset[str]) -> bool:
        return True

    def is_too_large(self, select: Any = None) -> bool:
        return False

    def payload(self, select: Any = None) -> bytes:
        if not self.text:
            raise ValueError("cannot be shown")
        return f'"{self.text}"'.encode()


class ErrorText(ErrorView):
    """An error that is its text."""

    def __init__(self, text: str) -> None:
        self.text = text

    def payload(self, *, has_time: bool) -> bytes:
        return f'"{self.text}"'.encode()


class Oracle:
    """Shows what it is told to."""

    def __init__(self, *shown: dict[Viewer, Any], failures: int = 0) -> None:
        self.shown = list(shown)
        self.failures = failures
        self.counters = Counters()
        self.asked: list[PendingChange] = []

    async def check(self, candidates: Sequence[PendingChange]) -> Decided:
        if self.failures:
            self.failures -= 1
            raise psycopg.OperationalError("the server is away")
        self.asked += candidates
        return list(zip(candidates, self.shown, strict=True))


def sit(hub: Hub, viewer: Viewer, *topics: str) -> RecordingOutbox:
    outbox = RecordingOutbox()
    for topic in topics or ("realtime:*",):
        one = Subscription(Topic.parse(topic), SERIALIZERS["1.0.0"], outbox, None, viewer)
        hub.subscribe(one)
    return outbox


def batch(*ids: int) -> Batch:
    return Batch(tuple(Read(insert(TODOS, str(one), "x"), 10) for one in ids))


async def stay() -> None:
    raise AssertionError("all of it comes from the same server")


class Batches:
    """A reader of some batches, and which of them were acknowledged."""

    def __init__(self, *batches: Batch) -> None:
        self._batches = batches
        self.acknowledged: list[Batch] = []

    async def batches(self) -> AsyncGenerator[Batch, None]:
        for one in self._batches:
            yield one

    def acknowledge(self, batch: Batch) -> None:
        self.acknowledged.append(batch)


class Notes:
    """What replay is told, and what was sent by then."""

    def __init__(self, outbox: RecordingOutbox) -> None:
        self.entries: list[Any] = []
        self._outbox = outbox

    def before(self, events: Sequence[Event]) -> None:
        self.entries.append(("before", events, payloads(self._outbox)))

    def after(self) -> None:
        self.entries.append(("after", payloads(self._outbox)))


async def publish(hub: Hub, oracle: Oracle, one: Batch) -> None:
    delivery = Delivery(hub, oracle.counters)
    batches = Batches(one)
    way = Broadcaster(Matcher(hub), oracle.check, delivery, delivery.telling, make_metrics(), stay)
    await way.run(batches)  # type: ignore[arg-type]
    assert batches.acknowledged == [one]


def payloads(outbox: RecordingOutbox) -> list[Any]:
    return [frame["payload"] for frame in outbox.frames]


async def test_each_viewer_gets_what_it_is_shown_in_one_write() -> None:
    hub = Hub(clock=lambda: 0.0)
    ann, bob = sit(hub, ANN), sit(hub, BOB)
    oracle = Oracle({ANN: Text("one"), BOB: Text("uno")}, {ANN: Text("two")})
    await publish(hub, oracle, batch(1, 2))
    assert (payloads(ann), payloads(bob)) == (["one", "two"], ["uno"])
    assert (len(ann.writes), len(bob.writes)) == (1, 1)
    assert [candidate.viewers for candidate in oracle.asked] == [{ANN, BOB}] * 2


async def test_who_filters_is_named_apart_from_those_who_get_it() -> None:
    hub = Hub()
    sit(hub, ANN, "realtime:public:todos:id=eq.1")
    sit(hub, BOB, "realtime:public:todos:id=eq.2")
    oracle = Oracle({}, {})
    await publish(hub, oracle, batch(1, 2))
    assert [(one.viewers, one.others) for one in oracle.asked] == [({ANN}, {BOB}), ({BOB}, {ANN})]


async def test_an_error_goes_past_the_filters() -> None:
    hub = Hub()
    ann = sit(hub, ANN, "realtime:public:todos:id=eq.9")
    await publish(hub, Oracle({ANN: ErrorText("400")}), batch(1))
    assert payloads(ann) == ["400"]


@pytest.mark.slow
async def test_others_have_their_turn_while_very_many_filters_are_typed() -> None:
    hub = Hub()
    sit(hub, ANN, *(f"realtime:public:todos:id=eq.{number}" for number in range(1000)))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    ann = sit(hub, ANN, "realtime:public:todos:id=eq.1")
    await publish(hub, Oracle({ANN: Text("one")}), batch(1))
    assert payloads(ann) == ["one"]
    assert turns >= 9
    other.cancel()


@pytest.mark.slow
async def test_others_have_their_turn_while_filters_are_asked_about_many_rows() -> None:
    hub = Hub()
    tests = ",".join(f"details=not.like.*{number}x*" for number in range(100))
    sit(hub, ANN, *(f"realtime:public:todos:{tests},id=neq.{number}" for number in range(5)))
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(others())
    began = time.thread_time()
    found = await Matcher(hub).match(batch(*range(1000)).reads)
    took = time.thread_time() - began
    assert [len(one.viewers) for one in found] == [1] * 1000
    # Each slice is 5 ms, of which others may take some.
    assert turns > took / 0.02 + 3
    other.cancel()


@pytest.mark.slow
async def test_others_have_their_turn_while_very_many_filters_are_asked_about_one_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(turns, "SLICE", 0.0)
    hub = Hub()
    sit(hub, ANN, *(f"realtime:public:todos:details=gt.y{number}" for number in range(600)))
    sit(hub, BOB, *(f"realtime:public:todos:details=neq.y{number}" for number in range(600)))
    others = 0

    async def have_turns() -> None:
        nonlocal others
        while True:
            others += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(have_turns())
    [found] = await Matcher(hub).match(batch(1).reads)
    assert (found.viewers, found.others) == ({BOB}, {ANN})
    assert others >= 1200
    other.cancel()


async def test_many_are_found_once_for_all_changes_of_a_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Though others have their turn after each of them."""
    monkeypatch.setattr(turns, "SLICE", 0.0)
    asked = 0

    class Counting(Hub):
        def deliveries(self, change: Any, *, filtered: bool = True) -> Any:
            nonlocal asked
            asked += 1
            return super().deliveries(change, filtered=filtered)

    hub = Counting()
    sit(hub, ANN)
    found = await Matcher(hub).match(batch(*range(100)).reads)
    assert [one.viewers for one in found] == [{ANN}] * 100
    # And once for who listens to it at all.
    assert asked == 2


async def test_a_change_that_cannot_be_shown_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    hub = Hub()
    ann = sit(hub, ANN)
    oracle = Oracle({ANN: Text("one")}, {ANN: Text("")}, {ANN: Text("three")})
    await publish(hub, oracle, batch(1, 2, 3))
    assert payloads(ann) == ["one", "three"]
    assert oracle.counters.errors == 1
    assert "a change of public.todos cannot be sent" in caplog.text


async def test_a_database_that_is_away_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broadcaster, "_RETRY", 0.0)
    hub = Hub()
    ann = sit(hub, ANN)
    await publish(hub, Oracle({ANN: Text("one")}, failures=3), batch(1))
    assert payloads(ann) == ["one"]


async def test_a_gap_is_told_to_all() -> None:
    hub = Hub()
    ann = sit(hub, ANN)
    gap = Gap(None, Position(LSN(1)), GapReason.SLOT_MISSING)
    await publish(hub, Oracle(), Batch(gap=gap))
    assert [frame["event"] for frame in ann.frames] == ["system"]


def seen(outbox: RecordingOutbox) -> list[Any]:
    return [
        frame["payload"]["message"] if frame["event"] == "system" else frame["payload"]
        for frame in outbox.frames
    ]


async def test_what_comes_late_goes_to_those_who_are_that_viewer_still() -> None:
    hub, oracle = Hub(), Oracle()
    delivery = Delivery(hub, oracle.counters)
    stays, moves, leaves = RecordingOutbox(), RecordingOutbox(), RecordingOutbox()
    subscriptions = [
        Subscription(Topic.parse("realtime:*"), SERIALIZERS["1.0.0"], outbox, None, ANN)
        for outbox in (stays, moves, leaves)
    ]
    for subscription in subscriptions:
        hub.subscribe(subscription)
    one, two = await Matcher(hub).match(batch(1, 2).reads)
    hub.move(subscriptions[1], BOB)
    hub.unsubscribe(subscriptions[2])
    delivery.hand_out_late(ANN, [(one, {ANN: Text("one")}), (two, {ANN: Text("two")})])
    assert seen(stays) == ["one", "two"]
    assert seen(moves) == ["Gap: token_replaced"]
    assert seen(leaves) == []
    assert oracle.counters.given_up == 2


async def test_whose_token_is_replaced_while_a_batch_is_decided_gets_none_of_it() -> None:
    hub = Hub()
    outboxes = stays, moves, leaves = RecordingOutbox(), RecordingOutbox(), RecordingOutbox()
    subscriptions = [
        Subscription(Topic.parse("realtime:*"), SERIALIZERS["1.0.0"], outbox, None, ANN)
        for outbox in outboxes
    ]
    for subscription in subscriptions:
        hub.subscribe(subscription)

    class Meanwhile(Oracle):
        async def check(self, candidates: Sequence[PendingChange]) -> Decided:
            hub.move(subscriptions[1], BOB)
            hub.unsubscribe(subscriptions[2])
            return await super().check(candidates)

    oracle = Meanwhile({ANN: Text("one")}, {ANN: Text("two")}, {})
    await publish(hub, oracle, batch(1, 2, 3))
    assert seen(stays) == ["one", "two"]
    assert seen(moves) == ["Gap: token_replaced"]
    assert seen(leaves) == []
    assert oracle.counters.given_up == 2


async def test_a_loss_is_told_to_those_who_would_have_got_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hub, oracle = Hub(), Oracle()
    delivery = Delivery(hub, oracle.counters)
    ann = sit(hub, ANN, "realtime:*", "realtime:public:other")
    bob = sit(hub, BOB)
    loss = ChannelGap.of(
        ANN, ChannelGapReason.TOO_SLOW, await Matcher(hub).match(batch(1, 2).reads)
    )
    delivery.tell(loss)
    assert seen(bob) == []
    [frame] = ann.frames
    assert (frame["topic"], frame["event"]) == ("realtime:*", "system")
    assert frame["payload"]["gap"]["reason"] == "rls_too_slow"
    assert "2 changes for a role are not sent" in caplog.text
    assert oracle.counters.given_up == 2


FILTERS = ("realtime:public:todos:id=eq.1", "realtime:public:todos:id=eq.9")
"""A topic whose filter the row passes, and one whose filter it does not."""


def topics(outbox: RecordingOutbox) -> list[tuple[str, str]]:
    return [(frame["topic"], frame["event"]) for frame in outbox.frames]


@pytest.mark.parametrize("reason", ChannelGapReason)
async def test_a_loss_does_not_tell_whether_a_row_passes_a_filter(reason: ChannelGapReason) -> None:
    hub, oracle = Hub(), Oracle()
    delivery = Delivery(hub, oracle.counters)
    ann = sit(hub, ANN, *FILTERS)
    delivery.tell(ChannelGap.of(ANN, reason, await Matcher(hub).match(batch(1).reads)))
    assert topics(ann) == [(topic, "system") for topic in FILTERS]


async def test_nor_does_that_of_a_channel_that_moves_while_it_is_looked_at_apart() -> None:
    hub, oracle = Hub(), Oracle()
    delivery = Delivery(hub, oracle.counters)
    outbox = RecordingOutbox()
    moving = [
        Subscription(Topic.parse(topic), SERIALIZERS["1.0.0"], outbox, None, ANN)
        for topic in FILTERS
    ]
    for subscription in moving:
        hub.subscribe(subscription)
    stays = sit(hub, ANN, *FILTERS)
    [one] = await Matcher(hub).match(batch(1).reads)
    for subscription in moving:
        hub.move(subscription, BOB)
    delivery.hand_out_late(ANN, [(one, {})])
    assert topics(outbox) == [(topic, "system") for topic in FILTERS]
    assert topics(stays) == []


async def test_a_filter_by_a_hidden_column_is_not_told_by_the_gap_of_a_new_token() -> None:
    hub, outbox = Hub(), RecordingOutbox()
    moving = Subscription(Topic.parse(FILTERS[0]), SERIALIZERS["1.0.0"], outbox, None, ANN)
    hub.subscribe(moving)

    class Hiding(Text):
        def allows_filter_on(self, columns: frozenset[str]) -> bool:
            return False

    class Meanwhile(Oracle):
        async def check(self, candidates: Sequence[PendingChange]) -> Decided:
            hub.move(moving, BOB)
            return await super().check(candidates)

    await publish(hub, Meanwhile({ANN: Hiding("one")}), batch(1))
    assert topics(outbox) == []


async def test_a_loss_that_nobody_is_there_to_hear_of_is_none() -> None:
    hub, oracle = Hub(), Oracle()
    delivery = Delivery(hub, oracle.counters)
    sit(hub, BOB)
    delivery.tell(
        ChannelGap.of(ANN, ChannelGapReason.TOO_SLOW, await Matcher(hub).match(batch(1).reads))
    )
    assert oracle.counters.given_up == 0


@pytest.mark.parametrize("is_handed_out", [False, True])
async def test_what_a_cancellation_finds_handed_out_is_acknowledged(is_handed_out: bool) -> None:
    """Nothing else is: it comes again to the next server."""
    hub = Hub(clock=itertools.count().__next__)
    outboxes = [sit(hub, ANN) for _ in range(3)]
    batches = Batches(batch(1))

    class Stopping(Oracle):
        async def check(self, candidates: Sequence[PendingChange]) -> Decided:
            running.cancel()
            if not is_handed_out:
                await asyncio.sleep(0)
            return await super().check(candidates)

    oracle = Stopping({ANN: Text("one")})
    delivery = Delivery(hub, oracle.counters)
    notes = Notes(outboxes[-1])
    way = Broadcaster(
        Matcher(hub),
        oracle.check,
        delivery,
        delivery.telling,
        make_metrics(),
        stay,
        replay=notes,
    )
    running = asyncio.create_task(way.run(batches))  # type: ignore[arg-type]
    await asyncio.wait({running})
    assert running.cancelled()
    assert [payloads(one) for one in outboxes] == [["one"] if is_handed_out else []] * 3
    assert len(batches.acknowledged) == is_handed_out
    assert [entry[0] for entry in notes.entries] == ["before", "after"][: 1 + is_handed_out]


async def test_replay_is_told_before_the_match_and_when_all_is_sent() -> None:
    hub = Hub()
    outbox = sit(hub, ANN)
    oracle = Oracle({ANN: Text("one")})
    notes = Notes(outbox)
    delivery = Delivery(hub, oracle.counters)
    one = batch(1)
    change = one.reads[0].change
    commit = Commit(change.transaction, LSN(9), 1)
    gap = Gap(None, Position(LSN(5), 0), GapReason.LAG)
    message = LogicalMessage(LSN(9), "prefix", b"", None, 0)
    for one_batch in (
        attrs.evolve(one, last=commit, events=(change, commit)),
        Batch(gap=gap, events=(gap,)),
        Batch(last=message, events=(message,)),
    ):
        way = Broadcaster(
            Matcher(hub),
            oracle.check,
            delivery,
            delivery.telling,
            make_metrics(),
            stay,
            replay=notes,
        )
        await way.run(Batches(one_batch))  # type: ignore[arg-type]
        oracle.shown.clear()
    told = payloads(outbox)
    assert notes.entries == [
        ("before", (change, commit), []),
        ("after", ["one"]),
        ("before", (gap,), ["one"]),
        ("after", told),
        ("before", (message,), told),
        ("after", told),
    ]
    assert len(told) == 2


async def test_what_comes_of_a_promotion_is_asked_of_the_new_server() -> None:
    hub = Hub()
    ann = sit(hub, ANN)
    done: list[str] = []

    async def move() -> None:
        done.append("moved")

    class Noting(Oracle):
        async def check(self, candidates: Sequence[PendingChange]) -> Decided:
            done.append("checked")
            return await super().check(candidates)

    oracle = Noting({ANN: Text("one")})
    first, second = (
        attrs.evolve(change, transaction=attrs.evolve(change.transaction, stream=stream))
        for change, stream in zip(
            (insert(TODOS, "1", "x"), insert(TODOS, "2", "x")),
            (StreamIdentity(7, timeline, ("shop",)) for timeline in (1, 2)),
            strict=True,
        )
    )
    batches = Batches(*(Batch((Read(change, 1),)) for change in (first, first, second, second)))
    delivery = Delivery(hub, oracle.counters)
    way = Broadcaster(Matcher(hub), oracle.check, delivery, delivery.telling, make_metrics(), move)
    await way.run(batches)  # type: ignore[arg-type]
    assert done == ["checked", "checked", "moved", "checked", "checked"]
    assert payloads(ann) == ["one"] * 4
