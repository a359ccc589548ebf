"""Links and feeds, over pairs of sockets: what the supervisor reads, every worker hands out."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from typing import Any, TypeVar

import pytest

from realtime_core import (
    LSN,
    Begin,
    Event,
    Gap,
    GapReason,
    Idle,
    Insert,
    Position,
    RawEvent,
    SourceStats,
    StreamIdentity,
)
from realtime_core.errors import ServerError
from realtime_core.pgoutput import (
    BeginMessage,
    CommitMessage,
    InsertMessage,
    Message,
    RawDecoder,
    RelationColumn,
    RelationMessage,
)
from realtime_server.cluster.envelope import NOWHERE, EnvelopeError
from realtime_server.cluster.packer import Packer
from realtime_server.workers.feed import LinkFeed
from realtime_server.workers.frames import (
    AttachedFrame,
    EnvelopeFrame,
    Frame,
    FrameBuffer,
    HandedOutFrame,
    ReadyFrame,
    encode_frame,
)
from realtime_server.workers.in_flight import Behind, InFlight
from realtime_server.workers.links import Links
from realtime_server.workers.slot_envelopes import SlotEnvelopes
from tests.pgoutput_encoder import encode
from tests.pgoutput_streams import Seen, Server, seen
from tests.waiting import eventually

T = TypeVar("T")
STREAM = StreamIdentity(7, 1, ("shop",))


async def soon(awaitable: Awaitable[T]) -> T:
    """Fail rather than hang."""
    async with asyncio.timeout(30):
        return await awaitable


class Source:
    """What Links reads: batches that the test puts in, until it puts None."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[list[RawEvent] | None] = asyncio.Queue()
        self.acknowledged: list[Position] = []
        self.enum_orders = {("public", "mood"): ("sad", "glad")}

    async def attached(self) -> None: ...

    async def batches(self) -> AsyncIterator[list[RawEvent]]:
        while (batch := await self.queue.get()) is not None:
            yield batch

    def stats(self) -> SourceStats:
        return SourceStats(confirmed_lsn=LSN(5), connected=True, stream=STREAM)

    def ack(self, upto: Position) -> None:
        self.acknowledged.append(upto)


