"""StreamNotices: tells channels that asked for it that broadcasts of the database reach them.

They do once the database's changes are being read. A channel whose server does not read them in
time ends, since its application would wait in vain for what the database sends.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from ..fanout.source_attachment import Attachment, Wait
from ..phoenix.actions import Action, Channel
from ..phoenix.message_handler import SocketState
from ..phoenix.reasons import ReplyReason

__all__ = ["StreamNotices"]

_WITHIN: Final = 60.0
"""Seconds until a channel ends that is not told."""


class StreamNotices:
    """The channels of one connection that are to be told.

    Args:
        attachment: of the server.
        state: of the socket.
        perform: carries out actions of the state's that take no time.
    """

    __slots__ = ("_attachment", "_perform", "_state", "_waits")

    def __init__(
        self,
        attachment: Attachment,
        state: SocketState,
        perform: Callable[[list[Action]], None],
    ) -> None:
        self._attachment = attachment
        self._state = state
        self._perform = perform
        self._waits: dict[Channel, Wait] = {}

    def join(self, channel: Channel) -> None:
        """Tell a channel, which has joined, now or when the changes are being read."""
        if channel.config is None or not channel.config.broadcast.wants_stream_notice:
            return
        if self._attachment:
            self._perform(self._state.stream_attached(channel))
        else:
            tell = partial(self._tell, channel)
            self._waits[channel] = self._attachment.wait(tell, within=_WITHIN)

    def _tell(self, channel: Channel, attached: bool) -> None:
        self._waits.pop(channel, None)
        if attached:
            self._perform(self._state.stream_attached(channel))
        else:
            reason = ReplyReason.NO_STREAM.told()
            self._perform(self._state.end(channel, reason))

    def leave(self, channel: Channel) -> None:
        """Forget a channel, which has ended."""
        wait = self._waits.pop(channel, None)
        if wait is not None:
            wait.cancel()

    def close(self) -> None:
        """Forget all channels, as the connection has ended."""
        for wait in self._waits.values():
            wait.cancel()
        self._waits.clear()
        # Else they would refer to each other, and stay until a collection of garbage.
        self._perform = lambda actions: None
