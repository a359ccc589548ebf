"""How fast messages become rows, against what else can decode them.

    python -m benchmarks.decoder [CAPTURES] [--rounds N]

CAPTURES is the folder of recorded streams, or one file in it; by default BENCH_CAPTURE, else
``../shared/captures`` beside this repository. All contenders read ``mixed_v1_text.bin.gz`` there
(61,046 messages) in processes of their own, in turns: one pass of each case, then the next round.
A figure is the best of the rounds. A ratio is a peer's best time by ours, so above 1 we are
faster; beside it stands the median of the rounds' ratios, which shows how steady it is.

Between Python programs, which use one thread, CPU time is compared: others on the machine
disturb it least. Node compiles and collects garbage in further threads, so against it both
clocks count: what a pass takes on the wall, if a second core is free, and what it costs.

"Ours" is the library in Python alone, "ours in c" the same with what `make accelerator` compiles.

pgoutput-decoder (Rust) decodes nothing without a server. For it, an embedded PostgreSQL runs the
workload that the capture was recorded from, and each contender reads slots from there.

The peers' environments are made in ``build/peers`` on the first run; a peer that cannot be had
is left out, and the result says so. docs/topics/decoder-speed.md says what the figures mean.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from benchmarks._report import environment, save
from benchmarks.peers.environments import PeerUnavailableError, npm_folder, python_with
from realtime_server.demo.embedded import EmbeddedPostgres

ROOT = Path(__file__).parent.parent
ACCELERATOR = ROOT / "build" / "accelerator"
PEERS = Path(__file__).parent / "peers"
CAPTURE = "mixed_v1_text.bin.gz"

# What a source does with CopyData: each stage with those before it.
STAGES = {
    "messages": "messages out of CopyData",
    "changes": "changes",
    "accepted": "whether they are new, and counting them",
    "handed over": "handing over by async for",
    "values": "all columns typed",
}

# (contender, case): one pass in each round, in this order.
CASES = [
    ("pypgoutput", "decode"),
    ("ours", "messages"),
    ("ours", "changes"),
    ("ours", "two columns"),
    ("ours", "texts"),
    ("ours", "values"),
    ("ours", "v1 json"),
    ("ours", "typed json"),
    ("ours", "messages without arrays"),
    ("ours", "changes without arrays"),
    ("ours", "values without arrays"),
    ("ours in c", "messages"),
    ("ours in c", "changes"),
    ("ours in c", "two columns"),
    ("ours in c", "texts"),
    ("ours in c", "values"),
    ("ours in c", "v1 json"),
    ("node", "text"),
    ("node", "typed"),
    ("node", "json"),
    ("wal2json", "format 1"),
    ("wal2json", "format 1 json.loads"),
    ("wal2json", "format 2"),
    ("wal2json", "format 2 json.loads"),
    ("hot path", "loop"),
    ("hot path", "copydata"),
    ("hot path", "decode"),
    ("hot path", "decode begin and commit"),
    ("hot path", "decode bare rows"),
    ("hot path", "make messages"),
    ("hot path", "begin and commit"),
    *((name, case) for name in ("source", "source in c") for case in STAGES),
]

# (what, our case, contender, its case, clock, the floor to reach)
RATIOS: list[tuple[str, str, str, str, str, float | None]] = [
    ("messages, fields as text", "messages", "pypgoutput", "decode", "cpu", 7),
    ("changes, fields as text", "changes", "pypgoutput", "decode", "cpu", 7),
    ("changes, a dict of texts each", "texts", "pypgoutput", "decode", "cpu", None),
    ("changes, two typed columns", "two columns", "pypgoutput", "decode", "cpu", 15),
    ("changes, all columns typed", "values", "pypgoutput", "decode", "cpu", 3.5),
    ("v1 JSON payload bytes", "v1 json", "pypgoutput", "decode", "cpu", None),
    ("typed JSON payload bytes", "typed json", "pypgoutput", "decode", "cpu", None),
    ("messages, fields as text", "messages", "node", "text", "wall", 1),
    ("messages, fields as text", "messages", "node", "text", "cpu", None),
    ("changes, fields as text", "changes", "node", "text", "wall", 1),
    ("changes, fields as text", "changes", "node", "text", "cpu", None),
    ("changes, a dict of texts each", "texts", "node", "text", "wall", None),
    ("changes, all columns typed", "values", "node", "typed", "wall", None),
    ("v1 JSON payload bytes", "v1 json", "node", "json", "wall", None),
]
RATIOS_IN_C: list[tuple[str, str, str, str, str, float | None]] = [
    ("messages, fields as text", "messages", "pypgoutput", "decode", "cpu", 7),
    ("changes, fields as text", "changes", "pypgoutput", "decode", "cpu", 7),
    ("changes, two typed columns", "two columns", "pypgoutput", "decode", "cpu", None),
    ("changes, all columns typed", "values", "pypgoutput", "decode", "cpu", 3.5),
    ("changes, fields as text", "changes", "node", "text", "wall", 1),
    ("changes, all columns typed", "values", "node", "typed", "wall", 1.3),
    ("changes, all columns typed", "values", "node", "typed", "cpu", None),
    ("messages, fields as text", "messages", "ours", "messages", "cpu", None),
    ("changes, fields as text", "changes", "ours", "changes", "cpu", None),
    ("changes, two typed columns", "two columns", "ours", "two columns", "cpu", None),
    ("changes, a dict of texts each", "texts", "ours", "texts", "cpu", None),
    ("changes, all columns typed", "values", "ours", "values", "cpu", None),
    ("v1 JSON payload bytes", "v1 json", "ours", "v1 json", "cpu", None),
]
WAL2JSON = [
    ("wal2json, format 1", "format 1", "format 1 json.loads"),
    ("wal2json, format 2", "format 2", "format 2 json.loads"),
]

# What the workload needs of the schema that recorded the truth beside the captures.
ORACLE = """
create schema oracle;
create procedure oracle.count_statements(target regclass) language sql as '';
create function oracle.pick(k bigint, n integer) returns integer immutable language sql as
    $$ select ((hashint8extended(k, 42) & 2147483647) % n)::integer $$;
