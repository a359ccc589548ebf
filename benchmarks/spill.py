"""A streamed transaction that is larger than memory may be: rows a second, and peak memory.

    python -m benchmarks.spill [rows]

The tests' encoder writes 5,000,000 rows in stream blocks, with 64 MB to hold them in; they
are decoded and held, spilled to a file in the system's temporary folder (TMPDIR names another;
choose one on disk), and handed over at the commit. Encoding is not in the times. Memory is the
resident set, as the kernel counts it, of this process alone: before the first row, and at its
highest.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks._report import environment, save
from realtime_core import LSN, Begin, Commit, Insert
from realtime_core.pgoutput import (
    Assembler,
    Decoder,
    InsertMessage,
    RelationColumn,
    RelationMessage,
    StreamCommitMessage,
    StreamStartMessage,
    StreamStopMessage,
)
from realtime_core.pgoutput.spill import FileSpillStore
from tests.pgoutput_encoder import encode

ROWS = 5_000_000
BOUND = 64 * 1024 * 1024
BLOCK = 10_000
XID, OID = 1000, 16385

COLUMNS = (("id", 20), ("customer", 23), ("amount", 1700), ("at", 1184), ("note", 25))


def blocks(rows: int) -> Iterator[list[bytes]]:
    """Yield the transaction a stream block at a time."""
    relation = RelationMessage(
        OID,
        "public",
        "orders",
        "d",
        tuple(RelationColumn(int(name == "id"), name, type_, -1) for name, type_ in COLUMNS),
        XID,
    )
    for start in range(0, rows, BLOCK):
        head = [StreamStartMessage(XID, start == 0), *([relation] if start == 0 else [])]
        yield [
            *(encode(message) for message in head),
            *(encode(row(number)) for number in range(start, min(start + BLOCK, rows))),
            encode(StreamStopMessage()),
        ]


def row(number: int) -> InsertMessage:
    second = f"{number // 60 % 60:02}:{number % 60:02}"
    fields = (
        str(number),
        str(number % 9973),
        f"{number % 100_000}.{number % 100:02}",
        f"2026-01-02 03:{second}.678901+00",
        f"order {number}, to be delivered as soon as it can be",
    )
    return InsertMessage(OID, fields, XID)


def spilled(folder: str) -> int:
    """Return the size of what this process has spilled."""
    sizes = [0]
    for link in Path("/proc/self/fd").iterdir():
        if link.is_symlink() and os.readlink(link).startswith(folder):
            sizes.append(link.stat().st_size)
    return max(sizes)


def measure(rows: int, folder: str) -> dict[str, Any]:
    decoder = Decoder()
    assembler = Assembler(max_memory=BOUND, spill_store=FileSpillStore(folder))
    before = psutil.Process().memory_info().rss
    holding = 0.0
    for block in blocks(rows):
        start = time.perf_counter()
        for data in block:
            assembler.feed(decoder.decode(data))
        holding += time.perf_counter() - start
    size = spilled(folder)
    held_peak = peak()

    commit = encode(StreamCommitMessage(XID, 0, LSN(2**40), LSN(2**40 + 48), 820_638_245_678_901))
    start = time.perf_counter()
    seen = 0
    for event in assembler.feed(decoder.decode(commit)):
        match event:
            case Insert():
                seen += 1
            case Begin() | Commit():
                pass
    handing_over = time.perf_counter() - start
    assert seen == rows
    assert spilled(folder) == 0, "the spill is still there"
    return {
        "rows": rows,
        "bound_mb": BOUND / 2**20,
        "rss_before_mb": round(before / 2**20, 1),
        "peak_rss_while_held_mb": round(held_peak / 2**20, 1),
        "peak_rss_mb": round(peak() / 2**20, 1),
        "spilled_mb": round(size / 2**20, 1),
        "decode_and_hold_rows_per_second": round(rows / holding),
        "hand_over_rows_per_second": round(rows / handing_over),
        "rows_per_second": round(rows / (holding + handing_over)),
    }


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else ROWS
    with tempfile.TemporaryDirectory() as folder:
        result = measure(rows, folder)
    for name, value in result.items():
        print(f"{name}: {value}")
    if rows == ROWS:
        print(save("spill", "python -m benchmarks.spill", {"environment": environment(), **result}))


if __name__ == "__main__":
    main()
