"""What each attack does to others' latency and to the server's memory.

    python -m benchmarks.hostile                                # six minutes
    python -m benchmarks.hostile --attack join_flood --mode RLS  # that alone; saves nothing

Each attack of ``tests/hostile`` has a server of its own, and is tried alone: some seconds of
quiet, the attack, some seconds of quiet. All the time twenty honest clients get 50 rows a second
and send heartbeats, and read what comes at once. The figures are the time from a row's COMMIT to
a client, and from a heartbeat to its reply; the ratio is to the quieter of the two phases beside
the attack. Memory is the server's largest resident size during the attack, beyond the one before.

PostgreSQL, the server, the clients, the writer and the attackers are processes of their own. The
attackers must not be what is measured, on few cores: they let all others go first (nice 19),
and take half a processor at most. An attack meets the floor when others' p99, of rows and of
heartbeats, is at most 3 times the quiet one plus 20 ms, and memory grows by at most 64 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, TypeAlias

import attrs
import psycopg

from benchmarks._report import environment, save
from benchmarks.load.programs import Client, compile_programs, cpu_time
from realtime_server.demo.embedded import EmbeddedPostgres
from tests.hostile import HostileProcess
from tests.server_process import ServerProcess
from tests.tokens import SECRET, make_token

CLIENTS: Final = 20
RATE: Final = 50
"""Rows a second."""
HEARTBEAT: Final = 100
"""Milliseconds between two of a client's: more often than real ones, to see each pause."""
QUIET, HOSTILE = 1.5, 2.5
"""Seconds of a phase."""
SHARE: Final = 0.5
"""Of a processor, for the attackers."""
MB: Final = 1024 * 1024
MOST_MEMORY: Final = 64
"""MB that it may grow by."""
OWNER: Final = "11111111-2222-3333-4444-555555555555"
STREAM, RLS = "STREAM", "RLS"
LARGE_ROW: Final = 50_000
"""Bytes, ten times a second in some cases."""

SETUP: Final = f"""
    create role reader;
    create role slow;
    create role hanging;
    create role raising;
    create table item (id bigserial primary key, owner uuid, data text);
    create table large (id bigserial primary key, data text);
    alter table item enable row level security;
    create function raise() returns bool language plpgsql as
        $$ begin raise 'a policy that fails'; end $$;
    create policy own on item to reader using (
        owner = (select (nullif(current_setting('request.jwt.claims', true), '')::jsonb
            ->> 'sub')::uuid)
    );
    create policy slow on item to slow using (pg_sleep(0.1) is not null);
    create policy hanging on item to hanging using (pg_sleep(3600) is not null);
    create policy raising on item to raising using (raise());
    grant select on item, large to reader, slow, hanging, raising;
    alter table large alter data set storage external;
    insert into item (owner, data)
        select '{OWNER}', repeat('x', 100) from generate_series(1, 10000);
    create publication bench for table item, large;
    analyze item
"""
WRITER: Final = f"""
import sys, time
import psycopg
connection = psycopg.connect(sys.argv[1], autocommit=True)
large = int(sys.argv[2])
for line in sys.stdin:
    begin = time.monotonic()
    for number in range(int(line)):
        time.sleep(max(begin + number / {RATE} - time.monotonic(), 0))
        connection.execute(
            "insert into item (owner, data) values ('{OWNER}', repeat('x', 100))", prepare=True
        )
        if large and number % {RATE // 10} == 0:
            connection.execute(
                "insert into large (data) values (repeat('xyab', %s::int / 4))", (large,),
                prepare=True,
            )
    print("written", flush=True)
"""

Row: TypeAlias = dict[str, Any]


@attrs.frozen
class Case:
    """An attack, and where it is tried."""

    attack: str
    modes: tuple[str, ...] = (STREAM,)
    large: int = 0
    """Bytes of rows of another table, to which attackers listen; 0: none."""
    settings: dict[str, str] = attrs.field(factory=dict)
    """That it needs, or that an operator would make for it."""


