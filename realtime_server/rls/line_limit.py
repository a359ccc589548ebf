"""LineLimit: keeps one event that concerns thousands of viewers from filling the log."""

from __future__ import annotations

import asyncio
from typing import Final

__all__ = ["LineLimit"]

_INTERVAL: Final = 10.0
"""Seconds from one line to the next of the same kind."""


class LineLimit:
    """Lets one line of a kind into the log in ten seconds, and counts those that it leaves out."""

    __slots__ = ("_left_out", "_next_at")

    def __init__(self) -> None:
        self._next_at = 0.0
        self._left_out = 0

    def take(self) -> int | None:
        """Ask for a line.

        Returns:
            How many lines were left out since the last one; None if this one is left out, too.
        """
        now = asyncio.get_running_loop().time()
        if now < self._next_at:
            self._left_out += 1
            return None
        self._next_at = now + _INTERVAL
        left_out, self._left_out = self._left_out, 0
        return left_out
