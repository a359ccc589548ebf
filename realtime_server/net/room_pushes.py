"""RoomPushes: what one connection's channels send to their rooms, and that they get what others do.

What they track is in :mod:`.presence_pushes`.

Each delivery costs the sender: what it pushes to a room of a thousand members counts a thousand
times against what it may have delivered in a second. What fails is counted, and answered if the
channel asked for answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from ..config import ServerConfig
from ..fanout.frames import Frames
from ..fanout.presence import Presence
from ..fanout.room import Member, frame_of
from ..fanout.room_holds import Hold
from ..fanout.rooms import Rooms
from ..phoenix.actions import Action, Channel
from ..phoenix.broadcasts import Broadcast, RoomName
from ..phoenix.message_handler import SocketState
from ..phoenix.messages import Message
from ..phoenix.policy_reasons import PolicyReason, PushReason
from ..phoenix.reasons import BroadcastReason, PresenceReason
from ..phoenix.serializers import Serializer
from .outbox import SocketOutbox
from .presence_pushes import PresencePushes
from .refusals import Refusals
from .token_bucket import TokenBucket

__all__ = ["RoomPushes"]


class RoomPushes:
    """The memberships of one connection's channels, and their broadcasts.

    Args:
        rooms: of the server.
        config: says the limits.
        serializer: the wire format that the client speaks.
        state: of the socket.
        outbox: of the connection.
        refusals: of the connection: counts and logs what is refused.
        perform: carries out actions of the state's that take no time.
        presence: of the server; None if it has none.
    """

    __slots__ = (
        "_bucket",
        "_config",
        "_outbox",
        "_perform",
        "_presence",
        "_presence_pushes",
        "_refusals",
        "_rooms",
        "_serializer",
        "_state",
    )

    def __init__(
        self,
        rooms: Rooms,
        config: ServerConfig,
        serializer: Serializer,
        state: SocketState,
        *,
        outbox: SocketOutbox,
        refusals: Refusals,
        perform: Callable[[list[Action]], None],
        presence: Presence | None,
    ) -> None:
        self._rooms = rooms
        self._config = config
        self._serializer = serializer
        self._state = state
        self._outbox = outbox
        self._refusals = refusals
        self._perform = perform
        self._presence = presence
        # Made for the first channel that asks who is present, or tracks: most do neither.
        self._presence_pushes: PresencePushes | None = None
        # Made with the first push: most clients push nothing.
        self._bucket: TokenBucket | None = None

    def join(self, channel: Channel, *, hears: bool, hold: Hold | None = None) -> None:
        """Make a channel, which joined with ``config``, a member of its room.

        Args:
            channel: that joined.
            hears: whether it gets what others broadcast.
            hold: what it gets first.
        """
        assert channel.config is not None
        asked = channel.config.broadcast
        member = channel.member = Member(
            RoomName(channel.topic, channel.config.is_private),
            self._serializer,
            self._outbox,
            takes_bytes=asked.takes_bytes and self._serializer.takes_bytes,
            hears_itself=asked.hears_itself,
            hears=hears,
            replayed=() if hold is None else hold.metas(),
        )
        self._rooms.join(member)
        if hold is not None:
            hold.drop()
            frames = tuple(
                frame_of(member, broadcast)
                for broadcast in hold.broadcasts()
                if broadcast.is_json or member.takes_bytes
            )
            if frames:
                self._outbox.write(Frames(frames, 0))

    def hear(self, channel: Channel) -> None:
        """Send a channel what is broadcast in its room from now on, if it is a member."""
        if channel.member is not None:
            self._rooms.hear(channel.member)

    def watch(self, channel: Channel) -> None:
        """Tell a channel who is present from now on, if it is a member and asked for that."""
        member: Member | None = channel.member
        if member is None:
            return
        assert channel.config is not None  # it is a member
        if channel.config.presence.is_enabled and (presence := self._of_presence()) is not None:
            presence.join(member)

    def leave(self, channel: Channel) -> None:
        """End a channel's membership, if it has one."""
        member, channel.member = channel.member, None
        if member is None:
            return
        if self._presence_pushes is not None:
            self._presence_pushes.leave(channel, member)
        self._rooms.leave(member)

    def close(self) -> None:
        """End all memberships, because the connection has ended."""
        for channel in self._state.channels.values():
            self.leave(channel)
        if self._presence_pushes is not None:
            self._presence_pushes.close()
        # Else they would refer to each other, and stay until a collection of garbage.
        self._perform = lambda actions: None

    def _of_presence(self) -> PresencePushes | None:
        if self._presence_pushes is None and self._presence is not None:
            self._presence_pushes = PresencePushes(
                self._presence,
                self._config,
                self._state,
                refusals=self._refusals,
                perform=self._perform,
            )
        return self._presence_pushes

    def track(self, channel: Channel, message: Message, meta: bytes, *, sees: bool) -> None:
        """Show a channel's client to its room.

        Args:
            channel: that tracks itself.
            message: the push.
            meta: what is to be shown.
            sees: whether it may be told who is present.
        """
        member: Member | None = channel.member
        # It may have ended while policies were asked.
        if member is not None and (presence := self._of_presence()) is not None:
            presence.track(channel, member, message, meta, sees=sees)

    def untrack(self, channel: Channel, message: Message) -> None:
        """Show a channel's client to its room no more."""
        if (presence := self._of_presence()) is not None:
            presence.untrack(channel, channel.member, message)

    def refuse_presence(self, message: Message, reason: PresenceReason | PolicyReason) -> None:
        """Tell a channel that nothing has changed of what is shown of it."""
        if (presence := self._of_presence()) is not None:
            presence.refuse(message, reason)

    def publish(self, channel: Channel, message: Message, broadcast: Broadcast) -> bool:
        """Send what a channel broadcasts to its room; return whether it is going to be written."""
        member: Member | None = channel.member
        if member is None:
            # It has ended while policies were asked.
            return False
        most = self._config.max_deliveries_per_second
        now = asyncio.get_running_loop().time()
        if self._bucket is None:
            self._bucket = TokenBucket(most, now)
        cost = min(self._rooms.size(member.room), most)
        if not self._bucket.take(now, cost):
            self.refuse(channel, message, BroadcastReason.DELIVERIES)
            return False
        done = partial(self._acknowledge, channel, message)
        assert channel.config is not None  # it is a member
        acknowledges = channel.config.broadcast.acknowledges
        problem = self._rooms.publish(
            ((member.room, broadcast),), member, done if acknowledges else None
        )
        if problem is not None:
            self.refuse(channel, message, problem)
        return problem is None

    def refuse(self, channel: Channel, message: Message, reason: PushReason) -> None:
        """Tell a channel that its broadcast goes to nobody, if it asked for answers."""
        most = self._config.max_payload_bytes
        if reason is BroadcastReason.DELIVERIES:
            most = self._config.max_deliveries_per_second
        self._refusals.of_broadcast(message, reason, most)
        self._perform(self._state.fail_broadcast(channel, message, reason, most=most))

    def _acknowledge(
        self, channel: Channel, message: Message, problem: BroadcastReason | None
    ) -> None:
        if problem is None:
            self._perform(self._state.acknowledge(channel, message))
        else:
            # It is counted where it was lost: the members here have it.
            self._perform(self._state.fail_broadcast(channel, message, problem, most=0))
