"""ChannelNames: finds the channels of server processes by their keys.

No I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

__all__ = ["ChannelNames", "Name"]

Name: TypeAlias = tuple[bytes, int]
"""The name of a process, and the number of one of its channels."""


class ChannelNames:
    """The names of channels by key."""

    def __init__(self) -> None:
        # Most keys have just one channel, and there may be hundreds of thousands of them.
        self._by_key: dict[bytes, Name | dict[Name, None]] = {}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, key: bytes, name: Name) -> None:
        """Add a channel, which is not there yet."""
        self._count += 1
        names = self._by_key.get(key)
        if names is None:
            self._by_key[key] = name
        elif isinstance(names, dict):
            names[name] = None
        else:
            self._by_key[key] = {names: None, name: None}

    def remove(self, key: bytes, name: Name) -> None:
        """Remove a channel, which is there."""
        self._count -= 1
        names = self._by_key[key]
        if isinstance(names, dict):
            del names[name]
        if not isinstance(names, dict) or not names:
            del self._by_key[key]

    def of(self, key: bytes) -> Iterable[Name]:
        """Return the channels of a key, in the order in which they were added."""
        names = self._by_key.get(key, {})
        return names if isinstance(names, dict) else (names,)
