"""Sources for programs without an event loop, on a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from realtime_core import Insert, PgoutputSource, RawPgoutputSource, RawRows
from tests.fix_postgres import Database, unique_name
from tests.integration.test_docs import assert_prints_what_it_says
from tests.waiting import eventually_sync

pytestmark = pytest.mark.integration


def test_the_howtos_program_prints_what_it_says(database: Database, tmp_path: Path) -> None:
    page, program = "docs/howto/sync.md", tmp_path / "follow_sync.py"
    assert_prints_what_it_says(page, "todo_sync", database, program)


@pytest.mark.parametrize("kind", [PgoutputSource, RawPgoutputSource])
def test_the_connection_outlives_a_consumer_that_is_busy(database: Database, kind: Any) -> None:
    """For longer than wal_sender_timeout, and while there is more to read than the socket holds."""
    database.execute("create table item (id int primary key, name text)")
    database.execute("create publication shop for table item")
    slot = unique_name("slot")
    options = {"sender_timeout": 1, "status_interval": 0.1, "slot": slot}
    with kind.sync(database.dsn, publications=["shop"], **options) as source:
        database.execute(
            "insert into item select g, repeat('x', 1000) from generate_series(1, 20000) g"
        )
        first = next(source)
        replied = database.execute("select clock_timestamp() + interval '2 seconds'")
        query = """
            select reply_time > %s from pg_stat_replication join pg_replication_slots
            on pid = active_pid where slot_name = %s
        """
        # Nothing is read meanwhile.
        eventually_sync(lambda: (True,) in database.execute(query, (*replied[0], slot)))
        seen = _rows(first)
        while seen < 20000:
            seen += _rows(next(source))
        assert source.stats().reconnects == 0


def _rows(event: Any) -> int:
    assert isinstance(event, Insert | RawRows)
    return len(event.messages) if isinstance(event, RawRows) else 1
