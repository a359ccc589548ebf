"""What others do to a client's latency: quiet rounds and hostile ones by turns, in one run.

    python -m benchmarks.hostile

Twenty honest clients get a row now and then, and send their heartbeats; in the hostile rounds
`tests/hostile.py` is at the server besides: a thousand half-open connections, slow handshakes,
floods of joins, heartbeats, pings and fragments, joins with large patterns, thousands of
conditions, long lists and long topics, giant frames, garbage. The ratio of the two latencies is
the figure; the attackers need a processor, too, so it is an upper bound on what is the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from typing import Any

import psycopg

from benchmarks._report import environment, percentile, save
from benchmarks.e2e import TOPIC, WRITER, TimedClient, database
from tests.hostile import HostileProcess
from tests.server_process import ServerProcess
from tests.waiting import eventually

CLIENTS = 20
RATE = 50
SECONDS = 10
ROUNDS = 3
HEARTBEAT = 1.0
"""Seconds between two of a client's."""


async def latencies(dsn: str, server: ServerProcess) -> tuple[list[float], float]:
    """Write rows at the rate.

    Returns:
        how long after its commit each arrived, in seconds, and the server's processor time.
    """
    cpu = server.cpu_time()
    rows = RATE * SECONDS
    # New ones each time: they answer no pings, and would be taken for dead after a while.
    listeners = [
        await TimedClient.join(server.port, TOPIC, heartbeat=HEARTBEAT) for _ in range(CLIENTS)
    ]
    writer = subprocess.Popen(  # noqa: ASYNC220 (starts at once, waited for at the end)
        [sys.executable, "-c", WRITER, dsn, str(rows), "1", str(RATE)]
    )
    await eventually(lambda: all(len(one.ids) >= rows for one in listeners), within=60)
    writer.wait()
    for one in listeners:
        assert one.ids == list(range(one.ids[0], one.ids[0] + rows)), "rows missing"
        one.close()
    return [value for one in listeners for value in one.latencies], server.cpu_time() - cpu


class Rounds:
    """What the rounds of one kind showed."""

    def __init__(self) -> None:
        self._samples: list[float] = []
        self._cpu = 0.0

    def add(self, samples: list[float], cpu: float) -> None:
        self._samples += samples
        self._cpu += cpu

    def percentile(self, share: float) -> float:
        return percentile(self._samples, share)

    def summary(self) -> dict[str, float]:
        return {
            "samples": len(self._samples),
            "p50_ms": round(self.percentile(0.50) * 1000, 2),
            "p90_ms": round(self.percentile(0.90) * 1000, 2),
            "p99_ms": round(self.percentile(0.99) * 1000, 2),
            "max_ms": round(max(self._samples) * 1000, 2),
            "server_cpu_share": round(self._cpu / (ROUNDS * SECONDS), 3),
        }


async def main() -> None:
    quiet, hostile = Rounds(), Rounds()
    attempts: dict[str, int] = {}
    with database() as dsn, ServerProcess(dsn, PUBLICATIONS='["bench"]') as server:
        with psycopg.connect(dsn) as connection:
            version = connection.info.parameter_status("server_version")
        server.wait_until_streaming()
        await latencies(dsn, server)
        calm_memory = server.peak_memory()
        for _ in range(ROUNDS):
            quiet.add(*await latencies(dsn, server))
            with contextlib.ExitStack() as stack:
                # Its beginning and its end are not of this event loop's making.
                enemies = await asyncio.to_thread(stack.enter_context, HostileProcess(server.port))
                hostile.add(*await latencies(dsn, server))
                await asyncio.to_thread(stack.close)
            for kind, count in enemies.attempts.items():
                attempts[kind] = attempts.get(kind, 0) + count
        memory = server.peak_memory() - calm_memory
    result: dict[str, Any] = {
        "environment": {**environment("websockets", "orjson"), "postgresql": version},
        "clients": CLIENTS,
        "rows_per_second": RATE,
        "heartbeat_seconds": HEARTBEAT,
        "rounds": ROUNDS,
        "seconds_a_round": SECONDS,
        "attempts": attempts,
        "quiet": quiet.summary(),
        "hostile": hostile.summary(),
        "ratio": {
            name: round(hostile.percentile(share) / quiet.percentile(share), 1)
            for name, share in {"p50": 0.50, "p90": 0.90, "p99": 0.99}.items()
        },
        "peak_memory_growth_mb": round(memory / 1e6, 1),
    }
    for name in ("attempts", "quiet", "hostile", "ratio", "peak_memory_growth_mb"):
        print(name, result[name])
    print(save("hostile", "python -m benchmarks.hostile", result))


if __name__ == "__main__":
    asyncio.run(main())
