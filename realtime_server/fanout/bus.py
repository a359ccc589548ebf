"""Bus: brings what is broadcast in a room to the other servers that have members of it.

What a server has placed in a room's order goes to its own members, and to the bus. There is one
bus so far, for a server that has no others.
"""

from __future__ import annotations

from typing import Protocol

from ..phoenix.broadcasts import Broadcast, RoomName

__all__ = ["Bus", "LocalBus"]


class Bus(Protocol):
    """The way to the other servers. None of its methods waits or fails."""

    def publish(self, room: RoomName, broadcast: Broadcast) -> None:
        """Hand on a broadcast of this server's, in the room's order."""
        ...

    def subscribe(self, room: RoomName) -> None:
        """Begin to take a room's broadcasts, as its first member has come."""
        ...

    def unsubscribe(self, room: RoomName) -> None:
        """Take a room's broadcasts no more, as its last member has gone."""
        ...


class LocalBus:
    """The bus of a server that has no others."""

    def publish(self, room: RoomName, broadcast: Broadcast) -> None:
        pass

    def subscribe(self, room: RoomName) -> None:
        pass

    def unsubscribe(self, room: RoomName) -> None:
        pass
