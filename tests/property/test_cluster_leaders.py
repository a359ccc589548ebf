"""Two servers that lead in turns, whatever becomes of their appends: the log has the database's
sequence, and so has each reader, or a gap says where not.

Time is virtual. The real Leader and Term run on a log, a slot and a network that are made here:
answers are lost or late, appends arrive long after whoever has sent them has given up, walsenders
are ended, connections break, and NATS loses the end of the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from copy import copy
from functools import partial
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from realtime_core import (
    LSN,
    Begin,
    Event,
    Gap,
    GapReason,
    Idle,
    Position,
    RawEvent,
    SourceStats,
)
from realtime_core.errors import SourceError
from realtime_core.positions import LAST_INDEX
from realtime_core.replication.sequence import NOWHERE, Sequence
from realtime_server.cluster.envelope import Envelope, Place, decode
from realtime_server.cluster.envelope_queue import EnvelopeQueue
from realtime_server.cluster.errors import FencedError, LogError, MissingError
from realtime_server.cluster.leader import Leader
from realtime_server.cluster.log import LogState
from realtime_server.cluster.nodes import Nodes
from realtime_server.cluster.unpacker import Unpacker
from tests.pgoutput_streams import seen
from tests.property.examples import examples
from tests.property.test_cluster_envelopes import STREAM, place_of, raw_events
from tests.virtual_time import run_in_virtual_time

pytestmark = pytest.mark.slow

BEGIN: Place = (0, 0, LAST_INDEX - 1)
"""Where a reader begins: before the mark that the log begins with."""
DISK = 2.0
"""Seconds after which what NATS has taken is on its disk."""
REPEAT = 20.0
"""Seconds without changes after which a leader appends its place once more. Nothing else that the
world has takes as long."""


class World:
    """A database's slot, and a log."""

    def __init__(self, events: list[RawEvent], random: Random) -> None:
        self.events = events
        self.random = random
        self.confirmed = 1
        self.holder: Source | None = None
        self.freed = asyncio.Event()
        """Set while nobody has the slot."""
        self.freed.set()
        self.messages: list[tuple[float, bytes, int]] = []
        """When each was taken, what it is, and its ID."""
        self.connections: list[Connection] = []
        self.starts = 0
        """How often NATS was started again."""
        self.written = 0
        """How many events the database has so far."""
        self.grown = asyncio.Event()
        """Set, and another one, when there are more, and when a walsender ends."""

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    def write(self, count: int) -> None:
        self.written = min(self.written + count, len(self.events))
        self._tell_walsenders()

    def _tell_walsenders(self) -> None:
        self.grown.set()
        self.grown = asyncio.Event()

    def free(self) -> None:
        self.holder = None
        self.freed.set()

    def break_connections(self) -> None:
        for connection in self.connections:
            connection.closed.set()
        self.connections.clear()

    def lose_the_end(self) -> None:
        """NATS comes back without what was not on its disk."""
        self.another_copy_leads()
        self.break_connections()

    def another_copy_leads(self) -> None:
        """Of several servers of NATS the one that led has ended without what it had not passed on.

        The connections are to others, so no leader hears of it.
        """
        on_disk = [one for one in self.messages if one[0] <= self.now() - DISK]
        kept = self.random.randint(len(on_disk), len(self.messages))
        del self.messages[kept:]
        # What was under way to it does not outlive it.
        self.starts += 1

    def end_walsender(self) -> None:
        if self.holder is not None:
            self.holder.has_ended.set()
            self.free()
            self._tell_walsenders()


class Connection:
    """A connection to NATS."""

    max_payload = 1024 * 1024

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def __aenter__(self) -> Connection:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed.set()