BOTH: Final = (STREAM, RLS)
CASES: Final = (
    Case("half_open"),
    Case("slow_handshake"),
    Case("reconnect_storm", BOTH),
    Case("forged_handshake"),
    Case("http_flood"),
    Case("giant_frame"),
    Case("deflate_bomb", settings={"WEBSOCKET_COMPRESSION": "true"}),
    Case("heartbeat_flood", BOTH),
    Case("ping_flood"),
    Case("fragment_flood"),
    Case("unmatched_events"),
    Case("invalid_utf8"),
    Case("binary_frame"),
    Case("no_frame"),
    Case("large_post"),
    Case("deaf"),
    Case("deaf_to_large_rows", BOTH, LARGE_ROW, {"OUTBOX_TOTAL_BYTES": str(32 * MB)}),
    Case("slow_reader", large=LARGE_ROW),
    Case("join_flood", BOTH),
    Case("many_channels", BOTH),
    Case("large_regexes", BOTH),
    Case("many_conditions", BOTH),
    Case("long_lists"),
    Case("many_problems"),
    Case("long_topics"),
    Case("refusals"),
    Case("unknown_tables", BOTH),
    Case("regexes_on_long_values", BOTH, LARGE_ROW),
    Case("like_on_long_values", BOTH, LARGE_ROW),
    Case("many_tokens", BOTH),
    Case("forged_tokens"),
    Case("slow_policy", (RLS,)),
    Case("hanging_policy", (RLS,)),
    Case("raising_policy", (RLS,)),
    Case("viewers_that_hang", (RLS,)),
)


class Stage:
    """A server with its honest clients, and what writes for them."""

    def __init__(self, server: ServerProcess, client: Client, writer: asyncio.subprocess.Process):
        self.server = server
        self._client = client
        self._writer = writer

    async def phase(self, seconds: float) -> Row:
        """Write rows for so long; return what the honest clients saw of it."""
        assert self._writer.stdin is not None
        assert self._writer.stdout is not None
        rows = round(RATE * seconds)
        pid = self.server.process.pid
        cpu, logged = cpu_time(pid), len(self.server.log)
        await self._client.expect(rows)
        self._writer.stdin.write(f"{rows}\n".encode())
        if await self._writer.stdout.readline() != b"written\n":
            raise RuntimeError("the writer failed")
        await self._client.arrived()
        report = await self._client.report()
        if report["closed"]:
            raise RuntimeError("an honest client was cut off")
        rows_ms, heartbeats_ms = report["latency_us"], report["heartbeat_us"]
        return {
            **{f"row_{name}_ms": rows_ms[name] / 1000 for name in ("p50", "p99", "max")},
            **{
                f"heartbeat_{name}_ms": heartbeats_ms[name] / 1000 for name in ("p50", "p99", "max")
            },
            "server_cpu_share": round((cpu_time(pid) - cpu) / seconds, 2),
            "log_kb_a_second": round(sum(map(len, self.server.log[logged:])) / seconds / 1000, 1),
        }


@contextlib.asynccontextmanager
async def stage(dsn: str, directory: Path, mode: str, case: Case) -> AsyncIterator[Stage]:
    settings = {
        "REPLICATION_MODE": mode,
        "SECURE_CHANNELS": "true",
        "JWT_SECRET": SECRET,
        "PUBLICATIONS": '["bench"]',
        "HANDSHAKE_TIMEOUT": "2000",
        **case.settings,
    }
    with ServerProcess(dsn, **settings) as server:
        server.wait_until_streaming()
        join = Client.join(
            directory, server.port, CLIENTS, "realtime:public:item", heartbeat=HEARTBEAT
        )
        writer = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", WRITER, dsn, str(case.large)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        async with await join as client:
            here = Stage(server, client, writer)
            # What is made once for a table, plans, and cold caches are no figures of a row.
            await here.phase(0.5)
            yield here
        assert writer.stdin is not None
        writer.stdin.close()
        await writer.wait()


