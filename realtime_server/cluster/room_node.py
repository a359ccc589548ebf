"""RoomNode: one process of several whose rooms have members at all of them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from ..fanout.room_stats import BusStats
from .carrier import Carrier
from .room_bus import RoomBus
from .room_messages import BROADCASTS
from .shared_presence import BEAT, SharedPresence

__all__ = ["RoomNode"]

logger = logging.getLogger("realtime.rooms")


class RoomNode:
    """Brings what is sent in rooms, and who is present there, to other processes.

    Args:
        carrier: the way to them.
        bus: of the rooms of this process.
        presence: of these rooms, at all processes.
        clock: seconds, which only grow.
    """

    def __init__(
        self,
        carrier: Carrier,
        bus: RoomBus,
        presence: SharedPresence,
        *,
        clock: Callable[[], float],
    ) -> None:
        self.carrier = carrier
        """The way to the other processes."""
        self._bus = bus
        self._presence = presence
        self._clock = clock
        self._strange = 0
        carrier.begin(self._take)

    def stats(self) -> BusStats:
        """Return the counts, as they are now."""
        bus, presence = self._bus.stats(), self._presence
        return BusStats(
            sent=bus.sent + presence.sent,
            received=bus.received + presence.received,
            lost=bus.lost + presence.lost + self.carrier.lost,
            strange=self._strange,
        )

    async def run(self) -> None:
        """Carry, until this is cancelled.

        Raises:
            ServerError: in a worker, when its supervisor has ended.
        """
        tasks = [asyncio.create_task(work()) for work in (self.carrier.run, self._tick_for_ever)]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in done:
            task.result()

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            self._presence.tick(self._clock())

    def _take(self, subject: str, data: bytes) -> None:
        try:
            if subject.startswith(BROADCASTS):
                self._bus.take(subject, data)
            else:
                self._presence.take(subject, data, self._clock())
        except ValueError as exc:
            self._strange += 1
            if self._strange == 1:
                logger.warning(
                    "a message of %d bytes to %r that no server has written is left (%s), as "
                    "further ones will be; see who else may publish there",
                    *(len(data), subject, exc),
                )
