"""Read a table with psycopg2's named cursor, in the order of the key.

    python psycopg2_named_cursor.py DSN

Runs in an environment of its own. Prints what ``snapshot_reader`` prints.
"""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path

import psycopg2


def peak_rss() -> int:
    # Not getrusage, which counts the parent's memory before exec, too.
    status = Path("/proc/self/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


def main() -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    rows = 0
    with psycopg2.connect(sys.argv[1]) as connection, connection.cursor("rows") as cursor:
        cursor.execute("SELECT * FROM orders ORDER BY id")
        for _ in cursor:
            rows += 1
    result = {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "rows": rows,
        "peak_rss": peak_rss(),
    }
    print(json.dumps(result), flush=True)


main()
