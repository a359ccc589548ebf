"""SocketState: which channels a socket has joined, and what each message means.

No I/O: a message goes in, and the actions to perform come out, in order. To decide on a join or on
a new token may take time, so :class:`Join` and :class:`Refresh` are actions of their own. The
caller answers a join with :meth:`~SocketState.accept` or :meth:`~SocketState.refuse_join`, and a
token with a new grant or :meth:`~SocketState.end`, before it gives in the next message. Only a
join that is put off with :meth:`~SocketState.postpone` lets other messages pass: it is answered
later, or a :class:`Release` says that the client does not want it any more. The actions are in
:mod:`.actions`.

The rules are Phoenix's own (``Phoenix.Socket``). A second join of a topic replaces the first
channel without a ``phx_close``. A leave of a topic that is not joined is answered all the same. A
message with the join_ref of an earlier channel is ignored, since the client sent it before it knew
of the later one. The end of a channel is sent with its join's ref, so that a client that has
joined again knows which channel is meant. With ``vsn=1.0.0`` some clients send no join_ref: then
every message belongs to the channel that there is, and its end is sent with the ref null.

One rule is not Phoenix's. Some binding clients with ``vsn=1.0.0`` take every ``phx_close`` of a
topic for the end of the channel that they have now, or are about to have: they join again when
their leave is answered, or before. So a leave is answered at once, and the ``phx_close`` behind it
waits a while for the next message: if that joins the topic again, it is not sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, Final

from ..auth.grant import Grant
from ..errors import BroadcastError, FrameError, PresenceError
from .actions import (
    Action,
    Channel,
    CheckGrants,
    Close,
    Departure,
    Join,
    Publish,
    Refresh,
    RefuseBinary,
    RefuseBroadcast,
    RefusePayload,
    RefusePresence,
    Release,
    Send,
    Subscribe,
    Track,
    Untrack,
)
from .broadcasts import BinaryPush, Broadcast, read_binary_push, read_text_push
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
    notice,
    number_of,
    stream_established,
    subscribed,
    subscription_failed,
)
from .payloads import access_token, size_of
from .policy_reasons import PushReason
from .presence_pushes import read_presence_push
from .reasons import BroadcastReason, PresenceReason, ReplyReason, Told
from .serializers import Serializer

__all__ = ["SocketState"]

_MOST_BESIDES: Final = 65536
"""Characters of a broadcast's frame, besides its payload, up to which it is looked into."""


