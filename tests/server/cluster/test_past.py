"""LogPast reads what clients have missed from the log, and no more; time is virtual."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from typing import Any

import attrs
import pytest

from realtime_core import LSN, Event, Gap, GapReason, Idle, LogicalMessage, Position, StreamIdentity
from realtime_server.cluster.envelope import Envelope, Kind, decode, encode, write_message
from realtime_server.cluster.errors import LogError
from realtime_server.cluster.log import Log, LogSettings
from realtime_server.cluster.log_reader import LogReader
from realtime_server.cluster.packer import Packer
from realtime_server.cluster.past import LogPast
from realtime_server.replay.change_log import ChangeLog
from realtime_server.replay.older_changes import LostError
from realtime_server.replay.past import Telling
from realtime_server.replay.places import Place
from tests.fake_jetstream import FakeJetStream
from tests.virtual_time import run_in_virtual_time

STREAM = StreamIdentity(7, 1, ("shop",))
OTHER = StreamIdentity(8, 1, ("shop",))
NODE = "5" + "0" * 15


@attrs.define
class Feed:
    """What a server reads now."""

    begin: tuple[int, int, int] | None = None
    begin_sequence: int = 0
    log_created: str = ""
    read_bytes: int = 0

    def passed(self) -> LSN:
        return LSN(77)


class Stage:
    """A log whose places are told in words: ``idle`` stands for a change."""

    def __init__(self) -> None:
        self.server = FakeJetStream()
        self.feed = Feed()
        self.packer = Packer((0, 0, 0), STREAM, max_payload=1000)
        self.others: set[str] | None = set()
        self.messages: list[bytes] = []
        self.needed: Place | None = None
        self.past = LogPast(
            self._reader,
            self.feed,
            cluster=b"shop and more",
            node=NODE,
            others=lambda: self.others,
            span=60,
            interval=20,
            max_bytes=800,
            clock=lambda: asyncio.get_running_loop().time(),
        )

    def _reader(self) -> LogReader:
        async def connect() -> Any:
            return self.server.connect()

        return LogReader(connect, lambda connection: Log(connection, LogSettings(name="log")))

    async def begin(self) -> None:
        self.server.exists = True

    def idle(self, *lsns: int) -> None:
        for lsn in lsns:
            self.append(self.packer.feed(Idle(Position(LSN(lsn), 0, STREAM))))

    def message(self, lsn: int, content: bytes) -> None:
        event = LogicalMessage(LSN(lsn), "realtime", content, None, 0, STREAM)
        self.append([*self.packer.feed(event), *self.packer.flush()])

    def append(self, envelopes: Sequence[Any]) -> None:
        for one in envelopes:
            self.server.append(one.data)

    def attach(self) -> None:
        """Have the server's feed begin behind what is in the log now."""
        self.feed.begin, self.feed.begin_sequence = self.packer.last, self.server.last
        self.feed.log_created = str(self.server.created)

    async def read(self) -> list[int]:
        """Return the LSNs of what is read."""

        async def take(message: LogicalMessage) -> None:
            self.messages.append(message.content)

        assert self.feed.begin is not None
        events: list[Event] = []
        async for batch in self.past.read(self.feed.begin[1:], take, lambda: self.needed):
            events += batch
        assert all(isinstance(event, Idle) for event in events)
        return [event.position.lsn for event in events if isinstance(event, Idle)]