class FakeLog:
    """The log as one connection sees it."""

    def __init__(self, world: World, connection: Any) -> None:
        self._world = world
        self.connection = connection
        self._appended: tuple[int, int] | None = None
        """The sequence and the ID of the last one that was taken."""

    async def prepare(self) -> list[str]:
        return []

    async def state(self) -> LogState:
        await self._answers()
        return LogState(1, len(self._world.messages), 0, "once")

    async def tail(self) -> tuple[int, Envelope | None]:
        await self._answers()
        messages = self._world.messages
        return len(messages), decode(messages[-1][1]) if messages else None

    async def envelope_at(self, sequence: int) -> Envelope:
        await self._answers()
        if not 0 < sequence <= len(self._world.messages):
            raise MissingError("no message")
        return decode(self._world.messages[sequence - 1][1])

    async def append(self, data: bytes, behind: int) -> int:
        self._check()
        random = self._world.random
        message_id = random.getrandbits(64)
        expected = None
        if self._appended is not None and self._appended[0] == behind:
            expected = self._appended[1]
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_later(
            # Some arrive when nobody waits for the answer any more.
            random.choice((0.001, 0.001, 0.001, 0.01, 0.5, 2.0, 6.0)),
            partial(self._arrive, data, message_id, behind, expected, answer, self._world.starts),
        )
        try:
            async with asyncio.timeout(4.0):
                sequence = await answer
        except TimeoutError:
            raise LogError("no answer") from None
        self._appended = sequence, message_id
        return sequence

    def _arrive(
        self,
        data: bytes,
        message_id: int,
        behind: int,
        expected: int | None,
        answer: asyncio.Future[int],
        start: int,
    ) -> None:
        if start != self._world.starts:
            return
        messages, is_lost = self._world.messages, self._world.random.random() < 0.02
        is_next = behind == len(messages) and (expected is None or messages[-1][2] == expected)
        if is_next:
            messages.append((self._world.now(), data, message_id))
        if answer.done() or is_lost:
            return
        if is_next:
            answer.set_result(len(messages))
        else:
            answer.set_exception(FencedError("wrong last sequence"))

    async def _answers(self) -> None:
        self._check()
        await asyncio.sleep(self._world.random.choice((0.0, 0.001, 0.2)))
        self._check()

    def _check(self) -> None:
        if self.connection.closed.is_set():
            raise LogError("the connection has ended")