"""
# Not shop.users: pgoutput-decoder fails on arrays with quoted elements.
PUBLICATION = (
    "create publication bench for table shop.orders, shop.wide, shop.accounts, shop.events"
)
END_TO_END_ROUNDS = 3
END_TO_END = [
    "pgoutput-decoder values",
    "pgoutput-decoder json",
    "changes",
    "values",
    "v1 json",
    "changes in c",
    "values in c",
]
END_TO_END_FLOOR = 50
VALUES_IN_C_FLOOR = 15

Times = dict[str, float]


class Worker:
    """A contender's process, which makes one pass when it is told to."""

    def __init__(self, *command: str | Path, in_c: bool = False) -> None:
        self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=surroundings(in_c),
        )
        self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} ended, see above")
        return line

    def run(self, case: str) -> dict[str, Any]:
        assert self._process.stdin is not None
        self._process.stdin.write(case + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._answer())
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def surroundings(in_c: bool) -> dict[str, str]:
    """Return the environment of a process that has this library, in Python or in C."""
    path = f"{ROOT}{os.pathsep}{ACCELERATOR}" if in_c else str(ROOT)
    implementation = "c" if in_c else "python"
    return {**os.environ, "PYTHONPATH": path, "REALTIME_CORE_IMPL": implementation}


def find_capture(argument: str | None) -> Path:
    """Return the capture's path, or end the program with 2."""
    given = argument or os.environ.get("BENCH_CAPTURE")
    path = Path(given) if given else ROOT.parent / "shared" / "captures"
    if path.is_dir():
        path /= CAPTURE
    if not path.is_file():
        print(
            f"benchmarks.decoder: there is no capture at {path}; name the folder of captures as "
            "the argument or in BENCH_CAPTURE",
            file=sys.stderr,
        )
        raise SystemExit(2)
    return path


