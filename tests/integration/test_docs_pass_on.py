"""docs/howto/pass-on.md: the archive has every change once, whoever wrote it and was killed."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fix_postgres import Database
from tests.integration.test_docs import blocks
from tests.waiting import eventually_sync

pytestmark = pytest.mark.integration

PAGE = "docs/howto/pass-on.md"


def test_two_archives_that_are_killed_in_turn_keep_every_change_once(
    database: Database, tmp_path: Path
) -> None:
    database.execute("create table orders (id int primary key, note text)")
    database.execute("create publication shop for table orders")
    slot = f"archive_{database.name}"
    archive, reader = blocks(PAGE, "python")
    program, reading, file = (tmp_path / name for name in ("archive.py", "reading.py", "file"))
    program.write_text(archive.replace('"archive"', repr(slot)))
    reading.write_text(reader)
    command = [sys.executable, str(program), database.dsn, str(file)]
    database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))

    @contextmanager
    def running() -> Iterator[subprocess.Popen[bytes]]:
        with subprocess.Popen(command) as process:
            try:
                yield process
            finally:
                process.send_signal(signal.SIGKILL)

    def archived() -> int:
        try:
            with sqlite3.connect(file) as connection:
                query = "select count(*) from log where substr(message, 1, 1) = x'49'"
                return int(connection.execute(query).fetchone()[0])
        except sqlite3.OperationalError:
            return -1

    def insert(first: int, last: int) -> None:
        database.execute(
            f"insert into orders select g, 'order ' || g from generate_series({first}, {last}) g"
        )

    with running() as first:
        insert(1, 500)
        eventually_sync(lambda: archived() == 500)
        with running():
            insert(501, 1000)
            first.send_signal(signal.SIGKILL)
            insert(1001, 1500)
            eventually_sync(lambda: archived() == 1500)
    with running():
        database.execute("alter table orders add column paid bool")
        insert(1501, 1600)
        eventually_sync(lambda: archived() == 1600)
    done = subprocess.run(
        [sys.executable, str(reading), str(file)], capture_output=True, text=True, check=True
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 1600
    assert lines[0] == "public.orders {'id': '1', 'note': 'order 1'}"
    assert lines[-1] == "public.orders {'id': '1600', 'note': 'order 1600', 'paid': None}"
    assert [int(line.split("'")[3]) for line in lines] == list(range(1, 1601))
