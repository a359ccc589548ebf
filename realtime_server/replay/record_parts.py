"""RecordParts: puts the parts of records together again, as they come from several processes.

What is held of records that are not whole yet is bounded. No I/O.
"""

from __future__ import annotations

from typing import Final

from .records import Part

__all__ = ["RecordParts"]

_MOST_PARTS: Final = 1000
"""Parts that are held of a record that is not whole yet; a snapshot of all channels has fewer."""
_MOST_BEGUN: Final = 16
"""Processes of which a record is held that is not whole yet."""


class RecordParts:
    """The parts of each process's record of which the last one has not come."""

    def __init__(self) -> None:
        self._begun: dict[bytes, list[Part]] = {}

    def add(self, part: Part) -> list[Part] | None:
        """Add a part; return all parts of its record if it was the last one."""
        parts = self._begun.setdefault(part.server, [])
        if part.part == 0:
            parts.clear()
        is_next = part.part == len(parts) and (not parts or parts[0].number == part.number)
        if not is_next or part.parts > _MOST_PARTS:
            # The beginning was written before the WAL that is read here.
            del self._begun[part.server]
            return None
        parts.append(part)
        if len(parts) == part.parts:
            return self._begun.pop(part.server)
        if len(self._begun) > _MOST_BEGUN:
            # A process that was killed while it wrote.
            del self._begun[next(iter(self._begun))]
        return None

    def clear(self) -> None:
        """Forget all parts."""
        self._begun.clear()