def start_workers(capture: Path, left_out: dict[str, str]) -> dict[str, Worker]:
    """Start every contender that can be had; note why others cannot."""
    workers = {"ours": Worker(sys.executable, PEERS / "ours.py", capture)}
    if (ACCELERATOR / ".done").is_file():
        workers["ours in c"] = Worker(sys.executable, PEERS / "ours.py", capture, in_c=True)
    else:
        left_out["ours in c"] = "it is not compiled: make accelerator"
    try:
        python = python_with("pypgoutput")
        workers["pypgoutput"] = Worker(python, PEERS / "pypgoutput_decoders.py", capture)
    except PeerUnavailableError as exc:
        left_out["pypgoutput"] = str(exc)
    try:
        folder = npm_folder()
        workers["node"] = Worker("node", PEERS / "node_parser.mjs", capture, folder)
    except PeerUnavailableError as exc:
        left_out["node"] = str(exc)
    if (capture.parent / "wal2json_v2_mixed.txt.gz").is_file():
        script = PEERS / "wal2json_texts.py"
        workers["wal2json"] = Worker(sys.executable, script, capture.parent)
    else:
        left_out["wal2json"] = f"there is no capture of it beside {capture.name}"
    if capture.with_name("mixed_v1_copydata.bin.gz").is_file():
        workers["hot path"] = Worker(sys.executable, PEERS / "hot_path.py", capture)
        workers["source"] = Worker(sys.executable, PEERS / "source_stages.py", capture)
        if "ours in c" in workers:
            script = PEERS / "source_stages.py"
            workers["source in c"] = Worker(sys.executable, script, capture, in_c=True)
    else:
        left_out["hot path"] = f"there is no capture of CopyData beside {capture.name}"
    return workers


def check(workers: Mapping[str, Worker]) -> dict[str, Any]:
    """Let every contender count what it decodes; they must have read the same texts."""
    counts = {
        name: worker.run("check")["result"]
        for name, worker in workers.items()
        if name not in ("wal2json", "hot path", "source", "source in c")
    }
    for name, count in counts.items():
        for key in ("rows", "texts", "bytes"):
            assert count[key] == counts["ours"][key], f"{name} decoded {count}, not as we did"
    counts["ours without arrays"] = workers["ours"].run("check without arrays")["result"]
    if "wal2json" in workers:
        for kind in ("format 1", "format 2"):
            counts[f"wal2json {kind}"] = workers["wal2json"].run(f"check {kind}")["result"]
    return counts


def run_rounds(workers: Mapping[str, Worker], rounds: int) -> dict[str, list[Times]]:
    """Return each case's times, one for each round."""
    cases = [case for case in CASES if case[0] in workers]
    times: dict[str, list[Times]] = {f"{name}: {case}": [] for name, case in cases}
    for number in range(rounds):
        print(f"   round {number + 1} of {rounds}", file=sys.stderr)
        # Each round begins elsewhere, so that nobody always comes after the same neighbour.
        start = number * 5 % len(cases)
        for name, case in cases[start:] + cases[:start]:
            times[f"{name}: {case}"].append(workers[name].run(case))
    return times


def summary(passes: list[Times], count: Mapping[str, int]) -> dict[str, Any]:
    best = min(one["cpu"] for one in passes)
    return {
        "messages_per_second": round(count["messages"] / best),
        "rows_per_second": round(count["rows"] / best),
        "us_per_message": round(best / count["messages"] * 1e6, 3),
        "cpu_s": {"best": round(best, 4), "median": _median(passes, "cpu")},
        "wall_s": {
            "best": round(min(one["wall"] for one in passes), 4),
            "median": _median(passes, "wall"),
        },
    }


def _median(passes: list[Times], clock: str) -> float:
    return round(statistics.median(one[clock] for one in passes), 4)


def ratio(ours: list[Times], theirs: list[Times], clock: str) -> dict[str, float]:
    return {
        "best": round(min(one[clock] for one in theirs) / min(one[clock] for one in ours), 2),
        "median": round(
            statistics.median(b[clock] / a[clock] for a, b in zip(ours, theirs, strict=True)), 2
        ),
    }


