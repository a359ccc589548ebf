"""docs/howto/snapshot.md: the program is killed, in the first copy too, and the copy is the table.

SNAPSHOT_KILLS says how often (6 by default), KILLS_SEED when.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from psycopg.conninfo import make_conninfo

from tests.fix_postgres import Database, Server, unique_name
from tests.integration.kill_phases import kill_in_some_phase
from tests.integration.test_docs import blocks
from tests.integration.writers import writing
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PAGE = "docs/howto/snapshot.md"
KILLS = int(os.environ.get("SNAPSHOT_KILLS", "6"))
SEED = int(os.environ.get("KILLS_SEED", "1"))
ROWS = 20_000


@pytest.fixture
def shop(one_pg: Server) -> Iterator[Database]:
    database = Database(one_pg, unique_name("test"))
    one_pg.create_database(database.name)
    for statement in blocks(PAGE, "sql"):
        database.execute(statement)
    large = "(select string_agg(md5(g || ' ' || i), '') from generate_series(1, 100) i)"
    database.execute(
        f"insert into orders select g, g / 10.0, case when g % 100 = 0 then {large} end"
        f" from generate_series(1, {ROWS}) g"
    )
    yield database
    database.drop()


def test_a_program_that_is_killed_in_its_first_copy_has_every_row_once(
    shop: Database, tmp_path: Path
) -> None:
    print(f"KILLS_SEED={SEED}")
    random = Random(SEED)
    program, file = tmp_path / "mirror.py", tmp_path / "orders.sqlite"
    slot = f"mirror_{shop.name}"
    program.write_text(blocks(PAGE, "python")[0].replace('"mirror"', repr(slot)))
    name = unique_name("killed")
    command = [
        *(sys.executable, str(program)),
        *(make_conninfo(shop.dsn, application_name=name), str(file)),
    ]

    def asked(query: str) -> list[tuple[object, ...]]:
        try:
            with sqlite3.connect(file) as connection:
                return connection.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []

    def is_copied() -> bool:
        return bool(asked("select 1 from realtime_copy"))

    copied: list[bool] = []
    phases: Counter[str] = Counter()
    with writing(shop, random, ROWS):
        for _ in range(KILLS):
            with subprocess.Popen(command) as process:
                phases[kill_in_some_phase(process, shop, name, random, "streaming")] += 1
            copied.append(is_copied())
            if all(copied[-2:]) and len(copied) > 1:
                # Once more from the start.
                file.unlink()
    print(*phases.most_common(), sep="\n")
    query = "select id, amount::text, note from orders order by id"
    with subprocess.Popen(command) as process:
        try:
            eventually_sync(
                lambda: asked(query.replace("::text", "")) == shop.execute(query), within=90
            )
        finally:
            process.kill()
