"""Every way in which changes can be lost is said: as an error, or as a Gap in the stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from itertools import count
from typing import Any

import attrs
import pytest
from psycopg.conninfo import make_conninfo

from realtime_core import (
    Event,
    Gap,
    GapReason,
    Insert,
    PgoutputSource,
    Position,
    PositionMismatchError,
    PrivilegeError,
    SlotLostError,
    drop_slot,
    ensure_slot,
    slot_status,
)
from realtime_core.sources._replication_connection import ReplicationConnection
from tests.fix_postgres import Database, Server, unique_name
from tests.integration.source_helpers import (
    confirmed,
    drop_slot_of,
    ids,
    insert,
    kill_walsenders,
    open_source,
    soon,
    take,
    wal_position,
)
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]

GO_ON: dict[str, Any] = {"on_gap": "continue", "replace_slot": True}


def the_gap(event: Event) -> Gap:
    assert isinstance(event, Gap)
    return event


def position_of(event: Event) -> Position:
    assert isinstance(event, Insert)
    return event.position


async def read_and_ack(database: Database, slot: str, *numbers: int) -> list[Position]:
    """Insert rows, each in its own transaction, and have a source read and acknowledge them."""
    async with open_source(database, slot=slot) as source:
        for number in numbers:
            insert(database, number)
        events = await take(source, len(numbers))
        assert ids(events) == list(numbers)
        assert isinstance(events[-1], Insert)
        source.ack(events[-1])
    return [position_of(event) for event in events]


async def test_a_start_behind_the_slot_is_a_gap(table: Database) -> None:
    slot = unique_name("slot")
    positions = await read_and_ack(table, slot, 1, 2, 3)
    insert(table, 4)
    with pytest.raises(SlotLostError, match="start_behind_slot") as caught:
        async with open_source(table, slot=slot, start_at=positions[0]):
            pass
    assert caught.value.reason is GapReason.START_BEHIND_SLOT
    assert str(positions[0]) in str(caught.value)
    assert "store a position before it is acknowledged" in str(caught.value)
    assert "replace_slot" not in str(caught.value)
    async with open_source(table, slot=slot, start_at=positions[0], on_gap="continue") as source:
        gap, event = await take(source, 2)
        assert the_gap(gap).reason is GapReason.START_BEHIND_SLOT
        assert the_gap(gap).after == positions[0]
        assert the_gap(gap).until.lsn == confirmed(table, slot)
        assert ids([event]) == [4]
        assert source.stats().gaps == 1


async def test_a_start_without_its_slot_is_a_gap(table: Database) -> None:
    slot = unique_name("slot")
    *_, position = await read_and_ack(table, slot, 1)
    await drop_slot(table.dsn, slot)
    with pytest.raises(SlotLostError, match="slot_missing"):
        async with open_source(table, slot=slot, start_at=position):
            pass
    # Nothing was made that would hide it the next time.
    assert await slot_status(table.dsn, slot) is None
    async with open_source(table, slot=slot, start_at=position, on_gap="continue") as source:
        insert(table, 2)
        gap, event = await take(source, 2)
        assert (the_gap(gap).reason, the_gap(gap).after) == (GapReason.SLOT_MISSING, position)
        assert ids([event]) == [2]


async def test_a_start_of_another_stream_is_refused(table: Database) -> None:
    slot = unique_name("slot")
    *_, position = await read_and_ack(table, slot, 1)
    table.execute("create publication other for table item")
    with pytest.raises(PositionMismatchError) as caught:
        async with open_source(table, slot=slot, publications=["other"], start_at=position):
            pass
    assert "stored from a stream of 'shop', but this source streams 'other'" in str(caught.value)
    assert "start_at=position.end_of_transaction()" in str(caught.value)
    assert position.stream is not None
    elsewhere = attrs.evolve(position.stream, system_identifier=7)
    start = attrs.evolve(position, stream=elsewhere)
    for each in (start, start.end_of_transaction()):
        with pytest.raises(
            PositionMismatchError, match="of cluster 7, but this server belongs to cluster"
        ):
            async with open_source(table, slot=slot, start_at=each):
                pass


@pytest.fixture
def short_of_wal(table: Database) -> Iterator[Database]:
    """A database on a server that keeps next to no WAL for slots."""
    with table.server.setting("max_slot_wal_keep_size", "1MB"):
        yield table


def remove_wal(database: Database) -> None:
    for _ in range(4):
        database.execute("select pg_logical_emit_message(false, 'x', 'x')")
        database.execute("select pg_switch_wal()")
    database.execute("checkpoint")


async def test_a_slot_whose_wal_is_gone_is_a_gap_and_never_dropped_unasked(
    short_of_wal: Database,
) -> None:
    database = short_of_wal
    slot = unique_name("slot")
    *_, position = await read_and_ack(database, slot, 1)
    insert(database, 2)
    remove_wal(database)
    status = await slot_status(database.dsn, slot)
    assert status is not None
    assert (status.wal_status, status.is_lost) == ("lost", True)
    with pytest.raises(SlotLostError, match="wal_removed") as caught:
        async with open_source(database, slot=slot):
            pass
    # What is said has to be enough, and no more than what is left to do.
    assert "on_gap='continue' and replace_slot=True" in str(caught.value)
    assert "max_slot_wal_keep_size" in str(caught.value)
    with pytest.raises(SlotLostError, match="wal_removed") as caught:
        async with open_source(database, slot=slot, replace_slot=True):
            pass
    assert "on_gap='continue'" in str(caught.value)
    assert "replace_slot" not in str(caught.value)
    with pytest.raises(SlotLostError, match="replace_slot=True") as caught:
        async with open_source(database, slot=slot, on_gap="continue"):
            pass
    assert "on_gap" not in str(caught.value)
    assert caught.value.reason is GapReason.WAL_REMOVED
    assert f"pg_drop_replication_slot('{slot}')" in str(caught.value)
    assert await slot_status(database.dsn, slot) == status
    async with open_source(database, slot=slot, **GO_ON) as source:
        insert(database, 3)
        gap, event = await take(source, 2)
        assert (the_gap(gap).reason, the_gap(gap).after) == (GapReason.WAL_REMOVED, None)
        assert the_gap(gap).until > position
        assert ids([event]) == [3]


async def test_wal_removed_under_a_running_stream_is_a_gap(short_of_wal: Database) -> None:
    async with open_source(short_of_wal, slot=unique_name("slot"), **GO_ON) as source:
        insert(short_of_wal, 1)
        (first,) = await take(source, 1)
        remove_wal(short_of_wal)
        (gap,) = await take(source, 1)
        assert the_gap(gap).reason is GapReason.WAL_REMOVED
        assert the_gap(gap).after == position_of(first)
        insert(short_of_wal, 2)
        assert ids(await take(source, 1)) == [2]


@pytest.mark.parametrize("attempt", [1, 2])
async def test_wal_removed_while_a_source_attaches_is_a_gap(
    short_of_wal: Database, monkeypatch: pytest.MonkeyPatch, attempt: int
) -> None:
    """After the slot was looked at, and before the stream begins."""
    database = short_of_wal
    slot = unique_name("slot")
    await read_and_ack(database, slot, 1)
    start = ReplicationConnection.start
    starts = count(1)

    async def late(self: ReplicationConnection, *arguments: Any, **options: Any) -> None:
        if next(starts) == attempt:
            remove_wal(database)
        await start(self, *arguments, **options)

    monkeypatch.setattr(ReplicationConnection, "start", late)
    async with open_source(database, slot=slot, **GO_ON) as source:
        if attempt > 1:
            kill_walsenders(database)
        (gap,) = await take(source, 1)
        assert the_gap(gap).reason is GapReason.WAL_REMOVED
        insert(database, 2)
        assert ids(await take(source, 1)) == [2]


@pytest.mark.parametrize("step", ["create_slot", "start"])
async def test_a_gap_is_told_though_the_slot_could_not_be_made_anew_at_once(
    short_of_wal: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    step: str,
) -> None:
    """Then there is no slot, or a new one, and neither tells of it."""
    database = short_of_wal
    slot = unique_name("slot")
    await read_and_ack(database, slot, 1)
    insert(database, 2)
    remove_wal(database)
    take_step = getattr(ReplicationConnection, step)
    calls = count(1)

    async def cut_off(self: ReplicationConnection, *arguments: Any, **options: Any) -> Any:
        if next(calls) == 1:
            kill_walsenders(database)
        return await take_step(self, *arguments, **options)

    monkeypatch.setattr(ReplicationConnection, step, cut_off)
    async with open_source(database, slot=slot, persistent=True, **GO_ON) as source:
        reading = asyncio.create_task(take(source, 2))
        await eventually(lambda: source.stats().connected)
        insert(database, 3)
        gap, event = await reading
        assert the_gap(gap).reason is GapReason.WAL_REMOVED
        assert ids([event]) == [3]
    # Once: nothing is wrong with the new one.
    assert caplog.text.count(f"slot {slot!r} was dropped: changes may be lost (wal_removed)") == 1


@pytest.mark.parametrize("step", ["create_slot", "start"])
async def test_a_first_attempt_that_breaks_behind_the_slots_end_goes_on_and_tells_the_gap(
    short_of_wal: Database, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Though the source is not persistent: the next one would know nothing of the gap."""
    database = short_of_wal
    slot = unique_name("slot")
    await read_and_ack(database, slot, 1)
    insert(database, 2)
    remove_wal(database)
    take_step = getattr(ReplicationConnection, step)
    calls = count(1)

    async def cut_off(self: ReplicationConnection, *arguments: Any, **options: Any) -> Any:
        if next(calls) == 1:
            kill_walsenders(database)
        return await take_step(self, *arguments, **options)

    monkeypatch.setattr(ReplicationConnection, step, cut_off)
    async with open_source(database, slot=slot, **GO_ON) as source:
        insert(database, 3)
        gap, event = await take(source, 2)
        assert the_gap(gap).reason is GapReason.WAL_REMOVED
        assert ids([event]) == [3]