def ratios(times: Mapping[str, list[Times]]) -> list[dict[str, Any]]:
    found = []
    for what, our_case, name, case, clock, floor in RATIOS:
        ours, theirs = times[f"ours: {our_case}"], times.get(f"{name}: {case}")
        if theirs:
            peer = f"{name} {case}"
            found.append(_verdict(what, peer, clock, ratio(ours, theirs, clock), floor))
    for what, our_case, name, case, clock, floor in RATIOS_IN_C:
        in_c, theirs = times.get(f"ours in c: {our_case}"), times.get(f"{name}: {case}")
        if in_c and theirs:
            peer, measured = f"{name} {case}", ratio(in_c, theirs, clock)
            found.append(_verdict(f"in C: {what}", peer, clock, measured, floor))
    for what, our_case, case in WAL2JSON:
        if f"wal2json: {our_case}" in times:
            ours, theirs = times[f"wal2json: {our_case}"], times[f"wal2json: {case}"]
            found.append(_verdict(what, "json.loads", "cpu", ratio(ours, theirs, "cpu"), None))
    return found


def shares(times: Mapping[str, list[Times]]) -> dict[str, float]:
    """Return which share of an output's time is the decoding of its messages."""
    best = {case: min(one["cpu"] for one in passes) for case, passes in times.items()}
    return {
        case: round(best["ours: messages"] / best[f"ours: {case}"], 2)
        for case in ("changes", "texts", "values", "v1 json", "typed json")
    }


def hot_path(times: Mapping[str, list[Times]], messages: int) -> dict[str, float]:
    """Return where the time goes, in µs for an average message of the capture."""
    prefix = "hot path: "
    best = {
        case.removeprefix(prefix): min(one["cpu"] for one in passes)
        for case, passes in times.items()
        if case.startswith(prefix)
    }
    if not best:
        return {}
    loop, decode = best["loop"], best["decode"]
    ours = {
        case.removeprefix("ours: "): min(one["cpu"] for one in passes)
        for case, passes in times.items()
    }
    fields = decode - loop - best["decode bare rows"] - best["decode begin and commit"]
    stages = {
        "CopyData to payload": best["copydata"],
        "loop over the payloads": loop,
        "messages: Begin and Commit": best["decode begin and commit"],
        "messages: a row's object": best["make messages"],
        "messages: a row, all but object and fields": best["decode bare rows"]
        - best["make messages"],
        "fields": fields,
        "changes: Begin and Commit": best["begin and commit"],
        "changes: rows in fields, all but the fields": ours["changes"]
        - loop
        - best["begin and commit"]
        - fields,
        "then: two typed columns": ours["two columns"] - ours["changes"],
        "then: a dict of texts": ours["texts"] - ours["changes"],
        "then: all columns typed": ours["values"] - ours["changes"],
        "then: v1 JSON payload bytes": ours["v1 json"] - ours["changes"],
        "then: typed JSON payload bytes": ours["typed json"] - ours["changes"],
    }
    return {stage: round(seconds / messages * 1e6, 3) for stage, seconds in stages.items()}


def source_stages(times: Mapping[str, list[Times]], name: str, messages: int) -> dict[str, float]:
    """Return what each stage of a source takes, in µs for an average message of the capture."""
    stages, before = {}, 0.0
    for case, stage in STAGES.items():
        best = min(one["cpu"] for one in times[f"{name}: {case}"])
        stages[stage] = round((best - before) / messages * 1e6, 3)
        before = best
    return stages


def _verdict(
    what: str, peer: str, clock: str, measured: Mapping[str, float], floor: float | None
) -> dict[str, Any]:
    verdict: dict[str, Any] = {"what": what, "against": peer, "clock": clock, **measured}
    if floor is not None:
        verdict |= {"floor": floor, "reached": measured["best"] >= floor}
    return verdict


# End to end


