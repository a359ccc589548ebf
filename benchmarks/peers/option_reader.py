"""Receive changes with our source and some option, beginning when it is told.

    python -m benchmarks.peers.option_reader CASE DSN SLOT PUBLICATION ROWS

Attaches, waits for a first row, prints a line, and waits for one. Then it reads so many rows, and
prints, as JSON, seconds of the wall clock (``wall``) and of CPU time (``cpu``) for them.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from realtime_core import Hooks, Insert, PgoutputSource, SnapshotComplete

OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "plain_again": {},
    "behind_snapshot": {"snapshot": "initial"},
    "idle_hooks": {"hooks": Hooks()},
}
"""The options of each case; two that are the same show how much of a ratio is chance."""


async def main(case: str, dsn: str, slot: str, publication: str, rows: int) -> None:
    async with PgoutputSource(
        dsn, publications=[publication], slot=slot, **OPTIONS[case]
    ) as source:
        batches = source.batches()
        async for batch in batches:
            if type(batch[-1]) is SnapshotComplete:
                source.ack(batch[-1])
            elif type(batch[-1]) is Insert:
                break
        print("ready", flush=True)
        sys.stdin.readline()
        wall, cpu = time.perf_counter(), time.process_time()
        async for batch in batches:
            rows -= len(batch)
            if rows <= 0:
                break
        used = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}
    print(json.dumps(used), flush=True)


if __name__ == "__main__":
    case, dsn, slot, publication, rows = sys.argv[1:]
    asyncio.run(main(case, dsn, slot, publication, int(rows)))