class Source:
    """What reads the slot, and yields what a RawPgoutputSource does.

    What it hands over, and how far it lets the slot move, is decided by the library's Sequence.
    """

    def __init__(self, world: World, start_at: Callable[[], Awaitable[Position | None]]) -> None:
        self._world = world
        self._start_at = start_at
        self.has_ended = asyncio.Event()
        self._sequence = Sequence(LSN(0))
        self._gap: Gap | None = None

    async def __aenter__(self) -> Source:
        await self._hold_the_slot()
        position = await self._start_at()
        confirmed = self._world.confirmed
        start = NOWHERE if position is None else (position.lsn, position.index)
        if position is not None and confirmed > position.lsn + 1:
            self._gap = Gap(position, self._begin_anew(), GapReason.START_BEHIND_SLOT)
        else:
            self._sequence = Sequence(LSN(confirmed), start=start, own_checkpoint=True)
        return self

    async def _hold_the_slot(self) -> None:
        while self._world.holder is not None:
            await self._world.freed.wait()
            # The library looks for it now and then.
            await asyncio.sleep(self._world.random.uniform(0.0, 1.0))
        self._world.holder = self
        self._world.freed.clear()
        self.has_ended.clear()

    def _begin_anew(self) -> Position:
        """Begin where the slot stands, behind a gap; return the gap's end."""
        confirmed = LSN(self._world.confirmed)
        self._sequence = Sequence(confirmed, own_checkpoint=True)
        return Position(confirmed, 0, STREAM)

    async def aclose(self) -> None:
        if self._world.holder is self:
            self._tell()
            self._world.free()

    def _tell(self) -> None:
        """Send a status update."""
        if self._world.holder is self:
            self._world.confirmed = max(self._world.confirmed, self._sequence.progress.flushed)

    def stats(self) -> SourceStats:
        confirmed = LSN(self._world.confirmed)
        return SourceStats(stream=STREAM, connected=True, confirmed_lsn=confirmed)

    async def batches(self) -> AsyncIterator[list[RawEvent]]:
        if self._gap is not None:
            yield [self._gap]
        while True:
            async for batch in self._until_the_end():
                yield batch
            if self._world.random.random() < 0.3:
                raise SourceError("the walsender was ended")
            # It attaches again, unless another one is faster. Some have stood still.
            await asyncio.sleep(self._world.random.choice((0.0, 0.3, 1.0, 10.0)))
            await self._hold_the_slot()
            if self._world.confirmed > self._sequence.progress.flushed:
                lsn, index = self._sequence.last
                after = Position(LSN(lsn), max(index, 0), STREAM)
                yield [Gap(after, self._begin_anew(), GapReason.SLOT_MOVED)]
            self._sequence.resume()

    async def _until_the_end(self) -> AsyncIterator[list[RawEvent]]:
        """Yield what one walsender sends: everything behind the slot's position again."""
        world, random, sequence = self._world, self._world.random, self._sequence
        ready = [event for event in world.events if _end_of(event) >= world.confirmed]
        before = len(world.events) - len(ready)
        sent = 0
        while True:
            while sent >= world.written - before:
                if self.has_ended.is_set():
                    return
                await world.grown.wait()
            # One that was ended has some in its buffers.
            count = random.randint(1, min(5, world.written - before - sent))
            batch = [copy(event) for event in ready[sent : sent + count]]
            batch = [event for event in batch if sequence.accept(event)]
            sent += count
            if random.random() < 0.5:
                self._tell()
            if batch:
                yield batch
                await asyncio.sleep(random.choice((0.0, 0.0, 0.01)))
            if self.has_ended.is_set() and random.random() < 0.5:
                return

    def ack(self, upto: Position) -> None:
        self._sequence.progress.acknowledge((upto.lsn, upto.index))
        self._tell()


def _end_of(event: RawEvent) -> int:
    """Return the LSN up to which the slot's position has the event come again."""
    if isinstance(event, Begin):
        return event.transaction.commit_lsn
    place = place_of(event)
    assert place is not None
    return place[1]