class Stage:
    """A supervisor with its links, and feeds as its workers have them."""

    def __init__(self, workers: int = 1, *, ends_stalled: bool = True, **in_flight: Any) -> None:
        self.source = Source()
        self.now = 0.0
        self.ended: list[int] = []
        source: Any = self.source
        self.in_flight: InFlight[Position] = InFlight(**in_flight)
        self.links = Links(
            SlotEnvelopes(source),
            self.in_flight,
            workers=workers,
            clock=lambda: self.now,
            stalled=self.ended.append if ends_stalled else None,
        )
        self.tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Stage:
        self.running = asyncio.create_task(self.links.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self.running, *self.tasks):
            task.cancel()
        await asyncio.gather(self.running, *self.tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def worker(self, number: int) -> AsyncIterator[LinkFeed]:
        ours, theirs = socket.socketpair()
        served = asyncio.create_task(
            self.links.serve(number, *await asyncio.open_connection(sock=ours))
        )
        self.tasks.append(served)
        async with await LinkFeed.over(theirs) as feed:
            feed.note(self.source.stats())
            yield feed
        await soon(asyncio.wait({served}))

    def put(self, *events: RawEvent) -> None:
        self.source.queue.put_nowait(list(events))


def stream(seed: int) -> tuple[list[RawEvent], list[Seen]]:
    """Return a stream without prepared and empty transactions, and what must come out of it."""
    server = Server(Random(seed))
    for _ in range(60):
        server.step()
    decoder = RawDecoder(STREAM)
    events: list[RawEvent] = list(decoder.decode(map(encode, server.messages)))
    decoder.close()
    empty = {e.transaction.commit_lsn for e in events if getattr(e, "changes", None) == 0}
    gids = {
        e.transaction.commit_lsn
        for e in events
        if isinstance(e, Begin) and e.transaction.gid is not None
    }
    left_out = empty | gids

    def stays(event: RawEvent) -> bool:
        transaction = getattr(event, "transaction", None)
        return transaction is None or transaction.commit_lsn not in left_out

    expected = [
        event
        for event in server.expected
        if event[1] is None or event[1][1] not in left_out  # type: ignore[index]
    ]
    return [event for event in events if stays(event)], [_anywhere(event) for event in expected]


def _anywhere(event: Seen) -> Seen:
    """Return an event without the streams of its positions."""
    return tuple((item.lsn, item.index) if isinstance(item, Position) else item for item in event)


async def read(feed: LinkFeed, is_enough: Callable[[list[Event]], bool]) -> list[Event]:
    """Read and acknowledge, as the broadcaster does."""
    found: list[Event] = []
    batches = feed.batches()
    while not is_enough(found):
        batch = await soon(anext(batches))
        found += batch
        for event in reversed(batch):
            if not isinstance(event, Begin | Gap):
                feed.ack(event)
                break
    return found


def cut(events: list[RawEvent], random: Random) -> list[list[RawEvent]]:
    batches = []
    events = list(events)
    while events:
        size = random.randint(1, 20)
        batches.append(events[:size])
        del events[:size]
    return batches


def row(lsn: int) -> tuple[Message, ...]:
    return (InsertMessage(1, ("1",)), CommitMessage(0, LSN(lsn), LSN(lsn + 1), 0))


@pytest.mark.parametrize("seed", range(5))
async def test_every_worker_hands_out_everything_and_then_it_is_acknowledged(seed: int) -> None:
    events, expected = stream(seed)
    async with Stage(workers=2) as stage, stage.worker(1) as one, stage.worker(2) as two:
        await soon(one.attached())
        assert one.enum_orders == {("public", "mood"): ("sad", "glad")}
        for batch in cut(events, Random(seed)):
            stage.put(*batch)
        first = await read(one, lambda found: len(found) >= len(expected))
        assert [_anywhere(seen(event)) for event in first] == expected
        assert stage.source.acknowledged == []
        second = await read(two, lambda found: len(found) >= len(expected))
        assert [_anywhere(seen(event)) for event in second] == expected
        last = next(event.position for event in reversed(events) if not isinstance(event, Begin))
        await eventually(lambda: stage.source.acknowledged[-1:] == [last])
        assert stage.in_flight.size == 0


@pytest.mark.parametrize("seed", range(5))
async def test_who_takes_the_place_of_a_worker_hands_out_the_rest(seed: int) -> None:
    events, expected = stream(seed)
    async with Stage(workers=2) as stage, stage.worker(1) as one:
        async with stage.worker(2) as two:
            for batch in cut(events, Random(seed)):
                stage.put(*batch)
            half = await read(two, lambda found: len(found) >= len(expected) // 2)
            await read(one, lambda found: len(found) >= len(expected))
        async with stage.worker(2) as again:
            rest = await read(
                again, lambda found: bool(found) and _anywhere(seen(found[-1])) == expected[-1]
            )
        found = [_anywhere(seen(event)) for event in [*half, *rest]]
        # What the first one had handed out does not come again, but the Begin of the transaction
        # within which the second one goes on.
        assert [event for event in found if event[0] != "begin"] == [
            event for event in expected if event[0] != "begin"
        ]
        await eventually(lambda: stage.in_flight.size == 0)


@pytest.mark.slow
async def test_nothing_is_read_while_a_worker_is_too_far_behind() -> None:
    async with Stage(max_bytes=200, patience=30) as stage, stage.worker(1) as one:
        await soon(one.attached())
        for number in range(1, 30):
            stage.put(Idle(Position(LSN(number), 0, STREAM)))
        await eventually(lambda: stage.in_flight.is_full)
        left = stage.source.queue.qsize()
        assert left > 20
        stage.now += 31
        await eventually(lambda: stage.ended[:1] == [1])
        assert stage.source.queue.qsize() == left
        await read(one, lambda found: len(found) == 29)
        await eventually(lambda: stage.source.acknowledged[-1:] == [Position(LSN(29), 0, STREAM)])


@pytest.mark.slow
async def test_who_may_be_waiting_for_the_database_is_waited_for() -> None:
    stage = Stage(max_bytes=200, patience=30, ends_stalled=False)
    async with stage, stage.worker(1) as one:
        await soon(one.attached())
        for number in range(1, 30):
            stage.put(Idle(Position(LSN(number), 0, STREAM)))
        await eventually(lambda: stage.in_flight.is_full)
        stage.now += 31
        assert stage.in_flight.stalled(stage.now) == [1]
        stage.links.look()
        await read(one, lambda found: len(found) == 29)


async def test_cancelling_a_step_loses_nothing() -> None:
    async with Stage() as stage, stage.worker(1) as one:
        found: list[Event] = []
        for number in range(1, 40):
            step = asyncio.ensure_future(anext(one.batches()))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            stage.put(Idle(Position(LSN(number), 0, STREAM)))
            step.cancel()
            (result,) = await asyncio.gather(step, return_exceptions=True)
            if isinstance(result, list):
                found += result
        found += await read(one, lambda more: len(found) + len(more) == 39)
        assert [event.position.lsn for event in found] == list(range(1, 40))  # type: ignore[union-attr]


async def test_new_labels_of_enums_come_with_tables_that_are_described_anew() -> None:
    """What filters have made of a table's description has the labels of before."""
    decoder = RawDecoder(STREAM)
    relation = RelationMessage(1, "public", "item", "d", (RelationColumn(1, "id", 23, -1),))
    first, second = (
        [*decoder.decode(map(encode, (BeginMessage(LSN(lsn), 0, 7), *messages)))]
        for lsn, messages in ((10, (relation, *row(10))), (20, row(20)))
    )
    async with Stage() as stage, stage.worker(1) as one:
        await soon(one.attached())
        stage.put(*first)
        before = await read(one, lambda found: any(isinstance(e, Insert) for e in found))
        stage.source.enum_orders["public", "mood"] = ("sad", "ok", "glad")
        stage.put(*second)
        after = await read(one, lambda found: any(isinstance(e, Insert) for e in found))
        assert one.enum_orders == {("public", "mood"): ("sad", "ok", "glad")}
        (old,), (new,) = (
            [e.relation for e in events if isinstance(e, Insert)] for events in (before, after)
        )
        assert old is not new


async def test_what_is_handed_out_within_a_moment_is_told_at_once() -> None:
    told: list[Frame] = []
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=ours)
    async with await LinkFeed.over(theirs) as feed:
        feed.note(SourceStats(stream=STREAM))
        packer = Packer(NOWHERE, STREAM)
        writer.write(encode_frame(AttachedFrame(Behind(0, -1, 0))))
        for number in range(1, 21):
            (packed,) = packer.feed(Idle(Position(LSN(number), 0, STREAM)))
            writer.write(encode_frame(EnvelopeFrame(number, packed.data)))
        events = await soon(anext(feed.batches()))
        while len(events) < 20:
            events += await soon(anext(feed.batches()))
        for event in events[:19]:
            feed.ack(event)
        buffer = FrameBuffer()
        while HandedOutFrame(19) not in told:
            told += buffer.feed(await soon(reader.read(100)))
        # What is not told yet is told when the link is closed.
        feed.ack(events[19])
    told += buffer.feed(await soon(reader.read()))
    writer.close()
    assert told == [ReadyFrame(), HandedOutFrame(19), HandedOutFrame(20)]


async def test_gaps_come_through() -> None:
    gap = Gap(None, Position(LSN(50), 0, STREAM), GapReason.SLOT_MISSING)
    async with Stage() as stage, stage.worker(1) as one:
        stage.put(gap, Idle(Position(LSN(60), 0, STREAM)))
        assert await read(one, lambda found: len(found) == 2) == [
            gap,
            Idle(Position(LSN(60), 0, STREAM)),
        ]


@pytest.mark.slow
async def test_what_was_read_ahead_behind_a_gap_is_not_acknowledged_with_what_is_before() -> None:
    """Behind the gap the stream begins at a lower LSN, as after a restored backup."""
    gap = Gap(None, Position(LSN(50), 0, STREAM), GapReason.SLOT_MISSING)
    before = [Idle(Position(LSN(number), 0, STREAM)) for number in (60, 70)]
    behind = [Idle(Position(LSN(number), 0, STREAM)) for number in (65, 75)]
    async with Stage() as stage, stage.worker(1) as one:
        stage.put(*before, gap, *behind)
        batches = one.batches()
        events = [event for _ in range(5) for event in await soon(anext(batches))]
        assert [type(event) for event in events] == [Idle, Idle, Gap, Idle, Idle]
        del events[2]
        acknowledged = stage.source.acknowledged
        for count, event in enumerate(events, 1):
            one.ack(event)
            # A second time, that changes nothing.
            one.ack(event)
            await eventually(lambda count=count: len(acknowledged) >= count)  # type: ignore[misc]
            assert acknowledged == [each.position for each in [*before, *behind][:count]]
        assert stage.in_flight.size == 0


async def test_an_envelope_that_cannot_be_read_is_an_error_at_each_step() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        async with await LinkFeed.over(theirs) as feed:
            feed.note(SourceStats(stream=STREAM))
            ours.sendall(encode_frame(AttachedFrame(Behind(0, -1, 0))))
            ours.sendall(encode_frame(EnvelopeFrame(1, b"?")))
            batches = feed.batches()
            for _ in range(2):
                with pytest.raises(EnvelopeError):
                    await soon(anext(batches))


async def test_a_worker_hears_that_its_supervisor_has_ended() -> None:
    ours, theirs = socket.socketpair()
    async with await LinkFeed.over(theirs) as feed:
        waiting = asyncio.ensure_future(anext(feed.batches()))
        await asyncio.sleep(0)
        ours.close()
        with pytest.raises(ServerError, match="the supervisor has ended"):
            await soon(waiting)
        with pytest.raises(ServerError, match="the supervisor has ended"):
            await soon(feed.attached())


async def test_a_worker_hears_of_an_error_of_its_link_that_nobody_has_thought_of(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(data: bytes, sequence: int) -> None:
        raise AttributeError("nobody has thought of that")

    monkeypatch.setattr("realtime_server.workers.feed.decode", fail)
    ours, theirs = socket.socketpair()
    with ours:
        async with await LinkFeed.over(theirs) as feed:
            waiting = asyncio.ensure_future(anext(feed.batches()))
            ours.sendall(encode_frame(EnvelopeFrame(1, b"?")))
            with pytest.raises(AttributeError):
                await soon(waiting)
            assert not feed.stats().connected
