"""RoomStats: what is counted of all rooms of a server."""

from __future__ import annotations

import attrs

__all__ = ["PresenceStats", "RoomStats"]


@attrs.frozen
class PresenceStats:
    """The counts of all rooms."""

    tracked: int = 0
    """Members that track themselves now."""
    flushes: int = 0
    """Flushes so far in which somebody got something."""
    rendered_bytes: int = 0
    """Bytes of the states and diffs so far, each counted once, whoever got it."""


@attrs.frozen
class RoomStats:
    """The counts of all rooms."""

    rooms: int = 0
    """Rooms that have members now."""
    members: int = 0
    """Their members."""
    broadcasts: int = 0
    """Broadcasts that were published so far."""
    presence: PresenceStats = PresenceStats()
    """Who is present in them."""
