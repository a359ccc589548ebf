"""docs/howto/arrow.md: the program is killed, and its files have each change once.

LAKE_KILLS says how often (6 by default), KILLS_SEED when.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.fix_postgres import Database, Server, unique_name
from tests.integration.test_docs import blocks
from tests.integration.writers import writing
from tests.waiting import eventually_sync

pytest.importorskip("pyarrow")
duckdb = pytest.importorskip("duckdb")

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PAGE = "docs/howto/arrow.md"
KILLS = int(os.environ.get("LAKE_KILLS", "6"))
SEED = int(os.environ.get("KILLS_SEED", "1"))
ROWS = 20_000


@pytest.fixture
def shop(one_pg: Server) -> Iterator[Database]:
    database = Database(one_pg, unique_name("test"))
    one_pg.create_database(database.name)
    for statement in blocks(PAGE, "sql")[:1]:
        database.execute(statement)
    large = "(select string_agg(md5(g || ' ' || i), '') from generate_series(1, 100) i)"
    database.execute(
        f"insert into orders select g, g / 10.0, case when g % 100 = 0 then {large} end"
        f" from generate_series(1, {ROWS}) g"
    )
    yield database
    database.drop()


def test_the_files_of_a_program_that_is_killed_have_each_change_once(
    shop: Database, tmp_path: Path
) -> None:
    print(f"KILLS_SEED={SEED}")
    random = Random(SEED)
    program, folder = tmp_path / "lake.py", tmp_path / "lake"
    source = blocks(PAGE, "python")[1].replace('"lake"', repr(f"lake_{shop.name}"))
    # What is waited for in the page, to get larger files, is only waited for here.
    program.write_text(source.replace("max_wait=5, ", "max_wait=0.05, "))
    view = blocks(PAGE, "sql")[1].replace("'lake/", f"'{folder}/")
    command = [sys.executable, str(program), shop.dsn, str(folder)]

    def asked(query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect() as connection:
            connection.execute(view)
            rows: list[tuple[Any, ...]] = connection.execute(query).fetchall()
            return rows

    def files() -> set[Path]:
        return set(folder.glob("*/*/*.parquet"))

    with writing(shop, random, ROWS):
        for _ in range(KILLS):
            before = files()
            with subprocess.Popen(command) as process:
                try:
                    eventually_sync(lambda before=before: files() - before, within=60)
                    time.sleep(random.uniform(0, 0.3))
                    assert process.poll() is None
                finally:
                    process.send_signal(signal.SIGKILL)
    query = "select id, amount, note from orders order by id"
    rows = shop.execute(query)
    with subprocess.Popen(command) as process:
        try:
            eventually_sync(lambda: asked(query) == rows, within=60)
        finally:
            process.send_signal(signal.SIGKILL)
    pattern = re.search(r"read_parquet\(.*?\)", view)
    assert pattern is not None
    (counts,) = asked(
        "select count(*), count(distinct (_lsn, _index)), count(*) filter (_kind = 'snapshot'),"
        f" count(distinct id) filter (_kind = 'snapshot') from {pattern[0]}"
        " where _kind = 'snapshot' or _lsn is not null"
    )
    changes_and_rows, distinct_changes, snapshot_rows, distinct_rows = counts
    assert snapshot_rows == distinct_rows >= ROWS / 2
    assert changes_and_rows == (distinct_changes - 1) + snapshot_rows
