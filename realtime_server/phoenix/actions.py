"""Actions: what is to be done because of a client's messages, and the channels that they are about.

:class:`~realtime_server.phoenix.message_handler.SocketState` returns them; the connection carries
them out.
"""

from __future__ import annotations

import enum
from typing import Any, TypeAlias

import attrs

from ..auth.grant import Grant
from .broadcasts import Broadcast
from .joins import JoinConfig
from .messages import CHANNEL_PREFIX, REPLY, Message, Ref
from .reasons import BroadcastReason, PresenceReason

__all__ = [
    "Action",
    "Channel",
    "CheckGrants",
    "Close",
    "Departure",
    "Join",
    "Publish",
    "Refresh",
    "RefuseBinary",
    "RefuseBroadcast",
    "RefusePayload",
    "RefusePresence",
    "Release",
    "Send",
    "Subscribe",
    "Track",
    "Untrack",
]


class Departure(enum.Enum):
    """How a channel ends."""

    LEFT = enum.auto()
    """The client left the channel."""
    REFUSED = enum.auto()
    """The channel's token is not valid any more, or does not allow the channel."""
    REJOINING = enum.auto()
    """The client joins the channel again on the same connection, or is told to."""
    LOST = enum.auto()
    """The connection ended, and the client may come back."""
    CLOSED = enum.auto()
    """The connection ended because the client's page was closed."""


# Compared by identity: joining a topic again makes another channel.
@attrs.define(eq=False)
class Channel:
    """A socket's membership of a topic, from the message that joins it to its end."""

    topic: str
    ref: Ref
    """``ref`` of the join."""
    join_ref: Ref
    """``join_ref`` of the client's messages to the channel; null with ``vsn=1.0.0`` if they have
    none."""
    config: JoinConfig | None = None
    """The ``config`` of the join, which topic clients do not send."""
    grant: Grant = attrs.field(factory=Grant)
    """The rights that the channel's token gives; a new token brings another grant."""
    is_joined: bool = False
    """Whether the join was accepted; if not, it is being decided on or waits."""
    member: Any = None
    """The caller's own: what the channel is in its room, while it is a member of one."""

    @property
    def name(self) -> str:
        """The topic without its prefix."""
        return self.topic.removeprefix(CHANNEL_PREFIX)

    def reply(self, status: str, response: dict[str, Any]) -> Message:
        """Answer the join."""
        payload = {"status": status, "response": response}
        return Message(self.topic, REPLY, payload, self.ref, self.join_ref)


@attrs.frozen
class Send:
    """The message is to be sent to the client."""

    message: Message


@attrs.frozen
class Join:
    """A join is to be decided on: call :meth:`.SocketState.accept`, ``refuse_join`` or
    ``postpone``."""

    channel: Channel
    payload: Any
    """The join's payload, as the client sent it."""


@attrs.frozen
class Refresh:
    """A channel's new token is to be checked: give the channel another grant, or end it."""

    channel: Channel
    token: Any
    """The new token, as the client sent it; None if it sent none."""


@attrs.frozen
class CheckGrants:
    """Channels whose grants are no longer valid are to be ended."""


@attrs.frozen
class Subscribe:
    """A channel is to get changes from now on."""

    channel: Channel


@attrs.frozen
class Release:
    """A channel has ended: it is to get no more changes, and what is kept for it is to be freed."""

    channel: Channel
    how: Departure


# Not frozen, for the same reason as a message.
@attrs.define
class Publish:
    """A broadcast is to go to the channel's room: call :meth:`.SocketState.acknowledge` when it has
    gone out, or :meth:`.SocketState.fail_broadcast`."""

    channel: Channel
    message: Message
    """The push."""
    broadcast: Broadcast


@attrs.frozen
class RefuseBroadcast:
    """A broadcast goes to nobody: answer with :meth:`.SocketState.fail_broadcast`."""

    channel: Channel
    message: Message
    reason: BroadcastReason


@attrs.frozen
class Track:
    """The channel's client is to be shown to its room: answer the push with
    :meth:`.SocketState.confirm`, or :meth:`.SocketState.refuse`."""

    channel: Channel
    message: Message
    """The push."""
    meta: bytes
    """What is to be shown of it, a JSON object."""


@attrs.frozen
class Untrack:
    """The channel's client is to be shown no more: answer the push likewise."""

    channel: Channel
    message: Message
    """The push."""


@attrs.frozen
class RefusePresence:
    """What a client tracks is not shown: answer with :meth:`.SocketState.refuse`."""

    message: Message
    reason: PresenceReason


@attrs.frozen
class RefuseBinary:
    """The message came in a binary frame of Phoenix's own kind, 0, which goes to nobody: answer
    with :meth:`.SocketState.refuse_broadcast`."""

    message: Message


@attrs.frozen
class RefusePayload:
    """The message's payload is too large: answer it with :meth:`.SocketState.refuse`."""

    message: Message


@attrs.frozen
class Close:
    """The connection is to be closed."""

    code: int
    reason: str


Action: TypeAlias = (
    Send
    | Publish
    | Join
    | Refresh
    | RefuseBinary
    | RefuseBroadcast
    | RefusePayload
    | RefusePresence
    | CheckGrants
    | Subscribe
    | Track
    | Untrack
    | Release
    | Close
)
