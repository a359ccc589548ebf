"""Bar: shows on a terminal how far a snapshot has come."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, TextIO

from ..snapshot import SnapshotProgress

__all__ = ["Bar"]

_INTERVAL: Final = 0.1
"""The least seconds between two drawings."""
_WIDTH: Final = 30
"""Characters of the bar."""
_CLEAR: Final = "\r\x1b[K"


class Bar:
    """One line that is drawn again and again, and gone at the end.

    Args:
        file: a terminal.
        clock: returns seconds.
    """

    def __init__(self, file: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        self._file = file
        self._clock = clock
        self._drawn_at: float | None = None

    def __call__(self, progress: SnapshotProgress) -> None:
        """Draw the progress, unless that was done a moment ago; clear the line at the end."""
        if progress.tables_done == progress.tables:
            self._file.write(_CLEAR)
            self._file.flush()
            return
        now = self._clock()
        if self._drawn_at is None or now - self._drawn_at >= _INTERVAL:
            self._drawn_at = now
            self._file.write(_CLEAR + bar_line(progress))
            self._file.flush()


def bar_line(progress: SnapshotProgress) -> str:
    """Return the line for a snapshot that goes on."""
    counts = (
        f"{progress.rows:,} rows, {progress.bytes / 2**20:,.0f} MiB, "
        f"{progress.tables_done:,} of {progress.tables:,} tables"
    )
    if not progress.estimate:
        return counts
    # PostgreSQL only estimates, so the end is not shown before it is there.
    share = min(progress.rows / progress.estimate, 0.99)
    done = round(share * _WIDTH)
    return f"[{'#' * done}{'-' * (_WIDTH - done)}] {share:4.0%} {counts}"