async def measure(dsn: str, directory: Path, mode: str, case: Case, hostile: float) -> Row:
    """Try an attack."""
    async with stage(dsn, directory, mode, case) as here:
        before = await here.phase(QUIET)
        memory = here.server.forget_peak_memory()
        enemies = HostileProcess(here.server.port, case.attack, nice=19, share=SHARE)
        with contextlib.ExitStack() as stack:
            # Their beginning and end are not of this event loop's making.
            await asyncio.to_thread(stack.enter_context, enemies)
            during = await here.phase(hostile)
            growth = here.server.peak_memory() - memory
            await asyncio.to_thread(stack.close)
        after = await here.phase(QUIET)
    row: Row = {"attack": case.attack, "mode": mode}
    is_within = growth <= MOST_MEMORY * MB
    for kind in ("row", "heartbeat"):
        quiet = min(before[f"{kind}_p99_ms"], after[f"{kind}_p99_ms"])
        p99 = during[f"{kind}_p99_ms"]
        row |= {
            f"{kind}_p50_ms": round(during[f"{kind}_p50_ms"], 2),
            f"{kind}_p99_ms": round(p99, 2),
            f"{kind}_quiet_p99_ms": round(quiet, 2),
            f"{kind}_ratio": round(p99 / quiet, 1),
        }
        is_within &= p99 <= 3 * quiet + 20
    return row | {
        "memory_mb": round(growth / MB, 1),
        "server_cpu_share": during["server_cpu_share"],
        "log_kb_a_second": during["log_kb_a_second"],
        "attempts": enemies.attempts[case.attack],
        "attackers_cpu_seconds": round(enemies.cpu_time, 2),
        "is_within_the_floor": is_within,
        "settings": case.settings,
        "phases": {"before": before, "during": during, "after": after},
    }


COLUMNS: Final = {
    "attack": "attack",
    "mode": "mode",
    "heartbeat p50": "heartbeat_p50_ms",
    "p99 ms": "heartbeat_p99_ms",
    "quiet": "heartbeat_quiet_p99_ms",
    "ratio": "heartbeat_ratio",
    "row p50": "row_p50_ms",
    "p99 ms ": "row_p99_ms",
    "quiet ": "row_quiet_p99_ms",
    "ratio ": "row_ratio",
    "memory MB": "memory_mb",
    "log KB/s": "log_kb_a_second",
    "floor": "is_within_the_floor",
}


def line(row: Row) -> str:
    cells = {title: row[name] for title, name in COLUMNS.items()}
    cells["floor"] = "within" if row["is_within_the_floor"] else "over"
    return "| " + " | ".join(map(str, cells.values())) + " |"


async def main() -> None:
    parser = argparse.ArgumentParser(description="What each attack does to others.")
    parser.add_argument(
        "--attack",
        action="append",
        choices=[case.attack for case in CASES],
        help="that alone, several times for several; saves nothing",
    )
    parser.add_argument("--mode", choices=BOTH, help="that alone; saves nothing")
    parser.add_argument("--seconds", type=float, default=HOSTILE, help="that each attack lasts")
    arguments = parser.parse_args()
    os.environ["APIKEY"] = make_token({"role": "reader", "sub": OWNER})
    rows = []
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        compile_programs(directory)
        dsn = os.environ.get("BENCH_DSN") or stack.enter_context(EmbeddedPostgres()).dsn
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(SETUP)
            version = connection.info.parameter_status("server_version")
        print(f"| {' | '.join(title.strip() for title in COLUMNS)} |")
        print("|---" * len(COLUMNS) + "|")
        for case in CASES:
            for mode in case.modes:
                if arguments.mode in (None, mode) and (
                    arguments.attack is None or case.attack in arguments.attack
                ):
                    rows.append(await measure(dsn, directory, mode, case, arguments.seconds))
                    print(line(rows[-1]), flush=True)
    if arguments.attack is None and arguments.mode is None:
        result = {
            "environment": {
                **environment("websockets", "orjson", "psycopg"),
                "postgresql": version,
            },
            "clients": CLIENTS,
            "rows_a_second": RATE,
            "heartbeat_ms": HEARTBEAT,
            "seconds_of_attack": arguments.seconds,
            "seconds_of_quiet": QUIET,
            "attackers": {"nice": 19, "share_of_a_processor": SHARE},
            "over_the_floor": [
                f"{row['attack']} ({row['mode']})" for row in rows if not row["is_within_the_floor"]
            ],
            "results": rows,
        }
        print(save("hostile", "python -m benchmarks.hostile", result))


if __name__ == "__main__":
    asyncio.run(main())
