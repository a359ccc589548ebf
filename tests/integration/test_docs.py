"""The documentation's programs do what it says."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fix_postgres import Database, unique_name
from tests.waiting import eventually_sync

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


def blocks(page: str, language: str) -> list[str]:
    """Return the fenced blocks of a page in one language."""
    pattern = rf"^```{language}(?: title=[^\n]*)?\n(.*?)^```$"
    return re.findall(pattern, (ROOT / page).read_text(), re.M | re.S)


def assert_prints_what_it_says(page: str, slot: str, database: Database, program: Path) -> None:
    """Run a page's program on its tables, make its changes, and compare what it prints.

    Args:
        page: with a program, the SQL before it and that of the changes, and what it prints.
        slot: the slot's name on the page.
        database: where it runs.
        program: where to write it.
    """
    (source,) = blocks(page, "python")
    prepare, changes = blocks(page, "sql")
    (expected,) = blocks(page, "text")
    program.write_text(source.replace(f'slot="{slot}"', f'slot="{unique_name("slot")}"'))
    database.execute(prepare)
    command = [sys.executable, str(program), database.dsn]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            printed = lines_of(process)
            shown = [next(printed)]
            for statement in changes.strip().splitlines():
                database.execute(statement)
            shown += [next(printed) for _ in range(3)]
        finally:
            process.kill()
    assert shown == expected.splitlines()


def lines_of(process: subprocess.Popen[str]) -> Iterator[str]:
    assert process.stdout is not None
    for line in process.stdout:
        yield line.rstrip("\n")


def test_the_tutorials_program_prints_what_it_says(database: Database, tmp_path: Path) -> None:
    page = "docs/tutorial/embedding.md"
    (source,) = blocks(page, "python")
    program = tmp_path / "follow.py"
    program.write_text(source)
    _, prepare, changes, drop = blocks(page, "sql")
    database.execute(prepare)
    (expected,) = blocks(page, "text")

    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, str(program), database.dsn], stdout=subprocess.PIPE, text=True
        )

    with start() as process:
        printed = lines_of(process)
        assert next(printed) == "following"
        for statement in changes.strip().splitlines():
            database.execute(statement)
            if statement.startswith("INSERT"):
                kept_apart = "select pg_relation_size(reltoastrelid) > 0 from pg_class"
                kept_apart += " where oid = 'todos'::regclass"
                assert database.execute(kept_apart) == [(True,)]
        shown = ["following"] + [next(printed) for _ in range(3)]
        assert shown == expected.splitlines()
        process.terminate()

    # "Stop it, and start it again": what happened in between is printed.
    database.execute("insert into todos values (2, 'while it was away')")
    with start() as process:
        printed = lines_of(process)
        assert next(printed) == "following"
        seen = ""
        deadline = time.monotonic() + 30
        while seen != "new 2 while it was away":
            assert time.monotonic() < deadline
            seen = next(printed)
        process.terminate()

    database.execute(
        "select pg_terminate_backend(active_pid, 5000) from pg_replication_slots"
        " where slot_name = 'todo_follower' and active"
    )
    assert drop.strip() == "SELECT pg_drop_replication_slot('todo_follower');"
    database.execute(drop)


def test_the_readmes_program_prints_what_it_says(database: Database, tmp_path: Path) -> None:
    slot = f"etl_{database.name}"
    source = blocks("README.md", "python")[0]
    assert '"dbname=shop"' in source
    assert '"etl"' in source
    program = tmp_path / "shop.py"
    program.write_text(
        source.replace('"dbname=shop"', repr(database.dsn)).replace('"etl"', repr(slot))
    )
    prepare, changes = blocks("README.md", "sql")
    database.execute(prepare)
    (expected,) = blocks("README.md", "text")
    is_there = (
        "select 1 from pg_replication_slots"
        " where slot_name = %s and confirmed_flush_lsn > '0/0' and active"
    )
    command = [sys.executable, "-u", str(program)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            eventually_sync(lambda: database.execute(is_there, (slot,)))
            database.execute(changes)
            printed = lines_of(process)
            assert [next(printed) for _ in range(3)] == expected.splitlines()
        finally:
            process.kill()


def test_changes_are_decoded_from_plain_sql(database: Database) -> None:
    page = "docs/howto/decode-alone.md"
    (source,) = blocks(page, "python")
    (query,) = blocks(page, "sql")
    namespace: dict[str, object] = {}
    exec(compile(source, page, "exec"), namespace)
    database.execute("create table item (id int primary key)")
    database.execute("create publication shop for table item")
    slot = f"demo_{database.name}"
    database.execute("select pg_create_logical_replication_slot(%s, 'pgoutput')", (slot,))
    database.execute("insert into item values (7)")
    payloads = [row[0] for row in database.execute(query.replace("'demo'", f"'{slot}'"))]
    assert list(namespace["inserts"](payloads)) == [{"id": 7}]  # type: ignore[operator]


def test_a_slot_is_looked_after_as_the_page_says(database: Database, tmp_path: Path) -> None:
    source, *_ = blocks("docs/howto/slots.md", "python")
    program = tmp_path / "slots.py"
    program.write_text(source)
    slot = f"demo_{database.name}"
    command = [sys.executable, str(program), database.dsn, slot]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    used, confirmed, keeps, state, dropped = done.stdout.splitlines()
    assert (used, state, dropped) == ("used by None", "good reserved None", "dropped True")
    assert re.match(r"confirmed [0-9A-F]+/[0-9A-F]+$", confirmed)
    assert int(keeps.split()[1]) >= 0
