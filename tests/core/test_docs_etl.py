"""The ETL how-to's programs do what it says: captures in, CSV files out."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest

from realtime_core import LSN, Delete, Insert, Truncate, Update
from tests.core.captures import TESTS, events, expected
from tests.core.pgoutput.test_captures import replica_identity
from tests.fix_postgres import DEBIAN_BINDIR, Database, unique_name

PAGE = TESTS.parent / "docs" / "howto" / "etl.md"

# Hardly to be compressed, so PostgreSQL keeps it apart and sends it when it changes only.
LARGE = "(select string_agg(md5(i::text), '') from generate_series(1, 100) i)"

RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert "psycopg" not in sys.modules and "asyncio" not in sys.modules
"""


def program(name: str) -> str:
    """Return the page's program of that title."""
    (found,) = re.findall(
        rf'^```python title="{name}"\n(.*?)^```$', PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    return str(found)


class Job:
    """The folders of a job, and its programs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.captures, self.csv = folder / "captures", folder / "csv"
        self.captures.mkdir()
        self.csv.mkdir()

    def etl(self) -> None:
        """Run the page's etl.py, and see that it loads neither driver nor event loop."""
        path = self.folder / "etl.py"
        path.write_text(program("etl.py"))
        subprocess.run([sys.executable, "-c", RUN, path, self.captures, self.csv], check=True)

    def rows(self, name: str) -> list[dict[str, str]]:
        with (self.csv / name).open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path)


def lines(changes: Iterator[dict[str, Any]], table: str) -> list[dict[str, str]]:
    """Return what the triggers saw of a table, as its file has it."""
    found = []
    for change in changes:
        if change["relation"] == table:
            not_sent = []
            row = change["new_row"]
            if row is None:
                row = {"id": change["old_row"]["id"]}
                not_sent = [name for name in change["old_row"] if name != "id"]
            texts = {name: r"\N" if value is None else value for name, value in row.items()}
            texts |= dict.fromkeys(not_sent, r"\N")
            line = {"operation": change["operation"].lower(), "not_sent": json.dumps(not_sent)}
            found.append(line | texts)
    return found


@pytest.mark.slow
def test_every_change_of_a_table_is_a_line_of_its_file(job: Job) -> None:
    shutil.copy(TESTS / "data" / "replica_identity.bin", job.captures / "1.bin")
    job.etl()
    written = job.rows("ri.by_default.csv")
    account = replica_identity(expected("replica_identity")["changes"])
    assert [without_place(row) for row in written] == lines(account, "ri.by_default")
    places = [(LSN.parse(row["lsn"]), int(row["index"])) for row in written]
    assert places == sorted(set(places))


def without_place(row: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in row.items() if name not in ("lsn", "index")}


@pytest.mark.slow
def test_no_change_of_any_table_is_left_out(job: Job) -> None:
    # In the order of their commits.
    names = ("truncate_message_origin.bin", "replica_identity.bin")
    for number, name in enumerate(names):
        shutil.copy(TESTS / "data" / name, job.captures / f"{number}.bin")
    job.etl()
    tables = Counter(
        relation.table
        for name in names
        for event in events(name)
        if isinstance(event, Insert | Update | Delete | Truncate)
        for relation in (event.relations if isinstance(event, Truncate) else (event.relation,))
    )
    written = Counter[str]()
    for path in job.csv.iterdir():
        table = re.sub(r"\.\d+$", "", path.stem).split(".", 1)[1]
        written[unquote(table)] += len(job.rows(path.name))
    assert written == tables


@pytest.mark.slow
def test_a_table_that_gets_other_columns_gets_another_file(job: Job) -> None:
    shutil.copy(TESTS / "data" / "replica_identity.bin", job.captures / "1.bin")
    job.etl()
    heads = [list(job.rows(name)[0]) for name in ("ri.evolving.csv", "ri.evolving.2.csv")]
    assert heads[0] != heads[1]
    assert heads[0][:5] == heads[1][:5] == ["operation", "lsn", "index", "not_sent", "id"]


