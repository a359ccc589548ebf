"""What a supervisor reads from the log of several machines, its workers hand out: fakes stand for
NATS, and pairs of sockets for the workers' links."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Iterator
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
from realtime_core.pgoutput import (
    BeginMessage,
    CommitMessage,
    InsertMessage,
    Message,
    RawDecoder,
    RelationColumn,
    RelationMessage,
)
from realtime_server.cluster.envelope import Envelope, Kind, begin_of_log, decode, encode
from realtime_server.cluster.log import Log, LogSettings
from realtime_server.cluster.log_reader import LogReader
from realtime_server.cluster.packer import Packed, Packer
from realtime_server.cluster.patient_reader import PatientReader
from realtime_server.workers.feed import LinkFeed
from realtime_server.workers.in_flight import InFlight, ToSend
from realtime_server.workers.links import Links
from realtime_server.workers.log_envelopes import LogEnvelopes
from tests.fake_jetstream import FakeJetStream
from tests.pgoutput_encoder import encode as encode_message
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

T = TypeVar("T")
STREAM = StreamIdentity(7, 1, ("shop",))
COLUMNS = (RelationColumn(1, "id", 23, -1), RelationColumn(0, "data", 25, -1))


async def soon(awaitable: Awaitable[T]) -> T:
    """Fail rather than hang."""
    async with asyncio.timeout(30):
        return await awaitable


class _InFlight(InFlight[int]):
    def __init__(self, sent: list[bytes]) -> None:
        super().__init__()
        self._sent = sent

    def append(self, envelope: ToSend[int], now: float) -> int:
        self._sent.append(envelope.data)
        return super().append(envelope, now)


class Stage:
    """A log, a supervisor that reads it, and feeds as its workers have them."""

    def __init__(self) -> None:
        self.nats = FakeJetStream()
        self.nats.exists = True
        self.packer = Packer((0, 5, 0), STREAM, max_payload=600)
        self.append(Envelope(Kind.MARK, (0, 5, 0), (0, 5, 0), (0, 4, 0), STREAM, b""))
        self._decoder = RawDecoder(STREAM)
        self._rows = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.sent: list[bytes] = []
        """The envelopes that were sent to the workers."""

    async def __aenter__(self) -> Stage:
        async def connect() -> Any:
            return self.nats.connect()

        def log(connection: Any) -> Log:
            return Log(connection, LogSettings(name="log"))

        clock = asyncio.get_running_loop().time
        self.source = LogEnvelopes(PatientReader(LogReader(connect, log), clock), SourceStats)
        in_flight = _InFlight(self.sent)
        self.links = Links(self.source, in_flight, workers=2, clock=clock, stalled=None)
        await self.source.__aenter__()
        self.running = asyncio.create_task(self.links.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in (self.running, *self._tasks):
            task.cancel()
        await asyncio.gather(self.running, *self._tasks, return_exceptions=True)
        await self.source.aclose()

    @contextlib.asynccontextmanager
    async def worker(self, number: int) -> AsyncIterator[LinkFeed]:
        ours, theirs = socket.socketpair()
        served = asyncio.create_task(
            self.links.serve(number, *await asyncio.open_connection(sock=ours))
        )
        self._tasks.append(served)
        async with await LinkFeed.over(theirs, tells_holes=True) as feed:
            feed.note(SourceStats(stream=STREAM))
            yield feed
        await soon(asyncio.wait({served}))

    def append(self, envelope: Envelope | Packed) -> int:
        data = envelope.data if isinstance(envelope, Packed) else encode(envelope)
        return self.nats.append(data)

    def pack(self, size: int = 1) -> list[Packed]:
        """Return the envelopes of one more transaction with one row of so many bytes."""
        return [
            packed
            for event in self._transaction(size)
            for packed in [*self.packer.feed(event), *self.packer.flush()]
        ]

    def insert(self, size: int = 1) -> None:
        """Append one more transaction with one row of so many bytes."""
        for packed in self.pack(size):
            self.append(packed)

    def _transaction(self, size: int) -> Iterator[RawEvent]:
        self._rows += 1
        lsn = 10 * self._rows
        messages: list[Message] = [
            BeginMessage(LSN(lsn), 0, 7),
            RelationMessage(1, "public", "item", "d", COLUMNS),
            InsertMessage(1, (str(self._rows), "x" * size)),
            CommitMessage(0, LSN(lsn), LSN(lsn + 1), 0),
        ]
        return self._decoder.decode(map(encode_message, messages))


async def read(feed: LinkFeed, rows: int) -> list[int | Gap]:
    """Read and acknowledge, as the broadcaster does; return the rows' numbers, and gaps."""
    found: list[int | Gap] = []
    batches = feed.batches()
    while sum(not isinstance(item, Gap) for item in found) < rows:
        batch: list[Event] = await soon(anext(batches))
        for event in batch:
            if isinstance(event, Insert):
                found.append(int(str(event.record.text("id"))))
            elif isinstance(event, Gap):
                found.append(event)
        for event in reversed(batch):
            if not isinstance(event, Begin | Gap):
                feed.ack(event)
                break
    return found


async def test_every_worker_hands_out_what_comes_behind_the_end_of_the_log() -> None:
    stage = Stage()
    stage.insert()
    async with stage, stage.worker(1) as one, stage.worker(2) as two:
        await soon(one.attached())
        assert (one.begin, one.begin_sequence) == (stage.packer.last, stage.nats.last)
        assert one.log_created == str(stage.nats.created)
        assert stage.source.is_open
        assert stage.source.handed_out == stage.nats.last
        for _ in range(3):
            stage.insert()
        assert await read(one, 3) == [2, 3, 4]
        assert stage.source.handed_out is not None
        assert stage.source.handed_out < stage.nats.last
        assert stage.source.log_stats().lag_bytes > 100
        assert await read(two, 3) == [2, 3, 4]
        await eventually(lambda: stage.source.handed_out == stage.nats.last)
        assert stage.source.log_stats().lag_bytes == 0


