"""Backlog: what waits for all clients together, bounded.

Each client's outbox has a bound of its own, and thousands of clients that read nothing would
have the server's memory all the same. So the outboxes tell how much waits in each, whenever that
changes and something waits or waited: a client that keeps up costs nothing. When all of it is too
much, those for whom most waits are cut off first.
"""

from __future__ import annotations

from typing import Protocol

__all__ = ["Backlog", "Holder"]


class Holder(Protocol):
    """One outbox."""

    def waiting(self) -> int:
        """Return how many bytes wait in it now."""
        ...

    def give_up(self, total: int, most: int) -> None:
        """Cut its client off, for ``total`` bytes wait for all and at most ``most`` may.

        Nothing waits in it then, and it says so.
        """
        ...


class Backlog:
    """The bytes that wait in all outboxes of a server.

    Args:
        max_bytes: that may.
    """

    __slots__ = ("_bytes", "_max_bytes", "_sizes")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        # Of those in which something waits, as they were last told.
        self._sizes: dict[Holder, int] = {}

    @property
    def bytes(self) -> int:
        """What waits, as far as was told: no less than what really does, and soon the same."""
        return self._bytes

    @property
    def is_high(self) -> bool:
        """Whether more than half waits of what may."""
        return 2 * self._bytes > self._max_bytes

    def note(self, holder: Holder, size: int) -> None:
        """Take down how many bytes wait in an outbox; 0 when it is empty, or gone."""
        self._bytes += size - self._sizes.pop(holder, 0)
        if size:
            self._sizes[holder] = size
            if self._bytes > self._max_bytes:
                self._relieve()

    def _relieve(self) -> None:
        """Cut off those for whom most waits, if it is still too much."""
        # Some have taken something since they told.
        sizes = ((holder, holder.waiting()) for holder in self._sizes)
        self._sizes = {holder: size for holder, size in sizes if size}
        self._bytes = total = sum(self._sizes.values())
        most = self._max_bytes
        if total <= most:
            return
        # A little more than must be: to look at all of them for each further byte takes long.
        enough = most - most // 8
        for holder in sorted(self._sizes, key=self._sizes.__getitem__, reverse=True):
            if self._bytes <= enough:
                break
            holder.give_up(total, most)
