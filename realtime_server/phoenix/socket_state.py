"""SocketState: which channels a socket has joined, and what each message means.

No I/O: a message goes in, the actions to perform come out, in order. Joining and taking a
new token need decisions that may take time, so they are actions of their own, answered with
:meth:`accept` or :meth:`refuse`, and with a new grant or :meth:`end`, before the next message
is given in. Only a join that is put off with :meth:`postpone` lets others pass, until it is
taken up again with :meth:`resume` or a :class:`Withdraw` ends it.

The rules are Phoenix's own (``Phoenix.Socket``): a second join of a topic replaces the
first without a ``phx_close``; a leave of a topic that is not joined is answered all the
same; a message with the join_ref of an earlier membership is ignored, since the client has
merely raced us. The end of a membership is told with its join's ref, so that a client that has
joined again knows that another one is meant. In V1 some clients send no join_ref: then every
message is of the membership that there is, and its end is told with the ref null.

One rule is not Phoenix's. Some of today's clients with V1 take every ``phx_close`` of a topic for
the end of the channel that they have now. So the answer to their leave waits a moment for the
next message: if that joins the topic again, the reply comes without the ``phx_close``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeAlias

import attrs

from ..auth.grant import Grant
from ..errors import FrameError
from .joins import JoinConfig
from .messages import (
    ACCESS_TOKEN,
    BROADCAST,
    CHANNEL_PREFIX,
    CLOSE,
    ERROR,
    HEARTBEAT,
    JOIN,
    LEAVE,
    PHOENIX,
    PRESENCE,
    SYSTEM,
    Message,
    Ref,
    noted,
    subscribed,
    subscription_failed,
)
from .payloads import access_token, size_of
from .serializers import Serializer

__all__ = [
    "Action",
    "Channel",
    "Check",
    "Close",
    "Join",
    "Refresh",
    "RefuseEvent",
    "RefusePayload",
    "Send",
    "SocketState",
    "Subscribe",
    "Unsubscribe",
    "Withdraw",
]


# Compared by identity: a rejoin makes another membership of the same topic.
@attrs.define(eq=False)
class Channel:
    """A socket's joined membership of a topic."""

    topic: str
    ref: Ref
    """``ref`` of the join."""
    join_ref: Ref
    """What the client says in its messages to the channel; null in V1 if it says nothing."""
    config: JoinConfig | None = None
    """What today's clients ask for when they join; the first generation's have none."""
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
class Withdraw:
    """The postponed join of the topic is not wanted any more."""

    topic: str


@attrs.frozen
class RefuseEvent:
    """There is nothing here that the message is for: answer it with :meth:`SocketState.refuse`."""

    message: Message


@attrs.frozen
class RefusePayload:
    """The message's payload is too large: answer it with :meth:`SocketState.refuse`."""

    message: Message


@attrs.frozen
class Close:
    """Close the connection."""

    code: int
    reason: str


