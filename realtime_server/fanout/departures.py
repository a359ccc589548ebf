"""Departures: those of one room who have left, and are shown for a while more.

Whoever is back by then has not vanished in between. Those who leave one soon after the other, as
when a network fails, are to go together: who is the first to go waits for those who have left
meanwhile, which takes no longer than each of them is shown.
"""

from __future__ import annotations

from collections import deque
from typing import Final

__all__ = ["Departures"]

_NOBODY: Final[frozenset[int]] = frozenset()


class Departures:
    """Who has left, by key, and until when each is shown."""

    __slots__ = ("_by_key", "_order")

    def __init__(self) -> None:
        self._by_key: dict[bytes, set[int]] = {}
        # As they left; those who are back are still there.
        self._order: deque[tuple[float, bytes, int]] = deque()

    def add(self, until: float, key: bytes, membership: int) -> bool:
        """Note who has left.

        Args:
            until: when it may go; not before those who left before it.
            key: its key.
            membership: of a member that has left.

        Returns:
            Whether nobody else waits to go.
        """
        is_first = not self._order
        self._by_key.setdefault(key, set()).add(membership)
        self._order.append((until, key, membership))
        return is_first

    def back(self, key: bytes) -> set[int] | frozenset[int]:
        """Return who of a key has left, now that it is back: they do not wait any more."""
        return self._by_key.pop(key, _NOBODY)

    def first(self) -> float | None:
        """Return when the first of them may go; None if nobody is left."""
        while self._order and not self._waits(*self._order[0]):
            self._order.popleft()
        return self._order[0][0] if self._order else None

    def last(self) -> float | None:
        """Return when the last of them may go; None if nobody is left."""
        while self._order and not self._waits(*self._order[-1]):
            self._order.pop()
        return self._order[-1][0] if self._order else None

    def take(self, until: float) -> list[int]:
        """Return who may go by then; they do not wait any more."""
        taken = []
        while self._order and self._order[0][0] <= until:
            one = self._order.popleft()
            if self._waits(*one):
                _, key, membership = one
                taken.append(membership)
                self._by_key[key].discard(membership)
                if not self._by_key[key]:
                    del self._by_key[key]
        return taken

    def _waits(self, _: float, key: bytes, membership: int) -> bool:
        return membership in self._by_key.get(key, _NOBODY)
