"""The table realtime.messages, its partitions, and the functions that write into it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import AsyncConnection, sql

from realtime_server.messages.check import message_findings
from realtime_server.messages.janitor import keep_messages
from realtime_server.messages.partitions import LOCK, Upkeep, keep_partitions
from tests.fix_postgres import Database, Server
from tests.integration.conftest import fresh_database
from tests.rls_helpers import at, migrated, roles
from tests.waiting import eventually

pytestmark = [pytest.mark.integration]

PARTITIONS = """
    select c.relname from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'realtime.messages'::regclass and c.relname ~ '[0-9]' order by 1
"""
ROWS = """
    select tableoid::regclass::text, payload ->> 'n', skip_broadcast from realtime.messages
    order by 2
"""


@pytest.fixture(scope="module")
def migrated_database(pg: Server) -> Iterator[Database]:
    with fresh_database(pg) as database:
        asyncio.run(migrated(database.dsn))
        yield database


@pytest.fixture
def database(migrated_database: Database) -> Iterator[Database]:
    """A database with the table as `migrate` leaves it, without partitions and rows."""
    yield migrated_database
    for (name,) in migrated_database.execute(PARTITIONS):
        migrated_database.execute(f"drop table realtime.{name}")
    migrated_database.execute("delete from realtime.messages")


def name_of(day: date) -> str:
    return f"messages_{day:%Y_%m_%d}"


def today(database: Database) -> date:
    [(day,)] = database.execute("select timezone('utc', now())::date")
    assert isinstance(day, date)
    return day


async def upkeep(database: Database, now: datetime | None = None) -> Upkeep | None:
    async with await AsyncConnection.connect(database.dsn, autocommit=True) as connection:
        return await keep_partitions(connection, now or datetime.now(UTC))


async def test_there_is_a_partition_for_each_day_from_yesterday_to_in_three_days(
    database: Database,
) -> None:
    day = today(database)
    expected = [name_of(day + timedelta(days=ahead)) for ahead in range(-1, 4)]
    assert await upkeep(database) == Upkeep(made=tuple(expected))
    assert database.execute(PARTITIONS) == [(name,) for name in expected]
    # They are nobody's but the owner's.
    open_ones = "select relname from pg_class where relname ~ '^messages_2' and not relrowsecurity"
    assert database.execute(f"{open_ones} and relkind = 'r'") == []
    assert await upkeep(database) == Upkeep()


async def test_what_had_no_partition_is_moved_and_not_broadcast_again(database: Database) -> None:
    day = today(database)
    for number, days in enumerate((-2, 0, 1)):
        database.execute(
            "insert into realtime.messages (topic, extension, event, payload, inserted_at)"
            f" values ('t', 'broadcast', 'e', '{{\"n\": {number}}}', %s)",
            (day + timedelta(days=days),),
        )
    assert {row[0] for row in database.execute(ROWS)} == {"realtime.messages_default"}
    done = await upkeep(database)
    assert done is not None
    assert not done.failed
    assert database.execute(ROWS) == [
        (f"realtime.{name_of(day + timedelta(days=days))}", str(number), True)
        for number, days in enumerate((-2, 0, 1))
    ]
    database.execute("select realtime.send('{\"n\": 9}', 'e', 't')")
    assert database.execute(ROWS)[-1] == (f"realtime.{name_of(day)}", "9", False)


async def test_a_partition_goes_when_its_last_row_is_72_hours_old(database: Database) -> None:
    day = today(database)
    for days in (-3, -4, -5):
        database.execute(
            f"create table realtime.{name_of(day + timedelta(days=days))} partition of"
            f" realtime.messages for values from ('{day + timedelta(days=days)}')"
            f" to ('{day + timedelta(days=days + 1)}')"
        )
    database.execute(
        "insert into realtime.messages (topic, extension, inserted_at) values ('t', 'x', %s)",
        (day - timedelta(days=9),),
    )
    done = await upkeep(database)
    assert done is not None
    assert done.dropped == (name_of(day - timedelta(days=5)), name_of(day - timedelta(days=4)))
    assert database.execute("select * from realtime.messages_default") == []
    assert (name_of(day - timedelta(days=3)),) in database.execute(PARTITIONS)


async def test_a_step_of_this_machines_clock_drops_nothing(database: Database) -> None:
    day = today(database)
    await upkeep(database)
    before = database.execute(PARTITIONS)
    for step in (timedelta(days=400), timedelta(days=-400)):
        done = await upkeep(database, datetime.now(UTC) + step)
        assert done == Upkeep()
    assert database.execute(PARTITIONS) == before
    # The database's own clock is ahead: what is old by that alone stays.
    old = day - timedelta(days=30)
    database.execute(
        f"create table realtime.{name_of(old)} partition of realtime.messages"
        f" for values from ('{old}') to ('{old + timedelta(days=1)}')"
    )
    assert await upkeep(database, datetime.now(UTC) - timedelta(days=30)) == Upkeep()


async def test_two_servers_make_them_once(database: Database) -> None:
    done = await asyncio.gather(*(upkeep(database) for _ in range(6)))
    made = [one.made for one in done if one is not None and one.made]
    assert len(made) == 1
    assert len(made[0]) == 5
    assert not any(one.failed for one in done if one is not None)
    with database.connect() as connection:
        connection.execute("select pg_advisory_lock(%s)", (LOCK,))
        assert await upkeep(database) is None


async def test_a_locked_table_is_left_for_later_and_sending_goes_on(database: Database) -> None:
    with database.connect() as connection, connection.transaction():
        connection.execute("insert into realtime.messages (topic, extension) values ('t', 'x')")
        trying = asyncio.create_task(upkeep(database))
        await asyncio.to_thread(database.execute, "select realtime.send('{\"n\": 1}', 'e', 't')")
        done = await trying
    assert done is not None
    assert len(done.failed) == 5
    assert all(why.endswith("the table is locked") for why in done.failed)
    assert len(database.execute(ROWS)) == 2
    done = await upkeep(database)
    assert done is not None
    assert not done.failed


async def test_what_is_sent_while_a_partition_is_made_is_not_lost(database: Database) -> None:
    waiting = "select count(*) from pg_locks where not granted and relation in ({})"
    tables = "'realtime.messages'::regclass, 'realtime.messages_default'::regclass"

    async def wait_for(count: int) -> None:
        await eventually(lambda: database.execute(waiting.format(tables)) == [(count,)])

    await upkeep(database)
    database.execute(f"drop table realtime.{name_of(today(database))}")
    with psycopg.connect(database.dsn) as reading:
        reading.execute("select from realtime.messages_default")
        making = asyncio.create_task(upkeep(database))
        await wait_for(1)
        async with await AsyncConnection.connect(database.dsn, autocommit=True) as connection:
            sending = asyncio.create_task(
                connection.execute("select realtime.send('{\"n\": 1}', 'e', 't')")
            )
            await wait_for(2)
            reading.rollback()
            await sending
        assert await making is not None
    assert [row[1] for row in database.execute(ROWS)] == ["1"]


async def test_a_role_that_may_not_act_as_the_owner_says_what_to_do(database: Database) -> None:
    with roles(database.server, "server", options="login") as (name,):
        dsn = psycopg.conninfo.make_conninfo(database.dsn, user=name)
        database.execute(f"grant usage on schema realtime to {name}")
        database.execute(f"grant select, delete on realtime.messages_default to {name}")
        async with await AsyncConnection.connect(dsn, autocommit=True) as connection:
            done = await keep_partitions(connection, datetime.now(UTC))
        database.execute(f"revoke all on schema realtime from {name}")
        database.execute(f"revoke all on realtime.messages_default from {name}")
    assert done is not None
    assert "run GRANT postgres TO" in done.failed[0]


async def test_a_server_says_once_what_fails_and_tries_again(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "realtime.messages")

    async def attached() -> None:
        """It is, at once."""

    keeping = asyncio.create_task(
        keep_messages(at(database.dsn), attached, interval=0.01, retry=0.01)
    )
    try:
        with database.connect() as connection:
            connection.execute("begin; lock table realtime.messages in share mode")
            await eventually(lambda: caplog.messages)
            connection.execute("rollback")
        await eventually(lambda: len(database.execute(PARTITIONS)) == 5)
        await eventually(lambda: caplog.messages[-1].startswith("made partitions"))
    finally:
        keeping.cancel()
        await asyncio.wait({keeping})
    assert caplog.messages[0].startswith("partitions of realtime.messages are left for later")
    assert len(caplog.messages) <= 3


# What writes into it.


def warnings(connection: psycopg.Connection[Any]) -> list[str]:
    heard: list[str] = []
    connection.add_notice_handler(lambda notice: heard.append(notice.message_primary or ""))
    return heard


def test_send_adds_an_id_to_an_object_and_leaves_other_payloads_alone(database: Database) -> None:
    with database.connect() as connection:
        heard = warnings(connection)
        connection.execute("set timezone to 'Pacific/Kiritimati'")
        for payload in ('{"a": 1}', '{"id": 5}', "[1, 2]", "17", '"text"', "null"):
            connection.execute("select realtime.send(%s::jsonb, 'e', 'room')", (payload,))
        rows = connection.execute(
            "select payload, id::text, topic, event, private, extension, skip_broadcast,"
            " abs(extract(epoch from inserted_at - timezone('utc', now()))) < 60"
            " from realtime.messages order by inserted_at"
        ).fetchall()
    assert heard == []
    assert rows[0][0] == {"a": 1, "id": rows[0][1]}
    assert [row[0] for row in rows[1:]] == [{"id": 5}, [1, 2], 17, "text", None]
    assert {row[2:] for row in rows} == {("room", "e", True, "broadcast", False, True)}


def test_the_messages_of_a_transaction_have_rising_times(database: Database) -> None:
    with database.connect() as connection, connection.transaction():
        for number in range(20):
            connection.execute(f"select realtime.send('{{\"n\": {number}}}', 'e', 't')")
            connection.execute("select pg_sleep(0.000002)")
    numbers = "select (payload ->> 'n')::int from realtime.messages order by inserted_at"
    rows = database.execute(numbers)
    assert rows == [(number,) for number in range(20)]


def test_sending_never_fails(database: Database) -> None:
    with database.connect() as connection:
        heard = warnings(connection)
        connection.execute("select realtime.send('{}', 'e', null)")
        connection.execute("select realtime.send_binary('\\x00', 'e', null)")
        connection.execute("select realtime.send_binary('\\x00', repeat('é', 128), 't')")
        connection.execute("select realtime.send_binary('\\x00', 'e', repeat('t', 247))")
        assert len(heard) == 4
        assert all("the message was not sent" in text for text in heard)
        connection.execute("select realtime.send_binary('\\x00ff', 'e', repeat('t', 246), false)")
        rows = connection.execute("select binary_payload, payload, private from realtime.messages")
        assert rows.fetchall() == [(b"\x00\xff", None, False)]


def test_policies_decide_who_sends_where(database: Database) -> None:
    with roles(database.server, "writer") as (name,):
        writer = sql.Identifier(name)
        for statement in (
            "grant usage on schema realtime to {}",
            "grant select, insert on realtime.messages to {}",
            "create policy mine on realtime.messages for insert to {} with check"
            " (realtime.topic() = 'mine' and topic = realtime.topic())",
        ):
            database.execute(sql.SQL(statement).format(writer))
        with database.connect() as connection:
            heard = warnings(connection)
            connection.execute("set realtime.topic to 'before'")
            connection.execute(sql.SQL("set role {}").format(writer))
            connection.execute("select realtime.send('{}', 'e', 'theirs')")
            assert len(heard) == 1
            assert "row-level security" in heard[0]
            with connection.transaction():
                connection.execute("select realtime.send('{}', 'e', 'mine')")
                cursor = connection.execute("select realtime.topic()")
                assert cursor.fetchone() == ("before",)
            # The partitions are closed to those who may write into the table.
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("select * from realtime.messages_default")
        assert database.execute("select topic from realtime.messages") == [("mine",)]
        database.execute("drop policy mine on realtime.messages")
        database.execute(sql.SQL("revoke all on realtime.messages from {}").format(writer))
        database.execute(sql.SQL("revoke all on schema realtime from {}").format(writer))


def test_who_may_use_the_schema_may_do_nothing_else_there(database: Database) -> None:
    # `migrate` lets the roles of tokens use it.
    functions = database.execute(
        "select proname from pg_proc where pronamespace = 'realtime'::regnamespace"
        " and has_function_privilege('public', oid, 'execute') order by 1"
    )
    assert functions == [("broadcast_changes",), ("send",), ("send_binary",), ("topic",)]
    tables = "select relname from pg_class where relnamespace = 'realtime'::regnamespace"
    assert database.execute(f"{tables} and has_table_privilege('public', oid, 'select')") == []


def test_a_trigger_broadcasts_changes(database: Database) -> None:
    database.execute(
        """
        create table item (id int primary key, name text);
        create function item_changed() returns trigger language plpgsql security definer as $$
        begin
            perform realtime.broadcast_changes(
                'item:' || coalesce(new.id, old.id), tg_op, tg_op, tg_table_name, tg_table_schema,
                new, old, tg_level
            );
            return null;
        end
        $$;
        create trigger item_changed after insert or update or delete on item
            for each row execute function item_changed();
        create trigger all_changed after truncate on item
            for each statement execute function item_changed()
        """
    )
    try:
        for statement in (
            "insert into item values (1, 'a')",
            "update item set name = 'b'",
            "delete from item",
        ):
            database.execute(statement)
        rows = database.execute(
            "select topic, event, private, payload - 'id', payload ->> 'id' = id::text"
            " from realtime.messages order by inserted_at"
        )
        first, second = {"id": 1, "name": "a"}, {"id": 1, "name": "b"}
        assert rows == [
            ("item:1", event, True, change_of(event, new, old), True)
            for event, new, old in (
                ("INSERT", first, None),
                ("UPDATE", second, first),
                ("DELETE", None, second),
            )
        ]
        with pytest.raises(psycopg.errors.RaiseException, match="Failed to process the row: the"):
            database.execute("truncate item")
    finally:
        database.execute("drop table item; drop function item_changed")


def change_of(operation: str, new: Any, old: Any) -> dict[str, Any]:
    return {
        "operation": operation,
        "schema": "public",
        "table": "item",
        "record": new,
        "old_record": old,
    }


async def test_a_table_as_the_original_makes_it_is_taken_over(pg: Server) -> None:
    with fresh_database(pg) as database:
        day = date(2026, 1, 1)
        database.execute(
            """
            create schema realtime;
            create table realtime.messages (
                topic text not null, extension text not null, payload jsonb, event text,
                private boolean default false, updated_at timestamp not null default now(),
                inserted_at timestamp not null default now(),
                id uuid not null default gen_random_uuid(), primary key (id, inserted_at)
            ) partition by range (inserted_at);
            create policy everybody on realtime.messages for select using (true);
            create table realtime.messages_2026_01_01 partition of realtime.messages
                for values from ('2026-01-01') to ('2026-01-02');
            insert into realtime.messages values ('t', 'broadcast', '{}', 'e', true, now(), %s)
            """.replace("%s", f"'{day}'")
        )
        await migrated(database.dsn)
        assert database.execute("select skip_broadcast from realtime.messages") == [(False,)]
        [(policies,)] = database.execute("select count(*) from pg_policies")
        assert policies == 1
        done = await upkeep(database)
        assert done is not None
        assert not done.failed
        assert done.dropped == ("messages_2026_01_01",)


# What `--check` says of it.


async def said(dsn: str, execute: Database | None = None) -> list[str]:
    """Return how bad each finding is; run the SQL that mends it."""
    findings = await message_findings(dsn)
    for finding in findings if execute is not None else ():
        for statement in finding.sql:
            execute.execute(statement)
    return [finding.severity.value for finding in findings]


async def test_what_is_missing_is_said_with_the_sql_that_makes_it(pg: Server) -> None:
    publication = "supabase_realtime_messages_publication"
    with roles(pg, "server", options="login") as (name,), fresh_database(pg) as database:
        assert await said(database.dsn) == ["problem"]
        await migrated(database.dsn)
        assert await said(database.dsn) == ["ok"]
        for statement in (
            f"alter publication {publication} drop table realtime.messages",
            f"alter publication {publication} set (publish = 'delete')",
            f"drop publication {publication}",
        ):
            database.execute(statement)
            assert await said(database.dsn, database) == ["problem"]
            assert await said(database.dsn) == ["ok"]
        database.execute(
            f"alter table realtime.messages disable row level security;"
            f" grant usage on schema realtime to {name};"
            f" grant select on realtime.core_migration to {name}"
        )
        dsn = psycopg.conninfo.make_conninfo(database.dsn, user=name)
        assert await said(dsn, database) == ["warning", "warning"]
        assert await said(dsn) == ["ok"]
