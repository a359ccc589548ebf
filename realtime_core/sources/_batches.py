"""BatchBounds: how long a batch may take, and how much it may hold."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import Any, Final

import attrs

from ..changes import Begin, Commit, Gap, RawRows
from ..errors import ConfigError
from ..snapshot import BackfillStep, Snapshot, SnapshotBegin
from ._sizes import size_of

__all__ = ["PLACELESS", "BatchBounds", "GrowingBatch", "last_placed"]

PLACELESS: Final = frozenset((BackfillStep, Gap, Snapshot, SnapshotBegin))
"""The kinds of events that are handed over and have no position, besides Begin."""

_ROWS_ALONE: Final = {Snapshot}


@attrs.frozen
class BatchBounds:
    """The bounds of a batch; None for no bound.

    Raises:
        ConfigError: if one of them is no bound.
    """

    max_wait: float | None
    """Seconds to collect more after the first event has come; None to hand over what comes at
    once."""
    max_rows: int | None
    """The most rows and other events, Begin and Commit not counted."""
    max_bytes: int | None
    """The most bytes, as ``transactions()`` counts them. A larger event is alone in its batch."""

    @classmethod
    def of(
        cls, max_wait: float | None, max_rows: int | None, max_bytes: int | None
    ) -> BatchBounds | None:
        """Make bounds; None if there are none."""
        if max_wait is max_rows is max_bytes is None:
            return None
        return cls(max_wait, max_rows, max_bytes)

    def __attrs_post_init__(self) -> None:
        problems = list(self._problems())
        if problems:
            raise ConfigError(problems)

    def _problems(self) -> Iterator[str]:
        for name in ("max_wait", "max_rows", "max_bytes"):
            value = getattr(self, name)
            kinds, wanted = (
                ((int, float), "number") if name == "max_wait" else (int, "whole number")
            )
            if value is not None and not (isinstance(value, kinds) and 0 < value < math.inf):
                yield f"{name} is a {wanted} above 0, or None, not {value!r}"


class GrowingBatch:
    """Counts the events at the start of a queue that make a batch.

    Args:
        bounds: its bounds.
        boundaries: whether Begin and Commit are handed over, and so make a batch.
    """

    def __init__(self, bounds: BatchBounds, *, boundaries: bool) -> None:
        self._most_rows = math.inf if bounds.max_rows is None else bounds.max_rows
        self._most_bytes = math.inf if bounds.max_bytes is None else bounds.max_bytes
        self._boundaries = boundaries
        self._rows = 0
        self._bytes = 0
        self.events = 0
        """How many events of the queue are in it."""
        self.full = False
        """Whether no more events fit in."""

    @property
    def empty(self) -> bool:
        """Whether nothing of it would be handed over."""
        return not self._rows and not (self._boundaries and self.events)

    def look(self, queue: deque[Any]) -> None:
        """Count what has come since it was looked at last."""
        if self.full:
            return
        for event in islice(queue, self.events, None):
            kind = type(event)
            if kind is not Begin and kind is not Commit:
                rows = len(event.messages) if kind is RawRows else 1
                size = size_of(event)
                too_many = self._rows + rows > self._most_rows
                if self._rows and (too_many or self._bytes + size > self._most_bytes):
                    self.full = True
                    return
                self._rows += rows
                self._bytes += size
            self.events += 1
            if self._rows >= self._most_rows or self._bytes >= self._most_bytes:
                self.full = True
                return

    def split(self, queue: deque[Any]) -> tuple[list[Any], deque[Any]]:
        """Return the events of a queue that are handed over, and those that stay in it."""
        events = iter(queue)
        batch = [
            event
            for event in islice(events, self.events)
            if self._boundaries or not isinstance(event, Begin | Commit)
        ]
        return batch, deque(events)


def last_placed(batch: list[Any], former: Any) -> Any:
    """Return the last event that has a position; None if a snapshot begins behind it.

    Args:
        batch: events that are handed over.
        former: the last one before them.
    """
    if batch and type(batch[-1]) is Snapshot and set(map(type, batch)) == _ROWS_ALONE:
        # Rows come in many thousands: a loop here takes as long as making their objects.
        return former
    for event in reversed(batch):
        kind = type(event)
        if kind is SnapshotBegin:
            return None
        if kind is not Begin and kind not in PLACELESS:
            return event
    return former
