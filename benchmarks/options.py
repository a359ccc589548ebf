"""What options cost a change of the stream: a snapshot that came before it, and hooks.

    python -m benchmarks.options [--rows N] [--rounds N]

An embedded PostgreSQL has a table of 100,000 rows. Each contender is a process of its own, and all
attach before the round's 300,000 rows of six columns are written: ``plain`` and ``plain_again``
read without options, ``behind_snapshot`` has just been handed over a snapshot of the table, and
``idle_hooks`` calls hooks that do nothing. When all is written they read the same WAL, one after
the other, in another order each round, by batches of which no field is read. A figure is the best
of the rounds, in µs a row. A ratio is that of two such figures, of CPU time and of the wall clock,
by ``plain``; that of ``plain_again`` shows how much of a ratio is chance.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg

from benchmarks._report import environment, save
from benchmarks.source import FILL, PUBLICATION, SCHEMA
from realtime_server.demo.embedded import EmbeddedPostgres

ROOT = Path(__file__).parent.parent
ROWS = 300_000
FORMER_ROWS = 100_000
CASES = ("plain", "behind_snapshot", "idle_hooks", "plain_again")
ATTACHED = """
    select count(*) from pg_replication_slots where active and not temporary and slot_name = any(%s)
"""

Passes = dict[str, list[dict[str, float]]]


@contextmanager
def filled() -> Iterator[tuple[EmbeddedPostgres, psycopg.Connection[Any]]]:
    with (
        EmbeddedPostgres(settings={"max_wal_size": "8GB"}) as server,
        psycopg.connect(server.dsn, autocommit=True) as connection,
    ):
        connection.execute(SCHEMA)
        connection.execute(FILL, (1, FORMER_ROWS))
        yield server, connection


def write(connection: psycopg.Connection[Any], first: int, last: int) -> None:
    """Write rows, a thousand a transaction."""
    for number in range(first, last + 1, 1000):
        connection.execute(FILL, (number, min(number + 999, last)))


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, "the reader has ended"
    return line


def run_round(
    server: EmbeddedPostgres,
    connection: psycopg.Connection[Any],
    cases: Sequence[str],
    first: int,
    rows: int,
) -> dict[str, dict[str, float]]:
    """Write rows from ``first`` on, and let each read them; return what it took."""
    slots = list(cases)
    found = {}
    with ExitStack() as stack:
        readers = {}
        for case in cases:
            command = [sys.executable, "-m", "benchmarks.peers.option_reader", case, server.dsn]
            reader = subprocess.Popen(
                [*command, case, PUBLICATION, str(rows)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                cwd=ROOT,
            )
            stack.callback(reader.kill)
            readers[case] = stack.enter_context(reader)
        while connection.execute(ATTACHED, (slots,)).fetchone() != (len(cases),):
            assert all(reader.poll() is None for reader in readers.values()), "a reader has ended"
            time.sleep(0.05)
        connection.execute(FILL, (first, first))
        for reader in readers.values():
            line_of(reader)
        write(connection, first + 1, first + rows)
        for case, reader in readers.items():
            print("", file=reader.stdin, flush=True)
            found[case] = json.loads(line_of(reader))
            assert reader.wait(60) == 0
    for slot in slots:
        connection.execute("select pg_drop_replication_slot(%s)", (slot,))
    return found


def run_rounds(rows: int, rounds: int) -> Passes:
    passes: Passes = {case: [] for case in CASES}
    with filled() as (server, connection):
        first = FORMER_ROWS + 1
        for number in range(rounds):
            print(f"   round {number + 1} of {rounds}", file=sys.stderr)
            begin = number % len(CASES)
            cases = (*CASES[begin:], *CASES[:begin])
            for case, one in run_round(server, connection, cases, first, rows).items():
                passes[case].append(one)
            # Every snapshot is of the same rows.
            connection.execute("delete from orders where id > %s", (FORMER_ROWS,))
            first += rows + 1
    return passes


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.options", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=4)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]
    passes = run_rounds(arguments.rows, arguments.rounds)
    figures = {
        case: {
            clock: round(min(one[clock] for one in each) / arguments.rows * 1e6, 3)
            for clock in ("cpu", "wall")
        }
        for case, each in passes.items()
    }
    ratios = {
        case: {clock: round(each[clock] / figures["plain"][clock], 3) for clock in each}
        for case, each in figures.items()
        if case != "plain"
    }
    result = {
        "environment": environment("psycopg"),
        "rows": arguments.rows,
        "rounds": arguments.rounds,
        "us_per_row": figures,
        "by_plain": ratios,
        "load_average": [load, os.getloadavg()[0]],
    }
    for case, each in figures.items():
        print(f"{case:16}", each, ratios.get(case, ""))
    if arguments.rows == ROWS:
        print(save("options", "python -m benchmarks.options", result))


if __name__ == "__main__":
    main()
