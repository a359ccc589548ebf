"""TakenChannels: the channels of other processes whose clients have gone on at another one.

A channel's own process may go on writing of it until it has read that. What is remembered is
bounded, and forgotten after a window. No I/O; time is passed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .channel_names import Name
from .records import Taken

__all__ = ["TakenChannels"]

_MOST: Final = 100_000
"""Channels that are remembered."""


class TakenChannels:
    """The channels that were taken over, the first one first."""

    def __init__(self) -> None:
        self._taken: dict[Name, Taken] = {}
        # The time before which they are forgotten.
        self._forgotten = 0.0

    def __contains__(self, name: Name) -> bool:
        return name in self._taken

    def __iter__(self) -> Iterator[Taken]:
        return iter(self._taken.values())

    def note(self, taken: Taken) -> bool:
        """Note that a channel was taken over; return whether that is not forgotten already."""
        if taken.time < self._forgotten:
            return False
        self._taken[taken.server, taken.number] = taken
        if len(self._taken) > _MOST:
            del self._taken[next(iter(self._taken))]
        return True

    def expire(self, before: float) -> None:
        """Forget the channels that were taken over before a time, in seconds since 1970."""
        self._forgotten = before
        while self._taken:
            oldest = next(iter(self._taken))
            if self._taken[oldest].time >= before:
                return
            del self._taken[oldest]