async def test_a_first_attempt_that_fails_for_good_behind_the_slots_end_says_what_is_lost(
    short_of_wal: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = short_of_wal
    slot = unique_name("slot")
    await read_and_ack(database, slot, 1)
    insert(database, 2)
    remove_wal(database)

    async def refuse(self: ReplicationConnection, *arguments: Any, **options: Any) -> Any:
        raise PrivilegeError("the role lacks a privilege")

    monkeypatch.setattr(ReplicationConnection, "create_slot", refuse)
    with pytest.raises(SlotLostError, match=r"wal_removed.*the role lacks a privilege") as caught:
        async with open_source(database, slot=slot, **GO_ON):
            pass
    assert caught.value.reason is GapReason.WAL_REMOVED
    assert isinstance(caught.value.__cause__, PrivilegeError)


def remove_segment(database: Database, slot: str) -> None:
    """Make room on the disk by hand, of which the slot knows nothing."""
    wal = database.server.embedded.data_dir / "pg_wal"
    query = "select pg_walfile_name(restart_lsn) from pg_replication_slots where slot_name = %s"
    ((segment,),) = database.execute(query, (slot,))
    # It is not the one that is written to any more.
    remove_wal(database)
    (wal / segment).unlink()


@pytest.mark.parametrize("settings", [{}, {"on_gap": "continue"}, GO_ON])
async def test_wal_that_is_found_missing_in_the_stream_is_a_gap(
    table: Database, settings: dict[str, Any]
) -> None:
    slot = unique_name("slot")
    await read_and_ack(table, slot, 1)
    insert(table, 2)
    remove_segment(table, slot)
    async with open_source(table, slot=slot, **settings) as source:
        if settings is not GO_ON:
            with pytest.raises(SlotLostError, match="wal_removed") as caught:
                await take(source, 1)
            assert caught.value.reason is GapReason.WAL_REMOVED
            assert await slot_status(table.dsn, slot) is not None
            return
        (gap,) = await take(source, 1)
        assert the_gap(gap).reason is GapReason.WAL_REMOVED
        insert(table, 3)
        assert ids(await take(source, 1)) == [3]


async def slot_before_publication(database: Database) -> str:
    slot = unique_name("slot")
    await ensure_slot(database.dsn, slot)
    database.execute("create table item (id int primary key, name text)")
    insert(database, 1)
    database.execute("create publication shop for table item")
    insert(database, 2)
    return slot


async def test_a_slot_older_than_its_publication_is_an_error(database: Database) -> None:
    slot = await slot_before_publication(database)
    with pytest.raises(SlotLostError, match="slot_older_than_publication") as caught:
        async with open_source(database, slot=slot) as source:
            await take(source, 1)
    # PostgreSQL 18 needs no other slot for it.
    assert ("replace_slot=True" in str(caught.value)) == (database.server.version < 18)
    assert "on_gap='continue'" in str(caught.value)
    assert caught.value.reason is GapReason.SLOT_OLDER_THAN_PUBLICATION
    assert await slot_status(database.dsn, slot) is not None


async def test_a_slot_older_than_its_publication_is_a_gap(database: Database) -> None:
    slot = await slot_before_publication(database)
    if database.server.version < 18:
        with pytest.raises(SlotLostError, match="replace_slot=True"):
            async with open_source(database, slot=slot, on_gap="continue") as source:
                await take(source, 1)
    async with open_source(database, slot=slot, **GO_ON) as source:
        (gap,) = await take(source, 1)
        assert the_gap(gap).reason is GapReason.SLOT_OLDER_THAN_PUBLICATION
        assert the_gap(gap).after is None
        insert(database, 3)
        # PostgreSQL 18 passes what it leaves out; before, the slot had to be made anew.
        expected = [2, 3] if database.server.version >= 18 else [3]
        events = await take(source, len(expected))
        assert ids(events) == expected
        assert source.stats().gaps == 1


async def test_a_publication_that_was_made_anew_is_a_gap(table: Database) -> None:
    slot = unique_name("slot")
    async with open_source(table, slot=slot, **GO_ON) as source:
        insert(table, 1)
        (first,) = await take(source, 1)
        table.execute("drop publication shop")
        insert(table, 2)
        table.execute("create publication shop for table item")
        (gap,) = await take(source, 1)
        assert the_gap(gap).reason is GapReason.SLOT_OLDER_THAN_PUBLICATION
        assert the_gap(gap).after == position_of(first)
        insert(table, 3)
        assert ids(await take(source, 1)) == [3]


async def test_a_gap_that_raises_is_raised_again_and_nothing_is_made(table: Database) -> None:
    slot = unique_name("slot")
    async with open_source(table, slot=slot) as source:
        insert(table, 1)
        await take(source, 1)
        drop_slot_of(table, slot)
        for _ in range(2):
            with pytest.raises(SlotLostError, match="slot_missing"):
                await soon(anext(source))
    assert await slot_status(table.dsn, slot) is None


async def fill_wal(database: Database, megabytes: int) -> None:
    # Transactional, as a commit flushes: what only stands in the server's buffers does not count
    # as written.
    for _ in range(megabytes):
        database.execute("select pg_logical_emit_message(true, 'fill', repeat('x', 1000000))")


async def test_a_lag_beyond_the_bound_is_warned_of_once(
    table: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "realtime.source")
    slot = unique_name("slot")
    options = {"max_lag_bytes": 1_000_000, "lag_interval": 0.02}
    async with open_source(table, slot=slot, **options) as source:
        insert(table, 1)
        (event,) = await take(source, 1)
        await fill_wal(table, 2)
        await eventually(lambda: "retains" in caplog.text)
        assert f"slot '{slot}' retains" in caplog.text
        assert "max_lag_bytes is 1000000" in caplog.text
        insert(table, 2)
        assert ids(await take(source, 1)) == [2]
        assert caplog.text.count("retains") == 1
        assert source.stats().gaps == 0
        assert ids([event]) == [1]


@pytest.mark.parametrize("reading", [True, False])
async def test_a_lag_beyond_the_bound_makes_the_slot_anew_where_that_is_allowed(
    table: Database, reading: bool
) -> None:
    slot = unique_name("slot")
    options = {
        **GO_ON,
        "on_lag": "gap",
        "max_lag_bytes": 2_000_000,
        "lag_interval": 0.02,
    }
    async with open_source(table, slot=slot, **options) as source:
        insert(table, 1)
        (first,) = await take(source, 1)
        # It is not acknowledged, and so the slot cannot move.
        step = asyncio.create_task(anext(source)) if reading else None  # type: ignore[arg-type]
        await fill_wal(table, 4)

        def is_small() -> bool:
            query = (
                "select pg_current_wal_lsn() - restart_lsn < 2000000"
                " from pg_replication_slots where slot_name = %s"
            )
            return table.execute(query, (slot,)) == [(True,)]

        # Whether anybody reads or not.
        await eventually(is_small)
        gap = await soon(step) if step is not None else (await take(source, 1))[0]
        assert (the_gap(gap).reason, the_gap(gap).after) == (GapReason.LAG, position_of(first))
        assert isinstance(first, Insert)
        source.ack(first)
        insert(table, 2)
        assert ids(await take(source, 1)) == [2]


async def test_a_lag_is_found_on_attaching(table: Database) -> None:
    slot = unique_name("slot")
    await ensure_slot(table.dsn, slot)
    insert(table, 1)
    await fill_wal(table, 3)
    options = {
        **GO_ON,
        "on_lag": "gap",
        "max_lag_bytes": 2_000_000,
    }
    async with open_source(table, slot=slot, **options) as source:
        insert(table, 2)
        gap, event = await take(source, 2)
        assert the_gap(gap).reason is GapReason.LAG
        assert ids([event]) == [2]


async def test_a_slot_held_back_by_an_open_transaction_is_not_made_anew(
    table: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "realtime.source")
    slot = unique_name("slot")
    options = {
        **GO_ON,
        "on_lag": "gap",
        "max_lag_bytes": 2_500_000,
        "lag_interval": 0.02,
        "status_interval": 0.02,
    }
    async with open_source(table, slot=slot, **options) as source:
        reading = asyncio.create_task(anext(source))  # type: ignore[arg-type]
        with table.connect() as connection:
            connection.execute("begin")
            connection.execute("insert into item values (1, 'still open')")
            for _ in range(3):
                await fill_wal(table, 1)
                target = wal_position(table)
                await eventually(lambda: confirmed(table, slot) >= target)  # noqa: B023
            await eventually(lambda: "a transaction has been open for long" in caplog.text)
            connection.execute("commit")
        assert ids([await soon(reading)]) == [1]
        assert source.stats().gaps == 0


async def test_a_lag_needs_a_word_before_it_drops_the_slot(table: Database) -> None:
    with pytest.raises(ValueError, match="replace_slot=True"):
        PgoutputSource(
            table.dsn,
            publications=["shop"],
            slot="etl",
            max_lag_bytes=1,
            on_lag="gap",
        )


async def test_what_came_before_a_gap_is_still_handed_over_first(table: Database) -> None:
    slot = unique_name("slot")
    async with open_source(table, slot=slot, on_gap="continue", backoff=(0.01, 0.05)) as source:
        insert(table, 1, 2, 3)
        assert ids(await take(source, 1)) == [1]
        drop_slot_of(table, slot)
        events = await take(source, 3)
        assert ids(events) == [2, 3]
        assert the_gap(events[2]).after == position_of(events[1])
        # Acknowledging what came before it moves nothing, and hurts nobody.
        source.ack(position_of(events[0]))
        insert(table, 4)
        assert ids(await take(source, 1)) == [4]


async def test_the_users_own_message_level_does_not_hide_a_gap(pg18: Server) -> None:
    """Older servers raise an error instead of a warning."""
    database = Database(pg18, unique_name("test"))
    pg18.create_database(database.name)
    try:
        slot = await slot_before_publication(database)
        dsn = make_conninfo(database.dsn, options="-c client_min_messages=error")
        source = PgoutputSource(dsn, publications=["shop"], slot=slot, on_gap="continue")
        async with source:
            (gap,) = await take(source, 1)
            assert the_gap(gap).reason is GapReason.SLOT_OLDER_THAN_PUBLICATION
    finally:
        database.drop()


async def test_killing_walsenders_of_a_permanent_slot_is_no_gap(table: Database) -> None:
    async with open_source(table, slot=unique_name("slot")) as source:
        for number in range(3):
            insert(table, number)
            assert ids(await take(source, 1)) == [number]
            kill_walsenders(table)
        insert(table, 3)
        assert ids(await take(source, 1)) == [3]
        assert source.stats().gaps == 0
        assert source.stats().reconnects == 3
