"""docs/howto/exactly-once.md: the program is killed, and its table is the source's.

KILLS says how often (8 by default), KILLS_SEED when.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest

from tests.fix_postgres import Database, Server, unique_name
from tests.integration.test_docs import blocks
from tests.waiting import eventually_sync

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PAGE = "docs/howto/exactly-once.md"
KILLS = int(os.environ.get("KILLS", "8"))
SEED = int(os.environ.get("KILLS_SEED", "1"))

# Hardly to be compressed, so PostgreSQL keeps it apart and sends it when it changes only.
LARGE = "(select string_agg(md5(g || ' ' || i), '') from generate_series(1, 100) i)"


@pytest.fixture
def shop(pg17: Server) -> Iterator[Database]:
    source, _ = blocks(PAGE, "sql")
    for database in fresh(pg17, source):
        # Before the first order, that the copy has all of them.
        database.execute("select pg_create_logical_replication_slot('copy_orders', 'pgoutput')")
        yield database


@pytest.fixture
def copy(pg17: Server) -> Iterator[Database]:
    yield from fresh(pg17, blocks(PAGE, "sql")[1])


def fresh(server: Server, schema: str) -> Iterator[Database]:
    database = Database(server, unique_name("test"))
    server.create_database(database.name)
    database.execute(schema)
    yield database
    database.drop()


@contextmanager
def writing(database: Database, random: Random) -> Iterator[None]:
    """Have orders made, changed and removed meanwhile."""
    stop = threading.Event()

    def write() -> None:
        number = 0
        with database.connect() as connection:
            while not stop.wait(0.005):
                size = random.choice((1, 1, 3, 50))
                with connection.transaction():
                    connection.execute(
                        f"insert into orders select g, 1.5, case when g %% 2 = 0 then {LARGE} end"
                        " from generate_series(%s::int, %s) g",
                        (number, number + size - 1),
                    )
                    connection.execute(
                        "update orders set amount = amount + 1 where id = %s",
                        (random.randrange(number + 1),),
                    )
                    connection.execute(
                        "update orders set id = -id - 1 where id = %s",
                        (random.randrange(number + 1),),
                    )
                    connection.execute(
                        "delete from orders where id = %s", (random.randrange(number + 1),)
                    )
                number += size

    thread = threading.Thread(target=write)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_a_program_that_is_killed_at_any_moment_applies_each_change_once(
    shop: Database, copy: Database, tmp_path: Path
) -> None:
    print(f"KILLS_SEED={SEED}")
    random = Random(SEED)
    program = tmp_path / "copy_orders.py"
    program.write_text(blocks(PAGE, "python")[0])
    problems = tmp_path / "stderr"

    @contextmanager
    def running() -> Iterator[subprocess.Popen[bytes]]:
        """Run the program; kill it at the end."""
        command = [sys.executable, str(program), shop.dsn, copy.dsn]
        with problems.open("a") as stderr, subprocess.Popen(command, stderr=stderr) as process:
            try:
                yield process
            except AssertionError as exc:
                exc.add_note(f"KILLS_SEED={SEED}; it said: {problems.read_text()}")
                raise
            finally:
                process.send_signal(signal.SIGKILL)

    def checkpoint() -> object:
        exists = copy.execute("select to_regclass('public.realtime_copy') is not null")
        return exists == [(True,)] and copy.execute("select position from realtime_copy")

    def is_waiting() -> bool:
        # It looks at the slot again and again.
        query = "select count(*) from pg_stat_activity where datname = current_database()"
        return copy.execute(f"{query} and application_name = 'realtime_copy'") == [(2,)]

    def moves_on() -> None:
        before = checkpoint()
        eventually_sync(lambda: checkpoint() != before)

    moved = 0
    with writing(shop, random):
        # The second one waits for its turn; what was stored before is out of date by then.
        with ExitStack() as processes:
            with running():
                moves_on()
                processes.enter_context(running())
                eventually_sync(is_waiting)
                moves_on()
            moves_on()
        for _ in range(KILLS):
            with running() as process:
                # Until it has begun to work, and a while longer.
                moves_on()
                time.sleep(random.random() * 0.1)
                moved += process.poll() is None
    assert moved == KILLS, f"KILLS_SEED={SEED}; it said: {problems.read_text()}"
    query = "select id, amount, note from orders order by id"
    with running():
        # As long as it takes to catch up: the last of the programs were killed soon.
        eventually_sync(lambda: shop.execute(query) == copy.execute(query), within=200)
    assert copy.execute("select count(*) > %s from orders", (KILLS,)) == [(True,)]
    updated = "select count(*) > 0 from orders where amount > 1.5 and length(note) = 3200"
    assert shop.execute(updated) == [(True,)]
