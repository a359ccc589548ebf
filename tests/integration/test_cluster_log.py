"""The log is lost, emptied, of another database, or has what nobody can read: who misses nothing is
told nothing, and who does is told of a gap."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator

import attrs
import pytest

from realtime_core import GapReason
from realtime_core.positions import LAST_INDEX
from realtime_server.cluster.envelope import Kind, encode, position_at, position_behind
from realtime_server.cluster.log import Log, LogSettings
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.cluster_member import Member, insert, shop
from tests.nats_server import LATEST, NatsServer
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

one_nats = pytest.mark.parametrize("nats", [LATEST], ids=["latest"], indirect=True)
"""For tests of what does not depend on the version of NATS."""


@pytest.fixture
def item(pg17: Server) -> Iterator[Database]:
    with shop(pg17) as database:
        yield database


def numbers(last: int, first: int = 1) -> list[int]:
    return list(range(first, last + 1))


def misses_what_its_gap_says(slow: Member, one: Member) -> None:
    """Check that all that a member has not got lies in its one gap, and that there is something."""
    missing = sorted(set(one.ids) - set(slow.ids))
    assert missing
    assert slow.ids == [number for number in one.ids if number not in missing]
    places = dict(zip(one.ids, one.positions, strict=True))
    (gap,) = slow.gaps
    assert gap.after is not None
    assert all(gap.after < places[number] < gap.until for number in missing)
    others = [places[number] for number in slow.ids]
    assert not any(gap.after < place < gap.until for place in others)
    assert not one.gaps


async def leave_behind(slow: Member, one: Member, item: Database, slot: str) -> None:
    """Have a member stand still, and write more than waits for it, until the slot is past that."""
    slow.may_go_on.clear()
    for turn in range(1, 6):
        insert(item, 100 * turn, 100 * turn + 30, 100_000)
        await eventually(lambda: one.ids[-1] == 100 * turn + 30)  # noqa: B023
    end = item.execute("select pg_current_wal_lsn()::text")[0][0]
    insert(item, 900, 900)
    query = (
        "select confirmed_flush_lsn >= %s::pg_lsn from pg_replication_slots where slot_name = %s"
    )
    await eventually(lambda: item.execute(query, (end, slot)) == [(True,)])


@contextlib.asynccontextmanager
async def log_of(member: Member, name: str) -> AsyncIterator[Log]:
    async with await member.connect() as connection:
        yield Log(connection, LogSettings(name=name))


async def test_a_row_may_be_larger_than_nats_takes(item: Database, nats: NatsServer) -> None:
    """NATS takes messages of 1 MiB. One server reads all parts, the other begins behind them."""
    name = unique_name("log")
    async with Member(item, nats.url, name) as one:
        await one.feed.attached()
        insert(item, 1, 1)
        insert(item, 2, 3, 5 * 1024 * 1024)
        await eventually(lambda: one.ids == numbers(3))
        async with log_of(one, name) as log:
            _, tail = await log.tail()
            assert tail is not None
            assert tail.parts > 5
        async with Member(item, nats.url, name) as two:
            await two.feed.attached()
            insert(item, 4, 4, 5 * 1024 * 1024)
            await eventually(lambda: one.ids == numbers(4) and two.ids == [4])
    assert not one.gaps + two.gaps


async def test_what_cannot_be_read_costs_what_it_held(
    item: Database, nats: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    name = unique_name("log")
    async with Member(item, nats.url, name) as one, Member(item, nats.url, name) as two:
        await asyncio.gather(one.feed.attached(), two.feed.attached())
        insert(item, 1, 50)
        await eventually(lambda: one.ids == two.ids == numbers(50))
        async with log_of(one, name) as log:
            sequence, tail = await log.tail()
            assert tail is not None

            async def forge(data: bytes) -> None:
                assert "seq" in json.loads(
                    (await log.connection.request(log.settings.subject, data)).data
                )

            # The chain jumps back; two that are broken; and one that says what is not in it.
            generation, lsn, _ = tail.last
            place = (generation, lsn, LAST_INDEX)
            assert tail.last == place
            forged = (generation, lsn + 1, 0)
            former = await log.envelope_at(1)
            for data in (
                encode(former),
                b"RTE\1, says somebody",
                encode(tail)[:-1],
                encode(
                    attrs.evolve(
                        tail, kind=Kind.CHANGES, prev=place, first=forged, last=forged, body=b"?"
                    )
                ),
            ):
                await forge(data)
            insert(item, 51, 60)
            await eventually(lambda: one.ids == two.ids == numbers(60))
            for member in (one, two):
                (gap,) = member.gaps
                assert gap.reason is GapReason.LOG_BEHIND
                assert gap.after == position_at(place, tail.stream)
                assert gap.until == position_behind(forged, tail.stream)
            for number in (sequence + 2, sequence + 4):
                assert f"envelope {number} cannot be read" in caplog.text
            # Nobody goes on before what a newer server has written.
            await forge(b"RTE\2")
            insert(item, 61, 70)
            await eventually(lambda: not one.leads and not two.leads)
            await eventually(lambda: "of version 2" in (two.node.why_not_ready() or ""))
            assert re.search(r"envelope \d+ cannot be read: it is of version 2", caplog.text)
            await log.connection.request(f"$JS.API.STREAM.PURGE.{name}")
            await eventually(lambda: one.ids == two.ids == numbers(70))
            await eventually(lambda: one.node.why_not_ready() is two.node.why_not_ready() is None)
    assert len(one.gaps) == len(two.gaps) == 1


@one_nats
@pytest.mark.parametrize("verb", ["PURGE", "DELETE"])
async def test_an_emptied_log_is_a_gap_for_those_who_had_not_read_it(
    item: Database, nats: NatsServer, verb: str
) -> None:
    name = unique_name("log")
    async with (
        Member(item, nats.url, name, LOG_ACK_DELAY="0") as one,
        Member(item, nats.url, name, is_heard=False) as slow,
    ):
        await asyncio.gather(one.feed.attached(), slow.feed.attached())
        insert(item, 1, 10)
        await eventually(lambda: one.ids == slow.ids == numbers(10))
        await leave_behind(slow, one, item, name)
        async with log_of(one, name) as log:
            await log.connection.request(f"$JS.API.STREAM.{verb}.{name}")
        insert(item, 1001, 1010)
        await eventually(lambda: one.ids[-1] == 1010)
        slow.may_go_on.set()
        await eventually(lambda: slow.ids[-1] == 1010)
    misses_what_its_gap_says(slow, one)


async def test_a_lost_end_is_a_gap_for_those_alone_who_had_not_read_it(
    item: Database, new_nats: Callable[..., NatsServer]
) -> None:
    """The slot has let go of it, as LOG_ACK_DELAY is 0."""
    name, nats = unique_name("log"), await asyncio.to_thread(new_nats)
    async with (
        Member(item, nats.url, name, LOG_ACK_DELAY="0") as one,
        Member(item, nats.url, name, is_heard=False) as slow,
    ):
        await asyncio.gather(one.feed.attached(), slow.feed.attached())
        insert(item, 1, 10)
        await eventually(lambda: one.ids == slow.ids == numbers(10))
        copy = await asyncio.to_thread(nats.copy_store)
        await leave_behind(slow, one, item, name)
        await asyncio.to_thread(nats.set_back, copy)
        await eventually(lambda: one.leads)
        insert(item, 1001, 1010)
        await eventually(lambda: one.ids[-1] == 1010)
        slow.may_go_on.set()
        await eventually(lambda: slow.ids[-1] == 1010)
    misses_what_its_gap_says(slow, one)


@one_nats
async def test_another_clusters_database_is_a_gap(
    item: Database, pg18: Server, nats: NatsServer
) -> None:
    name = unique_name("log")
    with shop(pg18) as other:
        async with Member(item, nats.url, name, CLUSTER_ROLE="server") as reader:
            async with Member(item, nats.url, name) as leader:
                await asyncio.gather(leader.feed.attached(), reader.feed.attached())
                insert(item, 1, 10)
                await eventually(lambda: reader.ids == numbers(10))
            before = reader.positions[-1]
            async with Member(other, nats.url, name) as leader:
                await eventually(lambda: leader.leads)
                insert(other, 1, 10)
                await eventually(lambda: reader.ids == 2 * numbers(10))
                (gap,) = reader.gaps
                assert gap.reason is GapReason.OTHER_CLUSTER
                assert gap.after is not None
                assert gap.after.stream == before.stream
                assert gap.until.stream == reader.positions[-1].stream != before.stream
                # A server that comes later is told nothing, as it has joined behind that.
                async with Member(other, nats.url, name, CLUSTER_ROLE="server") as late:
                    await late.feed.attached()
                    insert(other, 11, 20)
                    await eventually(lambda: late.ids == numbers(20, 11))
                    assert not late.gaps
                    assert reader.ids == numbers(10) + numbers(20)
