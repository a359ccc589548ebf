"""The fixtures themselves: what they lend, they take back."""

from __future__ import annotations

import contextlib

import psycopg
import pytest

from tests.fix_postgres import Database, Server, unique_name

pytestmark = [pytest.mark.integration, pytest.mark.every_postgres]


def test_a_database_is_dropped_with_its_slots_and_connections(pg: Server) -> None:
    database = Database(pg, unique_name("test"))
    pg.create_database(database.name)
    slot = unique_name("slot")
    with (
        contextlib.closing(database.connect()) as idle,
        contextlib.closing(
            psycopg.connect(database.dsn, autocommit=True, replication="database")
        ) as consumer,
    ):
        consumer.execute(f"CREATE_REPLICATION_SLOT {slot} LOGICAL pgoutput")
        consumer.execute(f"CREATE_REPLICATION_SLOT {slot}_t TEMPORARY LOGICAL pgoutput")
        idle.execute("select 1")
        database.drop()
    assert pg.execute("select 1 from pg_replication_slots where slot_name ^@ %s", (slot,)) == []
    assert pg.execute("select 1 from pg_database where datname = %s", (database.name,)) == []


def test_each_statement_in_a_database_is_committed(database: Database) -> None:
    database.execute("create table numbers (n int); insert into numbers values (1), (2)")
    assert database.execute("select n from numbers where n > %s", (1,)) == [(2,)]
