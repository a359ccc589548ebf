"""SocketState: which channels a socket has joined, and what each message means.

No I/O: a message goes in, the actions to perform come out, in order. Joining needs a
decision that may take time, so it is an action of its own, answered with :meth:`accept` or
:meth:`refuse` before the next message is given in.

The rules are Phoenix's own (``Phoenix.Socket``): a second join of a topic replaces the
first without a ``phx_close``; a leave of a topic that is not joined is answered all the
same; a message with the join_ref of an earlier membership is ignored, since the client has
merely raced us.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import attrs

from ..errors import FrameError
from .messages import (
    ACCESS_TOKEN,
    CHANNEL_PREFIX,
    CLOSE,
    ERROR,
    HEARTBEAT,
    JOIN,
    LEAVE,
    PHOENIX,
    Message,
    Ref,
)
from .serializers import Serializer

__all__ = [
    "Action",
    "Channel",
    "Close",
    "Join",
    "Send",
    "SocketState",
    "Subscribe",
    "Unsubscribe",
]


# Compared by identity: a rejoin makes another membership of the same topic.
@attrs.frozen(eq=False)
class Channel:
    """A socket's joined membership of a topic."""

    topic: str
    ref: Ref
    """``ref`` of the join."""
    join_ref: Ref

    @property
    def name(self) -> str:
        """The topic without its prefix."""
        return self.topic.removeprefix(CHANNEL_PREFIX)


@attrs.frozen
class Send:
    """Send this message."""

    message: Message


@attrs.frozen
class Join:
    """Decide on this join, then call :meth:`SocketState.accept` or ``refuse``."""

    message: Message


@attrs.frozen
class Subscribe:
    """Changes go to the channel from now on."""

    channel: Channel


@attrs.frozen
class Unsubscribe:
    """No more changes go to the channel."""

    channel: Channel


@attrs.frozen
class Close:
    """Close the connection."""

    code: int
    reason: str


Action: TypeAlias = Send | Join | Subscribe | Unsubscribe | Close


class SocketState:
    """The channels of one socket.

    Args:
        serializer: the wire format that the socket speaks.
    """

    def __init__(self, serializer: Serializer) -> None:
        self._serializer = serializer
        self.channels: dict[str, Channel] = {}
        """By topic."""
        self._closed = False

    def receive(self, data: str | bytes) -> list[Action]:
        """Take a WebSocket message; return what to do.

        After a :class:`Close` it answers nothing more.
        """
        if self._closed:
            return []
        try:
            message = self._serializer.decode(data)
        except FrameError as exc:
            self._closed = True
            return [Close(exc.code, exc.reason)]
        if message.event == JOIN:
            return self._join(message)
        if message.topic == PHOENIX and message.event == HEARTBEAT:
            return [Send(message.reply("ok", {}))]
        channel = self.channels.get(message.topic)
        if channel is None:
            return [Send(_answer_unjoined(message))]
        if message.join_ref is not None and message.join_ref != channel.join_ref:
            return []
        return self._to_channel(channel, message)

    def accept(self, message: Message, response: dict[str, Any] | None = None) -> list[Action]:
        """Complete a join."""
        channel = Channel(message.topic, message.ref, message.join_ref)
        self.channels[message.topic] = channel
        # Both before anything else can be sent: no change comes ahead of the reply, and
        # none that is committed after it is missed.
        return [Send(message.reply("ok", response or {})), Subscribe(channel)]

    def refuse(self, message: Message, reason: str) -> list[Action]:
        """Refuse a join."""
        return [Send(message.reply("error", {"reason": reason}))]

    def _join(self, message: Message) -> list[Action]:
        if not message.topic.startswith(CHANNEL_PREFIX):
            return self.refuse(message, "unmatched topic")
        former = self.channels.pop(message.topic, None)
        replaced: list[Action] = [] if former is None else [Unsubscribe(former)]
        return [*replaced, Join(message)]

    def _to_channel(self, channel: Channel, message: Message) -> list[Action]:
        if message.event == ACCESS_TOKEN:
            return []
        del self.channels[channel.topic]
        if message.event == LEAVE:
            return [
                Unsubscribe(channel),
                Send(message.reply("ok", {})),
                Send(_end(channel, CLOSE)),
            ]
        return [Unsubscribe(channel), Send(_end(channel, ERROR))]


def _answer_unjoined(message: Message) -> Message:
    if message.event == LEAVE:
        return message.reply("ok", {})
    return message.reply("error", {"reason": "unmatched topic"})


def _end(channel: Channel, event: str) -> Message:
    """Tell the end of a membership: V2 gives the join's ref twice, V1 null."""
    return Message(channel.topic, event, {}, channel.join_ref, channel.join_ref)
