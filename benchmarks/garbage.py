"""How long collections of garbage take, in which all clients wait.

    python -m benchmarks.garbage          # 1,000 and 10,000 clients; a minute
    python -m benchmarks.garbage 4000     # so many; saves nothing

Clients of a server join, are lost all at once, and join again: with CPython's own collections, and
with the server's (:mod:`realtime_server.net.garbage`), each in a process of its own. There is no
database: joins are accepted all the same. The times are of the processor.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks._report import environment, save
from benchmarks.load.programs import Client, compile_programs
from realtime_server.net.garbage import Garbage
from realtime_server.server import RealtimeServer
from tests.server_helpers import dev_config
from tests.waiting import eventually

CLIENTS: Final = (1000, 10_000)
OURS, CPYTHON = "ours", "CPython's"
FULL: Final = 2


class Times:
    """Notes how long each collection takes."""

    def __init__(self) -> None:
        self._begin = 0.0
        self._full: list[float] = []
        self._others: list[float] = []
        gc.callbacks.insert(0, self._note)

    def _note(self, phase: str, info: dict[str, Any]) -> None:
        if phase == "start":
            self._begin = time.thread_time()
        else:
            kind = self._full if info["generation"] == FULL else self._others
            kind.append((time.thread_time() - self._begin) * 1000)

    def take(self) -> dict[str, float]:
        """Return what was noted, and begin anew."""
        found = {
            "full": len(self._full),
            "longest_ms": round(max(self._full, default=0), 1),
            "full_ms": round(sum(self._full), 1),
            "others_ms": round(sum(self._others), 1),
        }
        self._full.clear()
        self._others.clear()
        return found


async def measure(kind: str, clients: int) -> dict[str, Any]:
    logging.disable(logging.CRITICAL)
    settings = {"HANDSHAKE_TIMEOUT": "120000", "IDLE_TIMEOUT": "300000"}
    config = dev_config("host=127.0.0.1 port=1", MAX_CONNECTIONS=str(clients + 10), **settings)
    found: dict[str, Any] = {"collections": kind, "clients": clients}
    with tempfile.TemporaryDirectory() as directory:
        compile_programs(Path(directory))
        async with RealtimeServer(config) as server:
            gc.collect()
            gc.freeze()
            collecting = None
            if kind == OURS:
                collecting = asyncio.create_task(Garbage().run())
                await asyncio.sleep(0)
            before, times = len(gc.get_objects()), Times()
            topic, begin = "realtime:public:item", time.thread_time()
            options = {"sessions": 1, "inflight": 256}
            joining = Client.join(Path(directory), server.port, clients, topic, **options)
            async with await joining as client:
                found["join_us"] = round((time.thread_time() - begin) / clients * 1e6)
                found["joining"] = times.take()
                if kind == CPYTHON:
                    objects = len(gc.get_objects()) - before
                    found["objects_per_client"] = round(objects / clients, 1)
                await client.cut()
                await eventually(lambda: server.open_connections == 0, within=60)
                found["leaving"] = times.take()
                begin = time.thread_time()
                await client.back(0)
                found["return_us"] = round((time.thread_time() - begin) / clients * 1e6)
                found["returning"] = times.take()
            if collecting is not None:
                collecting.cancel()
                await asyncio.wait({collecting})
    return found


def main(clients: list[int]) -> None:
    rows = []
    for count in clients or CLIENTS:
        for kind in (CPYTHON, OURS):
            command = [sys.executable, "-m", "benchmarks.garbage", "--one", kind, str(count)]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            rows.append(json.loads(output))
            print(rows[-1], flush=True)
    if not clients:
        result = {"environment": environment("websockets"), "collections": rows}
        print(save("garbage", "python -m benchmarks.garbage", result))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(asyncio.run(measure(sys.argv[2], int(sys.argv[3])))))
    else:
        main([int(argument) for argument in sys.argv[1:]])
