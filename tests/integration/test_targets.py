"""Targets of :mod:`realtime_core.targets` behind another source than that of `copy`."""

from __future__ import annotations

from pathlib import Path

import pytest

from realtime_core import Wal2JsonSource
from realtime_core.targets import SqliteTarget
from tests.fix_postgres import Database, unique_name

pytestmark = [pytest.mark.integration, pytest.mark.slow]

TABLES = ("item", "part")


def test_what_wal2json_sends_is_written_too(wal2json_table: Database, tmp_path: Path) -> None:
    shop = wal2json_table
    shop.execute("create table part (id bigint primary key, name text)")
    for table in TABLES:
        shop.execute(f"insert into {table} values (1, 'a'), (2, 'b'), (3, repeat('x', 10000))")
    with SqliteTarget(str(tmp_path / "shop.db"), "shop") as target:
        for table in TABLES:
            target.connection.execute(f"create table {table} (id integer primary key, name text)")
        with Wal2JsonSource.sync(
            shop.dsn,
            slot=unique_name("slot"),
            snapshot="initial",
            start_at=target.start(),
            boundaries=True,
        ) as source:
            changes = "update {0} set id = 4 where id > 2; delete from {0} where id = 1;"
            shop.execute("".join(map(changes.format, TABLES)))
            while target.changes < 4:
                done = target.apply(next(source.batches()))
                if done is not None:
                    source.ack(done)
        for table in TABLES:
            query = f"select id, name from {table} order by id"
            assert target.connection.execute(query).fetchall() == shop.execute(query)
        assert target.rows == 6
        position = target.position
        assert position is not None
        assert target.start() == position
