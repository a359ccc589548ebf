"""LogReader finds its place in the log again, whatever becomes of it; time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from realtime_core import StreamIdentity
from realtime_server.cluster.envelope import Envelope, Kind, VersionError, encode
from realtime_server.cluster.errors import FencedError, LogError
from realtime_server.cluster.log import Log, LogSettings
from realtime_server.cluster.log_reader import LogReader, Read
from tests.fake_jetstream import FakeJetStream
from tests.virtual_time import run_in_virtual_time

STREAM = StreamIdentity(7, 1, ("shop",))
SETTINGS = LogSettings(name="log")


def mark(lsn: int, prev: int | None = None, generation: int = 0) -> bytes:
    place = (generation, lsn, 0)
    before = (generation, lsn - 1 if prev is None else prev, 0)
    return encode(Envelope(Kind.MARK, place, place, before, STREAM, b""))


class Stage:
    """A log with ten envelopes, and a reader that begins behind them."""

    def __init__(self) -> None:
        self.server = FakeJetStream()
        self.reader = LogReader(self._connect, self._log)

    async def _connect(self) -> Any:
        return self.server.connect()

    def _log(self, connection: Any) -> Log:
        return Log(connection, SETTINGS)

    @property
    def log(self) -> Log:
        connection: Any = self.server.connect()
        return Log(connection, SETTINGS)

    async def begin(self) -> None:
        await self.log.prepare()
        for lsn in range(1, 11):
            self.server.append(mark(lsn))
        await self.reader.begin()

    async def read(self, upto: int) -> list[int]:
        """Read up to a sequence, through whatever is odd; return the sequences."""
        found: list[Read] = []
        while not found or found[-1].sequence < upto:
            try:
                async with asyncio.timeout(60):
                    found += await self.reader.next()
            except LogError:
                await asyncio.sleep(0.1)
        return [read.sequence for read in found]


def staged(
    test: Callable[[Stage], Coroutine[Any, Any, None]],
) -> Callable[[], None]:
    async def run() -> None:
        stage = Stage()
        await stage.begin()
        await test(stage)
        await stage.reader.aclose()

    @wraps(test)
    def wrapped() -> None:
        run_in_virtual_time(run())

    del wrapped.__wrapped__  # type: ignore[attr-defined]
    return wrapped


@staged
async def test_it_begins_behind_the_end(stage: Stage) -> None:
    assert (stage.reader.sequence, stage.reader.place) == (10, (0, 10, 0))
    stage.server.append(mark(11))
    assert await stage.read(11) == [11]
    assert stage.reader.place == (0, 11, 0)
    assert stage.reader.resyncs == 0


@pytest.mark.parametrize(("lost", "begins_at"), [(0, 10), (11, 12)])
def test_it_begins_before_a_piece_that_has_not_come_as_a_whole(lost: int, begins_at: int) -> None:
    """Whoever goes on from the place before the piece needs all of it."""
    prev, place = (0, 10, 0), (0, 11, 0)
    one, two, three = (
        encode(Envelope(Kind.CHANGES, first, first, prev, STREAM, b"x", part, 3))
        for part, first in enumerate((prev, prev, place), 1)
    )

    async def play() -> None:
        stage = Stage()
        await stage.begin()
        stage.server.append(one)
        stage.server.append(two)
        stage.server.expire_before(lost + 1)
        await stage.reader.begin()
        assert (stage.reader.sequence, stage.reader.place) == (begins_at, prev)
        assert stage.reader.is_between_pieces is (not lost)
        stage.server.append(three)
        assert await stage.read(13) == list(range(begins_at + 1, 14))
        await stage.reader.aclose()

    run_in_virtual_time(play())


@staged
async def test_it_asks_again_when_a_request_was_filled(stage: Stage) -> None:
    for lsn in range(11, 1011):
        stage.server.append(mark(lsn))
    assert await stage.read(1010) == list(range(11, 1011))
    assert stage.reader.resyncs == 0


@pytest.mark.parametrize(
    ("code", "description", "resyncs"),
    [
        ("408", "Request Timeout", 0),
        ("404", "No Messages", 0),
        ("409", "Message Size Exceeds MaxBytes", 0),
        ("409", "Batch Completed", 0),
        ("100", "Idle Heartbeat", 0),
        ("409", "Consumer Deleted", 1),
        ("409", "Leadership Change", 1),
        ("503", "", 1),
    ],
)
def test_a_status_ends_a_request_or_the_consumer(code: str, description: str, resyncs: int) -> None:
    async def play() -> None:
        stage = Stage()
        await stage.begin()
        stage.server.append(mark(11))
        assert await stage.read(11) == [11]
        stage.server.status(code, description)
        asyncio.get_running_loop().call_later(0.5, lambda: stage.server.append(mark(12)))
        assert await stage.read(12) == [12]
        assert stage.reader.resyncs == resyncs

    run_in_virtual_time(play())


@staged
async def test_silence_makes_another_consumer(stage: Stage) -> None:
    stage.server.is_silent = True
    stage.server.append(mark(11))
    with pytest.raises(LogError, match=r"nothing has come from the log for 2\.5 s"):
        await stage.reader.next()
    stage.server.is_silent = False
    assert await stage.read(11) == [11]
    assert stage.reader.resyncs == 1


@staged
async def test_a_number_that_skips_makes_another_consumer(stage: Stage) -> None:
    stage.server.append(mark(11))
    assert await stage.read(11) == [11]
    for consumer in stage.server.consumers.values():
        consumer.delivered += 1
    stage.server.append(mark(12))
    with pytest.raises(LogError, match="has sent message 3 as the next one"):
        await stage.reader.next()
    assert await stage.read(12) == [12]


@staged
async def test_what_came_before_a_break_is_returned_first(stage: Stage) -> None:
    stage.server.append(mark(11))
    assert await stage.read(11) == [11]
    stage.server.append(mark(12))
    stage.server.break_connections()
    await asyncio.sleep(0)
    assert [read.sequence for read in await stage.reader.next()] == [12]
    stage.server.append(mark(13))
    assert await stage.read(13) == [13]


@staged
async def test_a_log_that_has_lost_its_end_is_read_from_the_place_on(stage: Stage) -> None:
    for lsn in range(11, 21):
        stage.server.append(mark(lsn))
    await stage.read(20)
    # The next leader begins behind 15, and cuts otherwise.
    stage.server.lose_behind(15)
    stage.server.append(mark(18, 15))
    stage.server.append(mark(21, 18))
    stage.server.append(mark(25, 21))
    # What ends at 18 is not needed: the reader is at 20.
    assert await stage.read(18) == [17, 18]
    assert stage.reader.place == (0, 25, 0)


@staged
async def test_a_reader_that_was_away_begins_where_the_log_still_has_something(
    stage: Stage,
) -> None:
    for lsn in range(11, 41):
        stage.server.append(mark(lsn))
    stage.server.expire_before(30)
    assert await stage.read(40) == list(range(30, 41))


@staged
async def test_an_envelope_that_does_not_follow_is_looked_for_first(stage: Stage) -> None:
    """It is returned only if the log has nothing in between."""
    stage.server.append(mark(11))
    assert await stage.read(11) == [11]
    stage.server.append(mark(15, 14))
    with pytest.raises(LogError, match="does not follow"):
        await stage.reader.next()
    assert await stage.read(12) == [12]


@staged
async def test_a_piece_in_parts_is_read_from_its_first_part(stage: Stage) -> None:
    prev, place = (0, 10, 0), (0, 11, 0)
    for part in (1, 2):
        stage.server.append(encode(Envelope(Kind.CHANGES, prev, prev, prev, STREAM, b"x", part, 3)))
    stage.server.append(encode(Envelope(Kind.CHANGES, place, place, prev, STREAM, b"x", 3, 3)))
    assert await stage.log.find((0, 10, 0)) == 11
    assert await stage.log.find((0, 11, 0)) == 14
    assert await stage.log.find((0, 3, 0)) == 4
    assert await stage.read(13) == [11, 12, 13]


@staged
async def test_a_log_that_was_made_anew_with_lower_places_is_another_one(stage: Stage) -> None:
    stage.server.append(mark(5, 4, generation=2))
    await stage.read(11)
    stage.server.delete()
    stage.server.break_connections()
    await stage.log.prepare()
    stage.server.append(mark(20, 19))
    stage.server.append(mark(21))
    reads: list[Read] = []
    while len(reads) < 2:
        try:
            reads += await stage.reader.next()
        except LogError:
            await asyncio.sleep(0.1)
    assert [(read.sequence, read.is_anew) for read in reads] == [(1, True), (2, False)]
    assert stage.reader.place == (0, 21, 0)


def test_what_is_broken_is_passed_over_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    @staged
    async def play(stage: Stage) -> None:
        for data in (mark(11), b"RTE\1hello", mark(12)[:-1], mark(12)):
            stage.server.append(data)
        assert await stage.read(14) == [11, 14]
        # The place of the next one does not follow, so the reader looks for what is between.
        stage.server.append(b"RTE\1")
        stage.server.append(mark(15, 14))
        assert await stage.read(16) == [16]
        assert stage.reader.newer is None

    play()
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    said = "passing over a message of the log: envelope {} cannot be read: "
    assert len(errors) == 3
    for error, number in zip(errors, (12, 13, 15), strict=True):
        assert error.startswith(said.format(number))


@staged
async def test_what_a_newer_server_has_written_is_said_until_it_can_be_read(stage: Stage) -> None:
    newer = mark(11)[:3] + b"\2 and more"
    for _ in range(3):
        stage.server.append(newer)
    reading = asyncio.create_task(stage.read(14))
    await asyncio.sleep(1)
    assert "envelope 13 cannot be read: it is of version 2" in str(stage.reader.newer)
    # Whoever went on before it would tell everybody of a gap.
    with pytest.raises(VersionError, match="envelope 13"):
        await stage.log.tail()
    stage.server.append(mark(12, 11))
    assert await reading == [14]
    assert stage.reader.newer is None


@staged
async def test_what_others_have_written_is_passed_over(stage: Stage) -> None:
    for data in (b"hello", mark(11), b"", b"{}", mark(12)):
        stage.server.append(data)
    assert await stage.read(15) == [12, 15]
    assert (stage.reader.place, stage.reader.resyncs) == ((0, 12, 0), 0)
    # The next consumer finds its place, too.
    stage.server.append(b"hello")
    stage.server.break_connections()
    stage.server.append(mark(13))
    assert await stage.read(17) == [17]
    assert stage.reader.place == (0, 13, 0)


@staged
async def test_others_may_have_written_last_before_it_begins(stage: Stage) -> None:
    for data in (b"hello", b"RTE\1", mark(11)[:-1]):
        stage.server.append(data)
    sequence, envelope = await stage.log.tail()
    assert (sequence, envelope and envelope.last) == (13, (0, 10, 0))
    await stage.reader.begin()
    assert stage.reader.place == (0, 10, 0)
    assert await stage.log.append(mark(11), sequence) == 14
    assert await stage.read(14) == [14]


@staged
async def test_a_place_is_found_among_what_others_have_written(stage: Stage) -> None:
    server = FakeJetStream()
    log = Log(server.connect(), SETTINGS)  # type: ignore[arg-type]
    await log.prepare()
    for data in (b"", mark(1), b"", b"RTE\1", mark(2), mark(3), b"RTE\2"):
        server.append(data)
    found = [await log.find((0, lsn, 0)) for lsn in range(4)]
    # The first envelope behind it, or what others have written just before that.
    assert [
        sequence in range(low, high + 1)
        for sequence, (low, high) in zip(found, [(1, 2), (3, 5), (6, 6), (7, 8)], strict=True)
    ] == [True] * 4


@staged
async def test_the_last_message_may_have_been_deleted(stage: Stage) -> None:
    del stage.server.messages[10]
    async with asyncio.timeout(60):
        sequence, envelope = await stage.log.tail()
    assert (sequence, envelope and envelope.last) == (10, (0, 9, 0))


@staged
async def test_only_one_can_append_behind_an_envelope(stage: Stage) -> None:
    one, other = stage.log, stage.log
    assert await one.append(mark(11), 10) == 11
    with pytest.raises(FencedError):
        await other.append(mark(12, 10), 10)
    assert await other.append(mark(12), 11) == 12
