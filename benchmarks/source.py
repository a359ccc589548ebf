"""How fast changes are received, decoded and handed over, against what else can receive them.

    python -m benchmarks.source [--rows N] [--rounds N]

An embedded PostgreSQL writes 300,000 rows of six columns, in transactions of 1 to 1,000 rows.
Each contender reads the same WAL, in a process of its own and in turns, from a copy of a slot
that was made before: pg_recvlogical writes to /dev/null, psycopg2's replication cursor hands
over raw bytes, ours the changes, of which no field is read, or (``raw``) rows as bytes, or changes
(``sync``, ``sync_acknowledged``, ``sync_batches``) to a program without an event loop. A figure
is the best of the rounds; a ratio is the best of the rounds' ratios, so it compares what ran side
by side. On a machine with two cores or more the walsender decodes on one and the contender works
on another: the wall clock then shows the slower of the two, CPU time what the contender alone
costs.

Ours is also measured up to each of its stages, which is where the shares come from. Wall time
counts from before connecting to the last row; of pg_recvlogical, from the start of its process
to its end. psycopg2 gets an environment of its own below ``build/peers``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg

from benchmarks._report import environment, save
from benchmarks.peers.environments import PeerUnavailableError, python_with
from realtime_server.demo.embedded import EmbeddedPostgres

PEERS = Path(__file__).parent / "peers"
ROOT = Path(__file__).parent.parent
ROWS = 300_000
PUBLICATION = "bench"

STAGES = ("receive", "decode", "batches")
SYNC = {"sync": "events", "sync_acknowledged": "acknowledged", "sync_batches": "batches"}
"""What is read without an event loop, and what does the same with one."""
OURS = (*STAGES, "raw", "events", "acknowledged", "transactions", *SYNC)

FLOORS = {"pg_recvlogical": 1.3, "psycopg2": 1.0}
"""Ours may take so many times as long."""
SYNC_FLOOR = 1.3
"""The CPU time without an event loop, by that with one."""

Passes = dict[str, list[dict[str, float]]]

SCHEMA = """
    create table orders (
        id bigint primary key, customer int not null, amount numeric(10, 2) not null,
        placed timestamptz not null, paid boolean not null, note text
    );
    create publication bench for table orders;
"""
FILL = """
    insert into orders
    select g, g %% 9973, (g %% 100000) / 100.0, timestamptz '2026-01-01' + g * interval '1 second',
           g %% 3 = 0, 'order ' || g || ', to be delivered as soon as it can be'
    from generate_series(%s::bigint, %s::bigint) g
