"""Term acknowledges only what the log still has, and lets servers go on that it waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from realtime_core import LSN, Gap, GapReason, Idle, Position, RawEvent, StreamIdentity
from realtime_core.positions import LAST_INDEX
from realtime_server.cluster.envelope import Envelope, Kind, Place, decode, encode
from realtime_server.cluster.errors import FencedError, LogError, MissingError
from realtime_server.cluster.log import LogState
from realtime_server.cluster.nodes import Beat, Nodes
from realtime_server.cluster.packer import Packer
from realtime_server.cluster.stats import LeaderStats
from realtime_server.cluster.term import Term
from tests.virtual_time import run_in_virtual_time

STREAM = StreamIdentity(7, 1, ("shop",))
BEGIN: Place = (0, 10, LAST_INDEX)


class Log:
    """The log in memory, which may lose what it has."""

    def __init__(self) -> None:
        self.messages: dict[int, bytes] = {}
        self.first = 1

    async def append(self, data: bytes, behind: int) -> int:
        self.messages[behind + 1] = data
        return behind + 1

    async def envelope_at(self, sequence: int) -> Envelope:
        if sequence not in self.messages:
            raise MissingError("no message")
        return decode(self.messages[sequence])

    async def state(self) -> LogState:
        return LogState(self.first, max(self.messages, default=0), 0, "once")


class Source:
    """A slot from which one place after the other is read."""

    def __init__(self, *batches: list[int]) -> None:
        self.acknowledged: list[int] = []
        self._batches = batches

    async def batches(self) -> AsyncIterator[list[RawEvent]]:
        for lsns in self._batches:
            yield [Idle(Position(LSN(lsn), 0, STREAM)) for lsn in lsns]
            await asyncio.sleep(0.1)
        await asyncio.Event().wait()

    def ack(self, upto: Position) -> None:
        self.acknowledged.append(upto.lsn)


def term_of(source: Source, log: Log, nodes: Nodes) -> Term:
    return Term(
        source,
        log,
        Packer(BEGIN, STREAM),
        0,
        nodes=nodes,
        stats=LeaderStats(),
        ack_delay=5.0,
        repeat=1000.0,
        clock=asyncio.get_running_loop().time,
    )


def lose_the_end(log: Log) -> None:
    del log.messages[2]


def put_something_else_there(log: Log) -> None:
    place = (0, 11, 1)
    log.messages[2] = encode(Envelope(Kind.MARK, place, place, (0, 11, 0), STREAM, b""))


def expire(log: Log) -> None:
    """NATS keeps no message any more, and has lost none."""
    log.messages = {3: b""}
    log.first = 3


def test_the_first_append_does_not_wait_for_a_change() -> None:
    """Until it is there, another message may take the place of the one that it goes behind."""

    async def play() -> None:
        log = Log()
        running = asyncio.ensure_future(term_of(Source(), log, Nodes(100)).run())
        await asyncio.sleep(0.001)
        assert [decode(data).last for data in log.messages.values()] == [BEGIN]
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    run_in_virtual_time(play())


@pytest.mark.parametrize("loss", [lose_the_end, put_something_else_there])
def test_what_the_log_has_lost_is_not_acknowledged(loss: Callable[[Log], None]) -> None:
    async def play() -> None:
        source, log = Source([11, 12]), Log()
        running = asyncio.ensure_future(term_of(source, log, Nodes(100)).run())
        await asyncio.sleep(4)
        assert len(log.messages) == 2
        assert not source.acknowledged
        loss(log)
        with pytest.raises(LogError, match="the log has lost message 2"):
            await asyncio.wait_for(running, 10)
        assert not source.acknowledged

    run_in_virtual_time(play())


def test_it_writes_what_the_oldest_server_reads_of_those_that_are_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("realtime_server.cluster.nodes.VERSION", 2)
    monkeypatch.setattr("realtime_server.cluster.envelope.VERSION", 2)

    async def play() -> None:
        nodes, log = Nodes(10**6), Log()
        for second in range(-10, 0):
            nodes.hear(Beat("own", 0, version=2), float(second))
        nodes.hear(Beat("older", 0, version=1), -0.1)
        source = Source(*([lsn] for lsn in range(11, 120)))
        running = asyncio.ensure_future(term_of(source, log, nodes).run())
        for second in range(11):
            nodes.hear(Beat("own", 0, version=2), float(second))
            await asyncio.sleep(1)
        running.cancel()
        await asyncio.wait({running})
        versions = [data[3] for data in log.messages.values()]
        assert versions == sorted(versions)
        # It is heard no more after ten seconds.
        assert versions.count(1) in range(98, 102)
        assert versions.count(2) > 5
        assert [decode(data).last[1] for data in log.messages.values()][:2] == [11, 12]

    run_in_virtual_time(play())


def test_what_the_log_has_had_for_long_enough_is_acknowledged() -> None:
    async def play() -> None:
        source, log = Source([11, 12]), Log()
        running = asyncio.ensure_future(term_of(source, log, Nodes(100)).run())
        await asyncio.sleep(4)
        expire(log)
        await asyncio.sleep(3)
        assert source.acknowledged == [12]
        running.cancel()
        await asyncio.wait({running})

    run_in_virtual_time(play())


def test_a_slot_that_another_has_moved_is_no_gap_before_the_logs_end_was_read() -> None:
    """Another server has led in between, and the log has what it has read."""

    class Moved(Source):
        async def batches(self) -> AsyncIterator[list[RawEvent]]:
            yield [Idle(Position(LSN(11), 0, STREAM))]
            until = Position(LSN(20), 0, STREAM)
            yield [Gap(Position(LSN(11), 0, STREAM), until, GapReason.SLOT_MOVED)]

    async def play() -> None:
        log = Log()
        with pytest.raises(FencedError, match="another server has moved the slot"):
            await term_of(Moved(), log, Nodes(100)).run()
        assert [decode(data).kind for data in log.messages.values()] == [Kind.MARK]

    run_in_virtual_time(play())


def test_a_server_that_is_waited_for_gets_a_mark() -> None:
    """It may have lost parts of a change, and then it needs something whole to begin at."""

    async def play() -> None:
        nodes, log = Nodes(100), Log()
        nodes.hear(Beat("slow", 0), 0.0)
        source = Source([11, 12], [13], [14])
        running = asyncio.ensure_future(term_of(source, log, nodes).run())
        await asyncio.sleep(1)
        last = max(log.messages)
        envelope = decode(log.messages[last])
        # Nothing more was read, and the mark says once more where the chain stands.
        assert (envelope.kind, envelope.last, envelope.prev) == (Kind.MARK, (0, 13, 0), (0, 13, 0))
        await asyncio.sleep(5)
        assert max(log.messages) == last
        nodes.hear(Beat("slow", last), asyncio.get_running_loop().time())
        await asyncio.sleep(1)
        assert decode(log.messages[last + 1]).last == (0, 14, 0)
        running.cancel()
        await asyncio.wait({running})

    run_in_virtual_time(play())


def test_what_was_read_is_on_its_way_before_anything_else_is_read() -> None:
    sent: list[int] = []

    class Sending(Log):
        def append(self, data: bytes, behind: int) -> Coroutine[Any, Any, int]:
            sent.append(decode(data).last[1])
            return super().append(data, behind)

    class Asked(Source):
        async def batches(self) -> AsyncIterator[list[RawEvent]]:
            for lsn in (20, 30, 40):
                yield [Idle(Position(LSN(lsn), 0, STREAM))]
                # The event loop has not run since. One is under way at a time.
                assert sent == [20]
            await asyncio.Event().wait()

    async def play() -> None:
        term = term_of(Asked(), Sending(), Nodes(1000))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await term.run()

    run_in_virtual_time(play())
    assert sent == [20, 30, 40]
