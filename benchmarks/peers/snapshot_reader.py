"""Receive a table's rows as a snapshot of our source, or up to one of its stages.

    python -m benchmarks.peers.snapshot_reader CASE DSN PUBLICATION

Prints, as JSON, seconds from before connecting to the last row (``wall``), of CPU time
(``cpu``), the rows, and the resident memory in bytes: before connecting, and at its peak.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

from realtime_core import PgoutputSource, Snapshot, SnapshotComplete
from realtime_core.snapshot.copy_text import read_rows
from realtime_core.sources._copy_out import CopyOut
from realtime_core.sources._sessions import copying_connection

TABLE = "COPY (SELECT * FROM orders ORDER BY id) TO STDOUT"
COLUMNS = 6


async def pieces(dsn: str) -> AsyncIterator[bytes]:
    connection = await copying_connection(dsn, settings={}, names=None)
    copy = CopyOut(connection, "orders")
    await copy.start(TABLE)
    while data := await copy.read():
        yield data
    connection.pgconn.finish()


async def receive(dsn: str, publication: str) -> int:
    """Take the rows out of libpq, and no more."""
    return sum([data.count(b"\n") async for data in pieces(dsn)])


async def decode(dsn: str, publication: str) -> int:
    """Split them into fields, too."""
    return sum([len(read_rows(data, COLUMNS)) async for data in pieces(dsn)])


def source(dsn: str, publication: str) -> Any:
    return PgoutputSource(dsn, publications=[publication], snapshot="initial")


async def batches(dsn: str, publication: str) -> int:
    """The whole source, by batches."""
    rows = 0
    async with source(dsn, publication) as changes:
        async for batch in changes.batches():
            rows += len(batch)
            if type(batch[-1]) is SnapshotComplete:
                break
    return rows - 2


async def events(dsn: str, publication: str) -> int:
    """Row by row."""
    rows = 0
    async with source(dsn, publication) as changes:
        async for event in changes:
            if type(event) is Snapshot:
                rows += 1
            elif type(event) is SnapshotComplete:
                break
    return rows


async def typed(dsn: str, publication: str) -> int:
    """By batches, with all values as Python's, as psycopg2's cursor has them."""
    rows = 0
    async with source(dsn, publication) as changes:
        async for batch in changes.batches():
            for event in batch:
                if type(event) is Snapshot:
                    event.record.as_python()
                    rows += 1
            if type(batch[-1]) is SnapshotComplete:
                break
    return rows


CASES: dict[str, Callable[[str, str], Coroutine[Any, Any, int]]] = {
    function.__name__: function for function in (receive, decode, batches, events, typed)
}


def memory(which: str) -> int:
    # Not getrusage, which counts the parent's memory before exec, too.
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"{which}:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    case, dsn, publication = sys.argv[1:]
    before = memory("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    rows = asyncio.run(CASES[case](dsn, publication))
    result = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "rows": rows,
        "rss_before": before,
        "peak_rss": memory("VmHWM"),
    }
    print(json.dumps(result), flush=True)


main()
