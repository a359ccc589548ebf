"""SharedSessions: the sessions that several clients turned out to have.

The key of such a session does not say which of the clients comes back. No I/O.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from .identity import Key

__all__ = ["SharedSessions"]

_MOST: Final = 100_000
"""Sessions of which it is remembered that several clients have them."""


class SharedSessions:
    """Knows whether a key stands for one client only."""

    def __init__(self) -> None:
        self._digests: dict[bytes, None] = {}
        self.on_add: Callable[[], None] = lambda: None
        """Called when several clients turn out to have a session."""

    def add(self, key: Key) -> None:
        """Note that several clients have a key. It makes no difference unless the key is one of a
        session."""
        if not self.is_exact(key):
            return
        self._digests[key.digest] = None
        if len(self._digests) > _MOST:
            del self._digests[next(iter(self._digests))]
        self.on_add()

    def is_exact(self, key: Key) -> bool:
        """Return whether only one client has a key, as far as is known."""
        return key.is_exact and key.digest not in self._digests
