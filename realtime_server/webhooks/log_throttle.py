"""LogThrottle: limits how often the same log line is written."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Final

__all__ = ["LogThrottle"]

_INTERVAL: Final = 10.0
_MOST: Final = 1000
"""How many log lines are remembered."""


class LogThrottle:
    """Decides whether a log line may be written again, and counts the lines that were left out.

    Args:
        clock: seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # When each was said last, and how often it came since.
        self._said: dict[Hashable, tuple[float, int]] = {}

    def __call__(self, thing: Hashable, times: int = 1) -> int:
        """Return 0 if the line was written less than ten seconds ago.

        Otherwise return how often it was due since it was written last, this time included.

        Args:
            thing: the line.
            times: how often it is due now.
        """
        now = self._clock()
        said, count = self._said.get(thing, (None, 0))
        if said is not None and now - said < _INTERVAL:
            self._said[thing] = (said, count + times)
            return 0
        if len(self._said) >= _MOST:
            self._said.clear()
        self._said[thing] = (now, 0)
        return count + times
