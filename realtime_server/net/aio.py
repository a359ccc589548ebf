"""How long the end of a task is waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import Any, Final

__all__ = ["wait_at_most"]

_AGAIN: Final = 1.0
"""Seconds between two cancellations."""


async def wait_at_most(tasks: Collection[asyncio.Task[Any]], within: float) -> None:
    """Wait until all tasks have ended; those that take longer are cancelled until they do.

    More than once, since psycopg answers the first cancellation by asking the database to
    end the query, and waits for the answer; one that hangs gives none.

    Args:
        tasks: whose results and errors are others' business.
        within: seconds.
    """
    pending = set(tasks)
    while pending:
        _, pending = await asyncio.wait(pending, timeout=within)
        for task in pending:
            task.cancel()
        within = _AGAIN
