"""OlderChanges: rounds below the memory's floor get first what is kept elsewhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence

import attrs
import pytest

from realtime_core import Event
from realtime_core.errors import ServerError
from realtime_core.positions import LAST_INDEX
from realtime_server.replay import change_log
from realtime_server.replay.older_changes import LostError
from realtime_server.replay.places import Place

from .test_catch_up import Server, batch, ids, open_server, until

LSNS = range(16, 96, 16)


@pytest.fixture(autouse=True)
def each_batch_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the memory give up each batch by itself, however quickly they come."""
    monkeypatch.setattr(change_log, "_TOGETHER", 0.0)


@attrs.define
class Elsewhere:
    """Has the changes that were published, one transaction in each piece."""

    errors: list[Exception] = attrs.field(factory=list)
    """What reading fails with, one time after the other."""
    asked: list[int] = attrs.field(factory=list)
    """The pieces that were asked for."""
    closed: int = 0
    behind: list[list[Event]] = attrs.field(factory=list)
    """What the last piece has besides."""
    on_close: Callable[[], None] = lambda: None
    may_go_on: asyncio.Event = attrs.field(factory=asyncio.Event)

    async def read(self, after: Place) -> AsyncGenerator[Sequence[Event], None]:
        try:
            for lsn in LSNS:
                if (lsn, LAST_INDEX) > after:
                    self.asked.append(lsn)
                    await self.may_go_on.wait()
                    if self.errors:
                        raise self.errors.pop(0)
                    more = self.behind if lsn == LSNS[-1] else []
                    yield [event for events in (batch(lsn, str(lsn)), *more) for event in events]
        finally:
            self.closed += 1
            self.on_close()


def publish(server: Server) -> Elsewhere:
    """Publish all changes, of which the first three leave the memory."""
    for lsn in LSNS:
        server.publish(batch(lsn, str(lsn)))
    server.log.trim((48, LAST_INDEX))
    elsewhere = Elsewhere()
    server.catch_up.older.read_older = elsewhere.read
    return elsewhere


async def test_a_round_reads_until_it_has_come_to_what_is_in_memory() -> None:
    async with open_server() as server:
        elsewhere = publish(server)
        elsewhere.may_go_on.set()
        outboxes = [
            server.come_back(place)[1] for place in ((0, -1), (32, LAST_INDEX), (64, LAST_INDEX))
        ]
        await until(lambda: len(server.live) == 3)
        assert [ids(one) for one in outboxes] == [
            ["16", "32", "48", "64", "80"],
            ["48", "64", "80"],
            ["80"],
        ]
        assert server.gaps == []
        # It stops where the memory begins.
        assert (elsewhere.asked, elsewhere.closed) == ([16, 32, 48], 1)


async def test_who_joins_a_round_that_waits_for_a_piece_enters_where_it_stands() -> None:
    async with open_server() as server:
        elsewhere = publish(server)
        _, one = server.come_back((0, -1))
        await until(lambda: elsewhere.asked)
        _, other = server.come_back((16, -1))
        elsewhere.may_go_on.set()
        await until(lambda: len(server.live) == 2)
        assert ids(one) == ids(other) == ["16", "32", "48", "64", "80"]
        assert server.hubs == 1


async def test_live_changes_and_those_who_leave_do_not_wait_for_a_piece() -> None:
    async with open_server() as server:
        elsewhere = publish(server)
        one, outbox = server.come_back((0, -1))
        await until(lambda: elsewhere.asked)
        server.catch_up.remove(one)
        _, live = server.come_back((80, LAST_INDEX))
        server.publish(batch(96, "96"))
        assert ids(live) == ["96"]
        elsewhere.may_go_on.set()
        await until(lambda: server.catch_up.stats().running == 0)
        assert (ids(outbox), elsewhere.closed) == ([], 1)


@pytest.mark.parametrize(
    ("error", "floor", "found"),
    [
        (LostError((32, -1)), (32, -1), ["32", "48", "64", "80"]),
        # What is in memory is there at least.
        (ServerError("planted"), (48, 0), ["64", "80"]),
    ],
)
async def test_what_is_not_there_any_more_is_told_as_a_gap(
    error: Exception, floor: Place, found: list[str]
) -> None:
    async with open_server() as server:
        elsewhere = publish(server)
        elsewhere.errors.append(error)
        elsewhere.may_go_on.set()
        one, outbox = server.come_back((0, -1))
        await until(lambda: server.live)
        assert server.gaps == [(one, (0, -1), floor)]
        assert ids(outbox) == found
        # Nobody asks for it again.
        assert server.catch_up.older.floor == floor


async def test_what_memory_gives_up_under_way_is_read_elsewhere() -> None:
    async with open_server() as server:
        elsewhere = publish(server)
        elsewhere.may_go_on.set()
        _, one = server.come_back((48, LAST_INDEX))
        await until(lambda: server.catch_up.stats().running == 1)
        server.log.give_up()
        _, other = server.come_back((64, LAST_INDEX))
        # It misses nothing.
        _, live = server.come_back((80, LAST_INDEX))
        await until(lambda: len(server.live) == 3)
        server.publish(batch(96, "96"))
        assert ids(one) == ["64", "80", "96"]
        assert ids(other) == ["80", "96"]
        assert ids(live) == ["96"]
        assert server.gaps == []


async def test_memory_may_be_given_up_while_a_reader_is_closed() -> None:
    async with open_server() as server:
        elsewhere = publish(server)
        elsewhere.may_go_on.set()
        elsewhere.on_close = server.log.give_up
        _, one = server.come_back((16, LAST_INDEX))
        await until(lambda: server.live)
        assert ids(one) == ["32", "48", "64", "80"]
        assert (server.gaps, server.lost, elsewhere.closed) == ([], [], 2)


async def test_a_piece_that_ends_behind_what_is_live_is_read_no_further() -> None:
    """It may have messages behind the last change, and changes that are still to come here."""
    async with open_server() as server:
        elsewhere = publish(server)
        elsewhere.behind = [batch(96, "96")]
        elsewhere.may_go_on.set()
        server.log.give_up()
        _, one = server.come_back((64, LAST_INDEX))
        await until(lambda: server.live)
        assert ids(one) == ["80"]
        server.publish(batch(96, "96"))
        assert ids(one) == ["80", "96"]


async def test_another_stream_ends_it() -> None:
    async with open_server() as server:
        elsewhere = publish(server)
        one, outbox = server.come_back((0, -1))
        await until(lambda: elsewhere.asked)
        server.publish(batch(8, "of another stream"))
        elsewhere.may_go_on.set()
        await until(lambda: server.live)
        assert server.gaps == [(one, (0, -1), (8, -1))]
        assert ids(outbox) == ["of another stream"]
