"""How fast the rows of a table are handed over, against COPY itself and psycopg2's named cursor.

    python -m benchmarks.snapshot [--rows N] [--rounds N] [--only CONTENDER ...]

A table of 1,000,000 rows of six columns, analyzed. Each contender reads it in a process of its own
and in turns: psql's COPY writes to /dev/null (``copy``, and ``copy_in_order`` as a snapshot's
statement has it), psycopg2's named cursor hands over tuples of Python values, ours a snapshot: by
batches, by events, or ``typed`` with all values as Python's. ``receive`` and ``decode`` are its
stages. Those "in c" run with what `make accelerator` compiles, the others in Python alone.

A figure is the best of the rounds, a ratio that of two such figures, of rows per second of the wall
clock, from before connecting to the last row. Of ours, the resident memory before connecting and at
its peak is told, too: the peak does not depend on the number of rows. psycopg2 gets an environment
of its own below ``build/peers``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg

from benchmarks._report import environment, save
from benchmarks.peers.environments import PeerUnavailableError, python_with
from benchmarks.source import FILL, PUBLICATION, SCHEMA
from realtime_server.demo.embedded import EmbeddedPostgres

PEERS = Path(__file__).parent / "peers"
ROOT = Path(__file__).parent.parent
ROWS = 1_000_000
COPIES = {
    "copy": "COPY orders TO STDOUT",
    "copy_in_order": "COPY (SELECT * FROM orders ORDER BY id) TO STDOUT",
}
OURS = ("receive", "decode", "batches", "events", "typed")
ACCELERATOR = ROOT / "build" / "accelerator"
IN_C = ("receive in c", "batches in c", "events in c", "typed in c")
REACHES = tuple(
    (f"{case}{how}", peer, reach)
    for how in ("", " in c")
    for case, peer, reach in (
        ("batches", "copy", 0.7),
        ("batches", "copy_in_order", 0.7),
        ("batches", "psycopg2", 3.0),
        ("typed", "psycopg2", 3.0),
    )
)
"""Ours has to reach so many times a peer's rows per second."""

Passes = dict[str, list[dict[str, float]]]


@contextmanager
def filled(rows: int) -> Iterator[EmbeddedPostgres]:
    with (
        EmbeddedPostgres(settings={"max_wal_size": "8GB"}) as server,
        psycopg.connect(server.dsn, autocommit=True) as connection,
    ):
        connection.execute(SCHEMA)
        connection.execute(FILL, (1, rows))
        connection.execute("vacuum analyze orders")
        yield server


def copy_with_psql(server: EmbeddedPostgres, statement: str) -> dict[str, float]:
    command: list[str | Path] = ["psql", "--no-psqlrc", "--command", statement, server.dsn]
    start = time.perf_counter()
    with open(os.devnull, "wb") as nothing:
        process = subprocess.Popen(command, stdout=nothing)
        _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, "psql failed"
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime}


def read_with_python(
    command: list[str | Path], rows: int, *, in_c: bool = False
) -> dict[str, float]:
    surroundings = {
        **os.environ,
        "PYTHONPATH": f"{ROOT}{os.pathsep}{ACCELERATOR}" if in_c else str(ROOT),
        "REALTIME_CORE_IMPL": "c" if in_c else "python",
    }
    done = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, timeout=1800, cwd=ROOT, env=surroundings
    )
    result: dict[str, float] = json.loads(done.stdout)
    assert result["rows"] == rows, command
    return result


def run_rounds(
    rows: int, rounds: int, only: Sequence[str] | None, left_out: dict[str, str]
) -> Passes:
    cases = OURS
    if (ACCELERATOR / ".done").is_file():
        cases += IN_C
    else:
        left_out["in c"] = "it is not compiled: make accelerator"
    reader = [sys.executable, "-m", "benchmarks.peers.snapshot_reader"]
    readers: dict[str, list[str | Path]] = {
        case: [*reader, case.removesuffix(" in c")] for case in cases
    }
    copies = dict(COPIES)
    if only is None or "psycopg2" in only:
        try:
            python = python_with("psycopg2")
            readers["psycopg2"] = [python, PEERS / "psycopg2_named_cursor.py"]
        except PeerUnavailableError as exc:
            left_out["psycopg2"] = str(exc)
    if only is not None:
        copies = {name: each for name, each in copies.items() if name in only}
        readers = {name: each for name, each in readers.items() if name in only}
    passes: Passes = {}
    with filled(rows) as server:
        for number in range(rounds):
            print(f"   round {number + 1} of {rounds}", file=sys.stderr)
            for contender, statement in copies.items():
                passes.setdefault(contender, []).append(copy_with_psql(server, statement))
            for contender, command in readers.items():
                place = [server.dsn] if contender == "psycopg2" else [server.dsn, PUBLICATION]
                one = read_with_python([*command, *place], rows, in_c=contender in IN_C)
                passes.setdefault(contender, []).append(one)
    return passes


def summary(passes: Passes, rows: int) -> dict[str, dict[str, float]]:
    result: dict[str, dict[str, float]] = {}
    for contender, each in passes.items():
        result[contender] = {
            "rows_per_second": round(rows / min(one["wall"] for one in each)),
            "rows_per_cpu_second": round(rows / min(one["cpu"] for one in each)),
        }
        for memory in ("rss_before", "peak_rss"):
            if memory in each[0]:
                most = max(one[memory] for one in each)
                result[contender][f"{memory}_mb"] = round(most / 2**20, 1)
    return result


def ratios(figures: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    return [
        {
            "what": ours,
            "against": peer,
            "ours_by_theirs": (
                ratio := round(
                    figures[ours]["rows_per_second"] / figures[peer]["rows_per_second"], 2
                )
            ),
            "reach": reach,
            "reached": ratio >= reach,
        }
        for ours, peer, reach in REACHES
        if ours in figures and peer in figures
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.snapshot", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=[*COPIES, *OURS, *IN_C, "psycopg2"])
    arguments = parser.parse_args()
    left_out: dict[str, str] = {}
    load = os.getloadavg()[0]
    passes = run_rounds(arguments.rows, arguments.rounds, arguments.only, left_out)
    figures = summary(passes, arguments.rows)
    result = {
        "environment": environment("psycopg"),
        "rows": arguments.rows,
        "rounds": arguments.rounds,
        "contenders": figures,
        "ratios": ratios(figures),
        "left_out": left_out,
        "load_average": [load, os.getloadavg()[0]],
    }
    for name, each in figures.items():
        print(f"{name:16}", *(f"{key} {value:,}" for key, value in each.items()))
    for one in result["ratios"]:
        print(one)
    print(left_out or "")
    if arguments.rows == ROWS and arguments.only is None:
        print(save("snapshot", "python -m benchmarks.snapshot", result))


if __name__ == "__main__":
    main()