async def test_a_new_log_begins_with_its_first_envelope() -> None:
    stage = Stage()
    stage.nats.expire_before(stage.nats.last + 1)
    async with stage, stage.worker(1) as one, stage.worker(2) as two:
        await eventually(lambda: stage.source.handed_out is not None)
        assert not stage.source.is_open
        stage.insert()
        assert await read(one, 1) == await read(two, 1) == [1]


async def test_who_takes_the_place_of_a_worker_gets_a_large_row_whole() -> None:
    stage = Stage()
    async with stage, stage.worker(1) as one:
        async with stage.worker(2) as two:
            await soon(two.attached())
            *parts, last = stage.pack(5000)
            assert len(parts) > 5
            for part in parts:
                stage.append(part)
        async with stage.worker(2) as again:
            stage.append(last)
            stage.insert()
            assert await read(one, 2) == await read(again, 2) == [1, 2]
    # Whichever envelope a worker begins with, none is a part of another.
    assert [decode(data).parts for data in stage.sent] == [1] * len(stage.sent)


@pytest.mark.slow
async def test_of_what_the_log_has_lost_every_worker_is_told_and_who_takes_its_place() -> None:
    stage = Stage()
    async with stage, stage.worker(1) as one:
        async with stage.worker(2) as two:
            await soon(two.attached())
            stage.insert()
            assert await read(one, 1) == await read(two, 1) == [1]
            await eventually(lambda: stage.source.handed_out == stage.nats.last)
        for _ in range(3):
            stage.pack()
        stage.nats.break_connections()
        stage.nats.expire_before(stage.nats.last + 1)
        stage.insert()
        gap, *rows = await read(one, 1)
        assert rows == [5]
        assert isinstance(gap, Gap)
        assert gap.reason is GapReason.LOG_BEHIND
        assert (gap.until.lsn, gap.until.index) == (41, 0)
        async with stage.worker(2) as again:
            told, *rows = await read(again, 1)
            assert rows == [5]
            assert isinstance(told, Gap)
            assert told.until == gap.until
            again.note(stage.source.stats())
            assert again.stats().gaps == 1
        assert stage.source.log_stats().gaps == stage.source.stats().gaps == 1


async def test_a_large_row_of_which_the_log_has_lost_the_begin_is_a_gap() -> None:
    stage = Stage()
    async with stage, stage.worker(1) as one, stage.worker(2) as two:
        await soon(two.attached())
        _, *parts = stage.pack(5000)
        for part in parts:
            stage.append(part)
        stage.insert()
        for feed in (one, two):
            gap, *rows = await read(feed, 1)
            assert isinstance(gap, Gap)
            assert rows == [2]


async def test_an_envelope_that_cannot_be_read_is_a_gap_for_every_worker() -> None:
    stage = Stage()
    async with stage, stage.worker(1) as one, stage.worker(2) as two:
        await soon(two.attached())
        place = (0, 7, 0)
        stage.append(Envelope(Kind.CHANGES, place, place, (0, 5, 0), STREAM, b"broken"))
        stage.packer.last = place
        stage.insert()
        for feed in (one, two):
            gap, *rows = await read(feed, 1)
            assert isinstance(gap, Gap)
            assert rows == [1]


async def test_marks_and_gaps_of_the_leader_come_through() -> None:
    stage = Stage()
    gap = Gap(None, Position(LSN(50), 0, STREAM), GapReason.SLOT_MISSING)
    async with stage, stage.worker(1) as one, stage.worker(2) as two:
        await soon(one.attached())
        for event in (gap, Idle(Position(LSN(60), 0, STREAM))):
            for packed in stage.packer.feed(event):
                stage.append(packed)
        for feed in (one, two):
            batches = feed.batches()
            first = [*await soon(anext(batches)), *await soon(anext(batches))]
            assert [type(event) for event in first] == [Gap, Idle]
            feed.ack(first[1])
        assert stage.source.stats().gaps == 1
        await eventually(lambda: stage.source.handed_out == stage.nats.last)


async def test_what_waits_is_counted_right_when_the_log_was_made_anew() -> None:
    """Its numbers begin at 1 again."""
    stage = Stage()
    async with stage, stage.worker(1) as one, stage.worker(2) as two:
        await soon(two.attached())
        for _ in range(5):
            stage.insert()
        assert await read(one, 5) == [1, 2, 3, 4, 5]
        stage.nats.delete()
        stage.nats.exists = True
        stage.nats.created += 1
        begin = begin_of_log(stage.packer.last[1] + 1, STREAM)
        stage.packer = Packer(begin.last, STREAM)
        stage.append(begin)
        stage.insert()
        stage.nats.break_connections()
        assert await read(one, 1) == [6]
        assert await read(two, 6) == [1, 2, 3, 4, 5, 6]
        await eventually(lambda: stage.source.handed_out == stage.nats.last)
        assert stage.source.log_stats().lag_bytes == 0


async def test_a_large_row_that_has_lost_its_begin_before_the_supervisor_began_is_a_gap() -> None:
    stage = Stage()
    _, second, *parts = stage.pack(5000)
    stage.append(second)
    async with stage, stage.worker(1) as one, stage.worker(2) as two:
        await soon(two.attached())
        for part in parts:
            stage.append(part)
        stage.insert()
        for feed in (one, two):
            gap, *rows = await read(feed, 1)
            assert isinstance(gap, Gap)
            assert rows == [2]
