"""Slots: made, reused, looked at, waited for, dropped."""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest

from realtime_core import (
    ConfigError,
    ConnectionLostError,
    Insert,
    SlotInUseError,
    SlotUnavailableError,
    SourceError,
    drop_slot,
    ensure_slot,
    slot_status,
)
from realtime_core.sources import _slot_checks
from tests.fix_postgres import Database, unique_name
from tests.integration.source_helpers import ids, insert, kill_walsenders, open_source, soon, take
from tests.waiting import eventually

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]


async def test_a_slot_is_made_looked_at_and_dropped_by_hand(table: Database) -> None:
    name = unique_name("slot")
    assert await slot_status(table.dsn, name) is None
    assert await drop_slot(table.dsn, name) is False
    made = await ensure_slot(table.dsn, name)
    assert (made.name, made.plugin, made.database) == (name, "pgoutput", table.name)
    assert (made.active, made.active_pid, made.temporary, made.is_lost) == (
        *(False, None, False, False),
    )
    # What is committed from now on is kept for it.
    insert(table, 1)
    again = await ensure_slot(table.dsn, name)
    assert again.confirmed_flush_lsn == made.confirmed_flush_lsn
    assert again.retained_bytes is not None
    assert made.retained_bytes is not None
    assert again.retained_bytes > made.retained_bytes
    async with open_source(table, slot=name) as source:
        assert ids(await take(source, 1)) == [1]
        used = await slot_status(table.dsn, name)
        assert used is not None
        assert used.active
        walsenders = "select pid from pg_stat_activity where backend_type = 'walsender'"
        assert (used.active_pid,) in table.execute(walsenders)
        assert used.wal_status == "reserved"
        assert used.invalidation_reason is None
        with pytest.raises(SlotInUseError, match=rf"PID {used.active_pid}\b") as caught:
            await drop_slot(table.dsn, name, wait=0)
        # That is a function, and no source that could be told to wait.
        assert "wait=" in str(caught.value)
        assert "slot_in_use" not in str(caught.value)
    assert await drop_slot(table.dsn, name) is True
    assert await slot_status(table.dsn, name) is None


async def test_a_slot_in_use_is_dropped_when_it_is_let_go(table: Database) -> None:
    name = unique_name("slot")
    async with open_source(table, slot=name):
        dropping = asyncio.create_task(drop_slot(table.dsn, name, wait=30))
        await asyncio.sleep(0.1)
        assert not dropping.done()
    assert await soon(dropping) is True


async def test_a_slot_that_will_not_do_is_not_taken_for_it(table: Database) -> None:
    name = unique_name("slot")
    table.execute("select pg_create_logical_replication_slot(%s, 'test_decoding')", (name,))
    with pytest.raises(SlotUnavailableError, match="output plugin 'test_decoding', not pgoutput"):
        await ensure_slot(table.dsn, name)
    await drop_slot(table.dsn, name)
    with pytest.raises(ConfigError, match="lower-case letters"):
        await ensure_slot(table.dsn, "Upper")
    with pytest.raises(ConnectionLostError, match="check that it runs"):
        await slot_status("host=127.0.0.1 port=1", name)


async def test_a_plugin_that_is_not_there_is_an_error(table: Database) -> None:
    with pytest.raises(SourceError, match="no_such_plugin"):
        await ensure_slot(table.dsn, unique_name("slot"), plugin="no_such_plugin")


async def test_a_failover_slot_is_made_and_an_existing_one_becomes_one(table: Database) -> None:
    table.server.needs(17, "a failover slot")
    made, plain, streamed = (unique_name("slot") for _ in range(3))
    status = await ensure_slot(table.dsn, made, failover=True)
    assert status.failover
    await ensure_slot(table.dsn, plain)
    with pytest.raises(SlotUnavailableError, match="is not a failover slot"):
        await ensure_slot(table.dsn, plain, failover=True)
    for name in (plain, streamed):
        async with open_source(table, slot=name, failover=True) as source:
            insert(table, int(name == streamed))
            assert ids(await take(source, 1)) == [int(name == streamed)]
        found = await slot_status(table.dsn, name)
        assert found is not None
        assert found.failover


