"""Makes a process' part in rooms that span several from its settings."""

from __future__ import annotations

import secrets

from ..config import ServerConfig
from .carrier import Carrier, Outside
from .room_bus import RoomBus
from .room_messages import NODE_BYTES

__all__ = ["make_outside", "make_room_bus"]


def make_room_bus(config: ServerConfig, link: Carrier | None) -> RoomBus:
    """Return the bus of a server process that has others beside it.

    Args:
        config: of the server.
        link: a worker's link to its supervisor; None for a process that is no worker, with
            ``NATS_URL``.
    """
    carrier = link or make_outside(config)
    assert carrier is not None
    return RoomBus(carrier, secrets.token_bytes(NODE_BYTES))


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
