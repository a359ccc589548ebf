"""What publications publish, as SQL tells it."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from realtime_core.errors import ConnectionLostError
from realtime_server.config.database.published_tables import (
    PublishedColumn,
    PublishedTable,
    published_tables,
)
from tests.fix_postgres import Database
from tests.rls_helpers import roles

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]

SHOP = """
    create schema depot;
    create domain price as numeric;
    create table depot.goods (id int primary key, gone int, price price, tags text[]);
    alter table depot.goods drop column gone;
    create table todos (id int8 primary key, task text, secret text);
    create table "Not Published" (id int);
    create publication shop for table depot.goods;
    create publication list for table todos (id, task);
"""
GOODS = PublishedTable(
    "depot",
    "goods",
    (
        PublishedColumn("id", "int4"),
        PublishedColumn("price", "price"),
        PublishedColumn("tags", "_text"),
    ),
)
TODOS = PublishedTable(
    "public", "todos", (PublishedColumn("id", "int8"), PublishedColumn("task", "text"))
)


def make_shop(database: Database) -> None:
    database.server.needs(15, "a column list")
    database.execute(SHOP)


def names(tables: tuple[PublishedTable, ...]) -> dict[str, list[str]]:
    return {
        f"{table.schema}.{table.name}": [column.name for column in table.columns]
        for table in tables
    }


async def test_the_tables_of_publications_with_their_published_columns(database: Database) -> None:
    make_shop(database)
    assert await published_tables(database.dsn, ["shop", "list"]) == (GOODS, TODOS)
    assert await published_tables(database.dsn, ["list", "none"]) == (TODOS,)
    assert await published_tables(database.dsn, []) == ()
    assert await published_tables(database.dsn, ["shop", "list"], most=1) == (GOODS,)


async def test_a_table_in_two_publications_has_the_columns_of_both(database: Database) -> None:
    make_shop(database)
    database.execute("create publication other for table todos (id, secret)")
    tables = await published_tables(database.dsn, ["list", "other"])
    assert names(tables) == {"public.todos": ["id", "task", "secret"]}


async def test_a_publication_of_all_tables_lists_them(database: Database) -> None:
    make_shop(database)
    database.execute("create publication everything for all tables")
    assert names(await published_tables(database.dsn, ["everything"])) == {
        "depot.goods": ["id", "price", "tags"],
        "public.Not Published": ["id"],
        "public.todos": ["id", "task", "secret"],
    }


async def test_a_role_sees_what_it_may_select(database: Database) -> None:
    make_shop(database)
    both = ["shop", "list"]
    with roles(database.server, "reader") as (reader,):
        assert await published_tables(database.dsn, both, role=reader) == ()
        database.execute(f'grant select (id, secret) on todos to "{reader}"')
        assert names(await published_tables(database.dsn, both, role=reader)) == {
            "public.todos": ["id"]
        }
        database.execute(f'revoke all on todos from "{reader}"')
    assert await published_tables(database.dsn, both, role="nobody's") == ()


async def test_partitions_are_named_as_their_changes_are(database: Database) -> None:
    database.execute(
        """
        create table day (id int, at int) partition by range (at);
        create table day_1 partition of day for values from (1) to (2);
        create publication root for table day with (publish_via_partition_root);
        create publication leaves for table day
        """
    )
    assert names(await published_tables(database.dsn, ["root"])).keys() == {"public.day"}
    assert names(await published_tables(database.dsn, ["leaves"])).keys() == {"public.day_1"}


async def test_a_table_that_is_locked_is_not_waited_for(database: Database) -> None:
    make_shop(database)
    with psycopg.connect(database.dsn) as locker:
        locker.execute("lock table depot.goods in access exclusive mode")
        async with asyncio.timeout(5):
            assert await published_tables(database.dsn, ["shop", "list"]) == (GOODS, TODOS)


async def test_a_database_that_cannot_be_asked_is_an_error() -> None:
    with pytest.raises(ConnectionLostError, match="DB_HOST"):
        await published_tables("host=127.0.0.1 port=1 dbname=none user=nobody", ["shop"])
