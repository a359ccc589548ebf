"""Writing to standard output, for the commands."""

from __future__ import annotations

import os
import sys

__all__ = ["tell"]


def tell(*lines: object) -> None:
    """Print lines without delay.

    If the reader has closed the pipe, as ``head`` does, nothing further is written, and the command
    goes on: its exit code says what it found.
    """
    try:
        print(*lines, sep="\n", flush=True)
    except BrokenPipeError:
        # The interpreter flushes once more when it ends, which would fail again.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