class Reader:
    """Reads the log as LogReader does, and hands out what a LogFeed does."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._queue = EnvelopeQueue(Unpacker(BEGIN, STREAM), tells_holes=True)
        self._sequence = 0
        self._place: Place = BEGIN
        self.events: list[Event] = []

    def read(self, *, to_the_end: bool = False) -> None:
        messages, random = self._world.messages, self._world.random
        if self._sequence and (
            self._sequence > len(messages)
            or decode(messages[self._sequence - 1][1]).last != self._place
        ):
            places = [decode(data).last for _, data, _ in messages]
            found = [number for number, place in enumerate(places) if place > self._place]
            self._sequence = found[0] if found else len(messages)
        upto = len(messages)
        if not to_the_end:
            upto = random.randint(min(self._sequence, upto), upto)
        for sequence in range(self._sequence + 1, upto + 1):
            data = messages[sequence - 1][1]
            self._queue.put(sequence, decode(data, sequence))
            self._place = max(self._place, decode(data).last)
        self._sequence = max(self._sequence, upto)

    async def hand_out(self) -> None:
        while self._queue.size:
            step = asyncio.ensure_future(self._queue.next_batch())
            await asyncio.wait({step}, timeout=0)
            if not step.done():
                # Whatever was left of the queue has no events.
                step.cancel()
                await asyncio.wait({step})
                return
            self.events += step.result()


async def play(seed: int, steps: int, ack_delay: float, losses: bool) -> None:
    events, expected = raw_events(seed, steps)
    random = Random(seed)
    world = World(events, random)

    async def connect() -> Any:
        await asyncio.sleep(0.01)
        connection = Connection()
        world.connections.append(connection)
        return connection

    leaders = [
        Leader(
            connect,
            lambda connection: FakeLog(world, connection),  # type: ignore[arg-type, return-value]
            lambda start_at: Source(world, start_at),  # type: ignore[arg-type, return-value]
            publications=STREAM.publications,
            slot="realtime",
            nodes=Nodes(10**9),
            ack_delay=ack_delay,
            repeat=REPEAT,
            clock=world.now,
        )
        for _ in range(2)
    ]
    tasks = [asyncio.ensure_future(leader.run()) for leader in leaders]
    readers = [Reader(world) for _ in range(2)]
    faults: list[Callable[[], None]] = [world.break_connections, world.end_walsender]
    faults += [world.lose_the_end, world.another_copy_leads] * losses
    while world.written < len(events):
        world.write(random.randint(1, 3))
        await asyncio.sleep(random.choice((0.0, 0.02, 0.5, 1.5)))
        if random.random() < 0.3:
            random.choice(faults)()
        for reader in readers:
            if random.random() < 0.5:
                reader.read()
                await reader.hand_out()
    if losses:
        # Nothing is appended behind what is lost now: only a look at the log shows that it is.
        await asyncio.sleep(random.choice((0.5, 1.5)))
        world.another_copy_leads()
    # Everything comes to rest: nothing is lost from now on but late answers.
    for _ in range(6):
        await asyncio.sleep(REPEAT)
        for reader in readers:
            reader.read(to_the_end=True)
            await reader.hand_out()
    for task in tasks:
        assert not task.done(), task
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for reader in readers:
        check(reader.events, expected, may_have_gaps=losses and ack_delay < DISK)


def without_content(found: list[Any]) -> list[Any]:
    """Leave out prefix and content of logical messages, and those that are in no transaction: of
    what no server reads, the log keeps the place alone, or not even that."""
    return [
        one[:-2] if one[0] == "message" else one
        for one in found
        if one[0] != "message" or one[1] is not None
    ]


def check(events: list[Event], expected: list[Any], *, may_have_gaps: bool) -> None:
    gaps = [event for event in events if isinstance(event, Gap)]
    found = without_content([seen(event) for event in events if not isinstance(event, Gap | Idle)])
    expected = without_content(expected)
    if not gaps:
        # Of a transaction that a later leader goes on with, the Begin may come again.
        assert without_begins(found) == without_begins(expected)
        return
    assert may_have_gaps, gaps
    # Nothing comes twice, everything in order, and what is missing lies in a gap.
    places = [place for event in events if (place := place_of(event)) is not None]
    assert places == sorted(set(places))
    there = without_begins(found)
    missing = [event for event in without_begins(expected) if event not in there]
    spans = [((gap.after.lsn if gap.after else 0), gap.until.lsn) for gap in gaps]
    for event in missing:
        lsn = lsn_of(event)
        assert any(after <= lsn <= until for after, until in spans), (event, spans)


def without_begins(events: list[Any]) -> list[Any]:
    return [event for event in events if event[0] != "begin"]


def lsn_of(event: Any) -> int:
    return (
        next(item.lsn for item in event if isinstance(item, Position))
        if event[1] is None
        else event[1][1]
    )


@pytest.fixture(autouse=True, scope="module")
def without_log_lines() -> Iterator[None]:
    """Write none: pytest keeps those of all examples."""
    logger = logging.getLogger("realtime.cluster")
    logger.disabled = True
    yield
    logger.disabled = False


@examples(60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([0.0, 3.0]), st.booleans())
# NATS loses what the log has had for a moment when another server begins to lead.
@example(15, 60, 3.0, True)
# NATS loses the end of a transaction, and the slot stands behind it.
@example(22, 60, 0.0, True)
def test_readers_have_the_databases_sequence_or_a_gap(
    seed: int, steps: int, ack_delay: float, losses: bool
) -> None:
    run_in_virtual_time(play(seed, steps, ack_delay, losses))
