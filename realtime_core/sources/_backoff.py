"""Backoff: how long to wait before the next attempt."""

from __future__ import annotations

from random import Random

__all__ = ["Backoff"]


class Backoff:
    """Exponential delays between two bounds, jittered.

    Each delay is drawn between half and all of a ceiling that doubles with every
    attempt, so that clients cut off together do not come back together.

    Args:
        minimum: first ceiling, in seconds.
        maximum: last ceiling, in seconds.
        random: source of the jitter.
    """

    def __init__(self, minimum: float, maximum: float, random: Random) -> None:
        self.minimum = minimum
        self.maximum = maximum
        self._random = random
        self._ceiling = minimum

    def next(self) -> float:
        """Return the next delay, in seconds."""
        ceiling = self._ceiling
        self._ceiling = min(ceiling * 2, self.maximum)
        return ceiling * (0.5 + self._random.random() / 2)

    def reset(self) -> None:
        """Start again from the minimum, after a success."""
        self._ceiling = self.minimum
