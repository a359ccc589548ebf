"""Leader begins where the log ends, unless the log is of another database; time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from realtime_core import LSN, Gap, GapReason, Idle, Position, RawEvent, SourceStats, StreamIdentity
from realtime_core.errors import PositionMismatchError
from realtime_core.positions import LAST_INDEX
from realtime_server.cluster.envelope import Envelope, Kind, Place, decode, encode
from realtime_server.cluster.leader import Leader
from realtime_server.cluster.log import Log, LogSettings
from realtime_server.cluster.nodes import Beat, Nodes
from realtime_server.cluster.packer import LEAST_PAYLOAD, Packer
from tests.fake_jetstream import FakeJetStream
from tests.virtual_time import run_in_virtual_time

FORMER = StreamIdentity(7, 1, ("shop",))
STREAM = StreamIdentity(8, 1, ("shop",))
END: Place = (0, 50, 0)
"""Where the log ends when a test begins."""


class Database:
    """A database with a slot that stands at 100, behind which the WAL ends at 102."""

    def __init__(self) -> None:
        self.stream = STREAM
        self.confirmed = LSN(100)
        self.slot = asyncio.Lock()
        self.refused = 0
        """How often it was asked to go on from another database's place."""
        self.has_refused = asyncio.Event()


class Source:
    """What reads the slot."""

    def __init__(
        self, database: Database, start_at: Callable[[], Awaitable[Position | None]]
    ) -> None:
        self._database = database
        self._start_at = start_at
        self._has_slot = False
        self._start = 100

    async def __aenter__(self) -> Source:
        database = self._database
        self._has_slot = await database.slot.acquire()
        start = await self._start_at()
        if start is not None and not _may_begin(start, database.stream):
            database.refused += 1
            database.has_refused.set()
            raise PositionMismatchError("it is of another database")
        if start is not None:
            self._start = max(self._start, start.lsn)
        return self

    async def aclose(self) -> None:
        if self._has_slot:
            self._database.slot.release()
            self._has_slot = False

    def stats(self) -> SourceStats:
        database = self._database
        return SourceStats(stream=database.stream, connected=True, confirmed_lsn=database.confirmed)

    async def batches(self) -> AsyncIterator[list[RawEvent]]:
        for lsn in range(self._start + 1, 103):
            yield [Idle(Position(LSN(lsn), 0, self._database.stream))]
        await asyncio.Event().wait()

    def ack(self, upto: Position) -> None:
        pass


def _may_begin(start: Position, stream: StreamIdentity) -> bool:
    """Return whether a source takes a place, as the library's does."""
    former = start.stream
    assert former is not None
    if former.system_identifier != stream.system_identifier:
        return False
    return former == stream or start.index == LAST_INDEX


class Stage:
    """A log that another database's changes are in, and a leader that was refused once."""

    def __init__(self) -> None:
        self.server = FakeJetStream()
        self.database = Database()
        self.nodes = Nodes(10**9)

    def hear(self, stream: StreamIdentity, slot: str) -> None:
        """Have a server say that it leads."""
        beat = Beat("other", 0, SourceStats(stream=stream), slot=slot)
        self.nodes.hear(beat, asyncio.get_running_loop().time())

    async def _connect(self) -> Any:
        return self.server.connect()

    async def begin(self, *more: Envelope, refuses: bool = True) -> None:
        def log(connection: Any) -> Log:
            return Log(connection, LogSettings(name="log"))

        await log(self.server.connect()).prepare()
        before = (0, END[1] - 1, 0)
        for envelope in (Envelope(Kind.MARK, END, END, before, FORMER, b""), *more):
            self.server.append(encode(envelope))
        leader = Leader(
            self._connect,
            log,
            lambda start_at: Source(self.database, start_at),  # type: ignore[arg-type, return-value]
            publications=self.database.stream.publications,
            slot="realtime",
            nodes=self.nodes,
            ack_delay=0.0,
            repeat=100.0,
            clock=asyncio.get_running_loop().time,
        )
        self.leader = leader
        self.running = asyncio.create_task(leader.run())
        if not refuses:
            return
        await self.database.has_refused.wait()
        # It lets go of the slot now, and tries again after a pause.
        await asyncio.sleep(0.1)
        assert not self.database.slot.locked()

    def reasons(self) -> list[bytes]:
        """Return those of the gaps in the log."""
        envelopes = [decode(data) for _, data in sorted(self.server.messages.items())]
        return [each.body for each in envelopes if each.kind is Kind.GAP]

    async def appended(self) -> list[tuple[Kind, Place, StreamIdentity]]:
        """Return what the log has in the end, behind what it had at first."""
        await asyncio.sleep(10)
        assert not self.running.done(), self.running
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        envelopes = [decode(data) for _, data in sorted(self.server.messages.items())]
        return [(each.kind, each.last, each.stream) for each in envelopes[1:]]