@pytest.mark.slow
def test_what_is_captured_twice_is_written_once(job: Job) -> None:
    shutil.copy(TESTS / "data" / "replica_identity.bin", job.captures / "1.bin")
    job.etl()
    once = {path.name: path.read_bytes() for path in job.csv.iterdir()}
    shutil.copy(TESTS / "data" / "replica_identity.bin", job.captures / "2.bin")
    job.etl()
    assert {path.name: path.read_bytes() for path in job.csv.iterdir()} == once


def sql(title: str = "") -> list[str]:
    """Return the page's SQL with that title, or all without one."""
    head = f' title="{title}"' if title else ""
    return re.findall(rf"^```sql{head}\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.integration
def test_captures_of_a_server_become_its_rows_and_a_copy_of_them(
    job: Job, database: Database
) -> None:
    slot = unique_name("etl")
    make_slot, make_table = sql()
    database.execute(make_table)
    database.execute("create publication shop for table item")
    database.execute(make_slot.replace("'etl'", f"'{slot}'"))
    path = job.folder / "capture.py"
    path.write_text(program("capture.py"))
    command = [sys.executable, path, database.dsn, slot, "shop", job.captures]

    subprocess.run(command, check=True)
    assert list(job.captures.iterdir()) == []
    # A name that is none would leave changes out without a word, on PostgreSQL 18.
    misspelled = [*command[:4], "shpo", job.captures]
    failed = subprocess.run(misspelled, capture_output=True, text=True)
    told = "there is no publication 'shpo'; nothing was captured\n"
    assert (failed.returncode, failed.stderr) == (1, told)
    database.execute(
        "insert into item values (1, 'ünï, \"quoted\"', '2026-01-02'), (2, null, null)"
    )
    subprocess.run(command, check=True)
    database.execute(f"update item set notes = {LARGE} where id = 2")
    # Now the notes are large, and stay as they are.
    database.execute("update item set name = 'two' where id = 2")
    database.execute("update item set notes = null where id = 1")
    database.execute("insert into item values (3, 'three')")
    database.execute("delete from item where id = 1")
    subprocess.run(command, check=True)
    subprocess.run(command, check=True)
    assert len(list(job.captures.glob("*.bin"))) == len(list(job.captures.iterdir())) == 2

    job.etl()
    ((large,),) = database.execute(f"select {LARGE}")
    assert [tuple(without_place(row).values()) for row in job.rows("public.item.csv")] == [
        ("insert", "[]", "1", 'ünï, "quoted"', "2026-01-02", r"\N"),
        ("insert", "[]", "2", r"\N", r"\N", r"\N"),
        ("update", "[]", "2", r"\N", r"\N", large),
        ("update", '["notes"]', "2", "two", r"\N", r"\N"),
        ("update", "[]", "1", 'ünï, "quoted"', "2026-01-02", r"\N"),
        ("insert", "[]", "3", "three", r"\N", r"\N"),
        ("delete", '["name", "born", "notes"]', "1", r"\N", r"\N", r"\N"),
    ]

    psql = DEBIAN_BINDIR / "psql"
    if not psql.exists():
        pytest.skip(f"psql is not installed in {DEBIAN_BINDIR}")
    database.execute("create schema copy")
    database.execute(f"set search_path to copy; {make_table}")
    (load,) = sql("load.sql")
    loaded = subprocess.run(
        [psql, "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", database.dsn],
        env={**os.environ, "PGOPTIONS": "-c search_path=copy"},
        input=load,
        cwd=job.csv,
        capture_output=True,
        text=True,
    )
    assert (loaded.stderr, loaded.returncode) == ("", 0)
    rows = "select * from {}.item order by id"
    copied = database.execute(rows.format("copy"))
    assert copied == database.execute(rows.format("public"))
    assert [row[0] for row in copied] == [2, 3]
    assert copied[0][3] == large