class SocketState:
    """The channels of one socket, and what the client's messages do to them.

    Args:
        serializer: the wire format that the socket speaks.
        max_payload_bytes: of a message, as JSON.
        serves_broadcast: whether the server has rooms, in which clients send to each other.
        max_presence_bytes: of what a client tracks; None: the server has no presence.
    """

    def __init__(
        self,
        serializer: Serializer,
        *,
        max_payload_bytes: int,
        serves_broadcast: bool = False,
        max_presence_bytes: int | None = None,
    ) -> None:
        self._serializer = serializer
        self._max_payload = max_payload_bytes
        self._serves_broadcast = serves_broadcast
        self._max_presence = max_presence_bytes
        self.channels: dict[str, Channel] = {}
        """The channels that are joined, and those whose join was postponed, by topic."""
        self.last_ref = 0
        """The highest ref that the client has sent, if its refs are numbers."""
        # The phx_close after the reply to a leave, while it waits for the next message.
        self._parting: Message | None = None
        self._closed = False

    @property
    def is_waiting(self) -> bool:
        """Whether a ``phx_close`` waits for the next message; if none comes, call :meth:`part`."""
        return self._parting is not None

    def decode(self, data: str | bytes) -> Message | None:
        """Return a message of the client; None if it cannot be read."""
        try:
            return self._serializer.decode(data)
        except FrameError:
            return None

    def receive(self, data: str | bytes, message: Message | None = None) -> list[Action]:
        """Handle a message of the client, which may have been decoded; return the actions to
        perform, in order. After a :class:`Close` it answers nothing more.
        """
        if self._closed:
            return []
        try:
            message = message or self._serializer.decode(data)
        except FrameError as exc:
            self._closed = True
            return [Close(exc.code, exc.reason)]
        number = number_of(message.ref)
        if number is not None and number > self.last_ref:
            self.last_ref = number
        if self._parting is None:
            return self._receive(message, data)
        joins = message.topic if message.event == JOIN else None
        return [*self.part(joins), *self._receive(message, data)]

    def part(self, joins: str | None = None) -> list[Action]:
        """Send a ``phx_close`` that has waited for the next message, unless that joins its topic.

        Args:
            joins: the topic that the next message joins.
        """
        close, self._parting = self._parting, None
        return [] if close is None or close.topic == joins else [Send(close)]

    def _receive(self, message: Message, data: str | bytes) -> list[Action]:
        if isinstance(message.payload, bytes):
            return [RefuseBinary(message)]
        channel = self.channels.get(message.topic)
        if self._is_to_room(channel, message):
            assert channel is not None  # then it is not
            if _is_outdated(message, channel.join_ref):
                return []
            if message.event == BROADCAST:
                return [self._broadcast(channel, message, data)]
            return [self._presence(channel, message, data)]
        # A character is four bytes at most: what is short need not be measured.
        if len(data) * 4 > self._max_payload and self._is_too_large(message, data):
            return [RefusePayload(message)]
        if message.event == JOIN:
            return self._join(message)
        if message.topic == PHOENIX and message.event == HEARTBEAT:
            return [CheckGrants(), Send(message.reply("ok", {}))]
        if channel is None or not channel.is_joined:
            return self._to_unjoined(channel, message)
        if _is_outdated(message, channel.join_ref):
            return []
        return self._to_channel(channel, message)

    def _is_to_room(self, channel: Channel | None, message: Message) -> bool:
        """Return whether a message is for other members of its channel's room."""
        if channel is None or not channel.is_joined or channel.config is None:
            return False
        if message.event == BROADCAST:
            return self._serves_broadcast
        return message.event == PRESENCE and self._max_presence is not None

    def _is_too_large(self, message: Message, data: str | bytes) -> bool:
        payload = message.payload
        is_push = isinstance(payload, BinaryPush | Broadcast)
        size = len(data) if is_push else size_of(payload)
        return size > self._max_payload

    def accept(
        self, channel: Channel, config: JoinConfig | None = None, *, grant: Grant | None = None
    ) -> list[Action]:
        """Accept a join, and answer it.

        Args:
            channel: to join.
            config: of the join's payload.
            grant: what its token allows.
        """
        channel.config, channel.grant = config, grant or Grant()
        channel.is_joined = True
        self.channels[channel.topic] = channel
        response = {} if config is None else config.response()
        # Both before anything else can be sent: no change comes ahead of the reply, and
        # none that is committed after it is missed.
        return [Send(channel.reply("ok", response)), Subscribe(channel)]

    def postpone(self, channel: Channel) -> None:
        """Answer a join later. Until then a leave or another join of the topic releases the
        channel."""
        self.channels[channel.topic] = channel

    def refuse_join(self, channel: Channel, reason: str) -> list[Action]:
        """Refuse a join, whether it was put off or not."""
        if self.channels.get(channel.topic) is channel:
            del self.channels[channel.topic]
        return [Send(channel.reply("error", {"reason": reason}))]

    def acknowledge(self, channel: Channel, message: Message) -> list[Action]:
        """Answer a broadcast that has gone out, if its client asked for that."""
        return self._answer(channel, message, "ok", {})

    def fail_broadcast(
        self, channel: Channel, message: Message, reason: PushReason, *, most: int = 0
    ) -> list[Action]:
        """Answer a broadcast that goes to nobody, if its client asked for that.

        Args:
            channel: that it was pushed to.
            message: the push.
            reason: why.
            most: the limit that the reason names, if it names one.
        """
        return self._answer(channel, message, "error", _failure(reason, most))

    def _answer(
        self, channel: Channel, message: Message, status: str, response: dict[str, Any]
    ) -> list[Action]:
        asked = channel.config is not None and channel.config.broadcast.acknowledges
        if not asked or self.channels.get(channel.topic) is not channel:
            return []
        return [Send(message.reply(status, response))]

    def confirm(self, message: Message) -> list[Action]:
        """Answer a message that was carried out."""
        return [Send(message.reply("ok", {}))]

    def refuse(self, message: Message, reason: Told) -> list[Action]:
        """Answer a message that is no join with an error."""
        return [Send(message.reply("error", {"reason": reason}))]

    def refuse_broadcast(self, message: Message, reason: PushReason) -> list[Action]:
        """Answer a broadcast that no channel has sent, whether an answer was asked for or not."""
        return [Send(message.reply("error", _failure(reason)))]

    def in_place(
        self,
        channel: Channel,
        notes: Iterable[str] = (),
        start: Mapping[str, Any] = MappingProxyType({}),
    ) -> list[Action]:
        """Tell a channel that its bindings are in place.

        Args:
            channel: to tell.
            notes: what its client should know of the bindings; each is a message of its own.
            start: members that say where its changes begin.
        """
        first = {**subscribed(channel.name), **start}
        told = [first, *(notice(channel.name, note) for note in notes)]
        return [Send(Message(channel.topic, SYSTEM, payload)) for payload in told]

    def stream_attached(self, channel: Channel) -> list[Action]:
        """Tell a channel that the database's changes are being read."""
        return [Send(Message(channel.topic, SYSTEM, stream_established(channel.name)))]

    def fail(self, channel: Channel, reason: str) -> list[Action]:
        """Tell a channel that stays joined that it gets no changes, and why."""
        return [Send(Message(channel.topic, SYSTEM, subscription_failed(channel.name, reason)))]

    def end(self, channel: Channel, reason: str, *, for_good: bool = True) -> list[Action]:
        """End a channel because its token is no longer valid, or cannot be checked now.

        A topic client is sent ``phx_error``, and joins again by itself. A binding client is told
        the reason, and then sent ``phx_close`` if the channel ended for good, so that the
        application has to join again, or else ``phx_error``, so that the client does it.
        """
        if self.channels.get(channel.topic) is not channel:
            return []
        del self.channels[channel.topic]
        how = Departure.REFUSED if for_good else Departure.REJOINING
        if channel.config is None:
            return [Release(channel, how), Send(_end(channel, ERROR))]
        system = {
            "channel": channel.name,
            "extension": "system",
            "status": "error",
            "message": reason,
        }
        return [
            Release(channel, how),
            Send(Message(channel.topic, SYSTEM, system)),
            Send(_end(channel, CLOSE if for_good else ERROR)),
        ]

    def _join(self, message: Message) -> list[Action]:
        if not message.topic.startswith(CHANNEL_PREFIX):
            return self.refuse(message, ReplyReason.UNMATCHED_TOPIC.told())
        channel = Channel(message.topic, message.ref, message.join_ref)
        former = self._release(message.topic, Departure.REJOINING)
        return [*former, Join(channel, message.payload)]

    def _release(self, topic: str, how: Departure) -> list[Action]:
        former = self.channels.pop(topic, None)
        return [] if former is None else [Release(former, how)]

    def _to_unjoined(self, channel: Channel | None, message: Message) -> list[Action]:
        """Answer a message to a topic that is not joined, or whose join waits."""
        if message.event != LEAVE:
            return self.refuse(message, ReplyReason.UNMATCHED_TOPIC.told())
        if channel is not None and _is_outdated(message, channel.join_ref):
            return []
        return [*self._release(message.topic, Departure.LEFT), Send(message.reply("ok", {}))]

    def _broadcast(self, channel: Channel, message: Message, data: str | bytes) -> Action:
        push = message.payload
        if len(data) > self._max_payload + _MOST_BESIDES:
            return RefuseBroadcast(channel, message, BroadcastReason.TOO_LARGE)
        try:
            if isinstance(push, Broadcast):
                broadcast = push
            elif isinstance(push, BinaryPush):
                broadcast = read_binary_push(push)
            else:
                assert isinstance(data, str)  # else it would be a binary push
                broadcast = read_text_push(data, self._serializer.payload_at(data))
        except BroadcastError as exc:
            return RefuseBroadcast(channel, message, exc.reason)
        except RecursionError:
            return RefuseBroadcast(channel, message, BroadcastReason.NO_JSON)
        if len(data) * 4 > self._max_payload and broadcast.size > self._max_payload:
            return RefuseBroadcast(channel, message, BroadcastReason.TOO_LARGE)
        return Publish(channel, message, broadcast)

    def _presence(self, channel: Channel, message: Message, data: str | bytes) -> Action:
        most = self._max_presence
        assert most is not None
        assert isinstance(data, str)  # binary frames are broadcasts
        if len(data) > most + _MOST_BESIDES:
            return RefusePresence(message, PresenceReason.TOO_LARGE)
        try:
            at = self._serializer.payload_at(data)
            meta = read_presence_push(data, at, max_bytes=most)
        except PresenceError as exc:
            return RefusePresence(message, exc.reason)
        except RecursionError:
            return RefusePresence(message, PresenceReason.DEPTH)
        return Untrack(channel, message) if meta is None else Track(channel, message, meta)

    def _to_channel(self, channel: Channel, message: Message) -> list[Action]:
        if message.event == ACCESS_TOKEN:
            return [Refresh(channel, access_token(message.payload))]
        if channel.config is not None and message.event == BROADCAST:
            return [RefuseBroadcast(channel, message, BroadcastReason.DISABLED)]
        if channel.config is not None and message.event == PRESENCE:
            return [RefusePresence(message, PresenceReason.DISABLED)]
        del self.channels[channel.topic]
        if message.event == LEAVE:
            self._parting = _end(channel, CLOSE)
            left: list[Action] = [
                Release(channel, Departure.LEFT),
                Send(message.reply("ok", {})),
            ]
            if channel.config is None or self._serializer.tells_join_ref:
                return [*left, *self.part()]
            return left
        return [Release(channel, Departure.REJOINING), Send(_end(channel, ERROR))]


def _is_outdated(message: Message, join_ref: Ref) -> bool:
    """Return whether a message belongs to another channel than the one with this join_ref."""
    ref = message.join_ref
    return ref is not None and join_ref is not None and ref != join_ref


def _failure(reason: PushReason, most: int = 0) -> dict[str, Any]:
    """Return why a broadcast goes to nobody, as its sender is told."""
    return {"error": reason.code, "reason": reason.told(most=most)}


def _end(channel: Channel, event: str) -> Message:
    """Return the message that ends a channel: like Phoenix, with the join's ref in both places."""
    return Message(channel.topic, event, {}, channel.join_ref, channel.join_ref)