@contextlib.contextmanager
def workload(folder: Path) -> Iterator[tuple[psycopg.Connection[Any], EmbeddedPostgres]]:
    """Yield a server where a slot stands before all that the capture's workload wrote."""
    schema = (folder / "mixed_schema.sql").read_text()
    functions, _, call = (folder / "mixed_run.sql").read_text().rpartition("\nCALL ")
    settings = {"max_replication_slots": "50", "max_wal_senders": "10"}
    with (
        EmbeddedPostgres(settings=settings) as server,
        psycopg.connect(server.dsn, autocommit=True) as connection,
    ):
        connection.execute(ORACLE)
        connection.execute(schema)
        connection.execute(PUBLICATION)
        connection.execute("select pg_create_logical_replication_slot('base', 'pgoutput')")
        connection.execute(functions)
        connection.execute(f"CALL {call}")
        yield connection, server


def published_rows(connection: psycopg.Connection[Any]) -> int:
    (count,) = connection.execute(
        """select count(*) from pg_logical_slot_peek_binary_changes('base', null, null,
               'proto_version', '1', 'publication_names', 'bench')
           where get_byte(data, 0) = any (%s)""",
        (list(b"IUD"),),
    ).fetchone() or (0,)
    return int(count)


def end_to_end(folder: Path) -> dict[str, Any]:
    """Read the workload's rows from slots, with pgoutput-decoder and with our source."""
    rust = python_with("pgoutput-decoder", at_least=(3, 12))
    compiled = (ACCELERATOR / ".done").is_file()
    cases = [case for case in END_TO_END if compiled or not case.endswith(" in c")]
    times: dict[str, list[Times]] = {case: [] for case in cases}
    with workload(folder) as (connection, server):
        rows = published_rows(connection)
        for number in range(END_TO_END_ROUNDS):
            print(f"   end to end, round {number + 1} of {END_TO_END_ROUNDS}", file=sys.stderr)
            for case in cases:
                slot = re.sub(r"\W+", "_", f"{case}_{number}")
                connection.execute(
                    sql.SQL("select pg_copy_logical_replication_slot('base', {})").format(slot)
                )
                python = rust if case.startswith("pgoutput-decoder") else sys.executable
                place = (server.port, "postgres", "bench", slot, rows)
                output = subprocess.run(
                    [
                        *(python, PEERS / "end_to_end.py", case.removesuffix(" in c")),
                        *(str(part) for part in place),
                    ],
                    stdout=subprocess.PIPE,
                    check=True,
                    timeout=300,
                    env=surroundings(case.endswith(" in c")),
                ).stdout
                times[case].append(json.loads(output))
        version = connection.info.parameter_status("server_version")
    return {
        "postgresql": version,
        "pgoutput-decoder's python": _version_of(rust),
        "rows": rows,
        "rounds": END_TO_END_ROUNDS,
        "rows_per_second": {
            case: round(rows / min(one["wall"] for one in passes)) for case, passes in times.items()
        },
        "times": {
            case: [{clock: round(one[clock], 3) for clock in ("wall", "cpu")} for one in passes]
            for case, passes in times.items()
        },
    }


def _version_of(python: Path) -> str:
    code = "import platform; print(platform.python_version())"
    return subprocess.run([python, "-c", code], capture_output=True, text=True).stdout.strip()


def end_to_end_ratios(
    result: Mapping[str, Any], times: Mapping[str, list[Times]], rows: int
) -> list[dict[str, Any]]:
    """Compare with pgoutput-decoder: its rows end to end with ours, and with our decoder's."""
    rates = result["rows_per_second"]
    theirs, their_json = rates["pgoutput-decoder values"], rates["pgoutput-decoder json"]
    found = []
    for case in ("messages", "changes", "values"):
        best = min(one["wall"] for one in times[f"ours: {case} without arrays"])
        measured = {"best": round(rows / best / theirs, 1)}
        what = f"{case} from the capture"
        floor = END_TO_END_FLOOR if case != "values" else None
        found.append(_verdict(what, "pgoutput-decoder end to end", "wall", measured, floor))
    floors = {"changes": END_TO_END_FLOOR, "values in c": VALUES_IN_C_FLOOR}
    for case in [case for case in rates if not case.startswith("pgoutput-decoder")]:
        measured = {"best": round(rates[case] / (their_json if case == "v1 json" else theirs), 1)}
        what, peer = f"{case}, PgoutputSource end to end", "pgoutput-decoder end to end"
        floor = floors.get(case)
        found.append(_verdict(what, peer, "wall", measured, floor))
    return found


