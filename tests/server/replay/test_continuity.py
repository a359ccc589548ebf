"""A server that begins waits for what is known of former ones, and not for ever."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from types import SimpleNamespace
from typing import Any, cast

import attrs
import pytest

from realtime_core import LSN, Begin, Event, Idle, LogicalMessage, Position, SourceStats
from realtime_server.config import ServerConfig
from realtime_server.fanout.wanted_tables import WantedTables
from realtime_server.replay import continuity, continuity_setup
from realtime_server.replay.change_log import ChangeLog
from realtime_server.replay.continuity import Continuity
from realtime_server.replay.places import Place
from realtime_server.replay.records import PREFIX
from realtime_server.replay.stream_origin import StreamOrigin
from tests.waiting import eventually

from .stage import GAP, STREAM, Stage, batch

pytestmark = pytest.mark.asyncio

START = LSN(100)
END = LSN(500)


@attrs.define
class Durable:
    """What there is of former processes: nothing, which comes when the test says so."""

    end: asyncio.Future[LSN]
    restored: asyncio.Event = attrs.field(factory=asyncio.Event)
    caught_up: asyncio.Event = attrs.field(factory=asyncio.Event)
    restored_from: Place | None = None
    lifted: list[tuple[Place, Place]] = attrs.field(factory=list)
    asked: int = 0
    on_read: Any = None

    def tell_and_ask(self) -> None:
        self.asked += 1

    @property
    def journal(self) -> Any:
        return SimpleNamespace(
            of_stream=lambda stream: None, lift=lambda *places: self.lifted.append(places)
        )

    async def wal_end(self) -> LSN:
        return await self.end

    async def restore(self, begin: Place) -> AsyncGenerator[Sequence[Event], None]:
        await self.restored.wait()
        yield []

    def read(self, message: LogicalMessage) -> None:
        """The journal has nothing either."""

    def published(self) -> None:
        """Nobody asks up to where everything is published."""

    async def run(self, *_: object) -> None:
        await asyncio.Event().wait()


@attrs.define
class HeldChannels:
    is_holding: bool = False
    released_new: list[Place] = attrs.field(factory=list)
    released: list[Place] = attrs.field(factory=list)
    marks: Any = None

    def hold(self) -> None:
        self.is_holding = True

    def look(self) -> None:
        """Nobody waits for what is read."""

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def release_new(self, place: Place) -> None:
        self.released_new.append(place)

    async def release(self, place: Place) -> None:
        await asyncio.sleep(0)
        self.released.append(place)


class ChannelStarts:
    def __init__(self) -> None:
        self.held = HeldChannels()
        self.catch_up = SimpleNamespace(older=SimpleNamespace(is_readable=True))


class World:
    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.durable = Durable(loop.create_future())
        self.durable.restored.set()
        self.channel_starts = ChannelStarts()
        self.attached = asyncio.Event()

        def new_log() -> ChangeLog:
            return ChangeLog(max_bytes=1000, window=300, clock=loop.time)

        async def attached() -> None:
            await self.attached.wait()

        stats = SourceStats(confirmed_lsn=START)
        self.log = new_log()
        parts: Any = (self.durable, self.channel_starts, self.log, new_log)
        self.continuity = Continuity(
            *parts,
            attached=attached,
            stats=lambda: stats,
            origin=StreamOrigin(lambda: SourceStats(), "shop"),
        )
        self.running = asyncio.create_task(self.continuity.run(cast(Any, None)))

    async def end(self) -> None:
        self.running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.running


async def test_who_waits_begins_when_all_is_known(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    assert world.channel_starts.held.is_holding
    world.durable.end.set_result(END)
    world.attached.set()
    world.durable.caught_up.set()
    await eventually(lambda: world.channel_starts.held.released == [(END, -1)])
    assert caplog.text == ""
    await world.end()


async def test_who_begins_before_anything_has_come_has_what_is_before_the_stream() -> None:
    """Another server takes a channel at its place, and has nothing from before the stream."""
    world = World()
    world.durable.restored.clear()
    world.durable.end.set_result(END)
    world.attached.set()
    world.continuity.before([LogicalMessage(LSN(END + 8), "app", b"", None, 0)])
    world.continuity.after()
    await eventually(lambda: world.channel_starts.held.released_new == [(END, -1)])
    assert world.log.end == (START, -1)
    await world.end()


async def test_channels_are_taken_over_what_holds_no_changes_before_there_are_some() -> None:
    """The slots are moved over messages, and a record may be written behind the next change."""
    world = World()
    begin, *_ = change = batch(END, 1)
    assert isinstance(begin, Begin)
    message = LogicalMessage(LSN(START + 8), "app", b"", None, 0)
    idle = Idle(Position(LSN(END + 16), 0, STREAM))
    of_a_transaction = LogicalMessage(LSN(0), "app", b"", begin.transaction, 0)
    for events in ([message, *change], change, [of_a_transaction], [GAP, message], [idle]):
        world.continuity.before(events)
    assert world.durable.lifted == [
        ((START, -1), (START + 8, -1)),
        ((START, -1), (END + 16, -1)),
    ]
    await world.end()


async def test_what_was_passed_over_is_no_empty_stretch() -> None:
    """The rows are there for channels that others serve, and that may come here."""
    world = World()
    unread = world.continuity.passing_over(WantedTables())
    world.durable.end.set_result(END)
    world.attached.set()
    world.durable.caught_up.set()
    await eventually(lambda: world.channel_starts.held.released == [(END, -1)])
    world.continuity.before([Idle(Position(LSN(END + 16), 0, STREAM))])
    assert world.durable.lifted.pop() == ((START, -1), (END + 16, -1))
    # It begins when the first channels have.
    await eventually(lambda: not unread("public", "item"))
    world.continuity.before([Idle(Position(LSN(END + 32), 0, STREAM))])
    assert world.durable.lifted == []
    world.continuity.before([Idle(Position(LSN(END + 48), 0, STREAM))])
    assert len(world.durable.lifted) == 1
    await world.end()


async def test_nobody_begins_before_the_stream_does() -> None:
    """The slot was made after the end of the WAL was asked for."""
    world = World()
    world.durable.end.set_result(LSN(START - 8))
    world.attached.set()
    world.continuity.before([LogicalMessage(LSN(START + 8), "app", b"", None, 0)])
    world.continuity.after()
    await eventually(lambda: world.channel_starts.held.released_new == [(START, -1)])
    await world.end()


@pytest.mark.parametrize("is_end_known_first", [True, False])
async def test_who_is_new_begins_behind_what_was_committed_before_and_waits_for_nothing_else(
    is_end_known_first: bool,
) -> None:
    world = World()
    world.durable.restored.clear()
    world.attached.set()

    async def publish(event: Event) -> list[Place]:
        world.continuity.before([event])
        await asyncio.sleep(0.01)
        assert world.channel_starts.held.released_new == []
        world.continuity.after()
        await asyncio.sleep(0.01)
        return world.channel_starts.held.released_new

    if is_end_known_first:
        world.durable.end.set_result(END)
    # What was committed while no server was there.
    assert await publish(LogicalMessage(LSN(END - 1), "app", b"", None, 0)) == []
    last = await publish(LogicalMessage(LSN(END + 8), "app", b"", None, 0))
    if not is_end_known_first:
        assert last == []
        world.durable.end.set_result(END)
    await eventually(lambda: world.channel_starts.held.released_new == [(END, -1)])
    assert world.channel_starts.held.released == []
    world.durable.restored.set()
    world.durable.caught_up.set()
    await eventually(lambda: world.channel_starts.held.released == [(END, -1)])
    await world.end()


async def test_nobody_waits_for_ever_for_a_database_that_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(continuity, "_WAL_END", 0.01)
    world = World()
    world.durable.caught_up.set()
    world.attached.set()
    # Whoever begins gets what is committed since the stream began, which is not too little.
    await eventually(lambda: world.channel_starts.held.released == [(START, -1)])
    assert "the database does not say where its WAL ends (for 0 s), so clients" in caplog.text
    await world.end()


async def test_nobody_waits_for_ever_for_a_journal_that_does_not_come(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(continuity, "_CATCH_UP", 0.01)
    world = World()
    world.durable.end.set_result(END)
    world.attached.set()
    await eventually(lambda: world.channel_starts.held.released == [(END, -1)])
    assert "the journal of replay does not come through the stream (for 0 s)" in caplog.text
    await world.end()


async def test_while_there_is_no_stream_everybody_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(continuity, "_WAL_END", 0.0)
    monkeypatch.setattr(continuity, "_CATCH_UP", 0.0)
    world = World()
    world.durable.end.set_result(END)
    for _ in range(10):
        await asyncio.sleep(0)
    assert (world.channel_starts.held.released, caplog.text) == ([], "")
    await world.end()


@pytest.mark.parametrize("failing", ["durable.Durable.read", "catch_up.CatchUp.after"])
async def test_the_journal_is_written_again_after_a_failure_at_a_gap(
    monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    origins: list[StreamOrigin] = []

    def make_origin(*args: Any) -> StreamOrigin:
        origins.append(StreamOrigin(*args))
        return origins[-1]

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(continuity_setup, "StreamOrigin", make_origin)
    stage = Stage()
    stats = SourceStats(stream=STREAM)
    stage.replay.continue_with(
        ServerConfig(slot_name="live", replay_secret="secret", publications=("shop",)),
        secret=b"secret",
        attached=cast(Any, None),
        stats=lambda: stats,
    )
    (origin,) = origins
    stage.publish(*batch(1000, 1))
    message = LogicalMessage(LSN(1008), PREFIX, b"", None, 0)
    for _ in range(2):
        stats = attrs.evolve(stats, gaps=stats.gaps + 1)
        with monkeypatch.context() as patched:
            patched.setattr(f"realtime_server.replay.{failing}", fail)
            stage.publish(message, GAP)
        assert origin.stream() is STREAM
    assert stage.guarded.stats().failures == 2
    # While replay cannot begin anew, gaps come, too.
    with monkeypatch.context() as patched:
        patched.setattr(f"realtime_server.replay.{failing}", fail)
        patched.setattr(stage.replay, "begin_anew_behind", fail)
        stats = attrs.evolve(stats, gaps=stats.gaps + 2)
        stage.publish(message, GAP)
        stage.publish(message, GAP)
        assert origin.stream() is None
    stage.publish(*batch(2000, 2))
    assert origin.stream() is STREAM
