"""CostlyViewers: finds viewers whose checks end in time, but delay the others each time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Final

from .viewers import Viewer

__all__ = ["NEGLIGIBLE", "CostlyViewers", "is_costly"]

NEGLIGIBLE: Final = 0.002
"""Seconds that a viewer's policies may take for a batch in any case: a separate check of the viewer
would take as long."""
_COSTLY: Final = 0.02
"""Seconds that the policies of a viewer may take for a batch."""
_MOST_TOGETHER: Final = 0.1
"""Seconds that the policies of all viewers beyond :data:`NEGLIGIBLE` may take together for a
batch."""
_IN_A_ROW: Final = 3
"""A viewer is costly when its policies take too long for so many batches in a row. During a single
batch the machine may have been busy."""


def is_costly(seconds: float) -> bool:
    """Return whether a viewer whose policies take so many seconds should be checked separately."""
    return seconds > _COSTLY


class CostlyViewers:
    """Finds viewers whose policies take much longer than is usual for as many rows."""

    def __init__(self) -> None:
        # The number of batches in a row for which the policies of a viewer have taken too long, for
        # viewers that are not checked separately yet.
        self._batches: Counter[Viewer] = Counter()

    def forget(self, viewer: Viewer) -> None:
        """Forget a viewer that has no channels any more, or is checked separately."""
        self._batches.pop(viewer, None)

    def note(self, seconds: Mapping[Viewer, float]) -> list[Viewer]:
        """Note the times of a batch; return the viewers to check separately from the next batch on.

        Args:
            seconds: by viewer that was checked with the others, the seconds that its policies took.
        """
        if not self._batches and max(seconds.values(), default=0.0) <= NEGLIGIBLE:
            return []
        are_too_many = sum(one for one in seconds.values() if one > NEGLIGIBLE) > _MOST_TOGETHER
        slow = []
        for viewer, taken in seconds.items():
            if not is_costly(taken) and not (are_too_many and taken > NEGLIGIBLE):
                self._batches.pop(viewer, None)
                continue
            self._batches[viewer] += 1
            if self._batches[viewer] >= _IN_A_ROW:
                del self._batches[viewer]
                slow.append(viewer)
        return slow
