"""How fast `copy` copies a table and follows its changes, against COPY piped into COPY.

    python -m benchmarks.copy [--rows N] [--rounds N]

A table of 200,000 rows of six columns is copied from one database of a server to another, and to a
SQLite file. ``first`` is from the start of ``copy`` until its position is stored, ``piped`` psql's
COPY TO STDOUT piped into psql's COPY FROM STDIN. ``changes`` is how long ``copy`` takes, from its
start, for as many changes that were committed while it was away: each tenth of the rows is
inserted, updated and deleted, row by row in turns, 30 changes a transaction. Rows or changes per
second of the wall clock, of which the start of the program is half a second; the best of the
rounds. Both databases, and so the work of PostgreSQL on both sides, are on one machine.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo

from benchmarks._report import environment, save
from benchmarks.source import FILL, SCHEMA
from realtime_server.demo.embedded import EmbeddedPostgres

ROWS = 200_000
TABLE = SCHEMA.partition(";")[0]
LITE = """
    create table orders (
        id integer primary key, customer integer not null, amount text not null,
        placed timestamp not null, paid boolean not null, note text
    )
"""
CHANGE = """
    do $$
    begin
        for i in 1 .. {rows} / 10 loop
            insert into orders values (1000000000 + i, i, 1.5, now(), true, 'new');
            update orders set amount = amount + 1 where id = i;
            delete from orders where id = {rows} - i;
            if i % 10 = 0 then commit; end if;
        end loop;
    end $$
"""

Passes = dict[str, list[float]]


@contextmanager
def copying(source: str, target: str) -> Iterator[None]:
    command = [sys.executable, "-m", "realtime_core", "copy", source, target]
    with subprocess.Popen([*command, "--tables", "public.orders"]) as process:
        try:
            yield
            assert process.poll() is None
        finally:
            process.terminate()


def seconds_until(is_done: Callable[[], bool], start: float) -> float:
    while not is_done():
        assert time.perf_counter() - start < 600
        time.sleep(0.02)
    return time.perf_counter() - start


def pipe(source: str, target: str) -> float:
    start = time.perf_counter()
    psql = ["psql", "--no-psqlrc", "--quiet", "--command"]
    with subprocess.Popen(
        [*psql, "COPY orders TO STDOUT", source], stdout=subprocess.PIPE
    ) as reader:
        subprocess.run([*psql, "COPY orders FROM STDIN", target], stdin=reader.stdout, check=True)
    assert reader.returncode == 0
    return time.perf_counter() - start


def one_round(server: EmbeddedPostgres, rows: int, folder: Path, passes: Passes) -> None:
    database = "source_of_copy"
    names = (database, "target_of_copy")
    source, target = (make_conninfo(server.dsn, dbname=name) for name in names)
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        for name in names:
            admin.execute(f"create database {name}")
    with (
        psycopg.connect(source, autocommit=True) as ours,
        psycopg.connect(target, autocommit=True) as theirs,
        closing(sqlite3.connect(folder / "copy.db", timeout=60)) as lite,
    ):
        ours.execute(TABLE.encode())
        ours.execute(FILL, (1, rows))
        ours.execute("vacuum analyze orders")
        theirs.execute(TABLE.encode())
        lite.execute(LITE)
        passes.setdefault("piped", []).append(pipe(source, target))
        theirs.execute("truncate orders")
        follow(source, target, "postgres", theirs.execute, ours, rows, passes)
        ours.execute("select pg_drop_replication_slot('realtime_copy')")
        lite_target = f"sqlite:{folder / 'copy.db'}"
        follow(source, lite_target, "sqlite", lite.execute, ours, rows, passes)
        ours.execute("select pg_drop_replication_slot('realtime_copy')")
    with psycopg.connect(server.dsn, autocommit=True) as admin:
        for name in names:
            admin.execute(f"drop database {name} with (force)")
    (folder / "copy.db").unlink()


def follow(
    source: str,
    target: str,
    name: str,
    execute: Callable[[str], Any],
    ours: psycopg.Connection[Any],
    rows: int,
    passes: Passes,
) -> None:
    """Time the first copy to a target, and then changes that were made while it was away."""

    def is_stored() -> bool:
        try:
            return bool(execute("select 1 from realtime_copy").fetchall())
        except (psycopg.errors.UndefinedTable, sqlite3.OperationalError):
            return False

    start = time.perf_counter()
    with copying(source, target):
        passes.setdefault(f"first, {name}", []).append(seconds_until(is_stored, start))
    ours.execute(CHANGE.format(rows=rows).encode())
    ours.execute("insert into orders values (0, 0, 0, now(), true, 'last')")
    last = "select 1 from orders where id = 0"
    start = time.perf_counter()
    with copying(source, target):
        done = seconds_until(lambda: bool(execute(last).fetchall()), start)
    passes.setdefault(f"changes, {name}", []).append(done)
    ours.execute("delete from orders where id = 0 or id > 1000000000")
    ours.execute(FILL + " on conflict do nothing", (1, rows))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.copy", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    passes: Passes = {}
    with (
        EmbeddedPostgres(settings={"max_wal_size": "8GB"}) as server,
        tempfile.TemporaryDirectory() as folder,
    ):
        for number in range(arguments.rounds):
            print(f"   round {number + 1} of {arguments.rounds}", file=sys.stderr)
            one_round(server, arguments.rows, Path(folder), passes)
    counts = {"changes": 3 * (arguments.rows // 10)}
    figures = {
        name: round(counts.get(name.partition(",")[0], arguments.rows) / min(each))
        for name, each in passes.items()
    }
    result = {
        "environment": environment("psycopg"),
        "rows": arguments.rows,
        "rounds": arguments.rounds,
        "per_second": figures,
        "first_by_piped": round(figures["first, postgres"] / figures["piped"], 2),
        "load_average": [load, os.getloadavg()[0]],
    }
    for name, each in figures.items():
        print(f"{name:20} {each:>9,} per second")
    print(f"first, postgres by piped: {result['first_by_piped']}")
    if arguments.rows == ROWS:
        print(save("copy", "python -m benchmarks.copy", result))


if __name__ == "__main__":
    main()
