"""CatchUpPace: when the next round may begin.

When thousands come back at once, each of them has made its handshake at another time. So the next
round waits until so many have gathered that rounds take a small part of the time. Rounds of one
viewer alone are no reason for the others to wait.
"""

from __future__ import annotations

from typing import Final

from .catch_up_round import CatchUpRound

__all__ = ["CatchUpPace"]

_REST: Final = 8
"""The time from the beginning of a round to that of the next one, as a multiple of the time that
the round takes, if clients keep coming back: each round matches and renders the changes anew."""
_MOST_REST: Final = 0.25
"""Seconds from the beginning of a round after which the next one begins in any case."""


class CatchUpPace:
    """Says when the next round may begin. All times are in seconds of the event loop's clock."""

    def __init__(self) -> None:
        self._next_at = 0.0

    def is_time(self, now: float) -> bool:
        """Return whether the next round may begin."""
        return now >= self._next_at

    def begin(self, one: CatchUpRound, now: float) -> None:
        """Note that a round begins."""
        if not one.is_alone:
            self._next_at = now + _MOST_REST

    def end(self, one: CatchUpRound, began: float, took: float) -> None:
        """Note how long a round has taken."""
        if not one.is_alone:
            self._next_at = min(self._next_at, began + _REST * took)
