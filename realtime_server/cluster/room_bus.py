"""RoomBus: the bus of rooms that have members at several processes."""

from __future__ import annotations

import logging
from typing import Final

from ..fanout.bus import TakeBroadcast
from ..fanout.room_stats import BusStats
from ..phoenix.broadcasts import Broadcast, RoomName
from ..phoenix.reasons import BroadcastReason
from .carrier import Carrier, NotSent
from .room_messages import broadcast_subject, decode_broadcast, encode_broadcast, encoded_size

__all__ = ["RoomBus"]

logger = logging.getLogger("realtime.rooms")

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
        self.carrier = carrier
        """The way to them."""
        self._node = node
        self._take: TakeBroadcast = lambda room, broadcast: False
        self._sent = self._received = self._lost = self._strange = 0

    def stats(self) -> BusStats:
        return BusStats(self._sent, self._received, self._lost + self.carrier.lost, self._strange)

    async def run(self) -> None:
        """Carry, until this is cancelled.

        Raises:
            ServerError: in a worker whose supervisor runs another version.
        """
        await self.carrier.run()

    def begin(self, take: TakeBroadcast) -> None:
        self._take = take
        self.carrier.begin(self._hear)

    def fits(self, room: RoomName, broadcast: Broadcast) -> bool:
        return encoded_size(room, broadcast) <= self.carrier.max_bytes

    def publish(self, room: RoomName, broadcast: Broadcast) -> BroadcastReason | None:
        message = encode_broadcast(self._node, room, broadcast)
        problem = self.carrier.send(broadcast_subject(room), message)
        if problem is None:
            self._sent += 1
            return None
        self._lost += 1
        return _REASONS[problem]

    def subscribe(self, room: RoomName) -> None:
        self.carrier.listen(broadcast_subject(room))

    def unsubscribe(self, room: RoomName) -> None:
        self.carrier.ignore(broadcast_subject(room))

    def _hear(self, subject: str, data: bytes) -> None:
        try:
            message = decode_broadcast(subject, data)
        except ValueError as exc:
            self._strange += 1
            if self._strange == 1:
                logger.warning(
                    "a message of %d bytes to %r that no server has written is left (%s), as "
                    "further ones will be; see who else may publish there",
                    *(len(data), subject, exc),
                )
            return
        if message.node == self._node:
            return
        if self._take(message.room, message.broadcast):
            self._received += 1
        else:
            self._lost += 1