IN_STREAM = [
    (Kind.GAP, (1, 99, LAST_INDEX), STREAM),
    (Kind.MARK, (1, 101, 0), STREAM),
    (Kind.MARK, (1, 102, 0), STREAM),
]


def test_a_log_of_another_database_goes_on_behind_a_gap() -> None:
    async def play() -> None:
        stage = Stage()
        await stage.begin()
        assert await stage.appended() == IN_STREAM
        assert stage.database.refused == 1
        assert stage.reasons() == [b"other_cluster"]

    run_in_virtual_time(play())


@pytest.mark.parametrize(
    ("stream", "slot", "refuses"), [(FORMER, "realtime", True), (STREAM, "of_another", False)]
)
def test_it_does_not_lead_in_the_log_of_another_database_while_a_server_of_that_does(
    stream: StreamIdentity, slot: str, refuses: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def play() -> None:
        stage = Stage()
        if not refuses:
            stage.database.stream = FORMER
        await stage.begin(refuses=refuses)
        for _ in range(20):
            stage.hear(stream, slot)
            await asyncio.sleep(1)
        assert stage.reasons() == []
        assert not stage.database.slot.locked()
        assert stage.leader.foreign() is not None
        # Another server of this database has the slot by the time that other one has ended.
        async with stage.database.slot:
            await asyncio.sleep(15)
            assert stage.leader.foreign() is None
        await asyncio.sleep(15)
        assert stage.reasons() == ([b"other_cluster"] if refuses else [])
        assert stage.database.slot.locked()
        await stage.appended()

    run_in_virtual_time(play())
    told = [line for line in caplog.messages if "a CLUSTER_NAME of their own" in line]
    assert len(told) == 1
    assert f"reads the slot {slot!r} of the database cluster {stream.system_identifier}" in told[0]


def test_where_another_server_has_gone_on_meanwhile_nothing_is_read_again() -> None:
    async def play() -> None:
        stage = Stage()
        await stage.begin()
        # The other server has the slot before this one tries again, and keeps it for a while.
        async with stage.database.slot:
            packer = Packer(END, FORMER)
            until = Position(LSN(99), LAST_INDEX, STREAM)
            events: list[RawEvent] = [
                Gap(None, until, GapReason.OTHER_CLUSTER),
                Idle(Position(LSN(101), 0, STREAM)),
            ]
            for event in events:
                for packed in packer.feed(event):
                    stage.server.append(packed.data)
            await asyncio.sleep(2)
        assert await stage.appended() == IN_STREAM

    run_in_virtual_time(play())


def test_a_log_goes_on_without_a_gap_when_its_database_is_there_again() -> None:
    async def play() -> None:
        stage = Stage()
        await stage.begin()
        stage.database.stream = FORMER
        stage.server.append(encode(Envelope(Kind.MARK, (0, 101, 0), (0, 101, 0), END, FORMER, b"")))
        assert await stage.appended() == [
            (Kind.MARK, (0, 101, 0), FORMER),
            (Kind.MARK, (0, 102, 0), FORMER),
        ]

    run_in_virtual_time(play())


def test_a_leader_with_other_publications_goes_on_behind_a_gap_that_says_so() -> None:
    async def play() -> None:
        stage = Stage()
        # The same database, of which it reads another publication.
        stage.database.stream = StreamIdentity(FORMER.system_identifier, 1, ("shop", "more"))
        await stage.begin(refuses=False)
        assert [kind for kind, *_ in await stage.appended()] == [Kind.GAP, Kind.MARK, Kind.MARK]
        assert stage.reasons() == [b"other_publications"]

    run_in_virtual_time(play())


@pytest.mark.parametrize(
    ("end", "reasons"),
    [
        # Within the transaction that commits at 100, and at its end.
        ((0, 100, 2), [b"start_behind_slot"]),
        ((0, 100, LAST_INDEX), []),
        # At a message or an idle position, and where the slot has more of the transaction.
        ((0, 99, 0), []),
        ((0, 102, 2), []),
    ],
)
def test_a_log_that_has_lost_the_end_of_a_transaction_goes_on_behind_a_gap(
    end: Place, reasons: list[bytes]
) -> None:
    async def play() -> None:
        stage = Stage()
        stage.database.stream = FORMER
        stage.database.confirmed = LSN(min(end[1] + 1, 101))
        await stage.begin(Envelope(Kind.CHANGES, end, end, END, FORMER, b""), refuses=False)
        await stage.appended()
        assert stage.reasons() == reasons

    run_in_virtual_time(play())


def test_a_server_does_not_lead_where_messages_are_too_small_for_large_rows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def play() -> None:
        stage = Stage()
        stage.server.max_payload = LEAST_PAYLOAD - 1
        await stage.begin(refuses=False)
        assert await stage.appended() == []
        assert not stage.database.slot.locked()

    run_in_virtual_time(play())
    assert "NATS takes messages of 32767 bytes at most, too few" in caplog.text
    assert "set max_payload to 32768 or more" in caplog.text
