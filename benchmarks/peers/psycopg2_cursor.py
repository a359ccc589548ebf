"""Receive a slot with psycopg2's replication cursor, which hands over the raw bytes.

    python psycopg2_cursor.py DSN SLOT PUBLICATION ROWS

Runs in an environment of its own. Prints what ``source_reader`` prints.
"""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import suppress
from pathlib import Path

import psycopg2
import psycopg2.extras


class Counter:
    """The callback of ``consume_stream``: counts rows and ends with the last one."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._seen = 0
        self.first = 0.0

    def __call__(self, message: psycopg2.extras.ReplicationMessage) -> None:
        if message.payload[:1] == b"I":
            if not self._seen:
                self.first = time.perf_counter()
            self._seen += 1
            if self._seen == self._wanted:
                raise psycopg2.extras.StopReplication


def peak_rss() -> int:
    # Not getrusage, which counts the parent's memory before exec, too.
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    dsn, slot, publication, rows = sys.argv[1:]
    cpu, wall = time.process_time(), time.perf_counter()
    connection = psycopg2.connect(
        dsn, connection_factory=psycopg2.extras.LogicalReplicationConnection
    )
    cursor = connection.cursor()
    options = {"proto_version": "1", "publication_names": publication}
    cursor.start_replication(slot_name=slot, options=options, decode=False)
    counter = Counter(int(rows))
    with suppress(psycopg2.extras.StopReplication):
        cursor.consume_stream(counter)
    result = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "first": counter.first - wall,
        "peak_rss": peak_rss(),
    }
    print(json.dumps(result), flush=True)


main()
