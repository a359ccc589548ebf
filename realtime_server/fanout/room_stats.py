"""RoomStats: what is counted of all rooms of a server."""

from __future__ import annotations

import attrs

__all__ = ["BusStats", "PresenceStats", "RoomStats"]


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
class BusStats:
    """The counts of a bus."""

    sent: int = 0
    """Messages that were handed over to be brought to other processes."""
    received: int = 0
    """Messages of other processes that were taken."""
    lost: int = 0
    """Messages that did not go on: the way was broken, or too much waited already."""
    strange: int = 0
    """Messages that came and were left, as no server of these writes them."""


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
    bus: BusStats = BusStats()
    """What goes to other processes, and comes from them."""
