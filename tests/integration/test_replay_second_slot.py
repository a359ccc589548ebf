"""What replay keeps beyond a server process: a second slot, and the journal in the WAL."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from realtime_core import LSN, Gap, Insert, LogicalMessage, SlotStatus, drop_slot, slot_status
from realtime_server.replay import durable, second_slot, second_slot_reader
from realtime_server.replay.records import PREFIX
from realtime_server.replay.second_slot import SlotState
from tests.fix_postgres import Database, unique_name
from tests.integration.replay_helpers import MEGABYTE, Node, open_node
from tests.integration.source_helpers import ids, insert, open_source, wal_position
from tests.waiting import eventually

pytestmark = pytest.mark.integration

KEY = b"k" * 16
BULK = "insert into %s select %s + g, repeat('x', 1000) from generate_series(1, 1000) g"


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the slot moved often, and by little."""
    monkeypatch.setattr(second_slot, "_STEP", 100_000)
    monkeypatch.setattr(durable, "_INTERVAL", 0.1)


@pytest.fixture
def shop(table: Database) -> Database:
    table.execute("create table other (id int, name text)")
    return table


async def second(node: Node) -> SlotStatus:
    status = await node.slot_status()
    assert status is not None
    return status


async def until_kept(node: Node) -> SlotStatus:
    await eventually(lambda: node.second_slot.state is SlotState.KEPT)
    return await second(node)


def has_passed(node: Node, lsn: int) -> bool:
    """Say whether the second slot has been moved up to somewhere."""
    query = "select confirmed_flush_lsn - '0/0' from pg_replication_slots where slot_name = %s"
    return int(node.database.execute(query, (node.second,))[0][0]) >= lsn


async def test_the_second_slot_is_a_copy_that_stays_behind(shop: Database) -> None:
    async with open_node(shop, unique_name("slot")) as node:
        status = await until_kept(node)
        main = await slot_status(shop.dsn, node.slot)
        assert main is not None
        assert (status.plugin, status.database) == (main.plugin, main.database)
        assert not status.temporary
        insert(shop, 1)
        await eventually(lambda: ids(node.live) == [1])
        node.needed = LSN(wal_position(shop))
        shop.execute(BULK % ("item", 10))
        await eventually(lambda: len(ids(node.live)) == 1001)
        # It is moved up to what is needed, and not beyond.
        await eventually(lambda: not has_passed(node, wal_position(shop) - MEGABYTE))
        assert not has_passed(node, node.needed + 1)
        node.needed = None
        before = wal_position(shop)
        shop.execute(BULK % ("item", 2000))
        await eventually(lambda: has_passed(node, before))


async def test_a_process_that_begins_finds_what_was_missed_and_by_whom(shop: Database) -> None:
    slot = unique_name("slot")
    async with open_node(shop, slot) as killed:
        await until_kept(killed)
        insert(shop, 1)
        await eventually(lambda: ids(killed.live) == [1])
        place = (wal_position(shop), 0)
        killed.needed = LSN(place[0])
        killed.journal.joined(7, KEY, 3, place)
        killed.journal.joined(8, b"j" * 16, 3, place)
        since = time.time()
        killed.journal.joined(7, KEY, 9, place, since=since)
        insert(shop, 2)
        await eventually(lambda: ids(killed.live) == [1, 2])
        low = (wal_position(shop), 0)
        killed.journal.low(low)
        await killed.settle()
    insert(shop, 3)
    async with open_node(shop, slot) as node:
        insert(shop, 4)
        await eventually(lambda: ids(node.live)[-1:] == [4])
        seen = ids([*node.restored, *node.live])
        assert seen[seen.index(2) :] == [2, 3, 4]
        assert not set(ids(node.restored)) & set(ids(node.live))
        (away,) = node.journal.find(KEY)
        assert (away.number, away.ref, away.place, away.since) == (7, 9, place, since)
        (joined,) = node.journal.find(b"j" * 16)
        assert (joined.place, joined.ref) == (low, 3)
        assert joined.since is not None
        assert node.journal.lowest() == place


