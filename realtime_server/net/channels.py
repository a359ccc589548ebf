"""Channels: the channels of one connection, and what the server keeps for each.

:class:`~realtime_server.phoenix.message_handler.SocketState` says what a client's messages mean.
This carries out what takes the rest of the server: a join is checked against the limits, authorized
and registered with the mode (STREAM or RLS), then the channel subscribes in the hub, and is told
when its bindings are in place; its token is renewed and expires; its end gives everything back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from ..auth.authorizer import ConnectRequest, JoinRequest
from ..auth.grant import Grant
from ..errors import AttachmentError, LimitError, RefusedError, UnavailableError
from ..fanout.groups import Subscription
from ..fanout.payloads.row_payload import gap_payload
from ..fanout.topic_parser import Topic, shown_topic
from ..fanout.turns import Turns, in_turns
from ..logs import named
from ..phoenix.actions import Action, Channel, Departure, Send
from ..phoenix.joins import JoinConfig
from ..phoenix.message_handler import SocketState
from ..phoenix.messages import SYSTEM, Message, number_of
from ..phoenix.payloads import config_text, has_config
from ..phoenix.reasons import ReplyReason
from ..phoenix.serializers import Serializer
from ..replay.notices import Start
from ..replay.visit import Visit
from .channel_access import ChannelAccess
from .filter_limits import FilterAccount, filters_of
from .join_limits import JoinLimits
from .outbox import SocketOutbox
from .refusals import Refusals
from .served_channel import ServedChannel
from .services import Services
from .token_limit import TokenLimit

__all__ = ["Channels"]

logger = logging.getLogger("realtime.connection")

CHECK_INTERVAL: Final = 300.0
"""Seconds between two checks of a channel's token, at most."""


