"""The server, which says for how long its event loop was held at most.

    python -m benchmarks.load.held

On SIGUSR1 it prints the longest time that one callback took since the last SIGUSR1, on the clock
and of the processor, in milliseconds, and which callback took most of the processor.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from types import FrameType

from realtime_server import cli

_longest = [0.0, 0.0]
_callback = [""]
_run = asyncio.Handle._run  # type: ignore[attr-defined]


def _timed(self: asyncio.Handle) -> None:
    begin, cpu = time.perf_counter(), time.thread_time()
    _run(self)
    _longest[0] = max(_longest[0], time.perf_counter() - begin)
    cpu = time.thread_time() - cpu
    if cpu > _longest[1]:
        _longest[1] = cpu
        _callback[0] = f"{self!r:.100}"


def _say(number: int, frame: FrameType | None) -> None:
    told = " ".join(f"{seconds * 1000:.2f}" for seconds in _longest)
    print(f"held for {told} ms by {_callback[0]}", file=sys.stderr, flush=True)
    _longest[:] = 0.0, 0.0


if __name__ == "__main__":
    asyncio.Handle._run = _timed  # type: ignore[attr-defined]
    signal.signal(signal.SIGUSR1, _say)
    sys.exit(cli.main())
