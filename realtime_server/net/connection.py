"""Connection: one WebSocket between websockets' connection and the socket's state.

It carries the state's actions out. websockets keeps what it does well: handshake,
receiving, ping and pong, closing. Frames out go through the outbox, which writes to the
same transport, so that replies and changes keep their order.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from functools import partial
from math import inf
from typing import Any, Final

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from realtime_core.filters import Filter

from ..auth.authorizer import Authorizer, ConnectRequest, JoinRequest
from ..auth.grant import Grant
from ..config import ServerConfig
from ..errors import AttachmentError, LimitError, RefusedError, UnavailableError
from ..fanout.attachment import Attachment, Wait
from ..fanout.groups import Subscription
from ..fanout.hub import Hub
from ..fanout.registrar import Registered, Registrar
from ..fanout.topics import Topic, shown_topic
from ..fanout.turns import Turns, in_turns
from ..logs import named, peer_name
from ..metrics import Metrics
from ..phoenix.joins import JoinConfig, parsing_join
from ..phoenix.messages import Message
from ..phoenix.payloads import has_config, size_of
from ..phoenix.serializers import Serializer
from ..phoenix.socket_state import (
    Action,
    Channel,
    Check,
    Close,
    Join,
    Refresh,
    RefuseEvent,
    RefusePayload,
    Send,
    SocketState,
    Subscribe,
    Unsubscribe,
    Withdraw,
)
from .aio import TokenBucket
from .backlog import Backlog
from .budget import Account, Budget
from .frames import Frames
from .outbox import SocketOutbox
from .refusals import Refusals
from .token_limit import TokenLimit
from .websocket import close_within

__all__ = ["Connection"]

logger = logging.getLogger("realtime.connection")

MAX_TOPIC_LENGTH: Final = 4096
"""Characters of a topic."""
NEXT_WITHIN: Final = 0.1
"""Seconds that a leave's answer waits for the next message, where that may change it."""
CHECK_INTERVAL: Final = 300.0
"""Seconds between two checks of a channel's token, at most."""
_USUAL_SIZE: Final = 512
"""Bytes of a join's topic and config that count as one join."""
_SIZE_OF_A_JOIN: Final = 64
"""Further bytes that count as another one: 0.1 ms of parsing, checking and typing filters."""


