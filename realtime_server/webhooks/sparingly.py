"""Sparingly: the same thing is not said in the log more than once in a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Final

__all__ = ["Sparingly"]

_INTERVAL: Final = 10.0
_MOST: Final = 1000
"""Things that are remembered."""


class Sparingly:
    """Says whether it is time to say a thing, and counts how often it was not.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # When each was said last, and how often it came since.
        self._said: dict[Hashable, tuple[float, int]] = {}

    def __call__(self, thing: Hashable) -> int:
        """Return 0 for "not now"; else how often the thing came since it was said last."""
        now = self._clock()
        said, count = self._said.get(thing, (None, 0))
        if said is not None and now - said < _INTERVAL:
            self._said[thing] = (said, count + 1)
            return 0
        if len(self._said) >= _MOST:
            self._said.clear()
        self._said[thing] = (now, 0)
        return count + 1
