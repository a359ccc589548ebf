"""SocketState: which channels a socket has joined, and what each message means.

No I/O: a message goes in, the actions to perform come out, in order. Joining and taking a
new token need decisions that may take time, so they are actions of their own, answered with
:meth:`accept` or :meth:`refuse`, and with a new grant or :meth:`end`, before the next message
is given in.

The rules are Phoenix's own (``Phoenix.Socket``): a second join of a topic replaces the
first without a ``phx_close``; a leave of a topic that is not joined is answered all the
same; a message with the join_ref of an earlier membership is ignored, since the client has
merely raced us.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import attrs

from ..errors import FrameError
from ..grants import Grant
from .messages import (
    ACCESS_TOKEN,
    CHANNEL_PREFIX,
    CLOSE,
    ERROR,
    HEARTBEAT,
    JOIN,
    LEAVE,
    PHOENIX,
    SYSTEM,
    Message,
    Ref,
)
from .payloads import access_token, has_config, size_of
from .serializers import Serializer

__all__ = [
    "Action",
    "Channel",
    "Check",
    "Close",
    "Join",
    "Refresh",
    "RefusePayload",
    "Send",
    "SocketState",
    "Subscribe",
    "Unsubscribe",
]


# Compared by identity: a rejoin makes another membership of the same topic.
@attrs.define(eq=False)
class Channel:
    """A socket's joined membership of a topic."""

    topic: str
    ref: Ref
    """``ref`` of the join."""
    join_ref: Ref
    has_config: bool = False
    """Whether its client is of the generation that joins with a ``config``."""
    grant: Grant = attrs.field(factory=Grant)
    """In whose name it is joined; a new token brings another one."""

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
class Refresh:
    """Decide on a new token for the channel: give it another grant, or end it."""

    channel: Channel
    token: Any
    """As the client sent it; None if it sent none."""


@attrs.frozen
class Check:
    """End the channels whose grants are good no more."""


@attrs.frozen
class Subscribe:
    """Changes go to the channel from now on."""

    channel: Channel


@attrs.frozen
class Unsubscribe:
    """No more changes go to the channel."""

    channel: Channel


@attrs.frozen
class RefusePayload:
    """The message's payload is too large: answer it with :meth:`SocketState.refuse`."""

    message: Message


@attrs.frozen
class Close:
    """Close the connection."""

    code: int
    reason: str


Action: TypeAlias = Send | Join | Refresh | RefusePayload | Check | Subscribe | Unsubscribe | Close


class SocketState:
    """The channels of one socket.

    Args:
        serializer: the wire format that the socket speaks.
        max_payload_bytes: of a message, as JSON.
    """

    def __init__(self, serializer: Serializer, *, max_payload_bytes: int) -> None:
        self._serializer = serializer
        self._max_payload = max_payload_bytes
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
        # A character is four bytes at most: what is short need not be measured.
        if len(data) * 4 > self._max_payload and size_of(message.payload) > self._max_payload:
            return [RefusePayload(message)]
        if message.event == JOIN:
            return self._join(message)
        if message.topic == PHOENIX and message.event == HEARTBEAT:
            return [Check(), Send(message.reply("ok", {}))]
        channel = self.channels.get(message.topic)
        if channel is None:
            return [Send(_answer_unjoined(message))]
        if message.join_ref is not None and message.join_ref != channel.join_ref:
            return []
        return self._to_channel(channel, message)

    def accept(
        self,
        message: Message,
        response: dict[str, Any] | None = None,
        *,
        grant: Grant | None = None,
    ) -> list[Action]:
        """Complete a join."""
        channel = Channel(
            message.topic,
            message.ref,
            message.join_ref,
            has_config(message.payload),
            grant or Grant(),
        )
        self.channels[message.topic] = channel
        # Both before anything else can be sent: no change comes ahead of the reply, and
        # none that is committed after it is missed.
        return [Send(message.reply("ok", response or {})), Subscribe(channel)]

    def refuse(self, message: Message, reason: str) -> list[Action]:
        """Refuse a join, or another message that is answered."""
        return [Send(message.reply("error", {"reason": reason}))]

    def end(self, channel: Channel, reason: str) -> list[Action]:
        """End a membership that is allowed no more.

        A client of the first generation is told of an error, and joins again by itself;
        later ones are told why, and that it is over: to join again is the application's.
        """
        if self.channels.get(channel.topic) is not channel:
            return []
        del self.channels[channel.topic]
        if not channel.has_config:
            return [Unsubscribe(channel), Send(_end(channel, ERROR))]
        system = {
            "channel": channel.name,
            "extension": "system",
            "status": "error",
            "message": reason,
        }
        return [
            Unsubscribe(channel),
            Send(Message(channel.topic, SYSTEM, system)),
            Send(_end(channel, CLOSE)),
        ]

    def _join(self, message: Message) -> list[Action]:
        if not message.topic.startswith(CHANNEL_PREFIX):
            return self.refuse(message, "unmatched topic")
        former = self.channels.pop(message.topic, None)
        replaced: list[Action] = [] if former is None else [Unsubscribe(former)]
        return [*replaced, Join(message)]

    def _to_channel(self, channel: Channel, message: Message) -> list[Action]:
        if message.event == ACCESS_TOKEN:
            return [Refresh(channel, access_token(message.payload))]
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
