"""SharedKeys: the keys of sessions that several clients have, as the journal tells of them.

No I/O.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

__all__ = ["SharedKeys"]

_MOST: Final = 10_000
"""Keys that are known."""


class SharedKeys:
    """The keys, of which the oldest are forgotten where there are too many."""

    def __init__(self) -> None:
        self._keys: dict[bytes, None] = {}

    def __contains__(self, key: bytes) -> bool:
        return key in self._keys

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._keys)

    def add(self, key: bytes) -> bool:
        """Add a key; return whether it is new."""
        if key in self._keys:
            return False
        self._keys[key] = None
        if len(self._keys) > _MOST:
            del self._keys[next(iter(self._keys))]
        return True
