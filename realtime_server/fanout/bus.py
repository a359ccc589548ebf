"""Bus: brings what is broadcast in a room to the other processes that have members of it.

What a process has placed in a room's order goes to its own members, and to the bus. A process that
has no others beside it has a bus that does nothing; the others' is
:class:`~realtime_server.cluster.room_bus.RoomBus`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeAlias

from ..phoenix.broadcasts import Broadcast, RoomName
from ..phoenix.reasons import BroadcastReason

__all__ = ["Bus", "LocalBus", "TakeBroadcast"]

TakeBroadcast: TypeAlias = Callable[[bytes, RoomName, Broadcast], bool]
"""Takes what another process, by its name, has broadcast in a room, and returns whether it goes to
members."""


class Bus(Protocol):
    """The way to the other processes. None of its methods waits or fails."""

    def begin(self, take: TakeBroadcast) -> None:
        """Have a function called with what other processes broadcast."""
        ...

    def fits(self, room: RoomName, broadcast: Broadcast) -> bool:
        """Return whether a broadcast is short enough to go to the other processes."""
        ...

    def publish(self, room: RoomName, broadcast: Broadcast) -> BroadcastReason | None:
        """Hand on a broadcast of this process', in the room's order.

        Returns:
            Why members at other processes do not get it; None if it was handed over.
        """
        ...

    def subscribe(self, room: RoomName) -> None:
        """Begin to take a room's broadcasts, as its first member has come."""
        ...

    def unsubscribe(self, room: RoomName) -> None:
        """Take a room's broadcasts no more, as its last member has gone."""
        ...


class LocalBus:
    """The bus of a process that has no others beside it."""

    def begin(self, take: TakeBroadcast) -> None:
        pass

    def fits(self, room: RoomName, broadcast: Broadcast) -> bool:
        return True

    def publish(self, room: RoomName, broadcast: Broadcast) -> BroadcastReason | None:
        return None

    def subscribe(self, room: RoomName) -> None:
        pass

    def unsubscribe(self, room: RoomName) -> None:
        pass
