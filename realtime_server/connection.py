"""Connection: one WebSocket between websockets' connection and the socket's state.

It carries the state's actions out. websockets keeps what it does well: handshake,
receiving, ping and pong, closing. Frames out go through the outbox, which writes to the
same transport, so that replies and changes keep their order.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from websockets.asyncio.server import ServerConnection
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State

from .auth import Authorizer, ConnectRequest, JoinRequest
from .encoding import text_frame
from .errors import RefusedError
from .hub import Hub, Subscription
from .outbox import OutboxCounters, SocketOutbox
from .phoenix.messages import Message
from .phoenix.payloads import wanted_bindings
from .phoenix.serializers import Serializer
from .phoenix.socket_state import (
    Action,
    Channel,
    Close,
    Join,
    Send,
    SocketState,
    Subscribe,
    Unsubscribe,
)
from .topics import Topic

__all__ = ["CLOSE_TIMEOUT", "IDLE_TIMEOUT", "Connection", "close_within"]

logger = logging.getLogger("realtime.connection")

MAX_CHANNELS: Final = 1000
"""Topics that one connection may have joined."""
MAX_TOPIC_LENGTH: Final = 4096
"""Characters of a topic."""
CLOSE_TIMEOUT: Final = 2.0
"""Seconds a client has to take, and answer, a close frame."""
IDLE_TIMEOUT: Final = 60.0
"""Seconds without a message after which a client is taken for gone; clients send heartbeats."""


class Connection:
    """Serves one client until it goes.

    Args:
        websocket: open.
        request: its handshake, already authorized.
        serializer: the format it asked for.
        hub: where its channels subscribe.
        authorizer: decides on its joins.
        outbox_max_bytes: what may wait for it.
        counters: of the server.
        idle_timeout: in seconds.
    """

    def __init__(
        self,
        websocket: ServerConnection,
        *,
        request: ConnectRequest,
        serializer: Serializer,
        hub: Hub,
        authorizer: Authorizer,
        outbox_max_bytes: int,
        counters: OutboxCounters,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> None:
        self._websocket = websocket
        self._request = request
        self._serializer = serializer
        self._hub = hub
        self._authorizer = authorizer
        self._idle_timeout = idle_timeout
        self._state = SocketState(serializer)
        self._subscriptions: dict[Channel, Subscription] = {}
        self._peer = _address(websocket)
        self._outbox = SocketOutbox(
            websocket.transport,
            lambda: websocket.protocol.state is State.OPEN and websocket.send_in_progress is None,
            max_bytes=outbox_max_bytes,
            counters=counters,
            peer=self._peer,
        )

    async def run(self) -> None:
        """Answer messages until the connection ends."""
        logger.info("connected: %s", self._peer)
        try:
            while (data := await self._receive()) is not None:
                await self._perform(self._state.receive(data))
                # recv() does not give way while messages are queued: one client that floods
                # us must not keep the others waiting.
                await asyncio.sleep(0)
        except ConnectionClosed:
            pass
        finally:
            for subscription in self._subscriptions.values():
                self._hub.unsubscribe(subscription)
            logger.info("closed: %s (%s)", self._peer, self._websocket.close_code)

    async def _receive(self) -> str | bytes | None:
        """Return the next message, None when the client was idle for too long."""
        try:
            async with asyncio.timeout(self._idle_timeout):
                return await self._websocket.recv()
        except TimeoutError:
            await close_within(self._websocket, 1000, "no message within the idle time")
            return None

    async def _perform(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(message):
                    self._outbox.write(text_frame(self._serializer.encode(message)))
                case Subscribe(channel):
                    self._subscribe(channel)
                case Unsubscribe(channel):
                    self._hub.unsubscribe(self._subscriptions.pop(channel))
                case Join(message):
                    await self._join(message)
                case Close(code, reason):
                    logger.info("closing %s: %s", self._peer, reason)
                    await close_within(self._websocket, code, reason)

    async def _join(self, message: Message) -> None:
        try:
            self._check_bounds(message)
            if wanted_bindings(message.payload):
                raise RefusedError(
                    "postgres_changes in a join's config is not supported yet; join the topic "
                    "realtime:<schema>:<table> without config instead"
                )
            Topic.parse(message.topic)
            await self._authorizer.join(JoinRequest(self._request, message.topic, message.payload))
        except RefusedError as exc:
            logger.info("join of %.200r by %s refused: %s", message.topic, self._peer, exc.reason)
            await self._perform(self._state.refuse(message, exc.reason))
        else:
            logger.info("joined: %.200r by %s", message.topic, self._peer)
            await self._perform(self._state.accept(message))

    def _check_bounds(self, message: Message) -> None:
        """Raise RefusedError for a join that would let one client take the server's memory."""
        if len(message.topic) > MAX_TOPIC_LENGTH:
            raise RefusedError(f"the topic is longer than {MAX_TOPIC_LENGTH} characters")
        if len(self._state.channels) >= MAX_CHANNELS:
            raise RefusedError(
                f"this connection has joined {MAX_CHANNELS} topics, the most it may; leave some"
            )

    def _subscribe(self, channel: Channel) -> None:
        subscription = Subscription(Topic.parse(channel.topic), self._serializer, self._outbox)
        self._subscriptions[channel] = subscription
        self._hub.subscribe(subscription)


async def close_within(
    websocket: ServerConnection, code: int, reason: str, *, within: float = CLOSE_TIMEOUT
) -> None:
    """Close a connection in good order, or abort it.

    websockets' own timeout begins when the close frame is sent; a client that does not read
    lets it not even come to that.
    """
    try:
        async with asyncio.timeout(within):
            await websocket.close(code, reason)
    except TimeoutError:
        websocket.transport.abort()


def _address(websocket: ServerConnection) -> str:
    address = websocket.remote_address
    return f"{address[0]}:{address[1]}" if address else "?"
