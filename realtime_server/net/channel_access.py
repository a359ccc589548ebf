"""ChannelAccess: what policies let one connection's private channels do.

A public channel may do all that there is. What a private one may is decided when it joins, when it
first sends, and anew with each token.
"""

from __future__ import annotations

from collections.abc import Mapping

from ..auth.grant import Grant
from ..errors import JoinError
from ..fanout.dispatch import Outbox
from ..fanout.room_holds import Hold
from ..fanout.rooms import Rooms
from ..messages.policies.questions import Extension
from ..phoenix.actions import Action, Channel, Join, Publish, Refresh, Track
from ..phoenix.broadcasts import RoomName
from ..phoenix.joins import JoinConfig
from ..phoenix.payloads import asks_for_private
from ..phoenix.policy_reasons import PolicyReason
from ..phoenix.reasons import ReplyReason
from .private_channels import Access, PrivateChannels, shown_headers

__all__ = ["ChannelAccess"]


class ChannelAccess:
    """The private channels of one connection.

    Args:
        private: of the server; None if it has no private channels.
        private_only: whether public channels are refused.
        headers: of the connection's handshake.
        rooms: of the server.
        outbox: of the connection.
        takes_bytes: whether its client can be sent bytes.
    """

    __slots__ = (
        *("_access", "_headers", "_holds", "_outbox", "_private", "_private_only", "_rooms"),
        "_takes_bytes",
    )

    def __init__(
        self,
        private: PrivateChannels | None,
        *,
        private_only: bool,
        headers: Mapping[str, str],
        rooms: Rooms | None,
        outbox: Outbox,
        takes_bytes: bool,
    ) -> None:
        self._private = private
        self._private_only = private_only
        # Those that policies can read, as JSON.
        self._headers = "" if private is None else shown_headers(headers)
        # Of the channels that are private, from the decision on their join to their end.
        self._access: dict[Channel, Access] = {}
        # What is held for those that wait for stored messages.
        self._rooms = rooms
        self._outbox = outbox
        self._takes_bytes = takes_bytes
        self._holds: dict[Channel, Hold] = {}

    @property
    def has_private(self) -> bool:
        """Whether there may be private channels."""
        return self._private is not None

    def must_ask(self, action: Action) -> Channel | None:
        """Return the channel about which policies are asked for an action; None if none are."""
        match action:
            case Join(channel, payload):
                is_asked = asks_for_private(payload)
            case Refresh(channel):
                is_asked = channel in self._access
            case Publish(channel):
                access = self._access.get(channel)
                is_asked = access is not None and not access.is_decided(Extension.BROADCAST)
            case Track(channel):
                access = self._access.get(channel)
                is_asked = access is not None and not access.is_decided(Extension.PRESENCE)
            case _:
                return None
        return channel if is_asked else None

    async def admit(self, channel: Channel, config: JoinConfig | None, grant: Grant) -> None:
        """Decide on a join.

        Args:
            channel: to join.
            config: of the join.
            grant: what its token says.

        Raises:
            RefusedError: if it is refused.
        """
        if config is None or not config.is_private:
            if self._private_only:
                raise JoinError(ReplyReason.PRIVATE_ONLY.told())
            return
        if self._private is None:
            # A channel that its client believes to be private must not get or send anything public.
            raise JoinError(ReplyReason.NO_PRIVATE_CHANNELS.told())
        asked = [Extension.BROADCAST]
        if config.presence.is_enabled:
            asked.append(Extension.PRESENCE)
        access = await self._private.admit(channel.name, grant, self._headers, asked)
        self._access[channel] = access
        asked_for = config.broadcast
        if asked_for.replay is None or Extension.BROADCAST not in access.reads:
            return
        assert self._rooms is not None  # without rooms there are no private channels
        hold = self._rooms.hold(RoomName(channel.topic, is_private=True), self._outbox)
        self._holds[channel] = hold
        hold.stored = await self._private.stored(
            channel.name,
            asked_for.replay,
            takes_bytes=asked_for.takes_bytes and self._takes_bytes,
        )

    def take_hold(self, channel: Channel) -> Hold | None:
        """Return what a channel gets first, now that it joins its room; None: nothing."""
        return self._holds.pop(channel, None)

    async def renewed(self, channel: Channel, grant: Grant) -> Access | None:
        """Decide what a channel may do with a new token; None if it is public.

        Raises:
            RefusedError: if it may not stay joined.
        """
        access = self._access.get(channel)
        if access is None or self._private is None:
            return None
        return await self._private.renewed(access, grant)

    def replace(self, channel: Channel, renewed: Access | None) -> None:
        """Have what was decided with a new token count from now on."""
        if renewed is not None and channel in self._access:
            self._access[channel] = renewed

    def release(self, channel: Channel) -> None:
        """Forget a channel, which has ended."""
        self._access.pop(channel, None)
        hold = self._holds.pop(channel, None)
        if hold is not None:
            hold.drop()

    def is_private(self, channel: Channel) -> bool:
        """Return whether policies decide on a channel."""
        return channel in self._access

    def reads(self, channel: Channel, extension: Extension) -> bool:
        """Return whether a channel may get what others send, as far as that is decided."""
        access = self._access.get(channel)
        return access is None or extension in access.reads

    async def why_not_write(self, channel: Channel, extension: Extension) -> PolicyReason | None:
        """Return why a channel may not send; None if it may, or has ended."""
        access = self._access.get(channel)
        if access is None or self._private is None:
            return None
        return await self._private.why_not_write(access, extension)

    async def decide_on_presence(self, channel: Channel) -> None:
        """Decide whether a channel may see who is present, unless that was done at its join."""
        access = self._access.get(channel)
        if access is not None and self._private is not None:
            await self._private.decide_on_presence(access)