# Reporting


def show(result: Mapping[str, Any]) -> None:
    print(f"{'case, in CPU time':38} {'messages/s':>11} {'rows/s':>9} {'µs/message':>11}")
    for case, figures in result["cases"].items():
        print(
            f"{case:38} {figures['messages_per_second']:>11,} {figures['rows_per_second']:>9,} "
            f"{figures['us_per_message']:>11}"
        )
    print()
    for case, rate in result.get("end_to_end", {}).get("rows_per_second", {}).items():
        print(f"end to end: {case:26} {'':>11} {rate:>9,}")
    print()
    print(f"{'what':42} {'against, clock':34} {'ratio':>7} {'median':>7} {'floor':>6}")
    for one in result["ratios"]:
        verdict = {None: "", True: "reached", False: "NOT reached"}[one.get("reached")]
        against = f"{one['against']}, {one['clock']}"
        print(
            f"{one['what']:42} {against:34} {one['best']:>7} {one.get('median', ''):>7} "
            f"{one.get('floor', ''):>6} {verdict}"
        )
    print()
    for stage, microseconds in result["hot_path_us_per_message"].items():
        print(f"{stage:42} {microseconds:>7.3f} µs/message")
    for name, stages in result["source_us_per_message"].items():
        for stage, microseconds in stages.items():
            print(f"{f'{name}: {stage}':52} {microseconds:>7.3f} µs/message")
    print("\ndecoding's share of the time of", end="")
    print(*(f" {case}: {share:.0%}" for case, share in result["decoding_as_share_of"].items()))
    for name, reason in result["left_out"].items():
        print(f"left out: {name}: {reason}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decoder", description=__doc__)
    parser.add_argument("captures", nargs="?", help="folder of captures, or a capture")
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    capture = find_capture(arguments.captures)
    left_out: dict[str, str] = {}
    load = [os.getloadavg()[0]]

    workers = start_workers(capture, left_out)
    try:
        counts = check(workers)
        times = run_rounds(workers, arguments.rounds)
    finally:
        for worker in workers.values():
            worker.close()
    load.append(os.getloadavg()[0])

    def counted(case: str) -> Mapping[str, int]:
        name, _, kind = case.partition(": ")
        if name == "wal2json":
            name = "wal2json " + kind.removesuffix(" json.loads")
        elif kind.endswith("without arrays"):
            name = "ours without arrays"
        count: Mapping[str, int] = counts[name]
        return count

    result: dict[str, Any] = {
        "environment": environment("psycopg", "orjson"),
        "capture": {"file": capture.name, **counts["ours"]},
        "rounds": arguments.rounds,
        "cases": {
            case: summary(passes, counted(case))
            for case, passes in times.items()
            if not case.startswith(("hot path", "source"))
        },
        "ratios": ratios(times),
        "source_us_per_message": {
            name: source_stages(times, name, counts["ours"]["messages"])
            for name in ("source", "source in c")
            if name in workers
        },
        "decoding_as_share_of": shares(times),
        "hot_path_us_per_message": hot_path(times, counts["ours"]["messages"]),
        "left_out": left_out,
    }
    try:
        found = end_to_end(capture.parent / "workload")
        result["end_to_end"] = found
        rows = counts["ours without arrays"]["rows"]
        result["ratios"] += end_to_end_ratios(found, times, rows)
    except (PeerUnavailableError, FileNotFoundError) as exc:
        left_out["pgoutput-decoder"] = str(exc)
    result["load_average"] = [*load, os.getloadavg()[0]]
    show(result)
    print(save("decoder", "python -m benchmarks.decoder", result))


if __name__ == "__main__":
    main()
