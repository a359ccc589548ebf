"""SeenTransactions: which transactions a snapshot of PostgreSQL sees."""

from __future__ import annotations

from typing import Final, Self

import attrs

__all__ = ["SeenTransactions"]

_EPOCH: Final = 2**32


@attrs.frozen
class SeenTransactions:
    """A snapshot, as ``pg_current_snapshot()`` tells it.

    See "Transaction ID and Snapshot Information Functions" in the PostgreSQL documentation.
    """

    xmin: int
    """All transactions with lower IDs have ended."""
    xmax: int
    """No transaction with this ID, or a higher one, had begun."""
    running: frozenset[int]
    """The IDs of the transactions in between that had not ended."""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read the text ``xmin:xmax:xip_list``.

        Raises:
            ValueError: if ``text`` is not that.
        """
        xmin, xmax, running = text.split(":")
        return cls(int(xmin), int(xmax), frozenset(map(int, filter(None, running.split(",")))))

    def sees(self, xid: int) -> bool:
        """Return whether the snapshot has what a committed transaction has done.

        Args:
            xid: the transaction's ID, of 32 bits, as the stream has it.
        """
        # IDs of 64 bits that are near each other are in the same epoch, or in neighbours.
        distance = (xid - self.xmax + _EPOCH // 2) % _EPOCH - _EPOCH // 2
        whole = self.xmax + distance
        return whole < self.xmin or (whole < self.xmax and whole not in self.running)
