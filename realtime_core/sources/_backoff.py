"""Backoff: how long to wait before the next attempt to attach."""

from __future__ import annotations

from random import Random

__all__ = ["Backoff"]


class Backoff:
    """Random delays, of which each is about twice as long as the one before.

    Each delay is drawn between one half and the whole of a ceiling, which doubles with every
    attempt. It is random so that clients which lost their connections together do not all come
    back at the same moment.

    Args:
        minimum: the first ceiling, in seconds.
        maximum: the highest ceiling, in seconds.
        random: yields the random numbers.
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
        """Begin with the minimum again, after an attempt that was successful."""
        self._ceiling = self.minimum
