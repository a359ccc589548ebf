"""One leader, a log on NATS JetStream, several servers that read it: nothing is lost, or twice."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from realtime_core import GapReason
from realtime_server.cluster.log import Log, LogSettings
from tests.e2e.cluster_faults import rows_in_log
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.cluster_member import Member, insert, shop
from tests.integration.source_helpers import kill_walsenders
from tests.nats_server import NatsServer
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


@pytest.fixture
def item(one_pg: Server) -> Iterator[Database]:
    with shop(one_pg) as database:
        yield database


def numbers(last: int, first: int = 1) -> list[int]:
    return list(range(first, last + 1))


async def test_all_members_hand_out_everything_in_order(item: Database, nats: NatsServer) -> None:
    name = unique_name("log")
    async with Member(item, nats.url, name) as one, Member(item, nats.url, name) as two:
        await asyncio.gather(one.feed.attached(), two.feed.attached())
        insert(item, 1, 1)
        insert(item, 2, 5000)
        await eventually(lambda: one.ids == two.ids == numbers(5000))
        assert one.leads != two.leads
        assert one.positions == two.positions == sorted(set(one.positions))
        await eventually(lambda: one.node.stats().nodes == 2)
        await eventually(lambda: one.node.why_not_ready() is two.node.why_not_ready() is None)
        # A third one begins behind what was there.
        async with Member(item, nats.url, name) as three:
            await three.feed.attached()
            insert(item, 5001, 5010)
            await eventually(lambda: three.ids == numbers(5010, 5001))
            await eventually(lambda: one.node.stats().nodes == 3)
        # It has said that it ends: otherwise it would be missed ten seconds later.
        async with asyncio.timeout(5):
            await eventually(lambda: one.node.stats().nodes == two.node.stats().nodes == 2)
    assert not one.gaps + two.gaps + three.gaps


async def test_the_next_leader_goes_on_where_the_log_ends(item: Database, nats: NatsServer) -> None:
    name = unique_name("log")
    async with Member(item, nats.url, name, CLUSTER_ROLE="server") as reader:
        for turn in range(3):
            async with Member(item, nats.url, name) as leader:
                await eventually(lambda: leader.leads and reader.feed.is_open)
                insert(item, 100 * turn + 1, 100 * turn + 50)
                if turn == 1:
                    kill_walsenders(item)
            # Nobody leads.
            insert(item, 100 * turn + 51, 100 * turn + 100)
        assert not reader.leads
        async with Member(item, nats.url, name):
            await eventually(lambda: reader.ids == numbers(300))
    assert not reader.gaps


async def test_nats_may_be_away(item: Database, new_nats: Callable[..., NatsServer]) -> None:
    name, nats = unique_name("log"), await asyncio.to_thread(new_nats)
    async with Member(item, nats.url, name) as one, Member(item, nats.url, name) as two:
        await asyncio.gather(one.feed.attached(), two.feed.attached())
        for turn in range(2):
            insert(item, 100 * turn + 1, 100 * turn + 50)
            with nats.down():
                insert(item, 100 * turn + 51, 100 * turn + 100)
                await eventually(lambda: not one.leads and not two.leads)
        await eventually(lambda: one.ids == two.ids == numbers(200))
        assert one.node.stats().log.resyncs > 0
    assert not one.gaps + two.gaps


async def test_what_the_log_has_lost_comes_again_although_another_server_leads_by_then(
    item: Database, new_nats: Callable[..., NatsServer]
) -> None:
    """The slot keeps for LOG_ACK_DELAY what the log has, whoever has appended it."""
    name, nats = unique_name("log"), await asyncio.to_thread(new_nats)
    leader = partial(Member, item, nats.url, name, LOG_ACK_DELAY="60000")
    async with Member(item, nats.url, name, CLUSTER_ROLE="server") as reader:
        async with leader() as first:
            await eventually(lambda: first.leads and reader.feed.is_open)
            insert(item, 1, 50)
            await eventually(lambda: reader.ids == numbers(50))
            copy = await asyncio.to_thread(nats.copy_store)
            insert(item, 51, 100)
            await eventually(lambda: reader.ids == numbers(100))
        async with leader():
            insert(item, 101, 101)
            # By then the slot has sent again what the log has.
            await eventually(lambda: reader.ids == numbers(101))
        await asyncio.to_thread(nats.set_back, copy)
        async with leader():
            insert(item, 102, 200)
            await eventually(lambda: reader.ids == numbers(200))
        async with await reader.connect() as connection:
            assert await rows_in_log(Log(connection, LogSettings(name=name))) == numbers(200)
    assert not reader.gaps


async def test_a_lost_end_of_the_log_costs_those_nothing_who_had_read_it(
    item: Database, new_nats: Callable[..., NatsServer]
) -> None:
    name, nats = unique_name("log"), await asyncio.to_thread(new_nats)
    async with (
        Member(item, nats.url, name, LOG_ACK_DELAY="0") as one,
        Member(item, nats.url, name, CLUSTER_ROLE="server") as two,
    ):
        await asyncio.gather(one.feed.attached(), two.feed.attached())
        insert(item, 1, 50)
        await eventually(lambda: one.ids == two.ids == numbers(50))
        copy = await asyncio.to_thread(nats.copy_store)
        insert(item, 51, 100)
        await eventually(lambda: one.ids == two.ids == numbers(100))
        query = "select confirmed_flush_lsn from pg_replication_slots where slot_name = %s"
        before = item.execute(query, (name,))
        insert(item, 101, 101)
        await eventually(lambda: item.execute(query, (name,)) != before)
        await asyncio.to_thread(nats.set_back, copy)
        await eventually(lambda: one.leads)
        insert(item, 201, 300)
        await eventually(lambda: one.ids == two.ids == numbers(101) + numbers(300, 201))
    # They had read what the log has lost, so usually they are told of no gap. If the slot has moved
    # on since then, nobody can know that there was nothing in between.
    assert {gap.reason for gap in one.gaps + two.gaps} <= {GapReason.START_BEHIND_SLOT}


async def test_a_member_that_was_outrun_is_told_a_gap(item: Database, nats: NatsServer) -> None:
    """The leader does not hear of it, so nobody waits for it; the others have everything."""
    name = unique_name("log")
    small = {"LOG_MAX_BYTES": str(16 * 1024 * 1024)}
    async with (
        Member(item, nats.url, name, **small) as one,
        Member(item, nats.url, name, is_heard=False, **small) as slow,
    ):
        await asyncio.gather(one.feed.attached(), slow.feed.attached())
        insert(item, 1, 10)
        await eventually(lambda: one.ids == slow.ids == numbers(10))
        slow.may_go_on.clear()
        for turn in range(1, 4):
            insert(item, 100 * turn + 1, 100 * turn + 100, 100_000)
            await eventually(lambda: one.ids[-1] == 100 * turn + 100)  # noqa: B023
        slow.may_go_on.set()
        insert(item, 1001, 1001)
        await eventually(lambda: slow.ids[-1] == one.ids[-1] == 1001)
    assert not one.gaps
    missing = sorted(set(one.ids) - set(slow.ids))
    assert missing
    assert slow.ids == [number for number in one.ids if number not in missing]
    places = dict(zip(one.ids, one.positions, strict=True))
    (gap,) = slow.gaps
    assert gap.reason is GapReason.LOG_BEHIND
    assert gap.after is not None
    assert all(gap.after < places[number] < gap.until for number in missing)
    others = [places[number] for number in slow.ids]
    assert not any(gap.after < place < gap.until for place in others)


async def test_a_log_that_was_deleted_is_made_anew(item: Database, nats: NatsServer) -> None:
    name = unique_name("log")
    async with Member(item, nats.url, name) as one, Member(item, nats.url, name) as two:
        await asyncio.gather(one.feed.attached(), two.feed.attached())
        insert(item, 1, 50)
        await eventually(lambda: one.ids == two.ids == numbers(50))
        async with await one.connect() as connection:
            await connection.request(f"$JS.API.STREAM.DELETE.{name}")
        insert(item, 51, 100)
        await eventually(lambda: one.ids == two.ids == numbers(100))
    assert not one.gaps + two.gaps
