"""DearViewers: those for whom everybody waits with each batch, though they run into no limit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from .viewers import Viewer

__all__ = ["CHEAP", "DearViewers", "is_dear"]

CHEAP: Final = 0.002
"""Seconds of a batch that a viewer may take in any case: to ask for it apart takes as long."""
_DEAR: Final = 0.02
"""Seconds that one may take who is not slow."""
_MOST: Final = 0.1
"""Seconds that all may take together of whom each takes more than :data:`CHEAP`."""
_IN_A_ROW: Final = 3
"""Batches, until a viewer who takes more of each is slow: once is the machine's fault."""


def is_dear(seconds: float) -> bool:
    """Say whether a viewer that takes so many seconds of a batch should not be waited for."""
    return seconds > _DEAR


class DearViewers:
    """Finds them, by what their policies take beyond what is usual for so many rows."""

    def __init__(self) -> None:
        # How many batches in a row those have taken much of who are not slow yet.
        self._batches: Counter[Viewer] = Counter()

    def forget(self, viewer: Viewer) -> None:
        """Forget a viewer that is nobody's any more, or is asked for apart."""
        self._batches.pop(viewer, None)

    def note(self, seconds: Mapping[Viewer, float]) -> list[Viewer]:
        """Take note of a batch; return those who are to be asked for apart from the next one on.

        Args:
            seconds: that the policies of each took who was asked for with the others.
        """
        if not self._batches and max(seconds.values(), default=0.0) <= CHEAP:
            return []
        are_too_many = sum(one for one in seconds.values() if one > CHEAP) > _MOST
        slow = []
        for viewer, taken in seconds.items():
            if not is_dear(taken) and not (are_too_many and taken > CHEAP):
                self._batches.pop(viewer, None)
                continue
            self._batches[viewer] += 1
            if self._batches[viewer] >= _IN_A_ROW:
                del self._batches[viewer]
                slow.append(viewer)
        return slow
