"""ViewerChanges: what a live channel misses when its new token gives it another viewer.

Changes may wait in the queue of the former viewer, whose policies are slow. The channel does not
get them any more, and is told of a gap instead.
"""

from __future__ import annotations

from collections.abc import Hashable

from .change_log import ChangeLog
from .channel_starts import ChannelStarts
from .queue_places import QueuePlaces
from .standing import LivePlaces, Standing
from .standings import Standings

__all__ = ["ViewerChanges"]


class ViewerChanges:
    """Tells a live channel what it misses when its new token gives it another viewer: changes that
    still waited for its former viewer's policies.

    Args:
        live: the places up to which the live hub has handed changes out.
        log: the changes that clients may have missed.
        queues: the places of viewers whose changes wait for slow policies.
        channel_starts: tells channels what they miss.
        standings: the places of channels.
    """

    def __init__(
        self,
        live: LivePlaces,
        *,
        log: ChangeLog,
        queues: QueuePlaces,
        channel_starts: ChannelStarts,
        standings: Standings,
    ) -> None:
        self._live = live
        self._log = log
        self._queues = queues
        self._channel_starts = channel_starts
        self._standings = standings

    def prepare(self, standing: Standing, viewer: Hashable) -> None:
        """Tell a live channel that is about to get another viewer what it misses.

        If its connection breaks before the message has arrived, it goes on where it is now, and
        gets what waits if the other viewer may see it.

        Args:
            standing: the place of the channel.
            viewer: the viewer that it is about to get.
        """
        subscription = standing.subscription
        former = subscription.viewer
        if viewer == former or not self._queues.knows(former):
            return
        sure = standing.sure_place(self._live)
        if self._queues.let_go(former, subscription):
            # The changes wait for other channels of the former viewer. The message must not come
            # after the client has proven what came later.
            after = self._live.handed_to(former)
            self._channel_starts.tell_replaced(subscription, after, self._log.end)
        standing.hold(sure)
        self._standings.unsettle(standing)