@pytest.mark.parametrize("asks", [False, True])
async def test_a_slot_in_use_is_waited_for_where_the_caller_says_so(
    table: Database, caplog: pytest.LogCaptureFixture, asks: bool
) -> None:
    caplog.set_level("INFO", "realtime.source")
    name = unique_name("slot")
    async with open_source(table, slot=name) as first:
        status = await slot_status(table.dsn, name)
        assert status is not None
        waiting = asyncio.create_task(
            wait_for_slot(table, name, **({"start_at": lambda: None} if asks else {}))
        )
        holder = f"slot '{name}' is active for PID {status.active_pid}"
        await eventually(lambda: holder in caplog.text)
        (told,) = [one for one in caplog.records if "waiting until it is" in one.getMessage()]
        # One of several that ask where to begin expects that.
        assert told.levelname == ("INFO" if asks else "WARNING")
        insert(table, 1)
        (event,) = await take(first, 1)
        assert isinstance(event, Insert)
        first.ack(event)
    insert(table, 2)
    assert await soon(waiting) == [2]


async def wait_for_slot(table: Database, name: str, **options: Any) -> list[int]:
    async with open_source(table, slot=name, slot_in_use="wait", **options) as source:
        return ids(await take(source, 1))


async def test_a_consumer_whose_slot_was_taken_over_is_told_by_whom(table: Database) -> None:
    name = unique_name("slot")
    async with open_source(table, slot=name, backoff=(0.3, 0.3)) as first:
        insert(table, 1)
        await take(first, 1)
        kill_walsenders(table)
        async with open_source(table, slot=name, slot_in_use="wait"):
            status = await slot_status(table.dsn, name)
            assert status is not None
            with pytest.raises(SlotInUseError) as caught:
                await soon(anext(first))
            assert caught.value.pid == status.active_pid


async def test_who_a_new_slot_waits_for_is_named(
    table: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.WARNING, "realtime.source")
    monkeypatch.setattr(_slot_checks, "_PATIENCE", 0.1)
    by_hand, by_source = unique_name("slot"), unique_name("slot")
    with table.connect() as connection:
        connection.execute("begin")
        connection.execute("insert into item values (0, 'not committed')")
        pid = connection.info.backend_pid
        making = asyncio.create_task(ensure_slot(table.dsn, by_hand))
        await eventually(
            lambda: re.search(rf"{by_hand}' is not created yet.*PID {pid} ", caplog.text)
        )
        attaching = asyncio.create_task(wait_for_slot(table, by_source))
        await eventually(
            lambda: re.search(rf"{by_source}' is not created yet.*PID {pid} ", caplog.text)
        )
        connection.execute("rollback")
    await soon(making)
    await eventually(lambda: table.execute("select 1 from pg_replication_slots where active"))
    insert(table, 1)
    assert await soon(attaching) == [1]


async def test_a_slot_that_waits_is_mentioned_even_if_nobody_can_be_asked_for_whom(
    table: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_slot_checks, "_PATIENCE", 0.1)
    slot = unique_name("slot")
    answers = iter([table.dsn])

    async def dsn() -> str:
        for answer in answers:
            return answer
        raise LookupError("the vault is closed")

    with table.connect() as connection:
        connection.execute("begin")
        connection.execute("insert into item values (0, 'not committed')")
        making = asyncio.create_task(ensure_slot(dsn, slot))
        # Each time anew.
        await eventually(lambda: caplog.text.count(f"slot '{slot}' is not created yet") > 1)
        connection.execute("rollback")
    await soon(making)
    assert "LookupError: the vault is closed" in caplog.text


async def test_a_prepared_transaction_that_a_new_slot_waits_for_is_named(
    table: Database, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_slot_checks, "_PATIENCE", 0.1)
    gid = unique_name("held")
    with table.connect() as connection:
        connection.execute("begin")
        connection.execute("insert into item values (0, 'prepared')")
        connection.execute(f"prepare transaction '{gid}'")
        making = asyncio.create_task(ensure_slot(table.dsn, unique_name("slot")))
        await eventually(lambda: f"prepared transaction '{gid}'" in caplog.text)
        connection.execute(f"rollback prepared '{gid}'")
    await soon(making)


async def test_a_permanent_slot_is_not_used_as_a_temporary_one(table: Database) -> None:
    name = unique_name("slot")
    await ensure_slot(table.dsn, name)
    with pytest.raises(SlotUnavailableError, match="permanent one, not temporary"):
        async with open_source(table, slot=name, temporary=True):
            pass
