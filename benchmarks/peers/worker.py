"""What the Python peers have in common: the capture's messages, and passes over them.

A worker is a process that loads the capture once, says that it is ready, and then makes one
pass for each case named on its standard input. Each pass is timed in here, so that neither
loading nor the pipe counts. The garbage collector starts clean and stays on, as in any program.
"""

from __future__ import annotations

import gc
import gzip
import json
import struct
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["read_capture", "serve"]

_length_at = struct.Struct("!I").unpack_from


def read_capture(path: Path) -> list[bytes]:
    """Return the messages of a capture: each behind its length, the whole compressed."""
    data = gzip.decompress(path.read_bytes())
    messages = []
    offset = 0
    while offset < len(data):
        start = offset + 4
        offset = start + _length_at(data, offset)[0]
        messages.append(data[start:offset])
    return messages


def serve(cases: Mapping[str, Callable[[], object]]) -> None:
    """Make passes until standard input ends; print each one's times and what it returned."""
    print("ready", flush=True)
    for line in sys.stdin:
        run = cases[line.strip()]
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        result = run()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        print(json.dumps({"wall": wall, "cpu": cpu, "result": result}), flush=True)