async def test_what_a_former_process_was_told_reaches_the_next_ones(shop: Database) -> None:
    """A snapshot stands in the second slot, however often it is moved and processes begin."""
    slot = unique_name("slot")
    async with open_node(shop, slot) as first:
        await until_kept(first)
        first.journal.joined(1, KEY, 1, (wal_position(shop), 0))
        await first.settle()
        before = wal_position(shop)
        for number in range(3):
            shop.execute(BULK % ("item", 10_000 * number))
        await eventually(lambda: has_passed(first, before + 2 * MEGABYTE))
    # All changes were handed out, and so this place has moved with the slot.
    least = before + 2 * MEGABYTE
    for number in range(3, 5):
        async with open_node(shop, slot) as node:
            (member,) = node.journal.find(KEY)
            assert member.place[0] >= least
            before = wal_position(shop)
            shop.execute(BULK % ("item", 10_000 * number))
            await eventually(lambda: has_passed(node, before))  # noqa: B023


@pytest.mark.parametrize("written", ["item", "other"])
async def test_the_second_slot_keeps_no_more_than_it_may(
    shop: Database, written: str, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 3 * MEGABYTE
    async with open_node(shop, unique_name("slot"), max_bytes=limit) as node:
        status = await until_kept(node)
        node.needed = status.confirmed_flush_lsn
        for number in range(10):
            shop.execute(BULK % (written, 10_000 * number))
            assert (await second(node)).retained_bytes
        end = wal_position(shop)

        def is_within() -> bool:
            # The beginning of what is kept moves when PostgreSQL has noted who is running.
            shop.execute("checkpoint")
            shop.execute(
                "insert into other select 1, repeat('x', 1000) from generate_series(1, 99)"
            )
            return has_passed(node, end - limit) and 0 < node.second_slot.wal_bytes <= limit

        await eventually(is_within)
        end = wal_position(shop)
        # It goes on keeping half of that.
        assert not has_passed(node, end - limit // 4)
        assert "keeps no more than 3 MB" in caplog.text
        assert caplog.text.count("keeps no more than 3 MB") == 1


async def test_an_idle_database_is_left_alone(shop: Database) -> None:
    async with open_node(shop, unique_name("slot")) as node:
        before = (await until_kept(node)).confirmed_flush_lsn
        node.journal.joined(1, KEY, 1, (wal_position(shop), 0))
        looked = 0
        keep = node.second_slot.keep

        async def counted(*arguments: Any, **options: Any) -> None:
            nonlocal looked
            await keep(*arguments, **options)
            looked += 1

        node.second_slot.keep = counted  # type: ignore[method-assign]
        await eventually(lambda: looked >= 2)
        await node.settle()
        records, looked = node.messages.bytes, 0
        await eventually(lambda: looked >= 10)
        assert node.messages.bytes == records
        assert (await second(node)).confirmed_flush_lsn == before
        # While other tables alone are written, it moves all the same.
        for _ in range(3):
            shop.execute(BULK % ("other", 0))
        await eventually(lambda: has_passed(node, before + 2 * MEGABYTE))


# Whatever may happen to the slot


async def test_a_dropped_second_slot_is_made_anew(
    shop: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_node(shop, unique_name("slot")) as node:
        await until_kept(node)
        node.journal.joined(1, KEY, 1, (wal_position(shop), 0))
        await node.settle()
        heard = node.journal.heard
        await drop_slot(shop.dsn, node.second)
        await eventually(lambda: node.second_slot.lost == 1)
        await eventually(lambda: node.second_slot.state is SlotState.KEPT)
        assert f"slot '{node.second}' was lost (somebody dropped it)" in caplog.text
        # The snapshot is written after that.
        await eventually(lambda: node.journal.heard > heard)
        await node.settle()
        slot = node.slot
    # Who was there before it was made is known from a snapshot.
    async with open_node(shop, slot) as node:
        assert len(node.journal.find(KEY)) == 1


async def write_nothing(passed: LSN) -> bool:
    return True


async def test_an_invalidated_second_slot_is_made_anew(
    shop: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # Otherwise it would be moved in time.
    monkeypatch.setattr(durable, "_INTERVAL", 1000.0)
    slot = unique_name("slot")
    with shop.server.setting("max_slot_wal_keep_size", "1MB"):
        async with open_node(shop, slot) as node:
            await until_kept(node)

            def is_lost() -> bool:
                shop.execute(BULK % ("item", wal_position(shop)))
                shop.execute("select pg_switch_wal()")
                shop.execute("checkpoint")
                lost = "select 1 from pg_replication_slots where wal_status = 'lost'"
                return bool(shop.execute(f"{lost} and slot_name = %s", (node.second,)))

            await eventually(is_lost)

            # The main slot was lost, too, and is made anew by the stream.
            for _ in range(100):
                await node.second_slot.keep(lambda: None, write_nothing)
                if node.second_slot.lost:
                    break
            assert node.second_slot.lost == 1
            assert not (await second(node)).is_lost
            await eventually(is_lost)
    # A process that begins finds it lost.
    async with open_node(shop, slot) as node:
        assert node.restored == []
        await eventually(lambda: node.second_slot.state is SlotState.KEPT)
        assert not (await second(node)).is_lost


async def test_half_of_what_the_server_lets_slots_keep_is_the_bound(shop: Database) -> None:
    with shop.server.setting("max_slot_wal_keep_size", "4MB"):
        async with open_node(shop, unique_name("slot")) as node:
            node.needed = (await until_kept(node)).confirmed_flush_lsn
            for number in range(5):
                shop.execute(BULK % ("item", 10_000 * number))
            end = wal_position(shop)
            await eventually(lambda: has_passed(node, end - 2 * 1024 * 1024))
            assert node.second_slot.lost == 0


async def test_a_slot_in_use_is_waited_for(shop: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    slot = unique_name("slot")
    async with open_node(shop, slot) as killed:
        await until_kept(killed)
        killed.needed = (await second(killed)).confirmed_flush_lsn
        insert(shop, 1)
        await eventually(lambda: ids(killed.live) == [1])
    monkeypatch.setattr(second_slot_reader, "_PAUSE", 0.05)
    node = Node(shop, slot)
    async with open_source(shop, slot=f"{slot}_replay"):
        opening = asyncio.create_task(node.open())
        await eventually(lambda: node.journal.booted_at == 0)
    try:
        await opening
        assert ids(node.restored) == [1]
    finally:
        await node.kill()


async def test_without_a_free_slot_there_is_none_and_the_stream_goes_on(
    shop: Database, caplog: pytest.LogCaptureFixture
) -> None:
    slot = unique_name("slot")
    node = Node(shop, slot)
    taken = 0
    query = "select pg_create_logical_replication_slot(%s, 'pgoutput')"
    try:
        async with open_node(shop, slot) as node:
            await until_kept(node)
        await drop_slot(shop.dsn, node.second)
        with contextlib.suppress(psycopg.errors.ConfigurationLimitExceeded):
            while True:
                shop.execute(query, (f"{slot}_{taken}",))
                taken += 1
        async with open_node(shop, slot) as node:
            await eventually(lambda: node.second_slot.state is SlotState.NONE)
            await eventually(lambda: "all of max_replication_slots are in use" in caplog.text)
            insert(shop, 1)
            await eventually(lambda: ids(node.live) == [1])
            # It is made as soon as that is possible.
            taken -= 1
            await drop_slot(shop.dsn, f"{slot}_{taken}")
            await until_kept(node)
    finally:
        for number in range(taken):
            await drop_slot(shop.dsn, f"{slot}_{number}")


@pytest.fixture
def role(shop: Database) -> Iterator[str]:
    """A role that may replicate and read the table."""
    name = unique_name("role")
    shop.execute(sql.SQL("create role {} login replication").format(sql.Identifier(name)))
    shop.execute(sql.SQL("grant select on item to {}").format(sql.Identifier(name)))
    yield name
    shop.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(name)))


async def test_a_plain_role_that_may_replicate_is_enough(shop: Database, role: str) -> None:
    dsn = make_conninfo(shop.dsn, user=role)
    async with open_node(shop, unique_name("slot"), dsn=dsn) as node:
        before = (await until_kept(node)).confirmed_flush_lsn
        shop.execute(BULK % ("item", 0))
        await eventually(lambda: has_passed(node, before + 1))


async def test_without_the_right_to_copy_a_slot_there_is_none(
    shop: Database, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    shop.execute(
        "revoke execute on function pg_copy_logical_replication_slot(name, name) from public"
    )
    dsn = make_conninfo(shop.dsn, user=role)
    async with open_node(shop, unique_name("slot"), dsn=dsn) as node:
        await eventually(lambda: node.second_slot.state is SlotState.NONE)
        assert "may not execute pg_copy_logical_replication_slot(name, name)" in caplog.text
        insert(shop, 1)
        await eventually(lambda: ids(node.live) == [1])


async def test_without_the_right_to_move_a_slot_none_is_kept(
    shop: Database, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    dsn = make_conninfo(shop.dsn, user=role)
    slot = unique_name("slot")
    async with open_node(shop, slot, dsn=dsn) as node:
        await until_kept(node)
        shop.execute(
            "revoke execute on function pg_replication_slot_advance(name, pg_lsn) from public"
        )
        # It could not be moved any more, and would keep WAL without a bound.
        await eventually(lambda: node.second_slot.state is SlotState.NONE)
        assert await slot_status(shop.dsn, node.second) is None
        assert "may not execute pg_replication_slot_advance(name, pg_lsn)" in caplog.text
        insert(shop, 1)
        await eventually(lambda: ids(node.live) == [1])
        looks = caplog.text.count("pg_replication_slot_advance")
        shop.execute(
            "grant execute on function pg_replication_slot_advance(name, pg_lsn) to public"
        )
        await until_kept(node)
        assert caplog.text.count("pg_replication_slot_advance") == looks


async def test_without_the_right_to_write_messages_nothing_is_found(
    shop: Database, role: str, caplog: pytest.LogCaptureFixture
) -> None:
    flush = ", boolean" if shop.server.version >= 17 else ""
    shop.execute(
        f"revoke execute on function pg_logical_emit_message(boolean, text, bytea{flush})"
        " from public"
    )
    dsn = make_conninfo(shop.dsn, user=role)
    async with open_node(shop, unique_name("slot"), dsn=dsn) as node:
        assert "may not execute pg_logical_emit_message(boolean, text, bytea" in caplog.text
        insert(shop, 1)
        await eventually(lambda: ids(node.live) == [1])


async def test_a_slot_of_that_name_that_is_another_is_left_alone(
    shop: Database, caplog: pytest.LogCaptureFixture
) -> None:
    slot = unique_name("slot")
    shop.execute("select pg_create_physical_replication_slot(%s)", (f"{slot}_replay",))
    try:
        async with open_node(shop, slot) as node:
            await eventually(lambda: node.second_slot.state is SlotState.NONE)
            assert f"slot '{slot}_replay' is none of this database" in caplog.text
            assert (await second(node)).slot_type == "physical"
    finally:
        await drop_slot(shop.dsn, f"{slot}_replay")


# PostgreSQL ends


async def test_postgresql_crashes_while_the_process_lives(shop: Database) -> None:
    async with open_node(shop, unique_name("slot")) as node:
        before = (await until_kept(node)).confirmed_flush_lsn
        node.journal.joined(1, KEY, 1, (before, 0))
        await node.settle()
        shop.server.restart("immediate")
        insert(shop, 1)
        await eventually(lambda: ids(node.live)[-1:] == [1])
        node.journal.low((wal_position(shop), 0))
        await node.settle()
        shop.execute(BULK % ("item", 10))
        await eventually(lambda: has_passed(node, before + 100_000))
        assert not [event for event in node.live if isinstance(event, Gap)]


@pytest.fixture
def slow_to_disk(shop: Database) -> Iterator[Database]:
    """PostgreSQL takes ten seconds until what no commit waits for is on its disk."""
    with shop.server.setting("wal_writer_delay", "10s"):
        yield shop


async def test_what_a_crash_has_lost_of_the_journal_is_written_again(
    slow_to_disk: Database,
) -> None:
    shop = slow_to_disk
    slot = unique_name("slot")
    async with open_node(shop, slot) as node:
        await until_kept(node)
        await node.settle()
        shop.server.restart("immediate")
        await eventually(lambda: node.source.stats().reconnects == 1)
        # So the pause of the process that writes WAL begins now.
        insert(shop, 1)
        await eventually(lambda: ids(node.live)[-1:] == [1])
        written = node.messages.bytes
        node.journal.joined(1, KEY, 1, (wal_position(shop), 0))
        await eventually(lambda: node.messages.bytes > written)
        assert not node.journal.is_heard
        shop.server.restart("immediate")
        await node.settle()
    async with open_node(shop, slot) as node:
        assert len(node.journal.find(KEY)) == 1


async def test_postgresql_crashes_while_no_process_lives(shop: Database) -> None:
    slot = unique_name("slot")
    async with open_node(shop, slot) as killed:
        await until_kept(killed)
        place = (wal_position(shop), 0)
        killed.needed = LSN(place[0])
        killed.journal.joined(1, KEY, 1, place)
        killed.journal.joined(1, KEY, 1, place, since=time.time())
        insert(shop, 1)
        await eventually(lambda: ids(killed.live) == [1])
        await killed.durable.aclose()
    shop.server.restart("immediate")
    insert(shop, 2)
    async with open_node(shop, slot) as node:
        (member,) = node.journal.find(KEY)
        assert member.place == place
        await eventually(lambda: ids([*node.restored, *node.live])[-2:] == [1, 2])
        seen = ids([*node.restored, *node.live])
        assert seen == sorted(set(seen))


# Other processes


async def test_processes_with_slots_of_their_own_read_each_other(shop: Database) -> None:
    async with (
        open_node(shop, unique_name("slot")) as one,
        open_node(shop, unique_name("slot")) as other,
    ):
        place = (wal_position(shop), 0)
        one.journal.joined(1, KEY, 1, place)
        await eventually(lambda: other.journal.find(KEY))
        assert other.journal.find(KEY)[0].since is None
        taken: list[int] = []
        one.journal.on_taken = taken.append
        other.journal.taken(other.journal.find(KEY)[0])
        await eventually(lambda: taken == [1])
        one.journal.joined(2, KEY, 1, place)
        await eventually(lambda: other.journal.find(KEY))
        # One that begins later is told what stands before its own slot's beginning.
        async with open_node(shop, unique_name("slot")) as third:
            await eventually(lambda: third.journal.find(KEY))
            assert [member.number for member in third.journal.find(KEY)] == [2]


async def test_a_warm_standby_takes_over(shop: Database) -> None:
    slot = unique_name("slot")
    first, standby = Node(shop, slot), Node(shop, slot)
    await first.open()
    taking_over = asyncio.create_task(standby.open())
    try:
        await until_kept(first)
        place = (wal_position(shop), 0)
        first.needed = LSN(place[0])
        first.journal.joined(1, KEY, 1, place)
        insert(shop, 1)
        await eventually(lambda: ids(first.live) == [1])
        await first.settle()
        assert not taking_over.done()
        await first.kill()
        await taking_over
        (member,) = standby.journal.find(KEY)
        assert member.place == place
        assert member.since is not None
        await eventually(lambda: ids([*standby.restored, *standby.live]) == [1])
    finally:
        await first.kill()
        taking_over.cancel()
        await standby.kill()


async def test_forged_messages_do_nothing(shop: Database, caplog: pytest.LogCaptureFixture) -> None:
    async with open_node(shop, unique_name("slot")) as node:
        node.journal.joined(1, KEY, 1, (wal_position(shop), 0))
        await node.settle()
        genuine = [
            event.content
            for event in node.live
            if isinstance(event, LogicalMessage) and event.prefix == PREFIX
        ]
        query = "select pg_logical_emit_message(%s, %s, %s::bytea)"
        forged: list[tuple[Any, ...]] = [
            (False, PREFIX, b""),
            (False, PREFIX, b"\x01" * 200),
            (False, PREFIX, genuine[-1][:-1] + b"\x00"),
            (True, PREFIX, b"x"),
            (False, "another", b"x"),
        ]
        for each in forged:
            shop.execute(query, each)
        # What is written again has been read.
        shop.execute(query, (False, PREFIX, genuine[-1]))
        insert(shop, 1)
        await eventually(lambda: ids(node.live) == [1])
        assert node.journal.refused == 3
        assert caplog.text.count("is none of this deployment's") == 1
        row = next(event for event in node.live if isinstance(event, Insert))
        assert row.index == 0


@pytest.fixture(autouse=True)
def all_lines(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "realtime.replay")
