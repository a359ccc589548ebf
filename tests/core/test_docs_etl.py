"""The ETL how-to's programs do what it says: captures in, CSV files out."""

from __future__ import annotations

import csv
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
from tests.fix_postgres import Database, unique_name

PAGE = TESTS.parent / "docs" / "howto" / "etl.md"

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
            row = change["new_row"] or {
                name: value if name == "id" else r"\not sent"
                for name, value in change["old_row"].items()
            }
            texts = {name: r"\N" if value is None else value for name, value in row.items()}
            found.append({"operation": change["operation"].lower(), **texts})
    return found


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


def test_a_table_that_gets_other_columns_gets_another_file(job: Job) -> None:
    shutil.copy(TESTS / "data" / "replica_identity.bin", job.captures / "1.bin")
    job.etl()
    heads = [list(job.rows(name)[0]) for name in ("ri.evolving.csv", "ri.evolving.2.csv")]
    assert heads[0] != heads[1]
    assert heads[0][:4] == heads[1][:4] == ["operation", "lsn", "index", "id"]


def test_what_is_captured_twice_is_written_once(job: Job) -> None:
    shutil.copy(TESTS / "data" / "replica_identity.bin", job.captures / "1.bin")
    job.etl()
    once = {path.name: path.read_bytes() for path in job.csv.iterdir()}
    shutil.copy(TESTS / "data" / "replica_identity.bin", job.captures / "2.bin")
    job.etl()
    assert {path.name: path.read_bytes() for path in job.csv.iterdir()} == once


@pytest.mark.integration
def test_captures_of_a_server_become_its_rows(job: Job, database: Database) -> None:
    page = PAGE.read_text()
    slot = unique_name("etl")
    (make_slot,) = re.findall(r"^```sql\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    database.execute("create table item (id int primary key, name text, born date)")
    database.execute("create publication shop for table item")
    database.execute(make_slot.replace("'etl'", f"'{slot}'"))
    path = job.folder / "capture.py"
    path.write_text(program("capture.py"))
    command = [sys.executable, path, database.dsn, slot, "shop", job.captures]

    subprocess.run(command, check=True)
    assert list(job.captures.iterdir()) == []
    database.execute(
        "insert into item values (1, 'ünï, \"quoted\"', '2026-01-02'), (2, null, null)"
    )
    subprocess.run(command, check=True)
    database.execute("update item set name = 'two' where id = 2")
    database.execute("delete from item where id = 1")
    subprocess.run(command, check=True)
    subprocess.run(command, check=True)
    assert len(list(job.captures.glob("*.bin"))) == len(list(job.captures.iterdir())) == 2

    job.etl()
    assert [without_place(row) for row in job.rows("public.item.csv")] == [
        {"operation": "insert", "id": "1", "name": 'ünï, "quoted"', "born": "2026-01-02"},
        {"operation": "insert", "id": "2", "name": r"\N", "born": r"\N"},
        {"operation": "update", "id": "2", "name": "two", "born": r"\N"},
        {"operation": "delete", "id": "1", "name": r"\not sent", "born": r"\not sent"},
    ]
