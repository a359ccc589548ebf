"""Makes a process' part in rooms that span several from its settings."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

from ..config import ServerConfig
from ..fanout.presence import Presence
from .carrier import Carrier, Outside
from .room_bus import RoomBus
from .room_messages import NODE_BYTES
from .room_node import RoomNode
from .shared_presence import SharedPresence

__all__ = ["make_outside", "make_room_bus"]


def make_room_bus(
    config: ServerConfig, link: Carrier | None
) -> tuple[RoomBus, Callable[[Presence], RoomNode]]:
    """Return the bus of a server process that has others beside it.

    Args:
        config: of the server.
        link: a worker's link to its supervisor; None for a process that is no worker, with
            ``NATS_URL``.

    Returns:
        The bus, and what makes the process' place among the others, with the presence of its rooms.
    """
    carrier = link or make_outside(config)
    assert carrier is not None
    node = secrets.token_bytes(NODE_BYTES)
    bus = RoomBus(carrier, node)

    def make_node(presence: Presence) -> RoomNode:
        shared = SharedPresence(presence, carrier, node, time.monotonic())
        return RoomNode(carrier, bus, shared, clock=time.monotonic)

    return bus, make_node


def make_outside(config: ServerConfig) -> Outside | None:
    """Return the way to other machines; None without ``NATS_URL``."""
    if config.nats_url is None:
        return None
    # Only then is the client of NATS needed.
    from .connection import NatsConnection
    from .nats_carrier import NatsCarrier
    from .permissions import Denials

    name = config.stream_name
    denials = Denials(name)

    async def connect() -> NatsConnection:
        return await NatsConnection.open(
            config, name="realtime_server rooms", complaint=denials.note, no_echo=True
        )

    return NatsCarrier(name, connect)
