"""Ending tasks, and waiting until they have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Final

__all__ = ["cancel_within"]

_CANCEL_INTERVAL: Final = 1.0
"""Seconds between two cancellations of the same task."""


async def cancel_within(tasks: Collection[asyncio.Task[Any]], within: float) -> None:
    """Wait until all tasks have ended; cancel those that take longer than ``within``.

    A task is cancelled again each second until it ends. One cancellation may not be enough:
    psycopg answers the first one by asking the database to cancel the query, and waits for the
    answer, which a database that hangs never sends.

    Args:
        tasks: to wait for. Their results and exceptions are left for the caller to read.
        within: seconds until the first cancellation.
    """
    pending = set(tasks)
    while pending:
        _, pending = await asyncio.wait(pending, timeout=within)
        for task in pending:
            task.cancel()
        within = _CANCEL_INTERVAL