class Connection:
    """Serves one client until it goes.

    Args:
        websocket: open.
        request: its handshake, already authorized.
        serializer: the format it asked for.
        hub: where its channels subscribe.
        attachment: whether the hub is being given changes.
        authorizer: decides on its joins and tokens.
        registrar: is told of its channels.
        backlog: what waits for all clients together.
        budget: what all filters together may cost.
        config: its limits.
        metrics: of the server.
        clock: seconds since 1970, for the tokens' expiry.
    """

    def __init__(
        self,
        websocket: ServerConnection,
        *,
        request: ConnectRequest,
        serializer: Serializer,
        hub: Hub,
        attachment: Attachment,
        authorizer: Authorizer,
        registrar: Registrar,
        backlog: Backlog,
        budget: Budget,
        config: ServerConfig,
        metrics: Metrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._websocket = websocket
        self._request = request
        self._serializer = serializer
        self._hub = hub
        self._attachment = attachment
        self._authorizer = authorizer
        self._registrar = registrar
        self._config = config
        self._metrics = metrics
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._state = SocketState(serializer, max_payload_bytes=config.max_payload_bytes)
        self._joins = TokenBucket(config.max_joins_per_second, self._loop.time())
        self._account = Account(budget)
        self._tokens = TokenLimit(config.max_tokens, self._loop.time)
        self._subscriptions: dict[Channel, Subscription] = {}
        # By topic, also while a join waits.
        self._registered: dict[str, Registered] = {}
        self._postponed: dict[str, Wait] = {}
        self._announcements: dict[Channel, Wait] = {}
        self._next_check: asyncio.TimerHandle | None = None
        self._peer = peer_name(websocket.remote_address)
        self._refusals = Refusals(self._peer, metrics, self._loop.time)
        self._outbox = SocketOutbox(
            websocket,
            max_bytes=config.outbox_max_bytes,
            max_age=config.outbox_max_age / 1000,
            backlog=backlog,
            counters=metrics.outbox,
            peer=self._peer,
        )

    async def run(self) -> None:
        """Answer messages until the connection ends."""
        logger.info("connected: %s", self._peer, extra=named(self._peer, "connect"))
        self._metrics.connections.inc()
        try:
            while (data := await self._receive()) is not None:
                # What came before the end may still be queued; nobody is there for the answers.
                if self._websocket.protocol.state is State.OPEN:
                    await self._perform(self._state.receive(data))
                # recv() does not give way while messages are queued: one client that floods
                # us must not keep the others waiting.
                await asyncio.sleep(0)
        except ConnectionClosed:
            pass
        finally:
            self._outbox.close()
            if self._next_check is not None:
                self._next_check.cancel()
            for wait in self._postponed.values():
                wait.cancel()
            for channel in list(self._subscriptions):
                self._unsubscribe(channel)
            for topic in list(self._registered):
                self._forget(topic)
            self._account.close()
            self._refusals.close()
            code = self._close_code()
            self._metrics.connections.dec()
            self._metrics.closed(code)
            logger.info(
                "closed: %s (%s)", self._peer, code, extra=named(self._peer, "close", code=code)
            )

    def _close_code(self) -> int | None:
        """Return the code that the client was told, or else its own; 1006 without either."""
        sent = self._websocket.protocol.close_sent
        return self._websocket.close_code if sent is None else sent.code

    async def _receive(self) -> str | bytes | None:
        """Return the next message, None when the client was idle for too long."""
        if self._state.is_waiting:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(NEXT_WITHIN):
                    return await self._websocket.recv()
            self._perform_all(self._state.part())
        try:
            async with asyncio.timeout(self._config.idle_timeout / 1000):
                return await self._websocket.recv()
        except TimeoutError:
            self._metrics.limit("idle")
            await close_within(self._websocket, 1000, "no message within the idle time")
            return None

    async def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Join(message):
                    await self._join(message)
                case Refresh(channel, token):
                    await self._refresh(channel, token)
                case Close(code, reason):
                    extra = named(self._peer, "closing", code=code, reason=reason)
                    logger.info("closing %s: %s", self._peer, reason, extra=extra)
                    await close_within(self._websocket, code, reason)
                case _:
                    self._perform_now(action)

    def _perform_all(self, actions: list[Action]) -> None:
        """Perform actions of which none takes time."""
        for action in actions:
            self._perform_now(action)

    def _perform_now(self, action: Action) -> None:
        match action:
            case Send(message):
                self._outbox.write(Frames.of(self._serializer.encode(message)))
            case Subscribe(channel):
                self._subscribe(channel)
            case Unsubscribe(channel):
                self._unsubscribe(channel)
            case Check():
                self._check_grants()
            case RefusePayload(message):
                max_bytes = self._config.max_payload_bytes
                self._refuse(message, self._refusals.of_payload(message, max_bytes))
            case RefuseEvent(message):
                self._refuse(message, self._refusals.of_event(message))
            case Withdraw(topic):
                self._postponed.pop(topic).cancel()
                self._forget(topic)

    # Joins

    async def _join(self, message: Message) -> None:
        config: JoinConfig | None = None
        # However many join at once: a heartbeat, and a row, wait for none of them.
        await Turns.shared().begin()
        try:
            self._check_bounds(message)
            config = await in_turns(parsing_join(message.payload), Turns.shared())
            topic = Topic(message.topic, ()) if config else Topic.parse(message.topic)
            request = JoinRequest(self._request, message.topic, message.payload)
            grant = await self._authorizer.join(request)
            self._tokens.hold(message.topic, grant.token)
            await in_turns(
                self._account.taking(message.topic, _filters(topic, config)), Turns.shared()
            )
            self._registered[message.topic] = await self._registrar.register(
                topic, config.bindings if config else None, grant
            )
        except RefusedError as exc:
            self._refuse_join(message, exc)
            return
        if config is None or config.wait is None or not config.bindings or self._attachment:
            self._accept_join(message, config, grant)
        else:
            self._postpone_join(message, config, config.wait, grant)

    def _accept_join(self, message: Message, config: JoinConfig | None, grant: Grant) -> None:
        self._metrics.joins.labels("ok").inc()
        extra = named(self._peer, "join", topic=message.topic)
        logger.info("joined: %.200r by %s", shown_topic(message.topic), self._peer, extra=extra)
        logger.debug("the whole topic is %r", message.topic)
        self._perform_all(self._state.accept(message, config, grant=grant))
        self._check_by(grant)
        channel = self._state.channels[message.topic]
        if config is not None and config.bindings:
            self._announce(channel)
        self._registrar.watch(self._registered[message.topic], partial(self._warn, channel))

    def _refuse_join(self, message: Message, exc: RefusedError) -> None:
        self._forget(message.topic)
        self._refuse(message, self._refusals.of_join(message, exc))

    def _refuse(self, message: Message, reason: str) -> None:
        self._perform_all(self._state.refuse(message, reason))

    def _postpone_join(
        self, message: Message, config: JoinConfig, within: float, grant: Grant
    ) -> None:
        """Answer when the stream is attached, or say that it was not in time."""

        def resume(attached: bool) -> None:
            del self._postponed[message.topic]
            self._state.resume(message)
            try:
                if not attached:
                    raise AttachmentError(
                        "PostgresChangesSubscribeTimeout: the database's changes are not being "
                        f"read yet, after {within:g} s; join again"
                    )
                self._accept_join(message, config, self._authorizer.check(grant))
            except RefusedError as exc:
                self._refuse_join(message, exc)

        self._state.postpone(message)
        self._postponed[message.topic] = self._attachment.wait(resume, within=within)

    def _announce(self, channel: Channel) -> None:
        """Tell the channel that its bindings are in place, as soon as they are."""

        def tell(attached: bool) -> None:
            self._announcements.pop(channel, None)
            registered = self._registered.get(channel.topic)
            notes = () if registered is None else registered.notes
            self._perform_all(self._state.in_place(channel, notes))

        if self._attachment:
            tell(True)
        else:
            self._announcements[channel] = self._attachment.wait(tell)

    def _warn(self, channel: Channel, exc: RefusedError) -> None:
        """Tell a channel that nothing comes of what it asks for."""
        extra = named(self._peer, "channel_warned", topic=channel.topic, reason=exc.logged)
        logger.info(
            "channel %.200r of %s gets nothing: %.1000s",
            shown_topic(channel.topic),
            self._peer,
            exc.logged,
            extra=extra,
        )
        logger.debug("the channel %r was told: %s", channel.topic, exc)
        self._perform_all(self._state.fail(channel, exc.reason))

    def _check_bounds(self, message: Message) -> None:
        """Raise LimitError for a join that would let one client take the server's memory."""
        config = self._config
        if not self._joins.take(self._loop.time()):
            raise LimitError(
                "joins",
                f"ClientJoinRateLimitReached: more than {config.max_joins_per_second} joins a "
                "second (MAX_JOINS_PER_SECOND); wait",
            )
        self._joins.borrow(_weight(message))
        if len(message.topic) > MAX_TOPIC_LENGTH:
            raise LimitError("topic", f"the topic is longer than {MAX_TOPIC_LENGTH} characters")
        if len(self._state.channels) + len(self._state.postponed) >= config.max_channels:
            raise LimitError(
                "channels",
                f"ChannelRateLimitReached: this connection has joined {config.max_channels} "
                "topics, the most it may (MAX_CHANNELS); leave some",
            )

    def _subscribe(self, channel: Channel) -> None:
        config = channel.config
        subscription = Subscription(
            Topic.parse(channel.topic) if config is None else Topic(channel.topic, ()),
            self._serializer,
            self._outbox,
            None if config is None else config.bindings,
            self._registered[channel.topic].viewer,
        )
        self._subscriptions[channel] = subscription
        self._hub.subscribe(subscription)
        self._metrics.channels.inc()

    def _unsubscribe(self, channel: Channel) -> None:
        if channel in self._announcements:
            self._announcements.pop(channel).cancel()
        self._hub.unsubscribe(self._subscriptions.pop(channel))
        self._forget(channel.topic)
        self._metrics.channels.dec()

    def _forget(self, topic: str) -> None:
        self._account.give_back(topic)
        self._tokens.release(topic)
        registered = self._registered.pop(topic, None)
        if registered is not None:
            self._registrar.remove(registered)

    # Tokens

    async def _refresh(self, channel: Channel, token: Any) -> None:
        await Turns.shared().begin()
        try:
            if isinstance(token, str) and channel.grant.token:
                # Before it is verified, which takes its time.
                self._tokens.check(token)
            grant = await self._authorizer.refresh(channel.grant, token)
            if grant is not channel.grant:
                await self._take(channel, grant)
        except RefusedError as exc:
            self._end(channel, exc)
        else:
            self._check_by(grant)

    async def _take(self, channel: Channel, grant: Grant) -> None:
        """Have a channel joined in another name."""
        registered = self._registered.get(channel.topic)
        if channel not in self._subscriptions or registered is None:
            # It has ended while its token was looked at.
            return
        self._tokens.hold(channel.topic, grant.token)
        viewer = await self._registrar.renew(registered, grant)
        channel.grant = grant
        subscription = self._subscriptions.get(channel)
        if subscription is not None:
            self._hub.move(subscription, viewer)

    def _check_grants(self) -> None:
        """End the channels whose tokens are good no more; look again when the next one expires."""
        if self._next_check is not None:
            self._next_check.cancel()
            self._next_check = None
        for channel in list(self._state.channels.values()):
            try:
                channel.grant = self._authorizer.check(channel.grant)
            except RefusedError as exc:
                self._end(channel, exc)
            else:
                self._check_by(channel.grant)

    def _check_by(self, grant: Grant) -> None:
        """Check all grants when this one expires, or an earlier one, or for good measure."""
        if grant.expires_at is None:
            return
        now = self._clock()
        # In this order: an exp may be too large for a float.
        delay = max(min(grant.expires_at, now + CHECK_INTERVAL) - now, 0.0)
        when = self._loop.time() + delay
        if self._next_check is not None:
            if self._next_check.when() <= when:
                return
            self._next_check.cancel()
        self._next_check = self._loop.call_at(when, self._check_grants)

    def _end(self, channel: Channel, exc: RefusedError) -> None:
        self._metrics.channels_ended.labels(exc.result).inc()
        if isinstance(exc, LimitError):
            self._metrics.limit(exc.limit)
        extra = named(self._peer, "channel_ended", topic=channel.topic, reason=exc.logged)
        topic = shown_topic(channel.topic)
        logger.info(
            "channel %.200r of %s ended: %.1000s", topic, self._peer, exc.logged, extra=extra
        )
        logger.debug("the channel %r was told: %s", channel.topic, exc)
        for_good = not isinstance(exc, UnavailableError)
        self._perform_all(self._state.end(channel, exc.reason, for_good=for_good))


def _filters(topic: Topic, config: JoinConfig | None) -> Iterator[Filter]:
    """Yield what a join filters by."""
    for item in topic.filters:
        yield item.filter
    for binding in config.bindings if config is not None else ():
        if binding.filter is not None:
            yield binding.filter


def _weight(message: Message) -> int:
    """Return as how many further joins one counts: to read a long one takes as much time."""
    size: float = len(message.topic)
    if has_config(message.payload):
        size += size_of(message.payload["config"])
    # What is nested too deeply is not read at all.
    return int((size - _USUAL_SIZE) // _SIZE_OF_A_JOIN) if _USUAL_SIZE < size < inf else 0
