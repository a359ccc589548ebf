"""The write-ahead log of a MemoryDatabase: what was committed, where it stands, who waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeAlias

import attrs

from ...changes import Begin, Change, Commit, GapReason
from ...errors import RealtimeError
from ...lsn import LSN

__all__ = ["Entry", "Log", "Slot"]

Stream: TypeAlias = tuple[Change | Begin | Commit, ...]

_START = 0x1000000


@attrs.frozen
class Entry:
    """Something that was written: a transaction, a message, or what is not published."""

    lsn: LSN
    """Of its commit record, or of the message."""
    end: LSN
    events: Stream
    """Empty for what is not published."""
    size: int


@attrs.define
class Slot:
    """A replication slot."""

    confirmed: LSN
    temporary: bool
    lost: GapReason | None = None
    close: Callable[[RealtimeError], None] | None = None
    """Breaks the connection of the source that uses it."""


class Log:
    """What was written, in order."""

    def __init__(self) -> None:
        self.end = LSN(_START)
        self.entries: list[Entry] = []
        self.ended = False
        self._waiting: set[Callable[[], None]] = set()

    def reserve(self, size: int) -> LSN:
        """Return the LSN of the next record, of so many bytes."""
        lsn = self.end
        self.end = LSN(lsn + size)
        return lsn

    def append(self, lsn: LSN, events: Stream, size: int) -> None:
        """Note what is complete now, and wake everybody who waits for more."""
        self.entries.append(Entry(lsn, self.end, events, size))
        self.wake()

    def since(self, confirmed: LSN) -> Iterator[tuple[int, Entry]]:
        """Yield what a slot that stands there sends, each with its number."""
        for number, entry in enumerate(self.entries):
            if entry.lsn >= confirmed:
                yield number, entry

    def subscribe(self, wake: Callable[[], None]) -> None:
        self._waiting.add(wake)

    def unsubscribe(self, wake: Callable[[], None]) -> None:
        self._waiting.discard(wake)

    def wake(self) -> None:
        for wake in tuple(self._waiting):
            wake()
