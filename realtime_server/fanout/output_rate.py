"""OutputRate: how fast a hub writes, and to how many: by that it waits for slow clients, or not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

__all__ = ["AUDIENCE_FOR", "MAX_BYTES", "MAX_PAUSES", "PAUSE", "OutputRate"]

MAX_BYTES: Final = 64 * 1024
"""About how many bytes of messages are gathered before they are written: what the kernel takes at
once."""
PAUSE: Final = 0.005
"""Seconds of one wait for outboxes that are behind."""
MAX_PAUSES: Final = 20
"""Waits after one write, 0.1 s in all: a client that takes 640 kB/s falls behind no further."""

AUDIENCE_FOR: Final = 1.0
"""Seconds for which it is remembered, at least, how many outboxes were written to at once."""
_BYTES_PER_SECOND: Final = MAX_BYTES / (PAUSE * MAX_PAUSES)
"""How fast messages are written with all these waits."""
_BURST: Final = 4 * MAX_BYTES
"""Bytes that may be written faster than that."""


class OutputRate:
    """How fast messages are written, measured over several dispatches.

    Args:
        clock: seconds of any clock that only goes forward.
    """

    __slots__ = ("_ahead", "_clock", "_former_audience", "_since", "audience", "renewed_at")

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.audience = 0
        """The most outboxes that one write has gone to since ``renewed_at``."""
        self._former_audience = 0
        self.renewed_at = clock()
        """The time at which another second of the audience began."""
        # Bytes that were written faster than with all waits.
        self._ahead = 0.0
        self._since = clock()

    def add(self, size: int) -> None:
        """Count bytes that were written to each outbox that got them."""
        self._advance()
        self._ahead += size

    def renew_audience(self, now: float) -> None:
        """Begin to count the outboxes of another second."""
        self._former_audience = self.audience if now - self.renewed_at < 2 * AUDIENCE_FOR else 0
        self.audience = 0
        self.renewed_at = now

    def lately(self) -> int:
        """Return to how many outboxes one write has gone at most, within the last second or two."""
        return max(self.audience, self._former_audience)

    def is_too_fast(self) -> bool:
        """Return whether messages come faster than they could be written if each write waited
        for slow clients."""
        self._advance()
        return self._ahead > _BURST

    def _advance(self) -> None:
        now = self._clock()
        self._ahead = max(self._ahead - (now - self._since) * _BYTES_PER_SECOND, 0.0)
        self._since = now
