"""The fixtures themselves: what they lend, they take back."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest

from tests import fix_postgres
from tests.fix_postgres import SPACE, Database, Server, parent_of_clusters, unique_name

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


@pytest.mark.parametrize(
    ("free", "memory", "is_there"),
    [(2 * SPACE, 3 * SPACE, True), (SPACE // 2, 3 * SPACE, False), (2 * SPACE, SPACE, False)],
    ids=["roomy", "little space", "little memory"],
)
def test_servers_are_in_memory_only_where_there_is_enough(
    free: int, memory: int, is_there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fix_postgres, "IN_MEMORY", tmp_path)
    monkeypatch.setattr(fix_postgres, "memory_limit", lambda: memory)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))
    assert parent_of_clusters() == (tmp_path if is_there else None)
