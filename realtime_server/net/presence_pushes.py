"""PresencePushes: what one connection's channels track, and how that is answered."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable

from ..config import ServerConfig
from ..fanout.presence import Presence
from ..fanout.room import Member
from ..phoenix.actions import Action, Channel
from ..phoenix.message_handler import SocketState
from ..phoenix.messages import Message
from ..phoenix.policy_reasons import PolicyReason
from ..phoenix.presence_pushes import MAX_DEPTH, presence_key
from ..phoenix.reasons import PresenceReason
from .refusals import Refusals
from .token_bucket import TokenBucket

__all__ = ["PresencePushes"]


class _Caller:
    """What is kept of a channel that has tracked something."""

    __slots__ = ("bucket", "key")

    def __init__(self, key: bytes, bucket: TokenBucket) -> None:
        self.key = key
        self.bucket = bucket


class PresencePushes:
    """The presence of one connection's channels.

    Args:
        presence: of the server.
        config: says the limits.
        state: of the socket.
        refusals: of the connection: counts and logs what is refused.
        perform: carries out actions of the state's that take no time.
    """

    __slots__ = ("_callers", "_config", "_perform", "_presence", "_refusals", "_state")

    def __init__(
        self,
        presence: Presence,
        config: ServerConfig,
        state: SocketState,
        *,
        refusals: Refusals,
        perform: Callable[[list[Action]], None],
    ) -> None:
        self._presence = presence
        self._config = config
        self._state = state
        self._refusals = refusals
        self._perform = perform
        self._callers: dict[Channel, _Caller] = {}

    def join(self, member: Member) -> None:
        """Tell a channel who is present from now on."""
        self._presence.watch(member)

    def leave(self, channel: Channel, member: Member) -> None:
        """End a channel's part in presence, if it has any."""
        self._callers.pop(channel, None)
        self._presence.leave(member)

    def close(self) -> None:
        """Free what is kept, as the connection has ended."""
        self._callers.clear()
        # Else they would refer to each other, and stay until a collection of garbage.
        self._perform = lambda actions: None

    def track(
        self, channel: Channel, member: Member, message: Message, meta: bytes, *, sees: bool
    ) -> None:
        """Show a channel's client to its room, and answer; tell it who is present, if it sees."""
        caller = self._caller(channel)
        if not caller.bucket.take(asyncio.get_running_loop().time()):
            self.refuse(message, PresenceReason.CALLS)
            return
        reason = self._presence.track(member, caller.key, meta, sees=sees)
        if reason is None:
            self._perform(self._state.confirm(message))
        else:
            self.refuse(message, reason)

    def untrack(self, channel: Channel, member: Member, message: Message) -> None:
        """Show a channel's client to its room no more, and answer."""
        if not self._caller(channel).bucket.take(asyncio.get_running_loop().time()):
            self.refuse(message, PresenceReason.CALLS)
            return
        self._presence.untrack(member)
        self._perform(self._state.confirm(message))

    def refuse(self, message: Message, reason: PresenceReason | PolicyReason) -> None:
        """Tell a channel that nothing has changed of what is shown of it."""
        limits = self._presence.limits
        numbers: dict[PresenceReason | PolicyReason, int] = {
            PresenceReason.DEPTH: MAX_DEPTH,
            PresenceReason.TOO_LARGE: self._config.max_presence_bytes,
            PresenceReason.CALLS: self._config.max_presence_calls_per_second,
            PresenceReason.MEMBERS: limits.members,
            PresenceReason.STATE: limits.state_bytes,
        }
        told = self._refusals.of_presence(message, reason, numbers.get(reason))
        self._perform(self._state.refuse(message, told))

    def _caller(self, channel: Channel) -> _Caller:
        caller = self._callers.get(channel)
        if caller is None:
            assert channel.config is not None  # it is a member
            key = channel.config.presence.key or str(uuid.uuid4())
            bucket = TokenBucket(
                self._config.max_presence_calls_per_second, asyncio.get_running_loop().time()
            )
            caller = self._callers[channel] = _Caller(presence_key(key), bucket)
        return caller
