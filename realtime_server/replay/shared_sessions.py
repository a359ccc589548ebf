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
        # By the digest of a session's key: whether it is certain that several clients have it.
        self._certain: dict[bytes, bool] = {}
        self.on_first: Callable[[], None] = lambda: None
        """Called when this process takes a session to be that of several clients."""
        self.on_add: Callable[[bytes], None] = lambda digest: None
        """Called with the digest of each key that certainly is that of several clients."""
        self.on_tell: Callable[[bytes], None] = lambda digest: None
        """The same, if no other process has told this one of it."""

    def suspect(self, key: Key) -> None:
        """Note that several clients seem to have a key, which makes no difference unless it is that
        of a session. One client may seem to be two when it comes and goes fast."""
        if self.is_exact(key):
            self._note(key.digest, is_certain=False)
            self.on_first()

    def find(self, key: Key) -> None:
        """Note that several clients have a key, which makes no difference unless it is that of a
        session."""
        if key.is_exact and not self._certain.get(key.digest):
            self.suspect(key)
            self.on_tell(key.digest)
            self.add(key.digest)

    def add(self, digest: bytes) -> None:
        """Note that several clients have a session.

        Args:
            digest: the digest of its key.
        """
        if not self._certain.get(digest):
            self._note(digest, is_certain=True)
            self.on_add(digest)

    def is_exact(self, key: Key) -> bool:
        """Return whether only one client has a key, as far as is known."""
        return key.is_exact and key.digest not in self._certain

    def _note(self, digest: bytes, *, is_certain: bool) -> None:
        self._certain[digest] = is_certain
        if len(self._certain) > _MOST:
            del self._certain[next(iter(self._certain))]
