"""What the journal may add to the WAL, and what becomes of it while it cannot be written."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest
import pytest_asyncio

from realtime_core import LSN, Event, LogicalMessage, StreamIdentity
from realtime_core.errors import SlotInUseError, SourceError
from realtime_server.replay import durable, journal_writer, second_slot_reader
from realtime_server.replay.durable import Durable
from realtime_server.replay.journal import MOST_CHANNELS, Journal
from realtime_server.replay.places import BEFORE, Place
from realtime_server.replay.records import PREFIX, Seal, digest, journal_secret
from realtime_server.replay.second_slot_past import SecondSlotPast
from tests.journals import read_message
from tests.waiting import eventually

pytestmark = pytest.mark.asyncio

CHANNELS = 2000


@attrs.define
class Messages:
    """The database, as far as the journal needs it."""

    bytes: int = 0
    records: list[int] = attrs.field(factory=list)
    """How long each was."""
    last: list[bytes] = attrs.field(factory=list)
    """The parts of the last one."""
    hangs: bool = False
    fails: bool = False
    origin: tuple[int, int] = (1, 1)
    on_failure: Callable[[], None] = lambda: None
    is_writing: bool = False
    may_end: asyncio.Event = attrs.field(factory=asyncio.Event)
    """Set unless what is being written takes long."""

    def __attrs_post_init__(self) -> None:
        self.may_end.set()

    async def aclose(self) -> None:
        pass

    async def connected(self) -> None:
        if self.fails:
            self.on_failure()
            raise SourceError("planted")
        if self.hangs:
            await asyncio.Event().wait()

    async def write(self, messages: Iterable[bytes], *, flush: bool = False) -> None:
        self.last = [*messages]
        self.is_writing = True
        await self.may_end.wait()
        self.is_writing = False
        size = sum(map(len, self.last))
        self.bytes += size
        self.records.append(size)


@attrs.define
class SecondSlot:
    before_move: Any = None
    least_step: int = 0
    name: str = "second"

    begins: list[LSN] = attrs.field(factory=list)
    """Where the slot begins, at each look; empty: there is no slot."""

    async def find(self) -> Any:
        return SimpleNamespace(confirmed_flush_lsn=self.begins.pop(0)) if self.begins else None

    async def keep(self, _: object, before_move: Any, *, least_step: int) -> None:
        self.before_move, self.least_step = before_move, least_step


class Source:
    """A source on the second slot, which other processes read at first."""

    in_use = 0
    """How many more attempts find the slot in use."""

    async def __aenter__(self) -> Source:
        if self.in_use:
            self.in_use -= 1
            raise SlotInUseError("second", 7)
        return self

    async def aclose(self) -> None:
        pass

    async def batches(self) -> AsyncIterator[list[Event]]:
        stream = StreamIdentity(1, 1, ("shop",))
        yield [LogicalMessage(LSN(900), "other", b"", None, 0, stream)]


class NobodyHere:
    handed = BEFORE

    def lasting_here(self) -> Place:
        return BEFORE

    def first_needed_lsn(self) -> LSN | None:
        return None


def journal_of(server: bytes, slot: str, *, most: int = MOST_CHANNELS) -> Journal:
    secret = journal_secret("password", "secret")
    return Journal(Seal(secret, digest("shop"), digest(slot), server), clock=time.time, most=most)


class World:
    def __init__(self, *, most: int = MOST_CHANNELS, is_shared: bool = False) -> None:
        self.journal = journal_of(b"12345678", "slot", most=most)
        self.messages = Messages()
        self.second_slot = SecondSlot()
        self.source = Source()
        self.stream = StreamIdentity(1, 1, ("shop",))
        self.reconnects = 0
        passed = (lambda: LSN(0)) if is_shared else None
        self.durable = Durable(
            self.journal,
            cast(Any, self.messages),
            SecondSlotPast(cast(Any, self.second_slot), lambda: self.source, passed=passed),
            window=300,
            stream=lambda: self.stream,
            reconnects=lambda: self.reconnects,
            passed=passed,
        )

    async def begin(self) -> asyncio.Task[None]:
        async for _ in self.durable.restore((0, -1)):
            pass
        self.durable.caught_up.set()
        return asyncio.create_task(self.durable.run(NobodyHere()))

    def join_all(self) -> None:
        for number in range(CHANNELS):
            self.journal.joined(number, number.to_bytes(16), 1, (1, 0))


@pytest_asyncio.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    monkeypatch.setattr(journal_writer, "_TOGETHER", 0.001)
    monkeypatch.setattr(journal_writer, "_PAUSE", 0.001)
    world = World()
    running = await world.begin()
    yield world
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.slow
async def test_servers_that_begin_again_and_again_do_not_fill_the_wal(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = 1_000_000
    monkeypatch.setattr(journal_writer, "_SNAPSHOT_RATE", rate)
    world.join_all()
    await eventually(lambda: not world.journal.is_due)
    loop = asyncio.get_running_loop()
    began, known = loop.time(), world.messages.bytes
    size = known
    while loop.time() < began + 1:
        world.journal.on_boot(False)
        await asyncio.sleep(0.001)
    written = world.messages.bytes - known
    assert 0 < written <= rate * (loop.time() - began) + 2 * size
    # What happens meanwhile is not held up by it.
    world.journal.on_boot(False)
    world.journal.ended(1)
    count = len(world.messages.records)
    await eventually(lambda: any(size < 200 for size in world.messages.records[count:]))


async def test_who_waits_for_what_others_have_written_has_a_record_of_this_process_to_wait_for(
    world: World,
) -> None:
    own, messages, looks = world.durable, world.messages, list[int]()
    known = len(messages.records)
    own.on_read = lambda: looks.append(own.heard)
    messages.may_end.clear()
    world.journal.joined(0, bytes(16), 1, (1, 0))
    await eventually(lambda: messages.is_writing)
    # That one is on its way already.
    number = own.mark()
    messages.may_end.set()
    await eventually(lambda: len(messages.records) == known + 2)
    own.read(LogicalMessage(LSN(1), PREFIX, messages.last[0], None, 0, world.stream))
    await eventually(lambda: looks == [number])


async def test_others_count_unless_they_have_had_the_slot_of_this_process(world: World) -> None:
    assert not world.durable.has_company
    for number, slot in enumerate(("slot", "another"), 1):
        other = journal_of(number.to_bytes(8), slot)
        for data in other.write(boot=True):
            world.durable.read(LogicalMessage(LSN(number), PREFIX, data, None, 0, world.stream))
        await eventually(lambda: len(world.journal.writers) == number + 1)  # noqa: B023 (awaited here)
        assert world.durable.has_company is (number == 2)


async def test_a_record_that_the_stream_has_not_brought_is_written_again_when_it_was_broken(
    world: World,
) -> None:
    world.join_all()
    await eventually(lambda: not world.journal.is_due)
    known = len(world.messages.records)
    world.reconnects += 1
    await eventually(lambda: len(world.messages.records) > known)
    assert world.messages.records[-1] > 20 * CHANNELS
    world.journal.heard = known
    world.reconnects += 1
    await asyncio.sleep(0.02)
    assert len(world.messages.records) == known + 1


async def test_who_has_everything_is_told_of_behind_where_a_process_begins_that_begins_now(
    world: World,
) -> None:
    """The last change may be far before that, and its slot has nothing from there on."""
    key = bytes(16)
    world.journal.joined(1, key, 1, BEFORE, since=time.time(), is_open=True)
    await eventually(lambda: not world.journal.is_due)
    known = len(world.messages.records)
    there = journal_of(b"87654321", "another slot")
    for part in there.write(boot=True):
        world.durable.read(LogicalMessage(LSN(100), PREFIX, part, None, 0))
    await asyncio.sleep(0.02)
    # Changes that came before it may not be handed out yet.
    assert len(world.messages.records) == known
    world.durable.published()
    await eventually(lambda: len(world.messages.records) > known)
    for part in world.messages.last:
        read_message(there, part)
    [channel] = there.find(key)
    assert channel.place == (100, -1)


async def test_the_slot_is_moved_by_more_than_all_processes_write_for_that(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(durable, "_INTERVAL", 0.001)
    monkeypatch.setattr(journal_writer, "_TOGETHER", 0.001)
    world = World()
    running = await world.begin()
    world.join_all()
    await eventually(lambda: not world.journal.is_due)
    await world.second_slot.before_move(LSN(1))
    snapshot = world.messages.records[-1]
    assert snapshot > 25_000
    await eventually(lambda: world.second_slot.least_step == 4 * snapshot)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_database_that_hangs_is_given_up_and_everything_is_written_afterwards(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal_writer, "_LONGEST", 0.01)
    world.messages.hangs = True
    world.join_all()
    await eventually(lambda: "takes longer than" in caplog.text)
    world.messages.hangs = False
    await eventually(lambda: world.messages.records[-1] > 50 * CHANNELS)
    assert caplog.text.count("cannot be written") == 1


async def test_a_boot_that_becomes_due_while_a_record_fails_is_written(world: World) -> None:
    def on_failure() -> None:
        # Another process begins with this one's slot, which comes back here.
        world.messages.fails = False
        world.journal.on_boot(True)

    known = world.journal.booted_at
    world.messages.on_failure, world.messages.fails = on_failure, True
    world.join_all()
    await eventually(lambda: world.journal.booted_at > known)


async def test_a_start_gives_up_a_journal_that_cannot_be_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal_writer, "_PATIENCE", 0.05)
    monkeypatch.setattr(journal_writer, "_PAUSE", 0.01)
    world = World()
    world.messages.fails = True
    async for _ in world.durable.restore((0, -1)):
        pass
    # Nobody waits for what will not come.
    assert world.durable.caught_up.is_set()
    assert caplog.text.count("the journal of replay cannot be written") == 1


async def test_nothing_is_written_where_the_changes_do_not_come_from(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The journal's connection leads to the standby that was promoted; the stream is not there yet.
    world.messages.origin = (1, 2)
    known = len(world.messages.records)
    caplog.set_level(logging.DEBUG)
    world.join_all()
    said = "the changes do not come from the same cluster and timeline yet"
    await eventually(lambda: said in caplog.text)
    assert "cannot be written" not in caplog.text
    monkeypatch.setattr(journal_writer, "_PATIENCE", 0.0)
    await eventually(lambda: "it leads to another cluster or timeline" in caplog.text)
    assert len(world.messages.records) == known
    world.stream = StreamIdentity(1, 2, ("shop",))
    await eventually(lambda: len(world.messages.records) > known)
    assert world.messages.records[known] > 50 * CHANNELS


async def test_a_stop_does_not_cancel_the_record_that_is_being_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(journal_writer, "_TOGETHER", 0.001)
    world = World()
    running = await world.begin()
    known = len(world.messages.records)
    world.messages.may_end.clear()
    world.join_all()
    await eventually(lambda: world.messages.is_writing)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    world.journal.ended(0)
    stopping = asyncio.create_task(world.durable.aclose())
    await asyncio.sleep(0)
    world.messages.may_end.set()
    await stopping
    everything, last = world.messages.records[known:]
    assert everything > 50 * CHANNELS
    assert last < 200


async def test_a_stop_says_that_the_last_record_was_not_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal_writer, "_STOPPING", 0.01)
    world = World()
    running = await world.begin()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    world.join_all()
    world.messages.hangs = True
    await world.durable.aclose()
    assert "the last record of the journal of replay was not written within 0 s" in caplog.text


async def test_a_full_journal_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(journal_writer, "_TOGETHER", 0.001)
    world = World(most=100)
    running = await world.begin()
    world.join_all()
    await eventually(lambda: "the journal of replay is full" in caplog.text)
    world.join_all()
    await eventually(lambda: not world.journal.is_due)
    assert caplog.text.count("the journal of replay is full") == 1
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def restored_from(world: World) -> Place | None:
    async for _ in world.durable.restore((100, -1)):
        pass
    return world.durable.restored_from


async def test_a_slot_that_another_process_moves_first_counts_from_where_it_begins_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else who needs what the slot has no more would be taken to miss nothing."""
    monkeypatch.setattr(second_slot_reader, "_PAUSE", 0.001)
    world = World()
    world.source.in_use = 1
    world.second_slot.begins = [LSN(10), LSN(50)]
    assert await restored_from(world) == (50, -1)


@pytest.mark.slow
@pytest.mark.parametrize(("is_shared", "begin"), [(False, None), (True, (10, -1))])
async def test_processes_that_share_the_slot_wait_until_the_others_have_read_it(
    is_shared: bool, begin: Place | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(second_slot_reader, "_PAUSE", 0.001)
    monkeypatch.setattr(second_slot_reader, "_PATIENCE", 0.0)
    world = World(is_shared=is_shared)
    world.source.in_use = 20
    world.second_slot.begins = [LSN(10), LSN(10)]
    assert await restored_from(world) == begin
