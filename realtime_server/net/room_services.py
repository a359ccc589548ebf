"""RoomServices: the rooms of a server and who is present in them, made from the settings."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import attrs

from ..config import ServerConfig
from ..fanout.bus import Bus, LocalBus
from ..fanout.database_broadcasts import DatabaseBroadcasts
from ..fanout.presence import Presence, PresenceLimits
from ..fanout.room_stats import RoomStats
from ..fanout.rooms import Rooms
from ..fanout.turns import call_later

if TYPE_CHECKING:
    from ..cluster.carrier import Carrier
    from ..cluster.room_node import RoomNode

__all__ = ["RoomServices", "make_rooms"]

_REF_BYTES: Final = 12
"""Random bytes of a ref, which are 16 characters."""


@attrs.frozen
class RoomServices:
    """What clients send to each other through."""

    rooms: Rooms
    presence: Presence
    node: RoomNode | None
    """This process' place among others; None if there are none."""
    database: DatabaseBroadcasts | None = None
    """What the database broadcasts; None if that is off."""

    def stats(self) -> RoomStats:
        """Return the counts, as they are now."""
        stats = attrs.evolve(self.rooms.stats(), presence=self.presence.stats())
        return stats if self.node is None else attrs.evolve(stats, bus=self.node.stats())


def make_rooms(config: ServerConfig, link: Carrier | None) -> RoomServices:
    """Make the rooms of a server process.

    Args:
        config: of the server.
        link: a worker's way to its supervisor; None for a process that is no worker.
    """
    bus: Bus = LocalBus()
    make_node: Callable[[Presence], RoomNode] | None = None
    if link is not None or config.nats_url is not None:
        # Only then is anything needed of what brings messages to others.
        from ..cluster.room_setup import make_room_bus

        bus, make_node = make_room_bus(config, link)
    rooms = Rooms(bus, later=call_later, clock=time.perf_counter)
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
    database: DatabaseBroadcasts | None = None
    if config.broadcast_from_database or config.broadcast_messages:
        database = DatabaseBroadcasts(
            rooms,
            max_payload_bytes=config.max_payload_bytes,
            clock=time.perf_counter,
            sends_rows=config.broadcast_from_database,
            sends_logical=config.broadcast_messages,
        )
    node = None if make_node is None else make_node(presence)
    return RoomServices(rooms, presence, node, database)
