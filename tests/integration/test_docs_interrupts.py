"""Ctrl-C ends the documentation's programs: without a traceback, and the slot is free."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.fix_postgres import Database, Server, unique_name
from tests.integration.test_docs import blocks
from tests.waiting import eventually_sync

pytestmark = pytest.mark.integration

DEADLINE = 30


@contextmanager
def running(program: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, str(program), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Press Ctrl-C; return the exit code and what was said on standard error."""
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=DEADLINE)
    return process.returncode, said


# It is active, too, while it is being made, and gone if that is interrupted.
STREAMED = "exists (select from pg_stat_replication where pid = active_pid and state = 'streaming')"


def slots(database: Database, state: str) -> list[tuple[object, ...]]:
    return database.execute(
        f"select slot_name from pg_replication_slots where database = %s and {state}",
        (database.name,),
    )


def follower(
    page: str, prepare: str, database: Database, folder: Path, *arguments: str
) -> tuple[int, str]:
    """Run a page's program until it reads its slot, and press Ctrl-C."""
    source = next(
        each for each in blocks(page, "python") if re.search(r"async with|\.sync\(", each)
    )
    program = folder / "follow.py"
    program.write_text(source.replace('"dbname=shop"', repr(database.dsn)))
    database.execute(prepare)
    with running(program, *arguments) as process:

        def reads() -> bool:
            assert process.poll() is None, process.communicate()
            return bool(slots(database, STREAMED))

        eventually_sync(reads)
        ended = interrupt(process)
    eventually_sync(lambda: slots(database, "not active"))
    return ended


@pytest.fixture
def shop(pg17: Server) -> Iterator[Database]:
    """A database on the server that has wal2json, too."""
    database = Database(pg17, unique_name("test"))
    pg17.create_database(database.name)
    yield database
    database.drop()


def test_the_readmes_program(shop: Database, tmp_path: Path) -> None:
    prepare, _ = blocks("README.md", "sql")
    assert follower("README.md", prepare, shop, tmp_path) == (0, "")


def test_the_tutorials_program(shop: Database, tmp_path: Path) -> None:
    page = "docs/tutorial/embedding.md"
    prepare = blocks(page, "sql")[1]
    assert follower(page, prepare, shop, tmp_path, shop.dsn) == (0, "")


def test_the_program_without_asyncio(shop: Database, tmp_path: Path) -> None:
    page = "docs/howto/sync.md"
    prepare, _ = blocks(page, "sql")
    assert follower(page, prepare, shop, tmp_path, shop.dsn) == (0, "")


def test_the_program_that_copies_a_table(shop: Database, tmp_path: Path) -> None:
    page = "docs/howto/exactly-once.md"
    source, _ = blocks(page, "sql")
    # Nothing is copied while it is looked at.
    assert follower(page, source, shop, tmp_path, shop.dsn, shop.dsn) == (0, "")


def test_the_program_that_copies_a_table_from_the_start(shop: Database, tmp_path: Path) -> None:
    page = "docs/howto/snapshot.md"
    [prepare] = blocks(page, "sql")
    assert follower(page, prepare, shop, tmp_path, shop.dsn, str(tmp_path / "copy")) == (0, "")


def test_the_program_that_reads_wal2json(shop: Database, tmp_path: Path) -> None:
    if not shop.server.has_wal2json():
        pytest.skip("wal2json is not installed")
    page = "docs/reference/wal2json.md"
    prepare = "create table orders (id int primary key)"
    assert follower(page, prepare, shop, tmp_path, shop.dsn) == (0, "")


def test_the_program_that_archives_changes(shop: Database, tmp_path: Path) -> None:
    prepare = "create table orders (id int primary key); create publication shop for table orders"
    page = "docs/howto/pass-on.md"
    assert follower(page, prepare, shop, tmp_path, shop.dsn, str(tmp_path / "file")) == (0, "")


# What does its work and ends says that it has not done it.


@pytest.fixture
def titled(tmp_path: Path) -> Callable[[str, str], Path]:
    """Write a page's program of that title into a folder."""

    def write(page: str, title: str) -> Path:
        marked = f'python title="{title}"'
        (source,) = blocks(page, marked)
        program = tmp_path / title
        program.write_text(source)
        return program

    return write


def test_the_program_that_makes_a_slot_and_has_to_wait(
    database: Database, titled: Callable[[str, str], Path]
) -> None:
    program = titled("docs/howto/slots.md", "slots.py")
    with database.connect() as writer, writer.transaction():
        writer.execute("create table open_transaction ()")
        with running(program, database.dsn, unique_name("slot")) as process:
            eventually_sync(lambda: slots(database, "active"))
            assert interrupt(process) == (1, "interrupted\n")


def test_the_program_that_captures(titled: Callable[[str, str], Path], tmp_path: Path) -> None:
    program = titled("docs/howto/etl.md", "capture.py")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(DEADLINE)
        dsn = f"host=127.0.0.1 port={silent.getsockname()[1]} sslmode=disable"
        with running(program, dsn, "etl", "shop", str(tmp_path)) as process:
            connection, _ = silent.accept()
            with connection:
                assert interrupt(process) == (1, "interrupted\n")


def test_the_program_that_makes_rows(titled: Callable[[str, str], Path], tmp_path: Path) -> None:
    program = titled("docs/howto/etl.md", "etl.py")
    endless = tmp_path / "captures" / "1.bin"
    endless.parent.mkdir()
    os.mkfifo(endless)
    # Opened when the program opens it.
    with running(program, str(endless.parent), str(tmp_path)) as process, endless.open("wb"):
        assert interrupt(process) == (1, "interrupted\n")
