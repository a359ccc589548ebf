"""WorkerStats: what is counted of the workers, for the metrics."""

from __future__ import annotations

import attrs

__all__ = ["WorkerStats"]


@attrs.frozen
class WorkerStats:
    """The counts of the workers of a server that has several."""

    running: int = 0
    """How many accept connections."""
    restarts: int = 0
    """How often one was started in place of one that had ended."""