def staged(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    async def run(**given: Any) -> None:
        stage = Stage()
        await stage.begin()
        async with asyncio.timeout(600):
            await test(stage, **given)
        assert not stage.server.connections or all(
            connection.closed.is_set() for connection in stage.server.connections
        )

    @wraps(test)
    def wrapped(**given: Any) -> None:
        run_in_virtual_time(run(**given))

    # What is parametrized is given by name, and the stage is not.
    signature = inspect.signature(test)
    _, *parameters = signature.parameters.values()
    wrapped.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return wrapped


@staged
async def test_it_reads_from_the_place_that_is_needed_to_where_the_feed_begins(
    stage: Stage,
) -> None:
    stage.idle(10, 20)
    stage.message(30, b"one")
    stage.idle(40, 50)
    stage.message(60, b"two")
    stage.attach()
    stage.idle(70)
    stage.message(80, b"three")
    stage.needed = (20, 0)
    assert await stage.read() == [40, 50]
    assert stage.messages == [b"one", b"two"]
    assert stage.past.floor == (20, 0)


@staged
async def test_it_does_not_read_what_nobody_needs(stage: Stage) -> None:
    stage.idle(10)
    stage.message(20, b"one")
    stage.attach()
    for needed in (None, (19, 0), (25, -1)):
        stage.needed = needed
        assert await stage.read() == []
        assert stage.past.floor == stage.past.begin() == (19, 0)
    # One consumer for the messages each time, and none for the changes.
    assert sum("CONSUMER.CREATE" in subject for subject in stage.server.requests) == 3


@staged
async def test_records_are_looked_for_among_what_was_appended_lately(stage: Stage) -> None:
    stage.message(10, b"long ago")
    await asyncio.sleep(100)
    stage.message(20, b"lately")
    await asyncio.sleep(50)
    stage.message(30, b"now")
    stage.attach()
    await stage.read()
    assert stage.messages == [b"lately", b"now"]


@staged
async def test_what_the_log_has_let_go_of_is_below_the_floor(stage: Stage) -> None:
    stage.idle(10, 20, 30, 40)
    stage.server.expire_before(3)
    stage.attach()
    stage.needed = (10, 0)
    assert await stage.read() == [30, 40]
    assert stage.past.floor == (20, 0)


@staged
async def test_what_is_before_a_hole_is_below_the_floor(stage: Stage) -> None:
    stage.idle(10, 20)
    lost = stage.packer.feed(Idle(Position(LSN(30), 0, STREAM)))
    assert lost
    stage.idle(40, 50)
    stage.attach()
    stage.needed = (10, 0)
    assert (await stage.read())[-2:] == [40, 50]
    assert stage.past.floor == (30, 0)


@staged
async def test_a_change_in_parts_is_below_the_floor_if_the_log_lets_go_of_some_of_them(
    stage: Stage,
) -> None:
    stage.idle(*range(10, 2570, 10))
    assert stage.server.last == 256  # As many as the reader asks for at once.
    stage.message(3000, b"x" * 2500)
    stage.idle(4000, 5000)
    stage.attach()
    stage.needed = (5, 0)
    is_first = True

    async def take(message: LogicalMessage) -> None:
        pass

    async for _ in stage.past.read((5000, 0), take, lambda: stage.needed):
        if is_first:
            stage.server.expire_before(258)
        is_first = False
    assert stage.past.floor == (2999, 0)


@staged
async def test_what_is_lost_just_before_the_feed_begins_is_below_the_floor(stage: Stage) -> None:
    stage.idle(*range(10, 101, 10))
    stage.attach()
    stage.idle(110)
    for sequence in range(7, 11):
        del stage.server.messages[sequence]
    stage.needed = (5, 0)
    assert await stage.read() == [10, 20, 30, 40, 50, 60]
    assert stage.past.floor == stage.past.begin() == (100, 0)


def broken(stage: Stage, lsn: int, body: bytes) -> bytes:
    """Return an envelope that says that it has a message at an LSN, and has something else."""
    place, before = (0, lsn - 1, 0), stage.packer.last
    return encode(Envelope(Kind.CHANGES, place, place, before, STREAM, body))


BROKEN = {
    "no part": b"?",
    "no whole message": write_message(b"M"),
    "no message": write_message(b"M\0"),
    "another place": write_message(b"C" * 30),
}


@pytest.mark.parametrize("body", BROKEN.values(), ids=BROKEN)
@staged
async def test_what_cannot_be_read_is_passed_over(stage: Stage, body: bytes) -> None:
    stage.message(10, b"one")
    stage.idle(20)
    # Nothing is missing behind this one.
    stage.server.append(broken(stage, 25, body))
    stage.idle(30)
    stage.message(40, b"two")
    stage.attach()
    stage.needed = (15, 0)
    assert await stage.read() == [20, 30]
    assert stage.messages == [b"one", b"two"]
    assert stage.past.floor == (9, 0)


@pytest.mark.parametrize("number", [1, 2, 3], ids=["first", "middle", "last"])
@staged
async def test_what_is_missing_where_something_cannot_be_read_is_below_the_floor(
    stage: Stage, number: int
) -> None:
    stage.idle(5)
    for lsn in (10, 20, 30):
        stage.message(lsn, b"x")
    stage.attach()
    # The first envelope has the idle place.
    sequence = number + 1
    good = decode(stage.server.messages[sequence])
    stage.server.messages[sequence] = encode(attrs.evolve(good, body=b"?"))
    stage.needed = (4, 0)
    await stage.read()
    assert stage.past.floor == (10 * number - 1, 0)


@staged
async def test_places_of_another_stream_say_nothing(stage: Stage) -> None:
    stage.idle(1000)
    stage.message(2000, b"of the former stream")
    stage.append(stage.packer.feed(Gap(None, Position(LSN(10), 0, OTHER), GapReason.OTHER_CLUSTER)))
    other = Idle(Position(LSN(20), 0, OTHER))
    stage.append(stage.packer.feed(other))
    stage.attach()
    stage.needed = (5, 0)
    lsns: list[int] = []

    async def take(message: LogicalMessage) -> None:
        raise AssertionError

    async for batch in stage.past.read((20, 0), take, lambda: stage.needed):
        lsns += [event.position.lsn for event in batch if isinstance(event, Idle)]
    assert lsns == [20]
    assert stage.past.floor is not None
    assert (5, 0) < stage.past.floor < (20, 0)


@staged
async def test_a_gap_stands_behind_the_message_before_it(stage: Stage) -> None:
    """Whoever has everything up to the message has to be told of the gap."""
    stage.idle(10)
    stage.message(20, b"a record")
    reason = GapReason.START_BEHIND_SLOT
    stage.append(stage.packer.feed(Gap(None, Position(LSN(100), 0, STREAM), reason)))
    stage.idle(110)
    stage.attach()
    stage.needed = (15, 0)
    log = ChangeLog(max_bytes=1_000_000, window=60.0, clock=lambda: 0.0)

    async def take(message: LogicalMessage) -> None:
        """It is none of a process."""

    async for batch in stage.past.read((110, 0), take, lambda: stage.needed):
        log.append(batch)
    for place in ((15, 0), (20, -1), (19, 0)):
        (gap,), _ = log.read(place, 10)
        assert isinstance(gap, Gap)


@staged
async def test_a_record_in_parts_is_read_as_a_whole(stage: Stage) -> None:
    stage.message(10, b"x" * 2500)
    stage.message(20, b"small")
    stage.attach()
    await stage.read()
    assert [len(content) for content in stage.messages] == [2500, 5]


async def older(stage: Stage, after: Place, upto: int) -> list[int]:
    """Read older changes up to an LSN; return the LSNs."""
    lsns: list[int] = []
    batches = stage.past.read_older(after)
    async for batch in batches:
        assert not any(isinstance(event, LogicalMessage) for event in batch)
        lsns += {event.position.lsn for event in batch if isinstance(event, Idle)}
        if lsns[-1] >= upto:
            break
    await batches.aclose()
    return lsns


@staged
async def test_rounds_read_older_changes_behind_the_feeds_begin_as_well(stage: Stage) -> None:
    stage.idle(10, 20, 30)
    stage.attach()
    stage.idle(40)
    stage.message(50, b"one")
    assert await older(stage, (10, 0), 40) == [20, 30, 40]
    # What has only messages moves on, too.
    assert await older(stage, (40, 0), 49) == [49]
    stage.server.expire_before(3)
    with pytest.raises(LostError) as caught:
        await older(stage, (10, 0), 40)
    assert caught.value.until == (20, 0)
    stage.append(stage.packer.feed(Gap(None, Position(LSN(10), 0, OTHER), GapReason.OTHER_CLUSTER)))
    with pytest.raises(LogError, match="another stream"):
        await older(stage, (49, 0), 60)


@pytest.mark.parametrize("lost", [1, 2], ids=["the first part", "all but the last part"])
@staged
async def test_a_change_in_parts_is_lost_as_a_whole(stage: Stage, lost: int) -> None:
    stage.idle(10)
    stage.message(20, b"x" * 2500)
    stage.idle(30)
    stage.attach()
    # Its parts are the second message to the fourth one.
    assert stage.server.last == 5
    stage.server.expire_before(2 + lost)
    with pytest.raises(LostError) as caught:
        await older(stage, (10, 0), 30)
    assert caught.value.until == (19, 0)


@staged
async def test_nats_may_be_away_for_a_while(stage: Stage) -> None:
    stage.idle(*range(10, 4000, 10))
    stage.attach()
    stage.needed = (5, 0)
    loop = asyncio.get_running_loop()
    for after in (0.01, 0.5):
        loop.call_later(after, stage.server.break_connections)
    stage.server.is_silent = True
    loop.call_later(1, setattr, stage.server, "is_silent", False)
    assert await stage.read() == list(range(10, 4000, 10))


@staged
async def test_a_log_that_does_not_answer_is_given_up(stage: Stage) -> None:
    stage.idle(10, 20)
    stage.attach()
    stage.needed = (5, 0)
    stage.server.is_silent = True
    with pytest.raises(LogError, match="nothing has come"):
        await stage.read()
    assert stage.past.floor is None


@staged
async def test_a_log_that_was_made_anew_says_nothing(stage: Stage) -> None:
    stage.idle(10, 20)
    stage.attach()
    stage.feed.log_created = "before"
    with pytest.raises(LogError, match="made anew"):
        await stage.read()
    assert stage.past.floor is None


@pytest.mark.parametrize(
    ("others", "found"),
    [
        # It has not listened for long enough.
        (None, set()),
        (set(), {b"shop\x61\x00\x00\x00", b"shop\x62\x00\x00\x00"}),
        ({"61" + "0" * 14}, {b"shop\x62\x00\x00\x00"}),
        # Another one does it.
        ({"41" + "0" * 14}, set()),
    ],
)
def test_servers_that_nobody_hears_have_ended(others: set[str] | None, found: set[bytes]) -> None:
    stage = Stage()
    stage.others = others
    slots = {b"shop\x61\x00\x00\x00", b"shop\x62\x00\x00\x00", b"else\x61\x00\x00\x00"}
    assert set(stage.past.ended({*slots, stage.past.slot})) == found


@staged
async def test_everything_is_told_again_before_the_log_lets_go_of_it(stage: Stage) -> None:
    told: list[float] = []
    works = True
    loop = asyncio.get_running_loop()

    async def tell_all(passed: LSN) -> bool:
        assert passed == LSN(77)
        told.append(loop.time())
        return works

    async def keep(*, has_channels: bool = True) -> int:
        known = len(told)
        await stage.past.keep(Telling(lambda: None, tell_all, has_channels, 0))
        return len(told) - known

    assert await keep(has_channels=False) == 0
    assert await keep() == 1
    assert await keep() == 0
    await asyncio.sleep(21)
    for others in (None, {"4" * 16}):
        stage.others = others
        assert await keep() == 0
    stage.others = {"6" * 16}
    works = False
    assert [await keep(), await keep()] == [1, 1]
    works = True
    assert [await keep(), await keep()] == [1, 0]
    stage.feed.read_bytes += 99
    assert await keep() == 0
    stage.feed.read_bytes += 1
    assert [await keep(), await keep()] == [1, 0]