class Channels:
    """All channels of one connection.

    Args:
        request: the connection's handshake.
        serializer: the wire format that the client speaks.
        state: of the socket; it knows which channels are joined.
        outbox: of the connection.
        refusals: of the connection: counts and logs what is refused.
        perform: carries out actions of the state's that take no time.
        peer: names the client in the log.
        visit: the connection's, from which its channels may be brought back; None if none are.
        services: of the server.
    """

    def __init__(
        self,
        request: ConnectRequest,
        serializer: Serializer,
        state: SocketState,
        *,
        outbox: SocketOutbox,
        refusals: Refusals,
        perform: Callable[[list[Action]], None],
        peer: str,
        visit: Visit | None,
        services: Services,
    ) -> None:
        self._request = request
        self._serializer = serializer
        self._state = state
        self._outbox = outbox
        self._refusals = refusals
        self.perform = perform
        """Carries out actions of the state's; one for all that do, as each takes memory."""
        self._peer = peer
        self._visit = visit
        self._services = services
        # Its clock is the one of all limits in time.
        self._loop = asyncio.get_running_loop()
        # What the connection's joins, filters and access tokens are bounded by.
        self._limits = JoinLimits(services.config, self._loop.time)
        if visit is not None:
            visit.charge = self._limits.charge
        self._account = FilterAccount(services.budget)
        self.access = ChannelAccess(
            services.private,
            private_only=services.config.private_only,
            headers=request.headers,
            rooms=services.rooms,
            outbox=outbox,
            takes_bytes=serializer.takes_bytes,
        )
        """What its private channels may do."""
        self._tokens = TokenLimit(services.config.max_tokens, self._loop.time)
        # How many joins are being decided on.
        self._deciding = 0
        # Channels whose join was granted, and what is kept for each.
        self._served: dict[Channel, ServedChannel] = {}
        # When the grants are checked next.
        self._next_check: asyncio.TimerHandle | None = None

    def close(self, how: Departure) -> None:
        """End all channels, because the connection has ended.

        Args:
            how: whether the client may come back.
        """
        if self._next_check is not None:
            self._next_check.cancel()
        for channel in list(self._served):
            self.release(channel, how)
        if self._services.replay is not None and self._visit is not None:
            self._services.replay.close(self._visit, how)
        self._account.close()
        # Else they would refer to each other, and stay until a collection of garbage.
        self.perform = lambda actions: None

    async def join(self, channel: Channel, payload: Any) -> None:
        """Decide on a join, and answer it, perhaps after a wait."""
        services = self._services
        came = 0.0 if self._visit is None else self._visit.proof.arrived
        # However many join at once: a heartbeat, and a row, wait for none of them.
        turns = Turns.shared()
        await turns.begin()
        self._deciding += 1
        try:
            channels = len(self._state.channels) + self._deciding - 1
            text = config_text(payload)
            self._limits.check(channel.topic, text, channels=channels)
            config = await in_turns(services.configs.reading(payload, text), turns)
            topic = Topic(channel.topic, ()) if config else Topic.parse(channel.topic)
            request = JoinRequest(self._request, channel.topic, payload)
            grant = await services.authorizer.join(request)
            self._tokens.hold(channel.topic, grant.token)
            if filters := [*filters_of(topic, config)]:
                await in_turns(self._account.charging(channel.topic, filters), turns)
            bindings = config.bindings if config else None
            await self.access.admit(channel, config, grant)
            if self.access.is_private(channel):
                # The token may have expired while policies were asked.
                grant = services.authorizer.check(grant)
            registered = await services.registrar.register(topic, bindings, grant)
        except RefusedError as exc:
            self._refuse(channel, exc, has_config=has_config(payload))
            return
        except BaseException:
            # Nothing is kept of it, not even what is held for it meanwhile.
            self.release(channel, Departure.REFUSED)
            raise
        finally:
            self._deciding -= 1
        visit = self._visit if config is None or config.bindings else None
        served = self._served[channel] = ServedChannel(topic, registered, visit, came)
        if not self._outbox.is_open:
            # Its client may have come back already, and have joined the channel there.
            self.release(channel, Departure.LOST)
            return
        within = services.attachment.patience_of(config)
        if within is None:
            self._accept(channel, served, config, grant)
        else:
            self._postpone(channel, served, config, grant, within=within)

    def subscribe(self, channel: Channel) -> None:
        """Start to send changes to a channel."""
        served, config = self._served[channel], channel.config
        served.subscription = Subscription(
            served.topic,
            self._serializer,
            self._outbox,
            None if config is None else config.bindings,
            served.registered.viewer,
        )
        self._services.metrics.channels.inc()
        self._services.hub.wanted.note(served.subscription)
        replay = self._services.replay
        if replay is None or served.visit is None:
            if replay is not None and self._visit is not None:
                replay.forget_parked(self._visit, channel.topic)
            self._services.hub.subscribe(served.subscription)
            return
        replay.enter(
            served.visit,
            served.subscription,
            ref=number_of(channel.ref),
            came=served.came,
            claims=channel.grant.claims,
            on_start=partial(self._begin, channel, served),
        )

    def release(self, channel: Channel, how: Departure) -> None:
        """Free what is kept for a channel, whether its join was accepted or not."""
        self._account.refund(channel.topic)
        self._tokens.release(channel.topic)
        self.access.release(channel)
        served = self._served.pop(channel, None)
        if served is None:
            return
        if served.wait is not None:
            served.wait.cancel()
            # Else they would refer to each other, and stay until a collection of garbage.
            served.wait = None
        if served.subscription is not None:
            replay = self._services.replay
            if replay is None or served.visit is None:
                self._services.hub.unsubscribe(served.subscription)
            else:
                replay.leave(served.visit, served.subscription, how)
            self._services.metrics.channels.dec()
        self._services.registrar.remove(served.registered)

    # Joins

    def _accept(
        self, channel: Channel, served: ServedChannel, config: JoinConfig | None, grant: Grant
    ) -> None:
        self._services.metrics.joins_granted.inc()
        topic, extra = shown_topic(channel.topic), named(self._peer, "join", topic=channel.topic)
        logger.info("joined: %.200r by %s", topic, self._peer, extra=extra)
        logger.debug("the whole topic is %r", channel.topic)
        self.perform(self._state.accept(channel, config, grant=grant))
        self._check_by(grant)
        served.is_accepted = True
        served.is_late = config is None and not self._services.attachment.has_begun
        if served.visit is None or served.start is not None:
            self._announce(channel, served)
        self._services.registrar.watch(served.registered, partial(self._warn, channel))

    def _refuse(self, channel: Channel, exc: RefusedError, *, has_config: bool) -> None:
        self.release(channel, Departure.REFUSED)
        reason = self._refusals.of_join(channel.topic, exc, has_config=has_config)
        self.perform(self._state.refuse_join(channel, reason))

    def _postpone(
        self,
        channel: Channel,
        served: ServedChannel,
        config: JoinConfig | None,
        grant: Grant,
        *,
        within: float,
    ) -> None:
        """Answer a join when the database's changes are being read, or when that takes too long.

        Topic clients do not join again after a refusal: they are accepted all the same.
        """

        def answer(attached: bool) -> None:
            served.wait = None
            try:
                if not attached and config is not None:
                    raise AttachmentError(ReplyReason.NOT_ATTACHED_IN_TIME.told(seconds=within))
                # The token may have expired meanwhile.
                checked = self._services.authorizer.check(grant)
            except RefusedError as exc:
                self._refuse(channel, exc, has_config=config is not None)
            else:
                self._accept(channel, served, config, checked)

        self._state.postpone(channel)
        served.wait = self._services.attachment.wait(answer, within=within)

    def _begin(self, channel: Channel, served: ServedChannel, start: Start) -> None:
        """Note where a channel's changes begin, and tell it if its join was answered before."""
        served.start = start
        if served.is_accepted:
            self._announce(channel, served)

    def _announce(self, channel: Channel, served: ServedChannel) -> None:
        """Tell a channel that its bindings are in place, or that it misses something, as soon as
        changes are being read."""
        if channel.config is None:
            if served.is_late and not (served.start and served.start.resumed):
                tell_late = partial(self._tell_late_start, channel, served)
                served.wait = self._services.attachment.wait(tell_late)
            return
        if not channel.config.bindings:
            return

        def tell(attached: bool) -> None:
            served.wait = None
            start = {} if served.start is None else served.start.members()
            self.perform(self._state.in_place(channel, served.registered.notes, start))
            if served.visit is not None:
                served.visit.note_told(served.subscription)

        if self._services.attachment:
            tell(True)
        else:
            served.wait = self._services.attachment.wait(tell)

    def _tell_late_start(self, channel: Channel, served: ServedChannel, attached: bool) -> None:
        served.wait = None
        gap = self._services.attachment.late_start()
        if gap is None:
            return
        topic, extra = (
            shown_topic(channel.topic),
            named(self._peer, "joined_early", topic=channel.topic),
        )
        logger.info("misses changes, joined early: %.200r by %s", topic, self._peer, extra=extra)
        told = gap_payload(gap, channel.name)
        self.perform([Send(Message(channel.topic, SYSTEM, told))])

    def _warn(self, channel: Channel, exc: RefusedError) -> None:
        """Tell a channel that stays joined that it gets no changes, and why."""
        extra = named(self._peer, "channel_warned", topic=channel.topic, reason=exc.logged)
        topic = shown_topic(channel.topic)
        logger.info(
            "channel %.200r of %s gets nothing: %.1000s", topic, self._peer, exc.logged, extra=extra
        )
        logger.debug("the channel %r is sent: %s", channel.topic, exc)
        self.perform(self._state.fail(channel, exc.reason))

    # Tokens

    async def refresh(self, channel: Channel, token: Any) -> None:
        """Replace a channel's token, or end the channel if it may not stay with the new one."""
        await Turns.shared().begin()
        try:
            if isinstance(token, str) and channel.grant.token:
                # Before the token is verified, which takes its time.
                self._tokens.check(token)
            grant = await self._services.authorizer.refresh(channel.grant, token)
            if grant is not channel.grant:
                await self._renew(channel, grant)
        except RefusedError as exc:
            self._end(channel, exc)
        else:
            self._check_by(grant)

    async def _renew(self, channel: Channel, grant: Grant) -> None:
        """Give a channel another grant, and so perhaps another viewer."""
        served = self._served.get(channel)
        if served is None:
            # It has ended while its token was verified.
            return
        self._tokens.hold(channel.topic, grant.token)
        access = await self.access.renewed(channel, grant)
        viewer = await self._services.registrar.renew(served.registered, grant)
        channel.grant = grant
        self.access.replace(channel, access)
        if served.subscription is not None and channel in self._served:
            replay = self._services.replay
            if replay is None or served.visit is None:
                self._services.hub.move(served.subscription, viewer)
            else:
                replay.renew(served.visit, served.subscription, viewer, grant.claims)

    def check_grants(self) -> None:
        """End the channels whose tokens are no longer valid; check again when the next expires."""
        if self._next_check is not None:
            self._next_check.cancel()
            self._next_check = None
        for channel in list(self._state.channels.values()):
            if not channel.is_joined:
                continue
            try:
                channel.grant = self._services.authorizer.check(channel.grant)
            except RefusedError as exc:
                self._end(channel, exc)
            else:
                self._check_by(channel.grant)

    def _check_by(self, grant: Grant) -> None:
        """Check all grants when this one expires, or before, and every five minutes anyway."""
        if grant.expires_at is None or not self._outbox.is_open:
            return
        now = self._services.clock()
        # In this order: an exp may be too large for a float.
        when = self._loop.time() + max(min(grant.expires_at, now + CHECK_INTERVAL) - now, 0.0)
        if self._next_check is not None:
            if self._next_check.when() <= when:
                return
            self._next_check.cancel()
        self._next_check = self._loop.call_at(when, self.check_grants)

    def _end(self, channel: Channel, exc: RefusedError) -> None:
        self._services.metrics.channels_ended.labels(exc.result).inc()
        if isinstance(exc, LimitError):
            self._services.metrics.limit(exc.limit)
        extra = named(self._peer, "channel_ended", topic=channel.topic, reason=exc.logged)
        topic = shown_topic(channel.topic)
        logger.info(
            "channel %.200r of %s ended: %.1000s", topic, self._peer, exc.logged, extra=extra
        )
        logger.debug("the channel %r is sent: %s", channel.topic, exc)
        for_good = not isinstance(exc, UnavailableError)
        self.perform(self._state.end(channel, exc.reason, for_good=for_good))
