"""ChannelAges: channels of other processes in the order in which their clients went away.

No call takes long, however many channels there are: those that have been dropped, or whose clients
have come back, stay until :meth:`ChannelAges.tidying` removes them in steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from heapq import heapify, heappop, heappush
from typing import Final, TypeAlias

__all__ = ["Age", "ChannelAges"]

Age: TypeAlias = tuple[float, bytes, int]
"""The time at which a channel's client went away, the channel's process and its number."""
_SPARE: Final = 1000
"""Outdated ages that may stay, besides as many as there are channels."""


class ChannelAges:
    """The ages of channels, the oldest first."""

    def __init__(self) -> None:
        # A heap; some of it is outdated.
        self._ages: list[Age] = []
        # What was added while the heap is made anew without what is outdated; None: it is not.
        self._added_meanwhile: list[Age] | None = None

    def add(self, age: Age) -> None:
        """Add the age of a channel whose client is away."""
        heappush(self._ages, age)
        if self._added_meanwhile is not None:
            self._added_meanwhile.append(age)

    def take(self, before: float, most: int) -> list[Age]:
        """Remove the oldest ages; return them, outdated ones included.

        Args:
            before: only ages that are older than this.
            most: how many, at most.
        """
        taken: list[Age] = []
        while self._ages and self._ages[0][0] < before and len(taken) < most:
            taken.append(heappop(self._ages))
        return taken

    def tidying(self, channels: int, is_away: Callable[[Age], bool]) -> Iterator[None]:
        """Remove outdated ages if there are many, in steps: others may run in between.

        Args:
            channels: how many channels there are.
            is_away: returns whether a channel's client is away since then.
        """
        if len(self._ages) <= 2 * channels + _SPARE:
            return
        kept: list[Age] = []
        added = self._added_meanwhile = []
        try:
            for age in list(self._ages):
                if is_away(age):
                    kept.append(age)
                yield
        finally:
            self._added_meanwhile = None
        kept += added
        heapify(kept)
        self._ages = kept
