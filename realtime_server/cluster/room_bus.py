"""RoomBus: the bus of rooms that have members at several processes."""

from __future__ import annotations

from typing import Final

from ..fanout.bus import TakeBroadcast
from ..fanout.room_stats import BusStats
from ..phoenix.broadcasts import Broadcast, RoomName
from ..phoenix.reasons import BroadcastReason
from .carrier import Carrier, NotSent
from .room_messages import broadcast_subject, decode_broadcast, encode_broadcast, encoded_size

__all__ = ["RoomBus"]

_REASONS: Final = {
    NotSent.AWAY: BroadcastReason.AWAY,
    NotSent.FULL: BroadcastReason.BEHIND,
    NotSent.TOO_LARGE: BroadcastReason.TOO_LARGE_TO_CARRY,
}


class RoomBus:
    """Tells other processes of broadcasts, and takes theirs.

    Args:
        carrier: the way to them.
        node: this process' name, as bytes, which no other one has.
    """

    def __init__(self, carrier: Carrier, node: bytes) -> None:
        self._carrier = carrier
        self._node = node
        self._take: TakeBroadcast = lambda node, room, broadcast: False
        self._sent = self._received = self._lost = 0

    def stats(self) -> BusStats:
        return BusStats(self._sent, self._received, self._lost)

    def begin(self, take: TakeBroadcast) -> None:
        self._take = take

    def fits(self, room: RoomName, broadcast: Broadcast) -> bool:
        return encoded_size(room, broadcast) <= self._carrier.max_bytes

    def publish(self, room: RoomName, broadcast: Broadcast) -> BroadcastReason | None:
        message = encode_broadcast(self._node, room, broadcast)
        problem = self._carrier.send(broadcast_subject(room), message)
        if problem is None:
            self._sent += 1
            return None
        self._lost += 1
        return _REASONS[problem]

    def subscribe(self, room: RoomName) -> None:
        self._carrier.listen(broadcast_subject(room))

    def unsubscribe(self, room: RoomName) -> None:
        self._carrier.ignore(broadcast_subject(room))

    def take(self, subject: str, data: bytes) -> None:
        """Take a message of another process.

        Raises:
            ValueError: if no process writes it.
        """
        message = decode_broadcast(subject, data)
        if message.node == self._node:
            return
        if self._take(message.node, message.room, message.broadcast):
            self._received += 1
        else:
            self._lost += 1
