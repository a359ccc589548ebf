"""Unwritten: the entries of the journal that wait for the next record.

A snapshot says everything that is so, and takes the place of the entries. But it does not say what
happens once: that a client is to be asked, and that one has found nothing to go on from. Such
entries stay, and a snapshot repeats those of the record before it, which may have been lost. To
read them twice changes nothing.

No I/O.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from .records import Asked, Entry, PlaceTaken

__all__ = ["Unwritten"]

MOST_ENTRIES: Final = 20_000
"""Entries that may wait. If there are more, a snapshot takes their place; of those that no snapshot
has, the oldest are left out."""


class Unwritten:
    """The entries that wait for the next record, in order."""

    def __init__(self) -> None:
        self.needs_snapshot = False
        """Whether so much waits to be written that a snapshot takes less."""
        self._entries: list[Entry] = []
        # Those that no snapshot has; and those of them that the last record had.
        self._once: deque[Entry] = deque(maxlen=MOST_ENTRIES)
        self._written_once: deque[Entry] = deque(maxlen=MOST_ENTRIES)

    @property
    def is_due(self) -> bool:
        """Whether anything waits."""
        return bool(self._entries or self._once) or self.needs_snapshot

    def add(self, entry: Entry) -> None:
        """Note an entry."""
        if isinstance(entry, Asked) or (isinstance(entry, PlaceTaken) and entry.is_missed):
            self._once.append(entry)
        elif not self.needs_snapshot:
            self._entries.append(entry)
            if len(self._entries) > MOST_ENTRIES:
                self._entries.clear()
                self.needs_snapshot = True

    def begin_anew(self) -> None:
        """Forget all entries, which belong to a former stream; the next record is a snapshot."""
        self._entries.clear()
        self._once.clear()
        self._written_once.clear()
        self.needs_snapshot = True

    def take(self, *, snapshot: bool) -> list[Entry]:
        """Return the entries of the next record.

        Args:
            snapshot: whether that is a snapshot, and these are only what it does not say itself.
        """
        entries, self._entries = [] if snapshot else self._entries, []
        if not snapshot:
            self._written_once.clear()
        self._written_once += self._once
        self._once.clear()
        self.needs_snapshot = False
        return [*entries, *self._written_once]
