"""RoomServices: the rooms of a server and who is present in them, made from the settings."""

from __future__ import annotations

import secrets
import time
from typing import Final

import attrs

from ..config import ServerConfig
from ..fanout.bus import LocalBus
from ..fanout.presence import Presence, PresenceLimits
from ..fanout.room_stats import RoomStats
from ..fanout.rooms import Rooms
from ..fanout.turns import call_later

__all__ = ["RoomServices", "make_rooms"]

_REF_BYTES: Final = 12
"""Random bytes of a ref, which are 16 characters."""


@attrs.frozen
class RoomServices:
    """What clients send to each other through."""

    rooms: Rooms
    presence: Presence

    def stats(self) -> RoomStats:
        """Return the counts, as they are now."""
        return attrs.evolve(self.rooms.stats(), presence=self.presence.stats())


def make_rooms(config: ServerConfig) -> RoomServices:
    """Make the rooms of a server that shares its clients with no other."""
    rooms = Rooms(LocalBus(), later=call_later, clock=time.perf_counter)
    limits = PresenceLimits(
        interval=config.presence_interval / 1000,
        members=config.max_presence_members,
        state_bytes=config.presence_state_bytes,
    )
    presence = Presence(
        rooms,
        limits,
        later=call_later,
        clock=time.perf_counter,
        new_ref=lambda: secrets.token_urlsafe(_REF_BYTES),
    )
    return RoomServices(rooms, presence)