Action: TypeAlias = (
    Send
    | Join
    | Withdraw
    | Refresh
    | RefuseEvent
    | RefusePayload
    | Check
    | Subscribe
    | Unsubscribe
    | Close
)


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
        self.postponed: dict[str, Message] = {}
        """By topic: the joins that wait."""
        # The reply to a leave and the close behind it, while they wait for the next message.
        self._parting: tuple[Message, Message] | None = None
        self._closed = False

    @property
    def is_waiting(self) -> bool:
        """Whether an answer waits for the next message; without one soon, see :meth:`part`."""
        return self._parting is not None

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
        joins = message.topic if message.event == JOIN else None
        return [*self.part(joins), *self._receive(message, data)]

    def part(self, joins: str | None = None) -> list[Action]:
        """Answer the leave that waited for the next message.

        Args:
            joins: the topic that the next message joins.
        """
        if self._parting is None:
            return []
        reply, close = self._parting
        self._parting = None
        return [Send(reply)] if close.topic == joins else [Send(reply), Send(close)]

    def _receive(self, message: Message, data: str | bytes) -> list[Action]:
        # A character is four bytes at most: what is short need not be measured.
        if len(data) * 4 > self._max_payload and size_of(message.payload) > self._max_payload:
            return [RefusePayload(message)]
        if message.event == JOIN:
            return self._join(message)
        if message.topic == PHOENIX and message.event == HEARTBEAT:
            return [Check(), Send(message.reply("ok", {}))]
        channel = self.channels.get(message.topic)
        if channel is None:
            return self._to_nobody(message)
        if _is_outdated(message, channel.join_ref):
            return []
        return self._to_channel(channel, message)

    def accept(
        self, message: Message, config: JoinConfig | None = None, *, grant: Grant | None = None
    ) -> list[Action]:
        """Complete a join.

        Args:
            message: the join.
            config: of its payload.
            grant: in whose name.
        """
        channel = Channel(message.topic, message.ref, message.join_ref, config, grant or Grant())
        self.channels[message.topic] = channel
        response = {} if config is None else config.response()
        # Both before anything else can be sent: no change comes ahead of the reply, and
        # none that is committed after it is missed.
        return [Send(message.reply("ok", response)), Subscribe(channel)]

    def postpone(self, message: Message) -> None:
        """Put a join off; a leave of the topic or another join withdraws it."""
        self.postponed[message.topic] = message

    def resume(self, message: Message) -> None:
        """Take up a join that was put off: it is to be answered now."""
        del self.postponed[message.topic]

    def in_place(self, channel: Channel, notes: Iterable[str] = ()) -> list[Action]:
        """Tell a channel that its bindings are, and what to know of them."""
        told = [subscribed(channel.name), *(noted(channel.name, note) for note in notes)]
        return [Send(Message(channel.topic, SYSTEM, payload)) for payload in told]

    def fail(self, channel: Channel, reason: str) -> list[Action]:
        """Tell a channel that nothing comes of what it asks for."""
        return [Send(Message(channel.topic, SYSTEM, subscription_failed(channel.name, reason)))]

    def refuse(self, message: Message, reason: str) -> list[Action]:
        """Refuse a join, or another message that is answered."""
        return [Send(message.reply("error", {"reason": reason}))]

    def end(self, channel: Channel, reason: str, *, for_good: bool = True) -> list[Action]:
        """End a membership that is allowed no more, or of which that cannot be said now.

        A client of the first generation is told of an error, and joins again by itself;
        later ones are told why, and that it is over: to join again is the application's, if
        it is over for good.
        """
        if self.channels.get(channel.topic) is not channel:
            return []
        del self.channels[channel.topic]
        if channel.config is None:
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
            Send(_end(channel, CLOSE if for_good else ERROR)),
        ]

    def _join(self, message: Message) -> list[Action]:
        if not message.topic.startswith(CHANNEL_PREFIX):
            return self.refuse(message, "unmatched topic")
        former = self.channels.pop(message.topic, None)
        replaced: list[Action] = [] if former is None else [Unsubscribe(former)]
        return [*self._withdraw(message.topic), *replaced, Join(message)]

    def _withdraw(self, topic: str) -> list[Action]:
        return [] if self.postponed.pop(topic, None) is None else [Withdraw(topic)]

    def _to_nobody(self, message: Message) -> list[Action]:
        if message.event != LEAVE:
            return self.refuse(message, "unmatched topic")
        join = self.postponed.get(message.topic)
        if join is not None and _is_outdated(message, join.join_ref):
            return []
        return [*self._withdraw(message.topic), Send(message.reply("ok", {}))]

    def _to_channel(self, channel: Channel, message: Message) -> list[Action]:
        if message.event == ACCESS_TOKEN:
            return [Refresh(channel, access_token(message.payload))]
        if channel.config is not None and message.event in (BROADCAST, PRESENCE):
            return [RefuseEvent(message)]
        del self.channels[channel.topic]
        if message.event == LEAVE:
            self._parting = message.reply("ok", {}), _end(channel, CLOSE)
            if channel.config is None or self._serializer.tells_join_ref:
                return [Unsubscribe(channel), *self.part()]
            return [Unsubscribe(channel)]
        return [Unsubscribe(channel), Send(_end(channel, ERROR))]


def _is_outdated(message: Message, join_ref: Ref) -> bool:
    """Say whether a message is of another membership than the one with this join_ref."""
    return None not in (message.join_ref, join_ref) and message.join_ref != join_ref


def _end(channel: Channel, event: str) -> Message:
    """Tell the end of a membership, with the join's ref in both places, as Phoenix does."""
    return Message(channel.topic, event, {}, channel.join_ref, channel.join_ref)
