"""Waiting for a condition, never for a time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

__all__ = ["eventually", "eventually_sync"]

_PAUSE = 0.01


async def eventually(condition: Callable[[], object], *, within: float = 30) -> None:
    """Return when ``condition()`` is true; fail after ``within`` seconds."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not true within {within} s: {condition}"
        await asyncio.sleep(_PAUSE)


def eventually_sync(condition: Callable[[], object], *, within: float = 30) -> None:
    """The same without an event loop."""
    deadline = time.monotonic() + within
    while not condition():
        assert time.monotonic() < deadline, f"not true within {within} s: {condition}"
        time.sleep(_PAUSE)