"""


@contextmanager
def written(rows: int) -> Iterator[tuple[EmbeddedPostgres, psycopg.Connection[Any]]]:
    """Yield a server with a slot ``base`` that stands before all rows."""
    settings = {"max_replication_slots": "200", "max_wal_size": "8GB"}
    with (
        EmbeddedPostgres(settings=settings) as server,
        psycopg.connect(server.dsn, autocommit=True) as connection,
    ):
        connection.execute(SCHEMA)
        connection.execute("select pg_create_logical_replication_slot('base', 'pgoutput')")
        sizes = random.Random(7)
        first = 1
        while first <= rows:
            last = min(first + sizes.choice((1, 10, 100, 1000)) - 1, rows)
            connection.execute(FILL, (first, last))
            first = last + 1
        yield server, connection


def read_with_pg_recvlogical(server: EmbeddedPostgres, slot: str, end: str) -> dict[str, float]:
    command = [
        *(server.bindir / "pg_recvlogical", "--start", "--slot", slot, "--file", "/dev/null"),
        *("--endpos", end, "--no-loop", "--option", "proto_version=1"),
        *("--option", f"publication_names={PUBLICATION}", "--dbname", server.dsn),
    ]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, "pg_recvlogical failed"
    cpu = usage.ru_utime + usage.ru_stime
    return {"wall": wall, "cpu": cpu}


def read_with_python(command: list[str | Path]) -> dict[str, float]:
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=600, cwd=ROOT)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def run_rounds(rows: int, rounds: int, left_out: dict[str, str]) -> Passes:
    try:
        psycopg2_python: Path | None = python_with("psycopg2")
    except PeerUnavailableError as exc:
        psycopg2_python = None
        left_out["psycopg2"] = str(exc)
    passes: Passes = {}
    with written(rows) as (server, connection):
        row = connection.execute("select pg_current_wal_lsn()::text").fetchone()
        assert row is not None
        # A record behind the last commit, so that pg_recvlogical sees its end position pass.
        connection.execute("select pg_logical_emit_message(true, 'end', 'end')")
        for number in range(rounds):
            print(f"   round {number + 1} of {rounds}", file=sys.stderr)
            for contender in ("pg_recvlogical", "psycopg2", *OURS):
                slot = re.sub(r"\W", "_", f"{contender}_{number}")
                connection.execute("select pg_copy_logical_replication_slot('base', %s)", (slot,))
                place = (server.dsn, slot, PUBLICATION, str(rows))
                if contender == "pg_recvlogical":
                    one = read_with_pg_recvlogical(server, slot, row[0])
                elif contender in OURS:
                    reader = (sys.executable, "-m", "benchmarks.peers.source_reader", contender)
                    one = read_with_python([*reader, *place])
                elif psycopg2_python is not None:
                    one = read_with_python([psycopg2_python, PEERS / "psycopg2_cursor.py", *place])
                else:
                    continue
                passes.setdefault(contender, []).append(one)
                connection.execute("select pg_drop_replication_slot(%s)", (slot,))
    return passes


def best(passes: Passes, contender: str, clock: str) -> float:
    return min(one[clock] for one in passes[contender])


def ratios(passes: Passes) -> list[dict[str, Any]]:
    """Return how many times as long ours takes, in the rounds' best and in their median."""
    found = []
    for peer, floor in FLOORS.items():
        if peer not in passes:
            continue
        for case in ("batches", "events"):
            for clock in ("wall", "cpu"):
                each = [
                    ours[clock] / theirs[clock]
                    for ours, theirs in zip(passes[case], passes[peer], strict=True)
                ]
                verdict = {
                    "what": case,
                    "against": peer,
                    "clock": clock,
                    "ours_by_theirs": round(
                        best(passes, case, clock) / best(passes, peer, clock), 2
                    ),
                    "median": round(statistics.median(each), 2),
                }
                if clock == "wall":
                    verdict |= {"reach": floor, "reached": verdict["ours_by_theirs"] <= floor}
                found.append(verdict)
    for case, asynchronous in SYNC.items():
        ratio = round(best(passes, case, "cpu") / best(passes, asynchronous, "cpu"), 2)
        found.append(
            {
                "what": case,
                "against": asynchronous,
                "clock": "cpu",
                "ours_by_theirs": ratio,
                "reach": SYNC_FLOOR,
                "reached": ratio <= SYNC_FLOOR,
            }
        )
    return found


def shares(passes: Passes) -> dict[str, float]:
    """Return the part of each stage in the CPU time of the whole."""
    whole = best(passes, "batches", "cpu")
    spent = [best(passes, stage, "cpu") for stage in STAGES]
    parts = [spent[0], *(later - earlier for earlier, later in pairwise(spent))]
    names = ("receive", "decode", "resume, queue, hand over")
    return {name: round(part / whole, 2) for name, part in zip(names, parts, strict=True)}


def summary(passes: Passes, rows: int) -> dict[str, Any]:
    result = {}
    for contender, each in passes.items():
        result[contender] = {
            "rows_per_second": round(rows / best(passes, contender, "wall")),
            "rows_per_cpu_second": round(rows / best(passes, contender, "cpu")),
        }
        if contender != "pg_recvlogical":
            peak = max(one["peak_rss"] for one in each)
            result[contender] |= {
                "peak_rss_mb": round(peak / 2**20, 1),
                "ms_to_first_change": round(best(passes, contender, "first") * 1000, 1),
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.source", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    left_out: dict[str, str] = {}
    load = os.getloadavg()[0]
    passes = run_rounds(arguments.rows, arguments.rounds, left_out)
    result = {
        "environment": environment("psycopg"),
        "rows": arguments.rows,
        "rounds": arguments.rounds,
        "contenders": summary(passes, arguments.rows),
        "ratios": ratios(passes),
        "share_of_cpu_time": shares(passes),
        "left_out": left_out,
        "load_average": [load, os.getloadavg()[0]],
    }
    for name, figures in result["contenders"].items():
        print(f"{name:16}", *(f"{key} {value:,}" for key, value in figures.items()))
    for one in result["ratios"]:
        print(one)
    print(result["share_of_cpu_time"], left_out or "")
    if arguments.rows == ROWS:
        print(save("source", "python -m benchmarks.source", result))


if __name__ == "__main__":
    main()
