"""How long a warm standby takes from the first server's end to the next row on its sockets.

    python -m benchmarks.standby

Two servers, processes of their own, with one slot. The first is killed (SIGKILL) or stopped
(SIGTERM) at a random point of the second's looks at the slot; from then on rows are committed, a
hundred a second; the time ends when one is read from a socket of the second, which then becomes
the first.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import time
from random import Random
from typing import Any

import psycopg

from benchmarks._report import environment, percentile, save
from realtime_server.demo.embedded import EmbeddedPostgres
from tests.raw_client import RawClient
from tests.server_process import ServerProcess

TAKEOVERS = 20
TOPIC = "realtime:public:item"
SETTINGS = {"PUBLICATIONS": '["bench"]', "SLOT_NAME": "standby_bench"}


async def takeovers(dsn: str, number: signal.Signals, random: Random) -> dict[str, Any]:
    """Let one server after the other end; return how long each takeover took."""
    times = []
    with contextlib.ExitStack() as stack, psycopg.connect(dsn, autocommit=True) as connection:
        first = stack.enter_context(ServerProcess(dsn, **SETTINGS))
        first.wait_until_streaming()
        for _ in range(TAKEOVERS):
            second = stack.enter_context(ServerProcess(dsn, **SETTINGS))
            second.wait_for_log(re.compile("waiting until it is free"))
            client = await RawClient.join(second.port, TOPIC)
            await asyncio.sleep(random.random())
            begin = time.perf_counter()
            first.process.send_signal(number)
            while not client.ids:
                connection.execute("insert into item default values")
                await asyncio.sleep(0.01)
            times.append(time.perf_counter() - begin)
            client.close()
            first.process.wait()
            first = second
    return {
        "takeovers": TAKEOVERS,
        "seconds_median": round(percentile(times, 0.5), 2),
        "seconds_max": round(max(times), 2),
    }


async def main() -> None:
    random = Random()
    with contextlib.ExitStack() as stack:
        dsn = os.environ.get("BENCH_DSN") or stack.enter_context(EmbeddedPostgres()).dsn
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("drop publication if exists bench")
            connection.execute("drop table if exists item")
            connection.execute("create table item (id bigserial primary key)")
            connection.execute("create publication bench for table item")
        result: dict[str, Any] = {"environment": environment("psycopg", "websockets")}
        for number in (signal.SIGKILL, signal.SIGTERM):
            result[number.name] = await takeovers(dsn, number, random)
            print(f"{number.name}: {result[number.name]}")
    print(f"saved {save('standby', 'python -m benchmarks.standby', result)}")


if __name__ == "__main__":
    asyncio.run(main())
