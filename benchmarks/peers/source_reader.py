"""Receive a slot with our source, whole or up to one of its stages.

    python -m benchmarks.peers.source_reader CASE DSN SLOT PUBLICATION ROWS

Prints, as JSON, seconds from before connecting to the last row (``wall``), of CPU time
(``cpu``), to the first row (``first``), and the peak of the resident memory in bytes.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from realtime_core import Insert, PgoutputSource, RawPgoutputSource, RawRows
from realtime_core.lsn import LSN
from realtime_core.pgoutput import ChangeDecoder
from realtime_core.replication.commands import pgoutput_options
from realtime_core.replication.protocol import TAG_XLOG_DATA, XLOG_DATA_HEADER
from realtime_core.sources._replication_connection import ReplicationConnection

_INSERT = ord("I")


class Progress:
    """Notes the first row, and says when the last one has come."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._seen = 0
        self.began = self._now()
        self.first = self.ended = self.began

    def rows(self, count: int) -> bool:
        if count and not self._seen:
            self.first = self._now()
        self._seen += count
        if self._seen < self._wanted:
            return False
        # Closing is not counted, for none of the contenders.
        self.ended = self._now()
        return True

    @staticmethod
    def _now() -> tuple[float, float]:
        return time.perf_counter(), time.process_time()


@asynccontextmanager
async def connected(dsn: str, slot: str, publication: str) -> AsyncIterator[ReplicationConnection]:
    connection = await ReplicationConnection.connect(dsn, slot)
    await connection.start(LSN(0), pgoutput_options([publication]))
    try:
        yield connection
    finally:
        connection.close()


async def receive(dsn: str, slot: str, publication: str, progress: Progress) -> None:
    """Take the messages out of libpq, and no more."""
    async with connected(dsn, slot, publication) as connection:
        while True:
            rows = sum(
                len(payload) > XLOG_DATA_HEADER and payload[XLOG_DATA_HEADER] == _INSERT
                for payload in await connection.read()
            )
            if progress.rows(rows):
                return


async def decode(dsn: str, slot: str, publication: str, progress: Progress) -> None:
    """Make changes of them, too."""
    decoder = ChangeDecoder()
    async with connected(dsn, slot, publication) as connection:
        while True:
            payloads = await connection.read()
            changes = decoder.decode(
                bytes(payload[XLOG_DATA_HEADER:])
                for payload in payloads
                if payload[0] == TAG_XLOG_DATA
            )
            if progress.rows(sum(type(change) is Insert for change in changes)):
                return


async def batches(dsn: str, slot: str, publication: str, progress: Progress) -> None:
    """The whole source, by batches."""
    async with PgoutputSource(dsn, publications=[publication], slot=slot) as source:
        async for batch in source.batches():
            if progress.rows(len(batch)):
                return


async def raw(dsn: str, slot: str, publication: str, progress: Progress) -> None:
    """The whole source that leaves rows as bytes, by batches, as who passes them on reads it."""
    async with RawPgoutputSource(
        dsn, publications=[publication], slot=slot, boundaries=True
    ) as source:
        async for batch in source.batches():
            if progress.rows(sum(len(e.messages) for e in batch if type(e) is RawRows)):
                return


async def events(dsn: str, slot: str, publication: str, progress: Progress) -> None:
    """The whole source, change by change."""
    async with PgoutputSource(dsn, publications=[publication], slot=slot) as source:
        async for _ in source:
            if progress.rows(1):
                return


async def acknowledged(dsn: str, slot: str, publication: str, progress: Progress) -> None:
    """Change by change, each acknowledged."""
    async with PgoutputSource(dsn, publications=[publication], slot=slot) as source:
        async for change in source:
            source.ack(change)
            if progress.rows(1):
                return


async def transactions(dsn: str, slot: str, publication: str, progress: Progress) -> None:
    """By transactions."""
    async with PgoutputSource(dsn, publications=[publication], slot=slot) as source:
        async for item in source.transactions(100_000_000):
            if progress.rows(len(getattr(item, "changes", ()))):
                return


def sync(dsn: str, slot: str, publication: str, progress: Progress) -> None:
    """The whole source without an event loop, change by change."""
    with PgoutputSource.sync(dsn, publications=[publication], slot=slot) as source:
        for _ in source:
            if progress.rows(1):
                return


def sync_acknowledged(dsn: str, slot: str, publication: str, progress: Progress) -> None:
    """The same, each change acknowledged."""
    with PgoutputSource.sync(dsn, publications=[publication], slot=slot) as source:
        for change in source:
            source.ack(change)
            if progress.rows(1):
                return


def sync_batches(dsn: str, slot: str, publication: str, progress: Progress) -> None:
    """The same, by batches."""
    with PgoutputSource.sync(dsn, publications=[publication], slot=slot) as source:
        for batch in source.batches():
            if progress.rows(len(batch)):
                return


SYNC_CASES = {function.__name__: function for function in (sync, sync_acknowledged, sync_batches)}
CASES: dict[str, Callable[[str, str, str, Progress], Coroutine[Any, Any, None]]] = {
    function.__name__: function
    for function in (receive, decode, batches, raw, events, acknowledged, transactions)
}


def peak_rss() -> int:
    # Not getrusage, which counts the parent's memory before exec, too.
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    case, dsn, slot, publication, rows = sys.argv[1:]
    progress = Progress(int(rows))
    if case in SYNC_CASES:
        SYNC_CASES[case](dsn, slot, publication, progress)
    else:
        asyncio.run(CASES[case](dsn, slot, publication, progress))
    result = {
        "wall": progress.ended[0] - progress.began[0],
        "cpu": progress.ended[1] - progress.began[1],
        "first": progress.first[0] - progress.began[0],
        "peak_rss": peak_rss(),
    }
    print(json.dumps(result), flush=True)


main()
