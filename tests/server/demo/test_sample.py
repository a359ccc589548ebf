"""The demo's tables and its writer, against real servers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from random import Random

import psycopg
import pytest

from realtime_server.demo import sample
from tests.fix_postgres import Database

pytestmark = pytest.mark.integration

COUNTS = "select (select count(*) from todos), (select count(*) from users), count(*) from orders"


def prepare(database: Database) -> None:
    with psycopg.connect(database.dsn) as connection:
        sample.prepare(connection)


def published(database: Database) -> set[str]:
    rows = database.execute(
        "select tablename from pg_publication_tables where pubname = %s", (sample.PUBLICATION,)
    )
    return {name for (name,) in rows}


async def write_until(database: Database, condition: Callable[[], bool], seed: int = 1) -> None:
    """Run the writer without pause until the condition holds."""
    writer = asyncio.create_task(
        sample.write_forever(database.dsn, interval=0, random=Random(seed))
    )
    try:
        async with asyncio.timeout(30):
            while not await asyncio.to_thread(condition):
                if writer.done():
                    await writer  # for its exception
    finally:
        writer.cancel()
        await asyncio.wait([writer])


def test_the_tables_are_made_and_published_once(database: Database) -> None:
    prepare(database)
    database.execute("insert into todos (task) values ('stay')")
    prepare(database)
    assert database.execute("select task, done from todos") == [("stay", False)]
    assert published(database) == {"todos", "users", "orders"}


def test_users_show_their_old_record(database: Database) -> None:
    prepare(database)
    rows = database.execute(
        "select relname, relreplident from pg_class where relnamespace = 'public'::regnamespace "
        "and relkind = 'r' order by relname"
    )
    assert rows == [("orders", "d"), ("todos", "d"), ("users", "f")]


def test_a_publication_that_is_there_gets_what_it_lacks(database: Database) -> None:
    database.execute("create table other (id int primary key)")
    database.execute(f"create publication {sample.PUBLICATION} for table other")
    prepare(database)
    assert published(database) == {"other", "todos", "users", "orders"}


def test_a_publication_for_all_tables_stays_as_it_is(database: Database) -> None:
    database.execute(f"create publication {sample.PUBLICATION} for all tables")
    prepare(database)
    assert published(database) == {"todos", "users", "orders"}


@pytest.mark.parametrize("comment", ["null", "'made by hand'"])
def test_somebody_elses_table_is_refused_and_nothing_is_made(
    database: Database, comment: str
) -> None:
    database.execute("create table users (id int)")
    database.execute(f"comment on table users is {comment}")
    with pytest.raises(sample.ForeignTableError, match=r"public\.users .* DEMO_DSN"):
        prepare(database)
    assert database.execute("select to_regclass('todos'), to_regclass('orders')") == [(None, None)]
    assert published(database) == set()


async def test_the_writer_inserts_updates_and_deletes_within_bounds(database: Database) -> None:
    prepare(database)
    counters = "select sum(n_tup_ins), sum(n_tup_upd), sum(n_tup_del) from pg_stat_user_tables"

    def has_done_all() -> bool:
        database.execute("select pg_stat_force_next_flush()")
        [(inserted, updated, deleted)] = database.execute(counters)
        return bool(min(inserted, updated, deleted) > 20)

    await write_until(database, has_done_all)
    [counts] = database.execute(COUNTS)
    assert all(0 < count <= 25 for count in counts)


async def test_the_writer_fills_emptied_tables_again(database: Database) -> None:
    prepare(database)

    def is_filled() -> bool:
        [counts] = database.execute(COUNTS)
        return bool(min(counts) >= 5)

    await write_until(database, is_filled)
    database.execute("truncate todos, users, orders")
    await write_until(database, is_filled, seed=2)


async def test_the_writer_keeps_even_a_full_table_bounded(database: Database) -> None:
    prepare(database)
    database.execute("insert into todos (task) select 'x' from generate_series(1, 40)")

    def has_shrunk() -> bool:
        [(count,)] = database.execute("select count(*) from todos")
        return bool(count <= 25)

    await write_until(database, has_shrunk)


async def test_the_writer_ends_with_the_servers_error(database: Database) -> None:
    with pytest.raises(psycopg.errors.UndefinedTable):
        await sample.write_forever(database.dsn, interval=0, random=Random(1))
