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
from psycopg.conninfo import make_conninfo

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
    """The source's database; the target is its schema ``copy``."""
    database = Database(pg17, unique_name("test"))
    pg17.create_database(database.name)
    source, target = blocks(PAGE, "sql")
    database.execute(source)
    database.execute("create schema copy")
    database.execute(f"set search_path to copy; {target}")
    # Before the first order, that the copy has all of them.
    database.execute("select pg_create_logical_replication_slot('copy_orders', 'pgoutput')")
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
    shop: Database, tmp_path: Path
) -> None:
    print(f"KILLS_SEED={SEED}")
    random = Random(SEED)
    program = tmp_path / "copy_orders.py"
    program.write_text(blocks(PAGE, "python")[0])
    target = make_conninfo(shop.dsn, options="-c search_path=copy")
    problems = tmp_path / "stderr"

    @contextmanager
    def running() -> Iterator[subprocess.Popen[bytes]]:
        """Run the program; kill it at the end."""
        command = [sys.executable, str(program), shop.dsn, target]
        with problems.open("a") as stderr, subprocess.Popen(command, stderr=stderr) as process:
            try:
                yield process
            except AssertionError as exc:
                exc.add_note(f"KILLS_SEED={SEED}; it said: {problems.read_text()}")
                raise
            finally:
                process.send_signal(signal.SIGKILL)

    def checkpoint() -> object:
        return shop.execute("select position from copy.checkpoint")

    def is_waiting() -> bool:
        query = "select count(*) from pg_stat_activity where query like 'SELECT pg_try_advisory%'"
        return shop.execute(query) == [(1,)]

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
    differing = """
        select count(*) from public.orders full join copy.orders using (id, amount)
        where public.orders.id is null or copy.orders.id is null
        or public.orders.note is distinct from copy.orders.note
    """
    with running():
        # As long as it takes to catch up: the last of the programs were killed soon.
        eventually_sync(lambda: shop.execute(differing) == [(0,)], within=200)
    assert shop.execute("select count(*) > %s from copy.orders", (KILLS,)) == [(True,)]
    updated = "select count(*) > 0 from orders where amount > 1.5 and length(note) = 3200"
    assert shop.execute(updated) == [(True,)]
