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
        self.on_add: Callable[[bytes], None] = lambda digest: None
        """Called with the digest of each key that is added."""
        self.on_found: Callable[[bytes], None] = lambda digest: None
        """Called with the digest of each key of which this process has found it first."""
        self.on_tell: Callable[[bytes], None] = lambda digest: None
        """The same, for the other processes of the database."""

    def find(self, key: Key) -> None:
        """Note that several clients have a key. It makes no difference unless the key is one of a
        session."""
        if self.is_exact(key):
            self.on_found(key.digest)
            self.on_tell(key.digest)
            self.add(key.digest)

    def add(self, digest: bytes) -> None:
        """Note that several clients have a session.

        Args:
            digest: the digest of its key.
        """
        if digest in self._digests:
            return
        self._digests[digest] = None
        if len(self._digests) > _MOST:
            del self._digests[next(iter(self._digests))]
        self.on_add(digest)

    def is_exact(self, key: Key) -> bool:
        """Return whether only one client has a key, as far as is known."""
        return key.is_exact and key.digest not in self._digests
